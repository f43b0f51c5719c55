//! A disk on a file or block device: its superblock, its ownership, and the engine that moves its bytes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::backing::Backing;
use crate::buffered::BufferedFile;
use crate::counters::StoreCounters;
use crate::device::{direct_alignment, is_block_device, read_slots, set_direct, size_bytes, write_slot};
use crate::fault::{EpochRefusal, OwnershipAttempt, OwnershipRelease, StoreFault, SubmitRefusal};
use crate::geometry::Geometry;
use crate::open_refusal::OpenRefusal;
use crate::request::{StoreCompletion, StoreIo, Submitted};
use crate::superblock::{DiskUuid, SLOT_BYTES, Superblock, SuperblockFault, TAIL_BYTES, tail_offset};
use crate::uring::UringFile;

/// How many node processes may have a disk open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// This one only; it owns the disk as soon as it is open.
    Single,
    /// Two or more open it; nobody owns it until [`DiskFile::try_take_ownership`] says so.
    Dual,
}

/// How to drive the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring with direct I/O where both work, else plain system calls.
    Fastest,
    /// Plain system calls.
    Buffered,
}

/// How a disk is opened.
#[derive(Debug, Clone, Copy)]
pub struct OpenMode {
    /// Who else opens it.
    pub ports: Ports,
    /// Refuse changes; then a read-only file system will do. Several readers may share a single-ported disk.
    pub read_only: bool,
    /// How to drive it.
    pub engine: EngineChoice,
    /// Requests in flight at most, `1..=QUEUE_DEPTH_MAX`.
    pub queue_depth: u32,
    /// The id that the configuration expects; `None` takes any.
    pub expected_uuid: Option<DiskUuid>,
    /// The data bytes that the configuration expects, to tell a truncated image from a foreign file.
    pub expected_data_bytes: Option<u64>,
}

impl Default for OpenMode {
    fn default() -> Self {
        Self {
            ports: Ports::Single,
            read_only: false,
            engine: EngineChoice::Fastest,
            queue_depth: 128,
            expected_uuid: None,
            expected_data_bytes: None,
        }
    }
}

/// Who may use the disk now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    /// The lock is ours and requests are taken.
    Owned,
    /// The lock is ours; it goes when nothing is in flight. Requests are refused.
    Draining,
    /// The lock is not ours. Requests are refused, nothing is in flight.
    NotOwned,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per disk, and boxed with it")]
enum FileEngine {
    Uring(UringFile),
    Buffered(BufferedFile),
}

macro_rules! each {
    ($self:expr, $engine:ident => $call:expr) => {
        match &$self.engine {
            FileEngine::Uring($engine) => $call,
            FileEngine::Buffered($engine) => $call,
        }
    };
    (mut $self:expr, $engine:ident => $call:expr) => {
        match &mut $self.engine {
            FileEngine::Uring($engine) => $call,
            FileEngine::Buffered($engine) => $call,
        }
    };
}

/// An open disk.
///
/// **Ownership** of a dual-ported disk is `flock` on the one file description that also carries all its I/O.
/// The kernel drops that lock when the description's last holder is gone, and a request given to io_uring is
/// a holder: so when a process dies, the lock is free only after everything it had submitted has ended, and
/// the next owner cannot be overtaken by a late write of the last one (SPEC B5). This holds between processes
/// of one host that open the same inode; between hosts it proves nothing, there it takes a reservation of the
/// device.
#[derive(Debug)]
pub struct DiskFile {
    engine: FileEngine,
    ownership: Ownership,
    superblock: Superblock,
    /// The slot that `superblock` was read from or last written to.
    newest_slot: usize,
    tail_offset: u64,
    read_only: bool,
    access: String,
    path: PathBuf,
}

impl DiskFile {
    /// Opens a disk and checks that it is the right one. Does not wait for locks.
    ///
    /// # Errors
    /// [`OpenRefusal`], with path and remedy.
    pub fn open(path: &Path, mode: &OpenMode) -> Result<Self, OpenRefusal> {
        let device_fault = |source| OpenRefusal::from_io(path, source);
        let file = OpenOptions::new().read(true).write(!mode.read_only).open(path).map_err(device_fault)?;
        if is_block_device(&file).map_err(device_fault)?.is_none() {
            return Err(OpenRefusal::NotADisk { path: path.to_path_buf() });
        }
        let ownership = match mode.ports {
            Ports::Dual => Ownership::NotOwned,
            Ports::Single if lock(&file, mode.read_only).map_err(|errno| device_fault(errno.into()))? => {
                Ownership::Owned
            }
            Ports::Single => return Err(OpenRefusal::InUse { path: path.to_path_buf() }),
        };
        let (superblock, newest_slot, tail_offset) = read_superblock(path, &file, mode)?;
        let (engine, access) = choose_engine(path, file, &superblock, mode)?;
        Ok(Self {
            engine,
            ownership,
            superblock,
            newest_slot,
            tail_offset,
            read_only: mode.read_only,
            access,
            path: path.to_path_buf(),
        })
    }

    /// Where the disk is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the superblock said when it was last read or written by this process.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// See [`crate::AnyBacking::epoch`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.superblock.epoch
    }

    /// See [`crate::AnyBacking::access`].
    #[must_use]
    pub fn access(&self) -> &str {
        &self.access
    }

    /// See [`crate::AnyBacking::persist_epoch`].
    ///
    /// The older slot is written and made durable first, then the other: a crash in between leaves one whole
    /// slot, and afterwards the loss of either slot no longer loses the epoch, which would let a fenced node
    /// in again.
    ///
    /// # Errors
    /// [`EpochRefusal`].
    pub fn persist_epoch(&mut self, epoch: u64) -> Result<(), EpochRefusal> {
        if self.read_only {
            return Err(EpochRefusal::ReadOnly);
        }
        if self.ownership != Ownership::Owned {
            return Err(EpochRefusal::NotOwned);
        }
        if epoch < self.superblock.epoch {
            return Err(EpochRefusal::Behind { asked: epoch, stored: self.superblock.epoch });
        }
        for _ in 0..2 {
            let slot = 1 - self.newest_slot;
            let superblock =
                Superblock { epoch, generation: self.superblock.generation + 1, ..self.superblock };
            write_slot(self.file(), self.tail_offset, slot, &superblock.encode())
                .map_err(|error| EpochRefusal::Unknown { fault: fault_of(&error) })?;
            self.superblock = superblock;
            self.newest_slot = slot;
        }
        Ok(())
    }

    /// See [`crate::AnyBacking::try_take_ownership`]. Reads the superblock again, since the last owner may
    /// have raised the epoch.
    pub fn try_take_ownership(&mut self) -> OwnershipAttempt {
        match self.ownership {
            Ownership::Owned => {}
            // The lock was never let go, so nobody else can have changed the disk.
            Ownership::Draining => self.ownership = Ownership::Owned,
            Ownership::NotOwned => match lock(self.file(), self.read_only) {
                Ok(false) => return OwnershipAttempt::WouldBlock,
                Err(errno) => {
                    return OwnershipAttempt::Failed { fault: StoreFault::from_errno(errno.raw_os_error()) };
                }
                Ok(true) => {
                    if let Err(fault) = self.read_superblock_again() {
                        unlock(self.file());
                        return OwnershipAttempt::Failed { fault };
                    }
                    self.ownership = Ownership::Owned;
                }
            },
        }
        OwnershipAttempt::Taken { epoch: self.superblock.epoch }
    }

    /// See [`crate::AnyBacking::release_ownership`].
    pub fn release_ownership(&mut self) -> OwnershipRelease {
        if self.ownership == Ownership::Owned {
            self.ownership = Ownership::Draining;
        }
        let in_flight = self.in_flight();
        if self.ownership == Ownership::Draining {
            if in_flight > 0 {
                return OwnershipRelease::Draining { in_flight };
            }
            unlock(self.file());
            self.ownership = Ownership::NotOwned;
        }
        OwnershipRelease::Released
    }

    fn file(&self) -> &File {
        each!(self, engine => engine.file())
    }

    fn read_superblock_again(&mut self) -> Result<(), StoreFault> {
        let slots = read_slots(self.file(), self.tail_offset).map_err(|error| fault_of(&error))?;
        let damaged = StoreFault::Media { errno: libc::EUCLEAN };
        let (found, newest_slot) = Superblock::pick(&slots).map_err(|_| damaged)?;
        let identity =
            |superblock: &Superblock| (superblock.uuid, superblock.data_bytes, superblock.block_bytes);
        if identity(&found) != identity(&self.superblock) || found.epoch < self.superblock.epoch {
            return Err(damaged);
        }
        self.superblock = found;
        self.newest_slot = newest_slot;
        Ok(())
    }
}

impl Drop for DiskFile {
    /// Unlocks by hand once nothing is in flight. Closing would do, were it not for processes that another
    /// thread is just forking: they hold a copy of the description until their exec.
    fn drop(&mut self) {
        if let FileEngine::Uring(engine) = &mut self.engine {
            engine.drain();
        }
        if self.ownership != Ownership::NotOwned {
            unlock(self.file());
        }
    }
}

/// Tries to lock the description; `false` when somebody else holds it.
fn lock(file: &File, shared: bool) -> Result<bool, Errno> {
    let operation =
        if shared { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    match flock(file.as_fd(), operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn unlock(file: &File) {
    let unlocked = flock(file.as_fd(), FlockOperation::Unlock);
    assert!(unlocked.is_ok(), "letting go of a lock that we hold cannot fail: {unlocked:?}");
}

fn fault_of(error: &io::Error) -> StoreFault {
    error.raw_os_error().map_or(StoreFault::ShortTransfer, StoreFault::from_errno)
}

/// Superblock, its slot, and where the tail starts.
fn read_superblock(
    path: &Path,
    file: &File,
    mode: &OpenMode,
) -> Result<(Superblock, usize, u64), OpenRefusal> {
    let own_path = || path.to_path_buf();
    let device_fault = |source| OpenRefusal::from_io(path, source);
    let found_bytes = size_bytes(file).map_err(device_fault)?;
    let needed_bytes =
        mode.expected_data_bytes.unwrap_or(SLOT_BYTES as u64).next_multiple_of(SLOT_BYTES as u64)
            + TAIL_BYTES;
    let too_short = |needed_bytes| OpenRefusal::TooShort { path: own_path(), found_bytes, needed_bytes };
    let tail_offset = match tail_offset(found_bytes) {
        Some(tail_offset) if found_bytes >= needed_bytes => tail_offset,
        _ => return Err(too_short(needed_bytes)),
    };
    let slots = read_slots(file, tail_offset).map_err(device_fault)?;
    let (superblock, slot) = Superblock::pick(&slots).map_err(|fault| match fault {
        SuperblockFault::Absent => OpenRefusal::Foreign { path: own_path() },
        SuperblockFault::Damaged => OpenRefusal::Damaged { path: own_path() },
        SuperblockFault::Newer { version } => OpenRefusal::NewerVersion { path: own_path(), found: version },
    })?;
    if let Some(expected) = mode.expected_uuid
        && expected != superblock.uuid
    {
        return Err(OpenRefusal::WrongDisk { path: own_path(), found: superblock.uuid, expected });
    }
    if superblock.data_bytes > tail_offset {
        return Err(too_short(superblock.data_bytes.saturating_add(TAIL_BYTES)));
    }
    Ok((superblock, slot, tail_offset))
}

/// The fastest engine that works for this file, and how `status` names it.
fn choose_engine(
    path: &Path,
    file: File,
    superblock: &Superblock,
    mode: &OpenMode,
) -> Result<(FileEngine, String), OpenRefusal> {
    let Superblock { data_bytes, block_bytes, .. } = *superblock;
    let geometry = |memory_alignment| Geometry {
        data_bytes,
        block_bytes,
        memory_alignment,
        queue_depth: mode.queue_depth,
        read_only: mode.read_only,
    };
    let buffered = |file, reason: String| {
        let engine = FileEngine::Buffered(BufferedFile::new(file, geometry(1)));
        Ok((engine, format!("buffered ({reason})")))
    };
    if mode.engine == EngineChoice::Buffered {
        return buffered(file, "by configuration".into());
    }
    let Some(alignment) = direct_alignment(&file) else {
        return buffered(file, "the file system has no direct I/O".into());
    };
    if alignment.offset > block_bytes {
        let reason = format!("direct I/O needs blocks of {}, the disk has {block_bytes}", alignment.offset);
        return buffered(file, reason);
    }
    if let Err(error) = set_direct(&file) {
        return buffered(file, format!("no direct I/O: {error}"));
    }
    match UringFile::new(file, geometry(alignment.memory)) {
        Ok(engine) => Ok((FileEngine::Uring(engine), "io_uring, direct".into())),
        Err((file, error)) => {
            let flags = rustix::fs::fcntl_getfl(file.as_fd());
            let cleared = flags
                .and_then(|flags| rustix::fs::fcntl_setfl(file.as_fd(), flags - rustix::fs::OFlags::DIRECT));
            cleared.map_err(|errno| OpenRefusal::from_io(path, errno.into()))?;
            buffered(file, format!("no io_uring: {error}"))
        }
    }
}

impl Backing for DiskFile {
    fn geometry(&self) -> Geometry {
        each!(self, engine => engine.geometry())
    }
    fn submit(&mut self, io: StoreIo) -> Result<Submitted, SubmitRefusal> {
        if self.ownership != Ownership::Owned {
            return Err(SubmitRefusal::NotOwned);
        }
        each!(mut self, engine => engine.submit(io))
    }
    fn kick(&mut self) {
        each!(mut self, engine => engine.kick());
    }
    fn poll(&mut self, sink: &mut impl FnMut(StoreCompletion)) -> usize {
        each!(mut self, engine => engine.poll(sink))
    }
    fn in_flight(&self) -> usize {
        each!(self, engine => engine.in_flight())
    }
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        each!(self, engine => engine.event_fd())
    }
    fn arm(&mut self) -> bool {
        each!(mut self, engine => engine.arm())
    }
    fn oldest_submitted_age(&self) -> Option<Duration> {
        each!(self, engine => engine.oldest_submitted_age())
    }
    fn counters(&self) -> StoreCounters {
        each!(self, engine => engine.counters())
    }
}
