//! How long, how often and on which cores this run measures.

use std::time::Duration;

use bench_harness::{Alternation, Budget, CoreId, CorePair};

/// One run's settings; the same for every scenario.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The two cores on which the two ends of an exchange are pinned.
    pub(crate) cores: CorePair,
    /// Length of one turn.
    pub(crate) budget: Budget,
    /// How many pairs of turns.
    pub(crate) alternation: Alternation,
    /// Length of one fio run; a process per turn needs more than a loop in this one.
    pub(crate) fio_runtime: Duration,
    /// How long idle nodes are watched in a turn.
    pub(crate) idle_watch: Duration,
    /// How long writes to a replicated log go on before they are recorded.
    pub(crate) control_warm_up: Duration,
    /// How long they are recorded.
    pub(crate) control_measure: Duration,
    /// Bytes of the memory disk that fio reads.
    pub(crate) disk_bytes: u64,
    /// Congestion control of raw TCP sockets; `None` leaves the machine's default, which netdisk's sockets
    /// have too.
    pub(crate) tcp_congestion: Option<String>,
}

impl Settings {
    /// Enough for figures that hold on an idle machine: about four minutes in all.
    pub(crate) fn full() -> Self {
        Self {
            cores: CorePair { ours: CoreId(0), worker: CoreId(1) },
            budget: Budget { warm_up: Duration::from_millis(100), measure: Duration::from_millis(300) },
            alternation: Alternation { pairs: 10, tries_max: 20, keep_disturbed: false },
            fio_runtime: Duration::from_secs(2),
            idle_watch: Duration::from_secs(2),
            control_warm_up: Duration::from_millis(500),
            control_measure: Duration::from_secs(2),
            disk_bytes: 1 << 30,
            tcp_congestion: None,
        }
    }

    /// Enough to see that everything works.
    pub(crate) fn quick() -> Self {
        Self {
            budget: Budget { warm_up: Duration::from_millis(20), measure: Duration::from_millis(60) },
            alternation: Alternation { pairs: 2, tries_max: 4, keep_disturbed: false },
            fio_runtime: Duration::from_millis(500),
            idle_watch: Duration::from_millis(500),
            control_warm_up: Duration::from_millis(200),
            control_measure: Duration::from_millis(500),
            disk_bytes: 64 << 20,
            ..Self::full()
        }
    }
}
