//! How much of a core a process uses, from the scheduler's own nanosecond account.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// CPU time of one process, all threads, since the start of the watch.
#[derive(Debug)]
pub struct CoreUsage {
    pid: u32,
    at_start: Duration,
    since: Instant,
}

impl CoreUsage {
    /// Begins to watch a process.
    ///
    /// # Errors
    /// The process is gone, or `/proc` does not show its threads.
    pub fn watch(pid: u32) -> Result<Self> {
        Ok(Self { pid, at_start: cpu_time(pid)?, since: Instant::now() })
    }

    /// Share of one core used since the start, in percent; 200 means two cores were busy all the time.
    ///
    /// # Errors
    /// The process is gone.
    pub fn percent(&self) -> Result<f64> {
        let used = cpu_time(self.pid)?.saturating_sub(self.at_start);
        Ok(used.as_secs_f64() / self.since.elapsed().as_secs_f64() * 100.0)
    }
}

/// Run time of all live threads. A thread that ended meanwhile takes its account with it.
fn cpu_time(pid: u32) -> Result<Duration> {
    let folder = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&folder).with_context(|| format!("process {pid} is gone"))?;
    let mut total_ns = 0;
    for thread in threads {
        let account = thread?.path().join("schedstat");
        let Ok(text) = fs::read_to_string(&account) else { continue };
        let first = text.split_whitespace().next().unwrap_or_default();
        total_ns += first.parse::<u64>().with_context(|| format!("{} has no run time", account.display()))?;
    }
    Ok(Duration::from_nanos(total_ns))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::CoreUsage;

    #[test]
    fn work_done_by_this_process_shows_as_use_of_a_core() {
        let watch = CoreUsage::watch(std::process::id()).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        assert!(watch.percent().unwrap() > 1.0);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error_not_an_idle_one() {
        assert!(CoreUsage::watch(u32::MAX).is_err());
    }
}
