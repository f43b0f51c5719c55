//! Messages that came and were dropped, since their client holds all the memory that it may hold (SPEC T2):
//! asked for again, by the flag that also serves a peer that joins, once the client has given some back.

use super::Session;
use crate::identity::{ClientId, Sequence};
use crate::time::Time;
use core::time::Duration;

/// Messages of a client that came and were dropped, since its memory was used up. They are asked for again
/// until they are there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// The last of them.
    until: Sequence,
    /// How far the client's messages had come at the last look.
    received: u64,
    /// Not before then.
    ask_at: Time,
    /// Time to the question after the next, if nothing comes.
    pause: Duration,
}

/// Time without a message that fills the gap, after which it is asked for again.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The same when questions stay without effect. Each has the peer send all that is not acknowledged, behind
/// what it has under way already: asked faster than a slow rail carries that, it would send the same again
/// and again.
const PAUSE_MAX: Duration = Duration::from_millis(640);

impl<M, H> Session<M, H> {
    /// A message came and was dropped, since its client holds all the memory that it may hold.
    /// [`Session::mend_gaps`] asks for it. What [`Session::waits_behind_gap`] is to be dropped too: it would
    /// hold the memory that the gap needs.
    pub fn shed(&mut self, now: Time, client: ClientId, sequence: Sequence) {
        let Some(stream) = self.stream(client) else { return };
        let received = stream.receive.received();
        if sequence.0 <= received {
            // A copy of what is here.
            return self.owe(now, client, 0);
        }
        if sequence.0 > stream.receive.credit() {
            // Beyond every credit: no peer of ours has it to send again.
            return;
        }
        let gap = stream.gap.get_or_insert(Gap { until: sequence, received, ask_at: now, pause: PAUSE_MIN });
        gap.until = gap.until.max(sequence);
        self.gaps |= 1 << client.0;
    }

    /// After [`Session::shed`]: drops what the client has waiting behind the gap as far as it `holds` the
    /// memory that the gap needs; it is asked for again with the gap.
    pub fn shed_held(&mut self, client: ClientId, holds: impl FnMut(&H) -> bool) {
        let Some(stream) = self.stream(client) else { return };
        if let Some(gap) = &mut stream.gap
            && let Some(last) = stream.receive.evict(holds)
        {
            gap.until = gap.until.max(last);
        }
    }

    /// Whether messages of this client were dropped for want of memory, are not here yet, and this one is not
    /// the next that is missing.
    pub fn waits_behind_gap(&self, client: ClientId, sequence: Sequence) -> bool {
        let has_gap = self.gaps.checked_shr(client.0.into()).unwrap_or(0) & 1 != 0;
        has_gap && self.peek(client).is_some_and(|stream| sequence.0 != stream.receive.received() + 1)
    }

    /// Whether messages of any client were dropped for want of memory and are not here yet.
    #[inline]
    pub fn has_gaps(&self) -> bool {
        self.gaps != 0
    }

    /// Asks again for what was dropped, of the clients that `has_room` for it. To be called now and then
    /// while there are gaps: a question may be lost, or answered when the memory is used up again. While the
    /// gap is being filled nothing is asked, and ever more seldom while it is not.
    pub fn mend_gaps(&mut self, now: Time, mut has_room: impl FnMut(ClientId) -> bool) {
        let mut bits = self.gaps;
        while bits != 0 {
            let client = ClientId(bits.trailing_zeros() as u16);
            bits &= bits - 1;
            let Some(stream) = self.stream(client) else { continue };
            let received = stream.receive.received();
            match &mut stream.gap {
                Some(gap) if received < gap.until.0 => {
                    if gap.received < received {
                        (gap.received, gap.pause, gap.ask_at) = (received, PAUSE_MIN, now + PAUSE_MIN);
                    }
                    // Asked without fail: an answer that there is room has the provider take data again.
                    let room = has_room(client);
                    if room && now >= gap.ask_at {
                        gap.ask_at = now + gap.pause;
                        gap.pause = (gap.pause * 2).min(PAUSE_MAX);
                        self.ask_replay(now, client);
                    }
                }
                gap => {
                    *gap = None;
                    self.gaps &= !(1 << client.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Epoch, Incarnation, LinkId, NodeId, Path, RailId};
    use crate::route::Spread;
    use crate::window::Offer;
    use crate::wire::{FLAG_REPLAY, FrameHeader};
    use alloc::vec::Vec;

    const USER: ClientId = ClientId::USER;
    const PATH: Path = Path { link: LinkId(0), rail: RailId(0) };

    fn session(local: u16, peer: u16) -> Session<u32, u32> {
        let mut session = Session::new(NodeId(local), Incarnation(9), NodeId(peer), Spread::Single);
        session.open(USER);
        session.configure(Epoch(1), true);
        assert!(session.meet(Incarnation(9)));
        session.path_up(Time(1), PATH);
        session
    }

    fn post(session: &mut Session<u32, u32>) -> Vec<FrameHeader> {
        let mut frames = Vec::new();
        while let Some(place) = session.next_unposted(USER, (Sequence(0), 0)) {
            session.transmit(
                USER,
                place,
                |_| None,
                |frame| {
                    frames.push(*frame.header);
                    true
                },
            );
        }
        frames
    }

    /// Whether the peer is asked to send again.
    fn asks(receiver: &mut Session<u32, u32>, now: Time) -> bool {
        receiver.mend_gaps(now, |_| true);
        let Some((client, _, header)) = receiver.due_acks(now) else { return false };
        receiver.told(client);
        client == USER && header.flags & FLAG_REPLAY != 0
    }

    // proves: T2 T10
    #[test]
    fn what_was_dropped_for_want_of_memory_is_asked_for_until_it_is_there() {
        let (mut sender, mut receiver) = (session(1, 2), session(2, 1));
        (1..=3).for_each(|message| {
            sender.send(USER, message, 0, 70_000);
        });
        let frames = post(&mut sender);
        assert!(receiver.receive(Time(2), &frames[0], |_| ()).is_ok_and(|receipt| receipt.next));
        receiver.shed(Time(2), USER, Sequence(2));
        receiver.shed(Time(2), USER, Sequence(3));
        receiver.told(USER);
        receiver.mend_gaps(Time(3), |_| false);
        assert!(receiver.has_gaps() && receiver.due_acks(Time(3)).is_none(), "no room, no question");

        let mut now = Time(4);
        for _question_is_lost in 0..2 {
            assert!(asks(&mut receiver, now), "there is room");
            assert!(!asks(&mut receiver, now), "not again at once");
            now = now + PAUSE_MIN;
        }
        assert_eq!(sender.replay(USER), 3);
        for header in post(&mut sender) {
            let receipt = receiver.receive(now, &header, |_| ()).expect("of its peer");
            assert_eq!(receipt.next, header.sequence() > Sequence(1));
        }
        receiver.mend_gaps(now + PAUSE_MIN, |_| panic!("nothing is missing any more"));
        assert!(!receiver.has_gaps());
    }

    // proves: T2 T10
    #[test]
    fn a_message_that_waits_without_memory_does_not_keep_the_gap_before_it_open() {
        let (mut sender, mut receiver) = (session(1, 2), session(2, 1));
        (1..=2).for_each(|message| {
            sender.send(USER, message, 0, 0);
        });
        let frames = post(&mut sender);
        receiver.shed(Time(2), USER, Sequence(1));
        assert!(receiver.receive(Time(2), &frames[1], |_| ()).is_ok_and(|receipt| !receipt.next));
        assert_eq!(
            receiver.stream(USER).map(|stream| stream.receive.offer(Sequence(2), 2)),
            Some(Offer::Held)
        );
        assert!(receiver.waits_behind_gap(USER, Sequence(3)));
        assert!(!receiver.waits_behind_gap(USER, Sequence(1)), "this one fills the gap");
    }

    // proves: T2 T10
    #[test]
    fn what_holds_the_memory_behind_a_gap_is_dropped_and_asked_for_with_it() {
        let mut receiver = session(2, 1);
        let stream = receiver.stream(USER).expect("open");
        for (sequence, message) in [(2, 20), (3, 30), (5, 50)] {
            assert_eq!(stream.receive.offer(Sequence(sequence), message), Offer::Held);
        }
        receiver.shed_held(USER, |_| true);
        assert_eq!(receiver.stream(USER).map(|stream| stream.receive.held()), Some(3), "there is no gap");
        receiver.shed(Time(2), USER, Sequence(1));
        receiver.shed_held(USER, |message| *message != 30);
        let stream = receiver.stream(USER).expect("open");
        assert_eq!(stream.receive.held(), 1);
        assert_eq!(stream.receive.offer(Sequence(1), 10), Offer::Deliver(10));
        assert_eq!(stream.receive.pop_ready(), None, "the second was dropped");
        assert_eq!(stream.receive.offer(Sequence(2), 20), Offer::Deliver(20));
        assert_eq!(stream.receive.pop_ready(), Some(30));
        assert!(!asks(&mut receiver, Time(3)), "something came just now");
        assert!(asks(&mut receiver, Time(3) + PAUSE_MIN), "the fifth is missing");
    }

    #[test]
    fn questions_without_effect_become_seldom_until_something_comes() {
        let mut receiver = session(2, 1);
        receiver.shed(Time(0), USER, Sequence(9));
        let questions = |receiver: &mut Session<u32, u32>, from: u64| {
            (0..10_000).filter(|at| asks(receiver, Time(from) + Duration::from_millis(*at))).count()
        };
        assert_eq!(questions(&mut receiver, 0), 21, "6 in the first 630 ms, then one each 640 ms");
        let stream = receiver.stream(USER).expect("open");
        assert_eq!(stream.receive.offer(Sequence(1), 1), Offer::Deliver(1));
        let later = Time(0) + Duration::from_secs(10);
        assert!(!asks(&mut receiver, later), "something came just now");
        assert!(asks(&mut receiver, later + PAUSE_MIN));
    }

    #[test]
    fn a_copy_or_a_forged_number_opens_no_gap() {
        let mut receiver = session(2, 1);
        receiver.shed(Time(2), USER, Sequence(0));
        receiver.shed(Time(2), USER, Sequence(u64::MAX));
        receiver.shed(Time(2), ClientId(7), Sequence(1));
        assert!(!receiver.has_gaps());
    }
}
