//! Sets of table slots as the bits of a word: cheap to test, cheap to walk.

/// The numbers of the bits that are set, lowest first.
#[inline]
pub fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros() as usize;
            word &= word - 1;
            bit
        })
    })
}

/// The word of all bits for whose number `is_set` holds.
pub fn bits_of(is_set: impl Fn(usize) -> bool) -> u64 {
    (0..u64::BITS as usize).filter(|bit| is_set(*bit)).fold(0, |word, bit| word | 1 << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_gives_back_what_was_put_in() {
        for numbers in [vec![], vec![0], vec![63], vec![0, 5, 31, 32, 62, 63]] {
            let word = bits_of(|bit| numbers.contains(&bit));
            assert_eq!(bits(word).collect::<Vec<_>>(), numbers);
        }
    }
}
