//! What a place that keeps the log has to do, and what is given to it.

use std::collections::VecDeque;
use std::path::PathBuf;

use crate::codec::{self, Reader, Torn};
use crate::flavour::{Entry, LogId, Vote};

/// All that the disk must know next, in one atomic step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Entries at this index and above are void, except those that follow.
    pub(crate) cut: Option<u64>,
    /// Entries that follow the last one, encoded.
    pub(crate) entries: Vec<Vec<u8>>,
    /// The vote, if it is new.
    pub(crate) vote: Option<Vote>,
    /// Up to where entries are gone, if that is new.
    pub(crate) purged: Option<LogId>,
    /// Up to where entries are known to be committed, if that is new.
    pub(crate) committed: Option<LogId>,
}

/// What a log holds when it is opened.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) entries: VecDeque<Entry>,
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogId>,
    pub(crate) committed: Option<LogId>,
}

/// A place that keeps batches. What it has taken survives a loss of power.
pub(crate) trait Shelf: Send + 'static {
    /// Keeps the whole batch, or fails. After a failure nothing is known of the disk, and nobody asks again.
    fn keep(&mut self, batch: &Batch) -> Result<(), ShelfFault>;

    /// Whether it is time to write everything anew, given that so many bytes of entries are not void.
    fn is_mostly_void(&self, _entries_bytes: usize) -> bool {
        false
    }

    /// Forgets everything but this batch, in one atomic step.
    fn renew(&mut self, everything: &Batch) -> Result<(), ShelfFault> {
        self.keep(everything)
    }
}

/// The disk did not keep a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: the log could not be written: {why}")]
pub(crate) struct ShelfFault {
    pub(crate) path: PathBuf,
    pub(crate) why: String,
}

impl Batch {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        codec::put_option(out, self.cut.as_ref(), |out, cut| codec::put_u64(out, *cut));
        codec::put_option(out, self.vote.as_ref(), codec::put_vote);
        codec::put_option(out, self.purged.as_ref(), codec::put_log_id);
        codec::put_option(out, self.committed.as_ref(), codec::put_log_id);
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        self.entries.iter().for_each(|entry| out.extend_from_slice(entry));
    }
}

impl Contents {
    /// Becomes what it is after one more batch. [`Torn`] where the batch does not fit what was there.
    pub(crate) fn follow(&mut self, batch: &[u8]) -> Result<(), Torn> {
        let mut reader = Reader::new(batch);
        if let Some(cut) = codec::option(&mut reader, |reader| reader.u64())? {
            while self.entries.back().is_some_and(|last| last.log_id.index >= cut) {
                self.entries.pop_back();
            }
        }
        self.vote = codec::option(&mut reader, codec::vote)?.or(self.vote);
        if let Some(purged) = codec::option(&mut reader, codec::log_id)? {
            while self.entries.front().is_some_and(|first| first.log_id.index <= purged.index) {
                self.entries.pop_front();
            }
            self.purged = Some(purged);
        }
        self.committed = codec::option(&mut reader, codec::log_id)?.or(self.committed);
        for _ in 0..reader.u32()? {
            let entry = codec::entry(&mut reader)?;
            let last = self.entries.back().map(|last| last.log_id).or(self.purged);
            if entry.log_id.index != last.map_or(0, |last| last.index + 1) {
                return Err(Torn);
            }
            self.entries.push_back(entry);
        }
        reader.end()
    }
}
