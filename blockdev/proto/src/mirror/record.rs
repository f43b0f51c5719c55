//! What a mirror writes on each of its legs beside the data: a header, and the blocks of the map of regions.
//! Each is one 4 KiB block with a checksum of its own, so that a torn one is known as such.

use super::layout::{Layout, MAP_BYTES, MAP_REGIONS, RECORD_BYTES};
use super::regions::RegionSet;
use crate::checksum::crc32c;
use alloc::vec::Vec;
use transport_proto::identity::{Epoch, Incarnation};

/// Bytes before the bits.
pub(super) const HEAD_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"ndmirror";
const VERSION: u16 = 1;
const KIND_HEADER: u16 = 1;
const KIND_MAP: u16 = 2;
const CRC_AT: usize = 60;

/// Why a record cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// There is none: the medium was replaced, or it is memory that was lost.
    Missing,
    /// The checksum does not fit, or it is of another kind or place.
    Damaged,
    /// It is of a version that this release does not know.
    Version {
        /// The version found.
        found: u16,
    },
    /// It is another mirror's.
    Foreign,
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

fn record(layout: &Layout, kind: u16, index: u32, epoch: Epoch) -> Vec<u8> {
    let mut bytes = alloc::vec![0; RECORD_BYTES as usize];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[10..12].copy_from_slice(&kind.to_le_bytes());
    bytes[12..16].copy_from_slice(&index.to_le_bytes());
    bytes[16..24].copy_from_slice(&layout.instance.to_le_bytes());
    bytes[24..32].copy_from_slice(&epoch.0.to_le_bytes());
    bytes[32..40].copy_from_slice(&layout.size_bytes.to_le_bytes());
    bytes[40..44].copy_from_slice(&layout.region_bytes().to_le_bytes());
    bytes
}

fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32c(&bytes);
    bytes[CRC_AT..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn check(layout: &Layout, kind: u16, index: u32, bytes: &[u8]) -> Result<(), RecordFault> {
    if bytes.len() != RECORD_BYTES as usize {
        return Err(RecordFault::Damaged);
    }
    if &bytes[..8] != MAGIC {
        return Err(RecordFault::Missing);
    }
    let found = u16::from_le_bytes(at(bytes, 8));
    if found != VERSION {
        return Err(RecordFault::Version { found });
    }
    let mut blank = bytes.to_vec();
    blank[CRC_AT..HEAD_BYTES].fill(0);
    if crc32c(&blank) != u32::from_le_bytes(at(bytes, CRC_AT)) {
        return Err(RecordFault::Damaged);
    }
    let is_ours = u64::from_le_bytes(at(bytes, 16)) == layout.instance
        && u64::from_le_bytes(at(bytes, 32)) == layout.size_bytes
        && u32::from_le_bytes(at(bytes, 40)) == layout.region_bytes();
    if !is_ours {
        return Err(RecordFault::Foreign);
    }
    let in_place = u16::from_le_bytes(at(bytes, 10)) == kind && u32::from_le_bytes(at(bytes, 12)) == index;
    if in_place { Ok(()) } else { Err(RecordFault::Damaged) }
}

/// A header: the leg of this identity was in sync when the mirror was opened at this number, and whoever
/// served the leg then lived this life.
pub(super) fn header(layout: &Layout, identity: u64, epoch: Epoch, life: Incarnation) -> Vec<u8> {
    let mut bytes = record(layout, KIND_HEADER, 0, epoch);
    bytes[44..52].copy_from_slice(&identity.to_le_bytes());
    bytes[52..60].copy_from_slice(&life.0.to_le_bytes());
    seal(bytes)
}

/// The number and the life in a header.
pub(super) fn read_header(
    layout: &Layout,
    identity: u64,
    bytes: &[u8],
) -> Result<(Epoch, Incarnation), RecordFault> {
    check(layout, KIND_HEADER, 0, bytes)?;
    if u64::from_le_bytes(at(bytes, 44)) != identity {
        return Err(RecordFault::Foreign);
    }
    Ok((Epoch(u64::from_le_bytes(at(bytes, 24))), Incarnation(u64::from_le_bytes(at(bytes, 52)))))
}

/// A block of the map.
pub(super) fn map_block(layout: &Layout, block: u64, regions: &RegionSet) -> Vec<u8> {
    let mut bytes = record(layout, KIND_MAP, block as u32, Epoch(0));
    let first = block * MAP_REGIONS;
    let mut next = regions.first_from(first);
    while let Some(region) = next.filter(|region| *region < first + MAP_REGIONS) {
        let bit = (region - first) as usize;
        bytes[HEAD_BYTES + bit / 8] |= 1 << (bit % 8);
        next = regions.first_from(region + 1);
    }
    seal(bytes)
}

/// Puts the regions of a map block into `out`. Of a block that cannot be read, all of them: doubt costs
/// copying, never data.
pub(super) fn read_map_block(
    layout: &Layout,
    block: u64,
    bytes: &[u8],
    out: &mut RegionSet,
) -> Result<(), RecordFault> {
    let checked = check(layout, KIND_MAP, block as u32, bytes);
    let first = block * MAP_REGIONS;
    let last = (first + MAP_REGIONS).min(out.length());
    for region in first..last {
        let bit = (region - first) as usize;
        if checked.is_err() || bytes[HEAD_BYTES + bit / 8] >> (bit % 8) & 1 == 1 {
            out.insert(region);
        }
    }
    checked
}

const _: () = assert!(HEAD_BYTES + MAP_BYTES == RECORD_BYTES as usize);

#[cfg(test)]
mod tests {
    use super::super::layout::LEGS_MAX;
    use super::*;
    use crate::geometry::{BlockBytes, VolumeId};
    use proptest::prelude::*;

    fn layout() -> Layout {
        Layout {
            volume: VolumeId(3),
            size_bytes: 8 << 30,
            block_bytes: BlockBytes::USUAL,
            instance: 77,
            generation: 1,
            fresh: false,
            legs: [None; LEGS_MAX],
        }
    }

    proptest! {
        // proves: B10
        #[test]
        fn a_map_is_read_as_it_was_written_and_doubt_sets_all_bits(
            regions in proptest::collection::btree_set(0u64..(8 << 30) / (64 << 10), 0..50),
            bit in 0usize..4096 * 8,
        ) {
            let layout = layout();
            let mut set = RegionSet::none(layout.regions());
            regions.iter().for_each(|region| set.insert(*region));
            let mut back = RegionSet::none(layout.regions());
            for block in 0..layout.map_blocks() {
                let bytes = map_block(&layout, block, &set);
                prop_assert_eq!(read_map_block(&layout, block, &bytes, &mut back), Ok(()));
            }
            prop_assert_eq!(&back, &set);
            let mut bytes = map_block(&layout, 1, &set);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut doubted = RegionSet::none(layout.regions());
            prop_assert!(read_map_block(&layout, 1, &bytes, &mut doubted).is_err());
            let of_block = layout.regions().min(2 * MAP_REGIONS) - MAP_REGIONS;
            prop_assert_eq!(doubted.count(), of_block);
        }
    }

    // proves: B10
    #[test]
    fn a_header_of_another_mirror_or_of_none_is_told_apart() {
        let layout = layout();
        let bytes = header(&layout, 5, Epoch(9), Incarnation(8));
        assert_eq!(read_header(&layout, 5, &bytes), Ok((Epoch(9), Incarnation(8))));
        assert_eq!(read_header(&layout, 6, &bytes), Err(RecordFault::Foreign));
        let other = Layout { instance: 78, ..layout };
        assert_eq!(read_header(&other, 5, &bytes), Err(RecordFault::Foreign));
        assert_eq!(read_header(&layout, 5, &[0; 4096]), Err(RecordFault::Missing));
        assert_eq!(read_header(&layout, 5, &bytes[..100]), Err(RecordFault::Damaged));
        let map = map_block(&layout, 0, &RegionSet::none(layout.regions()));
        assert_eq!(read_header(&layout, 5, &map), Err(RecordFault::Damaged));
    }
}
