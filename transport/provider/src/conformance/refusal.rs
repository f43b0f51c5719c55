//! Rules about refusals: each has its reason, none leaves a trace, and the caller is told when to try again.

use super::{Fixture, Pair, pattern};
use crate::{ConnectionId, Payload, PayloadSlice, PostRefusal, Provider};
use std::sync::Arc;
use transport_proto::wire::DATA_BYTES_MAX;

/// Posts at the most before a provider must have refused: well past any queue that deserves the name bounded.
const POSTS_MAX: u64 = 200_000;

/// Posts frames of `length` bytes, numbered from `first`, until one is refused, the peer asleep. Returns the
/// number of the refused one.
pub(super) fn post_until_refused<F: Fixture>(
    pair: &mut Pair<'_, F>,
    connection: ConnectionId,
    first: u64,
    length: usize,
) -> u64 {
    let payload = Payload::Caller(Arc::new(pattern(0, length)));
    for number in first..first + POSTS_MAX {
        match pair.left.post(connection, number, &[], &[], payload.whole()) {
            Ok(()) => (),
            Err(PostRefusal::Full | PostRefusal::NoMemory) => return number,
            Err(refusal) => panic!("refused as {refusal:?}"),
        }
        pair.left.provider.flush();
    }
    panic!("{POSTS_MAX} posts of {length} bytes were taken: the queue has no bound");
}

/// A peer that does not poll: posts are refused in the end, everything taken arrives in order, nothing else
/// does, and `writable` comes before the first post that succeeds again.
pub fn a_full_queue_refuses_without_a_trace_and_says_when_it_is_writable<F: Fixture>(fixture: &F) {
    for length in [0, 100, 20_000] {
        let mut pair = Pair::new(fixture);
        let link = pair.establish();
        let refused = post_until_refused(&mut pair, link.left, 1, length);
        for _ in 0..3 {
            let again = pair.left.post_pattern(link.left, 77_777_777, length);
            assert!(again.is_err(), "taken although nothing moved");
        }
        assert!(pair.left.heard.writable.is_empty(), "`writable` although nothing moved");
        let mut next = 1;
        pair.until("the queue drains", |pair| {
            for frame in pair.right.heard.frames.drain(..) {
                assert_eq!(frame.header.sequence.get(), next, "a refused post left a trace");
                assert!(frame.bytes() == pattern(0, length));
                next += 1;
            }
            next == refused && pair.left.heard.writable.contains(&link.left)
        });
        pair.left.post_pattern(link.left, refused, length).expect("it is writable");
        assert_eq!(pair.receive().header.sequence.get(), refused);
        pair.settle();
        assert!(pair.right.heard.frames.is_empty());
    }
}

/// Data over the limit is refused as too large, not as a matter of waiting.
pub fn what_is_too_large_is_refused_as_such<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let link = pair.establish();
    let payload = Payload::Caller(Arc::new(vec![7; DATA_BYTES_MAX + 1]));
    let refused = pair.left.post(link.left, 1, &[], &[], payload.whole());
    assert_eq!(refused, Err(PostRefusal::TooLarge));
    let refused = pair.left.provider.reserve(link.left, DATA_BYTES_MAX + 1).err();
    assert_eq!(refused, Some(PostRefusal::TooLarge));
    pair.left.post_pattern(link.left, 2, 500).expect("the connection is unharmed");
    assert_eq!(pair.receive().header.sequence.get(), 2);
}

/// Posts before `connected`, after `close` and on ids that never were.
pub fn connections_that_are_not_open_refuse_posts<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let not_connected = Err(PostRefusal::NotConnected);
    assert_eq!(pair.left.post(ConnectionId(3), 1, &[], &[], PayloadSlice::EMPTY), not_connected);
    let link = pair.establish();
    let stale = ConnectionId(link.left.0 ^ 0x8000_0000);
    assert_eq!(pair.left.post(stale, 1, &[], &[], PayloadSlice::EMPTY), not_connected);
    pair.left.provider.close(link.left);
    assert_eq!(pair.left.post(link.left, 1, &[], &[], PayloadSlice::EMPTY), not_connected);
    assert_eq!(pair.left.provider.reserve(link.left, 10).err(), Some(PostRefusal::NotConnected));
    pair.until("both ends are lost", |pair| {
        !pair.left.heard.lost.is_empty() && !pair.right.heard.lost.is_empty()
    });
    assert_eq!(pair.left.post(link.left, 1, &[], &[], PayloadSlice::EMPTY), not_connected);
    assert_eq!(pair.right.post(link.right, 1, &[], &[], PayloadSlice::EMPTY), not_connected);
    pair.left.provider.close(link.left);
    pair.settle();
    assert_eq!(pair.left.heard.lost.len(), 1, "a second `close` is without effect");
}

/// A sender that reserves all it can get is refused in the end, still hears its peer, and gets memory again
/// after it gave some back.
pub fn reservations_run_out_without_stopping_what_comes_in<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let link = pair.establish();
    let mut held = Vec::new();
    let refusal = loop {
        match pair.left.provider.reserve(link.left, 60_000) {
            Ok(chunk) => held.push(chunk),
            Err(refusal) => break refusal,
        }
        assert!(held.len() < 100_000, "reservations have no bound");
    };
    assert_eq!(refusal, PostRefusal::NoMemory);
    for number in 1..=20 {
        pair.right.post_pattern(link.right, number, 60_000).expect("the other direction is free");
        pair.until("a frame comes in", |pair| !pair.left.heard.frames.is_empty());
        let frame = pair.left.heard.frames.pop_front().expect("waited for it");
        assert!(frame.bytes() == pattern(number, 60_000));
    }
    held.clear();
    pair.until("memory can be reserved again", |pair| pair.left.provider.reserve(link.left, 60_000).is_ok());
}
