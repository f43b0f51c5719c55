//! The loops that drive an operation: closed (next after last), closed at a depth, and open (by the
//! timetable).

use std::time::{Duration, Instant};

use crate::{Recorder, Timeline};

/// How long a measurement lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Time in which operations run but nothing is recorded: page faults, caches, branch predictors, TCP
    /// windows.
    pub warm_up: Duration,
    /// Time in which samples are recorded; the last operation may end after it.
    pub measure: Duration,
    /// Recorded operations after which it ends before the time is up; `u64::MAX` leaves it to the time.
    pub operations_max: u64,
}

/// Where loops take their time from, so that tests can hold it.
pub trait Clock {
    /// Nanoseconds since an arbitrary start; never goes back.
    fn now_ns(&mut self) -> u64;
    /// Returns when the clock shows at least this.
    fn wait_until_ns(&mut self, due_ns: u64);
}

/// The kernel's monotonic clock. Waits by spinning near the time, because a sleep overshoots by ≈ 50 µs.
#[derive(Debug)]
pub struct MonotonicClock {
    start: Instant,
}

/// Sleeps are allowed until this long before the due time.
const SLEEP_MARGIN: Duration = Duration::from_micros(200);

impl MonotonicClock {
    /// A clock that shows 0 now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for MonotonicClock {
    fn now_ns(&mut self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn wait_until_ns(&mut self, due_ns: u64) {
        let due = self.start + Duration::from_nanos(due_ns);
        let ahead = due.saturating_duration_since(Instant::now());
        if ahead > SLEEP_MARGIN {
            std::thread::sleep(ahead - SLEEP_MARGIN);
        }
        while Instant::now() < due {
            std::hint::spin_loop();
        }
    }
}

/// What a loop measured.
#[derive(Debug, Clone)]
pub struct Run {
    /// The latencies.
    pub recorder: Recorder,
    /// The same by time; of each batch its mean.
    pub timeline: Timeline,
    /// Operations completed inside the recorded time.
    pub operations: u64,
    /// Length of the recorded time.
    pub elapsed: Duration,
}

impl Run {
    /// Completed operations per second of the recorded time.
    pub fn operations_per_s(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// The same with half of each latency: one way of there and back.
    #[must_use]
    pub fn halved(self) -> Self {
        Self { recorder: self.recorder.halved(), timeline: self.timeline.halved(), ..self }
    }

    /// Adds a run that went on beside this one.
    pub fn join(&mut self, beside: &Self) {
        self.recorder.merge(&beside.recorder);
        self.timeline.overlay(&beside.timeline);
        self.operations += beside.operations;
        self.elapsed = self.elapsed.max(beside.elapsed);
    }
}

/// Runs `operation` again and again, each after the end of the last, and records each batch's mean.
///
/// `batch` operations share one look at the clock (20 ns), so that a 100 ns operation is not measured as 120.
///
/// # Errors
/// The first error of the operation; its samples are lost.
pub fn closed_loop<E>(
    clock: &mut dyn Clock,
    budget: &Budget,
    batch: u32,
    mut operation: impl FnMut() -> Result<(), E>,
) -> Result<Run, E> {
    let (mut recorder, mut timeline) = (Recorder::new(batch), Timeline::default());
    let warm_until_ns = clock.now_ns() + budget.warm_up.as_nanos() as u64;
    let mut now_ns = clock.now_ns();
    while now_ns < warm_until_ns {
        for _ in 0..batch {
            operation()?;
        }
        now_ns = clock.now_ns();
    }
    let start_ns = now_ns;
    let end_ns = start_ns + budget.measure.as_nanos() as u64;
    while now_ns < end_ns && recorder.samples() * u64::from(batch) < budget.operations_max {
        let batch_start_ns = now_ns;
        for _ in 0..batch {
            operation()?;
        }
        now_ns = clock.now_ns();
        let batch_ns = now_ns - batch_start_ns;
        recorder.record_batch_ns(batch_ns);
        timeline.record(now_ns - start_ns, batch_ns / u64::from(batch));
    }
    let operations = recorder.samples() * u64::from(batch);
    Ok(Run { recorder, timeline, operations, elapsed: Duration::from_nanos(now_ns - start_ns) })
}

/// Something that accepts several operations before the first is done.
pub trait Pipeline {
    /// Why an operation failed.
    type Error;
    /// Starts the operation of this tag (`0..depth`); the tag is free, no operation of it is in flight.
    ///
    /// # Errors
    /// The measurement stops with it.
    fn submit(&mut self, tag: u32) -> Result<(), Self::Error>;
    /// Hands the tag of every operation that is done now to `done`; may wait for one.
    ///
    /// # Errors
    /// The measurement stops with it.
    fn poll(&mut self, done: &mut dyn FnMut(u32)) -> Result<(), Self::Error>;
}

/// Keeps `depth` operations in flight: each that ends is replaced at once. Latency is from submit to poll.
///
/// # Errors
/// The first error of the pipeline; its samples are lost.
pub fn closed_loop_at_depth<P: Pipeline>(
    clock: &mut dyn Clock,
    budget: &Budget,
    depth: u32,
    pipeline: &mut P,
) -> Result<Run, P::Error> {
    let (mut recorder, mut timeline) = (Recorder::new(1), Timeline::default());
    let mut started_ns = vec![0; depth as usize];
    let mut finished = Vec::with_capacity(depth as usize);
    let warm_until_ns = clock.now_ns() + budget.warm_up.as_nanos() as u64;
    for tag in 0..depth {
        started_ns[tag as usize] = clock.now_ns();
        pipeline.submit(tag)?;
    }
    let mut in_flight = depth;
    // The recorded time begins with the first completion after the warm-up, so a stall then cannot swallow
    // all of it.
    let mut record_from_ns = None;
    let mut elapsed_ns = 0;
    while in_flight > 0 {
        pipeline.poll(&mut |tag| finished.push(tag))?;
        if finished.is_empty() {
            continue;
        }
        let now_ns = clock.now_ns();
        let was_warm = record_from_ns.is_some();
        let from_ns = match record_from_ns {
            None if now_ns >= warm_until_ns => *record_from_ns.insert(now_ns),
            known => known.unwrap_or(u64::MAX - budget.measure.as_nanos() as u64),
        };
        let over = now_ns >= from_ns + budget.measure.as_nanos() as u64
            || recorder.samples() >= budget.operations_max;
        for tag in finished.drain(..) {
            if was_warm && (!over || recorder.samples() == 0) {
                let latency_ns = now_ns - started_ns[tag as usize];
                elapsed_ns = now_ns - from_ns;
                recorder.record_ns(latency_ns);
                timeline.record(elapsed_ns, latency_ns);
            }
            if over {
                in_flight -= 1;
            } else {
                started_ns[tag as usize] = now_ns;
                pipeline.submit(tag)?;
            }
        }
    }
    let operations = recorder.samples();
    Ok(Run { recorder, timeline, operations, elapsed: Duration::from_nanos(elapsed_ns.max(1)) })
}

/// Starts `operation` by a timetable of `rate_per_s`, and measures each from the time at which it *should*
/// have started. An operation that stalls therefore also delays, on record, all those that queue behind it:
/// no coordinated omission.
///
/// # Errors
/// The first error of the operation; its samples are lost.
pub fn open_loop<E>(
    clock: &mut dyn Clock,
    budget: &Budget,
    rate_per_s: f64,
    mut operation: impl FnMut() -> Result<(), E>,
) -> Result<Run, E> {
    assert!(rate_per_s > 0.0, "an open loop needs a rate");
    let gap_ns = 1e9 / rate_per_s;
    let (mut recorder, mut timeline) = (Recorder::new(1), Timeline::default());
    let start_ns = clock.now_ns();
    let record_from_ns = start_ns + budget.warm_up.as_nanos() as u64;
    let end_ns = record_from_ns + budget.measure.as_nanos() as u64;
    let mut now_ns = start_ns;
    for turn in 0_u64.. {
        let intended_ns = start_ns + (turn as f64 * gap_ns) as u64;
        // A timetable that is slower than the recorded time still gives its first figure.
        let enough = intended_ns >= end_ns || recorder.samples() >= budget.operations_max;
        if enough && recorder.samples() > 0 {
            break;
        }
        clock.wait_until_ns(intended_ns);
        operation()?;
        now_ns = clock.now_ns();
        if intended_ns >= record_from_ns {
            recorder.record_ns(now_ns - intended_ns);
            timeline.record(now_ns - record_from_ns, now_ns - intended_ns);
        }
    }
    let operations = recorder.samples();
    let until_ns = if operations >= budget.operations_max { now_ns } else { now_ns.max(end_ns) };
    let elapsed_ns = until_ns - record_from_ns;
    Ok(Run { recorder, timeline, operations, elapsed: Duration::from_nanos(elapsed_ns) })
}

/// One turn of a wait: spins `spins_max` times, then offers the core to others. Returns the turns so far.
///
/// For waits in measurements only: the yield keeps a run alive on a machine whose cores are taken.
pub fn spin_or_yield(turns: u32, spins_max: u32) -> u32 {
    if turns < spins_max {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
    turns.saturating_add(1)
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
