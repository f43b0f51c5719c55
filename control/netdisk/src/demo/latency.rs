//! Latencies and gaps as the client sees them, before, during and after the failover.

use bench_harness::{Recorder, Summary};
use std::time::{Duration, Instant};

/// Where a request falls, seen from the killed node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Answered before the kill.
    Before,
    /// Under way at the kill, or sent before service was restored.
    During,
    /// Sent after service was restored.
    After,
}

impl Phase {
    pub(super) const ALL: [Phase; 3] = [Phase::Before, Phase::During, Phase::After];

    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Before => "before",
            Phase::During => "during",
            Phase::After => "after",
        }
    }
}

/// The moments of a failover.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failover {
    /// Just before the node was killed.
    pub(super) killed: Option<Instant>,
    /// When it was known to be dead: whatever is sent from now on, another node answers.
    pub(super) dead: Option<Instant>,
    /// The first answer to a request that was sent to a dead node's cluster.
    pub(super) restored: Option<Instant>,
}

impl Failover {
    fn phase(&self, began: Instant, ended: Instant) -> Phase {
        match (self.killed, self.restored) {
            (None, _) => Phase::Before,
            (Some(killed), _) if ended < killed => Phase::Before,
            (_, Some(restored)) if began >= restored => Phase::After,
            _ => Phase::During,
        }
    }
}

/// All latencies of a run.
pub(super) struct Latencies {
    recorders: [Recorder; 3],
    gaps: [Duration; 3],
    recent: Recorder,
    failover: Failover,
    last_answer: Instant,
}

impl Latencies {
    /// `start` is where the first gap begins.
    pub(super) fn new(start: Instant) -> Latencies {
        Latencies {
            recorders: [Recorder::new(1), Recorder::new(1), Recorder::new(1)],
            gaps: [Duration::ZERO; 3],
            recent: Recorder::new(1),
            failover: Failover::default(),
            last_answer: start,
        }
    }

    /// The node was killed, and is known to be dead once `dead` is there.
    pub(super) fn killed(&mut self, killed: Option<Instant>, dead: Option<Instant>) {
        self.failover.killed = killed;
        self.failover.dead = dead;
    }

    /// A request was answered.
    pub(super) fn answered(&mut self, sent: Instant, answered: Instant) {
        if self.failover.restored.is_none() && self.failover.dead.is_some_and(|dead| sent >= dead) {
            self.failover.restored = Some(answered);
        }
        let gap = answered.saturating_duration_since(self.last_answer);
        let gap_phase = self.failover.phase(self.last_answer, answered);
        self.gaps[gap_phase as usize] = self.gaps[gap_phase as usize].max(gap);
        self.last_answer = answered;
        let nanos = answered.saturating_duration_since(sent).as_nanos() as u64;
        self.recorders[self.failover.phase(sent, answered) as usize].record_ns(nanos);
        self.recent.record_ns(nanos);
    }

    /// How long no answer has come.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_answer)
    }

    /// Whether the cluster has answered a request that was sent after the node's death.
    pub(super) fn is_restored(&self) -> bool {
        self.failover.restored.is_some()
    }

    /// Median since the last call, nanoseconds; 0 if there was no answer.
    pub(super) fn recent_median_ns(&mut self) -> u64 {
        let median = self.recent.summary().p50_ns;
        self.recent.clear();
        median
    }

    pub(super) fn summary(&self, phase: Phase) -> Summary {
        self.recorders[phase as usize].summary()
    }

    /// The longest time without an answer.
    pub(super) fn longest_gap(&self, phase: Phase) -> Duration {
        self.gaps[phase as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_of_a_killed_node_counts_as_during_and_calm_times_do_not() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut latencies = Latencies::new(start);
        latencies.answered(at(1), at(3));
        latencies.killed(Some(at(4)), Some(at(5)));
        // Under way at the kill, answered by the next node.
        latencies.answered(at(3), at(250));
        assert!(!latencies.is_restored(), "it may have been answered before the kill took effect");
        latencies.answered(at(250), at(252));
        assert!(latencies.is_restored());
        latencies.answered(at(252), at(253));
        let counts = Phase::ALL.map(|phase| latencies.summary(phase).count);
        assert_eq!(counts, [1, 2, 1]);
        let gaps = Phase::ALL.map(|phase| latencies.longest_gap(phase).as_millis());
        assert_eq!(gaps, [3, 247, 1]);
    }

    #[test]
    fn without_a_kill_all_is_before() {
        let start = Instant::now();
        let mut latencies = Latencies::new(start);
        latencies.answered(start, start + Duration::from_secs(2));
        assert_eq!(latencies.summary(Phase::Before).count, 1);
        assert_eq!(latencies.summary(Phase::After).count, 0);
    }
}
