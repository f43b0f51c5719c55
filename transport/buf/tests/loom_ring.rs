//! Every interleaving of the ring, its bells and the chunk bitmap, by loom. The names are those of the `SYNC`
//! remarks.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p transport-buf --test loom_ring`
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Notify};
use loom::thread;
use transport_buf::atomic::{AtomicU64, Ordering};
use transport_buf::returned;
use transport_buf::ring::{Claim, RingConsumer, RingMemory, RingProducer, before_bells, before_sleep};

const SLOTS: usize = 2;

/// A ring in ordinary memory. The cells stand for the slots' contents: loom fails a test that touches one
/// from two threads at once.
struct Memory {
    stamps: [AtomicU64; SLOTS],
    cells: [UnsafeCell<u64>; SLOTS],
    consumed: AtomicU64,
    armed: AtomicU64,
    starved: AtomicU64,
}

// SAFETY: the cells are handed between the threads by the ring under test; loom checks that they are.
unsafe impl Sync for Memory {}

#[derive(Clone)]
struct Shared(Arc<Memory>);

impl Shared {
    fn new() -> Shared {
        Shared(Arc::new(Memory {
            stamps: core::array::from_fn(|_| AtomicU64::new(0)),
            cells: core::array::from_fn(|_| UnsafeCell::new(0)),
            consumed: AtomicU64::new(0),
            armed: AtomicU64::new(0),
            starved: AtomicU64::new(0),
        }))
    }

    fn write(&self, slot: usize, value: u64) {
        // SAFETY: the pointer is valid; exclusiveness is what loom checks here.
        self.0.cells[slot].with_mut(|cell| unsafe { *cell = value });
    }

    fn read(&self, slot: usize) -> u64 {
        // SAFETY: the pointer is valid; that nobody writes meanwhile is what loom checks here.
        self.0.cells[slot].with(|cell| unsafe { *cell })
    }
}

impl RingMemory for Shared {
    const SLOTS: usize = SLOTS;

    fn stamp(&self, slot: usize) -> &AtomicU64 {
        &self.0.stamps[slot]
    }

    fn consumed(&self) -> &AtomicU64 {
        &self.0.consumed
    }

    fn armed(&self) -> &AtomicU64 {
        &self.0.armed
    }

    fn starved(&self) -> &AtomicU64 {
        &self.0.starved
    }
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

/// Publishes `value` if there is room.
fn try_send(producer: &mut RingProducer<Shared>, value: u64) -> bool {
    let Claim::Slot(slot) = producer.claim() else { return false };
    producer.memory().write(slot, value);
    producer.publish();
    true
}

fn try_receive(consumer: &mut RingConsumer<Shared>) -> Option<u64> {
    let slot = consumer.peek()?;
    let value = consumer.memory().read(slot);
    consumer.advance();
    Some(value)
}

/// SYNC: ring-publish, ring-consumed.
#[test]
fn slots_are_handed_over_whole_and_back_before_they_are_filled_again() {
    model(|| {
        let memory = Shared::new();
        let mut producer = RingProducer::new(memory.clone(), 3);
        let mut consumer = RingConsumer::new(memory, 3);
        let sender = thread::spawn(move || {
            for value in 1..=3 {
                while !try_send(&mut producer, value) {
                    thread::yield_now();
                }
            }
        });
        for expected in 1..=3 {
            let value = loop {
                if let Some(value) = try_receive(&mut consumer) {
                    break value;
                }
                thread::yield_now();
            };
            assert_eq!(value, expected);
            consumer.release();
        }
        assert!(consumer.peek().is_none());
        sender.join().unwrap();
    });
}

/// SYNC: doorbell. A consumer that goes to sleep between any two steps of a producer is woken; loom reports
/// the sleep of a thread that nobody will ever wake as a deadlock.
#[test]
fn a_consumer_that_arms_and_looks_again_misses_no_frame() {
    model(|| {
        let memory = Shared::new();
        let bell = Arc::new(Notify::new());
        let mut producer = RingProducer::new(memory.clone(), 0);
        let mut consumer = RingConsumer::new(memory, 0);
        let rung = bell.clone();
        let sender = thread::spawn(move || {
            for value in 1..=2 {
                assert!(try_send(&mut producer, value));
                before_bells();
                if producer.take_armed() {
                    rung.notify();
                }
            }
        });
        let mut taken = 0;
        while taken < 2 {
            if let Some(value) = try_receive(&mut consumer) {
                taken += 1;
                assert_eq!(value, taken);
                continue;
            }
            consumer.arm();
            before_sleep();
            if consumer.peek().is_none() {
                bell.wait();
            }
            consumer.disarm();
        }
        sender.join().unwrap();
    });
}

/// SYNC: ring-starved. A producer that sleeps on a full ring is woken by a consumer that polls once more or
/// goes to sleep itself.
#[test]
fn a_producer_that_sleeps_on_a_full_ring_is_woken() {
    model(|| {
        let memory = Shared::new();
        let bell = Arc::new(Notify::new());
        let mut producer = RingProducer::new(memory.clone(), 0);
        let mut consumer = RingConsumer::new(memory, 0);
        assert!(try_send(&mut producer, 1) && try_send(&mut producer, 2));
        let rung = bell.clone();
        let receiver = thread::spawn(move || {
            assert_eq!(try_receive(&mut consumer), Some(1));
            consumer.release();
            if consumer.take_starved() {
                rung.notify();
            }
            consumer.arm();
            before_sleep();
            if consumer.take_starved() {
                rung.notify();
            }
        });
        while !try_send(&mut producer, 3) {
            if !producer.starve() {
                bell.wait();
            }
        }
        receiver.join().unwrap();
    });
}

/// SYNC: chunk-return, chunk-wanted. Two holders return chunks on threads of their own while the allocator
/// runs dry: it finds one or is rung, and what the holders did to the chunks comes before their reuse.
#[test]
fn an_allocator_that_runs_dry_misses_no_return() {
    struct Chunks {
        word: AtomicU64,
        wanted: AtomicU64,
        cells: [UnsafeCell<u64>; 2],
        bell: Notify,
    }
    // SAFETY: the cells are handed between the threads by the bitmap under test; loom checks that they are.
    unsafe impl Sync for Chunks {}
    model(|| {
        let chunks = Arc::new(Chunks {
            word: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            cells: core::array::from_fn(|_| UnsafeCell::new(7)),
            bell: Notify::new(),
        });
        let holders: Vec<_> = (0..2u32)
            .map(|bit| {
                let chunks = chunks.clone();
                thread::spawn(move || {
                    // SAFETY: the pointer is valid; that nobody writes meanwhile is what loom checks here.
                    chunks.cells[bit as usize].with(|cell| assert_eq!(unsafe { *cell }, 7));
                    if returned::give_back(&chunks.word, &chunks.wanted, bit) {
                        chunks.bell.notify();
                    }
                })
            })
            .collect();
        let mut found = 0;
        while found != 0b11 {
            let mut bits = returned::collect(&chunks.word);
            if bits == 0 {
                returned::want(&chunks.wanted);
                bits = returned::collect_wanting(&chunks.word);
            }
            if bits == 0 {
                chunks.bell.wait();
            }
            for bit in (0..2).filter(|bit| bits & 1 << bit != 0) {
                // SAFETY: the pointer is valid; exclusiveness is what loom checks here.
                chunks.cells[bit].with_mut(|cell| unsafe { *cell = 8 });
            }
            found |= bits;
        }
        for holder in holders {
            holder.join().unwrap();
        }
        assert_eq!(chunks.word.load(Ordering::Relaxed), 0);
    });
}
