//! The replicated database in its two copies: the one that the log's thread applies commands to, and the one
//! that the reactor acts on. What the first has applied is handed to the second, in order.

use control_proto::ccd::{Applied, Database};
use control_raft::{Machine, RestoreFault};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Commands on their way to the reactor at the most; a reactor that is further behind gets the whole database
/// instead.
const STEPS_MAX: usize = 1024;
/// The same in bytes.
const STEPS_BYTES_MAX: usize = 8 << 20;

/// What the log's thread did to its copy.
enum Step {
    /// It applied this.
    Apply { index: u64, command: Vec<u8> },
    /// It became this: a snapshot came, or there was too much to tell one by one.
    Become(Box<Database>),
}

#[derive(Default)]
struct Steps {
    queue: VecDeque<Step>,
    bytes: usize,
}

struct Shared {
    steps: Mutex<Steps>,
    any: AtomicBool,
    /// Set once the reactor runs.
    waker: OnceLock<Arc<mio::Waker>>,
}

impl Shared {
    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            // Without it the reactor looks within its longest sleep.
            let _ = waker.wake();
        }
    }
}

/// What the reactor has to act on.
#[derive(Debug)]
pub(crate) enum News {
    /// A command was applied; what it changed is in here.
    Applied(Applied),
    /// Everything may have changed.
    Relisted,
}

/// The reactor's copy.
pub(crate) struct Replica {
    database: Database,
    shared: Arc<Shared>,
}

/// The copy of the log's thread.
pub(crate) struct LogSide {
    database: Database,
    shared: Arc<Shared>,
}

/// Both copies of a database as it was founded.
pub(crate) fn replicas(founded: Database) -> (LogSide, Replica) {
    let shared =
        Arc::new(Shared { steps: Mutex::default(), any: AtomicBool::new(false), waker: OnceLock::new() });
    let log_side = LogSide { database: founded.clone(), shared: shared.clone() };
    (log_side, Replica { database: founded, shared })
}

/// Something that wakes the reactor, once there is one.
pub(crate) struct Wake(Arc<Shared>);

impl Wake {
    pub(crate) fn wake(&self) {
        self.0.wake();
    }
}

impl Replica {
    /// The database as the reactor knows it.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    pub(crate) fn wake(&self) -> Wake {
        Wake(self.shared.clone())
    }

    /// From now on the reactor is woken when there is something.
    pub(crate) fn attach(&self, waker: Arc<mio::Waker>) {
        // The second of two would be a second reactor.
        let fresh = self.shared.waker.set(waker).is_ok();
        assert!(fresh, "one reactor acts on a replica");
    }

    /// Whether there is something to take.
    pub(crate) fn has_steps(&self) -> bool {
        self.shared.any.load(Ordering::Relaxed)
    }

    /// Takes the next step of the log's thread.
    #[inline]
    pub(crate) fn step(&mut self) -> Option<News> {
        if !self.shared.any.load(Ordering::Relaxed) {
            return None;
        }
        self.take_step()
    }

    #[cold]
    fn take_step(&mut self) -> Option<News> {
        let step = {
            let mut steps = self.shared.steps.lock();
            let step = steps.queue.pop_front();
            if let Some(Step::Apply { command, .. }) = &step {
                steps.bytes -= command.len();
            }
            self.shared.any.store(!steps.queue.is_empty(), Ordering::Relaxed);
            step?
        };
        Some(match step {
            Step::Apply { index, command } => News::Applied(self.database.apply_bytes(index, &command)),
            Step::Become(database) => {
                self.database = *database;
                News::Relisted
            }
        })
    }
}

impl LogSide {
    fn tell(&self, step: Step) {
        let mut steps = self.shared.steps.lock();
        let more = match &step {
            Step::Apply { command, .. } => command.len(),
            Step::Become(_) => 0,
        };
        let full = steps.queue.len() >= STEPS_MAX || steps.bytes + more > STEPS_BYTES_MAX;
        if full || matches!(step, Step::Become(_)) {
            *steps = Steps::default();
            steps.queue.push_back(Step::Become(Box::new(self.database.clone())));
        } else {
            steps.bytes += more;
            steps.queue.push_back(step);
        }
        self.shared.any.store(true, Ordering::Relaxed);
        drop(steps);
        self.shared.wake();
    }
}

impl Machine for LogSide {
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8> {
        let applied = self.database.apply_bytes(index, command);
        self.tell(Step::Apply { index, command: command.to_vec() });
        applied.answer().encode()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.database.snapshot()
    }

    fn restore(&mut self, index: u64, bytes: &[u8]) -> Result<(), RestoreFault> {
        let restored = Database::restore(bytes).map_err(|fault| RestoreFault { why: fault.to_string() })?;
        tracing::info!(index, number = restored.number().0, "the configuration comes from a snapshot");
        self.database = restored;
        self.tell(Step::Become(Box::new(self.database.clone())));
        Ok(())
    }
}
