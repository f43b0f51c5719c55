//! Real processes, and SIGKILL in the middle of a stream: what was published arrives, in order and whole,
//! then the connection is lost; held memory stays; nothing is left behind.
//!
//! The peer is this test binary once more, running one of the `child_` tests, which do nothing without a
//! parent.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType};
use rustix::process::{Resource, Rlimit};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use transport_buf::SlabLayout;
use transport_proto::wire::{FrameHeader, FrameType};
use transport_provider::conformance::{Received, Side, pattern, rail};
use transport_provider::{
    ConnectionId, DialRefusal, ListenRefusal, Payload, PostRefusal, Provider, RailFault,
};
use transport_shm::ShmProvider;
use zerocopy::IntoBytes;

/// Tells a child the address of its parent.
const PARENT: &str = "NETDISK_SHM_TEST_PARENT";

fn side() -> Side<ShmProvider> {
    Side::new(ShmProvider::new(SlabLayout::default()))
}

/// Kills its process when the test ends before it did so itself.
struct Peer(Child);

impl Peer {
    fn start(role: &str, address: &str) -> Peer {
        let binary = std::env::current_exe().unwrap();
        let mut command = Command::new(binary);
        command.args(["--exact", role, "--test-threads=1"]).env(PARENT, address);
        Peer(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has ended already, or it ends now.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn turn_until(
    side: &mut Side<ShmProvider>,
    what: &str,
    mut done: impl FnMut(&mut Side<ShmProvider>) -> bool,
) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done(side) {
        if side.turn() == 0 {
            std::thread::yield_now();
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
    }
}

/// Mostly small messages, and some that need a chunk.
fn length_of(number: u64) -> usize {
    if number.is_multiple_of(8) { 3000 + number as usize % 50_000 } else { number as usize % 190 }
}

/// Dials the parent, if there is one.
fn dial_parent() -> Option<(Side<ShmProvider>, ConnectionId)> {
    let address = std::env::var(PARENT).ok()?;
    let mut side = side();
    let connection = side.dial(rail(0), &String::new(), &address);
    turn_until(&mut side, "connected", |side| !side.heard.connected.is_empty());
    side.establish(connection);
    turn_until(&mut side, "established", |side| !side.heard.established.is_empty());
    Some((side, connection))
}

#[test]
fn child_that_streams_without_end() {
    let Some((mut side, connection)) = dial_parent() else { return };
    let mut number = 0;
    while side.heard.lost.is_empty() {
        if side.post_pattern(connection, number + 1, length_of(number + 1)).is_ok() {
            number += 1;
        } else {
            side.turn();
        }
        if number.is_multiple_of(32) {
            side.provider.flush();
        }
    }
}

#[test]
fn child_that_takes_without_end() {
    let Some((mut side, _)) = dial_parent() else { return };
    while side.heard.lost.is_empty() {
        side.turn();
        side.heard.frames.clear();
    }
}

fn accept(side: &mut Side<ShmProvider>) -> ConnectionId {
    turn_until(side, "accepted", |side| !side.heard.accepted.is_empty());
    let (_, connection) = side.heard.accepted.pop_front().unwrap();
    side.establish(connection);
    turn_until(side, "established", |side| side.heard.established.contains(&connection));
    connection
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn assert_is(frame: &Received, number: u64) {
    assert_eq!(frame.header.sequence.get(), number, "lost, repeated or out of order");
    assert!(frame.bytes() == pattern(number, length_of(number)), "message {number} arrived changed");
}

// proves: T8 T11
#[test]
fn a_sender_killed_in_mid_stream_loses_nothing_that_it_published_and_leaves_nothing_behind() {
    let address = format!("netdisk-kill-sender-{}", std::process::id());
    let mut side = side();
    side.provider.listen(rail(0), &address).unwrap();
    for round in 1..=3 {
        let mut peer = Peer::start("child_that_streams_without_end", &address);
        let connection = accept(&mut side);
        let mut next = 1;
        let mut held = Vec::new();
        let mut take = |side: &mut Side<ShmProvider>, held: &mut Vec<Received>| {
            for frame in side.heard.frames.drain(..) {
                assert_is(&frame, next);
                if next.is_multiple_of(1000) {
                    held.push(frame);
                }
                next += 1;
            }
            next
        };
        turn_until(&mut side, "a stream", |side| take(side, &mut held) > 5000 * round);
        peer.kill();
        turn_until(&mut side, "lost", |side| {
            take(side, &mut held);
            !side.heard.lost.is_empty()
        });
        assert_eq!(side.heard.lost.pop_front(), Some((connection, RailFault::PeerClosed)));
        side.turn();
        assert!(side.heard.frames.is_empty(), "a frame after `lost`");
        held.iter().for_each(|frame| assert_is(frame, frame.header.sequence.get()));
        assert!(side.provider.memory_bytes() > 0, "held memory is accounted for");
        drop(held);
        assert_eq!(side.provider.memory_bytes(), 0, "memory of a dead peer was kept");
    }
    assert_eq!(side.provider.statistics().protocol_faults, 0);
}

// proves: T8 T9
#[test]
fn a_receiver_killed_in_mid_stream_is_lost_and_what_was_placed_there_can_be_sent_elsewhere() {
    let address = format!("netdisk-kill-receiver-{}", std::process::id());
    let mut side = side();
    side.provider.listen(rail(0), &address).unwrap();
    let mut first = Peer::start("child_that_takes_without_end", &address);
    let connection = accept(&mut side);
    let mut second = Peer::start("child_that_takes_without_end", &address);
    let other = accept(&mut side);
    let mut number = 0;
    turn_until(&mut side, "traffic", |side| {
        while side.post_pattern(connection, number + 1, length_of(number + 1)).is_ok() {
            number += 1;
        }
        number > 20_000
    });
    let mut chunk = None;
    turn_until(&mut side, "a chunk", |side| {
        chunk = side.provider.reserve(connection, 4000).ok();
        chunk.is_some()
    });
    let mut chunk = chunk.unwrap();
    chunk.as_mut().copy_from_slice(&pattern(7, 4000));
    let placed = Payload::Placed(chunk.place());
    first.kill();
    turn_until(&mut side, "lost", |side| !side.heard.lost.is_empty());
    assert_eq!(side.heard.lost.pop_front(), Some((connection, RailFault::PeerClosed)));
    assert_eq!(side.post(connection, 1, &[], &[], placed.whole()), Err(PostRefusal::NotConnected));
    let mut bytes = vec![0; 4000];
    placed.whole().copy_to(&mut bytes);
    assert_eq!(bytes, pattern(7, 4000));
    side.post(other, 1, &[], &[], placed.whole()).expect("the other connection is unharmed");
    second.kill();
    turn_until(&mut side, "lost", |side| !side.heard.lost.is_empty());
    assert_eq!(side.heard.lost.pop_front(), Some((other, RailFault::PeerClosed)));
}

/// Leaves a copy of its socket to a child of its own, which lives until our standard input ends.
#[test]
fn child_that_leaves_its_socket_to_a_child() {
    let Ok(address) = std::env::var(PARENT) else { return };
    let name = SocketAddrUnix::new_abstract_name(address.as_bytes()).unwrap();
    // Without CLOEXEC, so that the next process has it too.
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&socket, &name).unwrap();
    let mut heir = Command::new("cat").stdin(Stdio::inherit()).stdout(Stdio::null()).spawn().unwrap();
    let mut header = FrameHeader::new(FrameType::Hello);
    header.sequence.set(1);
    rustix::net::send(&socket, header.as_bytes(), SendFlags::NOSIGNAL).unwrap();
    heir.wait().unwrap();
}

// proves: T8
#[test]
fn a_dead_peer_is_noticed_even_if_a_child_of_it_keeps_the_socket_open() {
    let address = format!("netdisk-heir-{}", std::process::id());
    let mut side = side();
    side.provider.listen(rail(0), &address).unwrap();
    let mut peer = Peer::start("child_that_leaves_its_socket_to_a_child", &address);
    // The heir ends with the last end of this pipe, so also when the test fails.
    let keeps_the_heir_alive = peer.0.stdin.take();
    turn_until(&mut side, "the greeting", |side| !side.heard.frames.is_empty());
    let (_, connection) = side.heard.accepted.pop_front().unwrap();
    peer.kill();
    turn_until(&mut side, "lost", |side| !side.heard.lost.is_empty());
    assert_eq!(side.heard.lost, [(connection, RailFault::PeerClosed)]);
    drop(keeps_the_heir_alive);
}

/// Runs the calling test once more in a process of its own. `true`: this is that process.
fn is_alone(test: &str) -> bool {
    if std::env::var(PARENT).is_ok() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test]).env(PARENT, format!("netdisk-alone-{test}-{}", std::process::id()));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    false
}

// proves: T7 T8
#[test]
fn descriptors_are_all_closed_when_a_killed_peer_is_gone() {
    if !is_alone("descriptors_are_all_closed_when_a_killed_peer_is_gone") {
        return;
    }
    let address = std::env::var(PARENT).unwrap();
    let mut side = side();
    side.provider.listen(rail(0), &address).unwrap();
    let before = descriptors();
    for _ in 0..3 {
        let mut peer = Peer::start("child_that_takes_without_end", &address);
        accept(&mut side);
        assert!(descriptors() > before);
        peer.kill();
        turn_until(&mut side, "lost", |side| side.heard.lost.pop_front().is_some());
        assert_eq!(descriptors(), before);
    }
}

// proves: T12
#[test]
fn a_process_out_of_descriptors_is_refused_clearly_and_recovers() {
    if !is_alone("a_process_out_of_descriptors_is_refused_clearly_and_recovers") {
        return;
    }
    let address = std::env::var(PARENT).unwrap();
    let (mut left, mut right) = (side(), side());
    right.provider.listen(rail(0), &address).unwrap();
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // Numbers below the limit may be free after a close, so take them all.
    let tight = Rlimit { current: Some(descriptors() as u64 + 8), ..limit };
    rustix::process::setrlimit(Resource::Nofile, tight).unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = std::fs::File::open("/dev/null") {
        fillers.push(filler);
    }
    assert!(matches!(
        left.provider.dial(left.now(), rail(0), &String::new(), &address),
        Err(DialRefusal::Os(_))
    ));
    assert!(matches!(right.provider.listen(rail(1), &format!("{address}-2")), Err(ListenRefusal::Os { .. })));
    fillers.clear();
    let connection = left.dial(rail(0), &String::new(), &address);
    turn_until(&mut right, "accepted", |side| !side.heard.accepted.is_empty());
    turn_until(&mut left, "connected", |side| !side.heard.connected.is_empty());
    while let Ok(filler) = std::fs::File::open("/dev/null") {
        fillers.push(filler);
    }
    left.establish(connection);
    turn_until(&mut left, "lost", |side| !side.heard.lost.is_empty());
    assert_eq!(left.heard.lost.pop_front(), Some((connection, RailFault::NoMemory)));
    fillers.clear();
    left.heard.connected.clear();
    right.heard.accepted.clear();
    left.dial(rail(0), &String::new(), &address);
    turn_until(&mut left, "connected", |side| !side.heard.connected.is_empty());
    turn_until(&mut right, "accepted", |side| !side.heard.accepted.is_empty());
}
