//! The two ends of one client's ordered traffic between two incarnations: what the sender keeps until it is
//! acknowledged (replay), and what the receiver has seen (duplicates, gaps, fragments).
//!
//! Sequences count per client, not per link: whichever link and rail a frame took, and however often a rail
//! died under it, the receiver puts it in its place or knows it as a duplicate. So nothing has to be
//! negotiated when a rail fails: the sender sends again what that rail carried and what is not acknowledged
//! yet (SPEC T6, T10).

use crate::identity::{LINKS_MAX, Path, Sequence};
use alloc::boxed::Box;

/// Messages of one client that may be on their way to one peer, or held there in leases, at the most.
/// The send window retains that many, the receive window can hold that many; a power of two.
pub const WINDOW: usize = 256;
const _: () = assert!(WINDOW.is_power_of_two());

/// Carrier of a fragment that no rail has taken yet.
const UNPOSTED: u8 = u8::MAX;
const _: () = assert!(Path::COUNT_MAX < UNPOSTED as usize, "never a path's number");

/// A message that is kept until the peer has acknowledged it.
#[derive(Debug)]
pub struct Retained<M> {
    /// The message; what it is made of is the owner's business.
    pub message: M,
    /// Bytes of the control part.
    pub control_length: u16,
    /// Bytes of the data part.
    pub data_length: u32,
    /// Frames it travels in; 1 unless striped.
    pub fragments: u8,
    /// Whether any part of it had to be sent again.
    pub replayed: bool,
    carriers: [u8; LINKS_MAX],
}

impl<M> Retained<M> {
    /// Notes that `path` has taken a fragment.
    #[inline]
    pub fn posted(&mut self, fragment: u8, path: Path, unposted: &mut u32) {
        let carrier = &mut self.carriers[usize::from(fragment)];
        *unposted -= u32::from(*carrier == UNPOSTED);
        *carrier = path.index() as u8;
    }

    /// Fragments that no rail has taken.
    #[inline]
    fn unposted(&self) -> u32 {
        if self.fragments == 1 {
            return u32::from(self.carriers[0] == UNPOSTED);
        }
        let carriers = self.carriers.iter().take(usize::from(self.fragments));
        carriers.filter(|carrier| **carrier == UNPOSTED).count() as u32
    }

    /// The paths that carry its fragments, as far as rails have taken them.
    #[inline]
    pub fn carriers(&self) -> impl Iterator<Item = Path> {
        let posted = self.carriers.iter().take(usize::from(self.fragments));
        posted.filter_map(|index| Path::from_index(usize::from(*index)))
    }
}

/// The sender's end.
#[derive(Debug)]
pub struct SendWindow<M> {
    next: u64,
    acked: u64,
    limit: u64,
    unposted: u32,
    ring: Box<[Option<Retained<M>>; WINDOW]>,
}

impl<M> Default for SendWindow<M> {
    fn default() -> Self {
        SendWindow { next: 1, acked: 0, limit: WINDOW as u64, unposted: 0, ring: ring(|| None) }
    }
}

impl<M> SendWindow<M> {
    /// Whether one more message has credit.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.next <= self.limit
    }

    /// Messages sent and not acknowledged.
    pub fn in_flight(&self) -> usize {
        (self.next - 1 - self.acked) as usize
    }

    /// Fragments that no rail has taken yet.
    #[inline]
    pub fn unposted(&self) -> u32 {
        self.unposted
    }

    /// Keeps a message and gives it its place. The caller has checked [`SendWindow::is_open`].
    #[inline]
    pub fn retain(&mut self, message: M, control_length: u16, data_length: u32, fragments: u8) -> Sequence {
        assert!(self.is_open() && fragments >= 1 && usize::from(fragments) <= LINKS_MAX);
        let sequence = self.next;
        self.next += 1;
        self.unposted += u32::from(fragments);
        let place = &mut self.ring[sequence as usize % WINDOW];
        debug_assert!(place.is_none());
        *place = Some(Retained {
            message,
            control_length,
            data_length,
            fragments,
            replayed: false,
            carriers: [UNPOSTED; LINKS_MAX],
        });
        Sequence(sequence)
    }

    /// A retained message.
    #[inline]
    pub fn get(&self, sequence: Sequence) -> Option<&Retained<M>> {
        if sequence.0 <= self.acked || sequence.0 >= self.next {
            return None;
        }
        self.ring[sequence.0 as usize % WINDOW].as_ref()
    }

    /// A retained message, and the count of fragments without a carrier, for [`Retained::posted`].
    #[inline]
    pub fn get_mut(&mut self, sequence: Sequence) -> Option<(&mut Retained<M>, &mut u32)> {
        if sequence.0 <= self.acked || sequence.0 >= self.next {
            return None;
        }
        Some((self.ring[sequence.0 as usize % WINDOW].as_mut()?, &mut self.unposted))
    }

    /// Takes everything that `path` carries and that is not acknowledged off it, to be sent by another.
    /// Returns how many messages are touched.
    pub fn abandon(&mut self, path: Path) -> u32 {
        let mut messages = 0;
        for sequence in self.acked + 1..self.next {
            let Some(retained) = self.ring[sequence as usize % WINDOW].as_mut() else { continue };
            let mut touched = false;
            for carrier in &mut retained.carriers[..usize::from(retained.fragments)] {
                if *carrier == path.index() as u8 {
                    *carrier = UNPOSTED;
                    self.unposted += 1;
                    touched = true;
                }
            }
            if touched {
                retained.replayed = true;
                messages += 1;
            }
        }
        messages
    }

    /// The first fragment, at or after `from`, that no rail has taken.
    pub fn next_unposted(&self, from: (Sequence, u8)) -> Option<(Sequence, u8)> {
        if self.unposted == 0 {
            return None;
        }
        let mut fragment = from.1;
        for sequence in from.0.0.max(self.acked + 1)..self.next {
            if let Some(retained) = self.ring[sequence as usize % WINDOW].as_ref() {
                while fragment < retained.fragments {
                    if retained.carriers[usize::from(fragment)] == UNPOSTED {
                        return Some((Sequence(sequence), fragment));
                    }
                    fragment += 1;
                }
            }
            fragment = 0;
        }
        None
    }

    /// Takes in acknowledgement and credit as they came in a header (low halves); yields each message that is
    /// complete now, oldest first. Values that lie behind what is known change nothing; an acknowledgement of
    /// what was never sent is the peer's fault and returns `false`.
    #[inline]
    pub fn acknowledge(&mut self, ack: u32, credit: u32, mut complete: impl FnMut(Retained<M>)) -> bool {
        let forward = widen(self.acked, ack);
        if forward >= self.next {
            return false;
        }
        while self.acked < forward {
            self.acked += 1;
            if let Some(retained) = self.ring[self.acked as usize % WINDOW].take() {
                self.unposted -= retained.unposted();
                complete(retained);
            }
        }
        let limit = widen(self.limit, credit);
        if limit > self.acked + WINDOW as u64 {
            return false;
        }
        self.limit = self.limit.max(limit);
        true
    }

    /// Gives up on everything that is not acknowledged: its outcome is unknown. Oldest first.
    pub fn abort(&mut self, mut unknown: impl FnMut(Retained<M>)) {
        while self.acked + 1 < self.next {
            self.acked += 1;
            if let Some(retained) = self.ring[self.acked as usize % WINDOW].take() {
                unknown(retained);
            }
        }
        (self.next, self.acked, self.limit, self.unposted) = (1, 0, WINDOW as u64, 0);
    }
}

/// A window's places, built on the heap.
fn ring<T>(place: impl Fn() -> T) -> Box<[T; WINDOW]> {
    let places: Box<[T]> = (0..WINDOW).map(|_| place()).collect();
    match places.try_into() {
        Ok(ring) => ring,
        Err(_) => unreachable!("as many as were counted"),
    }
}

/// The value nearest ahead of `known` (less than 2³¹) whose low half is `low`; `known` itself for what lies
/// behind.
#[inline]
fn widen(known: u64, low: u32) -> u64 {
    let step = low.wrapping_sub(known as u32) as i32;
    known + u64::from(step.max(0).unsigned_abs())
}

/// What became of a message or fragment that was offered to the receive window.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer<H> {
    /// It is the next in order: deliver it now, then ask [`ReceiveWindow::pop_ready`].
    Deliver(H),
    /// Kept until those before it have come.
    Held,
    /// Seen before; to be dropped, and acknowledged again.
    Duplicate(H),
    /// Beyond every credit that was given: the peer is at fault.
    Overrun(H),
}

/// What to do with a fragment.
#[derive(Debug, PartialEq, Eq)]
pub enum FragmentPlace {
    /// The first of its message: make room for the whole and offer it by [`ReceiveWindow::begin_assembly`].
    First,
    /// Put it with its message, which [`ReceiveWindow::assembly`] yields.
    Next,
    /// Seen before, or its message is complete.
    Duplicate,
    /// Beyond every credit, or not like the other fragments of its message: the peer is at fault.
    Fault,
}

#[derive(Debug)]
enum Place<H> {
    Vacant,
    Whole(H),
    Partial { seen: u8, count: u8, assembly: H },
}

/// The receiver's end.
#[derive(Debug)]
pub struct ReceiveWindow<H> {
    expected: u64,
    held: u32,
    released: u64,
    ring: Box<[Place<H>; WINDOW]>,
}

const _: () = assert!(LINKS_MAX <= 8, "fragments are tracked in a byte");

impl<H> Default for ReceiveWindow<H> {
    fn default() -> Self {
        ReceiveWindow { expected: 1, held: 0, released: 0, ring: ring(|| Place::Vacant) }
    }
}

impl<H> ReceiveWindow<H> {
    /// The last message that came in order.
    #[inline]
    pub fn received(&self) -> u64 {
        self.expected - 1
    }

    /// The highest sequence that the peer may use: what has been released plus a window.
    #[inline]
    pub fn credit(&self) -> u64 {
        self.released + WINDOW as u64
    }

    /// Messages that were delivered and whose leases are still held.
    pub fn leased(&self) -> u64 {
        self.received() - self.released
    }

    /// Messages kept because earlier ones are missing.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Notes that the client is done with `count` messages.
    #[inline]
    pub fn release(&mut self, count: u32) {
        self.released += u64::from(count);
        assert!(self.released <= self.received(), "released more messages than were delivered");
    }

    /// Takes the next message in order without a detour; the caller delivers it at once. `false`: it is not
    /// the next one (or others wait behind it), [`ReceiveWindow::offer`] it.
    #[inline]
    pub fn accept_next(&mut self, sequence: Sequence) -> bool {
        let next = sequence.0 == self.expected && self.held == 0 && sequence.0 <= self.credit();
        self.expected += u64::from(next);
        next
    }

    /// Takes a whole message.
    #[inline]
    pub fn offer(&mut self, sequence: Sequence, message: H) -> Offer<H> {
        if sequence.0 < self.expected {
            return Offer::Duplicate(message);
        }
        if sequence.0 > self.credit() {
            return Offer::Overrun(message);
        }
        let place = &mut self.ring[sequence.0 as usize % WINDOW];
        match place {
            Place::Whole(_) => return Offer::Duplicate(message),
            // A whole copy of what comes in fragments too: a replay that was striped differently. It wins.
            Place::Partial { .. } => self.held -= 1,
            Place::Vacant => {}
        }
        if sequence.0 == self.expected {
            *place = Place::Vacant;
            self.expected += 1;
            return Offer::Deliver(message);
        }
        *place = Place::Whole(message);
        self.held += 1;
        Offer::Held
    }

    /// The next message in order, if it has come. To be asked after each [`Offer::Deliver`] and each
    /// completed assembly, until `None`.
    #[inline]
    pub fn pop_ready(&mut self) -> Option<H> {
        if self.held == 0 {
            return None;
        }
        let place = &mut self.ring[self.expected as usize % WINDOW];
        if !matches!(place, Place::Whole(_)) {
            return None;
        }
        let Place::Whole(message) = core::mem::replace(place, Place::Vacant) else { return None };
        self.held -= 1;
        self.expected += 1;
        Some(message)
    }

    /// Drops the whole messages that wait for earlier ones and that `drops` names: they will come again.
    /// Returns the last of them.
    pub fn evict(&mut self, mut drops: impl FnMut(&H) -> bool) -> Option<Sequence> {
        let mut last = None;
        for sequence in self.expected..=self.credit() {
            let place = &mut self.ring[sequence as usize % WINDOW];
            if matches!(place, Place::Whole(message) if drops(message)) {
                *place = Place::Vacant;
                self.held -= 1;
                last = Some(Sequence(sequence));
            }
        }
        last
    }

    /// Looks up where a fragment belongs.
    pub fn place_fragment(&self, sequence: Sequence, index: u16, count: u16) -> FragmentPlace {
        if sequence.0 < self.expected {
            return FragmentPlace::Duplicate;
        }
        let sane = index < count && (2..=LINKS_MAX as u16).contains(&count);
        if !sane || sequence.0 > self.credit() {
            return FragmentPlace::Fault;
        }
        match &self.ring[sequence.0 as usize % WINDOW] {
            Place::Vacant => FragmentPlace::First,
            Place::Whole(_) => FragmentPlace::Duplicate,
            Place::Partial { count: have, .. } if u16::from(*have) != count => FragmentPlace::Fault,
            Place::Partial { seen, .. } if seen & (1 << index) != 0 => FragmentPlace::Duplicate,
            Place::Partial { .. } => FragmentPlace::Next,
        }
    }

    /// Opens the assembly of a striped message; [`FragmentPlace::First`] came just before.
    pub fn begin_assembly(&mut self, sequence: Sequence, count: u16, assembly: H) {
        let place = &mut self.ring[sequence.0 as usize % WINDOW];
        debug_assert!(matches!(place, Place::Vacant));
        *place = Place::Partial { seen: 0, count: count as u8, assembly };
        self.held += 1;
    }

    /// The assembly of a message that is coming in fragments.
    pub fn assembly(&mut self, sequence: Sequence) -> Option<&mut H> {
        match &mut self.ring[sequence.0 as usize % WINDOW] {
            Place::Partial { assembly, .. } if sequence.0 >= self.expected => Some(assembly),
            _ => None,
        }
    }

    /// Notes that a fragment is in its place. `true`: the message is complete, ask
    /// [`ReceiveWindow::pop_ready`].
    pub fn fragment_done(&mut self, sequence: Sequence, index: u16) -> bool {
        let place = &mut self.ring[sequence.0 as usize % WINDOW];
        let Place::Partial { seen, count, .. } = place else { return false };
        *seen |= 1 << index;
        if seen.count_ones() < u32::from(*count) {
            return false;
        }
        if let Place::Partial { assembly, .. } = core::mem::replace(place, Place::Vacant) {
            *place = Place::Whole(assembly);
        }
        true
    }

    /// Forgets everything: the peer starts a new life.
    pub fn reset(&mut self) {
        for place in self.ring.iter_mut() {
            *place = Place::Vacant;
        }
        self.expected = 1;
        self.held = 0;
        self.released = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Path = Path { link: crate::identity::LinkId(0), rail: crate::identity::RailId(0) };
    const B: Path = Path { link: crate::identity::LinkId(0), rail: crate::identity::RailId(1) };

    fn post<M>(window: &mut SendWindow<M>, sequence: Sequence, path: Path) {
        let (retained, unposted) = window.get_mut(sequence).unwrap();
        retained.posted(0, path, unposted);
    }

    #[test]
    fn sender_keeps_a_message_until_it_is_acknowledged() {
        let mut window = SendWindow::default();
        let first = window.retain("a", 0, 0, 1);
        let second = window.retain("b", 0, 0, 1);
        post(&mut window, first, A);
        post(&mut window, second, A);
        let mut done = alloc::vec::Vec::new();
        assert!(window.acknowledge(1, WINDOW as u32, |kept| done.push(kept.message)));
        assert_eq!(done, ["a"]);
        assert_eq!(window.in_flight(), 1);
        assert!(window.get(second).is_some() && window.get(first).is_none());
    }

    // proves: T6 T10
    #[test]
    fn a_dead_rail_gives_up_exactly_what_it_carried_and_what_is_not_acknowledged() {
        let mut window = SendWindow::default();
        for (path, name) in [(A, 1), (B, 2), (A, 3)] {
            let sequence = window.retain(name, 0, 0, 1);
            post(&mut window, sequence, path);
        }
        assert!(window.acknowledge(1, WINDOW as u32, |_| ()));
        assert_eq!(window.abandon(A), 1);
        assert_eq!(window.next_unposted((Sequence(1), 0)), Some((Sequence(3), 0)));
        post(&mut window, Sequence(3), B);
        assert_eq!(window.next_unposted((Sequence(1), 0)), None);
    }

    // proves: T12
    #[test]
    fn sender_without_credit_is_closed_until_more_comes() {
        let mut window = SendWindow::default();
        for _ in 0..WINDOW {
            assert!(window.is_open());
            window.retain((), 0, 0, 1);
        }
        assert!(!window.is_open());
        assert!(window.acknowledge(10, WINDOW as u32 + 3, |_| ()));
        assert!(window.is_open());
    }

    #[test]
    fn acknowledging_what_was_never_sent_or_granting_too_much_is_a_fault() {
        let mut window = SendWindow::<()>::default();
        assert!(!window.acknowledge(1, WINDOW as u32, |_| ()));
        assert!(!window.acknowledge(0, WINDOW as u32 + 1, |_| ()));
    }

    // proves: T10
    #[test]
    fn receiver_delivers_once_and_in_order_whatever_order_frames_take() {
        let mut window = ReceiveWindow::default();
        assert_eq!(window.offer(Sequence(2), 2), Offer::Held);
        assert_eq!(window.offer(Sequence(2), 2), Offer::Duplicate(2));
        assert_eq!(window.offer(Sequence(1), 1), Offer::Deliver(1));
        assert_eq!(window.pop_ready(), Some(2));
        assert_eq!(window.pop_ready(), None);
        assert_eq!(window.offer(Sequence(1), 1), Offer::Duplicate(1));
    }

    // proves: T4
    #[test]
    fn a_held_lease_is_a_spent_credit() {
        let mut window = ReceiveWindow::default();
        for sequence in 1..=WINDOW as u64 {
            assert_eq!(window.offer(Sequence(sequence), ()), Offer::Deliver(()));
        }
        assert_eq!(window.offer(Sequence(WINDOW as u64 + 1), ()), Offer::Overrun(()));
        window.release(1);
        assert_eq!(window.offer(Sequence(WINDOW as u64 + 1), ()), Offer::Deliver(()));
    }

    #[test]
    fn striped_message_is_delivered_when_its_last_fragment_is_in() {
        let mut window = ReceiveWindow::default();
        assert_eq!(window.place_fragment(Sequence(1), 1, 2), FragmentPlace::First);
        window.begin_assembly(Sequence(1), 2, 7);
        assert!(!window.fragment_done(Sequence(1), 1));
        assert_eq!(window.offer(Sequence(2), 8), Offer::Held);
        assert_eq!(window.place_fragment(Sequence(1), 1, 2), FragmentPlace::Duplicate);
        assert_eq!(window.place_fragment(Sequence(1), 0, 3), FragmentPlace::Fault);
        assert_eq!(window.place_fragment(Sequence(1), 0, 2), FragmentPlace::Next);
        assert!(window.fragment_done(Sequence(1), 0));
        assert_eq!(window.pop_ready(), Some(7));
        assert_eq!(window.pop_ready(), Some(8));
        assert_eq!(window.place_fragment(Sequence(1), 0, 2), FragmentPlace::Duplicate);
    }

    #[test]
    fn counters_survive_the_wrap_of_their_low_half() {
        let known = (1u64 << 32) - 2;
        assert_eq!(widen(known, 3), (1 << 32) + 3);
        assert_eq!(widen((1 << 32) + 3, u32::MAX), (1 << 32) + 3, "what lies behind changes nothing");
    }
}
