//! A bare copy between two processes: the parent copies each message into memory that the worker maps, the
//! worker reads it in place. One copy, no header, no credit, no call-back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use bench_harness::{
    Budget, Contender, CoreId, CorePair, Measured, MonotonicClock, Pinned, Unit, Worker, closed_loop,
    tell_parent,
};
use serde::{Deserialize, Serialize};
use transport_buf::{Chunk, Region, SlabLayout};

use super::shared_memory::{SharedMemory, wait_for};
use crate::role::{Role, SUB_COMMAND};

/// Where the count of messages that the writer published lies in the control region.
const PUBLISHED_AT: usize = 0;
/// Where the count of messages that the reader is done with lies; two lines further, away from the
/// prefetcher.
const CONSUMED_AT: usize = 256;
const CACHE_LINE_BYTES: usize = 64;
/// Messages per look at the clock.
const BATCH: u32 = 8;

/// How much of each message the reader looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reading {
    /// Its first and last byte: the rest may never leave the writer's cache.
    Ends,
    /// A byte of every cache line: all of it comes over.
    EveryLine,
}

/// Size and number of the places that messages are copied into.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Places {
    /// Bytes of a message, whole pages.
    pub(crate) bytes: u32,
    /// Messages that may be on their way at once.
    pub(crate) depth: u32,
}

impl Places {
    fn layout(self) -> SlabLayout {
        SlabLayout { classes: [(self.bytes, self.depth), (0, 0), (0, 0), (0, 0)] }
    }

    /// Takes up every place, in order. The writer owns place n % depth while n - consumed < depth, the reader
    /// once n is published.
    fn take_up(self, region: Region) -> Result<Vec<Chunk>> {
        let (region, bytes) = (Arc::new(region), self.bytes as usize);
        let place = |index| Chunk::take_up(&region, &self.layout(), index, bytes);
        (0..self.depth)
            .map(place)
            .collect::<Option<Vec<_>>>()
            .context("the region is too small for its places")
    }
}

/// The worker's end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reader {
    control: SharedMemory,
    memory: SharedMemory,
    places: Places,
    reading: Reading,
    core: CoreId,
}

impl Reader {
    /// Reads until the parent ends it.
    ///
    /// # Errors
    /// The parent is gone, or a message does not carry its number.
    pub(crate) fn serve(self) -> Result<()> {
        let control = self.control.map()?;
        let places = self.places.take_up(self.memory.map()?)?;
        let _pinned = Pinned::to(self.core)?;
        tell_parent(&"ready")?;
        let (published, consumed) = (control.word(PUBLISHED_AT), control.word(CONSUMED_AT));
        for turn in 0_u64.. {
            wait_for(published, turn + 1)?;
            let message = places[(turn % u64::from(self.places.depth)) as usize].as_ref();
            std::hint::black_box(look_at(message, self.reading));
            anyhow::ensure!(
                message.first() == Some(&(turn as u8)),
                "message {turn} was not the one published"
            );
            consumed.store(turn + 1, Ordering::Release);
        }
        Ok(())
    }
}

/// Reads as much of a message as `reading` says; the sum keeps the reads from being optimised away.
pub(crate) fn look_at(message: &[u8], reading: Reading) -> u64 {
    match reading {
        Reading::Ends => {
            message.first().zip(message.last()).map_or(0, |(a, b)| u64::from(*a) + u64::from(*b))
        }
        Reading::EveryLine => message.iter().step_by(CACHE_LINE_BYTES).map(|byte| u64::from(*byte)).sum(),
    }
}

/// The bare copy as a contender; counts payload bytes per second.
#[derive(Debug)]
pub(crate) struct MemoryCopy {
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// Length of a turn.
    pub(crate) budget: Budget,
    /// Size and depth.
    pub(crate) places: Places,
    /// What the reader looks at.
    pub(crate) reading: Reading,
}

impl Contender for MemoryCopy {
    fn name(&self) -> String {
        let read = match self.reading {
            Reading::Ends => "ends read",
            Reading::EveryLine => "all read",
        };
        format!("memcpy ×{}, {read}", self.places.depth)
    }

    fn measure(&mut self) -> Result<Measured> {
        let control = Region::create(transport_buf::region::PAGE_BYTES)?;
        let memory = Region::create(self.places.layout().region_bytes())?;
        let reader = Reader {
            control: SharedMemory::of(&control),
            memory: SharedMemory::of(&memory),
            places: self.places,
            reading: self.reading,
            core: self.cores.worker,
        };
        let mut worker = Worker::start(SUB_COMMAND, &Role::MemoryCopyReader(reader))?;
        let mut places = self.places.take_up(memory)?;
        let mut source = vec![0x5a_u8; self.places.bytes as usize];
        let _ready: String = worker.hear()?;
        let _pinned = Pinned::to(self.cores.ours)?;
        let (published, consumed) = (control.word(PUBLISHED_AT), control.word(CONSUMED_AT));
        let depth = u64::from(self.places.depth);
        let (mut turn, mut seen_consumed) = (0_u64, 0);
        let run = closed_loop(&mut MonotonicClock::start(), &self.budget, BATCH, || -> Result<()> {
            // The reader's line is fetched once per round of the places, not once per message.
            if turn - seen_consumed == depth {
                seen_consumed = wait_for(consumed, seen_consumed + 1)?;
            }
            source[0] = turn as u8;
            places[(turn % depth) as usize].as_mut().copy_from_slice(&source);
            turn += 1;
            published.store(turn, Ordering::Release);
            Ok(())
        })?;
        let bytes_per_s = run.operations_per_s() * f64::from(self.places.bytes);
        Ok(Measured::figure(bytes_per_s, Unit::BytesPerSecond))
    }
}
