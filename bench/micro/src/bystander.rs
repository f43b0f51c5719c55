//! Watches this machine beside the turns: how far the cores are from each other, and whether others ran on
//! them.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use bench_harness::{Comparison, CorePair, ForeignLoad, Placement, Witness};

use crate::limits::cache_line;

/// A turn counts while others used at most this many cores on average; idle daemons and timers stay far
/// below.
const FOREIGN_CORES_MAX: f64 = 0.15;

/// The witness of every scenario.
#[derive(Debug)]
pub(crate) struct Bystander {
    cores: CorePair,
    foreign: Option<ForeignLoad>,
    /// Which row it is, and how many pairs it wants.
    row: String,
    pairs: u32,
}

impl Bystander {
    /// A witness for the turns of a row on these cores.
    pub(crate) fn watching(cores: CorePair, row: &str, pairs: u32) -> Self {
        Self { cores, foreign: None, row: row.to_owned(), pairs }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let mut terminal = std::io::stderr().lock();
        if terminal.is_terminal() {
            let _ = write!(terminal, "\r\x1b[K");
        }
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

    /// A line that lives on the terminal until the row is done.
    fn pair_ended(&mut self, so_far: &Comparison) {
        let mut terminal = std::io::stderr().lock();
        if !terminal.is_terminal() {
            return;
        }
        let figure = so_far.ours(None).map(|figure| so_far.unit.show(figure)).unwrap_or_default();
        let ratio = so_far.ratio(None).map(|ratio| format!(", {ratio:.2}×")).unwrap_or_default();
        let (row, kept, dropped) = (&self.row, so_far.pairs.len(), so_far.pairs_dropped);
        // A terminal that is gone takes nothing; the figures go elsewhere.
        let _ = write!(
            terminal,
            "\r\x1b[K{row}: {kept} of {} pairs, {dropped} dropped: {figure}{ratio}",
            self.pairs
        );
        let _ = terminal.flush();
    }
}
