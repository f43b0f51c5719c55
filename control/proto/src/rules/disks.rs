//! Rules of disks and virtual disks: what the bytes lie on, and who serves them.

use super::links::on_one_machine;
use super::{RowFault, check_limit, check_name, check_nodes, volumes};
use crate::ccd::{RowKey, Table};
use crate::rows::{ClusterRows, DISKS_MAX, DiskKind, DiskRow, PATH_BYTES_MAX, VirtualDiskRow};
use alloc::string::ToString;
use alloc::vec::Vec;
use blockdev_proto::geometry::{DiskId, VOLUMES_MAX};
use blockdev_proto::mapping::CANDIDATES_MAX;

pub(super) fn check_disk(rows: &ClusterRows, row: &DiskRow, out: &mut Vec<RowFault>) {
    check_limit(Table::Disks, rows.disks.len(), DISKS_MAX, out);
    check_name(&row.name, out);
    let namesake = rows.disks.iter().find(|other| other.id != row.id && other.name == row.name);
    if let Some(other) = namesake {
        let (table, name, other) = (Table::Disks, row.name.clone(), RowKey::Disk(other.id));
        out.push(RowFault::DuplicateName { table, name, other });
    }
    if row.ports.is_empty() {
        out.push(RowFault::NoPort);
    }
    check_limit(Table::Nodes, row.ports.len(), CANDIDATES_MAX, out);
    check_nodes(rows, row.ports.iter().map(|port| port.node), out);
    if row.kind == DiskKind::Memory {
        if row.ports.iter().any(|port| !port.path.is_empty()) {
            out.push(RowFault::PathOfMemory);
        }
        if row.ports.len() > 1 {
            out.push(RowFault::MemoryOnTwoNodes);
        }
        return;
    }
    if row.ports.iter().any(|port| !port.path.starts_with('/') || port.path.len() > PATH_BYTES_MAX) {
        out.push(RowFault::PathMissing);
    }
    check_overlap(rows, row, out);
}

/// One file or device must not be two disks. Equal paths on different machines are different things.
fn check_overlap(rows: &ClusterRows, row: &DiskRow, out: &mut Vec<RowFault>) {
    for other in rows.disks.iter().filter(|other| other.id != row.id) {
        let clash = row.ports.iter().find(|port| {
            let same = |theirs: &&crate::rows::DiskPort| {
                !port.path.is_empty()
                    && theirs.path == port.path
                    && on_one_machine(rows, theirs.node, port.node)
            };
            other.ports.iter().any(|theirs| same(&theirs))
        });
        if let Some(port) = clash {
            let (path, other) = (port.path.clone(), RowKey::Disk(other.id));
            return out.push(RowFault::SamePath { path, other });
        }
    }
}

pub(super) fn check_virtual_disk(rows: &ClusterRows, row: &VirtualDiskRow, out: &mut Vec<RowFault>) {
    check_limit(Table::VirtualDisks, rows.virtual_disks.len(), VOLUMES_MAX, out);
    if row.id.0 as usize >= VOLUMES_MAX {
        out.push(RowFault::VolumeIdTooLarge { id: row.id.0 });
    }
    check_name(&row.name, out);
    let namesake = rows.virtual_disks.iter().find(|other| other.id != row.id && other.name == row.name);
    if let Some(other) = namesake {
        let (table, name, other) = (Table::VirtualDisks, row.name.clone(), RowKey::VirtualDisk(other.id));
        out.push(RowFault::DuplicateName { table, name, other });
    }
    if row.size_bytes == 0 {
        out.push(RowFault::SizeZero);
    } else if !row.block_bytes.divides(row.size_bytes) {
        let (size_bytes, block_bytes) = (row.size_bytes, row.block_bytes.get());
        out.push(RowFault::SizeNotBlocks { size_bytes, block_bytes });
    }
    check_candidates(rows, row, out);
}

fn check_candidates(rows: &ClusterRows, row: &VirtualDiskRow, out: &mut Vec<RowFault>) {
    if row.candidates.len() > CANDIDATES_MAX {
        out.push(RowFault::TooManyCandidates { found: row.candidates.len() });
    }
    check_nodes(rows, row.candidates.iter().map(|(node, _)| *node), out);
    let Some(&(_, primary)) = row.candidates.first() else {
        return out.push(RowFault::NoCandidate);
    };
    if volumes::lies_on_parts(row) {
        return volumes::check_whole(rows, row, out);
    }
    let name = |disk: DiskId| rows.disk(disk).map_or_else(|| disk.0.to_string(), |row| row.name.clone());
    for &(node, disk) in &row.candidates {
        match rows.disk(disk) {
            None => out.push(RowFault::Dangling { table: Table::Disks, reference: disk.0.to_string() }),
            Some(known) if known.port(node).is_none() => {
                out.push(RowFault::NotReached { node: rows.node_name(node), disk: known.name.clone() });
            }
            Some(_) if disk != primary => {
                out.push(RowFault::OtherMedium { primary: name(primary), other: name(disk) });
            }
            Some(_) => {}
        }
    }
    let taken = rows
        .virtual_disks
        .iter()
        .find(|other| other.id != row.id && other.candidates.iter().any(|(_, disk)| *disk == primary));
    if let Some(other) = taken {
        let (by, other) = (other.name.clone(), RowKey::VirtualDisk(other.id));
        out.push(RowFault::DiskTaken { disk: name(primary), by, other });
    }
}
