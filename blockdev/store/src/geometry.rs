//! The shape of a backing, and the one check of a request against it that every backing shares.

use crate::fault::SubmitRefusal;
use crate::request::{StoreIo, StoreOperation};

/// Smallest logical block that a backing may have, in bytes.
pub const BLOCK_BYTES_MIN: u32 = 512;
/// Largest logical block that a backing may have, in bytes.
pub const BLOCK_BYTES_MAX: u32 = 64 << 10;
/// Longest single read or write, in bytes. Discards and zeroing carry no memory and are bounded by the disk
/// alone.
pub const TRANSFER_BYTES_MAX: u64 = 64 << 20;

/// What a backing offers. Fixed while the backing is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes a client can address; the reserved tail with the superblock is already taken off.
    pub data_bytes: u64,
    /// Every offset and length is a multiple of this. A power of two, `BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX`.
    pub block_bytes: u32,
    /// Memory aligned to this many bytes goes to the device without a copy; other memory is bounced and
    /// counted. 1 where any memory will do.
    pub memory_alignment: u32,
    /// Requests that may be in flight at once; one more is [`SubmitRefusal::Full`].
    /// 0 where every request ends inside `submit`.
    pub queue_depth: u32,
    /// Writes, discards and zeroing are refused.
    pub read_only: bool,
}

/// Whether the block is one that we serve and the size is whole blocks, at least one.
pub(crate) fn sizes_fit(data_bytes: u64, block_bytes: u32) -> bool {
    block_bytes.is_power_of_two()
        && (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block_bytes)
        && data_bytes > 0
        && data_bytes.is_multiple_of(u64::from(block_bytes))
}

impl Geometry {
    /// Checks a request and gives the bytes that it covers (0 for a flush).
    ///
    /// # Errors
    /// [`SubmitRefusal`] `Empty`, `Unaligned`, `OutOfRange`, `TooLong` or `ReadOnly`; nothing happened.
    pub fn admit(&self, io: &StoreIo) -> Result<u64, SubmitRefusal> {
        let (length_bytes, transfer, changes) = match &io.operation {
            StoreOperation::Read { memory } => (memory.length_bytes() as u64, true, false),
            StoreOperation::Write { memory, .. } => (memory.length_bytes() as u64, true, true),
            StoreOperation::Flush => return Ok(0),
            StoreOperation::Discard { length_bytes } => (*length_bytes, false, true),
            StoreOperation::WriteZeroes { length_bytes, .. } => (*length_bytes, false, true),
        };
        if self.read_only && changes {
            return Err(SubmitRefusal::ReadOnly);
        }
        if length_bytes == 0 {
            return Err(SubmitRefusal::Empty);
        }
        let block_mask = u64::from(self.block_bytes) - 1;
        if (io.offset_bytes | length_bytes) & block_mask != 0 {
            return Err(SubmitRefusal::Unaligned { block_bytes: self.block_bytes });
        }
        if transfer && length_bytes > TRANSFER_BYTES_MAX {
            return Err(SubmitRefusal::TooLong { length_bytes_max: TRANSFER_BYTES_MAX });
        }
        match io.offset_bytes.checked_add(length_bytes) {
            Some(end) if end <= self.data_bytes => Ok(length_bytes),
            _ => Err(SubmitRefusal::OutOfRange { data_bytes: self.data_bytes }),
        }
    }
}
