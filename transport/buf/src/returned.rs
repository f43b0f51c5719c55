//! The `returned` bitmap of a slab: how a chunk goes back to the side that allocates, from any thread of any
//! process, and how an allocator that ran dry is told without missing the moment.
//!
//! Both sides act on the *same word* by read-modify-write. So of a return and a collection that cross, one
//! comes first: either the collection finds the bit, or the return sees that somebody waits. No fence is
//! needed.

use crate::atomic::{AtomicU64, Ordering};

/// Bits of a word of the bitmap.
pub const WORD_BITS: usize = 64;

/// Sets `bit` in `word`: that chunk is free again. `true`: the allocator waits for a chunk and must be woken.
#[must_use = "an allocator that waits must be woken"]
pub fn give_back(word: &AtomicU64, wanted: &AtomicU64, bit: u32) -> bool {
    // SYNC: chunk-return. Release: accesses to the chunk come before its reuse (acquired in `collect` and
    // `want`). SYNC: chunk-wanted. Acquire: if `want` looked at this word before, its flag is seen below.
    word.fetch_or(1 << bit, Ordering::AcqRel);
    // The plain load first: it keeps the line shared while nobody waits.
    wanted.load(Ordering::Relaxed) != 0 && wanted.swap(0, Ordering::Relaxed) != 0
}

/// Takes the bits that were set since the last time.
pub fn collect(word: &AtomicU64) -> u64 {
    if word.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    // SYNC: chunk-return. Pairs with the release in `give_back`.
    word.swap(0, Ordering::Acquire)
}

/// Says that the allocator waits; every word must be looked at by [`collect_wanting`] after this.
pub fn want(wanted: &AtomicU64) {
    // By read-modify-write, as `give_back` clears it: each write follows the one it found.
    wanted.swap(1, Ordering::Relaxed);
}

/// Takes the bits after [`want`]: what is not found here rings.
pub fn collect_wanting(word: &AtomicU64) -> u64 {
    // SYNC: chunk-wanted. Release: the flag set by `want` is seen by every `give_back` that comes after this
    // in the word's order. SYNC: chunk-return. Acquire, as in `collect`. Unconditional: a load alone would
    // order nothing.
    word.swap(0, Ordering::AcqRel)
}

/// Whether a chunk came back since [`want`].
pub fn is_answered(wanted: &AtomicU64) -> bool {
    wanted.load(Ordering::Relaxed) == 0
}
