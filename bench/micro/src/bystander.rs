//! Watches this machine beside the turns: how far the cores are from each other, and whether others ran on them.

use anyhow::Result;
use bench_harness::{CorePair, ForeignLoad, Placement, Witness};

use crate::limits::cache_line;
use crate::settings::Settings;

/// A turn counts while others used at most this many cores on average; idle daemons and timers stay far below.
const FOREIGN_CORES_MAX: f64 = 0.15;

/// The witness of every scenario. With `--keep-all-pairs` it looks away.
#[derive(Debug)]
pub(crate) struct Bystander {
    cores: CorePair,
    looks_away: bool,
    foreign: Option<ForeignLoad>,
}

impl Bystander {
    /// A witness for turns on these settings' cores.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { cores: settings.cores, looks_away: settings.keep_all_pairs, foreign: None }
    }
}

impl Witness for Bystander {
    fn placement(&mut self) -> Result<Option<Placement>> {
        if self.looks_away {
            return Ok(None);
        }
        cache_line::round_trip_p50_ns(self.cores).map(|ns| Some(Placement::of(ns)))
    }

    fn turn_begins(&mut self) -> Result<()> {
        self.foreign = Some(ForeignLoad::watch()?);
        Ok(())
    }

    fn turn_was_disturbed(&mut self) -> Result<bool> {
        let foreign = self.foreign.take();
        let cores = foreign.map_or(Ok(0.0), |foreign| foreign.cores())?;
        Ok(!self.looks_away && cores > FOREIGN_CORES_MAX)
    }
}
