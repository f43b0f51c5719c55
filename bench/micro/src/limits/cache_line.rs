//! A cache line goes to the other core and back, between two spinning processes: the floor under every
//! message, and the probe that tells near cores from far ones.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use bench_harness::{
    Budget, Contender, CoreId, CorePair, Measured, MonotonicClock, Pinned, Run, Worker, closed_loop,
    tell_parent,
};
use serde::{Deserialize, Serialize};
use transport_buf::Region;

use super::shared_memory::{SharedMemory, wait_for};
use crate::role::{Role, SUB_COMMAND};

/// Round trips per sample: the clock's 20 ns would otherwise be a fifth of the figure.
pub(crate) const BATCH: u32 = 32;
/// Length of one probe: some ten thousand round trips.
const PROBE: Budget =
    Budget { warm_up: Duration::from_millis(2), measure: Duration::from_millis(8), operations_max: u64::MAX };

/// The worker's end: stores 2n + 2 when it sees 2n + 1.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Echo {
    memory: SharedMemory,
    core: CoreId,
}

impl Echo {
    /// Answers until the parent ends it.
    ///
    /// # Errors
    /// The parent is gone.
    pub(crate) fn serve(self) -> Result<()> {
        let region = self.memory.map()?;
        let _pinned = Pinned::to(self.core)?;
        tell_parent(&"ready")?;
        let word = region.word(0);
        let mut ping = 1;
        loop {
            wait_for(word, ping)?;
            word.store(ping + 1, Ordering::Release);
            ping += 2;
        }
    }
}

/// The bare round trip as a contender.
#[derive(Debug)]
pub(crate) struct CacheLineRoundTrip {
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// Length of a turn.
    pub(crate) budget: Budget,
    /// Half of there and back is told.
    pub(crate) half: bool,
}

impl Contender for CacheLineRoundTrip {
    fn name(&self) -> String {
        "bare cache line".to_owned()
    }

    fn measure(&mut self) -> Result<Measured> {
        let run = round_trips(self.cores, &self.budget)?;
        Ok(Measured::latency_of(if self.half { run.halved() } else { run }))
    }
}

/// Median round trip right now, in nanoseconds. Takes about 15 ms.
///
/// # Errors
/// The worker cannot be started or ended early.
pub(crate) fn round_trip_p50_ns(cores: CorePair) -> Result<u64> {
    Ok(round_trips(cores, &PROBE)?.recorder.summary().p50_ns)
}

fn round_trips(cores: CorePair, budget: &Budget) -> Result<Run> {
    let region = Region::create(64)?;
    let echo = Echo { memory: SharedMemory::of(&region), core: cores.worker };
    let mut worker = Worker::start(SUB_COMMAND, &Role::CacheLineEcho(echo))?;
    let _ready: String = worker.hear()?;
    let _pinned = Pinned::to(cores.ours)?;
    let word = region.word(0);
    let mut ping = 1;
    closed_loop(&mut MonotonicClock::start(), budget, BATCH, || -> Result<()> {
        word.store(ping, Ordering::Release);
        ping = wait_for(word, ping + 1)? + 1;
        Ok(())
    })
}
