//! What a virtual disk measures: its number, its blocks, and which byte ranges are requests at all.

use crate::errno::BlockErrno;
use crate::wire::Operation;
use core::fmt;
use transport_proto::wire::DATA_BYTES_MAX;

/// A virtual disk, cluster-unique, as numbered by the configuration. `0..VOLUMES_MAX`, so that a table
/// indexed by it stays small and a look-up is one load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub u32);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "volume {}", self.0)
    }
}

/// Virtual disks of one cluster at the most; every [`VolumeId`] is below.
pub const VOLUMES_MAX: usize = 1 << 16;

/// A disk that some node reaches directly, cluster-unique. A dual-ported disk has one number on both its
/// nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub u32);

impl DiskId {
    /// No disk: the node serves the volume from other virtual disks.
    pub const PARTS: DiskId = DiskId(u32::MAX);
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk {}", self.0)
    }
}

/// Number of a block of a virtual disk, in units of its [`BlockBytes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "logical block address")]
pub struct Lba(pub u64);

/// A number of blocks, in units of the virtual disk's [`BlockBytes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockCount(pub u64);

/// Bytes of one block: the unit in which a virtual disk is read and written, and in which a write is atomic.
/// A power of two, `BlockBytes::MIN..=BlockBytes::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockBytes(u32);

impl BlockBytes {
    /// The smallest block, 512 B.
    pub const MIN: BlockBytes = BlockBytes(512);
    /// The usual block, 4 KiB.
    pub const USUAL: BlockBytes = BlockBytes(4096);
    /// The largest block, 64 KiB.
    pub const MAX: BlockBytes = BlockBytes(65536);

    /// Blocks of this many bytes; `None` unless a power of two in range.
    pub const fn new(bytes: u32) -> Option<BlockBytes> {
        if bytes.is_power_of_two() && bytes >= BlockBytes::MIN.0 && bytes <= BlockBytes::MAX.0 {
            Some(BlockBytes(bytes))
        } else {
            None
        }
    }

    /// Bytes of one block.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// True when `bytes` is a whole number of blocks.
    #[inline]
    pub const fn divides(self, bytes: u64) -> bool {
        bytes & (self.0 as u64 - 1) == 0
    }
}

/// Bytes of a read or write at the most (1 MiB). A surface splits what is longer.
pub const TRANSFER_BYTES_MAX: u32 = 1 << 20;
const _: () = assert!(TRANSFER_BYTES_MAX as usize <= DATA_BYTES_MAX);

/// Some bytes of a virtual disk: `offset..offset + length`. A flush has the empty range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
}

impl ByteRange {
    /// The range of a flush.
    pub const EMPTY: ByteRange = ByteRange { offset: 0, length: 0 };

    /// `length` bytes from `offset` on.
    #[inline]
    pub const fn new(offset: u64, length: u32) -> ByteRange {
        ByteRange { offset, length }
    }

    /// The byte after the last; saturates at the end of the 64-bit space.
    #[inline]
    pub const fn end(self) -> u64 {
        self.offset.saturating_add(self.length as u64)
    }

    /// True when the two have a byte in common.
    #[inline]
    pub const fn overlaps(self, other: ByteRange) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }

    /// First block and number of blocks; `None` when not made of whole blocks.
    pub const fn blocks(self, block: BlockBytes) -> Option<(Lba, BlockCount)> {
        if !block.divides(self.offset) || !block.divides(self.length as u64) {
            return None;
        }
        let bytes = block.get() as u64;
        Some((Lba(self.offset / bytes), BlockCount(self.length as u64 / bytes)))
    }
}

/// How large a virtual disk is, in what blocks, and whether it may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of the whole virtual disk, a multiple of `block_bytes`.
    pub size_bytes: u64,
    /// Bytes of one block.
    pub block_bytes: BlockBytes,
    /// No writes, discards or zeroes.
    pub read_only: bool,
}

impl Geometry {
    /// Whether a request of this operation and range makes sense on such a disk, else the errno that fits
    /// (SPEC B11). Checked by the driver, so that a bad request never travels, and again by the master, which
    /// trusts nobody.
    #[inline]
    pub fn check(&self, operation: Operation, range: ByteRange) -> Result<(), BlockErrno> {
        if operation == Operation::Flush {
            return if range.length == 0 { Ok(()) } else { Err(BlockErrno::Einval) };
        }
        if operation.modifies() && self.read_only {
            return Err(BlockErrno::Erofs);
        }
        if range.length == 0
            || !self.block_bytes.divides(range.offset)
            || !self.block_bytes.divides(u64::from(range.length))
        {
            return Err(BlockErrno::Einval);
        }
        if operation.carries_payload() && range.length > TRANSFER_BYTES_MAX {
            return Err(BlockErrno::Eoverflow);
        }
        match range.offset.checked_add(u64::from(range.length)) {
            None => Err(BlockErrno::Eoverflow),
            Some(end) if end <= self.size_bytes => Ok(()),
            Some(_) if matches!(operation, Operation::Write | Operation::WriteZeroes) => {
                Err(BlockErrno::Enospc)
            }
            Some(_) => Err(BlockErrno::Einval),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISK: Geometry =
        Geometry { size_bytes: 16 << 20, block_bytes: BlockBytes::USUAL, read_only: false };

    // proves: B11
    #[test]
    fn each_bad_range_gets_the_errno_that_fits_its_cause() {
        use BlockErrno::{Einval, Enospc, Eoverflow, Erofs};
        let end = DISK.size_bytes;
        let table = [
            (Operation::Read, 0, 4096, Ok(())),
            (Operation::Read, end - 4096, 4096, Ok(())),
            (Operation::Read, end, 4096, Err(Einval)),
            (Operation::Write, end, 4096, Err(Enospc)),
            (Operation::WriteZeroes, end - 4096, 8192, Err(Enospc)),
            (Operation::Discard, end - 4096, 8192, Err(Einval)),
            (Operation::Read, 0, 0, Err(Einval)),
            (Operation::Read, 512, 4096, Err(Einval)),
            (Operation::Write, 4096, 512, Err(Einval)),
            (Operation::Write, 0, (1 << 20) + 4096, Err(Eoverflow)),
            (Operation::WriteZeroes, 0, (1 << 20) + 4096, Ok(())),
            (Operation::Read, u64::MAX - 4095, 8192, Err(Eoverflow)),
            (Operation::Flush, 0, 0, Ok(())),
            (Operation::Flush, 0, 4096, Err(Einval)),
        ];
        for (operation, offset, length, expected) in table {
            let found = DISK.check(operation, ByteRange::new(offset, length));
            assert_eq!(found, expected, "{operation:?} {offset}+{length}");
        }
        let frozen = Geometry { read_only: true, ..DISK };
        assert_eq!(frozen.check(Operation::Write, ByteRange::new(0, 4096)), Err(Erofs));
        assert_eq!(frozen.check(Operation::Discard, ByteRange::new(0, 4096)), Err(Erofs));
        assert_eq!(frozen.check(Operation::Read, ByteRange::new(0, 4096)), Ok(()));
        assert_eq!(frozen.check(Operation::Flush, ByteRange::EMPTY), Ok(()));
    }

    proptest! {
        // proves: B11
        #[test]
        fn an_accepted_range_lies_inside_the_disk_in_whole_blocks(
            offset: u64, length: u32, number in 1u8..=5,
        ) {
            let operation = Operation::from_wire(number).expect("1..=5 are operations");
            let range = ByteRange::new(offset % (32 << 20), length % (4 << 20));
            if operation != Operation::Flush && DISK.check(operation, range).is_ok() {
                prop_assert!(range.end() <= DISK.size_bytes);
                let (first, count) = range.blocks(DISK.block_bytes).expect("whole blocks");
                prop_assert_eq!(first.0 * 4096, range.offset);
                prop_assert_eq!(count.0 * 4096, u64::from(range.length));
            }
        }

        #[test]
        fn overlap_is_symmetric_and_means_a_common_byte(
            a in 0u64..64, m in 0u32..16, b in 0u64..64, n in 0u32..16,
        ) {
            let (one, two) = (ByteRange::new(a, m), ByteRange::new(b, n));
            let common = (a..a + u64::from(m)).any(|byte| (b..b + u64::from(n)).contains(&byte));
            prop_assert_eq!(one.overlaps(two), two.overlaps(one));
            if m > 0 && n > 0 { prop_assert_eq!(one.overlaps(two), common); }
        }
    }

    #[test]
    fn only_powers_of_two_in_range_are_block_sizes() {
        for bytes in [0, 1, 256, 513, 1536, 131_072, u32::MAX] {
            assert_eq!(BlockBytes::new(bytes), None, "{bytes}");
        }
        for bytes in [512, 1024, 4096, 65536] {
            assert_eq!(BlockBytes::new(bytes).map(BlockBytes::get), Some(bytes));
        }
    }
}
