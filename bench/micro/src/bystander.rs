//! Watches this machine beside the turns: how far the cores are from each other, and whether others ran on
//! them.

use anyhow::Result;
use bench_harness::{CorePair, ForeignLoad, Placement, Witness};

use crate::limits::cache_line;
use crate::settings::Settings;

/// A turn counts while others used at most this many cores on average; idle daemons and timers stay far
/// below.
const FOREIGN_CORES_MAX: f64 = 0.15;

/// The witness of every scenario.
#[derive(Debug)]
pub(crate) struct Bystander {
    cores: CorePair,
    foreign: Option<ForeignLoad>,
}

impl Bystander {
    /// A witness for turns on these settings' cores.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { cores: settings.cores, foreign: None }
    }
}

impl Witness for Bystander {
    fn placement(&mut self) -> Result<Option<Placement>> {
        cache_line::round_trip_p50_ns(self.cores).map(|ns| Some(Placement::of(ns)))
    }

    fn turn_begins(&mut self) -> Result<()> {
        self.foreign = Some(ForeignLoad::watch()?);
        Ok(())
    }

    fn turn_was_disturbed(&mut self) -> Result<bool> {
        let foreign = self.foreign.take();
        let cores = foreign.map_or(Ok(0.0), |foreign| foreign.cores())?;
        Ok(cores > FOREIGN_CORES_MAX)
    }
}
