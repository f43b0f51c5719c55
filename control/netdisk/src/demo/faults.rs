//! Everything that a client must never see, counted, with the first few in words.

use super::history::HistoryFault;
use super::stamp::{BlockNumber, StampFault};
use blockdev_nbd::BlockErrno;
use serde::Serialize;

/// Notes that are kept; a broken disk would give one per block.
const NOTES_MAX: usize = 8;

/// Counts of what went wrong; all zero in a good run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Faults {
    /// Requests that were answered with an error.
    pub(super) errors: u64,
    /// Blocks in which an acknowledged write was not found at the end.
    pub(super) lost: u64,
    /// Reads during the load that returned an older version than acknowledged before.
    pub(super) stale: u64,
    /// Blocks with a checksum that does not fit.
    pub(super) torn: u64,
    /// Blocks with content of another block, another run, or of no write at all.
    pub(super) misplaced: u64,
    /// Bytes of the image that differ at the end.
    pub(super) image_bytes_wrong: u64,
    /// The first few in words.
    pub(super) notes: Vec<String>,
}

/// When a block was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Load,
    ReadBack,
}

impl Faults {
    /// Whether nothing went wrong.
    pub(super) fn is_clean(&self) -> bool {
        *self == Faults::default()
    }

    /// A request failed.
    pub(super) fn error(&mut self, what: &str, errno: BlockErrno) {
        self.errors += 1;
        self.note(format!("{what} was answered with an error: {errno}"));
    }

    /// A block is no version of itself.
    pub(super) fn stamp(&mut self, block: BlockNumber, fault: StampFault, through: &str) {
        match fault {
            StampFault::Torn => self.torn += 1,
            StampFault::Misplaced { .. } | StampFault::Foreign => self.misplaced += 1,
        }
        self.note(format!("{block}, read through {through}, {fault}"));
    }

    /// A block holds a version that it cannot hold.
    pub(super) fn history(&mut self, block: BlockNumber, fault: HistoryFault, moment: Moment, through: &str) {
        match (fault, moment) {
            (HistoryFault::Stale { .. }, Moment::Load) => self.stale += 1,
            (HistoryFault::Stale { .. }, Moment::ReadBack) => self.lost += 1,
            (HistoryFault::NeverSent { .. }, _) => self.misplaced += 1,
        }
        self.note(format!("{block}, read through {through}, {fault}"));
    }

    /// Bytes of the image differ from the input.
    pub(super) fn image(&mut self, bytes: u64, first: u64, through: &str) {
        self.image_bytes_wrong += bytes;
        self.note(format!(
            "{bytes} bytes of the image, read through {through}, are wrong, the first at {first}"
        ));
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }
}
