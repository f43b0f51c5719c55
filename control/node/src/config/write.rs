//! Rows as the text of a configuration file: what `Config` reads again as the same rows. The cluster's key is
//! not in it. Every id and address is written out, so that nothing depends on the order of the file.

use super::document::{DiskKindName, LostQuorumName, RailKind, SpreadName};
use super::pool::{LoanText, RegionText, loan, region};
use blockdev_proto::geometry::{DiskId, VolumeId};
use blockdev_proto::mirror::LegState;
use control_proto::ccd::{Row, RowKey};
use control_proto::rows::{
    ClusterRows, DiskKind, DiskRow, LegRow, LinkRow, LostQuorum, MirrorShape, NbdRow, NodeRow, PermissionRow,
    RailAddress, RailRow, Shape, VirtualDiskRow, VolumeRow,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use transport_proto::identity::NodeId;
use transport_proto::route::Spread;

/// The whole file.
#[derive(Serialize)]
struct Text {
    cluster: Cluster,
    memory: Memory,
    heartbeat: Heartbeat,
    membership: Membership,
    node: Vec<Node>,
    link: Vec<Link>,
    disk: Vec<Disk>,
    virtual_disk: Vec<VirtualDisk>,
    permission: Vec<Permission>,
    nbd: Vec<Nbd>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    region: Vec<RegionText>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    loan: Vec<LoanText>,
}

#[derive(Serialize)]
struct Cluster {
    name: String,
    spread: SpreadName,
}

#[derive(Serialize)]
struct Memory {
    budget: String,
}

#[derive(Serialize)]
struct Heartbeat {
    period_ms: u64,
    missed: u32,
    heard: u32,
    sticky: bool,
}

#[derive(Serialize)]
struct Membership {
    suspect_ms: u64,
    lease_ms: u64,
    hung_disk_ms: u64,
}

/// The settings, which the file has in four sections.
#[derive(Serialize)]
struct Settings {
    cluster: Cluster,
    memory: Memory,
    heartbeat: Heartbeat,
    membership: Membership,
}

#[derive(Serialize)]
struct Node {
    id: u16,
    name: String,
    host: IpAddr,
    voter: bool,
}

#[derive(Serialize)]
struct Link {
    number: u32,
    id: u8,
    nodes: Vec<String>,
    rails: Vec<Rail>,
}

#[derive(Serialize)]
struct Rail {
    id: u8,
    kind: RailKind,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    addresses: BTreeMap<String, SocketAddr>,
    heartbeats: BTreeMap<String, SocketAddr>,
}

#[derive(Serialize)]
struct Disk {
    id: u32,
    name: String,
    kind: DiskKindName,
    nodes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Candidate {
    node: String,
    disk: String,
}

#[derive(Serialize)]
struct VirtualDisk {
    id: u32,
    name: String,
    size: String,
    block_size: u32,
    read_only: bool,
    on_lost_quorum: LostQuorumName,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary: Option<Candidate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secondary: Option<Candidate>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<Candidate>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mirror: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    concat: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stripe: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<String>,
}

#[derive(Serialize)]
struct Permission {
    virtual_disk: String,
    owner: u32,
    group: u32,
    mode: u16,
    nodes: Vec<String>,
}

#[derive(Serialize)]
struct Nbd {
    node: String,
    listen: String,
    exports: Vec<String>,
}

/// All rows as the text of a file.
pub fn to_toml(rows: &ClusterRows) -> String {
    let text = whole(rows);
    let written = toml::to_string(&text);
    // What is written are numbers, names and lists of them; nothing of it is beyond TOML.
    written.unwrap_or_else(|fault| format!("# not all could be written: {fault}\n"))
}

/// All rows as JSON, of the same shape as the file.
pub fn to_json(rows: &ClusterRows) -> serde_json::Value {
    serde_json::to_value(whole(rows)).unwrap_or_default()
}

/// One configured row as JSON, of the same shape as in the file; names in it are looked up in `rows`. `Null`
/// for a row that is not in the file.
pub fn row_to_json(rows: &ClusterRows, row: &Row) -> serde_json::Value {
    let value = match row {
        Row::Node(row) => serde_json::to_value(node(row)),
        Row::Link(row) => serde_json::to_value(link(rows, row)),
        Row::Disk(row) => serde_json::to_value(disk(rows, row)),
        Row::VirtualDisk(row) => serde_json::to_value(virtual_disk(rows, row)),
        Row::Volume(row) => serde_json::to_value(volume(rows, row)),
        Row::Permission(row) => serde_json::to_value(permission(rows, row)),
        Row::Nbd(row) => serde_json::to_value(nbd(rows, row)),
        Row::Region(row) => serde_json::to_value(region(rows, row)),
        Row::Loan(row) => serde_json::to_value(loan(rows, row)),
        Row::Settings(_) => {
            let mut with = ClusterRows::empty("");
            with.put(row.clone());
            serde_json::to_value(settings(&with))
        }
        _ => Ok(serde_json::Value::Null),
    };
    value.unwrap_or_default()
}

/// A row's key with the names that people use.
pub fn key_text(rows: &ClusterRows, key: &RowKey) -> String {
    match key {
        RowKey::Node(id) => format!("node {}", rows.node_name(*id)),
        RowKey::Link(number) => match rows.link(*number) {
            Some(row) => format!("link {} (row {})", row.id.0, number.0),
            None => format!("link of row {}", number.0),
        },
        RowKey::Disk(id) => {
            format!("disk {}", rows.disk(*id).map_or_else(|| id.0.to_string(), |row| row.name.clone()))
        }
        RowKey::VirtualDisk(id) => format!("virtual disk {}", volume_name(rows, *id)),
        RowKey::Volume(id) => format!("volume {}", volume_name(rows, *id)),
        RowKey::Permission(id) => format!("permission of virtual disk {}", volume_name(rows, *id)),
        RowKey::Nbd { node, listen } => format!("nbd server of {} at {listen}", rows.node_name(*node)),
        RowKey::Region(id) => {
            format!("region {}", rows.region(*id).map_or_else(|| id.0.to_string(), |row| row.name.clone()))
        }
        RowKey::Loan(id) => {
            format!("lent volume {}", rows.loan(*id).map_or_else(|| id.0.to_string(), |row| row.name.clone()))
        }
        RowKey::Tombstone(node) => format!("tombstone of {}", rows.node_name(*node)),
        other => other.to_string(),
    }
}

fn volume_name(rows: &ClusterRows, volume: blockdev_proto::geometry::VolumeId) -> String {
    rows.virtual_disk(volume).map_or_else(|| volume.0.to_string(), |row| row.name.clone())
}

fn whole(rows: &ClusterRows) -> Text {
    let Settings { cluster, memory, heartbeat, membership } = settings(rows);
    Text {
        cluster,
        memory,
        heartbeat,
        membership,
        node: rows.nodes.iter().map(node).collect(),
        link: rows.links.iter().map(|row| link(rows, row)).collect(),
        disk: rows.disks.iter().map(|row| disk(rows, row)).collect(),
        virtual_disk: rows.virtual_disks.iter().map(|row| virtual_disk(rows, row)).collect(),
        permission: rows.permissions.iter().map(|row| permission(rows, row)).collect(),
        nbd: rows.nbd.iter().map(|row| nbd(rows, row)).collect(),
        region: rows.regions.iter().map(|row| region(rows, row)).collect(),
        loan: rows.loans.iter().map(|row| loan(rows, row)).collect(),
    }
}

fn settings(rows: &ClusterRows) -> Settings {
    let millis = |span: std::time::Duration| span.as_millis() as u64;
    let spread = match rows.spread {
        Spread::Single => SpreadName::Single,
        Spread::Home => SpreadName::Home,
        Spread::RoundRobin => SpreadName::RoundRobin,
        Spread::LeastInFlight => SpreadName::LeastInFlight,
        Spread::LowestLatency => SpreadName::LowestLatency,
        Spread::Stripe => SpreadName::Stripe,
    };
    Settings {
        cluster: Cluster { name: rows.name.clone(), spread },
        memory: Memory { budget: size_text(rows.memory_budget_bytes) },
        heartbeat: Heartbeat {
            period_ms: millis(rows.connectivity.period),
            missed: rows.connectivity.missed_down,
            heard: rows.connectivity.heard_up,
            sticky: rows.connectivity.sticky,
        },
        membership: Membership {
            suspect_ms: millis(rows.membership.suspect),
            lease_ms: millis(rows.membership.lease),
            hung_disk_ms: millis(rows.membership.hung_disk),
        },
    }
}

fn node(row: &NodeRow) -> Node {
    Node { id: row.id.0, name: row.name.clone(), host: row.host, voter: row.voter }
}

fn names(rows: &ClusterRows, nodes: impl Iterator<Item = NodeId>) -> Vec<String> {
    nodes.map(|node| rows.node_name(node)).collect()
}

fn link(rows: &ClusterRows, row: &LinkRow) -> Link {
    Link {
        number: row.number.0,
        id: row.id.0,
        nodes: names(rows, row.nodes.iter().copied()),
        rails: row.rails.iter().map(|rail| self::rail(rows, rail)).collect(),
    }
}

fn rail(rows: &ClusterRows, row: &RailRow) -> Rail {
    let mut rail =
        Rail { id: row.id.0, kind: RailKind::Shm, addresses: BTreeMap::new(), heartbeats: BTreeMap::new() };
    for end in &row.ends {
        let name = rows.node_name(end.node);
        // Names of shared memory follow from the ids.
        let (kind, address) = match end.address {
            RailAddress::Shm(_) => (RailKind::Shm, None),
            RailAddress::Tcp(address) => (RailKind::Tcp, Some(address)),
            RailAddress::Verbs(address) => (RailKind::Verbs, Some(address)),
        };
        rail.kind = kind;
        rail.addresses.extend(address.map(|address| (name.clone(), address)));
        rail.heartbeats.insert(name, end.heartbeat);
    }
    rail
}

fn disk(rows: &ClusterRows, row: &DiskRow) -> Disk {
    let (kind, pathless) = match row.kind {
        DiskKind::File => (DiskKindName::File, false),
        DiskKind::Raw => (DiskKindName::Raw, false),
        DiskKind::Memory => (DiskKindName::Memory, true),
    };
    let first = row.ports.first().map(|port| port.path.clone()).unwrap_or_default();
    let alike = row.ports.iter().all(|port| port.path == first);
    let paths = || row.ports.iter().map(|port| port.path.clone()).collect();
    Disk {
        id: row.id.0,
        name: row.name.clone(),
        kind,
        nodes: names(rows, row.ports.iter().map(|port| port.node)),
        path: (alike && !pathless).then_some(first),
        paths: (!alike && !pathless).then(paths),
    }
}

fn virtual_disk(rows: &ClusterRows, row: &VirtualDiskRow) -> VirtualDisk {
    let on_disks = row.candidates.iter().filter(|(_, disk)| *disk != DiskId::PARTS);
    let mut candidates = on_disks.map(|(node, disk)| Candidate {
        node: rows.node_name(*node),
        disk: rows.disk(*disk).map_or_else(|| disk.0.to_string(), |row| row.name.clone()),
    });
    let (mut mirror, mut concat, mut stripe, mut chunk) = (Vec::new(), Vec::new(), Vec::new(), None);
    let named = |parts: &[VolumeId]| parts.iter().map(|part| volume_name(rows, *part)).collect();
    match rows.volume(row.id).map(|volume| &volume.shape) {
        Some(Shape::Mirror(shape)) => mirror = legs(rows, shape),
        Some(Shape::Concatenation(parts)) => concat = named(parts),
        Some(Shape::Stripe(shape)) => {
            stripe = named(&shape.parts);
            chunk = Some(size_text(u64::from(shape.chunk_bytes)));
        }
        None => {}
    }
    VirtualDisk {
        id: row.id.0,
        name: row.name.clone(),
        size: size_text(row.size_bytes),
        block_size: row.block_bytes.get(),
        read_only: row.read_only,
        on_lost_quorum: match row.on_lost_quorum {
            LostQuorum::Suspend => LostQuorumName::Suspend,
            LostQuorum::Fail => LostQuorumName::Fail,
        },
        primary: candidates.next(),
        secondary: candidates.next(),
        others: candidates.collect(),
        mirror,
        concat,
        stripe,
        chunk,
        nodes: match rows.volume(row.id) {
            Some(_) => names(rows, row.candidates.iter().map(|(node, _)| *node)),
            None => Vec::new(),
        },
    }
}

/// The legs of a mirror, those in sync first: a file makes a new mirror, which is copied from the first.
fn legs(rows: &ClusterRows, mirror: &MirrorShape) -> Vec<String> {
    let mut legs: Vec<&LegRow> = mirror.legs.iter().collect();
    legs.sort_by_key(|leg| leg.state != LegState::InSync);
    legs.into_iter().map(|leg| volume_name(rows, leg.volume)).collect()
}

#[derive(Serialize)]
struct VolumeText {
    virtual_disk: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    legs: Vec<LegText>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    concat: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stripe: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk: Option<String>,
}

#[derive(Serialize)]
struct LegText {
    virtual_disk: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

fn volume(rows: &ClusterRows, row: &VolumeRow) -> VolumeText {
    let leg = |leg: &LegRow| {
        let (state, why) = match leg.state {
            LegState::InSync => ("in sync", None),
            LegState::Stale => ("stale", Some(leg.why.to_string())),
        };
        LegText { virtual_disk: volume_name(rows, leg.volume), state, why }
    };
    let mut text = VolumeText {
        virtual_disk: volume_name(rows, row.volume),
        legs: Vec::new(),
        concat: Vec::new(),
        stripe: Vec::new(),
        chunk: None,
    };
    let names = row.parts().map(|part| volume_name(rows, part)).collect();
    match &row.shape {
        Shape::Mirror(mirror) => text.legs = mirror.legs.iter().map(leg).collect(),
        Shape::Concatenation(_) => text.concat = names,
        Shape::Stripe(stripe) => {
            text.stripe = names;
            text.chunk = Some(size_text(u64::from(stripe.chunk_bytes)));
        }
    }
    text
}

fn permission(rows: &ClusterRows, row: &PermissionRow) -> Permission {
    Permission {
        virtual_disk: volume_name(rows, row.volume),
        owner: row.owner,
        group: row.group,
        mode: row.mode,
        nodes: names(rows, row.nodes.iter().copied()),
    }
}

fn nbd(rows: &ClusterRows, row: &NbdRow) -> Nbd {
    Nbd {
        node: rows.node_name(row.node),
        listen: row.listen.to_string(),
        exports: row.exports.iter().map(|volume| volume_name(rows, *volume)).collect(),
    }
}

/// Bytes with the largest unit that divides them.
pub fn size_text(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    fits.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::super::Config;
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> ClusterRows {
        Config::parse_rows(Path::new("/etc/c.toml"), text).unwrap()
    }

    /// Everything that a file can say, none of it as usual.
    const ODD: &str = r#"
[cluster]
name = "odd"
spread = "stripe"
[memory]
budget = 300000001
[heartbeat]
period_ms = 7
missed = 5
heard = 2
sticky = false
[membership]
suspect_ms = 300
lease_ms = 900
hung_disk_ms = 5000
[[node]]
id = 4
name = "delta"
host = "10.0.0.4"
port_base = 9000
voter = true
[[node]]
id = 9
host = "fd00::9"
[[link]]
number = 5
id = 1
nodes = ["delta", 9]
rails = [{ id = 1, kind = "tcp", addresses = { delta = "10.1.0.4:77" } },
         { kind = "tcp", id = 0, heartbeats = { 9 = "[fd00::9]:99" } }]
[[disk]]
id = 3
name = "shelf"
kind = "raw"
nodes = [9, 4]
paths = ["/dev/a", "/dev/b"]
[[disk]]
id = 8
name = "quick"
kind = "memory"
nodes = [4]
[[virtual_disk]]
id = 6
name = "vd"
size = 12288
block_size = 512
read_only = true
on_lost_quorum = "fail"
primary = { node = 9, disk = "shelf" }
secondary = { node = 4, disk = "shelf" }
[[permission]]
virtual_disk = "vd"
owner = 5
group = 6
mode = 0o640
nodes = [9]
[[nbd]]
node = 9
listen = "unix:/run/x.sock"
exports = ["vd"]
"#;

    // proves: C2
    #[test]
    fn rows_survive_their_text_whatever_they_say() {
        let example = include_str!("../../examples/three-nodes.toml");
        let example: String =
            example.lines().filter(|line| !line.starts_with("key_file")).collect::<Vec<_>>().join("\n");
        for text in [ODD, &example] {
            let rows = read(text);
            let written = to_toml(&rows);
            assert_eq!(read(&written), rows, "{written}");
            assert_eq!(to_toml(&read(&written)), written);
        }
    }

    #[test]
    fn rows_as_json_are_rows_of_the_file() {
        let rows = read(ODD);
        let whole = to_json(&rows);
        for (section, row) in [
            ("node", rows.row(&RowKey::Node(NodeId(4))).unwrap()),
            ("link", Row::Link(rows.links[0].clone())),
            ("disk", Row::Disk(rows.disks[0].clone())),
            ("virtual_disk", Row::VirtualDisk(rows.virtual_disks[0].clone())),
            ("permission", Row::Permission(rows.permissions[0].clone())),
            ("nbd", Row::Nbd(rows.nbd[0].clone())),
        ] {
            assert_eq!(whole[section][0], row_to_json(&rows, &row));
        }
        let settings = row_to_json(&rows, &Row::Settings(rows.settings()));
        assert_eq!(settings["heartbeat"], whole["heartbeat"]);
        assert_eq!(whole["virtual_disk"][0]["on_lost_quorum"], "fail");
    }

    #[test]
    fn sizes_are_written_with_the_largest_unit_that_fits() {
        for (bytes, text) in [(0, "0"), (1, "1"), (1536, "1536"), (2048, "2KiB"), (3 << 30, "3GiB")] {
            assert_eq!(size_text(bytes), text);
        }
    }

    #[test]
    fn a_cluster_of_one_node_may_have_links_that_wait_for_others() {
        let text = "[cluster]\nname = \"one\"\n[[node]]\nid = 1\n[[link]]\nrails = [{ kind = \"tcp\" }]\n";
        let rows = read(text);
        assert_eq!(rows.links[0].nodes, [NodeId(1)]);
        assert_eq!(control_proto::rules::check_all(&rows), []);
        assert_eq!(read(&to_toml(&rows)), rows);
    }
}
