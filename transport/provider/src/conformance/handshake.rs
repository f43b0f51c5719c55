//! Rules about how a connection comes to be: who hears what, and what may travel before the peer is
//! authenticated.

use super::{Fixture, Pair, Side, pattern, rail};
use crate::{DialRefusal, ListenRefusal, Payload, PostRefusal, Provider, RailFault};
use std::sync::Arc;
use transport_proto::wire::{CONTROL_BYTES_MAX, FrameHeader, FrameType};

/// Frames with a control part alone travel both ways before `establish`; payload and reservations are
/// refused.
pub fn greeting_frames_pass_before_establish_and_payload_does_not<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let link = pair.connect();
    let greeting = pattern(1, CONTROL_BYTES_MAX);
    let mut header = FrameHeader::new(FrameType::Hello);
    header.control_length.set(greeting.len() as u16);
    let none = crate::PayloadSlice::EMPTY;
    pair.left.provider.post(link.left, &header, &greeting, &[], none.clone()).expect("a greeting is taken");
    let payload = Payload::Caller(Arc::new(pattern(2, 5000)));
    let refused = pair.left.post(link.left, 2, &[], &[], payload.whole());
    assert_eq!(refused, Err(PostRefusal::NotConnected));
    assert_eq!(pair.left.provider.reserve(link.left, 100).err(), Some(PostRefusal::NotConnected));
    let heard = pair.receive();
    assert_eq!(heard.header.frame_type(), Some(FrameType::Hello));
    assert_eq!((heard.connection, &heard.control), (link.right, &greeting));

    header.frame_type = FrameType::HelloAck as u8;
    pair.right.provider.post(link.right, &header, &greeting, &[], none).expect("an answer is taken");
    pair.until("the answer arrives", |pair| !pair.left.heard.frames.is_empty());
    assert_eq!(pair.left.heard.frames[0].control, greeting);
    pair.settle();
    assert_eq!((pair.left.heard.frames.len(), pair.right.heard.frames.len()), (1, 0));
    assert!(pair.left.heard.established.is_empty() && pair.right.heard.established.is_empty());
}

/// A listener hears `accepted` under the rail that was dialed, a dialer `connected`, each before everything
/// else; `established` follows `establish` on both sides, once.
pub fn reports_come_in_order_accepted_connected_established<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let second = fixture.address();
    pair.right.provider.listen(rail(5), &second).expect("a second address can be listened on");
    let dialed = pair.left.dial(rail(5), &fixture.local(), &second);
    pair.until("both ends open", |pair| {
        !pair.right.heard.accepted.is_empty() && !pair.left.heard.connected.is_empty()
    });
    let (name, right) = pair.right.heard.accepted[0];
    assert_eq!(name, rail(5));
    assert_eq!(pair.left.heard.connected[0], dialed);
    pair.settle();
    assert_eq!((pair.left.heard.reports, pair.right.heard.reports), (1, 1));

    pair.left.establish(dialed);
    pair.right.establish(right);
    pair.until("both ends are established", |pair| {
        !pair.left.heard.established.is_empty() && !pair.right.heard.established.is_empty()
    });
    pair.settle();
    assert_eq!((pair.left.heard.reports, pair.right.heard.reports), (2, 2));
}

/// One side may be ahead: what it posts before the other has called `establish` is neither lost nor delivered
/// early.
pub fn payload_posted_right_behind_the_handshake_waits_for_establish<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let link = pair.connect();
    pair.left.establish(link.left);
    let mut posted = 0;
    for _ in 0..200 {
        let ready = pair.left.heard.established.contains(&link.left);
        if ready && posted < 3 && pair.left.post_pattern(link.left, posted + 1, 5000).is_ok() {
            posted += 1;
        }
        pair.left.turn();
        pair.right.turn();
    }
    assert!(pair.right.heard.frames.is_empty(), "payload was delivered before `establish`");
    pair.right.establish(link.right);
    pair.until("the left end is established", |pair| pair.left.heard.established.contains(&link.left));
    while posted < 3 {
        pair.left.post_pattern(link.left, posted + 1, 5000).expect("an idle connection takes payload");
        posted += 1;
    }
    for number in 1..=3 {
        assert_eq!(pair.receive().bytes(), pattern(number, 5000));
    }
}

/// A dial to nobody ends in `lost`, without `connected`.
pub fn dialing_an_address_where_nobody_listens_is_lost_as_refused<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let dialed = pair.left.dial(rail(0), &fixture.local(), &fixture.address());
    pair.until("the dial fails", |pair| !pair.left.heard.lost.is_empty());
    assert_eq!(pair.left.heard.lost, [(dialed, RailFault::Refused)]);
    assert!(pair.left.heard.connected.is_empty());
}

/// Two listeners on one address: the second is told that it is in use, whoever holds it, and the first goes
/// on.
pub fn listening_on_an_address_in_use_is_refused<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let mut other = Side::new(fixture.provider());
    let address = pair.address.clone();
    let by_another = other.provider.listen(rail(0), &address);
    assert!(matches!(by_another, Err(ListenRefusal::InUse { .. })), "{by_another:?}");
    let by_itself = pair.right.provider.listen(rail(1), &address);
    assert!(matches!(by_itself, Err(ListenRefusal::InUse { .. })), "{by_itself:?}");
    pair.establish();
}

/// `unlisten` frees the address, for the same provider at once and with connections still open.
pub fn an_address_can_be_listened_on_again_after_unlisten<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let link = pair.establish();
    pair.right.provider.unlisten(rail(0));
    let now = pair.left.now();
    match pair.left.provider.dial(now, rail(0), &fixture.local(), &pair.address) {
        Err(DialRefusal::Os(_)) => (),
        Err(DialRefusal::TooMany) => panic!("one connection is not too many"),
        Ok(dialed) => {
            pair.left.heard.expect_dial(dialed);
            pair.until("the dial is lost", |pair| pair.left.heard.lost.iter().any(|(id, _)| *id == dialed));
        }
    }
    let address = pair.address.clone();
    pair.right.provider.listen(rail(0), &address).expect("the address is free again");
    pair.establish();
    pair.left.post_pattern(link.left, 1, 10).expect("the first connection stayed");
    assert_eq!(pair.receive().connection, link.right);
}

/// A raw peer that sends no frames of ours is lost as a fault of protocol, and others go on.
pub fn garbage_ends_its_connection_as_a_protocol_fault_and_no_other<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let link = pair.establish();
    let mut wrong_version = pattern(3, 200);
    wrong_version[..3].copy_from_slice(b"nd\xff");
    for garbage in [pattern(1, 64), pattern(2, 100_000), wrong_version, b"GET / HTTP/1.1\r\n\r\n".repeat(40)]
    {
        let stranger = fixture.send_garbage(&pair.address, &garbage);
        pair.until("the stranger is lost", |pair| !pair.right.heard.lost.is_empty());
        let (lost, fault) = pair.right.heard.lost.pop_front().expect("waited for it");
        assert_eq!(fault, RailFault::Protocol);
        assert_eq!(pair.right.heard.accepted.pop_front().map(|(_, id)| id), Some(lost));
        drop(stranger);
    }
    assert!(pair.right.heard.frames.is_empty());
    pair.left.post_pattern(link.left, 1, 3000).expect("an idle connection takes payload");
    assert_eq!(pair.receive().bytes(), pattern(1, 3000));
}
