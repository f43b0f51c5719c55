//! The watch over this node's lease (SPEC C3, C6): a thread that does nothing else shuts the gates when it
//! runs out, also when the reactor is too busy to notice.
//!
//! Time is CLOCK_BOOTTIME: it goes on while the machine sleeps.

use parking_lot::{Condvar, Mutex};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A reactor that has not closed its gates so long after they were shut hangs: the process ends, and with it
/// its locks on disks.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Time since the machine started.
pub(crate) fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[derive(Debug)]
struct Term {
    /// When the lease runs out.
    until: Duration,
    /// Whether the reactor has closed its gates.
    closed: bool,
    stop: bool,
}

struct Shared {
    term: Mutex<Term>,
    changed: Condvar,
    shut: Arc<AtomicBool>,
}

/// The watch; its thread ends when this is dropped.
pub(crate) struct LeaseWatch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LeaseWatch {
    /// A watch over a lease that has not begun.
    pub(crate) fn start(waker: Arc<mio::Waker>) -> io::Result<LeaseWatch> {
        let term = Mutex::new(Term { until: Duration::ZERO, closed: true, stop: false });
        let shared = Arc::new(Shared { term, changed: Condvar::new(), shut: Arc::default() });
        let watched = shared.clone();
        let thread = std::thread::Builder::new()
            .name("netdisk-lease".into())
            .spawn(move || watch(&watched, &waker))?;
        Ok(LeaseWatch { shared, thread: Some(thread) })
    }

    /// Set while nothing may be admitted to the disks.
    pub(crate) fn shut(&self) -> Arc<AtomicBool> {
        self.shared.shut.clone()
    }

    /// Whether the lease has run out.
    pub(crate) fn has_run_out(&self) -> bool {
        self.shared.shut.load(Ordering::Relaxed)
    }

    /// Says whether the lease has run out, by the clock and not by when this watch's thread last looked.
    pub(crate) fn is_over(&self) -> impl Fn() -> bool + use<> {
        let shared = self.shared.clone();
        move || boot_time() >= shared.term.lock().until
    }

    /// The lease lasts until then, and the gates may be open.
    pub(crate) fn renew(&self, until: Duration) {
        let mut term = self.shared.term.lock();
        if until <= term.until {
            return;
        }
        let was_closed = std::mem::replace(&mut term.closed, false);
        term.until = until;
        self.shared.shut.store(false, Ordering::Relaxed);
        drop(term);
        if was_closed {
            // While it lasts, the thread looks again when the old term would have ended.
            self.shared.changed.notify_one();
        }
    }

    /// The reactor has closed its gates, and nothing runs on the disks.
    pub(crate) fn closed(&self) {
        self.shared.term.lock().closed = true;
    }
}

impl Drop for LeaseWatch {
    fn drop(&mut self) {
        self.shared.term.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

fn watch(shared: &Shared, waker: &mio::Waker) {
    let mut term = shared.term.lock();
    while !term.stop {
        if term.closed {
            shared.changed.wait(&mut term);
            continue;
        }
        let now = boot_time();
        if let Some(left) = term.until.checked_sub(now).filter(|left| !left.is_zero()) {
            shared.changed.wait_for(&mut term, left);
            continue;
        }
        if !shared.shut.swap(true, Ordering::Relaxed) {
            // Without the wake-up the reactor looks within its longest sleep.
            let _ = waker.wake();
        }
        let overrun = now.checked_sub(term.until + DRAIN_TIME_MAX).is_some();
        if overrun && !term.closed {
            tracing::error!("the lease has run out and the node does not close its gates: it ends here");
            std::process::abort();
        }
        shared.changed.wait_for(&mut term, Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use std::time::Instant;

    // proves: C3 C6
    #[test]
    fn gates_are_shut_when_the_lease_runs_out_and_not_before() {
        let mut poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let watch = LeaseWatch::start(waker).unwrap();
        assert!(!watch.has_run_out());
        let is_over = watch.is_over();
        assert!(is_over(), "it has not begun");
        let term = Duration::from_millis(200);
        let until = boot_time() + term;
        watch.renew(until);
        assert!(!is_over() || boot_time() >= until);
        let mut events = mio::Events::with_capacity(1);
        let begun = Instant::now();
        while !watch.has_run_out() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the gates were never shut");
            poll.poll(&mut events, Some(Duration::from_secs(1))).unwrap();
        }
        assert!(boot_time() >= until, "shut before its time");
        assert!(is_over());
        watch.closed();
        watch.renew(boot_time() + Duration::from_secs(3600));
        assert!(!watch.has_run_out(), "a new lease opens them again");
    }
}
