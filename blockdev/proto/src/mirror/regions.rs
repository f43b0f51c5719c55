//! A set of regions of a mirror: one bit each.

use alloc::vec::Vec;

const WORD_BITS: u64 = 64;

/// Regions of one mirror, by number, `0..length`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RegionSet {
    words: Vec<u64>,
    length: u64,
    count: u64,
}

impl RegionSet {
    /// None of `length` regions.
    pub(super) fn none(length: u64) -> RegionSet {
        RegionSet { words: alloc::vec![0; length.div_ceil(WORD_BITS) as usize], length, count: 0 }
    }

    /// Regions that can be in it.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Regions that are in it.
    #[inline]
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[inline]
    pub(super) fn has(&self, region: u64) -> bool {
        self.words[(region / WORD_BITS) as usize] >> (region % WORD_BITS) & 1 == 1
    }

    #[inline]
    pub(super) fn insert(&mut self, region: u64) {
        debug_assert!(region < self.length, "region {region} of {}", self.length);
        let word = &mut self.words[(region / WORD_BITS) as usize];
        let bit = 1 << (region % WORD_BITS);
        self.count += u64::from(*word & bit == 0);
        *word |= bit;
    }

    #[inline]
    pub(super) fn remove(&mut self, region: u64) {
        let word = &mut self.words[(region / WORD_BITS) as usize];
        let bit = 1 << (region % WORD_BITS);
        self.count -= u64::from(*word & bit != 0);
        *word &= !bit;
    }

    pub(super) fn clear(&mut self) {
        self.words.fill(0);
        self.count = 0;
    }

    pub(super) fn fill(&mut self) {
        self.words.fill(!0);
        let tail = self.length % WORD_BITS;
        if let Some(last) = self.words.last_mut().filter(|_| tail != 0) {
            *last = (1 << tail) - 1;
        }
        self.count = self.length;
    }

    /// Takes in what is in the other, of the same length.
    pub(super) fn unite(&mut self, other: &RegionSet) {
        self.change(other, |word, other| word | other);
    }

    /// Takes out what is in the other, of the same length.
    pub(super) fn subtract(&mut self, other: &RegionSet) {
        self.change(other, |word, other| word & !other);
    }

    fn change(&mut self, other: &RegionSet, change: impl Fn(u64, u64) -> u64) {
        debug_assert_eq!(self.length, other.length);
        self.count = 0;
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word = change(*word, *other);
            self.count += u64::from(word.count_ones());
        }
    }

    /// The first region in it that is not before `from`.
    pub(super) fn first_from(&self, from: u64) -> Option<u64> {
        if self.count == 0 || from >= self.length {
            return None;
        }
        let mut index = (from / WORD_BITS) as usize;
        let mut word = self.words[index] & (!0 << (from % WORD_BITS));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(index as u64 * WORD_BITS + u64::from(word.trailing_zeros()))
    }

    /// All in it, rising.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        core::iter::successors(self.first_from(0), |last| self.first_from(last + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    proptest! {
        // proves: B10
        #[test]
        fn a_set_of_regions_is_a_set(
            length in 1u64..200, changes in proptest::collection::vec((any::<bool>(), 0u64..200), 0..100),
        ) {
            let mut set = RegionSet::none(length);
            let mut model = BTreeSet::new();
            for (put, region) in changes {
                let region = region % length;
                if put { set.insert(region); model.insert(region); }
                else { set.remove(region); model.remove(&region); }
            }
            prop_assert_eq!(set.count(), model.len() as u64);
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), model.clone());
            prop_assert!((0..length).all(|region| set.has(region) == model.contains(&region)));
            let mut all = RegionSet::none(length);
            all.fill();
            prop_assert_eq!(all.iter().count() as u64, length);
            let mut rest = all.clone();
            rest.subtract(&set);
            prop_assert_eq!(rest.count(), length - set.count());
            rest.unite(&set);
            prop_assert_eq!(rest, all);
        }
    }
}
