//! How long, how often and on which cores this run measures.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench_harness::{Alternation, Budget, CoreId, CorePair};
use clap::Args;

/// Until somebody chooses.
const FIRST_CORES: CorePair = CorePair { ours: CoreId(0), worker: CoreId(1) };

/// How long and how often a person wants it measured, and where.
#[derive(Debug, Args)]
pub(crate) struct Pace {
    /// Recorded seconds of each turn.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3)]
    pub(crate) seconds: f64,
    /// Seconds before them in which nothing is recorded.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.1)]
    pub(crate) warm_up: f64,
    /// End a turn of netdisk's after so many recorded operations.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Turns of each side.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub(crate) turns: u32,
    /// Cores in pairs, ours and the other end's: 0,1 or 0,1,2,3.
    #[arg(long, value_delimiter = ',', value_name = "CORE")]
    pub(crate) cores: Vec<usize>,
    /// Keep turns also when other work disturbed the cores. The figures then show function only.
    #[arg(long)]
    pub(crate) keep_disturbed: bool,
    /// Congestion control of raw TCP sockets (default: the machine's, as netdisk's own).
    #[arg(long, value_name = "NAME")]
    pub(crate) tcp_congestion: Option<String>,
}

impl Pace {
    /// What it comes to.
    ///
    /// # Errors
    /// A number makes no sense, or there are too few cores.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let seconds = |name: &str, seconds: f64| {
            let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| *time < SECONDS_MAX);
            time.with_context(|| {
                format!("--{name}: seconds from 0 to {}, not {seconds}", SECONDS_MAX.as_secs())
            })
        };
        let measure = seconds("seconds", self.seconds)?;
        ensure!(!measure.is_zero(), "--seconds: more than 0");
        let warm_up = seconds("warm-up", self.warm_up)?;
        let core_pairs = match &self.cores[..] {
            [] => vec![CorePair::choose()?],
            cores if cores.len().is_multiple_of(2) => {
                cores.chunks(2).map(|two| CorePair { ours: CoreId(two[0]), worker: CoreId(two[1]) }).collect()
            }
            _ => bail!("--cores: each end needs one, so there are 2, 4, 6, …"),
        };
        Ok(Settings {
            cores: core_pairs[0],
            core_pairs,
            budget: Budget { warm_up, measure, operations_max: self.count.unwrap_or(u64::MAX) },
            alternation: Alternation {
                pairs: self.turns,
                tries_max: self.turns.saturating_mul(2),
                keep_disturbed: self.keep_disturbed,
            },
            fio_runtime: measure,
            tcp_congestion: self.tcp_congestion.clone(),
            ..Settings::full()
        })
    }
}

/// Longest turn.
const SECONDS_MAX: Duration = Duration::from_secs(24 * 3600);

/// One run's settings; the same for every scenario.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The two cores on which the two ends of an exchange are pinned.
    pub(crate) cores: CorePair,
    /// More pairs of cores, the two above first, for benches that use several threads.
    pub(crate) core_pairs: Vec<CorePair>,
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
            cores: FIRST_CORES,
            core_pairs: vec![FIRST_CORES],
            budget: Budget {
                warm_up: Duration::from_millis(100),
                measure: Duration::from_millis(300),
                operations_max: u64::MAX,
            },
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
            budget: Budget {
                warm_up: Duration::from_millis(20),
                measure: Duration::from_millis(60),
                operations_max: u64::MAX,
            },
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
