//! What comes by the heartbeats' sockets and is no heartbeat: datagrams of whoever else uses them, distress
//! above all. The monitor's thread checks each one and keeps it for the reactor.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use transport_proto::connectivity::{NOTICE_BYTES_MAX, NOTICE_MAGIC};

/// Different notices that wait for the reactor at the most.
const WAITING_MAX: usize = 64;

/// Whether a datagram is believed. Called on the monitor's thread, so that a flood of forged ones costs the
/// reactor nothing and pushes no good one out.
pub type NoticeCheck = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Notices on their way to the reactor.
#[derive(Default)]
pub(crate) struct Notices {
    check: OnceLock<NoticeCheck>,
    any: AtomicBool,
    waiting: Mutex<VecDeque<Vec<u8>>>,
    refused: AtomicU64,
}

/// Whether these bytes are not meant for the monitor.
pub(crate) fn is_notice(bytes: &[u8]) -> bool {
    bytes.starts_with(&NOTICE_MAGIC.to_le_bytes())
}

impl Notices {
    /// The first check stays.
    pub(crate) fn watch(&self, check: NoticeCheck) {
        let _first_one_stays = self.check.set(check);
    }

    /// `true`: it is new, and the reactor is to be woken.
    pub(crate) fn leave(&self, bytes: &[u8]) -> bool {
        let believed = bytes.len() <= NOTICE_BYTES_MAX && self.check.get().is_some_and(|check| check(bytes));
        if !believed {
            // A count by itself: nothing is published with it.
            self.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let mut waiting = self.waiting.lock();
        // Copies of one come by several rails, and recordings can be played without end.
        if waiting.len() >= WAITING_MAX || waiting.iter().any(|known| known == bytes) {
            return false;
        }
        waiting.push_back(bytes.to_vec());
        self.any.store(true, Ordering::Relaxed);
        true
    }

    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let mut waiting = self.waiting.lock();
        let first = waiting.pop_front();
        self.any.store(!waiting.is_empty(), Ordering::Relaxed);
        first
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").field("refused", &self.refused()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(number: u8) -> Vec<u8> {
        let mut bytes = NOTICE_MAGIC.to_le_bytes().to_vec();
        bytes.push(number);
        bytes
    }

    // proves: T12
    #[test]
    fn copies_and_forgeries_take_no_room() {
        let notices = Notices::default();
        assert!(!notices.leave(&notice(1)), "nobody believes anything yet");
        notices.watch(Box::new(|bytes| bytes.get(2).is_some_and(|number| number % 2 == 1)));
        for _ in 0..1000 {
            notices.leave(&notice(1));
            notices.leave(&notice(2));
        }
        assert!(notices.leave(&notice(3)));
        let all: Vec<_> = std::iter::from_fn(|| notices.take()).collect();
        assert_eq!(all, [notice(1), notice(3)]);
        assert_eq!(notices.refused(), 1001);
        let fresh = |number: usize| [notice(1), number.to_le_bytes().to_vec()].concat();
        let taken = (0..2 * WAITING_MAX).filter(|number| notices.leave(&fresh(*number))).count();
        assert_eq!(taken, WAITING_MAX);
        assert!(!notices.leave(&[notice(1), vec![0; NOTICE_BYTES_MAX]].concat()), "too long");
    }
}
