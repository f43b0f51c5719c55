//! A slab: a region cut into chunks of a few sizes, with one allocating side and any number of returning threads.
//!
//! Who allocates is the side that fills the chunk next: over shared memory the *sending* process allocates in the
//! slab that the *receiving* process made and granted; for sockets the receiver itself. Who returns a chunk is
//! whoever held it last, on any thread of any process that maps the region: it sets the chunk's bit in the `returned`
//! bitmap at the head of the region. The allocator collects those bits when its own list runs dry. No queue, no lock,
//! nothing that can overflow.

use crate::chunk::Chunk;
use crate::region::{PAGE_BYTES, Region, RegionError};
use core::sync::atomic::Ordering;
use std::sync::Arc;

/// Chunk sizes of a slab at the most.
pub const CLASSES_MAX: usize = 4;

/// How a slab is cut: for each class the bytes of a chunk (a multiple of a page) and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabLayout {
    /// (bytes of a chunk, number of chunks), in rising order of bytes; unused classes have 0 chunks.
    pub classes: [(u32, u32); CLASSES_MAX],
}

impl Default for SlabLayout {
    /// 18 MiB: 512 × 4 KiB, 64 × 64 KiB, 16 × 256 KiB, 8 × 1 MiB.
    fn default() -> SlabLayout {
        SlabLayout { classes: [(4 << 10, 512), (64 << 10, 64), (256 << 10, 16), (1 << 20, 8)] }
    }
}

impl SlabLayout {
    /// Whether it can be used: sizes rise, are whole pages, and there is at least one chunk.
    pub fn is_valid(&self) -> bool {
        let rising = self.classes.windows(2).all(|pair| pair[0].0 < pair[1].0 || pair[1].1 == 0);
        let pages = self.classes.iter().all(|(bytes, _)| *bytes as usize % PAGE_BYTES == 0);
        rising && pages && (1..=1 << 20).contains(&self.chunks()) && self.region_bytes() < 1 << 40
    }

    /// Chunks of all classes.
    pub fn chunks(&self) -> usize {
        self.classes.iter().map(|(_, count)| *count as usize).sum()
    }

    /// Bytes of the bitmap at the head, whole pages.
    fn bitmap_bytes(&self) -> usize {
        (self.chunks().div_ceil(64) * 8).next_multiple_of(PAGE_BYTES)
    }

    /// Bytes of a region with this layout.
    pub fn region_bytes(&self) -> usize {
        let chunks: usize = self.classes.iter().map(|(bytes, count)| *bytes as usize * *count as usize).sum();
        self.bitmap_bytes() + chunks
    }

    /// Bytes of the largest chunk.
    pub fn chunk_bytes_max(&self) -> usize {
        self.classes.iter().filter(|(_, count)| *count > 0).map(|(bytes, _)| *bytes as usize).max().unwrap_or(0)
    }

    /// Offset and bytes of chunk `index`; `None` if there is no such chunk (a peer's number is checked by this).
    pub fn locate(&self, index: u32) -> Option<(usize, usize)> {
        let mut first = 0;
        let mut offset = self.bitmap_bytes();
        for (bytes, count) in self.classes {
            if index < first + count {
                return Some((offset + (index - first) as usize * bytes as usize, bytes as usize));
            }
            first += count;
            offset += bytes as usize * count as usize;
        }
        None
    }
}

/// Why no chunk was given. Nothing happened; ask again after a chunk was returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlabRefusal {
    /// Every chunk that is large enough is in use.
    Exhausted,
    /// No class is that large, however long the caller waits.
    TooLarge {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes of the largest chunk.
        bytes_max: usize,
    },
}

/// The allocating side of a slab. One owner, one thread.
pub struct Slab {
    region: Arc<Region>,
    layout: SlabLayout,
    /// Bit set = free, as far as this side knows.
    free: Vec<u64>,
}

impl Slab {
    /// Makes a region with this layout and allocates from it here.
    pub fn create(layout: SlabLayout) -> Result<Slab, RegionError> {
        Ok(Slab::over(Arc::new(Region::create(layout.region_bytes())?), layout))
    }

    /// Allocates from a region that was made with this layout, by this process or by the peer that granted it.
    /// Every chunk must be free: there is one allocating side in a region's life.
    pub fn over(region: Arc<Region>, layout: SlabLayout) -> Slab {
        assert!(layout.is_valid() && region.len() >= layout.region_bytes(), "layout does not fit the region");
        let chunks = layout.chunks();
        let words = chunks.div_ceil(64);
        let free = (0..words).map(|word| low_bits((chunks - word * 64).min(64))).collect();
        Slab { region, layout, free }
    }

    /// The region, to be passed to a peer or to look chunks up.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// How it is cut.
    pub fn layout(&self) -> &SlabLayout {
        &self.layout
    }

    /// A chunk for `bytes` bytes, from the smallest class that has one free.
    pub fn allocate(&mut self, bytes: usize) -> Result<Chunk, SlabRefusal> {
        let bytes_max = self.layout.chunk_bytes_max();
        if bytes > bytes_max {
            return Err(SlabRefusal::TooLarge { bytes, bytes_max });
        }
        if let Some(index) = self.take(bytes) {
            return Ok(self.chunk(index, bytes));
        }
        self.collect();
        self.take(bytes).map(|index| self.chunk(index, bytes)).ok_or(SlabRefusal::Exhausted)
    }

    /// Chunks in use, by the returned bits seen so far plus those waiting in the bitmap.
    pub fn in_use(&mut self) -> usize {
        self.collect();
        self.layout.chunks() - self.free.iter().map(|word| word.count_ones() as usize).sum::<usize>()
    }

    fn chunk(&self, index: u32, bytes: usize) -> Chunk {
        Chunk::new(self.region.clone(), &self.layout, index, bytes)
    }

    /// Takes a free chunk of the smallest class that fits and has one.
    fn take(&mut self, bytes: usize) -> Option<u32> {
        let mut first = 0u32;
        for (chunk_bytes, count) in self.layout.classes {
            if count > 0 && chunk_bytes as usize >= bytes {
                if let Some(index) = self.take_between(first, first + count) {
                    return Some(index);
                }
            }
            first += count;
        }
        None
    }

    fn take_between(&mut self, first: u32, end: u32) -> Option<u32> {
        for word in first / 64..end.div_ceil(64) {
            let mut bits = self.free[word as usize];
            if word == first / 64 {
                bits &= !low_bits((first % 64) as usize);
            }
            if word == end / 64 {
                bits &= low_bits((end % 64) as usize);
            }
            if bits != 0 {
                let bit = bits.trailing_zeros();
                self.free[word as usize] &= !(1 << bit);
                return Some(word * 64 + bit);
            }
        }
        None
    }

    /// Collects the returned bits. Bits past the last chunk, or of chunks that are free already, can only come from
    /// a peer that breaks the protocol; they are ignored.
    fn collect(&mut self) {
        let chunks = self.layout.chunks();
        for (number, free) in self.free.iter_mut().enumerate() {
            let word = self.region.word(number * 8);
            if word.load(Ordering::Relaxed) != 0 {
                // SYNC: chunk-return. Pairs with the release in `return_chunk`: whoever held the chunk is done with it.
                let returned = word.swap(0, Ordering::Acquire);
                *free |= returned & low_bits((chunks - number * 64).min(64));
            }
        }
    }
}

/// Gives chunk `index` of `region` back to its allocator. Any thread, any process.
pub(crate) fn return_chunk(region: &Region, index: u32) {
    // SYNC: chunk-return. Pairs with the acquire in `Slab::collect`: accesses to the chunk come before its reuse.
    region.word(index as usize / 64 * 8).fetch_or(1 << (index % 64), Ordering::Release);
}

/// A word with the lowest `count` bits set, `0..=64`.
const fn low_bits(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: SlabLayout = SlabLayout { classes: [(4096, 70), (8192, 3), (0, 0), (0, 0)] };

    #[test]
    fn slab_gives_every_chunk_once_and_refuses_when_all_are_held() {
        let mut slab = Slab::create(SMALL).unwrap();
        let held: Vec<_> = (0..73).map(|_| slab.allocate(100).unwrap()).collect();
        let mut indexes: Vec<_> = held.iter().map(|chunk| chunk.index()).collect();
        indexes.sort_unstable();
        indexes.dedup();
        assert_eq!(indexes.len(), 73);
        assert_eq!(slab.allocate(1).err(), Some(SlabRefusal::Exhausted));
        drop(held);
        assert_eq!(slab.in_use(), 0);
    }

    #[test]
    fn slab_says_when_no_chunk_will_ever_be_large_enough() {
        let mut slab = Slab::create(SMALL).unwrap();
        assert_eq!(slab.allocate(8193).err(), Some(SlabRefusal::TooLarge { bytes: 8193, bytes_max: 8192 }));
    }

    #[test]
    fn slab_reuses_a_chunk_only_after_its_last_share_is_gone() {
        let layout = SlabLayout { classes: [(4096, 1), (0, 0), (0, 0), (0, 0)] };
        let mut slab = Slab::create(layout).unwrap();
        let shared = slab.allocate(4096).unwrap().share();
        let other = shared.clone();
        drop(shared);
        assert!(slab.allocate(1).is_err());
        drop(other);
        assert!(slab.allocate(1).is_ok());
    }

    #[test]
    fn chunks_do_not_overlap() {
        let mut seen: Vec<(usize, usize)> = (0..73).map(|index| SMALL.locate(index).unwrap()).collect();
        seen.sort_unstable();
        assert!(seen.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        assert!(SMALL.locate(73).is_none());
    }

    #[test]
    fn layouts_that_cannot_work_are_told_apart() {
        assert!(SlabLayout::default().is_valid());
        assert!(!SlabLayout { classes: [(4095, 1), (0, 0), (0, 0), (0, 0)] }.is_valid());
        assert!(!SlabLayout { classes: [(0, 0); 4] }.is_valid());
    }
}
