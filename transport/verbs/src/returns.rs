//! Chunks that go back to the peer, and the notice that carries many of them.
//!
//! A frame takes one along for nothing. What is left goes in a notice of its own: when an eighth of the
//! memory has piled up, when the peer says that it waits, or before this side sleeps.

use transport_buf::{SlabLayout, slab};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a notice; no frame begins so.
pub(crate) const NOTICE_MAGIC: [u8; 4] = *b"ndU1";
/// The sender waits for memory of the receiver.
pub(crate) const WANTS_MEMORY: u32 = 1;
/// Words that one notice carries at the most.
pub(crate) const NOTICE_WORDS_MAX: usize = 16;

/// A notice: receives posted again, and chunks returned.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Notice {
    pub(crate) magic: [u8; 4],
    pub(crate) flags: U32,
    /// As in a frame's header.
    pub(crate) stamp: U64,
    pub(crate) words: [ReturnedWord; NOTICE_WORDS_MAX],
}

/// Chunks `number * 64 + bit` are free again.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ReturnedWord {
    pub(crate) number: U32,
    pub(crate) bits: U64,
}

/// Bytes of a notice.
pub(crate) const NOTICE_BYTES: usize = size_of::<Notice>();
const _: () = assert!(NOTICE_BYTES <= crate::lane::SLOT_BYTES);

/// What clients gave back and the peer does not know yet.
pub(crate) struct Returns {
    words: Vec<u64>,
    chunks: usize,
    bytes: usize,
    /// Chunks that were delivered and have not come back.
    lent: usize,
}

impl Returns {
    pub(crate) fn new(layout: &SlabLayout) -> Returns {
        Returns { words: vec![0; layout.chunks().div_ceil(64)], chunks: 0, bytes: 0, lent: 0 }
    }

    /// A chunk was delivered.
    pub(crate) fn lend(&mut self) {
        self.lent += 1;
    }

    /// Looks at what clients gave back since the last time.
    #[inline]
    pub(crate) fn collect(&mut self, region: &transport_buf::Region, layout: &SlabLayout) {
        if self.lent == 0 {
            return;
        }
        slab::take_returns(region, layout, |number, bits| {
            let mut fresh = bits & !self.words[number];
            self.words[number] |= bits;
            while fresh != 0 {
                let index = number as u32 * 64 + fresh.trailing_zeros();
                self.bytes += layout.locate(index).map_or(0, |(_, bytes)| bytes);
                (self.chunks, self.lent) = (self.chunks + 1, self.lent.saturating_sub(1));
                fresh &= fresh - 1;
            }
        });
    }

    /// Whether there is anything to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks == 0
    }

    /// Whether so much has piled up that the peer should hear of it.
    pub(crate) fn is_due(&self, layout: &SlabLayout) -> bool {
        self.chunks > 0 && (self.chunks * 8 >= layout.chunks() || self.bytes * 8 >= layout.region_bytes())
    }

    /// Takes one chunk, to go along with a frame.
    #[inline]
    pub(crate) fn take_one(&mut self, layout: &SlabLayout) -> Option<u32> {
        if self.chunks == 0 {
            return None;
        }
        let number = self.words.iter().position(|word| *word != 0)?;
        let index = number as u32 * 64 + self.words[number].trailing_zeros();
        self.words[number] &= self.words[number] - 1;
        self.took(layout, index);
        Some(index)
    }

    /// Takes as many as a notice carries.
    pub(crate) fn take_many(&mut self, layout: &SlabLayout) -> [ReturnedWord; NOTICE_WORDS_MAX] {
        let mut taken = [ReturnedWord { number: U32::ZERO, bits: U64::ZERO }; NOTICE_WORDS_MAX];
        let mut places = taken.iter_mut();
        for number in 0..self.words.len() {
            let bits = self.words[number];
            if bits == 0 {
                continue;
            }
            let Some(place) = places.next() else { break };
            *place = ReturnedWord { number: U32::new(number as u32), bits: U64::new(bits) };
            self.words[number] = 0;
            let mut left = bits;
            while left != 0 {
                self.took(layout, number as u32 * 64 + left.trailing_zeros());
                left &= left - 1;
            }
        }
        taken
    }

    fn took(&mut self, layout: &SlabLayout, index: u32) {
        self.chunks -= 1;
        self.bytes -= layout.locate(index).map_or(0, |(_, bytes)| bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport_buf::{Chunk, Region};

    #[test]
    fn every_chunk_given_back_is_told_once() {
        let layout = SlabLayout { classes: [(4096, 130), (8192, 2), (0, 0), (0, 0)] };
        let region = std::sync::Arc::new(Region::create(layout.region_bytes()).unwrap());
        let mut returns = Returns::new(&layout);
        let mut told = [false; 132];
        for index in 0..132 {
            drop(Chunk::take_up(&region, &layout, index, 100).unwrap());
            returns.lend();
        }
        returns.collect(&region, &layout);
        assert!(returns.is_due(&layout));
        for _ in 0..5 {
            let index = returns.take_one(&layout).unwrap() as usize;
            assert!(!core::mem::replace(&mut told[index], true));
        }
        for word in returns.take_many(&layout) {
            for bit in (0..64).filter(|bit| word.bits.get() >> bit & 1 != 0) {
                let index = word.number.get() as usize * 64 + bit;
                assert!(!core::mem::replace(&mut told[index], true));
            }
        }
        assert!(told.iter().all(|told| *told) && returns.is_empty() && returns.bytes == 0);
    }
}
