//! Whether the two cores share a cache at this moment, which on virtual machines changes within minutes.

use serde::{Deserialize, Serialize};

/// Below this, a cache line's round trip stayed inside one last-level cache. Seen: 90–110 ns near, ≈ 470 ns
/// far.
const NEAR_NS_MAX: u64 = 220;
/// Above this, something else ran on the cores: no pair of cores of one machine is that far.
const FAR_NS_MAX: u64 = 1_200;

/// How far the two cores are from each other, judged by a cache line's round trip between two spinning
/// processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// One last-level cache.
    Near,
    /// Two last-level caches.
    Far,
    /// Not measurable: other work had the cores. Nothing measured beside it counts.
    Disturbed,
}

impl Placement {
    /// Judges a median round trip of one cache line, in nanoseconds.
    pub fn of(round_trip_ns: u64) -> Self {
        match round_trip_ns {
            0..=NEAR_NS_MAX => Self::Near,
            ns if ns <= FAR_NS_MAX => Self::Far,
            _ => Self::Disturbed,
        }
    }

    /// The word that reports use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Disturbed => "disturbed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Placement;

    #[test]
    fn measured_round_trips_fall_into_their_class() {
        assert_eq!([90, 110].map(Placement::of), [Placement::Near; 2]);
        assert_eq!([400, 470].map(Placement::of), [Placement::Far; 2]);
        assert_eq!(Placement::of(4_000_000), Placement::Disturbed);
    }
}
