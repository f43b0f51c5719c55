//! A ring of frames in a region: [`crate::ring`] over shared memory, with slots of four cache lines.
//!
//! A slot is a 64-byte header and 192 bytes behind it; the header's word at [`STAMP_OFFSET`] is the stamp. A
//! frame of up to 64 bytes behind its header costs two cache lines, and nothing but bytes in use is ever
//! copied. Head of the region: `consumed`, `armed` and `starved`, two cache lines apart; the slots begin at
//! the next page.

use crate::atomic::{AtomicU64, Ordering};
use crate::region::{PAGE_BYTES, Region};
use crate::ring::{Claim, RingConsumer, RingMemory, RingProducer};
use std::sync::Arc;

/// Slots of a ring.
pub const RING_SLOTS: usize = 1024;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = 256;
/// Bytes of the header at the front of a slot.
pub const SLOT_HEADER_BYTES: usize = 64;
/// Bytes behind the header.
pub const SLOT_BODY_BYTES: usize = SLOT_BYTES - SLOT_HEADER_BYTES;
/// Where in the header the stamp lies.
pub const STAMP_OFFSET: usize = 48;
/// Bytes of a region that holds a ring.
pub const RING_REGION_BYTES: usize = SLOTS_OFFSET + RING_SLOTS * SLOT_BYTES;

const CONSUMED_OFFSET: usize = 0;
const ARMED_OFFSET: usize = 128;
const STARVED_OFFSET: usize = 256;
const SLOTS_OFFSET: usize = PAGE_BYTES;

const HEADER_WORDS: usize = SLOT_HEADER_BYTES / 8;
const BODY_WORDS: usize = SLOT_BODY_BYTES / 8;
const SLOT_WORDS: usize = SLOT_BYTES / 8;
const STAMP_WORD: usize = STAMP_OFFSET / 8;
/// Words that are copied at once: a cache line.
const LINE_WORDS: usize = 8;

/// A header, as words in memory order.
pub type HeaderWords = [u64; HEADER_WORDS];
/// The same as bytes, wherever they lie.
pub type HeaderBytes = [[u8; 8]; HEADER_WORDS];

/// The words of a ring in a mapped region.
#[derive(Debug)]
struct MappedRing {
    /// First byte of `region`, kept to spare the hot path the bounds checks of [`Region::word`].
    base: *mut u8,
    /// Keeps the mapping alive.
    region: Arc<Region>,
}

// SAFETY: `base` points into the mapping that `region` keeps alive and is `Send` itself; the words behind it
// are only accessed as atomics, and a slot's body only by the side that the ring's protocol says.
unsafe impl Send for MappedRing {}

impl MappedRing {
    /// Panics if the region is too small for a ring.
    fn new(region: Arc<Region>) -> MappedRing {
        assert!(region.len() >= RING_REGION_BYTES, "region too small for a ring");
        MappedRing { base: region.pointer(0), region }
    }

    /// The words of slot `slot`, header and body counted on.
    #[inline]
    fn slot(&self, slot: usize) -> &[AtomicU64; SLOT_WORDS] {
        let offset = SLOTS_OFFSET + (slot & (RING_SLOTS - 1)) * SLOT_BYTES;
        // SAFETY: the slot lies below `RING_REGION_BYTES`, which the region holds (checked in `new`).
        let pointer = unsafe { self.base.add(offset) }.cast::<[AtomicU64; SLOT_WORDS]>();
        // SAFETY: in bounds as above; aligned, since the mapping is by pages and slots lie at multiples of
        // their size; mapped as long as `self`; what other processes write meanwhile lies inside atomics.
        unsafe { &*pointer }
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8) && offset + 8 <= RING_REGION_BYTES);
        // SAFETY: callers pass offsets below `RING_REGION_BYTES`, which the region holds (checked in `new`).
        let pointer = unsafe { self.base.add(offset) }.cast::<u64>();
        // SAFETY: in bounds as above; aligned, since the mapping is by pages and offsets are multiples of 8;
        // mapped as long as `self`; accessed as an atomic by every process.
        unsafe { AtomicU64::from_ptr(pointer) }
    }
}

impl RingMemory for MappedRing {
    const SLOTS: usize = RING_SLOTS;

    #[inline]
    fn stamp(&self, slot: usize) -> &AtomicU64 {
        &self.slot(slot)[STAMP_WORD]
    }

    #[inline]
    fn consumed(&self) -> &AtomicU64 {
        self.word(CONSUMED_OFFSET)
    }

    #[inline]
    fn armed(&self) -> &AtomicU64 {
        self.word(ARMED_OFFSET)
    }

    #[inline]
    fn starved(&self) -> &AtomicU64 {
        self.word(STARVED_OFFSET)
    }
}

/// The sending end of a ring of frames, in memory that the receiver granted.
#[derive(Debug)]
pub struct FrameSender {
    ring: RingProducer<MappedRing>,
}

impl FrameSender {
    /// Over a fresh region of [`RING_REGION_BYTES`]; panics if it is smaller.
    pub fn new(region: Arc<Region>, generation: u16) -> FrameSender {
        FrameSender { ring: RingProducer::new(MappedRing::new(region), generation) }
    }

    /// Looks for room; [`Claim::Slot`] means that the next [`FrameSender::send`] goes through.
    #[inline]
    pub fn claim(&mut self) -> Claim {
        self.ring.claim()
    }

    /// Publishes a frame in the slot just claimed. `header`'s stamp word is ignored and set by the ring;
    /// `control` and `inline` lie behind the header, one after the other, [`SLOT_BODY_BYTES`] at the most
    /// (panics above that, and if there was no room).
    #[inline]
    pub fn send(&mut self, header: &HeaderBytes, control: &[u8], inline: &[u8]) {
        assert!(control.len() + inline.len() <= SLOT_BODY_BYTES, "frame larger than its slot");
        let Claim::Slot(slot) = self.ring.claim() else { panic!("sent without room") };
        if !control.is_empty() {
            self.fill_body(slot, 0, control);
        }
        if !inline.is_empty() {
            self.fill_body(slot, control.len(), inline);
        }
        let words = self.ring.memory().slot(slot);
        for index in (0..HEADER_WORDS).filter(|index| *index != STAMP_WORD) {
            words[index].store(u64::from_ne_bytes(header[index]), Ordering::Relaxed);
        }
        self.ring.publish();
    }

    #[inline]
    fn fill_body(&self, slot: usize, offset: usize, bytes: &[u8]) {
        debug_assert!(offset + bytes.len() <= SLOT_BODY_BYTES);
        let body: *const [AtomicU64] = &raw const self.ring.memory().slot(slot)[HEADER_WORDS..];
        // SAFETY: `offset` is within the body (the callers keep to `SLOT_BODY_BYTES`, asserted in `send`).
        let to = unsafe { body.cast_mut().cast::<u8>().add(offset) };
        // SAFETY: the body has room for `bytes` behind `offset`; it is mapped, does not overlap a caller's
        // slice, and belongs to this side until the slot is published.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// See [`RingProducer::starve`].
    pub fn starve(&mut self) -> bool {
        self.ring.starve()
    }

    /// See [`RingProducer::take_armed`].
    #[inline]
    #[must_use = "a consumer that sleeps must be woken"]
    pub fn take_armed(&self) -> bool {
        self.ring.take_armed()
    }
}

/// A private copy of a frame as it lay in its slot: what is checked in it is what is used afterwards,
/// whatever the peer writes meanwhile. Made once and used for every frame.
#[derive(Clone, Debug)]
pub struct SlotCopy {
    /// The header. Nothing in it is checked by this module.
    pub header: HeaderWords,
    body: [u64; BODY_WORDS],
}

impl Default for SlotCopy {
    fn default() -> SlotCopy {
        SlotCopy { header: [0; HEADER_WORDS], body: [0; BODY_WORDS] }
    }
}

impl SlotCopy {
    /// The first `length` bytes behind the header, as far as [`FrameReceiver::take_body`] copied them; what
    /// lies beyond is of earlier frames. Panics over [`SLOT_BODY_BYTES`].
    #[inline]
    pub fn body(&self, length: usize) -> &[u8] {
        assert!(length <= SLOT_BODY_BYTES, "body larger than its slot");
        let bytes = self.body.as_ptr().cast::<u8>();
        // SAFETY: `body` is initialised and at least `length` bytes long (asserted above).
        unsafe { core::slice::from_raw_parts(bytes, length) }
    }
}

/// The receiving end of a ring of frames, in memory of its own.
#[derive(Debug)]
pub struct FrameReceiver {
    ring: RingConsumer<MappedRing>,
}

impl FrameReceiver {
    /// Over a fresh region of [`RING_REGION_BYTES`]; panics if it is smaller.
    pub fn new(region: Arc<Region>, generation: u16) -> FrameReceiver {
        FrameReceiver { ring: RingConsumer::new(MappedRing::new(region), generation) }
    }

    /// The region that the ring lies in.
    pub fn region(&self) -> &Arc<Region> {
        &self.ring.memory().region
    }

    /// Copies the next frame's header, if there is one.
    #[inline]
    pub fn read_header(&self, copy: &mut SlotCopy) -> bool {
        let Some(slot) = self.ring.peek() else { return false };
        let words = self.ring.memory().slot(slot);
        // One load per word: what is checked later is what was read here, whatever the peer writes meanwhile.
        for (index, to) in copy.header.iter_mut().enumerate() {
            *to = words[index].load(Ordering::Relaxed);
        }
        true
    }

    /// Copies the first `length` bytes behind the header of the frame that [`FrameReceiver::read_header`]
    /// showed (whole cache lines), and goes on to the next frame. Panics over [`SLOT_BODY_BYTES`].
    #[inline]
    pub fn take_body(&mut self, length: usize, copy: &mut SlotCopy) {
        assert!(length <= SLOT_BODY_BYTES, "body larger than its slot");
        // The slot was published when its header was read, and stays this side's until it is released.
        let words = &self.ring.memory().slot(self.ring.next_slot())[HEADER_WORDS..];
        let lines = words.chunks_exact(LINE_WORDS).zip(copy.body.chunks_exact_mut(LINE_WORDS));
        for (from, to) in lines.take(length.div_ceil(LINE_WORDS * 8)) {
            for (word, to) in from.iter().zip(to) {
                *to = word.load(Ordering::Relaxed);
            }
        }
        self.ring.advance();
    }

    /// Whether a frame is there.
    #[inline]
    pub fn has_frame(&self) -> bool {
        self.ring.peek().is_some()
    }

    /// See [`RingConsumer::release`].
    #[inline]
    pub fn release(&self) {
        self.ring.release();
    }

    /// See [`RingConsumer::arm`].
    pub fn arm(&self) {
        self.ring.arm();
    }

    /// See [`RingConsumer::disarm`].
    pub fn disarm(&self) {
        self.ring.disarm();
    }

    /// See [`RingConsumer::take_starved`].
    #[inline]
    #[must_use = "a producer that waits must be woken"]
    pub fn take_starved(&self) -> bool {
        self.ring.take_starved()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (FrameSender, FrameReceiver) {
        let region = Arc::new(Region::create(RING_REGION_BYTES).unwrap());
        (FrameSender::new(region.clone(), 7), FrameReceiver::new(region, 7))
    }

    fn header(number: u64) -> HeaderBytes {
        [number, 1, 2, 3, 4, 5, u64::MAX, number].map(u64::to_ne_bytes)
    }

    #[test]
    fn frames_come_out_whole_and_with_a_stamp_of_their_generation() {
        let (mut sender, mut receiver) = pair();
        sender.send(&header(9), b"control", b"inline");
        let mut copy = SlotCopy::default();
        assert!(receiver.read_header(&mut copy));
        assert_eq!((copy.header[0], copy.header[7]), (9, 9));
        assert_eq!(copy.header[STAMP_WORD], 7 << 48 | 1);
        receiver.take_body(13, &mut copy);
        assert_eq!(copy.body(13), b"controlinline");
        assert!(!receiver.has_frame());
    }

    #[test]
    fn a_frame_of_another_generation_is_not_seen() {
        let region = Arc::new(Region::create(RING_REGION_BYTES).unwrap());
        let mut sender = FrameSender::new(region.clone(), 6);
        sender.send(&header(1), b"", b"");
        assert!(!FrameReceiver::new(region, 7).has_frame());
    }

    #[test]
    fn a_consumer_that_claims_too_much_is_found_out() {
        for lie in [RING_SLOTS as u64 + 1, u64::MAX] {
            let (mut sender, receiver) = pair();
            for number in 0..RING_SLOTS as u64 {
                sender.send(&header(number), b"", b"");
            }
            receiver.region().word(CONSUMED_OFFSET).store(lie, Ordering::Relaxed);
            assert_eq!(sender.claim(), Claim::Corrupt);
        }
    }

    proptest! {
        #[test]
        fn batches_of_any_size_arrive_in_order_and_a_full_ring_refuses(
            batches in prop::collection::vec((1usize..1500, 1usize..1500, 0usize..=SLOT_BODY_BYTES), 1..40)
        ) {
            let (mut sender, mut receiver) = pair();
            let (mut sent, mut taken) = (0u64, 0u64);
            let mut copy = SlotCopy::default();
            let mut lengths = std::collections::VecDeque::new();
            for (posts, polls, length) in batches {
                for _ in 0..posts {
                    let in_ring = (sent - taken) as usize;
                    match sender.claim() {
                        Claim::Slot(_) => prop_assert!(in_ring < RING_SLOTS),
                        Claim::Full => { prop_assert_eq!(in_ring, RING_SLOTS); break }
                        Claim::Corrupt => prop_assert!(false),
                    }
                    let body = vec![sent as u8; length];
                    let (control, inline) = body.split_at(length / 3);
                    sender.send(&header(sent), control, inline);
                    lengths.push_back(length);
                    sent += 1;
                }
                for _ in 0..polls {
                    if !receiver.read_header(&mut copy) { prop_assert_eq!(sent, taken); break }
                    prop_assert_eq!(copy.header[0], taken);
                    let length = lengths.pop_front().unwrap();
                    receiver.take_body(length, &mut copy);
                    prop_assert!(copy.body(length).iter().all(|byte| *byte == taken as u8));
                    taken += 1;
                }
                receiver.release();
            }
        }
    }
}
