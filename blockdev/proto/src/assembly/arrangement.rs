//! How the bytes of one virtual disk lie on several others: one after the other, or in turns (SPEC B9).
//!
//! ```text
//! concatenation:  │ part 0 … │ part 1 … … │ part 2 │
//! stripe:         │ 0 │ 1 │ 2 │ 0 │ 1 │ 2 │ 0 │ …      a chunk each; a part's chunks follow each other
//! ```
//!
//! Either way a part holds its bytes in the order of the whole. So what a part has of any range is one range
//! of the part, a [`Share`], however many [`Fragment`]s of the whole it is made of.

use crate::errno::BlockErrno;
use crate::geometry::{BlockBytes, ByteRange};
use alloc::vec::Vec;

/// Parts of one volume at the most.
pub const PARTS_MAX: usize = 16;
/// Bytes of a chunk of a stripe at least.
pub const CHUNK_BYTES_MIN: u32 = 4 << 10;
/// Bytes of a chunk of a stripe at the most.
pub const CHUNK_BYTES_MAX: u32 = 64 << 20;
/// Bytes of a chunk of a stripe, unless somebody says otherwise.
pub const CHUNK_BYTES_USUAL: u32 = 64 << 10;

/// Why parts cannot be arranged so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrangementFault {
    /// No part, a stripe of one, or more than [`PARTS_MAX`].
    PartCount {
        /// The number found.
        found: usize,
    },
    /// The chunk is no power of two within the limits, or smaller than a block.
    Chunk {
        /// The bytes found.
        found: u32,
    },
    /// A part has no room for a single block or chunk.
    PartTooSmall {
        /// Its place.
        place: usize,
    },
    /// All of it together is larger than any disk.
    TooLarge,
}

/// What one part has of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Place of the part.
    pub place: usize,
    /// Bytes of the part.
    pub range: ByteRange,
}

/// Some bytes of a range that lie next to each other in the whole and on the part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// First byte, counted from the beginning of the range.
    pub at: u32,
    /// Number of bytes.
    pub length: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// Where each part begins in the whole, and where the last one ends.
    Concatenation {
        starts: Vec<u64>,
    },
    Stripe {
        chunk_bytes: u64,
        parts: u64,
        bytes_each: u64,
    },
}

/// Where each byte of a volume lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrangement {
    plan: Plan,
}

impl Arrangement {
    /// Parts of these sizes one after the other, each cut to whole blocks of the volume.
    pub fn concatenation(part_bytes: &[u64], block: BlockBytes) -> Result<Arrangement, ArrangementFault> {
        check_count(part_bytes.len(), 1)?;
        let mut starts = Vec::from([0u64]);
        let mut end = 0u64;
        for (place, bytes) in part_bytes.iter().enumerate() {
            let used = bytes / u64::from(block.get()) * u64::from(block.get());
            if used == 0 {
                return Err(ArrangementFault::PartTooSmall { place });
            }
            end = end.checked_add(used).ok_or(ArrangementFault::TooLarge)?;
            starts.push(end);
        }
        Ok(Arrangement { plan: Plan::Concatenation { starts } })
    }

    /// Parts of these sizes in turns; each gives as many whole chunks as the smallest has.
    pub fn stripe(
        part_bytes: &[u64],
        chunk_bytes: u32,
        block: BlockBytes,
    ) -> Result<Arrangement, ArrangementFault> {
        check_count(part_bytes.len(), 2)?;
        let is_fit = chunk_bytes.is_power_of_two()
            && (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes)
            && chunk_bytes >= block.get();
        if !is_fit {
            return Err(ArrangementFault::Chunk { found: chunk_bytes });
        }
        let chunk_bytes = u64::from(chunk_bytes);
        let smallest = part_bytes.iter().enumerate().min_by_key(|(_, bytes)| **bytes);
        let (place, bytes) = smallest.map_or((0, 0), |(place, bytes)| (place, *bytes));
        let bytes_each = bytes / chunk_bytes * chunk_bytes;
        if bytes_each == 0 {
            return Err(ArrangementFault::PartTooSmall { place });
        }
        let parts = part_bytes.len() as u64;
        bytes_each.checked_mul(parts).ok_or(ArrangementFault::TooLarge)?;
        Ok(Arrangement { plan: Plan::Stripe { chunk_bytes, parts, bytes_each } })
    }

    /// Bytes that the parts hold together.
    pub fn capacity(&self) -> u64 {
        match &self.plan {
            Plan::Concatenation { starts } => starts.last().copied().unwrap_or(0),
            Plan::Stripe { parts, bytes_each, .. } => parts * bytes_each,
        }
    }

    /// Number of parts.
    pub fn parts(&self) -> usize {
        match &self.plan {
            Plan::Concatenation { starts } => starts.len() - 1,
            Plan::Stripe { parts, .. } => *parts as usize,
        }
    }

    /// Whether every byte of the range lies on some part.
    pub fn covers(&self, range: ByteRange) -> bool {
        range.offset.checked_add(u64::from(range.length)).is_some_and(|end| end <= self.capacity())
    }

    /// How many of the first `bytes` bytes of the whole lie on the part in this place.
    fn below(&self, place: usize, bytes: u64) -> u64 {
        match &self.plan {
            Plan::Concatenation { starts } => {
                let (Some(start), Some(end)) = (starts.get(place), starts.get(place + 1)) else { return 0 };
                bytes.min(*end).saturating_sub(*start)
            }
            Plan::Stripe { chunk_bytes, parts, .. } => {
                let row_bytes = chunk_bytes * parts;
                let in_row = (bytes % row_bytes).saturating_sub(place as u64 * chunk_bytes);
                bytes / row_bytes * chunk_bytes + in_row.min(*chunk_bytes)
            }
        }
    }

    /// Where a byte of a part lies in the whole, and where what follows it on the part lies elsewhere.
    fn above(&self, place: usize, byte: u64) -> (u64, u64) {
        match &self.plan {
            Plan::Concatenation { starts } => (starts.get(place).copied().unwrap_or(0) + byte, u64::MAX),
            Plan::Stripe { chunk_bytes, parts, .. } => {
                let row = byte / chunk_bytes;
                let start = (row * parts + place as u64) * chunk_bytes;
                (start + byte % chunk_bytes, (row + 1) * chunk_bytes)
            }
        }
    }

    /// What the part in this place has of a range that is covered.
    pub fn share(&self, place: usize, range: ByteRange) -> Option<Share> {
        let (first, end) = (self.below(place, range.offset), self.below(place, range.end()));
        let length = u32::try_from(end - first).ok().filter(|length| *length > 0)?;
        Some(Share { place, range: ByteRange::new(first, length) })
    }

    /// What each part has of a range that is covered; parts that have nothing of it are left out.
    pub fn shares(&self, range: ByteRange) -> impl Iterator<Item = Share> + '_ {
        (0..self.parts()).filter_map(move |place| self.share(place, range))
    }

    /// What a part's share is made of, in the order of the part.
    pub fn fragments(&self, place: usize, range: ByteRange) -> impl Iterator<Item = Fragment> + '_ {
        let share = self.share(place, range).map_or(ByteRange::EMPTY, |share| share.range);
        let mut next = share.offset;
        core::iter::from_fn(move || {
            if next >= share.end() {
                return None;
            }
            let (whole, turn) = self.above(place, next);
            let length = (share.end().min(turn) - next) as u32;
            next += u64::from(length);
            Some(Fragment { at: (whole - range.offset) as u32, length })
        })
    }

    /// The bytes of a part's share, out of those of the range.
    pub fn gather(&self, place: usize, range: ByteRange, whole: &[u8]) -> Vec<u8> {
        let mut share = Vec::new();
        for Fragment { at, length } in self.fragments(place, range) {
            let bytes = whole.get(at as usize..).and_then(|rest| rest.get(..length as usize));
            share.extend_from_slice(bytes.unwrap_or_default());
        }
        share
    }

    /// Puts the bytes of a part's share where they belong among those of the range. `false`: there are not
    /// as many as there should be.
    pub fn scatter(&self, place: usize, range: ByteRange, share: &[u8], whole: &mut [u8]) -> bool {
        let mut rest = share;
        for Fragment { at, length } in self.fragments(place, range) {
            let target = whole.get_mut(at as usize..).and_then(|rest| rest.get_mut(..length as usize));
            let (Some(target), Some((bytes, after))) = (target, rest.split_at_checked(length as usize))
            else {
                return false;
            };
            target.copy_from_slice(bytes);
            rest = after;
        }
        rest.is_empty()
    }
}

fn check_count(found: usize, least: usize) -> Result<(), ArrangementFault> {
    match (least..=PARTS_MAX).contains(&found) {
        true => Ok(()),
        false => Err(ArrangementFault::PartCount { found }),
    }
}

/// What a client hears when this part failed so and others so before: that a disk failed rather than that a
/// request did not fit, else the first that was heard of.
pub fn combined(before: Option<BlockErrno>, errno: BlockErrno) -> BlockErrno {
    match before {
        Some(before) if before.means_broken_path() || !errno.means_broken_path() => before,
        _ => errno,
    }
}

#[cfg(test)]
mod tests;
