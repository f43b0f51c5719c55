//! A backing for crates without `unsafe`: it takes the memory of each request and gives it back with the end.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use transport_buf::{Chunk, SharedChunk};

use crate::backing::{AnyBacking, Backing};
use crate::counters::StoreCounters;
use crate::fault::{EpochRefusal, GrowRefusal, OwnershipAttempt, OwnershipRelease, SubmitRefusal};
use crate::geometry::Geometry;
use crate::request::{IoMemory, StoreIo, StoreOperation, StoreResult, Submitted};

/// Memory that a read fills: all of its bytes in use.
#[derive(Debug)]
pub enum ReadTarget {
    /// A chunk of a slab, this node's or a peer's; the device writes straight into it.
    Chunk(Chunk),
    /// Plain memory; bounced if the device cannot reach it as it lies.
    Bytes(Vec<u8>),
}

/// Memory that a write takes its bytes from.
#[derive(Debug, Clone)]
pub enum WriteSource {
    /// Some bytes of a chunk of a slab, which others may read meanwhile.
    Shared(SharedChunk, Range<usize>),
    /// Some bytes of a client's memory; bounced if the device cannot reach them as they lie.
    Caller(Arc<Vec<u8>>, Range<usize>),
}

impl WriteSource {
    /// A whole chunk.
    #[must_use]
    pub fn whole(chunk: SharedChunk) -> Self {
        let range = 0..chunk.as_ref().len();
        Self::Shared(chunk, range)
    }
}

/// One request to a [`Drive`].
#[derive(Debug)]
pub struct DriveIo {
    /// Comes back in [`DriveEnd::tag`].
    pub tag: u64,
    /// First byte on the disk, a multiple of the block size. Ignored by a flush.
    pub offset_bytes: u64,
    /// What to do.
    pub operation: DriveOperation,
}

/// What a request does; see [`StoreOperation`] for the meaning of each.
#[derive(Debug)]
pub enum DriveOperation {
    /// Disk to memory, as many bytes as the target has in use.
    Read(ReadTarget),
    /// Memory to disk.
    Write {
        /// The bytes.
        source: WriteSource,
        /// Durable when it ends.
        fua: bool,
    },
    /// Makes completed writes durable.
    Flush,
    /// A hint that the range is not needed.
    Discard {
        /// Bytes from the offset on.
        length_bytes: u64,
    },
    /// The range reads as zeroes.
    WriteZeroes {
        /// Bytes from the offset on.
        length_bytes: u64,
        /// The space may be given back.
        may_unmap: bool,
        /// Durable when it ends.
        fua: bool,
    },
}

/// Memory that comes back at the end of a request.
#[derive(Debug)]
pub enum Returned {
    /// The request had none.
    Nothing,
    /// The target of a read; after a fault its content has no meaning.
    Read(ReadTarget),
    /// The source of a write.
    Write(WriteSource),
}

/// The end of one request.
#[derive(Debug)]
pub struct DriveEnd {
    /// The tag of the request.
    pub tag: u64,
    /// How it ended.
    pub result: StoreResult,
    /// Its memory.
    pub memory: Returned,
}

/// A backing and the memory of the requests that are with it.
#[derive(Debug)]
pub struct Drive {
    // Dropped before the memory below: that waits until the device is done with it.
    backing: AnyBacking,
    held: Vec<Option<Held>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Held {
    tag: u64,
    memory: Returned,
}

impl Drive {
    /// Takes a backing that nothing was submitted to yet. Panics if something was.
    #[must_use]
    pub fn new(backing: AnyBacking) -> Self {
        assert_eq!(backing.in_flight(), 0, "a drive takes a backing at rest");
        let depth = backing.geometry().queue_depth;
        Self { backing, held: (0..depth).map(|_| None).collect(), free: (0..depth).rev().collect() }
    }

    /// Takes a request. `Some`: it has ended already. `None`: its end comes out of [`Drive::poll`].
    ///
    /// # Errors
    /// The refusal, and the request with its memory; nothing happened.
    #[inline]
    pub fn submit(&mut self, io: DriveIo) -> Result<Option<DriveEnd>, (SubmitRefusal, DriveIo)> {
        let slot = self.free.last().copied();
        if slot.is_none() && !self.held.is_empty() {
            return Err((SubmitRefusal::Full { in_flight: self.held.len() }, io));
        }
        let DriveIo { tag, offset_bytes, mut operation } = io;
        let described =
            StoreIo { tag: slot.map_or(u64::MAX, u64::from), offset_bytes, operation: operation.describe() };
        match self.backing.submit(described) {
            Ok(Submitted::Done(result)) => {
                Ok(Some(DriveEnd { tag, result, memory: operation.into_memory() }))
            }
            Ok(Submitted::Queued) => {
                let slot = self.free.pop().expect("a backing queues no more than its depth");
                self.held[slot as usize] = Some(Held { tag, memory: operation.into_memory() });
                Ok(None)
            }
            Err(refusal) => Err((refusal, DriveIo { tag, offset_bytes, operation })),
        }
    }

    /// See [`Backing::poll`].
    #[inline]
    pub fn poll(&mut self, sink: &mut impl FnMut(DriveEnd)) -> usize {
        let Self { backing, held, free } = self;
        backing.poll(&mut |completion| {
            let slot = completion.tag as u32;
            let Held { tag, memory } = held[slot as usize].take().expect("each queued request ends once");
            free.push(slot);
            sink(DriveEnd { tag, result: completion.result, memory });
        })
    }

    /// See [`Backing::kick`].
    #[inline]
    pub fn kick(&mut self) {
        self.backing.kick();
    }

    /// See [`Backing::arm`].
    #[inline]
    pub fn arm(&mut self) -> bool {
        self.backing.arm()
    }

    /// See [`Backing::in_flight`].
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.backing.in_flight()
    }

    /// See [`Backing::geometry`].
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.backing.geometry()
    }

    /// See [`Backing::event_fd`].
    #[must_use]
    pub fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.backing.event_fd()
    }

    /// See [`Backing::oldest_submitted_age`].
    #[must_use]
    pub fn oldest_submitted_age(&self) -> Option<Duration> {
        self.backing.oldest_submitted_age()
    }

    /// See [`Backing::counters`].
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        self.backing.counters()
    }

    /// See [`AnyBacking::access`].
    #[must_use]
    pub fn access(&self) -> &str {
        self.backing.access()
    }

    /// See [`AnyBacking::epoch`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.backing.epoch()
    }

    /// See [`AnyBacking::persist_epoch`].
    ///
    /// # Errors
    /// [`EpochRefusal`].
    pub fn persist_epoch(&mut self, epoch: u64) -> Result<(), EpochRefusal> {
        self.backing.persist_epoch(epoch)
    }

    /// See [`AnyBacking::can_grow`].
    #[must_use]
    pub fn can_grow(&self) -> bool {
        self.backing.can_grow()
    }

    /// See [`AnyBacking::grow`].
    ///
    /// # Errors
    /// [`GrowRefusal`].
    pub fn grow(&mut self, data_bytes: u64) -> Result<(), GrowRefusal> {
        self.backing.grow(data_bytes)
    }

    /// See [`AnyBacking::try_take_ownership`].
    pub fn try_take_ownership(&mut self) -> OwnershipAttempt {
        self.backing.try_take_ownership()
    }

    /// See [`AnyBacking::release_ownership`].
    pub fn release_ownership(&mut self) -> OwnershipRelease {
        self.backing.release_ownership()
    }
}

impl DriveOperation {
    /// The request without its memory's owner. Whoever submits it keeps `self` until the request has ended.
    fn describe(&mut self) -> StoreOperation {
        match self {
            Self::Read(target) => StoreOperation::Read { memory: target.describe() },
            Self::Write { source, fua } => StoreOperation::Write { memory: source.describe(), fua: *fua },
            Self::Flush => StoreOperation::Flush,
            Self::Discard { length_bytes } => StoreOperation::Discard { length_bytes: *length_bytes },
            Self::WriteZeroes { length_bytes, may_unmap, fua } => {
                StoreOperation::WriteZeroes { length_bytes: *length_bytes, may_unmap: *may_unmap, fua: *fua }
            }
        }
    }

    fn into_memory(self) -> Returned {
        match self {
            Self::Read(target) => Returned::Read(target),
            Self::Write { source, .. } => Returned::Write(source),
            Self::Flush | Self::Discard { .. } | Self::WriteZeroes { .. } => Returned::Nothing,
        }
    }
}

impl ReadTarget {
    fn describe(&mut self) -> IoMemory {
        let bytes = match self {
            Self::Chunk(chunk) => chunk.as_mut(),
            Self::Bytes(bytes) => bytes.as_mut_slice(),
        };
        let (start, length) = (bytes.as_mut_ptr(), length_of(bytes));
        let start = NonNull::new(start).expect("a slice is not at null");
        // SAFETY: the drive owns the chunk or vector until the request has ended: neither moves its bytes
        // when the owner moves, both keep them mapped and writable, and no reference to them can be made
        // meanwhile.
        unsafe { IoMemory::new(start, length) }
    }
}

impl WriteSource {
    fn describe(&self) -> IoMemory {
        let bytes = match self {
            Self::Shared(chunk, range) => &chunk.as_ref()[range.clone()],
            Self::Caller(bytes, range) => &bytes[range.clone()],
        };
        let start = NonNull::from(bytes).cast();
        // SAFETY: the drive holds a reference count until the request has ended, so the bytes stay mapped,
        // and nobody can have an exclusive reference to them; writes only read.
        unsafe { IoMemory::new(start, length_of(bytes)) }
    }
}

/// Lengths that a description cannot say are longer than any transfer and are refused as such.
fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryDisk;
    use transport_buf::{Slab, SlabLayout};

    fn slab() -> Slab {
        Slab::create(SlabLayout { classes: [(4096, 4), (0, 0), (0, 0), (0, 0)] }).expect("memory for a slab")
    }

    #[test]
    fn a_drive_gives_the_memory_back_with_the_end_and_with_a_refusal() {
        let mut drive = Drive::new(AnyBacking::Memory(MemoryDisk::new(1 << 20, 512).expect("a disk")));
        let source = WriteSource::Caller(Arc::new((0..=255).cycle().take(4096).collect()), 512..1024);
        let write = DriveOperation::Write { source, fua: false };
        let end = drive.submit(DriveIo { tag: 7, offset_bytes: 512, operation: write }).expect("it fits");
        let end = end.expect("memory answers at once");
        assert_eq!((end.tag, end.result), (7, Ok(())));
        assert!(matches!(end.memory, Returned::Write(WriteSource::Caller(..))));

        let mut chunk = slab().allocate(4096).expect("a chunk");
        chunk.set_length(1024);
        let read = DriveOperation::Read(ReadTarget::Chunk(chunk));
        let unaligned = DriveIo { tag: 8, offset_bytes: 1, operation: read };
        let (refusal, again) = drive.submit(unaligned).expect_err("an odd offset");
        assert_eq!(refusal, SubmitRefusal::Unaligned { block_bytes: 512 });
        let end = drive.submit(DriveIo { offset_bytes: 0, ..again }).expect("it fits").expect("at once");
        let Returned::Read(ReadTarget::Chunk(chunk)) = end.memory else { panic!("not the chunk: {end:?}") };
        assert!(chunk.as_ref()[..512].iter().all(|byte| *byte == 0));
        assert_eq!(chunk.as_ref()[512..], (0..=255).cycle().take(512).collect::<Vec<u8>>());
    }
}
