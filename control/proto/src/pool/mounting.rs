//! The rows that make a path to a lent volume, and those that take it away again.

use super::placement::share_bytes;
use super::{Form, LOAN_BLOCK, LoanRow, RegionId, RegionRow, SPLIT_CHUNK_BYTES, whole_blocks};
use crate::ccd::{Row, RowChange, RowKey};
use crate::rows::{
    ClusterRows, LegRow, LostQuorum, MirrorShape, NbdRow, PermissionRow, Shape, StaleReason, StripeShape,
    VirtualDiskRow, VolumeRow,
};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use blockdev_proto::geometry::{DiskId, VOLUMES_MAX, VolumeId};
use blockdev_proto::mapping::CANDIDATES_MAX;
use blockdev_proto::mirror::LegState;
use core::fmt;
use transport_proto::identity::NodeId;

/// Why there can be no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountFault {
    /// It has one.
    Mounted {
        /// The volume.
        name: String,
    },
    /// It has none.
    NotMounted {
        /// The volume.
        name: String,
    },
    /// A region of it is not in the rows.
    NoRegion(RegionId),
    /// All numbers of virtual disks are used.
    NoNumber,
}

impl fmt::Display for MountFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountFault::Mounted { name } => {
                write!(f, "{name} is mounted already: see netdisk pool table")
            }
            MountFault::NotMounted { name } => {
                write!(f, "{name} is not mounted: mount it first (netdisk pool mount {name})")
            }
            MountFault::NoRegion(region) => {
                write!(f, "region {} of the volume is not there: the rows are damaged", region.0)
            }
            MountFault::NoNumber => write!(f, "there are {VOLUMES_MAX} virtual disks: remove one first"),
        }
    }
}

impl core::error::Error for MountFault {}

/// Virtual disks that are being made for a loan.
struct Maker<'r> {
    rows: &'r ClusterRows,
    loan: &'r LoanRow,
    used: Vec<VolumeId>,
    made: Vec<RowChange>,
}

impl Maker<'_> {
    fn number(&mut self) -> Result<VolumeId, MountFault> {
        let taken = |id: &VolumeId| self.used.contains(id) || self.rows.virtual_disk(*id).is_some();
        let free = (0..VOLUMES_MAX as u32).map(VolumeId).find(|id| !taken(id));
        let free = free.ok_or(MountFault::NoNumber)?;
        self.used.push(free);
        Ok(free)
    }

    fn virtual_disk(&mut self, id: VolumeId, candidates: Vec<(NodeId, DiskId)>, size_bytes: u64) -> VolumeId {
        // The first is the whole.
        let name = match self.used.iter().position(|used| *used == id) {
            None | Some(0) => self.loan.name.clone(),
            Some(place) => format!("{}.{place}", self.loan.name),
        };
        self.made.push(RowChange::Put(Row::VirtualDisk(VirtualDiskRow {
            id,
            name,
            candidates,
            size_bytes,
            block_bytes: LOAN_BLOCK,
            read_only: false,
            on_lost_quorum: LostQuorum::Suspend,
        })));
        id
    }

    fn on_parts(&mut self, id: VolumeId, lenders: &[NodeId], size_bytes: u64, shape: Shape) -> VolumeId {
        let mut nodes: Vec<NodeId> = Vec::new();
        for lender in lenders {
            if !nodes.contains(lender) && nodes.len() < CANDIDATES_MAX {
                nodes.push(*lender);
            }
        }
        self.made.push(RowChange::Put(Row::Volume(VolumeRow { volume: id, shape })));
        let candidates = nodes.into_iter().map(|node| (node, DiskId::PARTS)).collect();
        self.virtual_disk(id, candidates, size_bytes)
    }

    /// A virtual disk on each disk of the regions.
    fn leaves(&mut self, regions: &[&RegionRow]) -> Result<Vec<VolumeId>, MountFault> {
        let mut leaves = Vec::new();
        for (region, extent) in regions.iter().flat_map(|row| row.extents.iter().map(move |one| (row, one))) {
            let id = self.number()?;
            let candidates = Vec::from([(region.lender, extent.disk)]);
            leaves.push(self.virtual_disk(id, candidates, whole_blocks(extent.size_bytes)));
        }
        Ok(leaves)
    }

    /// A virtual disk of this number on a whole region.
    fn on_region(&mut self, id: VolumeId, region: &RegionRow, size_bytes: u64) -> Result<(), MountFault> {
        if let [extent] = region.extents[..] {
            self.virtual_disk(id, Vec::from([(region.lender, extent.disk)]), size_bytes);
        } else {
            let leaves = self.leaves(&[region])?;
            self.on_parts(id, &[region.lender], size_bytes, Shape::Concatenation(leaves));
        }
        Ok(())
    }

    fn on_regions(&mut self, regions: &[&RegionRow], bytes: u64) -> Result<Vec<VolumeId>, MountFault> {
        let mut parts = Vec::new();
        for region in regions {
            let id = self.number()?;
            self.on_region(id, region, bytes)?;
            parts.push(id);
        }
        Ok(parts)
    }
}

/// The copies of a mirror as they stood, or new ones.
fn mirror(kept: Option<&Shape>, copies: &[VolumeId], seed: u64) -> MirrorShape {
    if let Some(Shape::Mirror(kept)) = kept {
        let legs = kept.legs.iter().zip(copies).map(|(leg, volume)| LegRow { volume: *volume, ..*leg });
        return MirrorShape { legs: legs.collect(), ..kept.clone() };
    }
    let leg = |(place, volume): (usize, &VolumeId)| LegRow {
        volume: *volume,
        identity: seed.wrapping_add(place as u64 + 1),
        state: if place == 0 { LegState::InSync } else { LegState::Stale },
        why: StaleReason::New,
    };
    MirrorShape { instance: seed, fresh: true, legs: copies.iter().enumerate().map(leg).collect() }
}

/// What makes the path to a volume: virtual disks on its regions, and the permission that lets its borrower
/// alone open them, there `owner` (user and group). `seed` tells a new mirror from all others.
pub fn mount(
    rows: &ClusterRows,
    loan: &LoanRow,
    owner: (u32, u32),
    seed: u64,
) -> Result<Vec<RowChange>, MountFault> {
    if loan.mounted.is_some() {
        return Err(MountFault::Mounted { name: loan.name.clone() });
    }
    let mut regions = Vec::new();
    for id in &loan.regions {
        regions.push(rows.region(*id).ok_or(MountFault::NoRegion(*id))?);
    }
    let lenders: Vec<NodeId> = regions.iter().map(|row| row.lender).collect();
    let mut maker = Maker { rows, loan, used: Vec::new(), made: Vec::new() };
    let whole = maker.number()?;
    let share = share_bytes(loan.form, loan.size_bytes, regions.len());
    match (loan.form, &regions[..]) {
        (Form::Single, [region]) => maker.on_region(whole, region, loan.size_bytes)?,
        (Form::Single | Form::Concatenated, _) => {
            let parts = maker.leaves(&regions)?;
            maker.on_parts(whole, &lenders, loan.size_bytes, Shape::Concatenation(parts));
        }
        (Form::Mirrored, _) => {
            let copies = maker.on_regions(&regions, share)?;
            let shape = Shape::Mirror(mirror(loan.kept.as_ref(), &copies, seed));
            maker.on_parts(whole, &lenders, loan.size_bytes, shape);
        }
        (Form::Split, _) => {
            let parts = maker.on_regions(&regions, share)?;
            let shape = Shape::Stripe(StripeShape { chunk_bytes: SPLIT_CHUNK_BYTES, parts });
            maker.on_parts(whole, &lenders, loan.size_bytes, shape);
        }
    }
    let mut changes = maker.made;
    changes.push(RowChange::Put(Row::Permission(PermissionRow {
        volume: whole,
        owner: owner.0,
        group: owner.1,
        mode: 0o600,
        nodes: Vec::from([loan.borrower]),
    })));
    changes.push(RowChange::Put(Row::Loan(LoanRow { mounted: Some(whole), kept: None, ..loan.clone() })));
    Ok(changes)
}

/// What takes the path away: nothing of it stays but how the copies stand.
pub fn unmount(rows: &ClusterRows, loan: &LoanRow) -> Result<Vec<RowChange>, MountFault> {
    let Some(whole) = loan.mounted else {
        return Err(MountFault::NotMounted { name: loan.name.clone() });
    };
    let mut over = Vec::from([whole]);
    let mut place = 0;
    while let Some(volume) = over.get(place).copied() {
        over.extend(rows.volume(volume).into_iter().flat_map(VolumeRow::parts));
        place += 1;
    }
    let mut changes = Vec::new();
    for volume in over {
        changes.push(RowChange::Remove(RowKey::VirtualDisk(volume)));
        changes.extend(rows.volume(volume).map(|_| RowChange::Remove(RowKey::Volume(volume))));
        changes.extend(rows.permission(volume).map(|_| RowChange::Remove(RowKey::Permission(volume))));
    }
    for server in rows.nbd.iter().filter(|server| server.exports.contains(&whole)) {
        let exports: Vec<VolumeId> = server.exports.iter().copied().filter(|one| *one != whole).collect();
        changes.push(match exports.is_empty() {
            true => RowChange::Remove(RowKey::Nbd { node: server.node, listen: server.listen.clone() }),
            false => RowChange::Put(Row::Nbd(NbdRow { exports, ..server.clone() })),
        });
    }
    let kept = rows.volume(whole).map(|row| row.shape.clone()).filter(|_| loan.form == Form::Mirrored);
    changes.push(RowChange::Put(Row::Loan(LoanRow { mounted: None, kept, ..loan.clone() })));
    Ok(changes)
}
