//! The pool of spare storage (SPEC M1 to M8): regions that nodes lend, and the volumes that are lent on them.
//!
//! A region is one disk of its lender, or several as one. It goes round:
//! ```text
//! registered ─► erasing ─► free ─► lent ─► erasing ─► …       (and out of the pool, when it is not lent)
//! ```
//! Only the lender, when every byte of it is zero and durable, makes it free
//! ([`crate::ccd::Change::Erased`]), and only what is free is lent. A loan is one row, and comes with the new
//! state of its regions in one change, so there is no half of it that a crash could leave behind. While a
//! loan is mounted there are virtual disks on its regions; at any other time there are none, and nothing can
//! be opened. What must hold of the rows is in `rules/pool.rs`, which steps rows may take is in
//! `ccd/pool.rs`.

mod mounting;
mod placement;

pub use mounting::{MountFault, mount, narrow, unmount, widen};
pub(crate) use placement::share_bytes;
pub use placement::{NoRoom, Wanted, place};

use crate::codec::coded;
use crate::rows::{ClusterRows, Shape};
use alloc::string::String;
use alloc::vec::Vec;
use blockdev_proto::geometry::{BlockBytes, DiskId, VolumeId};
use core::fmt;
use transport_proto::identity::NodeId;

/// Regions of one cluster at the most, and loans.
pub const REGIONS_MAX: usize = 4096;
/// Disks that are one region at the most.
pub const EXTENTS_MAX: usize = 8;
/// Bytes of the name of a loan at the most: its parts are called after it.
pub const LOAN_NAME_BYTES_MAX: usize = 32;
/// Block of every volume that is lent.
pub const LOAN_BLOCK: BlockBytes = BlockBytes::USUAL;
/// Bytes of one turn of a split volume.
pub const SPLIT_CHUNK_BYTES: u32 = 64 << 10;

/// Number of a region, cluster-unique.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(pub u32);

/// Number of a loan, cluster-unique.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoanId(pub u32);

/// What a region may be used for (SPEC M3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A volume of its own.
    Single,
    /// Some of a volume, one region after the other.
    Concatenated,
    /// A copy of a volume; each on another node.
    Mirrored,
    /// Some of a volume, the regions in turns.
    Split,
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 4] = [Form::Single, Form::Concatenated, Form::Mirrored, Form::Split];

    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Form::Single => "single",
            Form::Concatenated => "concatenated",
            Form::Mirrored => "mirrored",
            Form::Split => "split",
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What becomes of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegionState {
    /// Its lender overwrites it with zeroes.
    Erasing,
    /// It is zero, and may be lent.
    Free,
    /// It is lent.
    Lent(LoanId),
}

/// A disk of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The disk; nobody but its lender reaches it.
    pub disk: DiskId,
    /// Bytes of it that may be lent.
    pub size_bytes: u64,
}

/// Spare storage of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionRow {
    /// Number.
    pub id: RegionId,
    /// Name for people.
    pub name: String,
    /// Whose it is.
    pub lender: NodeId,
    /// What it is made of, one after the other.
    pub extents: Vec<Extent>,
    /// What it may be used for.
    pub form: Form,
    /// It is not to be lent again.
    pub drained: bool,
    /// What becomes of it. Made [`RegionState::Free`] by its lender alone.
    pub state: RegionState,
}

impl RegionRow {
    /// Bytes that may be lent, in whole blocks of each disk.
    pub fn size_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| whole_blocks(extent.size_bytes)).fold(0, u64::saturating_add)
    }

    /// The loan that it is lent for.
    pub fn loan(&self) -> Option<LoanId> {
        match self.state {
            RegionState::Lent(loan) => Some(loan),
            RegionState::Erasing | RegionState::Free => None,
        }
    }

    /// Whether it may be lent now.
    pub fn is_free(&self) -> bool {
        self.state == RegionState::Free && !self.drained
    }
}

fn whole_blocks(bytes: u64) -> u64 {
    bytes - bytes % u64::from(LOAN_BLOCK.get())
}

/// A volume that is lent to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoanRow {
    /// Number.
    pub id: LoanId,
    /// Its name, by which the borrower opens it.
    pub name: String,
    /// The one node that may use it.
    pub borrower: NodeId,
    /// How it lies on its regions.
    pub form: Form,
    /// Bytes that the borrower sees.
    pub size_bytes: u64,
    /// Copies that a mirrored one is to have, 1 of any other form.
    pub copies: u8,
    /// On what it lies, in this order; one more than there are to be copies while one moves.
    pub regions: Vec<RegionId>,
    /// While it is mounted, its virtual disk.
    pub mounted: Option<VolumeId>,
    /// Of one that is not mounted, how its copies stood when it was last. Numbers of virtual disks in it mean
    /// nothing any more.
    pub kept: Option<Shape>,
}

impl ClusterRows {
    /// The row of a region.
    pub fn region(&self, id: RegionId) -> Option<&RegionRow> {
        self.regions.binary_search_by_key(&id, |row| row.id).ok().and_then(|place| self.regions.get(place))
    }

    /// The region that a disk is part of.
    pub fn region_on(&self, disk: DiskId) -> Option<&RegionRow> {
        self.regions.iter().find(|row| row.extents.iter().any(|extent| extent.disk == disk))
    }

    /// The row of a loan.
    pub fn loan(&self, id: LoanId) -> Option<&LoanRow> {
        self.loans.binary_search_by_key(&id, |row| row.id).ok().and_then(|place| self.loans.get(place))
    }

    /// The loan of this name.
    pub fn loan_named(&self, name: &str) -> Option<&LoanRow> {
        self.loans.iter().find(|row| row.name == name)
    }

    /// The loan that a virtual disk is, or is part of.
    pub fn loan_over(&self, volume: VolumeId) -> Option<&LoanRow> {
        self.loans.iter().find(|row| {
            let is_below = |whole: VolumeId| {
                self.whole_of(volume).is_some_and(|over| {
                    over.volume == whole || self.whole_of(over.volume).is_some_and(|top| top.volume == whole)
                })
            };
            row.mounted.is_some_and(|whole| whole == volume || is_below(whole))
        })
    }

    /// Disks below a virtual disk, in order.
    pub fn disks_below(&self, volume: VolumeId) -> Vec<DiskId> {
        let parts = |volume| self.volume(volume).map(|row| row.parts().collect::<Vec<_>>());
        let leaves = match parts(volume) {
            None => Vec::from([volume]),
            // No more than two storeys are allowed.
            Some(below) => {
                below.into_iter().flat_map(|part| parts(part).unwrap_or_else(|| Vec::from([part]))).collect()
            }
        };
        let disk = |leaf: VolumeId| self.virtual_disk(leaf).and_then(|row| row.candidates.first());
        leaves.into_iter().filter_map(|leaf| disk(leaf).map(|(_, disk)| *disk)).collect()
    }
}

coded! {
    newtype RegionId
    newtype LoanId
}
coded! {
    struct Extent { disk, size_bytes }
    struct RegionRow { id, name, lender, extents, form, drained, state }
    struct LoanRow { id, name, borrower, form, size_bytes, copies, regions, mounted, kept }
}
coded! {
    enum Form { 1 = Single, 2 = Concatenated, 3 = Mirrored, 4 = Split }
    enum RegionState { 1 = Erasing, 2 = Free, 3 = Lent(loan) }
}
