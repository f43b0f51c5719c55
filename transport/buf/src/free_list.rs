//! Which chunks of a slab are free, as far as its one allocating side knows: a bit each, smallest class
//! first.
//!
//! [`crate::Slab`] keeps one beside the memory; a sender over a network keeps one for memory of the peer that
//! it never maps, and marks what the peer says it returned.

use crate::returned::WORD_BITS;
use crate::slab::SlabLayout;

/// Free chunks of one slab. One owner.
#[derive(Clone, Debug)]
pub struct FreeList {
    layout: SlabLayout,
    /// Bit set = free.
    words: Vec<u64>,
}

impl FreeList {
    /// Every chunk of `layout`, which must be usable, is free.
    pub fn new(layout: SlabLayout) -> FreeList {
        let chunks = layout.chunks();
        let words = 0..chunks.div_ceil(WORD_BITS);
        FreeList { layout, words: words.map(|word| low_bits(chunks - word * WORD_BITS)).collect() }
    }

    /// How the slab is cut.
    pub fn layout(&self) -> &SlabLayout {
        &self.layout
    }

    /// Takes a free chunk of the smallest class that holds `bytes` and has one.
    pub fn take(&mut self, bytes: usize) -> Option<u32> {
        let mut first = 0u32;
        for (chunk_bytes, count) in self.layout.classes {
            if count > 0
                && chunk_bytes as usize >= bytes
                && let Some(index) = self.take_between(first, first + count)
            {
                return Some(index);
            }
            first += count;
        }
        None
    }

    fn take_between(&mut self, first: u32, end: u32) -> Option<u32> {
        for word in first / 64..end.div_ceil(64) {
            let mut bits = self.words[word as usize];
            if word == first / 64 {
                bits &= !low_bits((first % 64) as usize);
            }
            if word == end / 64 {
                bits &= low_bits((end % 64) as usize);
            }
            if bits != 0 {
                let bit = bits.trailing_zeros();
                self.words[word as usize] &= !(1 << bit);
                return Some(word * 64 + bit);
            }
        }
        None
    }

    /// Marks the chunks of word `word` whose bits are set as free. Bits past the last chunk, or of chunks
    /// that are free already, can only come from a peer that breaks the protocol; they change nothing.
    pub fn give_back(&mut self, word: usize, bits: u64) {
        let chunks = self.layout.chunks();
        if let Some(free) = self.words.get_mut(word) {
            *free |= bits & low_bits(chunks - word * WORD_BITS);
        }
    }

    /// Words of the list, 64 chunks each.
    pub fn words(&self) -> usize {
        self.words.len()
    }

    /// Free chunks.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }
}

/// A word with the lowest `count` bits set; all of them from 64 on.
const fn low_bits(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: SlabLayout = SlabLayout { classes: [(4096, 70), (8192, 3), (0, 0), (0, 0)] };

    #[test]
    fn every_chunk_is_taken_once_and_large_ones_serve_when_small_ones_are_gone() {
        let mut list = FreeList::new(SMALL);
        assert_eq!(list.take(5000), Some(70));
        let taken: Vec<u32> = core::iter::from_fn(|| list.take(1)).collect();
        assert_eq!(taken, (0..70).chain(71..73).collect::<Vec<_>>());
        list.give_back(1, 1 << 3);
        assert_eq!((list.count(), list.take(1)), (1, Some(67)));
    }

    #[test]
    fn what_does_not_exist_cannot_be_given_back() {
        let mut list = FreeList::new(SMALL);
        while list.take(1).is_some() {}
        list.give_back(1, u64::MAX << 9);
        list.give_back(2, u64::MAX);
        assert_eq!(list.count(), 0);
    }
}
