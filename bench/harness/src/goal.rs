//! What a figure has to reach, and whether it did.

use serde::Serialize;

use crate::{Comparison, Placement, Unit};

/// The bar that a scenario is held to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Goal {
    /// Ours divided by the limit: at most this (latencies).
    RatioAtMost {
        /// The largest ratio that reaches the goal.
        ratio: f64,
    },
    /// Ours divided by the limit: at least this (bandwidth, operations).
    RatioAtLeast {
        /// The smallest ratio that reaches the goal.
        ratio: f64,
    },
    /// Our figure alone: at most this.
    FigureAtMost {
        /// The largest figure that reaches the goal, in the unit of the comparison.
        figure: f64,
        /// Only pairs of this placement decide.
        only: Option<Placement>,
    },
    /// Our figure alone: below this.
    FigureBelow {
        /// The figure that must not be reached, in the unit of the comparison.
        figure: f64,
    },
    /// A limit of the machine, shown for orientation.
    Shown,
}

/// What came of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Verdict {
    /// The goal is reached.
    Reached,
    /// It is not.
    NotReached {
        /// What was found, as a person reads it.
        is: String,
        /// What was wanted.
        wanted: String,
    },
    /// The machine did not let itself be measured, so nobody knows.
    NotDecided {
        /// Why.
        why: String,
    },
    /// Something needed is not there. The row must not pass for measured.
    Skipped {
        /// What is missing, and the command that installs it.
        why: String,
    },
    /// The measurement failed.
    Failed {
        /// The chain of errors.
        why: String,
    },
    /// There is no goal.
    Shown,
}

impl Goal {
    /// The bar as a person reads it, for example `≤ 4.00×`.
    pub fn show(&self, unit: Unit) -> String {
        match self {
            Self::RatioAtMost { ratio } => format!("≤ {ratio:.2}×"),
            Self::RatioAtLeast { ratio } => format!("≥ {ratio:.2}×"),
            Self::FigureAtMost { figure, only: None } => format!("≤ {}", unit.show(*figure)),
            Self::FigureAtMost { figure, only: Some(place) } => {
                format!("≤ {} {}", unit.show(*figure), place.word())
            }
            Self::FigureBelow { figure } => format!("< {}", unit.show(*figure)),
            Self::Shown => "–".to_owned(),
        }
    }

    /// Holds a comparison against the bar.
    pub fn judge(&self, comparison: &Comparison) -> Verdict {
        if comparison.pairs.is_empty() {
            let dropped = comparison.pairs_dropped;
            let why =
                format!("other work had the cores: all {dropped} pairs were dropped; run again when idle");
            return Verdict::NotDecided { why };
        }
        let unit = comparison.unit;
        let show_ratio = |ratio: f64| format!("{ratio:.2}×");
        match *self {
            Self::RatioAtMost { ratio: bar } => {
                decide(comparison.ratio(None), |ratio| ratio <= bar, show_ratio, self.show(unit))
            }
            Self::RatioAtLeast { ratio: bar } => {
                decide(comparison.ratio(None), |ratio| ratio >= bar, show_ratio, self.show(unit))
            }
            Self::FigureAtMost { figure: bar, only } => match comparison.ours(only) {
                None => Verdict::NotDecided { why: self.other_placement(comparison) },
                some => decide(some, |figure| figure <= bar, |figure| unit.show(figure), self.show(unit)),
            },
            Self::FigureBelow { figure: bar } => decide(
                comparison.ours(None),
                |figure| figure < bar,
                |figure| unit.show(figure),
                self.show(unit),
            ),
            Self::Shown => Verdict::Shown,
        }
    }

    fn other_placement(&self, comparison: &Comparison) -> String {
        let found = comparison.ours(None).map(|figure| comparison.unit.show(figure)).unwrap_or_default();
        format!("{found} with {}; wanted {}", comparison.placements(), self.show(comparison.unit))
    }
}

fn decide(
    found: Option<f64>,
    reaches: impl Fn(f64) -> bool,
    show: impl Fn(f64) -> String,
    wanted: String,
) -> Verdict {
    match found {
        None => Verdict::NotDecided { why: "only one side was measured".to_owned() },
        Some(figure) if reaches(figure) => Verdict::Reached,
        Some(figure) => Verdict::NotReached { is: show(figure), wanted },
    }
}

impl Verdict {
    /// The verdict as the table prints it.
    pub fn show(&self) -> String {
        match self {
            Self::Reached => "reached".to_owned(),
            Self::NotReached { is, wanted } => format!("not reached: {is} instead of {wanted}"),
            Self::NotDecided { why } => format!("not decided: {why}"),
            Self::Skipped { why } => format!("SKIPPED: {why}"),
            Self::Failed { why } => format!("FAILED: {why}"),
            Self::Shown => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Goal, Verdict};
    use crate::{Comparison, Pair, Placement, Unit};

    fn comparison(ours: f64, limit: f64, placement: Option<Placement>) -> Comparison {
        let pair = Pair { ours: Some(ours), limit: Some(limit), ratio: Some(ours / limit), placement };
        Comparison {
            unit: Unit::Nanoseconds,
            pairs: vec![pair],
            pairs_dropped: 0,
            ours_latency: None,
            limit_latency: None,
            recorders: [None, None],
            timelines: [None, None],
        }
    }

    #[test]
    fn a_ratio_at_its_bar_is_reached_and_one_beyond_says_by_how_much() {
        let goal = Goal::RatioAtMost { ratio: 4.0 };
        assert_eq!(goal.judge(&comparison(400.0, 100.0, None)), Verdict::Reached);
        let verdict = goal.judge(&comparison(512.0, 100.0, None));
        assert_eq!(verdict.show(), "not reached: 5.12× instead of ≤ 4.00×");
        let goal = Goal::RatioAtLeast { ratio: 0.9 };
        assert_eq!(goal.judge(&comparison(95.0, 100.0, None)), Verdict::Reached);
        assert_eq!(
            goal.judge(&comparison(50.0, 100.0, None)).show(),
            "not reached: 0.50× instead of ≥ 0.90×"
        );
    }

    #[test]
    fn a_bar_for_near_cores_is_not_decided_on_far_ones() {
        let goal = Goal::FigureAtMost { figure: 2_000.0, only: Some(Placement::Near) };
        assert_eq!(goal.judge(&comparison(1_500.0, 1.0, Some(Placement::Near))), Verdict::Reached);
        let verdict = goal.judge(&comparison(3_500.0, 1.0, Some(Placement::Far)));
        assert_eq!(verdict.show(), "not decided: 3.50 µs with 1 far; wanted ≤ 2.00 µs near");
    }

    #[test]
    fn no_pair_means_no_verdict() {
        let mut nothing = comparison(1.0, 1.0, None);
        nothing.pairs.clear();
        nothing.pairs_dropped = 20;
        assert!(matches!(Goal::RatioAtMost { ratio: 1.0 }.judge(&nothing), Verdict::NotDecided { .. }));
    }
}
