//! The superblock: who this disk is and the fencing epoch it has seen. Layout and choice of slot; no I/O.
//!
//! The disk ends with a tail of [`TAIL_BYTES`], which clients never see. It holds two slots of one page, far
//! enough apart that one torn or lost write hits one of them at most. Little-endian:
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic `NETDISK\0` |
//! | 8 | 4 | format version; magic, version and CRC stay where they are in every version |
//! | 12 | 4 | block bytes |
//! | 16 | 16 | uuid |
//! | 32 | 8 | data bytes |
//! | 40 | 8 | epoch |
//! | 48 | 8 | generation: rises with every write of a slot |
//! | 4092 | 4 | CRC32C of everything before |

use std::fmt;

/// Bytes at the end of a disk that belong to netdisk.
pub const TAIL_BYTES: u64 = 64 << 10;
/// Bytes of one slot.
pub(crate) const SLOT_BYTES: usize = 4096;
/// Where the slots lie, from the start of the tail.
pub(crate) const SLOT_OFFSETS: [u64; 2] = [0, TAIL_BYTES / 2];
/// The version that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"NETDISK\0";
const CRC_AT: usize = SLOT_BYTES - 4;

/// The identity of a disk, given when the disk is formatted: the cluster's part and the disk's number in it,
/// as the caller composes them, so that a disk of another cluster with the same number is told apart.
/// Printed as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskUuid(pub u128);

impl fmt::Display for DiskUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for DiskUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskUuid({self})")
    }
}

/// What a superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Who this disk is.
    pub uuid: DiskUuid,
    /// Bytes that clients can address.
    pub data_bytes: u64,
    /// Logical block in bytes.
    pub block_bytes: u32,
    /// The highest fencing epoch made durable.
    pub epoch: u64,
    /// Rises with every write of a slot; the higher one is the newer.
    pub generation: u64,
}

/// Why the superblock of a disk cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SuperblockFault {
    /// No slot has the magic.
    Absent,
    /// A slot has the magic, but none has a valid sum and sensible sizes.
    Damaged,
    /// A later netdisk wrote it.
    Newer {
        /// Its version.
        version: u32,
    },
}

/// One slot in memory, aligned for direct I/O.
#[derive(Clone)]
#[repr(C, align(4096))]
pub(crate) struct SlotImage(pub(crate) [u8; SLOT_BYTES]);

impl SlotImage {
    pub(crate) const fn zeroed() -> Self {
        Self([0; SLOT_BYTES])
    }

    fn u32_at(&self, at: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.0[at..at + 4]);
        u32::from_le_bytes(word)
    }

    fn u64_at(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.0[at..at + 8]);
        u64::from_le_bytes(word)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Superblock {
    /// The bytes of a slot.
    pub(crate) fn encode(&self) -> SlotImage {
        let mut slot = SlotImage::zeroed();
        slot.put(0, &MAGIC);
        slot.put(8, &FORMAT_VERSION.to_le_bytes());
        slot.put(12, &self.block_bytes.to_le_bytes());
        slot.put(16, &self.uuid.0.to_le_bytes());
        slot.put(32, &self.data_bytes.to_le_bytes());
        slot.put(40, &self.epoch.to_le_bytes());
        slot.put(48, &self.generation.to_le_bytes());
        let sum = crc32c::crc32c(&slot.0[..CRC_AT]);
        slot.put(CRC_AT, &sum.to_le_bytes());
        slot
    }

    /// Reads one slot.
    pub(crate) fn decode(slot: &SlotImage) -> Result<Self, SuperblockFault> {
        if slot.0[..8] != MAGIC {
            return Err(SuperblockFault::Absent);
        }
        if slot.u32_at(CRC_AT) != crc32c::crc32c(&slot.0[..CRC_AT]) {
            return Err(SuperblockFault::Damaged);
        }
        let version = slot.u32_at(8);
        if version > FORMAT_VERSION {
            return Err(SuperblockFault::Newer { version });
        }
        let uuid = DiskUuid(u128::from(slot.u64_at(16)) | u128::from(slot.u64_at(24)) << 64);
        let superblock = Self {
            uuid,
            data_bytes: slot.u64_at(32),
            block_bytes: slot.u32_at(12),
            epoch: slot.u64_at(40),
            generation: slot.u64_at(48),
        };
        let sensible = crate::geometry::sizes_fit(superblock.data_bytes, superblock.block_bytes);
        if sensible { Ok(superblock) } else { Err(SuperblockFault::Damaged) }
    }

    /// Picks the newer valid slot; gives it and its index.
    /// One torn or damaged slot falls back to the other; a slot of a later version forbids any use.
    pub(crate) fn pick(slots: &[SlotImage; 2]) -> Result<(Self, usize), SuperblockFault> {
        match [Self::decode(&slots[0]), Self::decode(&slots[1])] {
            [Err(newer @ SuperblockFault::Newer { .. }), _]
            | [_, Err(newer @ SuperblockFault::Newer { .. })] => Err(newer),
            [Ok(first), Ok(second)] if second.generation > first.generation => Ok((second, 1)),
            [Ok(first), _] => Ok((first, 0)),
            [_, Ok(second)] => Ok((second, 1)),
            [Err(SuperblockFault::Damaged), _] | [_, Err(SuperblockFault::Damaged)] => {
                Err(SuperblockFault::Damaged)
            }
            [Err(SuperblockFault::Absent), Err(SuperblockFault::Absent)] => Err(SuperblockFault::Absent),
        }
    }
}

/// Where the tail starts on a disk of `disk_bytes`; `None` when the disk cannot hold one.
pub(crate) fn tail_offset(disk_bytes: u64) -> Option<u64> {
    (disk_bytes / SLOT_BYTES as u64 * SLOT_BYTES as u64).checked_sub(TAIL_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(epoch: u64, generation: u64) -> Superblock {
        Superblock {
            uuid: DiskUuid(0x1234 << 100 | 7),
            data_bytes: 1 << 20,
            block_bytes: 512,
            epoch,
            generation,
        }
    }

    #[test]
    fn a_slot_says_what_was_written_into_it() {
        let written = superblock(9, 4);
        assert_eq!(Superblock::decode(&written.encode()), Ok(written));
    }

    /// A torn write leaves any byte range of the new slot beside the old content of the same slot.
    // proves: B5
    #[test]
    fn every_torn_write_of_the_newer_slot_leaves_the_old_epoch_or_the_new_one() {
        let (older, current, next) = (superblock(5, 1), superblock(6, 2), superblock(7, 3));
        let (before, after) = (older.encode(), next.encode());
        for start in 0..SLOT_BYTES {
            for end in [start + 1, start + 4, start + 64, start + 512, SLOT_BYTES] {
                let end = end.min(SLOT_BYTES);
                let mut torn = before.clone();
                torn.0[start..end].copy_from_slice(&after.0[start..end]);
                let (picked, _) = Superblock::pick(&[torn, current.encode()]).expect("one slot is whole");
                assert!(picked == current || picked == next, "torn {start}..{end} gave {picked:?}");
            }
        }
    }

    #[test]
    fn any_flipped_byte_makes_the_slot_useless_and_the_other_one_is_taken() {
        let (older, newer) = (superblock(5, 1), superblock(6, 2));
        for at in 0..SLOT_BYTES {
            let mut damaged = newer.encode();
            damaged.0[at] ^= 0x40;
            assert_eq!(Superblock::pick(&[damaged, older.encode()]), Ok((older, 1)), "byte {at}");
        }
    }

    #[test]
    fn damage_absence_and_a_later_version_are_told_apart() {
        let good = superblock(5, 1).encode();
        let mut damaged = good.clone();
        damaged.0[40] ^= 1;
        let mut later = good.clone();
        later.put(8, &(FORMAT_VERSION + 1).to_le_bytes());
        let sum = crc32c::crc32c(&later.0[..CRC_AT]);
        later.put(CRC_AT, &sum.to_le_bytes());
        let absent = SlotImage::zeroed();
        let pick =
            |a: &SlotImage, b: &SlotImage| Superblock::pick(&[a.clone(), b.clone()]).map(|(s, _)| s.epoch);
        assert_eq!(pick(&absent, &absent), Err(SuperblockFault::Absent));
        assert_eq!(pick(&absent, &damaged), Err(SuperblockFault::Damaged));
        assert_eq!(pick(&damaged, &damaged), Err(SuperblockFault::Damaged));
        assert_eq!(pick(&absent, &good), Ok(5));
        assert_eq!(pick(&good, &later), Err(SuperblockFault::Newer { version: FORMAT_VERSION + 1 }));
    }
}
