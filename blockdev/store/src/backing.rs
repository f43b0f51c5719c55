//! The interface of a backing, and the closed set of backings that a node runs.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::counters::StoreCounters;
use crate::disk_file::DiskFile;
use crate::fault::{EpochRefusal, GrowRefusal, OwnershipAttempt, OwnershipRelease, SubmitRefusal};
use crate::geometry::Geometry;
use crate::memory::MemoryDisk;
use crate::request::{StoreCompletion, StoreIo, Submitted};

/// Storage driven by one polling thread. It has no threads of its own and never blocks, with the exception of
/// buffered files, whose transfers are plain system calls.
///
/// Requests in flight at the same time have no order among themselves, also not on overlapping ranges.
/// Dropping a backing waits for what is in flight, because the device still owns that memory.
pub trait Backing {
    /// Shape and limits.
    fn geometry(&self) -> Geometry;

    /// Takes a request or refuses it.
    ///
    /// # Errors
    /// [`SubmitRefusal`]; nothing happened.
    fn submit(&mut self, io: StoreIo) -> Result<Submitted, SubmitRefusal>;

    /// Sends everything that was submitted to the device, with one system call at most.
    fn kick(&mut self);

    /// Kicks, then hands each completion to `sink`. Gives their number. Costs no system call while nothing
    /// was submitted and nothing has ended.
    fn poll(&mut self, sink: &mut impl FnMut(StoreCompletion)) -> usize;

    /// Requests taken whose completion has not been polled.
    fn in_flight(&self) -> usize;

    /// Readable while completions wait to be polled; `None` where nothing is ever in flight.
    /// Fits level- and edge-triggered watching, the latter only with [`Backing::arm`].
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Prepares for sleep: kicks and checks again. `true`: every later completion makes `event_fd` readable,
    /// so the thread may sleep. `false`: something waits already; poll first.
    fn arm(&mut self) -> bool;

    /// How long the oldest request in flight has been with the device, to tell a hung disk. Good to some
    /// milliseconds. `None` when nothing is in flight.
    fn oldest_submitted_age(&self) -> Option<Duration>;

    /// What happened since the backing was opened.
    fn counters(&self) -> StoreCounters;
}

/// Any backing that a node can run. Static dispatch: the hot path has no vtable.
#[derive(Debug)]
pub enum AnyBacking {
    /// Memory of this process, gone with it.
    Memory(MemoryDisk),
    /// An image file or a block device.
    File(Box<DiskFile>),
}

/// Calls the same method on whichever backing there is.
macro_rules! each {
    ($self:expr, $disk:ident => $call:expr) => {
        match $self {
            AnyBacking::Memory($disk) => $call,
            AnyBacking::File($disk) => $call,
        }
    };
}

impl Backing for AnyBacking {
    fn geometry(&self) -> Geometry {
        each!(self, disk => disk.geometry())
    }
    fn submit(&mut self, io: StoreIo) -> Result<Submitted, SubmitRefusal> {
        each!(self, disk => disk.submit(io))
    }
    fn kick(&mut self) {
        each!(self, disk => disk.kick());
    }
    fn poll(&mut self, sink: &mut impl FnMut(StoreCompletion)) -> usize {
        each!(self, disk => disk.poll(sink))
    }
    fn in_flight(&self) -> usize {
        each!(self, disk => disk.in_flight())
    }
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        each!(self, disk => disk.event_fd())
    }
    fn arm(&mut self) -> bool {
        each!(self, disk => disk.arm())
    }
    fn oldest_submitted_age(&self) -> Option<Duration> {
        each!(self, disk => disk.oldest_submitted_age())
    }
    fn counters(&self) -> StoreCounters {
        each!(self, disk => disk.counters())
    }
}

/// What fencing needs (SPEC B5); see [`crate::DiskFile`] for how the answers are reached.
impl AnyBacking {
    /// The highest epoch that was made durable on this disk.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        each!(self, disk => disk.epoch())
    }

    /// Makes `epoch` durable, so that after any crash nobody below it is let in. Storing the same epoch again
    /// is fine. On files and devices this waits for the device; call it while the gate is closed.
    ///
    /// # Errors
    /// [`EpochRefusal`]; `Unknown` is the only one after which the new epoch may be on the disk.
    pub fn persist_epoch(&mut self, epoch: u64) -> Result<(), EpochRefusal> {
        each!(self, disk => disk.persist_epoch(epoch))
    }

    /// Tries once to own the disk. Never waits; on `WouldBlock` ask again later.
    /// A disk that only this node can open is owned from the start.
    pub fn try_take_ownership(&mut self) -> OwnershipAttempt {
        each!(self, disk => disk.try_take_ownership())
    }

    /// Refuses new requests and lets the disk go once nothing is in flight. Ask until it is released.
    pub fn release_ownership(&mut self) -> OwnershipRelease {
        each!(self, disk => disk.release_ownership())
    }

    /// Makes sure that this many bytes can be addressed. Memory is made larger; a file or device is as large
    /// as it was formatted.
    ///
    /// # Errors
    /// [`GrowRefusal`]; nothing happened.
    pub fn grow(&mut self, data_bytes: u64) -> Result<(), GrowRefusal> {
        match self {
            AnyBacking::Memory(disk) => disk.grow(data_bytes),
            AnyBacking::File(disk) if data_bytes <= disk.geometry().data_bytes => Ok(()),
            AnyBacking::File(disk) => {
                Err(GrowRefusal { asked_bytes: data_bytes, data_bytes: disk.geometry().data_bytes })
            }
        }
    }

    /// Whether [`AnyBacking::grow`] can make it larger than it is.
    #[must_use]
    pub fn can_grow(&self) -> bool {
        matches!(self, AnyBacking::Memory(_))
    }

    /// How the disk is driven and, where it is not the fastest way, why; for `netdisk status`.
    #[must_use]
    pub fn access(&self) -> &str {
        each!(self, disk => disk.access())
    }
}
