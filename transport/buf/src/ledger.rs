//! The ledger of leases: how many received messages a client still holds, since when, and how many it has
//! given back. The reactor writes entries in, whoever drops a lease strikes its entry out, on any thread.

use crate::atomic::{AtomicU32, AtomicU64, Ordering};

/// Leases that one ledger can hold at once.
pub const LEASES_MAX: usize = 256;

/// Leases of one client from one peer.
#[derive(Debug)]
pub struct LeaseLedger {
    released: AtomicU32,
    /// Nanoseconds at which the lease was given; 0 = free.
    since: Box<[AtomicU64]>,
}

impl Default for LeaseLedger {
    fn default() -> LeaseLedger {
        LeaseLedger {
            released: AtomicU32::new(0),
            since: (0..LEASES_MAX).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl LeaseLedger {
    /// Enters a lease given at `now` (nanoseconds, not 0). Returns its entry; `None` when all are taken.
    /// Only the reactor enters, so a free entry stays free until it is taken here.
    pub fn enter(&self, now: u64, hint: usize) -> Option<u16> {
        (0..LEASES_MAX).map(|step| (hint + step) % LEASES_MAX).find_map(|entry| {
            // SYNC: lease-entry. Pairs with the release store in `strike`.
            if self.since[entry].load(Ordering::Acquire) != 0 {
                return None;
            }
            self.since[entry].store(now.max(1), Ordering::Relaxed);
            Some(entry as u16)
        })
    }

    /// Strikes an entry out: the lease was dropped.
    pub fn strike(&self, entry: u16) {
        // SYNC: lease-entry. Pairs with the acquire load in `enter`.
        self.since[usize::from(entry)].store(0, Ordering::Release);
        // SYNC: lease-count. Pairs with the acquire load in `released`: what the holder did comes before its
        // credit.
        self.released.fetch_add(1, Ordering::Release);
    }

    /// Leases dropped so far, modulo 2³².
    #[inline]
    pub fn released(&self) -> u32 {
        // SYNC: lease-count. Pairs with the release add in `strike`.
        self.released.load(Ordering::Acquire)
    }

    /// Leases held now, and the moment (nanoseconds) at which the oldest of them was given.
    pub fn held(&self) -> (usize, Option<u64>) {
        let mut count = 0;
        let mut oldest = None;
        for entry in &self.since {
            let since = entry.load(Ordering::Relaxed);
            if since != 0 {
                count += 1;
                oldest = Some(oldest.map_or(since, |known: u64| known.min(since)));
            }
        }
        (count, oldest)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    // proves: T4
    #[test]
    fn ledger_counts_and_ages_held_leases_and_refuses_past_its_bound() {
        let ledger = LeaseLedger::default();
        let entries: Vec<_> = (0..LEASES_MAX).map(|i| ledger.enter(100 + i as u64, i).unwrap()).collect();
        assert_eq!(ledger.enter(999, 0), None);
        assert_eq!(ledger.held(), (LEASES_MAX, Some(100)));
        ledger.strike(entries[0]);
        assert_eq!(ledger.held(), (LEASES_MAX - 1, Some(101)));
        assert_eq!(ledger.released(), 1);
        assert_eq!(ledger.enter(5, 7), Some(entries[0]));
    }
}
