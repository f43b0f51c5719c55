//! A disk in memory: sparse, gone with the process, every request ends inside `submit`.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw, RemapOptions, UncheckedAdvice};
use thiserror::Error;

use crate::backing::Backing;
use crate::counters::StoreCounters;
use crate::fault::{EpochRefusal, GrowRefusal, OwnershipAttempt, OwnershipRelease, SubmitRefusal};
use crate::geometry::{Geometry, sizes_fit};
use crate::request::{IoMemory, StoreCompletion, StoreIo, StoreOperation, Submitted};

/// Pages are given back in units of this; the kernel's page size on the machines we run on divides it.
const UNMAP_BYTES: u64 = 64 << 10;

/// Why a memory disk was not made.
#[derive(Debug, Error)]
pub enum MemoryDiskRefusal {
    /// The sizes do not fit together.
    #[error(
        "a memory disk of {data_bytes} bytes in blocks of {block_bytes} is not possible: take blocks of a \
         power of two from 512 to 65536 bytes and a size that is a multiple of them and not zero"
    )]
    Shape {
        /// Size asked for.
        data_bytes: u64,
        /// Block asked for.
        block_bytes: u32,
    },
    /// The kernel gave no address space.
    #[error("no address space for a memory disk of {data_bytes} bytes; make it smaller")]
    NoMemory {
        /// Size asked for.
        data_bytes: u64,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A disk in anonymous memory. Pages appear when they are written and go when they are discarded.
/// Its epoch lives as long as it does.
#[derive(Debug)]
pub struct MemoryDisk {
    pages: MmapRaw,
    geometry: Geometry,
    epoch: u64,
    released: bool,
    counters: StoreCounters,
}

impl MemoryDisk {
    /// Makes a disk of zeroes; costs address space only.
    ///
    /// # Errors
    /// [`MemoryDiskRefusal`] when the sizes do not fit or the address space is used up.
    pub fn new(data_bytes: u64, block_bytes: u32) -> Result<Self, MemoryDiskRefusal> {
        if !sizes_fit(data_bytes, block_bytes) {
            return Err(MemoryDiskRefusal::Shape { data_bytes, block_bytes });
        }
        let pages = MmapOptions::new()
            .len(data_bytes as usize)
            .no_reserve_swap()
            .map_anon()
            .map_err(|source| MemoryDiskRefusal::NoMemory { data_bytes, source })?;
        let geometry =
            Geometry { data_bytes, block_bytes, memory_alignment: 1, queue_depth: 0, read_only: false };
        Ok(Self {
            pages: MmapRaw::from(pages),
            geometry,
            epoch: 0,
            released: false,
            counters: StoreCounters::default(),
        })
    }

    /// See [`crate::AnyBacking::grow`].
    ///
    /// # Errors
    /// [`GrowRefusal`] when the size does not fit or the kernel has no address space.
    pub fn grow(&mut self, data_bytes: u64) -> Result<(), GrowRefusal> {
        let refused = GrowRefusal { asked_bytes: data_bytes, data_bytes: self.geometry.data_bytes };
        if data_bytes <= self.geometry.data_bytes {
            return Ok(());
        }
        if !sizes_fit(data_bytes, self.geometry.block_bytes) {
            return Err(refused);
        }
        let options = RemapOptions::new().may_move(true);
        // SAFETY: the mapping only grows, and every request ends inside `submit`, so that nothing points into
        // it now, wherever it moves to.
        let moved = unsafe { self.pages.remap(data_bytes as usize, options) };
        moved.map_err(|_| refused)?;
        self.geometry.data_bytes = data_bytes;
        Ok(())
    }

    /// See [`crate::AnyBacking::epoch`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// See [`crate::AnyBacking::persist_epoch`]. As durable as the disk itself: it lasts as long as the
    /// process.
    ///
    /// # Errors
    /// [`EpochRefusal::Behind`] and [`EpochRefusal::NotOwned`].
    pub fn persist_epoch(&mut self, epoch: u64) -> Result<(), EpochRefusal> {
        if self.released {
            return Err(EpochRefusal::NotOwned);
        }
        if epoch < self.epoch {
            return Err(EpochRefusal::Behind { asked: epoch, stored: self.epoch });
        }
        self.epoch = epoch;
        Ok(())
    }

    /// See [`crate::AnyBacking::try_take_ownership`]. Nobody else can reach this memory.
    pub fn try_take_ownership(&mut self) -> OwnershipAttempt {
        self.released = false;
        OwnershipAttempt::Taken { epoch: self.epoch }
    }

    /// See [`crate::AnyBacking::release_ownership`].
    pub fn release_ownership(&mut self) -> OwnershipRelease {
        self.released = true;
        OwnershipRelease::Released
    }

    /// See [`crate::AnyBacking::access`].
    #[must_use]
    pub fn access(&self) -> &str {
        "memory"
    }

    /// Copies disk to memory. The caller has admitted the range.
    fn copy_out(&self, offset_bytes: u64, memory: IoMemory) {
        // SAFETY: `admit` checked that offset + length lies inside the mapping.
        let source = unsafe { self.pages.as_ptr().add(offset_bytes as usize) };
        // SAFETY: source is readable for the length (above); the target is writable for it by the contract of
        // `IoMemory::new`; the disk's pages are private to this value, so the two never overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(source, memory.pointer().as_ptr(), memory.length_bytes() as usize);
        }
    }

    /// Copies memory to disk. The caller has admitted the range.
    fn copy_in(&mut self, offset_bytes: u64, memory: IoMemory) {
        // SAFETY: `admit` checked that offset + length lies inside the mapping.
        let target = unsafe { self.pages.as_mut_ptr().add(offset_bytes as usize) };
        // SAFETY: target is writable for the length (above); the source is readable for it by the contract of
        // `IoMemory::new`; the disk's pages are private to this value, so the two never overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(memory.pointer().as_ptr(), target, memory.length_bytes() as usize);
        }
    }

    /// Zeroes a range by hand.
    fn fill_zero(&mut self, offset_bytes: u64, length_bytes: u64) {
        // SAFETY: the range lies inside the mapping: `admit` checked it, and callers only narrow it.
        let target = unsafe { self.pages.as_mut_ptr().add(offset_bytes as usize) };
        // SAFETY: target is writable for the length (above), and no reference to these pages is ever made.
        unsafe { std::ptr::write_bytes(target, 0, length_bytes as usize) };
    }

    /// Zeroes a range, giving whole units back to the kernel.
    fn unmap(&mut self, offset_bytes: u64, length_bytes: u64) {
        let end = offset_bytes + length_bytes;
        let inner_start = offset_bytes.next_multiple_of(UNMAP_BYTES);
        let inner_end = end / UNMAP_BYTES * UNMAP_BYTES;
        if inner_start >= inner_end {
            self.fill_zero(offset_bytes, length_bytes);
            return;
        }
        let (start, length) = (inner_start as usize, (inner_end - inner_start) as usize);
        // SAFETY: DONTNEED on private anonymous pages replaces them by zero pages; the range lies inside the
        // mapping, is page aligned, and no Rust reference to it exists.
        let advised = unsafe { self.pages.unchecked_advise_range(UncheckedAdvice::DontNeed, start, length) };
        if advised.is_err() {
            self.fill_zero(inner_start, inner_end - inner_start);
        }
        self.fill_zero(offset_bytes, inner_start - offset_bytes);
        self.fill_zero(inner_end, end - inner_end);
    }
}

impl Backing for MemoryDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    #[inline]
    fn submit(&mut self, io: StoreIo) -> Result<Submitted, SubmitRefusal> {
        if self.released {
            return Err(SubmitRefusal::NotOwned);
        }
        let length_bytes = self.geometry.admit(&io)?;
        match io.operation {
            StoreOperation::Read { memory } => self.copy_out(io.offset_bytes, memory),
            StoreOperation::Write { memory, .. } => self.copy_in(io.offset_bytes, memory),
            StoreOperation::Flush => {}
            StoreOperation::WriteZeroes { may_unmap: false, .. } => {
                self.fill_zero(io.offset_bytes, length_bytes);
            }
            StoreOperation::Discard { .. } | StoreOperation::WriteZeroes { may_unmap: true, .. } => {
                self.unmap(io.offset_bytes, length_bytes);
            }
        }
        self.counters.count(&io.operation, length_bytes, Ok(()));
        Ok(Submitted::Done(Ok(())))
    }

    fn kick(&mut self) {}

    fn poll(&mut self, _sink: &mut impl FnMut(StoreCompletion)) -> usize {
        0
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn arm(&mut self) -> bool {
        true
    }

    fn oldest_submitted_age(&self) -> Option<Duration> {
        None
    }

    fn counters(&self) -> StoreCounters {
        self.counters
    }
}
