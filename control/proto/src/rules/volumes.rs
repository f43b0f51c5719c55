//! Rules of volumes: virtual disks that lie on others.

use super::{RowFault, check_limit};
use crate::ccd::{RowKey, Table};
use crate::rows::{ClusterRows, MirrorShape, Shape, VirtualDiskRow, VolumeRow};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use blockdev_proto::assembly::ArrangementFault;
use blockdev_proto::geometry::{DiskId, VOLUMES_MAX, VolumeId};
use blockdev_proto::lanes::STOREYS_MAX;
use blockdev_proto::mirror::{LEGS_MAX, RECORD_BYTES, leg_bytes};

fn name(rows: &ClusterRows, volume: VolumeId) -> String {
    rows.virtual_disk(volume).map_or_else(|| volume.0.to_string(), |row| row.name.clone())
}

pub(super) fn lies_on_parts(row: &VirtualDiskRow) -> bool {
    row.candidates.iter().any(|(_, disk)| *disk == DiskId::PARTS)
}

pub(super) fn check_volume(rows: &ClusterRows, row: &VolumeRow, out: &mut Vec<RowFault>) {
    check_limit(Table::Volumes, rows.volumes.len(), VOLUMES_MAX, out);
    let Some(whole) = rows.virtual_disk(row.volume) else {
        let reference = row.volume.0.to_string();
        return out.push(RowFault::Dangling { table: Table::VirtualDisks, reference });
    };
    if !lies_on_parts(whole) {
        out.push(RowFault::HasDisk { name: whole.name.clone() });
    }
    let mut seen = Vec::new();
    for part in row.parts() {
        if seen.contains(&part) {
            out.push(RowFault::PartTwice { part: name(rows, part) });
        }
        seen.push(part);
        check_part(rows, row, part, out);
    }
    check_storeys(rows, whole, out);
    match &row.shape {
        Shape::Mirror(mirror) => check_mirror(rows, whole, mirror, out),
        Shape::Concatenation(_) | Shape::Stripe(_) => check_assembly(rows, whole, row, out),
    }
}

/// Volumes that lie on this virtual disk, one on the other.
fn wholes_over(rows: &ClusterRows, volume: VolumeId) -> impl Iterator<Item = VolumeId> {
    let over = |part: &VolumeId| rows.whole_of(*part).map(|row| row.volume);
    core::iter::successors(over(&volume), over).take(rows.volumes.len())
}

/// For no more storeys there are lanes, see [`blockdev_proto::lanes`].
fn check_storeys(rows: &ClusterRows, whole: &VirtualDiskRow, out: &mut Vec<RowFault>) {
    let storeys = wholes_over(rows, whole.id).count() + rows.storeys(whole.id);
    let is_known = out.iter().any(|fault| matches!(fault, RowFault::PartOfItself { .. }));
    if storeys > STOREYS_MAX && !is_known {
        out.push(RowFault::TooHigh { name: whole.name.clone(), storeys });
    }
}

/// A virtual disk that another lies on is nobody else's.
fn check_part(rows: &ClusterRows, row: &VolumeRow, part: VolumeId, out: &mut Vec<RowFault>) {
    let Some(below) = rows.virtual_disk(part) else {
        let reference = part.0.to_string();
        return out.push(RowFault::Dangling { table: Table::VirtualDisks, reference });
    };
    if part == row.volume || wholes_over(rows, row.volume).any(|over| over == part) {
        return out.push(RowFault::PartOfItself { part: below.name.clone() });
    }
    let other =
        rows.volumes.iter().find(|other| other.volume != row.volume && other.parts().any(|one| one == part));
    if let Some(other) = other {
        let (part, by) = (below.name.clone(), name(rows, other.volume));
        out.push(RowFault::PartTaken { part, by, other: RowKey::Volume(other.volume) });
    }
    if let Some(server) = rows.nbd.iter().find(|server| server.exports.contains(&part)) {
        let (part, at) = (below.name.clone(), server.listen.to_string());
        out.push(RowFault::PartExported { part, at });
    }
}

fn check_mirror(rows: &ClusterRows, whole: &VirtualDiskRow, mirror: &MirrorShape, out: &mut Vec<RowFault>) {
    if mirror.legs.len() > LEGS_MAX {
        out.push(RowFault::TooManyLegs { found: mirror.legs.len() });
    }
    let in_sync = mirror.in_sync().count();
    if in_sync == 0 || (mirror.fresh && in_sync > 1) {
        out.push(RowFault::LegsInSync { found: in_sync });
    }
    if whole.block_bytes.get() > RECORD_BYTES {
        out.push(RowFault::BlockTooLarge { block_bytes: whole.block_bytes.get() });
    }
    for leg in &mirror.legs {
        let Some(below) = rows.virtual_disk(leg.volume) else { continue };
        let needed = leg_bytes(whole.size_bytes).unwrap_or(u64::MAX);
        if below.size_bytes < needed {
            let (part, size_bytes) = (below.name.clone(), below.size_bytes);
            out.push(RowFault::LegTooSmall { part, size_bytes, needed_bytes: needed });
        }
        if below.block_bytes > whole.block_bytes {
            let (part, block_bytes) = (below.name.clone(), below.block_bytes.get());
            out.push(RowFault::LegBlock { part, block_bytes });
        }
        if below.read_only {
            out.push(RowFault::LegReadOnly { part: below.name.clone() });
        }
    }
}

fn check_assembly(rows: &ClusterRows, whole: &VirtualDiskRow, row: &VolumeRow, out: &mut Vec<RowFault>) {
    match rows.arrangement(row) {
        Some(Ok(arrangement)) if arrangement.capacity() < whole.size_bytes => {
            let (size_bytes, capacity_bytes) = (whole.size_bytes, arrangement.capacity());
            out.push(RowFault::PartsTooSmall { size_bytes, capacity_bytes });
        }
        Some(Err(fault)) => out.push(match fault {
            ArrangementFault::PartCount { found } => RowFault::PartCount { found },
            ArrangementFault::Chunk { found } => RowFault::BadChunk { chunk_bytes: found },
            ArrangementFault::PartTooSmall { place } => {
                let part = row.parts().nth(place).map_or(String::new(), |part| name(rows, part));
                RowFault::PartTooSmall { part }
            }
            ArrangementFault::TooLarge => {
                RowFault::PartsTooSmall { size_bytes: whole.size_bytes, capacity_bytes: u64::MAX }
            }
        }),
        Some(Ok(_)) | None => {}
    }
    for below in row.parts().filter_map(|part| rows.virtual_disk(part)) {
        if below.block_bytes > whole.block_bytes {
            let (part, block_bytes) = (below.name.clone(), below.block_bytes.get());
            out.push(RowFault::LegBlock { part, block_bytes });
        }
        if below.read_only && !whole.read_only {
            out.push(RowFault::LegReadOnly { part: below.name.clone() });
        }
    }
}

/// A virtual disk whose candidates name no disk has a row of parts, and one that names disks has none.
pub(super) fn check_whole(rows: &ClusterRows, row: &VirtualDiskRow, out: &mut Vec<RowFault>) {
    if row.candidates.iter().any(|(_, disk)| *disk != DiskId::PARTS) || rows.volume(row.id).is_none() {
        out.push(RowFault::NoParts { name: row.name.clone() });
    }
}
