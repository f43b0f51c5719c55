//! A message goes through the whole stack to another process and back: endpoint, credits, demux, call-back,
//! twice.

use anyhow::{Result, ensure};
use bench_harness::{Budget, Contender, CorePair, Measured, MonotonicClock, closed_loop};

use super::partner::Ask;
use super::station::Station;
use super::wiring::{Layout, Waiting};

/// netdisk's round trip as a contender.
#[derive(Debug)]
pub(crate) struct MessageRoundTrip {
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// Length of a turn.
    pub(crate) budget: Budget,
    /// How they are wired.
    pub(crate) layout: Layout,
    /// Bytes of the data part, there and back.
    pub(crate) bytes: usize,
    /// Round trips per sample; the same as on the other side of the comparison.
    pub(crate) batch: u32,
}

impl Contender for MessageRoundTrip {
    fn name(&self) -> String {
        let waiting = match self.layout.waiting {
            Waiting::Spinning => "spinning",
            Waiting::Yielding => "yielding",
            Waiting::Adaptive => "adaptive",
            Waiting::Sleeping => "sleeping",
        };
        format!("netdisk {}, {waiting}", self.layout.carrier.word())
    }

    fn measure(&mut self) -> Result<Measured> {
        let mut station = Station::connect(self.layout, self.cores)?;
        let mut message = vec![0x5a; self.bytes];
        let mut turn = 0_u64;
        let run = closed_loop(&mut MonotonicClock::start(), &self.budget, self.batch, || -> Result<()> {
            turn += 1;
            message[..8].copy_from_slice(&turn.to_le_bytes());
            let answer = station.ask(Ask::Echo, &message)?;
            ensure!(answer == turn, "asked {turn}, the answer was to {answer}");
            Ok(())
        })?;
        Ok(Measured::latency_of(run))
    }
}
