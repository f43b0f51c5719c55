//! Which versions each block of the load may hold: the model that every read is checked against.
//!
//! Versions of a block are numbered in the order of their writes, of which one is under way at a time. A read
//! may return any version from the newest that was acknowledged, or seen by a finished read, when it was
//! sent, up to the newest that was sent when it came back. That is linearizability of one block.

use super::stamp::{BlockNumber, Version};
use std::fmt;

/// The oldest version that a read may return, noted when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Floor(Version);

/// A version that the block cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HistoryFault {
    /// Older than what had been acknowledged or seen before.
    Stale {
        /// What came.
        found: Version,
        /// What it had to be at least.
        oldest: Version,
    },
    /// Newer than anything that was sent.
    NeverSent {
        /// What came.
        found: Version,
        /// The newest that was sent.
        newest: Version,
    },
}

impl fmt::Display for HistoryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HistoryFault::Stale { found, oldest } => {
                write!(f, "holds {found}, and {oldest} was acknowledged or read before")
            }
            HistoryFault::NeverSent { found, newest } => {
                write!(f, "holds {found}, and only {newest} has been sent")
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct BlockHistory {
    /// Newest version known to be there.
    settled: Version,
    /// Newest version sent.
    sent: Version,
    write_under_way: bool,
}

/// The histories of all blocks of the region.
#[derive(Clone, Debug)]
pub(super) struct History {
    blocks: Vec<BlockHistory>,
}

impl History {
    /// Blocks that have never been written.
    pub(super) fn new(blocks: u64) -> History {
        History { blocks: vec![BlockHistory::default(); blocks as usize] }
    }

    /// Number of blocks.
    pub(super) fn len(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Whether a write of this block is under way.
    pub(super) fn is_being_written(&self, block: BlockNumber) -> bool {
        self.blocks[block.0 as usize].write_under_way
    }

    /// A write is about to be sent: its version.
    pub(super) fn send_write(&mut self, block: BlockNumber) -> Version {
        let history = self.block(block);
        assert!(!history.write_under_way, "one write of a block at a time");
        history.write_under_way = true;
        history.sent.0 += 1;
        history.sent
    }

    /// The answer of the block's write. One that failed may have landed or not.
    pub(super) fn end_write(&mut self, block: BlockNumber, acknowledged: bool) {
        let history = self.block(block);
        assert!(history.write_under_way, "an answer follows a write");
        history.write_under_way = false;
        if acknowledged {
            history.settled = history.sent;
        }
    }

    /// A read is about to be sent.
    pub(super) fn send_read(&self, block: BlockNumber) -> Floor {
        Floor(self.blocks[block.0 as usize].settled)
    }

    /// A read came back with this version.
    pub(super) fn end_read(
        &mut self,
        block: BlockNumber,
        floor: Floor,
        found: Version,
    ) -> Result<(), HistoryFault> {
        let history = self.block(block);
        if found < floor.0 {
            return Err(HistoryFault::Stale { found, oldest: floor.0 });
        }
        if found > history.sent {
            return Err(HistoryFault::NeverSent { found, newest: history.sent });
        }
        history.settled = history.settled.max(found);
        Ok(())
    }

    fn block(&mut self, block: BlockNumber) -> &mut BlockHistory {
        &mut self.blocks[block.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: BlockNumber = BlockNumber(1);

    fn write(history: &mut History) {
        history.send_write(BLOCK);
        history.end_write(BLOCK, true);
    }

    #[test]
    fn a_version_older_than_an_acknowledged_one_is_stale() {
        let mut history = History::new(2);
        write(&mut history);
        write(&mut history);
        let floor = history.send_read(BLOCK);
        let stale = HistoryFault::Stale { found: Version(1), oldest: Version(2) };
        assert_eq!(history.end_read(BLOCK, floor, Version(1)), Err(stale));
        assert_eq!(history.end_read(BLOCK, floor, Version(2)), Ok(()));
        let zeroes = HistoryFault::Stale { found: Version(0), oldest: Version(2) };
        assert_eq!(history.end_read(BLOCK, floor, Version(0)), Err(zeroes), "a lost write");
    }

    #[test]
    fn a_read_beside_a_write_may_return_either_version_but_never_goes_back() {
        let mut history = History::new(2);
        write(&mut history);
        history.send_write(BLOCK);
        let floor = history.send_read(BLOCK);
        assert_eq!(history.end_read(BLOCK, floor, Version(1)), Ok(()));
        assert_eq!(history.end_read(BLOCK, floor, Version(2)), Ok(()));
        let later = history.send_read(BLOCK);
        let stale = HistoryFault::Stale { found: Version(1), oldest: Version(2) };
        assert_eq!(history.end_read(BLOCK, later, Version(1)), Err(stale), "a read has seen version 2");
    }

    #[test]
    fn a_write_that_failed_may_have_landed_or_not() {
        let mut history = History::new(2);
        write(&mut history);
        history.send_write(BLOCK);
        history.end_write(BLOCK, false);
        let floor = history.send_read(BLOCK);
        assert_eq!(history.end_read(BLOCK, floor, Version(1)), Ok(()));
        assert_eq!(history.end_read(BLOCK, floor, Version(2)), Ok(()));
    }

    #[test]
    fn a_version_that_was_never_sent_is_seen() {
        let mut history = History::new(2);
        write(&mut history);
        let floor = history.send_read(BLOCK);
        let fault = HistoryFault::NeverSent { found: Version(2), newest: Version(1) };
        assert_eq!(history.end_read(BLOCK, floor, Version(2)), Err(fault));
    }
}
