//! Where the connectivity monitor's thread leaves its verdicts for the reactor.

use crate::notices::{NoticeCheck, Notices};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use transport_proto::identity::{NodeId, Path};

/// The monitor's latest word on one rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The node at the other end.
    pub peer: NodeId,
    /// The rail.
    pub path: Path,
    /// Whether both ends hear each other.
    pub up: bool,
    /// Smoothed round trip of heartbeats.
    pub round_trip: Duration,
}

/// One place per rail: a newer verdict replaces an older one that was not read yet, so the board cannot grow
/// beyond the number of rails.
#[derive(Debug, Default)]
pub struct VerdictBoard {
    posted: AtomicBool,
    verdicts: Mutex<Vec<Verdict>>,
    /// The last word on every rail that is watched: one that the endpoint gets to know later than the monitor
    /// did asks for it, since nothing is said twice.
    latest: Mutex<Vec<Verdict>>,
    waker: Mutex<Option<Arc<mio::Waker>>>,
    notices: Notices,
}

impl VerdictBoard {
    pub(crate) fn set_waker(&self, waker: Arc<mio::Waker>) {
        *self.waker.lock() = Some(waker);
    }

    /// Leaves a verdict and wakes the reactor. Called by the monitor when a verdict changes.
    pub fn post(&self, verdict: Verdict) {
        enter(&mut self.latest.lock(), verdict);
        let mut verdicts = self.verdicts.lock();
        enter(&mut verdicts, verdict);
        self.posted.store(true, Ordering::Release);
        drop(verdicts);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.lock().as_ref() {
            // A failed wake-up costs at most one sleep of the reactor, which is bounded.
            let _ = waker.wake();
        }
    }

    /// From now on datagrams that begin with [`transport_proto::connectivity::NOTICE_MAGIC`] and pass this
    /// check are kept for [`VerdictBoard::take_notice`]. The first check stays.
    pub fn watch_notices(&self, check: NoticeCheck) {
        self.notices.watch(check);
    }

    /// The oldest notice that was not taken yet. The owner of the reactor asks in each of its rounds.
    #[inline]
    pub fn take_notice(&self) -> Option<Vec<u8>> {
        self.notices.take()
    }

    /// Notices that did not pass the check.
    pub fn notices_refused(&self) -> u64 {
        self.notices.refused()
    }

    /// Called by the monitor for each datagram that is no heartbeat.
    pub(crate) fn leave_notice(&self, bytes: &[u8]) {
        if self.notices.leave(bytes) {
            self.wake();
        }
    }

    /// A rail is watched no more.
    pub fn forget(&self, peer: NodeId, path: Path) {
        self.latest.lock().retain(|known| (known.peer, known.path) != (peer, path));
    }

    /// The last word on a rail, if it is watched and one was spoken.
    pub(crate) fn latest(&self, peer: NodeId, path: Path) -> Option<Verdict> {
        self.latest.lock().iter().find(|known| (known.peer, known.path) == (peer, path)).copied()
    }

    /// What has come since the last call.
    #[inline]
    pub(crate) fn take(&self) -> Option<Vec<Verdict>> {
        if !self.posted.load(Ordering::Relaxed) {
            return None;
        }
        let mut verdicts = self.verdicts.lock();
        self.posted.store(false, Ordering::Relaxed);
        Some(core::mem::take(&mut *verdicts))
    }
}

fn enter(verdicts: &mut Vec<Verdict>, verdict: Verdict) {
    match verdicts.iter_mut().find(|known| known.peer == verdict.peer && known.path == verdict.path) {
        Some(known) => *known = verdict,
        None => verdicts.push(verdict),
    }
}
