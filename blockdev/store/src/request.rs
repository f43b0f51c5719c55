//! A storage request, the memory it moves, and its completion.

use std::ptr::NonNull;

use crate::fault::StoreFault;

/// How a request ended: every byte was transferred, or a fault. There is no partial success.
/// After a fault of a write the range holds old bytes, new bytes, or any mix of blocks of both.
pub type StoreResult = Result<(), StoreFault>;

/// One request. The tag is the caller's own and comes back with the completion; the backing does not look at
/// it, and equal tags in flight are the caller's affair.
#[derive(Debug, Clone, Copy)]
pub struct StoreIo {
    /// Comes back in [`StoreCompletion::tag`].
    pub tag: u64,
    /// First byte on the disk, a multiple of the block size. Ignored by a flush.
    pub offset_bytes: u64,
    /// What to do, with the memory or the length that it needs.
    pub operation: StoreOperation,
}

/// What a request does.
#[derive(Debug, Clone, Copy)]
pub enum StoreOperation {
    /// Disk to memory.
    Read {
        /// Where the bytes land; its length is the length of the request.
        memory: IoMemory,
    },
    /// Memory to disk.
    Write {
        /// Where the bytes come from; its length is the length of the request.
        memory: IoMemory,
        /// The completion says that the bytes are durable ("forced unit access").
        fua: bool,
    },
    /// The completion says that every write *completed* before this submit is durable.
    /// Writes still in flight at the submit are not covered.
    Flush,
    /// The range is no longer needed. A hint: afterwards each block reads as zeroes or as it was.
    Discard {
        /// Bytes from the offset on.
        length_bytes: u64,
    },
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// Bytes from the offset on.
        length_bytes: u64,
        /// The space may be given back (a hole). `false` keeps the range allocated, so that later writes to
        /// it cannot run out of space where the device can promise that.
        may_unmap: bool,
        /// The completion says that the zeroes are durable.
        fua: bool,
    },
}

/// Memory that a device reads or writes directly. A plain description: it owns nothing and frees nothing.
///
/// It is often a chunk of a slab that another process maps too, so its bytes are only ever touched through
/// raw copies or by the kernel, never through a Rust reference.
#[derive(Debug, Clone, Copy)]
pub struct IoMemory {
    pointer: NonNull<u8>,
    length_bytes: u32,
}

// SAFETY: the description has no thread affinity; the contract of `new` makes the memory valid for whichever
// thread drives the backing.
unsafe impl Send for IoMemory {}

impl IoMemory {
    /// Describes `length_bytes` of memory at `pointer`.
    ///
    /// # Safety
    /// From the submit of a request with this memory until its end was seen (a refusal, [`Submitted::Done`],
    /// or the completion with its tag came out of `poll`, or the backing was dropped):
    /// - the whole range is mapped, readable and (for a read) writable, and is not unmapped or moved;
    /// - nobody holds a Rust reference to it that the transfer would violate: for a read no reference at all,
    ///   for a write no exclusive one.
    #[must_use]
    pub const unsafe fn new(pointer: NonNull<u8>, length_bytes: u32) -> Self {
        Self { pointer, length_bytes }
    }

    /// Start of the memory.
    #[must_use]
    pub const fn pointer(&self) -> NonNull<u8> {
        self.pointer
    }

    /// Length in bytes.
    #[must_use]
    pub const fn length_bytes(&self) -> u32 {
        self.length_bytes
    }

    /// Whether the address is a multiple of `alignment`, a power of two.
    #[must_use]
    pub(crate) fn is_aligned_to(&self, alignment: u32) -> bool {
        self.pointer.as_ptr().addr() & (alignment as usize - 1) == 0
    }
}

/// What `submit` did with a request that it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// It ended inside `submit`; no completion will follow.
    Done(StoreResult),
    /// It is in flight; its completion comes out of `poll`.
    Queued,
}

/// The end of one queued request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreCompletion {
    /// The tag of the request.
    pub tag: u64,
    /// How it ended.
    pub result: StoreResult,
}
