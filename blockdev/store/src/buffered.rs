//! A file or device driven by plain system calls through the page cache: the way that always works.
//! Every request ends inside `submit`, which therefore blocks the polling thread for as long as the disk
//! takes.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::Errno;

use crate::backing::Backing;
use crate::counters::{FlushFault, StoreCounters};
use crate::fault::{StoreFault, SubmitRefusal};
use crate::geometry::Geometry;
use crate::request::{StoreCompletion, StoreIo, StoreOperation, StoreResult, Submitted};

/// Zeroes that are written where the device cannot zero a range by itself.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// An open file without direct I/O.
#[derive(Debug)]
pub struct BufferedFile {
    file: File,
    geometry: Geometry,
    flush_fault: FlushFault,
    counters: StoreCounters,
}

impl BufferedFile {
    /// Serves `geometry.data_bytes` from the start of the file. Any memory will do, and nothing is ever in
    /// flight, so those two fields of the geometry are overwritten.
    #[must_use]
    pub fn new(file: File, geometry: Geometry) -> Self {
        let geometry = Geometry { memory_alignment: 1, queue_depth: 0, ..geometry };
        Self { file, geometry, flush_fault: FlushFault::default(), counters: StoreCounters::default() }
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    fn carry_out(&mut self, io: &StoreIo, length_bytes: u64) -> StoreResult {
        match io.operation {
            StoreOperation::Read { memory } => {
                let start = memory.pointer().as_ptr();
                self.repeat(length_bytes, |file, done, rest| {
                    // SAFETY: done < length, so the pointer stays inside the memory.
                    let target = unsafe { start.add(done as usize) };
                    let at = (io.offset_bytes + done) as libc::off_t;
                    // SAFETY: the fd is open; `target` is writable for `rest` bytes by the contract of
                    // `IoMemory`.
                    unsafe { libc::pread(file, target.cast(), rest as usize, at) }
                })
            }
            StoreOperation::Write { memory, fua } => {
                if fua {
                    self.flush_fault.check()?;
                }
                let start = memory.pointer().as_ptr();
                self.repeat(length_bytes, |file, done, rest| {
                    // SAFETY: done < length, so the pointer stays inside the memory.
                    let source = unsafe { start.add(done as usize) };
                    let at = (io.offset_bytes + done) as libc::off_t;
                    // SAFETY: the fd is open; `source` is readable for `rest` bytes by the contract of
                    // `IoMemory`.
                    unsafe { libc::pwrite(file, source.cast(), rest as usize, at) }
                })?;
                if fua { self.sync() } else { Ok(()) }
            }
            StoreOperation::Flush => self.sync(),
            StoreOperation::Discard { length_bytes } => {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                match self.reshape(hole, io.offset_bytes, length_bytes) {
                    // A discard is a hint; a device without it keeps the blocks.
                    Err(StoreFault::Unsupported) => Ok(()),
                    other => other,
                }
            }
            StoreOperation::WriteZeroes { length_bytes, may_unmap, fua } => {
                if fua {
                    self.flush_fault.check()?;
                }
                self.zero(io.offset_bytes, length_bytes, may_unmap)?;
                if fua { self.sync() } else { Ok(()) }
            }
        }
    }

    fn zero(&mut self, offset_bytes: u64, length_bytes: u64, may_unmap: bool) -> StoreResult {
        let way = if may_unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        match self.reshape(way | FallocateFlags::KEEP_SIZE, offset_bytes, length_bytes) {
            Err(StoreFault::Unsupported) => {}
            other => return other,
        }
        self.repeat(length_bytes, |file, done, rest| {
            let piece = rest.min(ZEROES.len() as u64) as usize;
            let at = (offset_bytes + done) as libc::off_t;
            // SAFETY: the fd is open, and the constant zeroes are readable for `piece` bytes.
            unsafe { libc::pwrite(file, ZEROES.as_ptr().cast(), piece, at) }
        })
    }

    /// Calls `transfer(fd, done, rest)` until everything was moved.
    fn repeat(&mut self, length_bytes: u64, mut transfer: impl FnMut(i32, u64, u64) -> isize) -> StoreResult {
        let mut done = 0;
        while done < length_bytes {
            let moved = transfer(self.file.as_raw_fd(), done, length_bytes - done);
            match u64::try_from(moved) {
                Ok(0) => return Err(StoreFault::ShortTransfer),
                Ok(moved) => done += moved,
                Err(_) => match std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
                    libc::EINTR => {}
                    errno => return Err(StoreFault::from_errno(errno)),
                },
            }
            if done < length_bytes {
                self.counters.resumed += 1;
            }
        }
        Ok(())
    }

    fn reshape(&self, flags: FallocateFlags, offset_bytes: u64, length_bytes: u64) -> StoreResult {
        loop {
            match fallocate(self.file.as_fd(), flags, offset_bytes, length_bytes) {
                Err(Errno::INTR) => {}
                other => return other.map_err(|errno| StoreFault::from_errno(errno.raw_os_error())),
            }
        }
    }

    fn sync(&mut self) -> StoreResult {
        self.flush_fault.check()?;
        let result = loop {
            match fdatasync(self.file.as_fd()) {
                Err(Errno::INTR) => {}
                other => break other.map_err(|errno| StoreFault::from_errno(errno.raw_os_error())),
            }
        };
        self.flush_fault.note(result);
        result
    }
}

impl Backing for BufferedFile {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, io: StoreIo) -> Result<Submitted, SubmitRefusal> {
        let length_bytes = self.geometry.admit(&io)?;
        let result = self.carry_out(&io, length_bytes);
        self.counters.count(&io.operation, length_bytes, result);
        Ok(Submitted::Done(result))
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
