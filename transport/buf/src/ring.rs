//! The ring's algorithm: one producer, one consumer, each in a process of its own, and a doorbell for a
//! consumer that sleeps. Memory and what a slot holds are the caller's ([`RingMemory`]); this file is only
//! about who may touch which slot when.
//!
//! A slot is published by its *stamp*: generation and position, rising for the life of the ring, so that an
//! old lap can never be taken for a new one. The consumer looks at nothing else while it waits. How far it
//! has come it tells on a line of its own, which the producer reads only when its last knowledge says *full*.
//!
//! Words, all in the consumer's memory, each on its own pair of cache lines:
//!
//! | word | written by | read by |
//! |---|---|---|
//! | stamp of a slot | producer, once a lap | consumer, polling |
//! | `consumed` | consumer, once a batch | producer, when it seems full |
//! | `armed` | consumer before and after sleep; producer clears it as it rings | producer, once a flush |
//! | `starved` | producer that found no room; consumer clears it as it rings back | consumer, once a poll |

use crate::atomic::{AtomicU64, Ordering, fence};

/// Bits of a stamp that hold the position; the generation lies above.
pub const POSITION_BITS: u32 = 48;
const POSITION_MASK: u64 = (1 << POSITION_BITS) - 1;

/// Where the words of a ring lie.
pub trait RingMemory {
    /// Slots of the ring, a power of two.
    const SLOTS: usize;
    /// The publication word of a slot, `0..SLOTS`.
    fn stamp(&self, slot: usize) -> &AtomicU64;
    /// Position up to which the consumer is done.
    fn consumed(&self) -> &AtomicU64;
    /// Whether the consumer sleeps, or is about to.
    fn armed(&self) -> &AtomicU64;
    /// Whether the producer waits for room.
    fn starved(&self) -> &AtomicU64;
}

/// What [`RingProducer::claim`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This slot is the producer's until it is published.
    Slot(usize),
    /// Every slot holds what the consumer has not taken yet.
    Full,
    /// The consumer claims to have taken what was never published: the peer is broken.
    Corrupt,
}

/// The publishing side of a ring. One owner.
#[derive(Debug)]
pub struct RingProducer<M> {
    memory: M,
    generation: u64,
    /// Position that is published next; the first is 1.
    next: u64,
    /// Last position for which there is room, as far as known.
    limit: u64,
}

impl<M: RingMemory> RingProducer<M> {
    /// Over fresh, zeroed memory. `generation` is agreed with the consumer.
    pub fn new(memory: M, generation: u16) -> RingProducer<M> {
        assert!(M::SLOTS.is_power_of_two());
        RingProducer {
            memory,
            generation: u64::from(generation) << POSITION_BITS,
            next: 1,
            limit: M::SLOTS as u64,
        }
    }

    /// The memory.
    #[inline]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The slot to be filled next. Claiming again without publishing yields the same slot.
    #[inline]
    pub fn claim(&mut self) -> Claim {
        if self.next <= self.limit { Claim::Slot(self.slot()) } else { self.claim_after_look() }
    }

    #[cold]
    fn claim_after_look(&mut self) -> Claim {
        // SYNC: ring-consumed. Acquire: the consumer's reads of the slots come before they are filled again.
        let consumed = self.memory.consumed().load(Ordering::Acquire);
        let oldest = self.limit - M::SLOTS as u64;
        if consumed < oldest || consumed >= self.next {
            return Claim::Corrupt;
        }
        self.limit = consumed + M::SLOTS as u64;
        if self.next <= self.limit { Claim::Slot(self.slot()) } else { Claim::Full }
    }

    /// After [`Claim::Full`]: asks the consumer to ring back when there is room. `true`: there is room
    /// already.
    pub fn starve(&mut self) -> bool {
        // Flags are written by read-modify-write from both sides, so each write follows the one it found.
        self.memory.starved().swap(1, Ordering::Relaxed);
        // SYNC: ring-starved. Against the fence in `before_sleep`: either the flag is seen
        // there, or the consumer's progress is seen here.
        fence(Ordering::SeqCst);
        matches!(self.claim(), Claim::Slot(_))
    }

    /// Publishes the claimed slot, which must be filled.
    #[inline]
    pub fn publish(&mut self) {
        debug_assert!(self.next <= self.limit, "published without a claim");
        let stamp = self.generation | (self.next & POSITION_MASK);
        // SYNC: ring-publish. Release: the slot's contents come before its stamp. Acquired in
        // `RingConsumer::peek`.
        self.memory.stamp(self.slot()).store(stamp, Ordering::Release);
        self.next += 1;
    }

    /// Whether the consumer sleeps and must be woken. Call after [`before_bells`]; `true` is said once per
    /// sleep.
    #[inline]
    #[must_use = "a consumer that sleeps must be woken"]
    pub fn take_armed(&self) -> bool {
        // SYNC: doorbell. Ordered after this side's stamps by the fence in `before_bells`.
        self.memory.armed().load(Ordering::Relaxed) != 0
            && self.memory.armed().swap(0, Ordering::Relaxed) != 0
    }

    /// Frames published so far.
    pub fn published(&self) -> u64 {
        self.next - 1
    }

    #[inline]
    fn slot(&self) -> usize {
        self.next as usize & (M::SLOTS - 1)
    }
}

/// Between the last [`RingProducer::publish`] and [`RingProducer::take_armed`], once for any number of rings.
#[inline]
pub fn before_bells() {
    // SYNC: doorbell. Against the fence in `before_sleep`: either the sleeper's flag is seen here, or the
    // stamp there.
    fence(Ordering::SeqCst);
}

/// Between [`RingConsumer::arm`] and the last look at the rings, once for any number of rings.
#[inline]
pub fn before_sleep() {
    // SYNC: doorbell. Against the fence in `before_bells`. SYNC: ring-starved. Against the one in `starve`.
    fence(Ordering::SeqCst);
}

/// The taking side of a ring. One owner.
#[derive(Debug)]
pub struct RingConsumer<M> {
    memory: M,
    generation: u64,
    /// Position that is taken next.
    next: u64,
}

impl<M: RingMemory> RingConsumer<M> {
    /// Over fresh, zeroed memory. `generation` is agreed with the producer.
    pub fn new(memory: M, generation: u16) -> RingConsumer<M> {
        assert!(M::SLOTS.is_power_of_two());
        RingConsumer { memory, generation: u64::from(generation) << POSITION_BITS, next: 1 }
    }

    /// The memory.
    #[inline]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The next slot, if it is published. It stays the consumer's until [`RingConsumer::release`].
    #[inline]
    pub fn peek(&self) -> Option<usize> {
        let slot = self.next_slot();
        // SYNC: ring-publish. Pairs with the release in `RingProducer::publish`.
        let stamp = self.memory.stamp(slot).load(Ordering::Acquire);
        (stamp == self.generation | (self.next & POSITION_MASK)).then_some(slot)
    }

    /// The slot that [`RingConsumer::peek`] looks at, published or not.
    #[inline]
    pub fn next_slot(&self) -> usize {
        self.next as usize & (M::SLOTS - 1)
    }

    /// Goes on to the slot after the one that [`RingConsumer::peek`] showed.
    #[inline]
    pub fn advance(&mut self) {
        self.next += 1;
    }

    /// Gives all slots before the next one back to the producer. Once a batch: the word lies on this side's
    /// line, which the producer takes only when it seems full.
    #[inline]
    pub fn release(&self) {
        // SYNC: ring-consumed. Release: reads of the slots come before they are filled again.
        self.memory.consumed().store(self.next - 1, Ordering::Release);
    }

    /// Says that this side is about to sleep. Then [`before_sleep`], then a last [`RingConsumer::peek`].
    pub fn arm(&self) {
        self.memory.armed().swap(1, Ordering::Relaxed);
    }

    /// Says that this side is awake.
    pub fn disarm(&self) {
        self.memory.armed().swap(0, Ordering::Relaxed);
    }

    /// Whether the producer waits for room and must be woken. To be asked after [`RingConsumer::release`] in
    /// every poll (a later poll sees a flag that this one missed) and once more after [`before_sleep`].
    #[inline]
    #[must_use = "a producer that waits must be woken"]
    pub fn take_starved(&self) -> bool {
        self.memory.starved().load(Ordering::Relaxed) != 0
            && self.memory.starved().swap(0, Ordering::Relaxed) != 0
    }
}
