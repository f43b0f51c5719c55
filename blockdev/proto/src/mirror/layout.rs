//! What a mirror is made of, as the configuration says, and where its records lie on each copy.
//!
//! ```text
//! a leg:  │ data, as large as the mirror │ header │ map block │ map block │ …        (4 KiB each)
//! ```

use crate::geometry::{BlockBytes, VolumeId};

/// Copies of one mirror at the most.
pub const LEGS_MAX: usize = 4;
/// Bytes of a header or map block.
pub const RECORD_BYTES: u32 = 4096;
/// Bytes of a map block that are bits.
pub(super) const MAP_BYTES: usize = RECORD_BYTES as usize - super::record::HEAD_BYTES;
/// Regions of one map block.
pub(super) const MAP_REGIONS: u64 = MAP_BYTES as u64 * 8;
/// A region is no smaller; what is copied in one piece.
pub const REGION_BYTES_MIN: u32 = 64 << 10;
/// A region is no larger, so that it is copied in one piece.
pub const REGION_BYTES_MAX: u32 = 1 << 20;
/// Regions of a mirror, as long as none has to be larger than [`REGION_BYTES_MAX`]: 2 MiB of map.
const REGIONS_WANTED: u64 = 1 << 24;

/// Whether a copy is what the mirror is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LegState {
    /// It has every acknowledged write.
    InSync,
    /// It missed writes, or may have: never read, until it was copied to.
    Stale,
}

/// One copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leg {
    /// The virtual disk that it lies on.
    pub volume: VolumeId,
    /// Tells this leg from every other one of this mirror, also from one that lay on the same virtual disk
    /// before: what was written since that one was taken out is marked nowhere.
    pub identity: u64,
    /// Whether it may be read.
    pub state: LegState,
}

/// A mirror as the configuration sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The virtual disk that clients see.
    pub volume: VolumeId,
    /// Bytes that clients see.
    pub size_bytes: u64,
    /// Block that clients see; the legs have no larger one.
    pub block_bytes: BlockBytes,
    /// Tells this mirror from every other one that ever lay on the same legs.
    pub instance: u64,
    /// The newest of its rows has the highest.
    pub generation: u64,
    /// Nothing was ever written through it: its first in-sync leg has data, perhaps, and no records.
    pub fresh: bool,
    /// The copies, `None` after the last.
    pub legs: [Option<Leg>; LEGS_MAX],
}

/// Bytes of one region of a mirror of this size: a power of two.
pub const fn region_bytes(size_bytes: u64) -> u32 {
    let mut bytes = REGION_BYTES_MIN;
    while bytes < REGION_BYTES_MAX && size_bytes / (bytes as u64) > REGIONS_WANTED {
        bytes *= 2;
    }
    bytes
}

/// Where the header lies on a leg: after the data.
pub(super) const fn header_offset(size_bytes: u64) -> u64 {
    size_bytes.next_multiple_of(RECORD_BYTES as u64)
}

const fn regions(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(region_bytes(size_bytes) as u64)
}

/// Map blocks of a mirror of this size.
pub(super) const fn map_blocks(size_bytes: u64) -> u64 {
    regions(size_bytes).div_ceil(MAP_REGIONS)
}

/// Bytes that a leg of a mirror of this size needs. `None`: no disk is so large.
pub const fn leg_bytes(size_bytes: u64) -> Option<u64> {
    if size_bytes > u64::MAX / 2 {
        return None;
    }
    Some(header_offset(size_bytes) + (1 + map_blocks(size_bytes)) * RECORD_BYTES as u64)
}

impl Layout {
    /// Bytes of one region.
    pub fn region_bytes(&self) -> u32 {
        region_bytes(self.size_bytes)
    }

    /// Regions of the mirror.
    pub fn regions(&self) -> u64 {
        regions(self.size_bytes)
    }

    pub(super) fn map_blocks(&self) -> u64 {
        map_blocks(self.size_bytes)
    }

    pub(super) fn header_offset(&self) -> u64 {
        header_offset(self.size_bytes)
    }

    pub(super) fn map_offset(&self, block: u64) -> u64 {
        self.header_offset() + (1 + block) * u64::from(RECORD_BYTES)
    }

    /// The copies.
    pub fn legs(&self) -> impl Iterator<Item = &Leg> {
        self.legs.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: B10
    #[test]
    fn the_map_of_a_large_mirror_stays_small() {
        assert_eq!(region_bytes(1 << 30), 64 << 10);
        assert_eq!(region_bytes(1 << 40), 64 << 10);
        assert_eq!(region_bytes(16 << 40), 1 << 20);
        assert_eq!(region_bytes(1 << 50), 1 << 20);
        let of_a_tebibyte = leg_bytes(1 << 40).expect("fits") - (1 << 40);
        assert!(of_a_tebibyte < 3 << 20, "{of_a_tebibyte} bytes of records");
        assert_eq!(leg_bytes(4096), Some(4096 + 8192));
        assert_eq!(leg_bytes(512), Some(4096 + 8192));
        assert_eq!(leg_bytes(u64::MAX), None);
    }
}
