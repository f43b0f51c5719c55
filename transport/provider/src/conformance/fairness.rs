//! Rules about many connections of one provider: none lives at another's cost.

use super::refusal::post_until_refused;
use super::{Fixture, Link, Pair, pattern};
use crate::Provider;

/// Polls in which a frame of a quiet connection must be delivered beside a flood.
const POLLS_MAX: usize = 64;

/// One connection is full of waiting frames; one frame on each of seven others arrives within a few polls,
/// before the flood is through.
pub fn a_flooded_connection_does_not_starve_the_others<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let flooded = pair.establish();
    let quiet: Vec<Link> = (0..7).map(|_| pair.establish()).collect();
    post_until_refused(&mut pair, flooded.left, 1, 64);
    for (number, link) in (1..).zip(&quiet) {
        pair.left.post_pattern(link.left, number, 32).expect("an idle connection has room");
    }
    pair.left.provider.flush();
    let mut waiting = quiet.len();
    for poll in 0.. {
        assert!(poll < POLLS_MAX, "{waiting} quiet connections were not served in {POLLS_MAX} polls");
        post_refill(&mut pair, flooded);
        pair.right.turn();
        for frame in pair.right.heard.frames.drain(..) {
            waiting -= usize::from(frame.connection != flooded.right);
        }
        if waiting == 0 {
            break;
        }
    }
}

/// Keeps the flood at the brim.
fn post_refill<F: Fixture>(pair: &mut Pair<'_, F>, flooded: Link) {
    while pair.left.post_pattern(flooded.left, 9, 64).is_ok() {
        pair.left.provider.flush();
    }
    pair.left.turn();
}

/// The receiver's memory is used up by one connection's messages; frames that need none still pass on the
/// others.
pub fn a_connection_without_memory_does_not_stop_small_frames_of_others<F: Fixture>(fixture: &F) {
    const LENGTH: usize = 65_536;
    let mut pair = Pair::new(fixture);
    let greedy = pair.establish();
    let modest = pair.establish();
    let mut held = Vec::new();
    let mut quiet = 0;
    while quiet < 300 {
        let taken = pair.left.post_pattern(greedy.left, 1, LENGTH).is_ok();
        let busy = super::turn_both(&mut pair.left, &mut pair.right) > 0;
        held.extend(pair.right.heard.frames.drain(..));
        quiet = if taken || busy { 0 } else { quiet + 1 };
        assert!(held.len() < 20_000, "receive memory has no bound");
    }
    for number in 1..=100 {
        pair.left.post_pattern(modest.left, number, 60).expect("an idle connection has room");
        let frame = pair.receive();
        assert_eq!(frame.connection, modest.right);
        assert!(frame.bytes() == pattern(number, 60));
    }
}
