//! The provider against real sockets that misbehave: torn streams, tiny buffers, strangers, a killed process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use transport_buf::SlabLayout;
use transport_proto::wire::{FrameFault, FrameHeader, FrameType, HEADER_BYTES};
use transport_provider::conformance::{Side, pattern, pump_until, rail};
use transport_provider::{ConnectionId, Payload, Provider, RailFault};
use transport_tcp::writer::{FrameWriter, Held, QUEUE_BYTES_MAX};
use transport_tcp::{CONNECTIONS_MAX, TcpFault, TcpOptions, TcpProvider};

const SMALL: SlabLayout = SlabLayout { classes: [(4 << 10, 16), (64 << 10, 8), (1 << 20, 4), (0, 0)] };

fn side_with(options: TcpOptions) -> Side<TcpProvider> {
    Side::new(TcpProvider::new(TcpOptions { receive: SMALL, reserve: SMALL, ..options }).unwrap())
}

fn side() -> Side<TcpProvider> {
    side_with(TcpOptions::default())
}

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A provider that listens, and its address.
fn listener() -> (Side<TcpProvider>, SocketAddr) {
    let mut right = side();
    right.provider.listen(rail(0), &local()).unwrap();
    let address = right.provider.listening(rail(0)).unwrap();
    (right, address)
}

/// Turns one side until `done`.
fn until(side: &mut Side<TcpProvider>, what: &str, mut done: impl FnMut(&mut Side<TcpProvider>) -> bool) {
    for _ in 0..1_000_000 {
        side.poll_once();
        if done(side) {
            return;
        }
        side.sleep(what);
    }
    panic!("woke in vain: {what}");
}

/// A raw peer, accepted and, as far as the provider knows, authenticated.
fn raw_peer(right: &mut Side<TcpProvider>, address: SocketAddr) -> (TcpStream, ConnectionId) {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    until(right, "accepted", |right| !right.heard.accepted.is_empty());
    let (_, id) = right.heard.accepted.pop_front().unwrap();
    right.establish(id);
    until(right, "established", |right| !right.heard.established.is_empty());
    right.heard.established.clear();
    (stream, id)
}

/// Frames with data of these lengths, numbered from 1, as they are on the wire.
fn stream_of(lengths: &[usize]) -> Vec<u8> {
    let (mut writer, mut stream) = (FrameWriter::new(QUEUE_BYTES_MAX, 0), Vec::new());
    for (number, &length) in (1..).zip(lengths) {
        let mut header = FrameHeader::new(FrameType::Data);
        header.sequence.set(number);
        header.data_length.set(length as u32);
        let held = Held::Payload(Payload::Caller(Arc::new(pattern(number, length))));
        writer.push_held(&header, &[], held, 0..length, false);
        writer.drain(&mut stream).unwrap();
    }
    stream
}

// proves: T8 T10
#[test]
fn a_peer_that_dies_at_any_byte_of_a_frame_leaves_whole_frames_only() {
    let (mut right, address) = listener();
    let stream = stream_of(&[30, 300, 0]);
    let ends = [0, HEADER_BYTES + 30, 2 * HEADER_BYTES + 330, 3 * HEADER_BYTES + 330];
    let mut torn = 0;
    for cut in 0..=stream.len() {
        let (mut peer, id) = raw_peer(&mut right, address);
        peer.write_all(&stream[..cut]).unwrap();
        drop(peer);
        until(&mut right, "the end", |right| !right.heard.lost.is_empty());
        assert_eq!(right.heard.lost.pop_front(), Some((id, RailFault::PeerClosed)));
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        assert_eq!(right.heard.frames.len(), whole, "cut at {cut}");
        right.heard.frames.clear();
        torn += u64::from(!ends.contains(&cut));
        assert_eq!(right.provider.faults().torn, torn);
    }
}

#[test]
fn a_peer_that_writes_byte_by_byte_is_heard_frame_by_frame() {
    let (mut right, address) = listener();
    let (mut peer, _) = raw_peer(&mut right, address);
    let stream = stream_of(&[0, 100, 250, 5000]);
    let ends = [64, 228, 542, stream.len()];
    for (at, byte) in (1..).zip(&stream) {
        peer.write_all(&[*byte]).unwrap();
        let whole = ends.iter().filter(|end| **end <= at).count();
        if ends.contains(&at) {
            until(&mut right, "a frame", |right| right.heard.frames.len() == whole);
        } else {
            right.turn();
            assert_eq!(right.heard.frames.len(), whole);
        }
    }
    for (number, frame) in (1..).zip(&right.heard.frames) {
        assert!(frame.bytes() == pattern(number, [0, 100, 250, 5000][number as usize - 1]));
    }
}

#[test]
fn a_tiny_send_buffer_of_the_kernel_only_slows_things_down() {
    let mut left = side_with(TcpOptions { kernel_send_bytes: Some(16 << 10), ..TcpOptions::default() });
    let (mut right, address) = listener();
    let dialed = left.dial(rail(0), &local(), &address);
    pump_until(&mut left, &mut right, "it opens", |left, right| {
        !left.heard.connected.is_empty() && !right.heard.accepted.is_empty()
    });
    left.establish(dialed);
    let accepted = right.heard.accepted[0].1;
    right.establish(accepted);
    let lengths = [300_000, 0, 70_000, 10, 1025, 1024, 1 << 20];
    let mut arrived = 0;
    for (number, length) in (1..).zip(lengths) {
        left.post_pattern(dialed, number, length).unwrap();
    }
    pump_until(&mut left, &mut right, "all arrive", |_, right| {
        for frame in right.heard.frames.drain(..) {
            assert_eq!(frame.header.sequence.get() as usize, arrived + 1);
            assert!(frame.bytes() == pattern(arrived as u64 + 1, lengths[arrived]));
            arrived += 1;
        }
        arrived == lengths.len()
    });
}

#[test]
fn strangers_are_counted_and_the_last_one_is_named() {
    let (mut right, address) = listener();
    let mut wrong_version = stream_of(&[10]);
    wrong_version[2] = 77;
    let mut wrong_checksum = stream_of(&[10]);
    wrong_checksum[20] ^= 1;
    let frame = |fault| TcpFault::Frame(fault);
    let cases = [
        (wrong_version, frame(FrameFault::Version { found: 77 })),
        (wrong_checksum, frame(FrameFault::Checksum)),
        (stream_of(&[10, 10])[HEADER_BYTES + 10..].to_vec(), TcpFault::Position { expected: 1, found: 2 }),
    ];
    for (count, (bytes, fault)) in (1..).zip(cases) {
        let (mut peer, id) = raw_peer(&mut right, address);
        peer.write_all(&bytes).unwrap();
        until(&mut right, "lost", |right| !right.heard.lost.is_empty());
        assert_eq!(right.heard.lost.pop_front(), Some((id, RailFault::Protocol)));
        let report = right.provider.faults().last.unwrap();
        assert_eq!((report.rail, report.peer, report.fault), (rail(0), peer.local_addr().unwrap(), fault));
        assert_eq!(right.provider.faults().protocol, count);
        // The stranger is cut off, too.
        assert!(matches!(peer.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
}

// proves: T12
#[test]
fn an_unauthenticated_peer_gets_no_memory_and_its_end_is_heard() {
    let (mut right, address) = listener();
    let before = right.provider.memory_bytes();
    let mut peers: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    for peer in &mut peers {
        // More than the provider reads of it, less than the kernel takes, so that the end is not stuck behind
        // it.
        peer.write_all(&stream_of(&[1 << 20])[..100_000]).unwrap();
    }
    until(&mut right, "all are accepted", |right| right.heard.accepted.len() == 8);
    for _ in 0..100 {
        right.turn();
    }
    assert!(right.heard.frames.is_empty());
    assert!(right.provider.memory_bytes() - before <= 8 * (128 << 10));
    right.heard.accepted.clear();
    // All chunks are still there for a peer that is one of ours.
    let (mut ours, _) = raw_peer(&mut right, address);
    let bytes = stream_of(&[1 << 20; 3]);
    let writing = std::thread::spawn(move || ours.write_all(&bytes).map(|()| ours));
    until(&mut right, "bulk of an authenticated peer", |right| right.heard.frames.len() == 3);
    let ours = writing.join().unwrap().unwrap();
    drop(peers);
    until(&mut right, "the strangers' ends", |right| right.heard.lost.len() == 8);
    drop(ours);
}

// proves: T4 T12
#[test]
fn memory_that_returned_before_the_reactor_sleeps_is_used_without_an_event() {
    let (mut right, address) = listener();
    let (mut peer, _) = raw_peer(&mut right, address);
    // One more than there are chunks that fit.
    peer.write_all(&stream_of(&[65_537; 5])).unwrap();
    until(&mut right, "memory is exhausted", |right| right.provider.faults().starved == 1);
    while right.turn() > 0 {}
    assert_eq!(right.heard.frames.len(), 4);
    assert!(right.provider.arm(), "nothing can be done without memory");
    right.provider.disarm();
    right.heard.frames.clear();
    assert!(!right.provider.arm(), "memory is back, and no event will say so");
    right.provider.disarm();
    until(&mut right, "the last frame", |right| !right.heard.frames.is_empty());
    assert!(right.heard.frames[0].bytes() == pattern(5, 65_537));
}

// proves: T12
#[test]
fn callers_beyond_the_table_are_turned_away_and_the_others_served() {
    let (mut right, address) = listener();
    let mut peers = Vec::new();
    for count in 1..=CONNECTIONS_MAX {
        peers.push(TcpStream::connect(address).unwrap());
        until(&mut right, "accepted", |right| right.heard.accepted.len() == count);
    }
    let mut one_too_many = TcpStream::connect(address).unwrap();
    until(&mut right, "turned away", |right| right.provider.faults().turned_away == 1);
    assert!(matches!(one_too_many.read(&mut [0; 1]), Ok(0) | Err(_)));
    peers[200].write_all(&stream_of(&[0])).unwrap();
    until(&mut right, "a frame", |right| !right.heard.frames.is_empty());
    peers.remove(0);
    until(&mut right, "one place is free", |right| !right.heard.lost.is_empty());
    peers.push(TcpStream::connect(address).unwrap());
    until(&mut right, "accepted", |right| right.heard.accepted.len() == CONNECTIONS_MAX + 1);
}

const PEER_ADDRESS: &str = "NETDISK_TEST_TCP_PEER";

/// Not a test by itself: the process that is killed. Floods its parent with messages until then.
#[test]
fn peer_process_that_floods_until_it_is_killed() {
    let Ok(address) = std::env::var(PEER_ADDRESS) else { return };
    let mut left = side();
    let dialed = left.dial(rail(0), &local(), &address.parse().unwrap());
    until(&mut left, "connected", |left| !left.heard.connected.is_empty());
    left.establish(dialed);
    until(&mut left, "established", |left| !left.heard.established.is_empty());
    let mut number = 0;
    until(&mut left, "room", |left| {
        while left.post_pattern(dialed, number + 1, flood_length(number + 1)).is_ok() {
            number += 1;
        }
        left.provider.flush();
        !left.heard.lost.is_empty()
    });
}

fn flood_length(number: u64) -> usize {
    if number.is_multiple_of(2) { 100 } else { 30_000 }
}

// proves: T8 T10
#[test]
fn a_peer_process_killed_in_full_flow_is_lost_and_what_it_sent_is_whole() {
    let (mut right, address) = listener();
    for _ in 0..3 {
        let mut peer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "peer_process_that_floods_until_it_is_killed"])
            .env(PEER_ADDRESS, address.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until(&mut right, "accepted", |right| !right.heard.accepted.is_empty());
        let (_, id) = right.heard.accepted.pop_front().unwrap();
        right.establish(id);
        let (mut next, mut killed, mut held) = (1, false, None);
        until(&mut right, "the end", |right| {
            for frame in right.heard.frames.drain(..) {
                assert_eq!(frame.header.sequence.get(), next);
                assert!(frame.bytes() == pattern(next, flood_length(next)));
                next += 1;
                if next == 500 {
                    held = Some(frame);
                }
            }
            if next > 500 && !killed {
                peer.kill().unwrap();
                killed = true;
            }
            !right.heard.lost.is_empty()
        });
        let (lost, fault) = right.heard.lost.pop_front().unwrap();
        assert_eq!(lost, id);
        assert!(killed && matches!(fault, RailFault::PeerClosed | RailFault::Broken), "{fault:?}");
        assert!(held.unwrap().bytes() == pattern(499, flood_length(499)));
        peer.wait().unwrap();
    }
}
