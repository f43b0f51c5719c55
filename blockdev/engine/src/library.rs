//! The library surface: a virtual disk as a value that any thread may use (SPEC B13).
//!
//! ```text
//! any thread                                   the reactor's thread
//! Library ────── opening ──► bounded queue ──► LibraryDesk ──► whoever knows rows and permissions
//! VirtualDisk ── command ──►      "                 ─────────► BlockEngine
//!     Io (a future)  ◄────────────── completion ───────┘
//! ```
//! An [`Io`] is a future for any executor, and can be waited for by a plain thread. Bytes are not copied on
//! this way: a write is sent from the caller's own memory, a read gives the memory in which the bytes landed.
//! A program that owns the reactor's thread itself, and wants no hand-over at all, uses
//! [`BlockEngine`] directly.

use crate::data::{ReadData, WriteData};
use crate::engine::{BlockEngine, BlockIo, RefusedWhy};
use blockdev_proto::errno::BlockErrno;
use blockdev_proto::geometry::{BlockBytes, ByteRange, VolumeId};
use blockdev_proto::wire::{Operation, RequestFlags};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use transport_endpoint::Core;

/// Requests of all threads that wait for the reactor at the most; one more is refused.
pub const QUEUE_MAX: usize = 4096;

/// Why a request of the library did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoError {
    /// Too many requests wait; wait for one of them, then try again. Nothing happened.
    Busy,
    /// The node is stopping or has stopped. What became of the request is unknown.
    Stopped,
    /// The disk says no.
    Disk(BlockErrno),
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IoError::Busy => write!(f, "too many requests wait: wait for one to end and try again"),
            IoError::Stopped => write!(f, "the node has stopped: open the disk at a running one"),
            IoError::Disk(errno) => write!(f, "the disk failed the request: {errno:?}"),
        }
    }
}

impl std::error::Error for IoError {}

/// What a finished request gives: the bytes of a read, nothing for all else.
pub type IoResult = Result<Option<ReadData>, IoError>;

#[derive(Default)]
struct Outcome {
    result: Option<IoResult>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Slot {
    outcome: Mutex<Outcome>,
    done: Condvar,
}

impl Slot {
    fn finish(&self, result: IoResult) {
        let mut outcome = self.outcome.lock();
        outcome.result = Some(result);
        let waker = outcome.waker.take();
        drop(outcome);
        self.done.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A request under way: a future, or something to [`wait`](Io::wait) for. Dropping it gives up the result,
/// not the request.
#[must_use = "a request that nobody waits for may still fail"]
pub struct Io {
    slot: Arc<Slot>,
}

impl Io {
    fn failed(error: IoError) -> Io {
        let slot = Arc::new(Slot::default());
        slot.finish(Err(error));
        Io { slot }
    }

    /// Blocks this thread until the request has ended. Not for the reactor's own thread.
    pub fn wait(self) -> IoResult {
        let mut outcome = self.slot.outcome.lock();
        loop {
            if let Some(result) = outcome.result.take() {
                return result;
            }
            self.slot.done.wait(&mut outcome);
        }
    }
}

impl Future for Io {
    type Output = IoResult;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<IoResult> {
        let mut outcome = self.slot.outcome.lock();
        match outcome.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                outcome.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

struct Command {
    io: BlockIo,
    slot: Arc<Slot>,
}

/// Why a virtual disk was not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenRefusal {
    /// There is none of that name.
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// Its permissions do not let this process open it on this node.
    NotPermitted {
        /// The name asked for.
        name: String,
    },
    /// The node is stopping or has stopped.
    Stopped,
}

impl fmt::Display for OpenRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenRefusal::Unknown { name, known } => {
                write!(f, "there is no virtual disk {name:?}; there are: {}", known.join(", "))
            }
            OpenRefusal::NotPermitted { name } => write!(
                f,
                "the permissions of virtual disk {name:?} do not let this user open it on this node: ask its \
                 owner, or see netdisk permission"
            ),
            OpenRefusal::Stopped => write!(f, "the node has stopped: open the disk at a running one"),
        }
    }
}

impl std::error::Error for OpenRefusal {}

/// What an opened disk is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The virtual disk.
    pub volume: VolumeId,
    /// Bytes of the whole disk.
    pub size_bytes: u64,
    /// Bytes of a block.
    pub block_bytes: BlockBytes,
    /// Whether this process may write it.
    pub writable: bool,
}

/// A thread that waits for a disk to be opened; answered by [`LibraryDesk::opened`].
pub struct Opening {
    name: String,
    answer: SyncSender<Result<VirtualDisk, OpenRefusal>>,
}

impl Opening {
    /// The name of the disk.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What threads want of the desk, requests left aside.
pub enum DeskWish {
    /// Open a disk.
    Open(Opening),
    /// One opening of this disk is over.
    Close(VolumeId),
}

/// Everything on its way from threads to reactor.
#[derive(Default)]
struct Waiting {
    commands: VecDeque<Command>,
    wishes: VecDeque<DeskWish>,
}

/// The queue between threads and reactor.
struct Queue {
    waiting: Mutex<Waiting>,
    any: AtomicBool,
    stopped: AtomicBool,
    waker: Arc<mio::Waker>,
}

impl Queue {
    /// `false`: the desk is gone, or `put` found no room.
    fn put(&self, put: impl FnOnce(&mut Waiting) -> bool) -> bool {
        let mut waiting = self.waiting.lock();
        // Looked at under the lock: what is put after the desk took its last look would wait for ever.
        if self.stopped.load(Ordering::Acquire) || !put(&mut waiting) {
            return false;
        }
        self.any.store(true, Ordering::Release);
        drop(waiting);
        if self.waker.wake().is_err() {
            // The reactor sees the queue within its longest sleep.
            tracing::warn!("the reactor could not be woken");
        }
        true
    }
}

/// Opens virtual disks, from any thread.
#[derive(Clone)]
pub struct Library {
    queue: Arc<Queue>,
}

impl Library {
    /// Opens a virtual disk by name, as it is configured now. Waits for the reactor; not for its own thread.
    pub fn open(&self, name: &str) -> Result<VirtualDisk, OpenRefusal> {
        let (answer, answered) = sync_channel(1);
        let opening = Opening { name: name.to_owned(), answer };
        self.queue.put(|waiting| {
            waiting.wishes.push_back(DeskWish::Open(opening));
            true
        });
        answered.recv().unwrap_or(Err(OpenRefusal::Stopped))
    }
}

/// One opening; over when the last disk that shares it is dropped.
struct Lifetime {
    queue: Arc<Queue>,
    volume: VolumeId,
}

impl Drop for Lifetime {
    fn drop(&mut self) {
        let volume = self.volume;
        self.queue.put(|waiting| {
            waiting.wishes.push_back(DeskWish::Close(volume));
            true
        });
    }
}

/// A virtual disk of the cluster, for any thread. Clones are the same opening of it.
#[derive(Clone)]
pub struct VirtualDisk {
    lifetime: Arc<Lifetime>,
    opened: Opened,
}

impl VirtualDisk {
    /// Bytes of the whole disk, when it was opened.
    pub fn size_bytes(&self) -> u64 {
        self.opened.size_bytes
    }

    /// Bytes of a block; offsets and lengths are multiples of it.
    pub fn block_bytes(&self) -> u32 {
        self.opened.block_bytes.get()
    }

    /// Whether writes are let through.
    pub fn is_writable(&self) -> bool {
        self.opened.writable
    }

    /// Reads `length` bytes (at most 1 MiB) from `offset` on.
    pub fn read(&self, offset: u64, length: u32) -> Io {
        self.submit(Operation::Read, RequestFlags::NONE, ByteRange::new(offset, length), None)
    }

    /// Writes `bytes` (at most 1 MiB) at `offset`, from the caller's own memory, which is lent until the end.
    pub fn write(&self, offset: u64, bytes: Arc<Vec<u8>>) -> Io {
        self.put(offset, bytes, RequestFlags::NONE)
    }

    /// As [`VirtualDisk::write`], on stable storage when it ends (forced unit access).
    pub fn write_durable(&self, offset: u64, bytes: Arc<Vec<u8>>) -> Io {
        self.put(offset, bytes, RequestFlags::FUA)
    }

    fn put(&self, offset: u64, bytes: Arc<Vec<u8>>, flags: RequestFlags) -> Io {
        let range = ByteRange::new(offset, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.submit(Operation::Write, flags, range, Some(WriteData::Caller(bytes)))
    }

    /// Every write that ended before this call is on stable storage when it ends.
    pub fn flush(&self) -> Io {
        self.submit(Operation::Flush, RequestFlags::NONE, ByteRange::EMPTY, None)
    }

    /// The range's content does not matter any more.
    pub fn discard(&self, offset: u64, length: u32) -> Io {
        self.submit(Operation::Discard, RequestFlags::NONE, ByteRange::new(offset, length), None)
    }

    /// The range reads as zeroes from then on.
    pub fn write_zeroes(&self, offset: u64, length: u32) -> Io {
        self.submit(Operation::WriteZeroes, RequestFlags::NONE, ByteRange::new(offset, length), None)
    }

    fn submit(
        &self,
        operation: Operation,
        flags: RequestFlags,
        range: ByteRange,
        data: Option<WriteData>,
    ) -> Io {
        let queue = &self.lifetime.queue;
        if operation.modifies() && !self.opened.writable {
            return Io::failed(IoError::Disk(BlockErrno::Erofs));
        }
        let slot = Arc::new(Slot::default());
        let io = BlockIo { volume: self.opened.volume, operation, flags, range, data, tag: 0 };
        let command = Command { io, slot: slot.clone() };
        let taken = queue.put(|waiting| {
            let has_room = waiting.commands.len() < QUEUE_MAX;
            if has_room {
                waiting.commands.push_back(command);
            }
            has_room
        });
        match taken {
            true => Io { slot },
            false if queue.stopped.load(Ordering::Acquire) => Io::failed(IoError::Stopped),
            false => Io::failed(IoError::Busy),
        }
    }
}

/// The reactor's end of the library surface.
pub struct LibraryDesk {
    queue: Arc<Queue>,
    /// Taken from the queue, not taken by the engine yet.
    waiting: VecDeque<Command>,
    wishes: VecDeque<DeskWish>,
    /// Requests with the engine, by the number that their tag bears.
    under_way: Vec<Option<Arc<Slot>>>,
    free: Vec<u32>,
}

impl LibraryDesk {
    /// A desk whose clients wake the reactor by `waker`.
    pub fn new(waker: Arc<mio::Waker>) -> LibraryDesk {
        let queue = Queue {
            waiting: Mutex::default(),
            any: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            waker,
        };
        LibraryDesk {
            queue: Arc::new(queue),
            waiting: VecDeque::new(),
            wishes: VecDeque::new(),
            under_way: Vec::new(),
            free: Vec::new(),
        }
    }

    /// For other threads, to open disks by.
    pub fn library(&self) -> Library {
        Library { queue: self.queue.clone() }
    }

    /// What threads want; to be asked for after each [`LibraryDesk::poll`].
    #[inline]
    pub fn next_wish(&mut self) -> Option<DeskWish> {
        self.wishes.pop_front()
    }

    /// The answer to an opening. After a good one somebody has the disk open until its [`DeskWish::Close`].
    pub fn opened(&self, opening: Opening, result: Result<Opened, OpenRefusal>) {
        let disk = result.map(|opened| VirtualDisk {
            lifetime: Arc::new(Lifetime { queue: self.queue.clone(), volume: opened.volume }),
            opened,
        });
        // Whoever does not wait any more closes it by dropping it.
        let _ = opening.answer.send(disk);
    }

    /// Hands to the engine what other threads have asked for; `tag_of` turns the desk's number into the tag
    /// that the completion will bear. Returns how many were handed over.
    #[inline]
    pub fn poll(&mut self, core: &mut Core, engine: &mut BlockEngine, tag_of: impl Fn(u32) -> u64) -> usize {
        if !self.queue.any.load(Ordering::Relaxed) && self.waiting.is_empty() {
            return 0;
        }
        {
            let mut waiting = self.queue.waiting.lock();
            self.waiting.append(&mut waiting.commands);
            self.wishes.append(&mut waiting.wishes);
            self.queue.any.store(false, Ordering::Relaxed);
        }
        let mut count = 0;
        while let Some(Command { mut io, slot }) = self.waiting.pop_front() {
            if !engine.may_submit() {
                self.waiting.push_front(Command { io, slot });
                break;
            }
            let number = self.enter(slot.clone());
            io.tag = tag_of(number);
            if let Err(refused) = engine.submit(core, io) {
                self.leave(number);
                slot.finish(Err(match refused.why {
                    RefusedWhy::Full => IoError::Busy,
                    RefusedWhy::Failed(errno) => IoError::Disk(errno),
                }));
            }
            count += 1;
        }
        count
    }

    /// The engine finished the request of this number.
    pub fn complete(&mut self, number: u32, result: Result<Option<ReadData>, BlockErrno>) {
        if let Some(slot) = self.leave(number) {
            slot.finish(result.map_err(IoError::Disk));
        }
    }

    /// Whether nothing waits to be handed over.
    pub fn arm(&mut self) -> bool {
        self.waiting.is_empty() && self.wishes.is_empty() && !self.queue.any.load(Ordering::Acquire)
    }

    fn enter(&mut self, slot: Arc<Slot>) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.under_way[number as usize] = Some(slot);
                number
            }
            None => {
                self.under_way.push(Some(slot));
                self.under_way.len() as u32 - 1
            }
        }
    }

    fn leave(&mut self, number: u32) -> Option<Arc<Slot>> {
        let slot = self.under_way.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(slot)
    }
}

impl Drop for LibraryDesk {
    fn drop(&mut self) {
        self.queue.stopped.store(true, Ordering::Release);
        // Openings that wait are answered by their senders' end.
        let queued = core::mem::take(&mut *self.queue.waiting.lock()).commands;
        let waiting = self.waiting.drain(..).chain(queued).map(|command| command.slot);
        for slot in waiting.chain(self.under_way.iter_mut().filter_map(Option::take)) {
            slot.finish(Err(IoError::Stopped));
        }
    }
}
