//! Ties the calling thread to one core for as long as a measurement lasts.

use std::marker::PhantomData;

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// A core of this machine, as the kernel numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CoreId(pub usize);

/// Two different cores that this process may use: one for each end of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorePair {
    /// Where the measuring process runs.
    pub ours: CoreId,
    /// Where the worker process runs.
    pub worker: CoreId,
}

impl CorePair {
    /// The first two cores that this thread may use.
    ///
    /// # Errors
    /// There is only one, so two spinning ends would wait for each other's time slice.
    pub fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("the kernel does not tell which cores may be used")?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).map(CoreId);
        match (cores.next(), cores.next()) {
            (Some(ours), Some(worker)) => Ok(Self { ours, worker }),
            _ => bail!("two ends that spin need two cores; this process may use one (see taskset(1))"),
        }
    }
}

/// The calling thread runs on one core until this is dropped; then it may use again what it could before.
///
/// Threads and processes started meanwhile inherit the core, so start them first.
#[derive(Debug)]
pub struct Pinned {
    before: CpuSet,
    /// The kernel keeps affinity per thread, so the guard must be dropped by the thread that made it.
    _of_this_thread: PhantomData<*const ()>,
}

impl Pinned {
    /// Ties the calling thread to the core.
    ///
    /// # Errors
    /// The core does not exist or is not allowed to this process.
    pub fn to(core: CoreId) -> Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut only = CpuSet::new();
        only.set(core.0);
        sched_setaffinity(None, &only).with_context(|| format!("core {} cannot be used here", core.0))?;
        Ok(Self { before, _of_this_thread: PhantomData })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A cpuset that shrank meanwhile refuses the old mask; the thread then stays where it is, which harms
        // nobody.
        let _ = sched_setaffinity(None, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::sched_getaffinity;

    use super::{CoreId, CorePair, Pinned};

    #[test]
    fn a_thread_is_free_again_after_its_pin_is_dropped() {
        let before = sched_getaffinity(None).unwrap();
        let core = CorePair::choose().map_or(CoreId(0), |pair| pair.worker);
        let pinned = Pinned::to(core).unwrap();
        let during = sched_getaffinity(None).unwrap();
        assert_eq!(during.count(), 1);
        assert!(during.is_set(core.0));
        drop(pinned);
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn a_core_that_does_not_exist_is_refused() {
        assert!(Pinned::to(CoreId(1_000)).is_err());
    }
}
