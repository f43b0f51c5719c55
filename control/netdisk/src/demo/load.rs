//! The verifying random load: which requests it sends, and what it makes of their answers. No I/O of its own.

use super::faults::{Faults, Moment};
use super::history::{Floor, History};
use super::stamp::{BLOCK_BYTES, BlockNumber, Random, Stamper};

/// Blocks of one request at the most.
const BLOCKS_MAX: u64 = 8;
/// Places that are tried for a write before a read takes its turn.
const TRIES_MAX: usize = 8;
/// One write in so many is durable when answered.
const DURABLE_EVERY: u64 = 32;

/// A request of the load.
#[derive(Debug)]
pub(super) enum LoadRequest {
    /// Blocks from `first` with these bytes.
    Write { first: BlockNumber, bytes: Vec<u8>, durable: bool },
    /// As many blocks from `first` as there are floors.
    Read { first: BlockNumber, floors: Vec<Floor> },
}

/// What was asked, kept until the answer comes.
#[derive(Debug)]
pub(super) enum LoadErrand {
    Write { first: BlockNumber, count: u64 },
    Read { first: BlockNumber, floors: Vec<Floor> },
}

/// The load's model of its region of the disk.
pub(super) struct Load {
    stamper: Stamper,
    history: History,
    random: Random,
}

impl Load {
    /// A load over `blocks` blocks of a new disk.
    pub(super) fn new(run: u64, blocks: u64) -> Load {
        Load { stamper: Stamper::new(run), history: History::new(blocks), random: Random::new(run) }
    }

    /// Blocks of the region.
    pub(super) fn blocks(&self) -> u64 {
        self.history.len()
    }

    /// The next request, a write or a read of one to a few blocks.
    pub(super) fn next(&mut self) -> LoadRequest {
        let writes = self.random.below(2) == 0;
        let mut place = self.place();
        if writes {
            for _ in 0..TRIES_MAX {
                if numbers(place).all(|block| !self.history.is_being_written(block)) {
                    return self.write(place);
                }
                place = self.place();
            }
        }
        let floors = numbers(place).map(|block| self.history.send_read(block)).collect();
        LoadRequest::Read { first: place.0, floors }
    }

    /// First block and count.
    fn place(&mut self) -> (BlockNumber, u64) {
        // Mostly single blocks.
        let count = if self.random.below(4) == 0 { 1 + self.random.below(BLOCKS_MAX) } else { 1 };
        (BlockNumber(self.random.below(self.history.len() - count + 1)), count)
    }

    fn write(&mut self, place: (BlockNumber, u64)) -> LoadRequest {
        let mut bytes = vec![0; place.1 as usize * BLOCK_BYTES];
        for (block, piece) in numbers(place).zip(bytes.chunks_exact_mut(BLOCK_BYTES)) {
            let version = self.history.send_write(block);
            self.stamper.write(block, version, piece);
        }
        LoadRequest::Write { first: place.0, bytes, durable: self.random.below(DURABLE_EVERY) == 0 }
    }

    /// A write was answered.
    pub(super) fn wrote(&mut self, first: BlockNumber, count: u64, acknowledged: bool) {
        for block in numbers((first, count)) {
            self.history.end_write(block, acknowledged);
        }
    }

    /// A read was answered with these bytes.
    pub(super) fn read(
        &mut self,
        first: BlockNumber,
        floors: &[Floor],
        bytes: &[u8],
        faults: &mut Faults,
        seen: (Moment, &str),
    ) {
        let (moment, through) = seen;
        let blocks = numbers((first, floors.len() as u64)).zip(bytes.chunks_exact(BLOCK_BYTES));
        for ((block, piece), floor) in blocks.zip(floors) {
            match self.stamper.read(block, piece) {
                Err(fault) => faults.stamp(block, fault, through),
                Ok(version) => {
                    if let Err(fault) = self.history.end_read(block, *floor, version) {
                        faults.history(block, fault, moment, through);
                    }
                }
            }
        }
    }

    /// The floors of blocks that are read back when nothing is under way any more.
    pub(super) fn floors(&self, first: BlockNumber, count: u64) -> Vec<Floor> {
        numbers((first, count)).map(|block| self.history.send_read(block)).collect()
    }
}

fn numbers(place: (BlockNumber, u64)) -> impl Iterator<Item = BlockNumber> {
    (place.0.0..place.0.0 + place.1).map(BlockNumber)
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
