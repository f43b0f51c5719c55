//! A verifying load on one NBD connection, and how long its requests took since an event.

use super::client::{Cookie, NbdClient};
use super::faults::{Faults, Moment};
use super::load::{Load, LoadErrand, LoadRequest};
use super::stamp::{BLOCK_BYTES, BlockNumber};
use anyhow::{Context, bail};
use bench_harness::Timeline;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Requests under way.
const DEPTH: usize = 8;
/// The longest sleep: how soon the thread sees that it is to end.
const SLEEP_MAX: Duration = Duration::from_millis(10);
/// So long without an answer, and the cluster is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What has happened since the last mark.
#[derive(Clone, Copy, Debug)]
struct SinceMark {
    mark: Instant,
    /// The longest time from a request to its answer, of those that were answered.
    longest: Duration,
    /// Requests that were sent after the mark and are answered.
    answered: u64,
}

struct Shared {
    since: Mutex<SinceMark>,
    /// Every answer's latency by the time at which it came, since the start of the load.
    timeline: Mutex<Timeline>,
    started: Instant,
    stop: AtomicBool,
}

impl Shared {
    fn since(&self) -> MutexGuard<'_, SinceMark> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running load. Dropping it ends its thread.
pub(super) struct WatchedLoad {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<anyhow::Result<Faults>>>,
}

impl WatchedLoad {
    /// Starts it on the first `blocks` blocks of a new disk.
    pub(super) fn start(
        client: NbdClient,
        run: u64,
        blocks: u64,
        through: String,
    ) -> anyhow::Result<WatchedLoad> {
        let since = SinceMark { mark: Instant::now(), longest: Duration::ZERO, answered: 0 };
        let shared = Arc::new(Shared {
            since: Mutex::new(since),
            timeline: Mutex::new(Timeline::default()),
            started: Instant::now(),
            stop: AtomicBool::new(false),
        });
        let worker = Worker {
            client,
            load: Load::new(run, blocks),
            faults: Faults::default(),
            errands: HashMap::new(),
            through,
            shared: shared.clone(),
        };
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || worker.run())?;
        Ok(WatchedLoad { shared, thread: Some(thread) })
    }

    /// From now on counts.
    pub(super) fn mark(&self) {
        *self.shared.since() = SinceMark { mark: Instant::now(), longest: Duration::ZERO, answered: 0 };
    }

    /// Requests that were sent after the mark and are answered.
    pub(super) fn answered(&self) -> u64 {
        self.shared.since().answered
    }

    /// The longest time from a request to its answer, of those answered since the mark.
    pub(super) fn longest(&self) -> Duration {
        self.shared.since().longest
    }

    /// Seconds since its start.
    pub(super) fn clock_s(&self) -> f64 {
        self.shared.started.elapsed().as_secs_f64()
    }

    /// Every answer's latency by the time at which it came.
    pub(super) fn timeline(&self) -> Timeline {
        self.shared.timeline.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it has ended by itself, which is never right.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it, reads every block back and says what went wrong.
    pub(super) fn finish(mut self) -> anyhow::Result<Faults> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("ended once")?;
        thread.join().unwrap_or_else(|_| bail!("the load's thread panicked"))
    }
}

impl Drop for WatchedLoad {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its error is of no interest to whoever drops it.
            let _ = thread.join();
        }
    }
}

struct Worker {
    client: NbdClient,
    load: Load,
    faults: Faults,
    errands: HashMap<Cookie, (Instant, LoadErrand)>,
    through: String,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(mut self) -> anyhow::Result<Faults> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            while self.client.under_way() < DEPTH {
                let request = self.load.next();
                self.send(request);
            }
            self.turn(Moment::Load)?;
        }
        self.drain(Moment::Load)?;
        for first in 0..self.load.blocks() {
            let floors = self.load.floors(BlockNumber(first), 1);
            self.send(LoadRequest::Read { first: BlockNumber(first), floors });
            if self.client.under_way() >= DEPTH {
                self.turn(Moment::ReadBack)?;
            }
        }
        self.drain(Moment::ReadBack)?;
        self.client.close()?;
        Ok(self.faults)
    }

    fn drain(&mut self, moment: Moment) -> anyhow::Result<()> {
        while self.client.under_way() > 0 {
            self.turn(moment)?;
        }
        Ok(())
    }

    fn send(&mut self, request: LoadRequest) {
        let offset = |block: BlockNumber| block.0 * BLOCK_BYTES as u64;
        let (cookie, errand) = match request {
            LoadRequest::Write { first, bytes, durable } => {
                let count = (bytes.len() / BLOCK_BYTES) as u64;
                (self.client.write(offset(first), &bytes, durable), LoadErrand::Write { first, count })
            }
            LoadRequest::Read { first, floors } => {
                let length = (floors.len() * BLOCK_BYTES) as u32;
                (self.client.read(offset(first), length), LoadErrand::Read { first, floors })
            }
        };
        self.errands.insert(cookie, (Instant::now(), errand));
    }

    /// Takes the answers that are there, or waits a little.
    fn turn(&mut self, moment: Moment) -> anyhow::Result<()> {
        let answers = self.client.turn()?;
        if answers.is_empty() {
            let oldest = self.errands.values().map(|(sent, _)| sent.elapsed()).max().unwrap_or_default();
            if oldest > SILENCE_MAX {
                bail!("no answer from node {} for {} s", self.through, SILENCE_MAX.as_secs());
            }
            return NbdClient::wait(&[&self.client], SLEEP_MAX);
        }
        let now = Instant::now();
        for answer in answers {
            let (sent, errand) = self.errands.remove(&answer.cookie).context("an answer to nothing")?;
            self.note(sent, now);
            match (errand, answer.result) {
                (LoadErrand::Write { first, count }, result) => {
                    self.load.wrote(first, count, result.is_ok());
                    if let Err(errno) = result {
                        self.faults.error("a write", errno);
                    }
                }
                (LoadErrand::Read { first, floors }, Ok(bytes)) => {
                    let seen = (moment, self.through.as_str());
                    self.load.read(first, &floors, &bytes, &mut self.faults, seen);
                }
                (LoadErrand::Read { .. }, Err(errno)) => self.faults.error("a read", errno),
            }
        }
        Ok(())
    }

    fn note(&self, sent: Instant, now: Instant) {
        let at_ns = (now - self.shared.started).as_nanos() as u64;
        let latency_ns = (now - sent).as_nanos() as u64;
        let mut timeline = self.shared.timeline.lock().unwrap_or_else(PoisonError::into_inner);
        timeline.record(at_ns, latency_ns);
        drop(timeline);
        let mut since = self.shared.since();
        since.longest = since.longest.max(now - sent);
        since.answered += u64::from(sent >= since.mark);
    }
}
