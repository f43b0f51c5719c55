//! What a figure counts, and how a person reads it.

use serde::{Deserialize, Serialize};

/// The unit of a measured figure. The number beside it is always an `f64` in exactly this unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A duration; smaller is better.
    Nanoseconds,
    /// Payload bytes moved per second of wall clock; larger is better.
    BytesPerSecond,
    /// Completed operations per second of wall clock; larger is better.
    OperationsPerSecond,
    /// CPU time over wall clock, 100 = one core busy; smaller is better.
    PercentOfCore,
    /// Heap allocations and reallocations per message, both processes together; smaller is better.
    AllocationsPerMessage,
}

impl Unit {
    /// What is counted, for the axis of a chart.
    pub fn what(self) -> &'static str {
        match self {
            Self::Nanoseconds => "latency",
            Self::BytesPerSecond => "bandwidth",
            Self::OperationsPerSecond => "operations",
            Self::PercentOfCore => "CPU time",
            Self::AllocationsPerMessage => "allocations",
        }
    }

    /// Whether less of it is better.
    pub fn less_is_better(self) -> bool {
        !matches!(self, Self::BytesPerSecond | Self::OperationsPerSecond)
    }

    /// The figure as a person reads it, for example `6.52 µs`, `33.1 GB/s` or `124 k/s`.
    pub fn show(self, figure: f64) -> String {
        match self {
            Self::Nanoseconds => scaled(figure, &[(1e9, " s"), (1e6, " ms"), (1e3, " µs"), (1.0, " ns")]),
            Self::BytesPerSecond => {
                scaled(figure, &[(1e9, " GB/s"), (1e6, " MB/s"), (1e3, " kB/s"), (1.0, " B/s")])
            }
            Self::OperationsPerSecond => scaled(figure, &[(1e6, " M/s"), (1e3, " k/s"), (1.0, " /s")]),
            Self::PercentOfCore => format!("{figure:.2} % of a core"),
            Self::AllocationsPerMessage => format!("{figure:.4} allocations"),
        }
    }
}

/// Three significant digits in the largest unit that leaves at least 1 before the point.
fn scaled(figure: f64, steps: &[(f64, &str)]) -> String {
    let smallest = (1.0, "");
    let (scale, suffix) =
        steps.iter().find(|(scale, _)| figure >= *scale).or(steps.last()).unwrap_or(&smallest);
    let value = figure / scale;
    let decimals = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::Unit;

    #[test]
    fn figures_are_shown_with_three_digits_in_a_readable_unit() {
        assert_eq!(Unit::Nanoseconds.show(104.0), "104 ns");
        assert_eq!(Unit::Nanoseconds.show(6_520.0), "6.52 µs");
        assert_eq!(Unit::Nanoseconds.show(1_250_000_000.0), "1.25 s");
        assert_eq!(Unit::BytesPerSecond.show(33.1e9), "33.1 GB/s");
        assert_eq!(Unit::OperationsPerSecond.show(124_000.0), "124 k/s");
        assert_eq!(Unit::Nanoseconds.show(0.25), "0.25 ns");
    }
}
