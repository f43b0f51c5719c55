//! The log as openraft uses it: all entries in memory, made durable in batches.
//!
//! **What counts, and when.** openraft 0.9 does not go on before an entry that it appends is reported
//! durable; a leader would write, sync, and only then send, one command at a time. So `append` reports at
//! once, and what openraft concludes from that is held back here until it is true:
//!
//! - an answer to an append request leaves this node only after [`LogStore::settle`];
//! - a command is applied and answered only after its entry is durable here ([`LogStore::settle_to`]);
//! - a leader tells others that an entry is committed only once it is durable here
//!   ([`LogStore::durable_part`]);
//! - a vote is durable before `save_vote` returns, and with it all that was appended before;
//! - a snapshot is installed only after [`LogStore::settle`];
//! - a leader that starts anew does not lead on in its old term ([`LogStore::step_down`]).
//!
//! Hence an entry is committed, as far as anyone can see, only when a majority that includes the leader has
//! it on disk. A leader writes while its followers write, and all that is proposed during one fsync shares
//! the next.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader, StorageIOError};
use parking_lot::Mutex;
use tokio::sync::Notify;
use transport_proto::identity::NodeId;

use crate::codec;
use crate::flavour::{Entry, Flavour, LogId, StorageError, Vote};
use crate::options::MESSAGE_ENTRIES_BYTES;
use crate::shelf::{Batch, Contents, Shelf, ShelfFault};

/// How long a new commit index may wait for company on its way to the disk.
const COMMITTED_DELAY: Duration = Duration::from_secs(1);

/// The log; clones are the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    log: Mutex<Log>,
    /// Rung when something waits for the disk.
    work: Notify,
    disk: DiskClock,
}

struct Log {
    entries: VecDeque<Entry>,
    entries_bytes: usize,
    /// Bytes of all entries ever appended in this life, those found on disk included.
    appended_bytes: u64,
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    dirty: Dirty,
    shelf: Box<dyn Shelf>,
    failed: Option<ShelfFault>,
}

/// What memory has and the disk has not.
#[derive(Default)]
struct Dirty {
    /// Entries at this index and above.
    entries_from: Option<u64>,
    /// On disk there are entries at or above that index, to be made void.
    cut: bool,
    vote: bool,
    purged: bool,
    committed: bool,
}

/// Since when the disk has been at work on one batch, readable from any thread.
#[derive(Debug)]
pub(crate) struct DiskClock {
    start: Instant,
    /// Nanoseconds from `start`, plus one; 0 while the disk is idle.
    busy_since: AtomicU64,
}

impl DiskClock {
    fn new() -> DiskClock {
        DiskClock { start: Instant::now(), busy_since: AtomicU64::new(0) }
    }

    fn begin(&self) {
        self.busy_since.store(self.start.elapsed().as_nanos() as u64 + 1, Ordering::Relaxed);
    }

    fn end(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    /// Age of the write that the disk has not finished.
    pub(crate) fn age(&self) -> Option<Duration> {
        match self.busy_since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(self.start.elapsed().saturating_sub(Duration::from_nanos(since - 1))),
        }
    }
}

impl Log {
    /// Position of the entry with this index, or where it would stand.
    fn position(&self, index: u64) -> usize {
        let first = self.entries.front().map_or(index, |entry| entry.log_id.index);
        (index.saturating_sub(first) as usize).min(self.entries.len())
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let mut taken = Vec::new();
        for entry in self.entries.range(self.position(start)..self.position(end)) {
            bytes += codec::entry_bytes(entry);
            if bytes > bytes_max && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        taken
    }

    fn append(&mut self, entry: Entry) {
        let index = entry.log_id.index;
        self.dirty.entries_from = Some(self.dirty.entries_from.map_or(index, |from| from.min(index)));
        let bytes = codec::entry_bytes(&entry);
        self.entries_bytes += bytes;
        self.appended_bytes += bytes as u64;
        self.entries.push_back(entry);
    }

    fn truncate(&mut self, index: u64) {
        let kept = self.position(index);
        for entry in self.entries.drain(kept..) {
            self.entries_bytes -= codec::entry_bytes(&entry);
        }
        self.dirty.entries_from = Some(self.dirty.entries_from.map_or(index, |from| from.min(index)));
        self.dirty.cut = true;
    }

    fn purge(&mut self, upto: LogId) {
        let gone = self.position(upto.index + 1);
        for entry in self.entries.drain(..gone) {
            self.entries_bytes -= codec::entry_bytes(&entry);
        }
        self.purged = Some(upto);
        self.dirty.purged = true;
    }

    /// Whether something up to this index is not durable yet. Once a write has failed, that cannot be known.
    fn waits_for_disk(&self, index: u64) -> Result<bool, StorageError> {
        match &self.failed {
            Some(fault) => Err(StorageIOError::write_logs(fault).into()),
            None => Ok(self.dirty.vote || self.dirty.entries_from.is_some_and(|from| from <= index)),
        }
    }

    /// Writes down all that is dirty, in one batch.
    fn flush(&mut self, disk: &DiskClock) -> Result<(), ShelfFault> {
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        let anew = self.shelf.is_mostly_void(self.entries_bytes);
        if anew {
            dirty = Dirty { entries_from: Some(0), cut: false, vote: true, purged: true, committed: true };
        }
        let mut batch = Batch {
            cut: dirty.entries_from.filter(|_| dirty.cut),
            entries: Vec::new(),
            vote: self.vote.filter(|_| dirty.vote),
            purged: self.purged.filter(|_| dirty.purged),
            committed: self.committed.filter(|_| dirty.committed),
        };
        if let Some(from) = dirty.entries_from {
            for entry in self.entries.range(self.position(from)..) {
                let mut bytes = Vec::with_capacity(codec::entry_bytes(entry));
                codec::put_entry(&mut bytes, entry);
                batch.entries.push(bytes);
            }
        }
        disk.begin();
        let kept = if anew { self.shelf.renew(&batch) } else { self.shelf.keep(&batch) };
        disk.end();
        if let Err(fault) = &kept {
            self.failed = Some(fault.clone());
        }
        kept
    }
}

impl LogStore {
    pub(crate) fn new(shelf: impl Shelf, contents: Contents) -> LogStore {
        let entries_bytes: usize = contents.entries.iter().map(codec::entry_bytes).sum();
        let log = Log {
            entries: contents.entries,
            entries_bytes,
            appended_bytes: entries_bytes as u64,
            vote: contents.vote,
            purged: contents.purged,
            committed: contents.committed,
            dirty: Dirty::default(),
            shelf: Box::new(shelf),
            failed: None,
        };
        let shared = Shared { log: Mutex::new(log), work: Notify::new(), disk: DiskClock::new() };
        LogStore { shared: Arc::new(shared) }
    }

    /// Age of the write that the disk has not finished.
    pub(crate) fn disk_age(&self) -> Option<Duration> {
        self.shared.disk.age()
    }

    /// Bytes of all entries, which are all in memory.
    pub(crate) fn entries_bytes(&self) -> usize {
        self.shared.log.lock().entries_bytes
    }

    /// Bytes of all entries ever appended in this life, those found on disk included.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.shared.log.lock().appended_bytes
    }

    /// Whether raft has ever run here.
    pub(crate) fn is_new(&self) -> bool {
        let log = self.shared.log.lock();
        log.vote.is_none() && log.purged.is_none() && log.entries.is_empty()
    }

    /// At the start: a node that led when it ended leads no more. What it sent before it was durable here may
    /// stand in the logs of others and not in its own; in the same term it would give other entries the same
    /// ids, and nobody could tell them apart.
    pub(crate) fn step_down(&self, node: NodeId) {
        let node = u64::from(node.0);
        let mut log = self.shared.log.lock();
        if let Some(vote) = &mut log.vote
            && vote.leader_id().voted_for() == Some(node)
        {
            *vote = Vote::new(vote.leader_id().term, node);
        }
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.shared
            .log
            .lock()
            .flush(&self.shared.disk)
            .map_err(|fault| StorageIOError::write_logs(&fault).into())
    }

    /// Waits until all that was appended or voted so far is durable.
    pub(crate) async fn settle(&self) -> Result<(), StorageError> {
        self.settle_to(u64::MAX).await
    }

    /// Waits until the entries up to this one are durable, as far as they are in the log.
    pub(crate) async fn settle_to(&self, index: u64) -> Result<(), StorageError> {
        if !self.shared.log.lock().waits_for_disk(index)? {
            return Ok(());
        }
        // Whoever is ready to run now may add to the batch, or send what it has to send before the disk
        // blocks.
        tokio::task::yield_now().await;
        if self.shared.log.lock().waits_for_disk(index)? { self.flush() } else { Ok(()) }
    }

    /// The part of `committed` that is durable here.
    pub(crate) fn durable_part(&self, committed: Option<LogId>) -> Option<LogId> {
        let log = self.shared.log.lock();
        if log.failed.is_some() {
            return None;
        }
        match (committed, log.dirty.entries_from) {
            (Some(id), Some(from)) if id.index >= from => {
                let before = log.position(from).checked_sub(1).and_then(|position| log.entries.get(position));
                before.map(|entry| entry.log_id).or(log.purged)
            }
            _ => committed,
        }
    }

    /// Makes durable what nobody waits for. Ends with the first failure.
    pub(crate) async fn keep_flushing(&self) -> ShelfFault {
        loop {
            let idle = {
                let log = self.shared.log.lock();
                if let Some(fault) = &log.failed {
                    return fault.clone();
                }
                log.dirty.committed.then_some(COMMITTED_DELAY)
            };
            match idle {
                None => self.shared.work.notified().await,
                Some(delay) => {
                    if tokio::time::timeout(delay, self.shared.work.notified()).await.is_err() {
                        let _ = self.flush();
                        continue;
                    }
                }
            }
            // A leader's messages leave before its disk blocks the thread.
            let _ = self.settle().await;
        }
    }

    /// Writes down what is left, at an orderly stop.
    pub(crate) fn finish(&self) {
        let _ = self.flush();
    }
}

impl RaftLogReader<Flavour> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let log = self.shared.log.lock();
        let first = log.entries.front().map_or(u64::MAX, |entry| entry.log_id.index);
        Ok(log.read(start.max(first), end.max(first), usize::MAX))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let log = self.shared.log.lock();
        let first = log.entries.front().map_or(u64::MAX, |entry| entry.log_id.index);
        if start < first {
            return Ok(Vec::new());
        }
        Ok(log.read(start, end, MESSAGE_ENTRIES_BYTES))
    }
}

impl RaftLogStorage<Flavour> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Flavour>, StorageError> {
        let log = self.shared.log.lock();
        let last_log_id = log.entries.back().map(|entry| entry.log_id).or(log.purged);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        {
            let mut log = self.shared.log.lock();
            log.vote = Some(*vote);
            log.dirty.vote = true;
        }
        self.flush()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.shared.log.lock().vote)
    }

    /// Goes to the disk with the next batch, or alone after a while. Losing it costs a restarted node a
    /// moment, until the leader tells it again.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let mut log = self.shared.log.lock();
        log.committed = committed;
        log.dirty.committed = true;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.shared.log.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Flavour>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        {
            let mut log = self.shared.log.lock();
            if let Some(fault) = &log.failed {
                return Err(StorageIOError::write_logs(fault).into());
            }
            entries.into_iter().for_each(|entry| log.append(entry));
        }
        self.shared.work.notify_one();
        // Early, on purpose: see the top of this file.
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.shared.log.lock().truncate(log_id.index);
        self.shared.work.notify_one();
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.shared.log.lock().purge(log_id);
        Ok(())
    }
}
