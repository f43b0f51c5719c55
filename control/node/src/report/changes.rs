//! What a change of a row means, in words.

use blockdev_proto::geometry::DiskId;
use control_proto::ccd::{MembershipRow, ReservationRow, Row, RowEvent};
use control_proto::pool::RegionState;
use control_proto::rows::{LinkRow, NodeRow, PermissionRow, VirtualDiskRow};
use control_proto::view::{BrokenPath, Member};
use transport_proto::identity::NodeId;

/// What happened to a row, in a few words; empty where its name says all.
pub(crate) fn change_text(change: &RowEvent) -> String {
    match (&change.before, &change.after) {
        (Some(before), Some(after)) => between(before, after),
        (None, Some(row)) | (Some(row), None) => one(row),
        (None, None) => String::new(),
    }
}

fn one(row: &Row) -> String {
    match row {
        Row::Node(row) => format!("{} at {}", row.name, row.host),
        Row::Disk(row) => format!("{}, at {}", row.name, nodes(row.ports.iter().map(|port| port.node))),
        Row::VirtualDisk(row) => {
            format!("{}, {} bytes, on {}", row.name, row.size_bytes, candidates(&row.candidates))
        }
        Row::Link(row) => format!("{}, {} rails", nodes(row.nodes.iter().copied()), row.rails.len()),
        Row::Permission(row) => format!("owner {} group {} mode {:o}", row.owner, row.group, row.mode),
        Row::Membership(row) => format!("members {}", members(&row.members)),
        Row::Reconfiguration(row) => format!("{}; {}", row.phase, waits(&row.missing)),
        Row::Region(row) => format!("{}, {}", row.name, region_state(row.state)),
        Row::Loan(row) => {
            let path = if row.mounted.is_some() { "mounted" } else { "not mounted" };
            format!("{}, lent to node {}, {path}", row.name, row.borrower.0)
        }
        Row::Tombstone(row) => format!("{}: {}", row.level, row.reason),
        Row::Reservation(row) => reservations(row),
        _ => String::new(),
    }
}

fn reservations(row: &ReservationRow) -> String {
    let registered = nodes(row.reservations.registrants.iter().map(|one| one.node));
    match row.reservations.held {
        Some(held) if held.kind.is_held_by_all() => format!("held by {registered} ({})", held.kind),
        Some(held) => format!("held by node {} ({}), registered: {registered}", held.by.0, held.kind),
        None if row.reservations.registrants.is_empty() => "nobody is registered".to_owned(),
        None => format!("registered: {registered}"),
    }
}

fn region_state(state: RegionState) -> &'static str {
    match state {
        RegionState::Erasing => "being erased",
        RegionState::Free => "free",
        RegionState::Lent(_) => "lent",
    }
}

fn between(before: &Row, after: &Row) -> String {
    match (before, after) {
        (Row::Node(before), Row::Node(after)) => between_nodes(before, after),
        (Row::Link(before), Row::Link(after)) => between_links(before, after),
        (Row::VirtualDisk(before), Row::VirtualDisk(after)) => between_disks(before, after),
        (Row::Reservation(_), Row::Reservation(after)) => reservations(after),
        (Row::Permission(before), Row::Permission(after)) => between_permissions(before, after),
        (Row::Membership(before), Row::Membership(after)) => between_members(before, after),
        (_, after) => one(after),
    }
}

/// "`what` `before` → `after`" for each of those that differ.
fn differences<const N: usize>(pairs: [(&str, String, String); N]) -> String {
    let differ = pairs.into_iter().filter(|(_, before, after)| before != after);
    let words: Vec<String> =
        differ.map(|(what, before, after)| format!("{what} {before} → {after}")).collect();
    words.join(", ")
}

fn between_nodes(before: &NodeRow, after: &NodeRow) -> String {
    differences([
        ("name", before.name.clone(), after.name.clone()),
        ("host", before.host.to_string(), after.host.to_string()),
        ("votes", before.voter.to_string(), after.voter.to_string()),
    ])
}

fn between_links(before: &LinkRow, after: &LinkRow) -> String {
    differences([
        ("nodes", nodes(before.nodes.iter().copied()), nodes(after.nodes.iter().copied())),
        ("rails", before.rails.len().to_string(), after.rails.len().to_string()),
    ])
}

fn between_disks(before: &VirtualDiskRow, after: &VirtualDiskRow) -> String {
    differences([
        ("name", before.name.clone(), after.name.clone()),
        ("bytes", before.size_bytes.to_string(), after.size_bytes.to_string()),
        ("on", candidates(&before.candidates), candidates(&after.candidates)),
        ("read only", before.read_only.to_string(), after.read_only.to_string()),
        (
            "without quorum",
            format!("{:?}", before.on_lost_quorum).to_lowercase(),
            format!("{:?}", after.on_lost_quorum).to_lowercase(),
        ),
    ])
}

fn between_permissions(before: &PermissionRow, after: &PermissionRow) -> String {
    differences([
        ("owner", before.owner.to_string(), after.owner.to_string()),
        ("group", before.group.to_string(), after.group.to_string()),
        ("mode", format!("{:o}", before.mode), format!("{:o}", after.mode)),
        ("nodes", nodes(before.nodes.iter().copied()), nodes(after.nodes.iter().copied())),
    ])
}

fn between_members(before: &MembershipRow, after: &MembershipRow) -> String {
    differences([
        ("members", members(&before.members), members(&after.members)),
        ("broken paths", paths(&before.broken), paths(&after.broken)),
    ])
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "none".into() } else { items.join(" ") }
}

fn nodes(nodes: impl Iterator<Item = NodeId>) -> String {
    list(nodes.map(|node| node.0.to_string()))
}

fn members(members: &[Member]) -> String {
    nodes(members.iter().map(|member| member.node))
}

fn waits(missing: &[Member]) -> String {
    if missing.is_empty() { "nobody is waited for".into() } else { format!("waits for {}", members(missing)) }
}

fn candidates(candidates: &[(NodeId, DiskId)]) -> String {
    list(candidates.iter().map(|(node, disk)| format!("{}:{}", node.0, disk.0)))
}

fn paths(paths: &[BrokenPath]) -> String {
    list(paths.iter().map(|path| format!("{}:{}", path.node.0, path.disk.0)))
}
