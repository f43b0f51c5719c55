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
    /// Not before then.
    ask_at: Time,
}

/// Time between two questions for what was dropped: what is under way at the first should be here by then.
const GAP_PAUSE: Duration = Duration::from_millis(10);

impl<M, H> Session<M, H> {
    /// A message came and was dropped, since its client holds all the memory that it may hold.
    /// [`Session::mend_gaps`] asks for it. As long as [`Session::has_gap`], what takes memory and is not the
    /// next in order is to be dropped too: it would hold the memory that the gap needs.
    pub fn shed(&mut self, now: Time, client: ClientId, sequence: Sequence) {
        let Some(stream) = self.stream(client) else { return };
        if sequence.0 <= stream.receive.received() {
            // A copy of what is here.
            return self.owe(now, client, 0);
        }
        if sequence.0 > stream.receive.credit() {
            // Beyond every credit: no peer of ours has it to send again.
            return;
        }
        let gap = stream.gap.get_or_insert(Gap { until: sequence, ask_at: now });
        gap.until = gap.until.max(sequence);
        self.gaps |= 1 << client.0;
    }

    /// Whether messages of this client were dropped for want of memory and are not here yet.
    pub fn has_gap(&self, client: ClientId) -> bool {
        self.gaps.checked_shr(client.0.into()).unwrap_or(0) & 1 != 0
    }

    /// Whether those of any client were.
    #[inline]
    pub fn has_gaps(&self) -> bool {
        self.gaps != 0
    }

    /// Asks again for what was dropped, of the clients that `has_room` for it. To be called now and then
    /// while there are gaps: a question may be lost, or answered when the memory is used up again.
    pub fn mend_gaps(&mut self, now: Time, mut has_room: impl FnMut(ClientId) -> bool) {
        let mut bits = self.gaps;
        while bits != 0 {
            let client = ClientId(bits.trailing_zeros() as u16);
            bits &= bits - 1;
            let Some(stream) = self.stream(client) else { continue };
            let here = stream.receive.received();
            match &mut stream.gap {
                Some(gap) if here < gap.until.0 => {
                    if now >= gap.ask_at && has_room(client) {
                        gap.ask_at = now + GAP_PAUSE;
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
        assert!(receiver.has_gap(USER) && receiver.due_acks(Time(3)).is_none(), "no room, no question");

        let mut now = Time(4);
        for _question_is_lost in 0..2 {
            receiver.mend_gaps(now, |_| true);
            let (client, _, question) = receiver.due_acks(now).expect("there is room");
            assert_eq!((client, question.flags & FLAG_REPLAY), (USER, FLAG_REPLAY));
            receiver.told(USER);
            receiver.mend_gaps(now, |_| true);
            assert!(receiver.due_acks(now).is_none(), "not again at once");
            now = now + GAP_PAUSE;
        }
        assert_eq!(sender.replay(USER), 3);
        for header in post(&mut sender) {
            let receipt = receiver.receive(now, &header, |_| ()).expect("of its peer");
            assert_eq!(receipt.next, header.sequence() > Sequence(1));
        }
        receiver.mend_gaps(now + GAP_PAUSE, |_| panic!("nothing is missing any more"));
        assert!(!receiver.has_gaps());
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
