//! Two contenders in turn, A B A B …, so that whatever changes on the machine hits both alike.

use anyhow::Result;
use serde::Serialize;

use crate::{Placement, Recorder, Run, Summary, Timeline, Unit};

/// One side of a comparison. Each measurement starts everything it needs and leaves nothing running behind,
/// so that the other side has the machine to itself.
pub trait Contender {
    /// What the table calls it, for example `raw TCP, epoll`.
    fn name(&self) -> String;
    /// Measures once, from start to stop.
    ///
    /// # Errors
    /// What went wrong and what to do; the whole row is then not measured.
    fn measure(&mut self) -> Result<Measured>;
}

/// What one measurement found.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The number that is compared, in `unit`: for latencies the median.
    pub figure: f64,
    /// Unit of `figure`.
    pub unit: Unit,
    /// The latencies behind it, if there were any.
    pub recorder: Option<Recorder>,
    /// The same by time, if it was kept.
    pub timeline: Option<Timeline>,
}

impl Measured {
    /// A latency, compared by its median.
    pub fn latency(recorder: Recorder) -> Self {
        let figure = recorder.summary().p50_ns as f64;
        Self { figure, unit: Unit::Nanoseconds, recorder: Some(recorder), timeline: None }
    }

    /// The latencies of a loop, compared by their median.
    pub fn latency_of(run: Run) -> Self {
        Self { timeline: Some(run.timeline), ..Self::latency(run.recorder) }
    }

    /// The operations per second of a loop, its latencies behind them.
    pub fn rate_of(run: Run) -> Self {
        let (figure, unit) = (run.operations_per_s(), Unit::OperationsPerSecond);
        Self { figure, unit, recorder: Some(run.recorder), timeline: Some(run.timeline) }
    }

    /// The bytes per second of a loop whose operations move so many bytes each.
    pub fn bandwidth_of(run: Run, operation_bytes: u32) -> Self {
        let figure = run.operations_per_s() * f64::from(operation_bytes);
        Self { figure, unit: Unit::BytesPerSecond, ..Self::rate_of(run) }
    }

    /// A single number without a distribution.
    pub fn figure(figure: f64, unit: Unit) -> Self {
        Self { figure, unit, recorder: None, timeline: None }
    }
}

/// Watches the machine beside the turns, and tells which of them count.
pub trait Witness {
    /// Where the cores are now; `None` if this comparison does not ask.
    ///
    /// # Errors
    /// The probe failed; the comparison ends.
    fn placement(&mut self) -> Result<Option<Placement>>;
    /// A turn begins.
    ///
    /// # Errors
    /// The machine cannot be watched; the comparison ends.
    fn turn_begins(&mut self) -> Result<()>;
    /// Whether others ran so much during the turn that ends now that it must not count.
    ///
    /// # Errors
    /// The machine cannot be watched; the comparison ends.
    fn turn_was_disturbed(&mut self) -> Result<bool>;
    /// Told after each pair what there is so far, dropped pairs included.
    fn pair_ended(&mut self, _so_far: &Comparison) {}
}

/// How many pairs a comparison wants, and when it gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alternation {
    /// Pairs to keep.
    pub pairs: u32,
    /// Pairs to try at most, those dropped included.
    pub tries_max: u32,
    /// Keep disturbed pairs too, marked [`Placement::Disturbed`]: shows function and rough ratios on a busy
    /// machine.
    pub keep_disturbed: bool,
}

/// One turn: ours, then the limit or peer.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// Our figure, if our side took part.
    pub ours: Option<f64>,
    /// The figure of the limit or peer, if there is one.
    pub limit: Option<f64>,
    /// Ours divided by the limit, if both took part.
    pub ratio: Option<f64>,
    /// Where the cores were, if that was probed; the same before, between and after.
    pub placement: Option<Placement>,
}

/// All turns of two contenders.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Unit of both sides' figures.
    pub unit: Unit,
    /// The pairs kept, in the order in which they ran.
    pub pairs: Vec<Pair>,
    /// Pairs thrown away because the placement of the cores changed or others ran beside them.
    pub pairs_dropped: u32,
    /// All latencies of our side, merged over the pairs kept.
    pub ours_latency: Option<Summary>,
    /// All latencies of the limit or peer, merged over the pairs kept.
    pub limit_latency: Option<Summary>,
    /// Distributions behind the summaries, for `.hgrm` files and pictures.
    #[serde(skip)]
    pub recorders: [Option<Recorder>; 2],
    /// Latencies by time, turn after turn, for pictures.
    #[serde(skip)]
    pub timelines: [Option<Timeline>; 2],
}

impl Comparison {
    /// Median of our figures, over pairs of one placement or of all.
    pub fn ours(&self, only: Option<Placement>) -> Option<f64> {
        median(self.of(only).filter_map(|pair| pair.ours).collect())
    }

    /// Median of the figures of the limit or peer.
    pub fn limit(&self, only: Option<Placement>) -> Option<f64> {
        median(self.of(only).filter_map(|pair| pair.limit).collect())
    }

    /// Median of the ratios, each taken within its pair.
    pub fn ratio(&self, only: Option<Placement>) -> Option<f64> {
        median(self.of(only).filter_map(|pair| pair.ratio).collect())
    }

    /// Smallest and largest ratio.
    pub fn ratio_spread(&self) -> Option<(f64, f64)> {
        let ratios = || self.pairs.iter().filter_map(|pair| pair.ratio);
        let (low, high) = (ratios().fold(f64::INFINITY, f64::min), ratios().fold(0.0, f64::max));
        low.is_finite().then_some((low, high))
    }

    /// For example `7 near, 3 far, 2 dropped`; empty if nothing was probed and nothing dropped.
    pub fn placements(&self) -> String {
        let words = [Placement::Near, Placement::Far, Placement::Disturbed].map(|placement| {
            match self.of(Some(placement)).count() {
                0 => String::new(),
                count => format!("{count} {}", placement.word()),
            }
        });
        let dropped = match self.pairs_dropped {
            0 => String::new(),
            count => format!("{count} dropped"),
        };
        words.into_iter().chain([dropped]).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ")
    }

    fn of(&self, only: Option<Placement>) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().filter(move |pair| only.is_none() || pair.placement == only)
    }
}

/// Runs `ours` and `limit` in turn until enough pairs are kept or the tries are used up. A side that is
/// `None` is left
/// out: a limit alone is measured for orientation, ours alone against an absolute goal.
///
/// The witness is asked for the cores' placement before each side and after the last; a pair is kept only if
/// all answers agree, none is *disturbed*, and no turn was.
///
/// # Errors
/// The first error of a contender or of the witness.
pub fn alternate<'a>(
    alternation: Alternation,
    ours: Option<&'a mut dyn Contender>,
    limit: Option<&'a mut dyn Contender>,
    witness: &mut dyn Witness,
) -> Result<Comparison> {
    let mut comparison = Comparison {
        unit: Unit::Nanoseconds,
        pairs: Vec::new(),
        pairs_dropped: 0,
        ours_latency: None,
        limit_latency: None,
        recorders: [None, None],
        timelines: [None, None],
    };
    let mut sides = [ours, limit];
    let mut tries = 0;
    while comparison.pairs.len() < alternation.pairs as usize && tries < alternation.tries_max {
        tries += 1;
        let placement = witness.placement()?;
        let mut settled = placement != Some(Placement::Disturbed);
        let mut turns = [None, None];
        for (turn, side) in turns.iter_mut().zip(&mut sides) {
            if let Some(contender) = side {
                witness.turn_begins()?;
                *turn = Some(contender.measure()?);
                settled &= !witness.turn_was_disturbed()?;
                settled &= witness.placement()? == placement;
            }
        }
        if settled {
            comparison.keep(turns, placement);
        } else if alternation.keep_disturbed {
            comparison.keep(turns, Some(Placement::Disturbed));
        } else {
            comparison.pairs_dropped += 1;
        }
        witness.pair_ended(&comparison);
    }
    comparison.ours_latency = comparison.recorders[0].as_ref().map(Recorder::summary);
    comparison.limit_latency = comparison.recorders[1].as_ref().map(Recorder::summary);
    Ok(comparison)
}

impl Comparison {
    fn keep(&mut self, turns: [Option<Measured>; 2], placement: Option<Placement>) {
        let [ours, limit] = turns.each_ref().map(|turn| turn.as_ref().map(|measured| measured.figure));
        let mut units = turns.iter().flatten().map(|measured| measured.unit);
        self.unit = units.next().unwrap_or(self.unit);
        assert!(units.all(|unit| unit == self.unit), "both sides of a comparison count the same thing");
        let ratio = ours.zip(limit).filter(|(_, limit)| *limit > 0.0).map(|(ours, limit)| ours / limit);
        self.pairs.push(Pair { ours, limit, ratio, placement });
        for (side, measured) in turns.into_iter().enumerate() {
            let Some(measured) = measured else { continue };
            match (self.recorders[side].as_mut(), measured.recorder) {
                (Some(all), Some(one)) => all.merge(&one),
                (None, one) => self.recorders[side] = one,
                (Some(_), None) => {}
            }
            match (self.timelines[side].as_mut(), measured.timeline) {
                (Some(all), Some(one)) => all.append(&one),
                (None, one) => self.timelines[side] = one,
                (Some(_), None) => {}
            }
        }
    }
}

/// The middle value, or the mean of the two middle ones; `None` of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
