//! Who may open a virtual disk on this node, by its permission row (SPEC B8). One rule for every surface.

use blockdev_nbd::ClientIdentity;
use blockdev_proto::geometry::VolumeId;
use control_proto::rows::{ClusterRows, PermissionRow};
use transport_proto::identity::NodeId;

/// What a client may do with a virtual disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    /// Not even open it.
    Nothing,
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// The user that may do everything.
const ROOT: u32 = 0;

/// What `client` may do with a virtual disk on `node`, whose daemon runs as `daemon`.
///
/// As with a device file: the owner's bits count for the owner, the group's for the group, the rest for all
/// others; root may do everything, on the nodes that the row names. A client that nothing vouches for is one
/// of the others. A virtual disk without a row is root's, and the daemon's own user's.
pub(crate) fn access(
    rows: &ClusterRows,
    node: NodeId,
    volume: VolumeId,
    client: &ClientIdentity,
    daemon: u32,
) -> Access {
    // Whoever could open a part could change what the whole is.
    if rows.whole_of(volume).is_some() {
        return Access::Nothing;
    }
    match (rows.permission(volume), client) {
        (Some(row), _) if !row.nodes.contains(&node) => Access::Nothing,
        (Some(_), ClientIdentity::Local { user: ROOT, .. }) => Access::Write,
        (Some(row), _) => by_bits(bits(row, client)),
        (None, ClientIdentity::Local { user, .. }) if [ROOT, daemon].contains(user) => Access::Write,
        (None, _) => Access::Nothing,
    }
}

/// The three bits of the mode that are meant for the client.
fn bits(row: &PermissionRow, client: &ClientIdentity) -> u16 {
    match client {
        ClientIdentity::Local { user, .. } if *user == row.owner => row.mode >> 6,
        ClientIdentity::Local { group, groups, .. } if *group == row.group || groups.contains(&row.group) => {
            row.mode >> 3
        }
        _ => row.mode,
    }
}

fn by_bits(bits: u16) -> Access {
    match bits & 0o6 {
        0o6 => Access::Write,
        0o4 => Access::Read,
        // What cannot be read is not written block by block either.
        _ => Access::Nothing,
    }
}

/// Mode and owner of the socket of an NBD server on `node`: everybody comes in who may open one of the
/// exports; what each may open is asked again then.
pub(crate) fn socket_access(
    rows: &ClusterRows,
    node: NodeId,
    exports: &[VolumeId],
) -> (u32, Option<(u32, u32)>) {
    let here = exports.iter().filter_map(|volume| rows.permission(*volume));
    let mut wanted: Option<(u16, (u32, u32))> = None;
    for row in here.filter(|row| row.nodes.contains(&node)) {
        let owner = (row.owner, row.group);
        wanted = Some(match wanted {
            None => (row.mode, owner),
            Some((mode, known)) if known == owner => (mode | row.mode, owner),
            // One file has one owner: no mode says who they all are, so the kernel lets everybody knock.
            Some(_) => (0o666, (ROOT, ROOT)),
        });
    }
    // To connect takes the right to write, whatever is meant to be done with the disk.
    let connect = |mode: u16| u32::from(mode | (mode & 0o444) >> 1) & 0o666;
    wanted.map_or((0o600, None), |(mode, owner)| (connect(mode), Some(owner)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const TEXT: &str = r#"
        [cluster]
        name = "one"
        key = "a secret of sufficient length"
        [[node]]
        id = 1
        [[node]]
        id = 2
        [[link]]
        nodes = "all"
        rails = [{ kind = "tcp" }]
        [[disk]]
        nodes = [1]
        kind = "memory"
        [[disk]]
        nodes = [1]
        kind = "memory"
        [[disk]]
        nodes = [1]
        kind = "memory"
        [[virtual_disk]]
        name = "shared"
        size = "1MiB"
        disk = 1
        [[virtual_disk]]
        name = "secret"
        size = "1MiB"
        disk = 2
        [[virtual_disk]]
        name = "bare"
        size = "1MiB"
        disk = 3
        [[permission]]
        virtual_disk = "shared"
        owner = 5
        group = 6
        mode = 0o664
        [[permission]]
        virtual_disk = "secret"
        owner = 7
        group = 6
        mode = 0o640
        nodes = [1]
    "#;

    fn rows() -> ClusterRows {
        let config = Config::parse(std::path::Path::new("one.toml"), TEXT);
        config.unwrap_or_else(|faults| panic!("{faults}")).rows
    }

    fn local(user: u32, group: u32, groups: &[u32]) -> ClientIdentity {
        ClientIdentity::Local { user, group, groups: groups.to_vec() }
    }

    // proves: B8
    #[test]
    fn owner_group_and_others_may_what_the_mode_says_on_the_nodes_that_are_named() {
        let rows = rows();
        let id = |name: &str| rows.virtual_disk_named(name).expect("configured").id;
        let of = |node, name, client: &ClientIdentity| access(&rows, NodeId(node), id(name), client, 33);
        let cases = [
            (1, "shared", local(5, 1, &[]), Access::Write),
            (1, "shared", local(8, 6, &[]), Access::Write),
            (1, "shared", local(8, 1, &[2, 6]), Access::Write),
            (1, "shared", local(8, 1, &[2]), Access::Read),
            (1, "shared", ClientIdentity::Remote, Access::Read),
            (2, "shared", local(5, 1, &[]), Access::Write),
            (1, "secret", local(7, 1, &[]), Access::Write),
            (1, "secret", local(8, 6, &[]), Access::Read),
            (1, "secret", local(5, 1, &[]), Access::Nothing),
            (1, "secret", ClientIdentity::Remote, Access::Nothing),
            (1, "secret", local(0, 0, &[]), Access::Write),
            (2, "secret", local(0, 0, &[]), Access::Nothing),
            (2, "secret", local(7, 1, &[]), Access::Nothing),
            (1, "bare", local(0, 0, &[]), Access::Write),
            (1, "bare", local(33, 33, &[]), Access::Write),
            (1, "bare", local(5, 6, &[]), Access::Nothing),
            (1, "bare", ClientIdentity::Remote, Access::Nothing),
        ];
        for (node, name, client, expected) in cases {
            assert_eq!(of(node, name, &client), expected, "node {node}, {name}, {client:?}");
        }
    }

    // proves: B8
    #[test]
    fn a_socket_lets_in_who_may_open_one_of_its_disks_and_no_more() {
        let rows = rows();
        let of = |node, names: &[&str]| {
            let id = |name: &&str| rows.virtual_disk_named(name).expect("configured").id;
            socket_access(&rows, NodeId(node), &names.iter().map(id).collect::<Vec<_>>())
        };
        assert_eq!(of(1, &["shared"]), (0o666, Some((5, 6))));
        assert_eq!(of(1, &["secret"]), (0o660, Some((7, 6))));
        assert_eq!(of(2, &["secret"]), (0o600, None));
        assert_eq!(of(1, &["bare"]), (0o600, None));
        assert_eq!(of(1, &[]), (0o600, None));
        assert_eq!(of(1, &["bare", "secret"]), (0o660, Some((7, 6))));
        assert_eq!(of(1, &["shared", "secret"]), (0o666, Some((0, 0))));
    }
}
