//! A slab: a region cut into chunks of a few sizes, with one allocating side and any number of returning
//! threads.
//!
//! Who allocates is the side that fills the chunk next: over shared memory the *sending* process allocates in
//! the slab that the *receiving* process made and granted; for sockets the receiver itself. Who returns a
//! chunk is whoever held it last, on any thread of any process that maps the region: it sets the chunk's bit
//! in the `returned` bitmap at the head of the region. The allocator collects those bits every few
//! allocations, so that the chunks in use stay few and warm in the cache. No queue, no lock, nothing that can
//! overflow. An allocator that finds nothing leaves a flag; the next return rings its bell.
//!
//! Head of the region: word 0 is the flag, alone on its cache lines; the bitmap follows; the chunks begin at
//! the next page.

use crate::atomic::AtomicU64;
use crate::chunk::Chunk;
use crate::free_list::FreeList;
use crate::region::{PAGE_BYTES, Region, RegionError};
use crate::returned::{self, WORD_BITS};
use crate::shares::HOLDERS_MAX;
use std::sync::Arc;

/// Chunk sizes of a slab at the most.
pub const CLASSES_MAX: usize = 4;

/// Offset of the word that says that the allocator waits.
const WANTED_OFFSET: usize = 0;
/// Offset of the bitmap: two cache lines on, since the hardware fetches them in pairs.
const BITMAP_OFFSET: usize = 128;

/// Small chunks are collected every so many allocations: few enough to stay in the cache, many enough to
/// share the cost of looking at lines that the returning side writes.
const COLLECT_EVERY: u32 = 16;
/// From this size on a chunk's own traffic dwarfs a look at the bitmap; the warmest chunk is worth it every
/// time.
const COLLECT_ALWAYS_BYTES: usize = 32 << 10;

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
        let whole = |bytes: u32| bytes > 0 && (bytes as usize).is_multiple_of(PAGE_BYTES);
        let pages = self.classes.iter().all(|(bytes, count)| *count == 0 || whole(*bytes));
        rising && pages && (1..=1 << 20).contains(&self.chunks()) && self.region_bytes() < 1 << 40
    }

    /// The default layout, shrunk in proportion so that its region fits into `bytes`; never larger than the
    /// default. `None` if not even two of the largest chunks, and a few of each other class, fit (about 3.3
    /// MiB).
    pub fn within(bytes: usize) -> Option<SlabLayout> {
        let mut layout = SlabLayout::default();
        let full = layout.region_bytes();
        const LEAST: [u32; CLASSES_MAX] = [64, 8, 2, 2];
        for ((_, count), least) in layout.classes.iter_mut().zip(LEAST) {
            let share = *count as usize * bytes.min(full) / full;
            *count = (share as u32).max(least);
        }
        if layout.region_bytes() > bytes {
            for ((_, count), least) in layout.classes.iter_mut().zip(LEAST) {
                *count = least;
            }
        }
        (layout.region_bytes() <= bytes).then_some(layout)
    }

    /// Chunks of all classes.
    pub fn chunks(&self) -> usize {
        self.classes.iter().map(|(_, count)| *count as usize).sum()
    }

    /// Bytes of flag and bitmap at the head, whole pages.
    fn head_bytes(&self) -> usize {
        (BITMAP_OFFSET + self.chunks().div_ceil(WORD_BITS) * 8).next_multiple_of(PAGE_BYTES)
    }

    /// Bytes of a region with this layout.
    pub fn region_bytes(&self) -> usize {
        let chunks: usize = self.classes.iter().map(|(bytes, count)| *bytes as usize * *count as usize).sum();
        self.head_bytes() + chunks
    }

    /// Bytes of the largest chunk.
    pub fn chunk_bytes_max(&self) -> usize {
        self.classes
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(bytes, _)| *bytes as usize)
            .max()
            .unwrap_or(0)
    }

    /// Offset and bytes of chunk `index`; `None` if there is no such chunk (a peer's number is checked by
    /// this).
    pub fn locate(&self, index: u32) -> Option<(usize, usize)> {
        let mut first = 0;
        let mut offset = self.head_bytes();
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
    free: FreeList,
    allocations_to_collection: u32,
}

impl Slab {
    /// Makes a region with this layout and allocates from it here.
    pub fn create(layout: SlabLayout) -> Result<Slab, RegionError> {
        Ok(Slab::over(Arc::new(Region::create(layout.region_bytes())?), layout))
    }

    /// Allocates from a region that was made with this layout, by this process or by the peer that granted
    /// it. Every chunk must be free: there is one allocating side in a region's life.
    pub fn over(region: Arc<Region>, layout: SlabLayout) -> Slab {
        assert!(layout.is_valid() && region.len() >= layout.region_bytes(), "layout does not fit the region");
        region.custody(layout.chunks());
        Slab { region, free: FreeList::new(layout), allocations_to_collection: COLLECT_EVERY }
    }

    /// The region, to be passed to a peer or to look chunks up.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// How it is cut.
    pub fn layout(&self) -> &SlabLayout {
        self.free.layout()
    }

    /// From now on half of each class is kept in reserve, evenly for these holders (one bit each, the lowest
    /// [`HOLDERS_MAX`]); what [`Slab::allocate_for`] gives to one of them leaves the others' reserves alone.
    pub fn share_among(&mut self, holders: u32) {
        self.collect();
        self.free.share_among(holders);
    }

    /// A chunk for `bytes` bytes, from the smallest class that has one free.
    pub fn allocate(&mut self, bytes: usize) -> Result<Chunk, SlabRefusal> {
        self.allocate_by(bytes, None)
    }

    /// The same for a holder, within its share if there are shares.
    pub fn allocate_for(&mut self, holder: u16, bytes: usize) -> Result<Chunk, SlabRefusal> {
        assert!(usize::from(holder) < HOLDERS_MAX, "no such holder");
        self.allocate_by(bytes, Some(usize::from(holder)))
    }

    fn allocate_by(&mut self, bytes: usize, holder: Option<usize>) -> Result<Chunk, SlabRefusal> {
        let bytes_max = self.layout().chunk_bytes_max();
        if bytes > bytes_max {
            return Err(SlabRefusal::TooLarge { bytes, bytes_max });
        }
        self.allocations_to_collection -= 1;
        if self.allocations_to_collection == 0 || bytes >= COLLECT_ALWAYS_BYTES {
            self.collect();
        }
        if let Some(index) = self.take(bytes, holder) {
            return Ok(self.chunk(index, bytes));
        }
        self.collect_wanting();
        self.take(bytes, holder).map(|index| self.chunk(index, bytes)).ok_or(SlabRefusal::Exhausted)
    }

    /// Whether the holder has at most half of what it may have.
    pub fn is_half_empty(&mut self, holder: u16) -> bool {
        self.collect();
        self.free.is_half_empty(usize::from(holder))
    }

    /// After [`SlabRefusal::Exhausted`]: whether a chunk has come back since, of whatever size.
    pub fn has_returns(&self) -> bool {
        returned::is_answered(self.region.word(WANTED_OFFSET))
    }

    /// Chunks in use, by the returned bits seen so far plus those waiting in the bitmap.
    pub fn in_use(&mut self) -> usize {
        self.collect();
        self.layout().chunks() - self.free.count()
    }

    fn chunk(&self, index: u32, bytes: usize) -> Chunk {
        Chunk::new(self.region.clone(), self.layout(), index, bytes)
    }

    /// Takes a free chunk of the smallest class that fits and has one for the holder.
    fn take(&mut self, bytes: usize, holder: Option<usize>) -> Option<u32> {
        loop {
            let index = self.free.take_for(holder, bytes)?;
            // A chunk that is still in somebody's hands here was "returned" by a peer that never had it. It
            // is passed over; its true return comes later.
            if self.region.custody_in_use().begin(index) {
                return Some(index);
            }
        }
    }

    /// Collects the returned bits.
    fn collect(&mut self) {
        self.allocations_to_collection = COLLECT_EVERY;
        self.collect_by(returned::collect);
    }

    /// Collects after leaving the flag, so that a return that is missed here rings.
    #[cold]
    fn collect_wanting(&mut self) {
        returned::want(self.region.word(WANTED_OFFSET));
        self.collect_by(returned::collect_wanting);
    }

    fn collect_by(&mut self, collect: impl Fn(&AtomicU64) -> u64) {
        for word in 0..self.free.words() {
            let bits = collect(self.region.word(BITMAP_OFFSET + word * 8));
            self.free.give_back(word, bits);
        }
    }
}

/// Takes what has been given back to `region` since the last time, for an allocator that lives elsewhere and
/// has to be told: calls `tell` with each word's number and bits. `layout` is how the region is cut.
pub fn take_returns(region: &Region, layout: &SlabLayout, mut tell: impl FnMut(usize, u64)) {
    for word in 0..layout.chunks().div_ceil(WORD_BITS) {
        let bits = returned::collect(region.word(BITMAP_OFFSET + word * 8));
        if bits != 0 {
            tell(word, bits);
        }
    }
}

/// Gives chunk `index` of `region` back to its allocator. Any thread, any process.
pub(crate) fn return_chunk(region: &Region, index: u32) {
    let word = region.word(BITMAP_OFFSET + index as usize / WORD_BITS * 8);
    if returned::give_back(word, region.word(WANTED_OFFSET), index % WORD_BITS as u32) {
        region.ring_bell();
    }
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

    // proves: T2
    #[test]
    fn one_holder_that_returns_nothing_leaves_the_others_their_reserve() {
        let mut slab = Slab::create(SlabLayout::default()).unwrap();
        slab.share_among(0b111);
        let take_all = |slab: &mut Slab, holder: u16, bytes: usize| {
            let mut held = Vec::new();
            while let Ok(chunk) = slab.allocate_for(holder, bytes) {
                held.push(chunk);
            }
            held
        };
        let hoard = take_all(&mut slab, 0, 64 << 10);
        assert!(hoard.len() > 30, "beyond its reserve there is a pool for all");
        for holder in [1, 2] {
            let other = take_all(&mut slab, holder, 64 << 10);
            assert!(other.len() >= 10, "holder {holder} found {} chunks", other.len());
            drop(other);
            assert!(slab.allocate_for(holder, 1 << 20).is_ok());
        }
        assert!(!slab.is_half_empty(0));
        drop(hoard);
        assert!(slab.is_half_empty(0));
        assert_eq!(take_all(&mut slab, 1, 1).len(), 512 - 2 * 85 + 64 - 2 * 10 + 16 - 2 * 2 + 8 - 2);
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
    fn a_placed_chunk_returns_by_its_last_handle_unless_it_was_handed_over() {
        let layout = SlabLayout { classes: [(4096, 1), (0, 0), (0, 0), (0, 0)] };
        let mut slab = Slab::create(layout).unwrap();
        let placed = slab.allocate(10).unwrap().place();
        let other = placed.clone();
        drop(placed);
        assert!(slab.allocate(1).is_err());
        drop(other);
        let placed = slab.allocate(1).unwrap().place();
        assert!(placed.hand_over());
        assert!(!placed.hand_over());
        drop(placed);
        assert_eq!(slab.in_use(), 1, "the peer has it");
        return_chunk(slab.region(), 0);
        assert_eq!(slab.in_use(), 0);
    }

    #[test]
    fn a_forged_return_does_not_give_one_chunk_to_two_owners() {
        let layout = SlabLayout { classes: [(4096, 1), (0, 0), (0, 0), (0, 0)] };
        let mut slab = Slab::create(layout).unwrap();
        let held = slab.allocate(10).unwrap();
        return_chunk(slab.region(), 0);
        assert!(slab.allocate(1).is_err());
        drop(held);
        assert!(slab.allocate(1).is_ok());
    }

    #[test]
    fn a_chunk_handed_over_twice_is_taken_up_once() {
        let layout = SlabLayout { classes: [(4096, 2), (0, 0), (0, 0), (0, 0)] };
        let region = Arc::new(Region::create(layout.region_bytes()).unwrap());
        let first = Chunk::take_up(&region, &layout, 1, 100).unwrap();
        assert!(Chunk::take_up(&region, &layout, 1, 100).is_none());
        assert!(Chunk::take_up(&region, &layout, 2, 100).is_none());
        assert!(Chunk::take_up(&region, &layout, 0, 4097).is_none());
        drop(first);
        assert!(Chunk::take_up(&region, &layout, 1, 100).is_some());
    }

    #[test]
    fn an_allocator_that_found_nothing_sees_the_next_return_and_is_rung() {
        let layout = SlabLayout { classes: [(4096, 1), (0, 0), (0, 0), (0, 0)] };
        let mut slab = Slab::create(layout).unwrap();
        let flags = rustix::event::EventfdFlags::NONBLOCK;
        let bell = rustix::event::eventfd(0, flags).unwrap();
        slab.region().set_bell(bell.try_clone().unwrap());
        let held = slab.allocate(10).unwrap();
        assert!(slab.allocate(1).is_err());
        assert!(!slab.has_returns());
        let mut count = [0; 8];
        assert!(rustix::io::read(&bell, &mut count).is_err());
        drop(held);
        assert!(slab.has_returns());
        assert_eq!(rustix::io::read(&bell, &mut count), Ok(8));
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

    #[test]
    fn a_layout_within_a_budget_fits_into_it_and_still_holds_the_largest_transfer() {
        for mib in 4..40 {
            let layout = SlabLayout::within(mib << 20).unwrap();
            assert!(layout.region_bytes() <= mib << 20 && layout.is_valid(), "{mib} MiB");
            assert_eq!(layout.chunk_bytes_max(), 1 << 20);
        }
        assert_eq!(SlabLayout::within(100 << 20), Some(SlabLayout::default()));
        assert_eq!(SlabLayout::within(2 << 20), None);
    }
}
