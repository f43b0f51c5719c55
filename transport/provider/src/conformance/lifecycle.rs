//! Rules about how a connection ends and begins again.

use super::{Fixture, Pair, Side, pattern, pump_until, rail};
use crate::{Payload, Provider, RailFault};
use std::sync::Arc;

/// `close` is answered by `lost` on both sides; the peer hears a beginning of what was posted and nothing
/// later.
pub fn closing_ends_both_sides_and_nothing_arrives_afterwards<F: Fixture>(fixture: &F) {
    for left_closes in [true, false] {
        let mut pair = Pair::new(fixture);
        let link = pair.establish();
        let payload = Payload::Caller(Arc::new(pattern(1, 9000)));
        for number in 1..=50 {
            let _ = pair.left.post(link.left, number, &[], &[], payload.whole());
            let _ = pair.right.post(link.right, number, &[], &[], payload.whole());
        }
        pair.left.provider.flush();
        pair.right.provider.flush();
        if left_closes {
            pair.left.provider.close(link.left);
        } else {
            pair.right.provider.close(link.right);
        }
        pair.until("both ends are lost", |pair| {
            !pair.left.heard.lost.is_empty() && !pair.right.heard.lost.is_empty()
        });
        let faults = [pair.left.heard.lost[0].1, pair.right.heard.lost[0].1];
        let (closer, peer) = if left_closes { (faults[0], faults[1]) } else { (faults[1], faults[0]) };
        assert_eq!(closer, RailFault::Closed);
        assert!(matches!(peer, RailFault::PeerClosed | RailFault::Broken), "{peer:?}");
        for side in [&pair.left, &pair.right] {
            for (number, frame) in (1..).zip(&side.heard.frames) {
                assert_eq!(frame.header.sequence.get(), number);
                assert!(frame.bytes() == pattern(1, 9000));
            }
        }
        let reports = (pair.left.heard.reports, pair.right.heard.reports);
        pair.settle();
        assert_eq!(
            (pair.left.heard.reports, pair.right.heard.reports),
            reports,
            "something came after `lost`"
        );
    }
}

/// A peer whose provider is dropped (as its process's end would) is lost on the other side.
pub fn a_provider_that_goes_away_is_noticed_by_its_peer<F: Fixture>(fixture: &F) {
    let mut right = Side::new(fixture.provider());
    let address = fixture.address();
    right.provider.listen(rail(0), &address).expect("a fresh address can be listened on");
    for _ in 0..3 {
        let mut left = Side::new(fixture.provider());
        let dialed = left.dial(rail(0), &fixture.local(), &address);
        pump_until(&mut left, &mut right, "the connection opens", |left, right| {
            left.heard.connected.contains(&dialed) && !right.heard.accepted.is_empty()
        });
        drop(left);
        let mut idle = Side::new(fixture.provider());
        pump_until(&mut idle, &mut right, "the peer's end is noticed", |_, right| {
            !right.heard.lost.is_empty()
        });
        let (_, accepted) = right.heard.accepted.pop_front().expect("it was accepted");
        let (lost, fault) = right.heard.lost.pop_front().expect("waited for it");
        assert_eq!(lost, accepted);
        assert!(matches!(fault, RailFault::PeerClosed | RailFault::Broken), "{fault:?}");
    }
}

/// A rail that flaps a hundred times works each time and holds no more memory than after the tenth.
pub fn reconnecting_a_hundred_times_works_and_leaks_no_memory<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let mut bytes_after_ten = (0, 0);
    for round in 1..=100 {
        let link = pair.establish();
        pair.left.post_pattern(link.left, round, 5000).expect("there is room");
        let frame = pair.receive();
        assert!(frame.bytes() == pattern(round, 5000));
        drop(frame);
        if round % 2 == 0 {
            pair.left.provider.close(link.left);
        } else {
            pair.right.provider.close(link.right);
        }
        pair.until("both ends are lost", |pair| {
            !pair.left.heard.lost.is_empty() && !pair.right.heard.lost.is_empty()
        });
        pair.left.heard.lost.clear();
        pair.right.heard.lost.clear();
        let bytes = (pair.left.provider.memory_bytes(), pair.right.provider.memory_bytes());
        if round == 10 {
            bytes_after_ten = bytes;
        } else if round > 10 {
            assert!(bytes.0 <= bytes_after_ten.0 && bytes.1 <= bytes_after_ten.1, "memory grows: {bytes:?}");
        }
    }
}
