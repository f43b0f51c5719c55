//! `netdisk vdisk`: virtual disks, while clients use them.

use super::{bytes, change, list, next_number};
use crate::change::{Flags, Look, Plan, find};
use anyhow::{Context, bail, ensure};
use blockdev_proto::geometry::{BlockBytes, DiskId, VOLUMES_MAX, VolumeId};
use control_node::config::size_text;
use control_proto::ccd::{Database, Row, RowChange, RowKey};
use control_proto::rows::{ClusterRows, LostQuorum, NbdRow, PermissionRow, Shape, VirtualDiskRow};
use std::process::ExitCode;
use transport_proto::identity::NodeId;

/// See and change virtual disks.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List them.
    List(Look),
    /// Make one on a disk.
    Create(Create),
    /// Take one away; its bytes stay on the disk until that is formatted.
    Remove(Named),
    /// Give one another name.
    Rename(Rename),
    /// Make one larger, as far as its disk goes.
    Grow(Grow),
    /// Let another node serve it.
    Move(To),
    /// Let primary and secondary change places.
    Swap(Named),
    /// Let one more node serve it when those before it cannot.
    Attach(To),
    /// Let a node serve it no more.
    Detach(To),
    /// Change what clients may do and meet.
    Set(Set),
}

#[derive(clap::Args)]
struct Named {
    /// Its name.
    name: String,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Create {
    /// Its name, by which clients open it.
    name: String,
    /// The disk that holds its bytes.
    #[arg(long)]
    disk: String,
    /// Bytes, with KiB, MiB, GiB or TiB.
    #[arg(long)]
    size: String,
    /// Bytes of a block.
    #[arg(long, default_value = "4096")]
    block_size: String,
    /// Nodes that serve it, the primary first; by default all that reach the disk, in their order.
    #[arg(long, value_delimiter = ',', value_name = "NODES")]
    nodes: Vec<String>,
    /// No writes at all.
    #[arg(long)]
    read_only: bool,
    /// What clients meet on a node without quorum.
    #[arg(long, value_enum, default_value_t = OnLostQuorum::Suspend)]
    on_lost_quorum: OnLostQuorum,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Rename {
    /// Its name.
    name: String,
    /// Its new name; clients that have it open keep it open.
    to: String,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Grow {
    /// Its name.
    name: String,
    /// All the bytes it is to have, with KiB, MiB, GiB or TiB.
    size: String,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct To {
    /// Its name.
    name: String,
    /// The node.
    #[arg(long)]
    node: String,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Set {
    /// Its name.
    name: String,
    /// Whether writes are refused.
    #[arg(long)]
    read_only: Option<bool>,
    /// What clients meet on a node without quorum.
    #[arg(long, value_enum)]
    on_lost_quorum: Option<OnLostQuorum>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::ValueEnum, Clone, Copy)]
pub(super) enum OnLostQuorum {
    /// Requests wait.
    Suspend,
    /// Requests fail.
    Fail,
}

impl OnLostQuorum {
    pub(super) fn row(self) -> LostQuorum {
        match self {
            OnLostQuorum::Suspend => LostQuorum::Suspend,
            OnLostQuorum::Fail => LostQuorum::Fail,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::List(look) => list(look, "virtual_disk", &HEAD, listed),
        Action::Create(new) => change(&new.flags, false, &|database| plan_create(database, new)),
        Action::Remove(it) => change(&it.flags, false, &|database| plan_remove(database, &it.name)),
        Action::Rename(it) => change(&it.flags, false, &|database| plan_rename(database, &it.name, &it.to)),
        Action::Grow(it) => change(&it.flags, false, &|database| plan_grow(database, &it.name, &it.size)),
        Action::Move(it) => change(&it.flags, false, &|database| plan_move(database, &it.name, &it.node)),
        Action::Swap(it) => change(&it.flags, false, &|database| plan_swap(database, &it.name)),
        Action::Attach(it) => change(&it.flags, false, &|database| plan_attach(database, &it.name, &it.node)),
        Action::Detach(it) => change(&it.flags, false, &|database| plan_detach(database, &it.name, &it.node)),
        Action::Set(it) => change(&it.flags, false, &|database| plan_set(database, it)),
    }
}

const HEAD: [&str; 7] = ["NAME", "SIZE", "BLOCK", "DISK", "NODES", "SERVED BY", "NOTES"];

fn listed(database: &Database) -> Vec<Vec<String>> {
    let rows = database.rows();
    let view = database.view();
    let one = |row: &VirtualDiskRow| {
        let disk = row.candidates.first().and_then(|(_, disk)| rows.disk(*disk));
        let lies_on = rows.volume(row.id).map(|volume| {
            let parts = volume.parts().filter_map(|part| rows.virtual_disk(part));
            parts.map(|part| part.name.as_str()).collect::<Vec<_>>().join(match volume.shape {
                Shape::Mirror(_) => " = ",
                Shape::Concatenation(_) => " + ",
                Shape::Stripe(_) => " | ",
            })
        });
        let nodes: Vec<String> = row.candidates.iter().map(|(node, _)| rows.node_name(*node)).collect();
        let mut notes = Vec::new();
        if row.read_only {
            notes.push("read only");
        }
        if rows.whole_of(row.id).is_some() {
            notes.push("part of a volume");
        }
        if row.on_lost_quorum == LostQuorum::Fail {
            notes.push("fails without quorum");
        }
        if database.volume(row.id).suspended_by.is_some() {
            notes.push("stands still for a change");
        }
        vec![
            row.name.clone(),
            size_text(row.size_bytes),
            row.block_bytes.get().to_string(),
            lies_on.or_else(|| disk.map(|disk| disk.name.clone())).unwrap_or_else(|| "-".into()),
            nodes.join(", "),
            view.serving(row.id).map_or_else(|| "NOBODY".into(), |node| rows.node_name(node)),
            notes.join(", "),
        ]
    };
    rows.virtual_disks.iter().map(one).collect()
}

fn put(row: VirtualDiskRow) -> RowChange {
    RowChange::Put(Row::VirtualDisk(row))
}

/// The disk that holds a virtual disk's bytes.
fn disk_of(row: &VirtualDiskRow) -> anyhow::Result<DiskId> {
    row.candidates.first().map(|(_, disk)| *disk).with_context(|| format!("{} has no disk", row.name))
}

fn names(rows: &ClusterRows, row: &VirtualDiskRow) -> String {
    let nodes: Vec<String> = row.candidates.iter().map(|(node, _)| rows.node_name(*node)).collect();
    nodes.join(", then ")
}

/// A block of the size that somebody wrote.
pub(super) fn block_size(written: &str) -> anyhow::Result<BlockBytes> {
    let block = u32::try_from(bytes(written)?).ok().and_then(BlockBytes::new);
    let (least, most) = (BlockBytes::MIN.get(), BlockBytes::MAX.get());
    block.with_context(|| format!("a block of {written} bytes: use a power of two from {least} to {most}"))
}

fn plan_create(database: &Database, new: &Create) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let disk = find::disk(rows, &new.disk)?;
    let nodes: Vec<NodeId> = match new.nodes.is_empty() {
        true => disk.ports.iter().map(|port| port.node).collect(),
        false => find::nodes(rows, &new.nodes)?,
    };
    let block_bytes = block_size(&new.block_size)?;
    ensure!(
        rows.virtual_disk_named(&new.name).is_none(),
        "there is a virtual disk {} already: choose another name",
        new.name
    );
    let used = rows.virtual_disks.iter().map(|row| row.id.0);
    let row = VirtualDiskRow {
        id: VolumeId(next_number(used, 0, VOLUMES_MAX as u32 - 1)?),
        name: new.name.clone(),
        candidates: nodes.into_iter().map(|node| (node, disk.id)).collect(),
        size_bytes: bytes(&new.size)?,
        block_bytes,
        read_only: new.read_only,
        on_lost_quorum: new.on_lost_quorum.row(),
    };
    let done = format!("virtual disk {} is there, served by {}", row.name, names(rows, &row));
    Ok(Plan::new(done, vec![put(row)]))
}

/// Its permission goes with it, and no server exports it any more.
fn plan_remove(database: &Database, name: &str) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let row = find::virtual_disk(rows, name)?;
    let mut changes = vec![RowChange::Remove(RowKey::VirtualDisk(row.id))];
    changes.extend(rows.volume(row.id).map(|_| RowChange::Remove(RowKey::Volume(row.id))));
    changes.extend(rows.permission(row.id).map(|_| RowChange::Remove(RowKey::Permission(row.id))));
    for server in rows.nbd.iter().filter(|server| server.exports.contains(&row.id)) {
        let exports = server.exports.iter().copied().filter(|export| *export != row.id).collect();
        changes.push(RowChange::Put(Row::Nbd(NbdRow { exports, ..server.clone() })));
    }
    Ok(Plan::new(format!("virtual disk {} is gone", row.name), changes))
}

fn plan_rename(database: &Database, name: &str, to: &str) -> anyhow::Result<Plan> {
    let row = find::virtual_disk(database.rows(), name)?.clone();
    Ok(Plan::new(
        format!("virtual disk {name} is called {to}"),
        vec![put(VirtualDiskRow { name: to.into(), ..row })],
    ))
}

pub(super) fn plan_grow(database: &Database, name: &str, size: &str) -> anyhow::Result<Plan> {
    let row = find::virtual_disk(database.rows(), name)?.clone();
    let size_bytes = bytes(size)?;
    let done = format!("virtual disk {} has {}", row.name, size_text(size_bytes));
    Ok(Plan::new(done, vec![put(VirtualDiskRow { size_bytes, ..row })]))
}

/// The node becomes primary; those before it stay behind it.
fn plan_move(database: &Database, name: &str, node: &str) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let mut row = find::virtual_disk(rows, name)?.clone();
    let node = find::node(rows, node)?;
    let disk = disk_of(&row)?;
    row.candidates.retain(|(other, _)| *other != node.id);
    row.candidates.insert(0, (node.id, disk));
    let done = format!("virtual disk {} is served by {}", row.name, names(rows, &row));
    Ok(Plan::new(done, vec![put(row)]))
}

fn plan_swap(database: &Database, name: &str) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let mut row = find::virtual_disk(rows, name)?.clone();
    if row.candidates.len() < 2 {
        bail!("{} has no secondary: give it one (netdisk vdisk attach {} --node NODE)", row.name, row.name);
    }
    row.candidates.swap(0, 1);
    let done = format!("virtual disk {} is served by {}", row.name, names(rows, &row));
    Ok(Plan::new(done, vec![put(row)]))
}

fn plan_attach(database: &Database, name: &str, node: &str) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let mut row = find::virtual_disk(rows, name)?.clone();
    let node = find::node(rows, node)?;
    let disk = disk_of(&row)?;
    if row.candidates.iter().all(|(other, _)| *other != node.id) {
        row.candidates.push((node.id, disk));
    }
    let done = format!("virtual disk {} is served by {}", row.name, names(rows, &row));
    Ok(Plan::new(done, vec![put(row)]))
}

fn plan_detach(database: &Database, name: &str, node: &str) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let mut row = find::virtual_disk(rows, name)?.clone();
    let node = find::node(rows, node)?;
    row.candidates.retain(|(other, _)| *other != node.id);
    if row.candidates.is_empty() {
        bail!(
            "{} alone serves {}: let another node serve it first (netdisk vdisk attach {} --node NODE)",
            node.name,
            row.name,
            row.name
        );
    }
    let done = format!("virtual disk {} is served by {}", row.name, names(rows, &row));
    Ok(Plan::new(done, vec![put(row)]))
}

fn plan_set(database: &Database, set: &Set) -> anyhow::Result<Plan> {
    let mut row = find::virtual_disk(database.rows(), &set.name)?.clone();
    if set.read_only.is_none() && set.on_lost_quorum.is_none() {
        bail!("say what to set: --read-only true|false, --on-lost-quorum suspend|fail");
    }
    row.read_only = set.read_only.unwrap_or(row.read_only);
    row.on_lost_quorum = set.on_lost_quorum.map_or(row.on_lost_quorum, OnLostQuorum::row);
    Ok(Plan::new(format!("virtual disk {} is set", row.name), vec![put(row)]))
}

/// A permission that a virtual disk has when somebody first sets one: its node's root's alone.
pub(super) fn usual_permission(rows: &ClusterRows, volume: VolumeId) -> PermissionRow {
    let nodes = rows.nodes.iter().map(|row| row.id).collect();
    PermissionRow { volume, owner: 0, group: 0, mode: 0o600, nodes }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::change::sample::{after, database, refused};
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn create(words: &[&str]) -> Create {
        Line::try_parse_from([&["x"], words].concat()).unwrap().create
    }

    fn vd0(database: &Database) -> VirtualDiskRow {
        database.rows().virtual_disks[0].clone()
    }

    fn nodes(row: &VirtualDiskRow) -> Vec<u16> {
        row.candidates.iter().map(|(node, _)| node.0).collect()
    }

    // proves: C5
    #[test]
    fn a_virtual_disk_moves_swaps_attaches_and_detaches_by_one_command_each() {
        let start = database();
        let moved = after(&start, &|db| plan_move(db, "vd0", "beta")).unwrap();
        assert_eq!(nodes(&vd0(&moved)), [2, 1]);
        let swapped = after(&moved, &|db| plan_swap(db, "vd0")).unwrap();
        assert_eq!(nodes(&vd0(&swapped)), [1, 2]);
        let alone = after(&swapped, &|db| plan_detach(db, "vd0", "alpha")).unwrap();
        assert_eq!(nodes(&vd0(&alone)), [2]);
        assert!(refused(&alone, &|db| plan_detach(db, "vd0", "2")).contains("beta alone serves vd0"));
        assert!(refused(&alone, &|db| plan_swap(db, "vd0")).contains("netdisk vdisk attach vd0"));
        let again = after(&alone, &|db| plan_attach(db, "vd0", "alpha")).unwrap();
        assert_eq!(nodes(&vd0(&again)), [2, 1]);
        // Gamma does not reach the disk.
        let far = refused(&start, &|db| plan_move(db, "vd0", "gamma"));
        assert!(far.contains("gamma does not reach disk shelf"), "{far}");
    }

    #[test]
    fn a_virtual_disk_is_created_renamed_grown_set_and_removed() {
        let new = create(&["vd1", "--disk", "spare", "--size", "1MiB", "--on-lost-quorum", "fail"]);
        let made = after(&database(), &|db| plan_create(db, &new)).unwrap();
        let row = made.rows().virtual_disk_named("vd1").unwrap().clone();
        assert_eq!((row.id, row.size_bytes, nodes(&row)), (VolumeId(1), 1 << 20, vec![1, 2]));
        assert_eq!(row.on_lost_quorum, LostQuorum::Fail);
        let renamed = after(&made, &|db| plan_rename(db, "vd1", "data")).unwrap();
        assert!(renamed.rows().virtual_disk_named("data").is_some());
        let grown = after(&renamed, &|db| plan_grow(db, "data", "2MiB")).unwrap();
        assert_eq!(grown.rows().virtual_disk_named("data").unwrap().size_bytes, 2 << 20);
        assert!(refused(&grown, &|db| plan_grow(db, "data", "1MiB")).contains("only grows"));
        assert!(refused(&grown, &|db| plan_grow(db, "data", "2097153")).contains("multiple of the block"));
        let gone = after(&grown, &|db| plan_remove(db, "data")).unwrap();
        assert!(gone.rows().virtual_disk_named("data").is_none());
    }

    #[test]
    fn a_removed_virtual_disk_takes_its_permission_and_its_exports_with_it() {
        let gone = after(&database(), &|db| plan_remove(db, "vd0")).unwrap();
        assert!(gone.rows().permissions.is_empty());
        assert!(gone.rows().nbd[0].exports.is_empty());
    }

    #[test]
    fn mistakes_are_told_with_what_there_is() {
        let db = database();
        assert!(refused(&db, &|db| plan_remove(db, "vd7")).contains("there is vd0"));
        assert!(refused(&db, &|db| plan_move(db, "vd0", "delta")).contains("alpha, beta, gamma"));
        let taken = create(&["vd0", "--disk", "spare", "--size", "1MiB"]);
        assert!(refused(&db, &|db| plan_create(db, &taken)).contains("already"));
        let used = create(&["vd1", "--disk", "shelf", "--size", "1MiB"]);
        assert!(refused(&db, &|db| plan_create(db, &used)).contains("already behind virtual disk vd0"));
        let odd = create(&["vd1", "--disk", "spare", "--size", "1MiB", "--block-size", "1000"]);
        assert!(refused(&db, &|db| plan_create(db, &odd)).contains("power of two"));
        let bad = create(&["no name", "--disk", "spare", "--size", "1MiB"]);
        assert!(refused(&db, &|db| plan_create(db, &bad)).contains("is no name"));
        let much = create(&["vd1", "--disk", "spare", "--size", "1XiB"]);
        assert!(refused(&db, &|db| plan_create(db, &much)).contains("use KiB"));
    }
}
