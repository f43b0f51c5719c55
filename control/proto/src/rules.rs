//! What every configured row must keep, wherever it comes from: a file that is read, a command in the log, a
//! snapshot of old. One set of rules; whoever finds a fault says where it is.
//!
//! Rows are checked against the rows around them, the row itself among them: put it first, then check it, and
//! take it out again if something is wrong.

mod addresses;
mod disks;
mod fault;
mod links;
mod pool;
mod volumes;

pub use fault::{RowFault, SettingKey};
pub use pool::PoolFault;

use crate::ccd::{Row, RowKey, SettingsRow, Table};
use crate::rows::{
    ClusterRows, MEMORY_BUDGET_BYTES_MIN, NAME_BYTES_MAX, NBD_SERVERS_MAX, NODES_MAX, NbdAddress, NbdRow,
    NodeRow, PermissionRow, SOCKET_PATH_BYTES_MAX, VolumeRow,
};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::time::Duration;
use transport_proto::identity::NodeId;

/// Nodes that vote at the most.
pub const VOTERS_MAX: usize = 7;

/// What is wrong with one row among these. Rows that are not configured have no rules here.
pub fn check_row(rows: &ClusterRows, row: &Row, out: &mut Vec<RowFault>) {
    match row {
        Row::Node(row) => check_node(rows, row, out),
        Row::Link(row) => links::check(rows, row, out),
        Row::Disk(row) => disks::check_disk(rows, row, out),
        Row::VirtualDisk(row) => disks::check_virtual_disk(rows, row, out),
        Row::Volume(row) => volumes::check_volume(rows, row, out),
        Row::Permission(row) => check_permission(rows, row, out),
        Row::Region(row) => pool::check_region(rows, row, out),
        Row::Loan(row) => pool::check_loan(rows, row, out),
        Row::Nbd(row) => check_nbd(rows, row, out),
        Row::Settings(row) => check_settings(row, out),
        _ => {}
    }
}

/// What is wrong with all of them together: who is joined, who votes.
pub fn check_whole(rows: &ClusterRows, out: &mut Vec<RowFault>) {
    links::check_joined(rows, out);
    let voters = rows.nodes.iter().filter(|node| node.voter).count();
    if voters == 0 {
        out.push(RowFault::NoVoter);
    } else if voters > VOTERS_MAX {
        out.push(RowFault::TooManyVoters { found: voters, most: VOTERS_MAX });
    }
}

/// Everything that is wrong, row by row.
pub fn check_all(rows: &ClusterRows) -> Vec<(RowKey, RowFault)> {
    let mut found = Vec::new();
    let mut faults = Vec::new();
    for row in rows.all_rows() {
        check_row(rows, &row, &mut faults);
        let key = row.key();
        found.extend(faults.drain(..).map(|fault| (key.clone(), fault)));
    }
    check_whole(rows, &mut faults);
    found.extend(faults.drain(..).map(|fault| (RowKey::Settings, fault)));
    found
}

/// Rows that another row's change may have made wrong: those that name it, or share a thing with it.
pub fn touched_by(rows: &ClusterRows, key: &RowKey) -> Vec<Row> {
    let mut touched = pool::touched_by(rows, key);
    touched.extend(touched_besides_pool(rows, key));
    touched
}

fn touched_besides_pool(rows: &ClusterRows, key: &RowKey) -> Vec<Row> {
    match key {
        RowKey::Node(node) => touched_by_node(rows, *node),
        RowKey::Disk(disk) => {
            let users = rows.virtual_disks.iter();
            let users = users.filter(|row| row.candidates.iter().any(|(_, used)| used == disk));
            users.cloned().map(Row::VirtualDisk).collect()
        }
        RowKey::VirtualDisk(volume) => {
            let exports = rows.nbd.iter().filter(|row| row.exports.contains(volume));
            let permission = rows.permission(*volume).cloned().map(Row::Permission);
            let named = |row: &&VolumeRow| row.volume == *volume || row.parts().any(|part| part == *volume);
            let volumes = rows.volumes.iter().filter(named).cloned().map(Row::Volume);
            permission.into_iter().chain(exports.cloned().map(Row::Nbd)).chain(volumes).collect()
        }
        RowKey::Volume(volume) => {
            rows.virtual_disk(*volume).cloned().map(Row::VirtualDisk).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn touched_by_node(rows: &ClusterRows, node: NodeId) -> Vec<Row> {
    let links = rows.links.iter().filter(|row| row.nodes.contains(&node));
    let disks = rows.disks.iter().filter(|row| row.ports.iter().any(|port| port.node == node));
    let volumes = rows.virtual_disks.iter();
    let volumes = volumes.filter(|row| row.candidates.iter().any(|(candidate, _)| *candidate == node));
    let permissions = rows.permissions.iter().filter(|row| row.nodes.contains(&node));
    let servers = rows.nbd.iter().filter(|row| row.node == node);
    let links = links.cloned().map(Row::Link).chain(disks.cloned().map(Row::Disk));
    let volumes = volumes.cloned().map(Row::VirtualDisk).chain(permissions.cloned().map(Row::Permission));
    links.chain(volumes).chain(servers.cloned().map(Row::Nbd)).collect()
}

fn check_limit(table: Table, found: usize, most: usize, out: &mut Vec<RowFault>) {
    if found > most {
        out.push(RowFault::TooMany { table, found, most });
    }
}

/// Whether this can be the name of a node, a disk, a virtual disk or a cluster.
pub fn is_name(text: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let digits_alone = text.bytes().all(|byte| byte.is_ascii_digit());
    !digits_alone && text.len() <= NAME_BYTES_MAX && text.bytes().all(letters)
}

fn check_name(text: &str, out: &mut Vec<RowFault>) {
    if !is_name(text) {
        let name = text.chars().take(2 * NAME_BYTES_MAX).collect();
        out.push(RowFault::BadName { name });
    }
}

fn check_node_is_there(rows: &ClusterRows, node: NodeId, out: &mut Vec<RowFault>) {
    if rows.node(node).is_none() {
        out.push(RowFault::Dangling { table: Table::Nodes, reference: node.0.to_string() });
    }
}

/// Every node is there, and none twice.
fn check_nodes(rows: &ClusterRows, nodes: impl Iterator<Item = NodeId>, out: &mut Vec<RowFault>) {
    let mut seen: Vec<NodeId> = Vec::new();
    for node in nodes {
        check_node_is_there(rows, node, out);
        if seen.contains(&node) {
            out.push(RowFault::NodeTwice { node: rows.node_name(node) });
        }
        seen.push(node);
    }
}

fn check_node(rows: &ClusterRows, row: &NodeRow, out: &mut Vec<RowFault>) {
    check_limit(Table::Nodes, rows.nodes.len(), NODES_MAX, out);
    check_name(&row.name, out);
    if row.id.0 == 0 {
        out.push(RowFault::NodeZero);
    }
    let namesake = rows.nodes.iter().find(|other| other.id != row.id && other.name == row.name);
    if let Some(other) = namesake {
        let (table, name, other) = (Table::Nodes, row.name.clone(), RowKey::Node(other.id));
        out.push(RowFault::DuplicateName { table, name, other });
    }
}

fn check_permission(rows: &ClusterRows, row: &PermissionRow, out: &mut Vec<RowFault>) {
    if row.mode > 0o777 {
        out.push(RowFault::BadMode { mode: u32::from(row.mode) });
    }
    if rows.virtual_disk(row.volume).is_none() {
        out.push(RowFault::Dangling { table: Table::VirtualDisks, reference: row.volume.0.to_string() });
    }
    check_nodes(rows, row.nodes.iter().copied(), out);
}

fn check_nbd(rows: &ClusterRows, row: &NbdRow, out: &mut Vec<RowFault>) {
    check_limit(Table::Nbd, rows.nbd.len(), NBD_SERVERS_MAX, out);
    check_node_is_there(rows, row.node, out);
    for export in &row.exports {
        match rows.virtual_disk(*export) {
            None => {
                let reference = export.0.to_string();
                out.push(RowFault::Dangling { table: Table::VirtualDisks, reference });
            }
            Some(disk) if rows.whole_of(*export).is_some() => {
                let (part, at) = (disk.name.clone(), row.listen.to_string());
                out.push(RowFault::PartExported { part, at });
            }
            Some(_) => {}
        }
    }
    if let NbdAddress::Unix(path) = &row.listen
        && (path.len() > SOCKET_PATH_BYTES_MAX || !path.starts_with('/'))
    {
        out.push(RowFault::BadSocketPath { path: path.chars().take(2 * SOCKET_PATH_BYTES_MAX).collect() });
    }
    addresses::check_nbd(rows, row, out);
}

fn check_settings(row: &SettingsRow, out: &mut Vec<RowFault>) {
    check_name(&row.name, out);
    if row.memory_budget_bytes < MEMORY_BUDGET_BYTES_MIN {
        out.push(RowFault::BudgetTooSmall { bytes: row.memory_budget_bytes });
    }
    let mut within = |key: SettingKey, value: Duration| {
        let (least, most) = key.range();
        if !(least..=most).contains(&(value.as_millis().min(u128::from(u64::MAX)) as u64)) {
            out.push(RowFault::OutOfRange { key });
        }
    };
    let (heartbeat, times) = (&row.connectivity, &row.membership);
    within(SettingKey::PeriodMs, heartbeat.period);
    within(SettingKey::Missed, Duration::from_millis(u64::from(heartbeat.missed_down)));
    within(SettingKey::Heard, Duration::from_millis(u64::from(heartbeat.heard_up)));
    within(SettingKey::SuspectMs, times.suspect);
    within(SettingKey::LeaseMs, times.lease);
    within(SettingKey::HungDiskMs, times.hung_disk);
    if times.suspect >= times.lease {
        out.push(RowFault::SuspectTooLong);
    }
}

#[cfg(test)]
#[path = "rules/tests.rs"]
mod tests;
