//! Custody: which chunks of a region are in whose hands *in this process*.
//!
//! Ring and bitmap lie in memory that a peer can write, so neither may decide whether a chunk has one owner
//! here. This table does, in memory of our own: a peer that hands the same chunk over twice, or returns one
//! that it does not have, is refused, and no two [`crate::Chunk`]s ever alias. It also counts the handles of
//! a placed chunk, so that one that was never handed over goes back to its slab with the last of them.
//!
//! An entry: life of the chunk (high 32 bits), HELD (bit 31), handles of a placed chunk not yet handed over.

use crate::atomic::{AtomicU64, Ordering};

const HELD: u64 = 1 << 31;
const HANDLES: u64 = HELD - 1;
const LIFE_SHIFT: u32 = 32;

/// One entry per chunk.
pub(crate) struct Custody {
    entries: Box<[AtomicU64]>,
}

/// Tells the lives of one chunk apart: it ends when the chunk goes back to its slab or to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life(u32);

impl Custody {
    pub(crate) fn new(chunks: usize) -> Custody {
        Custody { entries: (0..chunks).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Begins a life of chunk `index`. `false`: somebody in this process has it, or there is no such chunk.
    pub(crate) fn begin(&self, index: u32) -> bool {
        let Some(entry) = self.entries.get(index as usize) else { return false };
        let found = entry.load(Ordering::Acquire);
        if found & (HELD | HANDLES) != 0 {
            return false;
        }
        let life = (found >> LIFE_SHIFT).wrapping_add(1) & u64::from(u32::MAX);
        entry.compare_exchange(found, life << LIFE_SHIFT | HELD, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Ends the life of a chunk whose one owner is the caller.
    pub(crate) fn end(&self, index: u32) {
        let entry = &self.entries[index as usize];
        entry.store(entry.load(Ordering::Relaxed) & !(HELD | HANDLES), Ordering::Release);
    }

    /// The one owner becomes the first of several handles.
    pub(crate) fn place(&self, index: u32) -> Life {
        let entry = &self.entries[index as usize];
        let life = entry.load(Ordering::Relaxed) >> LIFE_SHIFT;
        entry.store(life << LIFE_SHIFT | 1, Ordering::Release);
        Life(life as u32)
    }

    /// One more handle.
    pub(crate) fn add_handle(&self, index: u32, life: Life) {
        self.change(index, life, |handles| handles + 1);
    }

    /// One handle less. `true`: it was the last and the chunk was never handed over, the caller returns it.
    pub(crate) fn drop_handle(&self, index: u32, life: Life) -> bool {
        self.change(index, life, |handles| handles - 1) == Some(1)
    }

    /// The chunk goes to the peer, which returns it. `false`: it went before, in this life or an earlier one.
    pub(crate) fn hand_over(&self, index: u32, life: Life) -> bool {
        self.change(index, life, |_| 0).is_some()
    }

    /// Changes the handle count, if the life is still on and not handed over; returns the count before.
    fn change(&self, index: u32, life: Life, to: impl Fn(u64) -> u64) -> Option<u64> {
        let entry = &self.entries[index as usize];
        let mut found = entry.load(Ordering::Acquire);
        loop {
            let handles = found & HANDLES;
            if found >> LIFE_SHIFT != u64::from(life.0) || handles == 0 {
                return None;
            }
            let next = found & !HANDLES | to(handles);
            match entry.compare_exchange_weak(found, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(handles),
                Err(now) => found = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_in_use_cannot_begin_another_life() {
        let custody = Custody::new(2);
        assert!(custody.begin(0));
        assert!(!custody.begin(0));
        assert!(custody.begin(1));
        assert!(!custody.begin(2), "there is no such chunk");
        custody.end(0);
        assert!(custody.begin(0));
    }

    #[test]
    fn the_last_handle_returns_a_chunk_that_was_never_handed_over() {
        let custody = Custody::new(1);
        assert!(custody.begin(0));
        let life = custody.place(0);
        custody.add_handle(0, life);
        assert!(!custody.drop_handle(0, life));
        assert!(custody.drop_handle(0, life));
    }

    #[test]
    fn a_chunk_is_handed_over_once_and_old_handles_do_not_touch_its_next_life() {
        let custody = Custody::new(1);
        assert!(custody.begin(0));
        let life = custody.place(0);
        assert!(custody.hand_over(0, life));
        assert!(!custody.hand_over(0, life));
        assert!(custody.begin(0), "the peer returned it");
        let next = custody.place(0);
        assert!(!custody.drop_handle(0, life));
        assert!(!custody.hand_over(0, life));
        assert!(custody.hand_over(0, next));
    }
}
