//! Heap allocations per message in steady state, both processes together.

use anyhow::{Result, ensure};
use bench_harness::{
    AllocationMeter, Budget, Contender, CorePair, Measured, MonotonicClock, Unit, allocations_are_counted,
    closed_loop,
};

use super::partner::Ask;
use super::station::Station;
use super::wiring::Layout;

/// Allocations of a message's way through the stack, counted over a whole turn.
#[derive(Debug)]
pub(crate) struct AllocationsPerMessage {
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// Length of the turn; its warm-up is the way into the steady state.
    pub(crate) budget: Budget,
    /// How they are wired.
    pub(crate) layout: Layout,
    /// Bytes of the data part, there and back.
    pub(crate) bytes: usize,
}

impl Contender for AllocationsPerMessage {
    fn name(&self) -> String {
        format!("netdisk {}", self.layout.carrier.word())
    }

    fn measure(&mut self) -> Result<Measured> {
        ensure!(allocations_are_counted(), "this binary lacks the counting allocator");
        let mut station = Station::connect(self.layout, self.cores)?;
        let message = vec![0x5a; self.bytes];
        let warm = Budget { measure: self.budget.warm_up, ..self.budget };
        let mut ask = |ask: Ask| station.ask(ask, &message).map(drop);
        closed_loop(&mut MonotonicClock::start(), &warm, 1, || ask(Ask::Echo))?;
        ask(Ask::CountAllocations)?;
        // The recorder's memory is taken before the meter starts.
        let steady = Budget { warm_up: std::time::Duration::ZERO, ..self.budget };
        let mut meter = None;
        let run = closed_loop(&mut MonotonicClock::start(), &steady, 1, || {
            meter.get_or_insert_with(AllocationMeter::start);
            ask(Ask::Echo)
        })?;
        let ours = meter.as_ref().map_or(0, AllocationMeter::allocations);
        let theirs = station.ask(Ask::TellAllocations, &[])?;
        ensure!(theirs != u64::MAX, "the partner did not count");
        let messages = run.operations as f64 * 2.0;
        Ok(Measured::figure((ours + theirs) as f64 / messages, Unit::AllocationsPerMessage))
    }
}
