//! What nodes cost that have nothing to do.

use std::time::Duration;

use anyhow::Result;
use bench_harness::{Contender, CoreUsage, Measured, Unit};

use super::cluster::Cluster;
use super::wiring::Carrier;

/// Bytes of the disk that nobody reads.
const DISK_BYTES: u64 = 64 << 20;
/// Nodes settle for this long after their start before they are watched.
const SETTLE: Duration = Duration::from_millis(300);

/// Three nodes without clients; the figure is the busiest one's use of a core.
#[derive(Debug)]
pub(crate) struct IdleNodes {
    /// How long they are watched.
    pub(crate) watch: Duration,
}

impl Contender for IdleNodes {
    fn name(&self) -> String {
        "netdisk node".to_owned()
    }

    fn measure(&mut self) -> Result<Measured> {
        let cluster = Cluster::start(Carrier::Shm, DISK_BYTES)?;
        std::thread::sleep(SETTLE);
        let watches = cluster.pids().map(CoreUsage::watch).collect::<Result<Vec<_>>>()?;
        std::thread::sleep(self.watch);
        let uses = watches.iter().map(CoreUsage::percent).collect::<Result<Vec<_>>>()?;
        Ok(Measured::figure(uses.into_iter().fold(0.0, f64::max), Unit::PercentOfCore))
    }
}
