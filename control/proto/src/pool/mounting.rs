//! The rows that make a path to a lent volume, and those that take it away again.

use super::placement::share_bytes;
use super::{Form, LOAN_BLOCK, LoanRow, RegionId, RegionRow, RegionState, SPLIT_CHUNK_BYTES, whole_blocks};
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
    /// It is no mirror.
    NoCopies {
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
            MountFault::NoCopies { name } => {
                write!(f, "{name} has no copies, so none can be moved: release it, and borrow another")
            }
            MountFault::NoRegion(region) => {
                write!(f, "region {} is none of the volume: see netdisk pool table", region.0)
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
    /// The virtual disk that the borrower opens, if it is among those that are made.
    whole: Option<VolumeId>,
    parts: usize,
    made: Vec<RowChange>,
}

impl<'r> Maker<'r> {
    fn new(rows: &'r ClusterRows, loan: &'r LoanRow) -> Maker<'r> {
        Maker { rows, loan, used: Vec::new(), whole: None, parts: 0, made: Vec::new() }
    }

    fn number(&mut self) -> Result<VolumeId, MountFault> {
        let taken = |id: &VolumeId| self.used.contains(id) || self.rows.virtual_disk(*id).is_some();
        let free = (0..VOLUMES_MAX as u32).map(VolumeId).find(|id| !taken(id));
        let free = free.ok_or(MountFault::NoNumber)?;
        self.used.push(free);
        Ok(free)
    }

    /// The name of the next part.
    fn part_name(&mut self) -> String {
        loop {
            self.parts += 1;
            let name = format!("{}.{}", self.loan.name, self.parts);
            if self.rows.virtual_disk_named(&name).is_none() {
                return name;
            }
        }
    }

    fn virtual_disk(&mut self, id: VolumeId, candidates: Vec<(NodeId, DiskId)>, size_bytes: u64) -> VolumeId {
        let name = if self.whole == Some(id) { self.loan.name.clone() } else { self.part_name() };
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
        self.made.push(RowChange::Put(Row::Volume(VolumeRow { volume: id, shape })));
        self.virtual_disk(id, serving(lenders), size_bytes)
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

/// Lenders, each once, as those who serve a volume on parts.
fn serving(lenders: &[NodeId]) -> Vec<(NodeId, DiskId)> {
    let mut candidates: Vec<(NodeId, DiskId)> = Vec::new();
    for lender in lenders {
        if !candidates.contains(&(*lender, DiskId::PARTS)) && candidates.len() < CANDIDATES_MAX {
            candidates.push((*lender, DiskId::PARTS));
        }
    }
    candidates
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
    let mut maker = Maker::new(rows, loan);
    let whole = maker.number()?;
    maker.whole = Some(whole);
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

/// Takes virtual disks away: this one, and all that it lies on.
fn take_down(rows: &ClusterRows, whole: VolumeId) -> Vec<RowChange> {
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
    changes
}

/// The virtual disk of a mirrored volume that is mounted, and its copies.
fn mirror_of<'r>(
    rows: &'r ClusterRows,
    loan: &LoanRow,
) -> Result<(&'r VirtualDiskRow, &'r MirrorShape), MountFault> {
    let whole = loan.mounted.and_then(|volume| rows.virtual_disk(volume));
    let whole = whole.ok_or_else(|| MountFault::NotMounted { name: loan.name.clone() })?;
    let mirror = rows.volume(whole.id).and_then(VolumeRow::mirror);
    Ok((whole, mirror.ok_or_else(|| MountFault::NoCopies { name: loan.name.clone() })?))
}

/// One more copy of a mounted volume, on a free region: it is copied to while the borrower goes on.
pub fn widen(
    rows: &ClusterRows,
    loan: &LoanRow,
    region: RegionId,
    seed: u64,
) -> Result<Vec<RowChange>, MountFault> {
    let (whole, mirror) = mirror_of(rows, loan)?;
    let region = rows.region(region).ok_or(MountFault::NoRegion(region))?;
    let mut maker = Maker::new(rows, loan);
    let volume = maker.number()?;
    let share = share_bytes(loan.form, loan.size_bytes, loan.regions.len());
    maker.on_region(volume, region, share)?;
    let mut changes = maker.made;
    let mut legs = mirror.legs.clone();
    legs.push(LegRow { volume, identity: seed, state: LegState::Stale, why: StaleReason::New });
    let shape = Shape::Mirror(MirrorShape { legs, ..mirror.clone() });
    changes.push(RowChange::Put(Row::Volume(VolumeRow { volume: whole.id, shape })));
    let state = RegionState::Lent(loan.id);
    changes.push(RowChange::Put(Row::Region(RegionRow { state, ..region.clone() })));
    let mut regions = loan.regions.clone();
    regions.push(region.id);
    changes.push(RowChange::Put(Row::Loan(LoanRow { regions, ..loan.clone() })));
    Ok(changes)
}

/// The copy on one region goes, and the region is erased; what is left serves the volume.
pub fn narrow(rows: &ClusterRows, loan: &LoanRow, region: RegionId) -> Result<Vec<RowChange>, MountFault> {
    let (whole, mirror) = mirror_of(rows, loan)?;
    let gone = rows.region(region).ok_or(MountFault::NoRegion(region))?;
    let place = loan.regions.iter().position(|id| *id == region).ok_or(MountFault::NoRegion(region))?;
    let mut legs = mirror.legs.clone();
    if place >= legs.len() {
        return Err(MountFault::NoRegion(region));
    }
    let leg = legs.remove(place);
    let mut changes = take_down(rows, leg.volume);
    let shape = Shape::Mirror(MirrorShape { legs, ..mirror.clone() });
    changes.push(RowChange::Put(Row::Volume(VolumeRow { volume: whole.id, shape })));
    let regions: Vec<RegionId> = loan.regions.iter().copied().filter(|id| *id != region).collect();
    let lenders: Vec<NodeId> =
        regions.iter().filter_map(|id| rows.region(*id)).map(|row| row.lender).collect();
    let candidates = serving(&lenders);
    if candidates != whole.candidates {
        changes.push(RowChange::Put(Row::VirtualDisk(VirtualDiskRow { candidates, ..whole.clone() })));
    }
    let state = RegionState::Erasing;
    changes.push(RowChange::Put(Row::Region(RegionRow { state, ..gone.clone() })));
    changes.push(RowChange::Put(Row::Loan(LoanRow { regions, ..loan.clone() })));
    Ok(changes)
}

/// What takes the path away: nothing of it stays but how the copies stand.
pub fn unmount(rows: &ClusterRows, loan: &LoanRow) -> Result<Vec<RowChange>, MountFault> {
    let Some(whole) = loan.mounted else {
        return Err(MountFault::NotMounted { name: loan.name.clone() });
    };
    let mut changes = take_down(rows, whole);
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
