//! What is measured of a cluster, whoever's it is.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench_harness::{Contender, CoreUsage, Measured, Recorder, Unit};

use super::client::{self, Client};
use super::etcd::EtcdCluster;
use super::log_cluster::LogCluster;

/// Nodes settle for this long after their start before they are watched.
const SETTLE: Duration = Duration::from_millis(1000);

/// Whose cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who {
    Ours,
    Rival(Rival),
}

/// Others' clusters.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rival {
    Etcd,
}

/// Where the nodes keep their logs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// The folder for temporary files.
    Disk,
    /// A file system in memory, where fsync costs nothing.
    Memory,
}

impl Place {
    pub(crate) fn folder(self) -> PathBuf {
        match self {
            Place::Disk => std::env::temp_dir(),
            Place::Memory => PathBuf::from("/dev/shm"),
        }
    }
}

/// Three nodes that run.
pub(crate) trait Cluster {
    /// A client of the leader.
    fn leaders_client(&mut self) -> Result<Box<dyn Client>>;

    /// A client of another node, and then the leader's death by SIGKILL.
    fn kill_leader(&mut self) -> Result<Box<dyn Client>>;
}

impl Who {
    fn name(self) -> String {
        match self {
            Who::Ours => "control-raft".to_owned(),
            Who::Rival(Rival::Etcd) => "etcd".to_owned(),
        }
    }

    fn start(self, place: Place) -> Result<Box<dyn Cluster>> {
        match self {
            Who::Ours => Ok(Box::new(LogCluster::start(place)?)),
            Who::Rival(Rival::Etcd) => Ok(Box::new(EtcdCluster::start(place)?)),
        }
    }
}

/// Writes through the leader.
#[derive(Debug)]
pub(crate) struct Puts {
    pub(crate) who: Who,
    pub(crate) place: Place,
    /// Writes open at once. One: latency is the figure; more: the rate.
    pub(crate) open: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}

impl Contender for Puts {
    fn name(&self) -> String {
        self.who.name()
    }

    fn measure(&mut self) -> Result<Measured> {
        let mut cluster = self.who.start(self.place)?;
        let mut client = cluster.leaders_client()?;
        let done = client::load(client.as_mut(), self.open, self.warm_up, self.measure)?;
        Ok(if self.open == 1 {
            Measured::latency(done.latency)
        } else {
            let figure = Measured::figure(done.rate, Unit::OperationsPerSecond);
            Measured { recorder: Some(done.latency), ..figure }
        })
    }
}

/// How long nothing can be written after the leader was killed.
#[derive(Debug)]
pub(crate) struct Failover {
    pub(crate) who: Who,
}

impl Contender for Failover {
    fn name(&self) -> String {
        self.who.name()
    }

    fn measure(&mut self) -> Result<Measured> {
        let mut cluster = self.who.start(Place::Memory)?;
        let mut before = cluster.leaders_client()?;
        client::until_written(before.as_mut()).context("before the leader's death")?;
        let mut client = cluster.kill_leader()?;
        let killed = Instant::now();
        client::until_written(client.as_mut()).context("after the leader's death")?;
        let mut recorder = Recorder::new(1);
        recorder.record_ns(killed.elapsed().as_nanos() as u64);
        Ok(Measured::latency(recorder))
    }
}

/// Three nodes that nobody writes to; the figure is the busiest one's use of a core.
#[derive(Debug)]
pub(crate) struct IdleLog {
    /// How long they are watched.
    pub(crate) watch: Duration,
}

impl Contender for IdleLog {
    fn name(&self) -> String {
        Who::Ours.name()
    }

    fn measure(&mut self) -> Result<Measured> {
        let mut cluster = LogCluster::start(Place::Disk)?;
        client::until_written(cluster.leaders_client()?.as_mut())?;
        std::thread::sleep(SETTLE);
        let watches = cluster.pids().map(CoreUsage::watch).collect::<Result<Vec<_>>>()?;
        std::thread::sleep(self.watch);
        let uses = watches.iter().map(CoreUsage::percent).collect::<Result<Vec<_>>>()?;
        Ok(Measured::figure(uses.into_iter().fold(0.0, f64::max), Unit::PercentOfCore))
    }
}
