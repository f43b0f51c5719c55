//! A message through netdisk's whole stack to the other host and back, halved, as perftest tells its latency.

use std::time::Instant;

use anyhow::{Result, ensure};
use bench_harness::{Budget, Contender, CorePair, Measured, Recorder};

use crate::netdisk::{Ask, Layout, Station};

/// One-way latency by halves of round trips.
#[derive(Debug)]
pub(crate) struct HalfRoundTrip {
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// Length of a turn.
    pub(crate) budget: Budget,
    /// How they are wired.
    pub(crate) layout: Layout,
    /// Bytes of the data part, there and back.
    pub(crate) bytes: usize,
}

impl Contender for HalfRoundTrip {
    fn name(&self) -> String {
        format!("netdisk {}", self.layout.carrier.word())
    }

    fn measure(&mut self) -> Result<Measured> {
        let mut station = Station::connect(self.layout, self.cores)?;
        let mut message = vec![0x5a; self.bytes];
        // There and back are the two operations of a sample.
        let mut recorder = Recorder::new(2);
        let start = Instant::now();
        let mut turn = 0_u64;
        while start.elapsed() < self.budget.warm_up + self.budget.measure {
            turn += 1;
            message[..8].copy_from_slice(&turn.to_le_bytes());
            let asked = Instant::now();
            let answer = station.ask(Ask::Echo, &message)?;
            let round_trip = asked.elapsed();
            ensure!(answer == turn, "asked {turn}, the answer was to {answer}");
            if asked.duration_since(start) >= self.budget.warm_up {
                recorder.record_batch_ns(round_trip.as_nanos() as u64);
            }
        }
        Ok(Measured::latency(recorder))
    }
}
