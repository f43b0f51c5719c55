//! A course of connections under a schedule of faults that is drawn from a seed.
//!
//! What arrives on a connection is a beginning of what was sent on it, unchanged; what a receiver holds stays
//! as it was, also when its connection, its device, or its peer is gone and others follow.

use super::{DoubleSide, Ends, LEFT, RIGHT};
use crate::fabric::double::{DoubleNetwork, Weather};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use transport_provider::conformance::{Link, Received, pattern};
use transport_provider::{ConnectionId, Payload, Provider};

/// What ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    LeftCloses,
    RightCloses,
    Cut,
    PortDown,
    AddressMoves,
    DeviceVanishes,
}

const FAULTS: [Fault; 6] = [
    Fault::LeftCloses,
    Fault::RightCloses,
    Fault::Cut,
    Fault::PortDown,
    Fault::AddressMoves,
    Fault::DeviceVanishes,
];

/// One direction of a connection.
#[derive(Default)]
struct Flow {
    posted: u64,
    arrived: u64,
}

pub(super) struct Course {
    ends: Ends,
    random: u64,
    held: VecDeque<(u64, Received)>,
}

/// Numbers of frames of one round and direction begin here, so that none looks like another's.
fn base(round: u64, rightwards: bool) -> u64 {
    round * 1_000_000 + if rightwards { 0 } else { 500_000 }
}

impl Course {
    pub(super) fn new(seed: u64, weather: Weather) -> Course {
        let network = DoubleNetwork::new(seed, weather);
        Course { ends: Ends::new(&network), random: seed << 1 | 1, held: VecDeque::new() }
    }

    fn draw(&mut self, end: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % end
    }

    /// Several connections one after the other, each ended by a fault in the midst of traffic.
    pub(super) fn run(&mut self, rounds: u64) {
        for round in 0..rounds {
            let link = self.ends.establish();
            let mut flows = [Flow::default(), Flow::default()];
            let turns = 20 + self.draw(200);
            for _ in 0..turns {
                self.traffic(link, round, &mut flows);
            }
            let fault = FAULTS[self.draw(FAULTS.len() as u64) as usize];
            self.strike(fault, link);
            self.after(link, round, &mut flows);
            self.heal(fault);
            self.ends.check();
        }
        while let Some((_, frame)) = self.held.pop_front() {
            check_content(&frame);
        }
    }

    fn traffic(&mut self, link: Link, round: u64, flows: &mut [Flow; 2]) {
        let burst = if self.draw(8) == 0 { 400 } else { self.draw(6) };
        for _ in 0..burst {
            let rightwards = self.draw(2) == 0;
            let flow = &mut flows[usize::from(!rightwards)];
            let number = base(round, rightwards) + flow.posted + 1;
            let kind = self.draw(60);
            let length = match kind {
                0..30 => self.draw(150) as usize,
                30..56 => 200 + self.draw(4000) as usize,
                56..59 => 60_000,
                _ => 200_000 + self.draw(800_000) as usize,
            };
            let (side, connection) = end_of(&mut self.ends, link, rightwards);
            if post(side, connection, number, length, kind.is_multiple_of(2)) {
                flow.posted += 1;
            }
        }
        self.ends.left.provider.flush();
        self.ends.right.provider.flush();
        match self.draw(3) {
            0 => drop(self.ends.left.turn()),
            1 => drop(self.ends.right.turn()),
            _ => drop(self.ends.turn()),
        }
        self.take(link, round, flows);
    }

    /// Checks what arrived; holds some of it for a while.
    fn take(&mut self, link: Link, round: u64, flows: &mut [Flow; 2]) {
        for rightwards in [true, false] {
            let flow = &mut flows[usize::from(!rightwards)];
            let (side, connection) = end_of(&mut self.ends, link, !rightwards);
            for frame in side.heard.frames.drain(..) {
                flow.arrived += 1;
                assert_eq!(frame.connection, connection);
                let number = frame.header.sequence.get();
                assert_eq!(number, base(round, rightwards) + flow.arrived, "lost, repeated or out of order");
                assert!(flow.arrived <= flow.posted);
                check_content(&frame);
                self.held.push_back((number, frame));
            }
        }
        while self.held.len() as u64 > self.random >> 60 {
            let (_, frame) = self.held.pop_front().unwrap();
            check_content(&frame);
        }
    }

    fn strike(&mut self, fault: Fault, link: Link) {
        let network = self.ends.network.clone();
        match fault {
            Fault::LeftCloses => self.ends.left.provider.close(link.left),
            Fault::RightCloses => self.ends.right.provider.close(link.right),
            Fault::Cut => network.set_cut(LEFT, RIGHT, true),
            Fault::PortDown => network.set_port(LEFT, false),
            Fault::AddressMoves => network.move_address(RIGHT),
            Fault::DeviceVanishes => network.set_present(RIGHT, false),
        }
    }

    /// Goes on until both ends have noticed.
    fn after(&mut self, link: Link, round: u64, flows: &mut [Flow; 2]) {
        for _ in 0..1_000_000 {
            let lost = !self.ends.left.heard.lost.is_empty() && !self.ends.right.heard.lost.is_empty();
            if lost {
                break;
            }
            self.traffic(link, round, flows);
        }
        self.ends.lost(link);
        self.take(link, round, flows);
        for side in [&mut self.ends.left, &mut self.ends.right] {
            side.heard.writable.clear();
        }
    }

    fn heal(&mut self, fault: Fault) {
        let network = self.ends.network.clone();
        match fault {
            Fault::Cut => network.set_cut(LEFT, RIGHT, false),
            Fault::PortDown => network.set_port(LEFT, true),
            Fault::DeviceVanishes => network.set_present(RIGHT, true),
            Fault::LeftCloses | Fault::RightCloses | Fault::AddressMoves => (),
        }
    }
}

fn end_of(ends: &mut Ends, link: Link, left: bool) -> (&mut DoubleSide, ConnectionId) {
    if left { (&mut ends.left, link.left) } else { (&mut ends.right, link.right) }
}

/// Posts a message from the caller's memory or from reserved memory. `false`: refused.
fn post(side: &mut DoubleSide, connection: ConnectionId, number: u64, length: usize, reserved: bool) -> bool {
    if !reserved {
        return side.post_pattern(connection, number, length).is_ok();
    }
    let Ok(mut chunk) = side.provider.reserve(connection, length) else { return false };
    chunk.as_mut().copy_from_slice(&pattern(number, length));
    let payload = Payload::Shared(chunk.share());
    side.post(connection, number, b"ctl", &[], payload.whole()).is_ok()
}

fn check_content(frame: &Received) {
    let bytes = frame.bytes();
    assert!(bytes == pattern(frame.header.sequence.get(), bytes.len()), "content changed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    // proves: T8 T10 T11
    #[test]
    fn what_arrives_is_a_beginning_of_what_was_sent_and_what_is_held_stays(
        seed in 1u64..u64::MAX / 2,
        rough in any::<bool>(),
    ) {
        Course::new(seed, if rough { Weather::ROUGH } else { Weather::FAIR }).run(6);
    }
}

/// Senders die in the midst of bulk, and the next connections get the memory while its packets are still on
/// their way.
pub(super) fn late_writes(seed: u64) {
    const LENGTH: usize = 60_000;
    let mut ends = Ends::new(&DoubleNetwork::new(seed, Weather::ROUGH));
    for round in 0..4 {
        let dying = ends.establish();
        for number in 1..=8 {
            ends.left.post_pattern(dying.left, 900 + number, LENGTH).unwrap();
        }
        ends.left.provider.close(dying.left);
        ends.lost(dying);
        ends.right.heard.frames.clear();
        let link = ends.establish();
        for number in 1..=8 {
            ends.left.post_pattern(link.left, round * 10 + number, LENGTH).unwrap();
        }
        ends.until("all arrive", |ends| ends.right.heard.frames.len() == 8);
        for _ in 0..2500 {
            ends.turn();
        }
        ends.right.heard.frames.drain(..).for_each(|frame| check_content(&frame));
        ends.left.provider.close(link.left);
        ends.lost(link);
        ends.check();
    }
}

// proves: T11
#[test]
fn late_writes_of_a_dead_sender_never_reach_memory_that_has_another_use() {
    (1..=5).for_each(late_writes);
}

// proves: T8
#[test]
fn a_flood_both_ways_finds_every_receiver_ready_and_never_stops() {
    const FRAMES: u64 = 4000;
    let mut ends = Ends::new(&DoubleNetwork::new(99, Weather::ROUGH));
    let link = ends.establish();
    let small = Arc::new(pattern(0, 40));
    let mut posted = [0, 0];
    let mut arrived = [0, 0];
    let mut turns = 0u64;
    ends.until("both floods are through", |ends| {
        for left in [true, false] {
            let place = usize::from(!left);
            let (side, connection) = end_of(ends, link, left);
            let payload = Payload::Caller(small.clone());
            while posted[place] < FRAMES
                && side.post(connection, posted[place] + 1, &[], &[], payload.whole()).is_ok()
            {
                posted[place] += 1;
            }
            side.provider.flush();
            // One end sleeps for long stretches, then the other.
            turns += 1;
            if turns / 300 % 2 == u64::from(left) {
                side.turn();
            }
            arrived[place] += side.heard.frames.drain(..).count() as u64;
        }
        arrived == [FRAMES, FRAMES]
    });
    ends.check();
    let statistics = ends.left.provider.statistics();
    assert!(statistics.sends < FRAMES + FRAMES / 32, "notices are few: {statistics:?}");
    assert!(statistics.signals >= statistics.sends / 33, "a queue must never fill up unsignalled");
}
