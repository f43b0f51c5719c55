//! How much of the cores went to others while we measured: what all processes used, less what ours did.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::param::clock_ticks_per_second;

/// Kernel columns of `/proc/stat` that are counted: user, nice, system, steal. Interrupts are left out: on
/// loopback they are our own packets, and some kernels do not charge them to the process.
const BUSY_COLUMNS: [usize; 4] = [0, 1, 2, 7];

/// Watches the cores from its start on.
#[derive(Debug)]
pub struct ForeignLoad {
    all_at_start: Duration,
    own_at_start: Duration,
    since: Instant,
}

impl ForeignLoad {
    /// Begins to watch.
    ///
    /// # Errors
    /// `/proc` does not tell CPU times.
    pub fn watch() -> Result<Self> {
        Ok(Self { all_at_start: busy_time_of_all()?, own_at_start: own_time()?, since: Instant::now() })
    }

    /// Cores that processes of others (and the hypervisor) kept busy on average since the start; 0.5 is half
    /// a core. Child processes count as ours once they were waited for, so ask after they were. The kernel
    /// counts in ticks of about 10 ms: over a third of a second the answer is good to about 0.05.
    ///
    /// # Errors
    /// `/proc` does not tell CPU times.
    pub fn cores(&self) -> Result<f64> {
        let all = busy_time_of_all()?.saturating_sub(self.all_at_start);
        let own = own_time()?.saturating_sub(self.own_at_start);
        Ok(all.saturating_sub(own).as_secs_f64() / self.since.elapsed().as_secs_f64())
    }
}

/// Time that all cores were busy since boot.
fn busy_time_of_all() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat cannot be read")?;
    let line = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .context("/proc/stat has no cpu line")?;
    let columns: Vec<u64> = line.split_whitespace().filter_map(|column| column.parse().ok()).collect();
    Ok(of_ticks(BUSY_COLUMNS.iter().filter_map(|column| columns.get(*column)).sum()))
}

/// Time that this process and the children it waited for used, from `/proc/self/stat`.
fn own_time() -> Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat").context("/proc/self/stat cannot be read")?;
    // The name in brackets may hold blanks; the fields after it start with the third, the state.
    let fields = text.rsplit_once(')').context("/proc/self/stat has no name")?.1;
    // Fields 14 to 17: user and system time of this process, then of its children.
    let ticks = fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok());
    Ok(of_ticks(ticks.sum()))
}

fn of_ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{ForeignLoad, busy_time_of_all, own_time};

    #[test]
    fn own_work_counts_as_own_and_as_part_of_all() {
        let (own, all) = (own_time().unwrap(), busy_time_of_all().unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        let grown = Duration::from_millis(50);
        while own_time().unwrap() < own + grown || busy_time_of_all().unwrap() < all + grown {
            assert!(Instant::now() < deadline, "spinning shows in no account");
        }
    }

    #[test]
    fn load_of_others_is_a_number_of_cores() {
        let watch = ForeignLoad::watch().unwrap();
        let own = own_time().unwrap();
        while own_time().unwrap() < own + Duration::from_millis(50) {}
        let cores = watch.cores().unwrap();
        let most = std::thread::available_parallelism().unwrap().get() as f64 + 1.0;
        assert!((0.0..=most).contains(&cores), "{cores}");
    }
}
