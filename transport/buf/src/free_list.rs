//! Which chunks of a slab are free, as far as its one allocating side knows: a bit each, smallest class
//! first.
//!
//! [`crate::Slab`] keeps one beside the memory; a sender over a network keeps one for memory of the peer that
//! it never maps, and marks what the peer says it returned.

use crate::returned::WORD_BITS;
use crate::shares::Shares;
use crate::slab::SlabLayout;

/// Free chunks of one slab. One owner.
#[derive(Clone, Debug)]
pub struct FreeList {
    layout: SlabLayout,
    /// Bit set = free.
    words: Vec<u64>,
    /// Who holds what, once that counts.
    shares: Option<Box<Shares>>,
}

impl FreeList {
    /// Every chunk of `layout`, which must be usable, is free.
    pub fn new(layout: SlabLayout) -> FreeList {
        let chunks = layout.chunks();
        let words = 0..chunks.div_ceil(WORD_BITS);
        let words = words.map(|word| low_bits(chunks - word * WORD_BITS)).collect();
        FreeList { layout, words, shares: None }
    }

    /// How the slab is cut.
    pub fn layout(&self) -> &SlabLayout {
        &self.layout
    }

    /// From now on half of each class is kept in reserve, evenly for these holders (one bit each, the lowest
    /// [`crate::shares::HOLDERS_MAX`]); [`FreeList::take_for`] one of them leaves the others' reserves alone.
    pub fn share_among(&mut self, holders: u32) {
        let (layout, words) = (&self.layout, &self.words);
        let is_free =
            |index: u32| words[index as usize / WORD_BITS] & (1 << (index as usize % WORD_BITS)) != 0;
        self.shares.get_or_insert_with(|| Box::new(Shares::new(layout, is_free))).share_among(holders);
    }

    /// Whether the holder has at most half of what it may have.
    pub fn is_half_empty(&self, holder: usize) -> bool {
        self.shares.as_ref().is_none_or(|shares| shares.is_half_empty(holder))
    }

    /// Takes a free chunk of the smallest class that holds `bytes` and has one.
    pub fn take(&mut self, bytes: usize) -> Option<u32> {
        self.take_for(None, bytes)
    }

    /// The same for a holder, within its share if there are shares.
    pub fn take_for(&mut self, holder: Option<usize>, bytes: usize) -> Option<u32> {
        let index = self.find(holder, bytes)?;
        if let Some(shares) = &mut self.shares {
            shares.taken(index, holder);
        }
        Some(index)
    }

    fn find(&mut self, holder: Option<usize>, bytes: usize) -> Option<u32> {
        let mut first = 0u32;
        for (class, (chunk_bytes, count)) in self.layout.classes.into_iter().enumerate() {
            let may_take = |shares: &Shares| holder.is_none_or(|holder| shares.may_take(holder, class));
            if count > 0
                && chunk_bytes as usize >= bytes
                && self.shares.as_deref().is_none_or(may_take)
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
        let Some(free) = self.words.get_mut(word) else { return };
        let mut fresh = bits & low_bits(chunks - word * WORD_BITS) & !*free;
        *free |= fresh;
        if let Some(shares) = &mut self.shares {
            while fresh != 0 {
                shares.returned((word * WORD_BITS) as u32 + fresh.trailing_zeros());
                fresh &= fresh - 1;
            }
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
