//! Rules about receive memory: a chunk is its holder's until it is dropped, and there is only so much of it.

use super::refusal::post_until_refused;
use super::{Fixture, Link, Pair, Received, pattern};
use crate::{Provider, RailFault};

/// Sends `count` messages of `length` bytes one by one and drops each.
fn traffic<F: Fixture>(pair: &mut Pair<'_, F>, link: Link, count: u64, length: usize) {
    for number in 0..count {
        let number = 1_000_000 + number;
        pair.until("a post is taken", |pair| pair.left.post_pattern(link.left, number, length).is_ok());
        let frame = pair.receive();
        assert!(frame.bytes() == pattern(number, length), "arrived changed");
    }
}

fn assert_intact(held: &[Received], length: usize) {
    for frame in held {
        let number = frame.header.sequence.get();
        assert!(frame.bytes() == pattern(number, length), "a held chunk was overwritten");
    }
}

/// Leases: what the receiver holds is not touched by later traffic, however much of it there is.
pub fn held_chunks_keep_their_bytes_while_traffic_goes_on<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let link = pair.establish();
    for length in [4096, 65_536] {
        let mut held = Vec::new();
        for number in 1..=4 {
            pair.left.post_pattern(link.left, number, length).expect("there is room");
            held.push(pair.receive());
        }
        traffic(&mut pair, link, 300, length);
        assert_intact(&held, length);
    }
}

/// A receiver that gives nothing back: the sender is refused in the end, what was delivered stays whole, and
/// everything that was taken arrives once chunks return.
pub fn exhausted_receive_memory_refuses_and_recovers_when_chunks_return<F: Fixture>(fixture: &F) {
    const LENGTH: usize = 65_536;
    let mut pair = Pair::new(fixture);
    let link = pair.establish();
    let mut held: Vec<Received> = Vec::new();
    let mut posted = 0;
    let mut quiet = 0;
    while quiet < 300 {
        match pair.left.post_pattern(link.left, posted + 1, LENGTH) {
            Ok(()) => (posted, quiet) = (posted + 1, 0),
            Err(_) => quiet += 1,
        }
        quiet = if super::turn_both(&mut pair.left, &mut pair.right) == 0 { quiet } else { 0 };
        held.extend(pair.right.heard.frames.drain(..));
        assert!(posted < 20_000, "receive memory has no bound");
    }
    assert!(!held.is_empty());
    assert_intact(&held, LENGTH);
    assert!(pair.right.heard.lost.is_empty(), "out of memory is no reason to drop a connection");
    let mut next = 1;
    pair.until("the rest arrives", |pair| {
        held.extend(pair.right.heard.frames.drain(..));
        for frame in held.drain(..) {
            assert_eq!(frame.header.sequence.get(), next);
            assert!(frame.bytes() == pattern(next, LENGTH), "arrived changed");
            next += 1;
        }
        next > posted
    });
    pair.until("a post is taken again", |pair| pair.left.post_pattern(link.left, posted + 1, LENGTH).is_ok());
    assert_eq!(pair.receive().header.sequence.get(), posted + 1);
}

/// Chunks come back from any thread, also while the provider is at work.
pub fn a_chunk_may_be_released_on_another_thread<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let link = pair.establish();
    std::thread::scope(|scope| {
        let (give, take) = std::sync::mpsc::channel::<Received>();
        scope.spawn(move || {
            for (index, frame) in take.into_iter().enumerate() {
                let number = frame.header.sequence.get();
                assert_eq!(number, index as u64 + 1);
                assert!(frame.bytes() == pattern(number, 40_000), "overwritten before its release");
            }
        });
        for number in 1..=1000 {
            pair.until("a post is taken", |pair| pair.left.post_pattern(link.left, number, 40_000).is_ok());
            give.send(pair.receive()).expect("the other thread listens");
        }
        drop(give);
    });
}

/// A chunk outlives its connection, and no later connection of the same rail writes into it.
pub fn memory_of_a_dead_connection_is_not_reused_while_its_chunks_live<F: Fixture>(fixture: &F) {
    const LENGTH: usize = 65_536;
    let mut pair = Pair::new(fixture);
    let mut held = Vec::new();
    for round in 0..3 {
        let link = pair.establish();
        for number in 1..=3 {
            pair.left.post_pattern(link.left, round * 10 + number, LENGTH).expect("there is room");
            held.push(pair.receive());
        }
        pair.left.provider.close(link.left);
        pair.until("both ends are lost", |pair| {
            !pair.left.heard.lost.is_empty() && !pair.right.heard.lost.is_empty()
        });
        pair.left.heard.lost.clear();
        let (_, fault) = pair.right.heard.lost.pop_front().expect("waited for it");
        assert_eq!(fault, RailFault::PeerClosed);
        pair.right.heard.frames.clear();
    }
    let link = pair.establish();
    traffic(&mut pair, link, 100, LENGTH);
    post_until_refused(&mut pair, link.left, 1, LENGTH);
    pair.settle();
    assert_intact(&held, LENGTH);
}
