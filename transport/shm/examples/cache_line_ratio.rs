//! A quick look at the hot path: round trips of 64-byte messages through two providers on two pinned threads,
//! beside a bare cache-line ping-pong on the same cores, in turn. The full figures come from `bench-micro`;
//! this is for whoever changes the ring.
//!
//! `cargo run --release -p transport-shm --example cache_line_ratio`

use mio::Poll;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use transport_buf::SlabLayout;
use transport_proto::identity::{LinkId, NodeId, Path, RailId};
use transport_proto::time::Time;
use transport_proto::wire::{FrameHeader, FrameType};
use transport_provider::{ConnectionId, Incoming, PayloadSlice, Provider, RailFault, RailName, Sink};
use transport_shm::{ShmProvider, TOKENS_MAX};

const BATCHES: usize = 1000;
/// Round trips of a batch: long against a reading of the clock, short against a time slice, so that on a
/// machine with other work the best batches saw none of it.
const BATCH: usize = 50;
const ROUNDS: usize = 7;

#[derive(Default)]
struct Heard {
    connection: Option<ConnectionId>,
    established: bool,
    frames: u64,
    bytes: u64,
}

impl Sink for Heard {
    fn accepted(&mut self, _rail: RailName, connection: ConnectionId) {
        self.connection = Some(connection);
    }
    fn connected(&mut self, connection: ConnectionId) {
        self.connection = Some(connection);
    }
    fn established(&mut self, _connection: ConnectionId) {
        self.established = true;
    }
    #[inline]
    fn frame(
        &mut self,
        _connection: ConnectionId,
        _header: &FrameHeader,
        control: &[u8],
        data: Incoming<'_>,
    ) {
        self.frames += 1;
        self.bytes += control.len() as u64 + data.len() as u64;
    }
    fn writable(&mut self, _connection: ConnectionId) {}
    fn lost(&mut self, _connection: ConnectionId, fault: RailFault) {
        panic!("lost: {fault:?}");
    }
}

struct Side {
    provider: ShmProvider,
    poll: Poll,
    heard: Heard,
}

impl Side {
    fn new() -> Side {
        let mut provider = ShmProvider::new(SlabLayout::default());
        let poll = Poll::new().expect("the system gives a poll");
        provider.attach(poll.registry().try_clone().expect("registry"), 0..TOKENS_MAX);
        Side { provider, poll, heard: Heard::default() }
    }

    fn until(&mut self, done: impl Fn(&Heard) -> bool) {
        let mut events = mio::Events::with_capacity(64);
        while !done(&self.heard) {
            self.poll.poll(&mut events, Some(std::time::Duration::from_millis(1))).expect("poll");
            for event in &events {
                self.provider.event(event.token(), true, true);
            }
            self.provider.poll(Time::default(), &mut self.heard);
        }
    }

    fn establish(&mut self) {
        self.until(|heard| heard.connection.is_some());
        self.provider.establish(self.heard.connection.expect("waited for it"));
        self.until(|heard| heard.established);
    }

    /// One batch; who `serves` posts first.
    fn play(&mut self, serves: bool) {
        let connection = self.heard.connection.expect("established");
        let mut header = FrameHeader::new(FrameType::Data);
        header.control_length.set(24);
        header.data_length.set(40);
        let (control, data) = ([7u8; 24], [8u8; 40]);
        for number in 1..=BATCH as u64 {
            let before = self.heard.frames;
            if serves {
                self.post(connection, &mut header, number, &control, &data);
            }
            while self.heard.frames == before {
                self.provider.poll(Time::default(), &mut self.heard);
                core::hint::spin_loop();
            }
            if !serves {
                self.post(connection, &mut header, number, &control, &data);
            }
        }
    }

    fn post(&mut self, to: ConnectionId, header: &mut FrameHeader, number: u64, control: &[u8], data: &[u8]) {
        header.sequence.set(number);
        let posted = self.provider.post(to, header, control, data, PayloadSlice::EMPTY);
        posted.expect("one frame has room");
        self.provider.flush();
    }
}

fn pin(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).expect("this machine has two cores");
}

/// Nanoseconds of a round trip: the tenth percentile over the batches.
fn best_batch(mut batch: impl FnMut()) -> f64 {
    let mut nanos: Vec<u128> = (0..BATCHES)
        .map(|_| {
            let begin = Instant::now();
            batch();
            begin.elapsed().as_nanos()
        })
        .collect();
    nanos.sort_unstable();
    nanos[BATCHES / 10] as f64 / BATCH as f64
}

#[repr(align(128))]
struct Line(AtomicU64);

fn main() {
    let address = format!("netdisk-ratio-{}", std::process::id());
    let path = Path { link: LinkId(0), rail: RailId(0) };
    let mut right = Side::new();
    right.provider.listen(RailName { peer: NodeId(1), path }, &address).expect("a fresh address");
    let (there, back) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let lap = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            right.establish();
            let mut seen = 0;
            for _ in 0..ROUNDS {
                for _ in 0..BATCHES * BATCH {
                    seen += 1;
                    while there.0.load(Ordering::Acquire) != seen {
                        core::hint::spin_loop();
                    }
                    back.0.store(seen, Ordering::Release);
                }
                (0..BATCHES).for_each(|_| right.play(false));
                lap.fetch_add(1, Ordering::Release);
            }
            stop.store(true, Ordering::Release);
        });
        pin(0);
        let mut left = Side::new();
        let peer = RailName { peer: NodeId(2), path };
        left.provider.dial(Time::default(), peer, &String::new(), &address).expect("it listens");
        left.establish();
        let mut sent = 0;
        for round in 1..=ROUNDS as u64 {
            let line = best_batch(|| {
                for _ in 0..BATCH {
                    sent += 1;
                    there.0.store(sent, Ordering::Release);
                    while back.0.load(Ordering::Acquire) != sent {
                        core::hint::spin_loop();
                    }
                }
            });
            let frame = best_batch(|| left.play(true));
            while lap.load(Ordering::Acquire) != round {
                core::hint::spin_loop();
            }
            println!("cache line {line:6.1} ns   frame {frame:6.1} ns   ratio {:.2}", frame / line);
        }
    });
    assert!(stop.load(Ordering::Acquire));
}
