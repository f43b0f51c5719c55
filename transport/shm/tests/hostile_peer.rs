//! A peer that breaks the protocol, at each place where it can: its connection ends as a fault that is
//! counted, this process lives on, and other connections see nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use transport_buf::ring_region::{RING_REGION_BYTES, RING_SLOTS};
use transport_buf::{FrameSender, Region, SlabLayout};
use transport_proto::wire::{FrameHeader, FrameType};
use transport_provider::conformance::{Side, rail};
use transport_provider::{ConnectionId, PostRefusal, Provider, RailFault};
use transport_shm::{CONNECTIONS_MAX, ProtocolFault, ShmProvider};
use zerocopy::IntoBytes;

const LAYOUT: SlabLayout = SlabLayout { classes: [(4096, 8), (1 << 20, 1), (0, 0), (0, 0)] };

fn address() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("netdisk-hostile-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A listening provider, and a peer made of nothing but a socket.
struct Scene {
    side: Side<ShmProvider>,
    stranger: OwnedFd,
    connection: ConnectionId,
}

fn turn_until(
    side: &mut Side<ShmProvider>,
    what: &str,
    mut done: impl FnMut(&mut Side<ShmProvider>) -> bool,
) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done(side) {
        side.turn();
        assert!(Instant::now() < deadline, "waited in vain: {what}");
    }
}

fn stranger(address: &str) -> OwnedFd {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(address.as_bytes()).unwrap()).unwrap();
    socket
}

impl Scene {
    fn new() -> Scene {
        let mut side = Side::new(ShmProvider::new(LAYOUT));
        let address = address();
        side.provider.listen(rail(0), &address).unwrap();
        let stranger = stranger(&address);
        turn_until(&mut side, "accepted", |side| !side.heard.accepted.is_empty());
        let (_, connection) = side.heard.accepted.pop_front().unwrap();
        Scene { side, stranger, connection }
    }

    fn send(&self, bytes: &[u8], descriptors: &[&OwnedFd]) {
        let descriptors: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        rustix::net::sendmsg(&self.stranger, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
            .unwrap();
    }

    /// Establishes like a good peer and returns the sending end of the provider's ring.
    fn establish(&mut self) -> FrameSender {
        self.side.establish(self.connection);
        let ring = Region::create(RING_REGION_BYTES).unwrap();
        let slab = Region::create(LAYOUT.region_bytes()).unwrap();
        self.send(&grant(LAYOUT), &[&owned(&ring), &owned(&slab), &bell()]);
        turn_until(&mut self.side, "established", |side| !side.heard.established.is_empty());
        let (bytes, mut descriptors) = self.receive();
        assert_eq!(&bytes[..4], b"ndG1");
        let generation = u16::from_le_bytes([bytes[12], bytes[13]]);
        let ring = Region::adopt(descriptors.remove(0), RING_REGION_BYTES).unwrap();
        FrameSender::new(Arc::new(ring), generation)
    }

    fn receive(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        let mut bytes = vec![0; 512];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(&self.stranger, &mut parts, &mut ancillary, RecvFlags::empty()).unwrap();
        let rights = ancillary.drain().filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights.collect::<Vec<_>>()),
            _ => None,
        });
        (bytes, rights.flatten().collect())
    }

    /// Waits for the end and checks that it is this fault, counted, and the only report.
    fn assert_fault(mut self, is_expected: impl Fn(ProtocolFault) -> bool) {
        let connection = self.connection;
        turn_until(&mut self.side, "lost", |side| !side.heard.lost.is_empty());
        assert_eq!(self.side.heard.lost, [(connection, RailFault::Protocol)]);
        let statistics = self.side.provider.statistics();
        assert_eq!(statistics.protocol_faults, 1);
        assert!(statistics.last_fault.is_some_and(is_expected), "{:?}", statistics.last_fault);
    }
}

fn grant(layout: SlabLayout) -> Vec<u8> {
    let mut bytes = b"ndG1".to_vec();
    bytes.extend((RING_SLOTS as u32).to_le_bytes());
    bytes.extend(256u32.to_le_bytes());
    bytes.extend([0; 4]);
    for (size, count) in layout.classes {
        bytes.extend(size.to_le_bytes());
        bytes.extend(count.to_le_bytes());
    }
    bytes
}

fn owned(region: &Region) -> OwnedFd {
    region.file().try_clone_to_owned().unwrap()
}

fn bell() -> OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap()
}

fn header(control: usize, data: usize, reference: u32) -> FrameHeader {
    let mut header = FrameHeader::new(FrameType::Data);
    header.control_length.set(control as u16);
    header.data_length.set(data as u32);
    header.crc32c.set(reference);
    header
}

// proves: T12
#[test]
fn a_peer_that_never_stops_greeting_is_dropped() {
    let scene = Scene::new();
    for _ in 0..17 {
        scene.send(header(0, 0, 0).as_bytes(), &[]);
    }
    scene.assert_fault(|fault| fault == ProtocolFault::Greetings);
}

#[test]
fn a_greeting_whose_lengths_do_not_fit_is_dropped() {
    for bytes in [header(10, 0, 0), header(0, 1, 0), header(0, 1 << 20, 0)] {
        let scene = Scene::new();
        scene.send(bytes.as_bytes(), &[]);
        scene.assert_fault(|fault| matches!(fault, ProtocolFault::Body { available: 0, .. }));
    }
}

#[test]
fn a_grant_without_its_descriptors_or_given_twice_is_dropped() {
    let scene = Scene::new();
    scene.send(&grant(LAYOUT), &[&bell()]);
    scene.assert_fault(|fault| fault == ProtocolFault::Grant);

    let scene = Scene::new();
    let region = Region::create(RING_REGION_BYTES).unwrap();
    for _ in 0..2 {
        scene.send(&grant(LAYOUT), &[&owned(&region), &owned(&region), &bell()]);
    }
    scene.assert_fault(|fault| fault == ProtocolFault::OutOfTurn);
}

// proves: T11
#[test]
fn memory_of_the_wrong_size_or_without_seals_is_not_mapped() {
    let small = owned(&Region::create(4096).unwrap());
    let unsealed = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&unsealed, RING_REGION_BYTES as u64).unwrap();
    let no_memory = bell();
    let slab = owned(&Region::create(LAYOUT.region_bytes()).unwrap());
    for ring in [small, unsealed, no_memory] {
        let mut scene = Scene::new();
        scene.side.establish(scene.connection);
        scene.send(&grant(LAYOUT), &[&ring, &slab, &bell()]);
        scene.assert_fault(|fault| fault == ProtocolFault::Grant);
    }
}

#[test]
fn frames_that_cannot_be_end_an_established_connection() {
    let mut bad_type = header(0, 0, 0);
    bad_type.frame_type = 99;
    let mut bad_client = header(0, 0, 0);
    bad_client.client.set(u16::MAX);
    let too_long = header(100, 93, 0);
    let no_such_chunk = header(0, 100, 10);
    let far_off_chunk = header(0, 100, u32::MAX);
    let chunk_too_small = header(0, 4097, 1);
    let empty_chunk = header(0, 0, 1);
    for frame in [bad_type, bad_client, too_long, no_such_chunk, far_off_chunk, chunk_too_small, empty_chunk]
    {
        let mut scene = Scene::new();
        let mut ring = scene.establish();
        ring.send(&zerocopy::transmute!(frame), &[], &[]);
        scene.assert_fault(|fault| {
            matches!(
                fault,
                ProtocolFault::Frame(_) | ProtocolFault::Body { .. } | ProtocolFault::Chunk { .. }
            )
        });
    }
}

// proves: T4
#[test]
fn a_chunk_that_is_handed_over_while_it_is_still_held_ends_the_connection() {
    let mut scene = Scene::new();
    let mut ring = scene.establish();
    ring.send(&zerocopy::transmute!(header(0, 500, 3)), &[], &[]);
    turn_until(&mut scene.side, "the first", |side| side.heard.frames.len() == 1);
    ring.send(&zerocopy::transmute!(header(0, 500, 3)), &[], &[]);
    scene.assert_fault(|fault| fault == ProtocolFault::Chunk { index: 2, length: 500 });
}

#[test]
fn a_frame_by_socket_after_the_grant_ends_the_connection() {
    let mut scene = Scene::new();
    let _ring = scene.establish();
    scene.send(header(0, 0, 0).as_bytes(), &[]);
    scene.assert_fault(|fault| fault == ProtocolFault::OutOfTurn);
}

// proves: T12
#[test]
fn a_silent_stranger_costs_nothing_and_can_be_closed() {
    let mut scene = Scene::new();
    assert_eq!(scene.side.provider.memory_bytes(), 0);
    for _ in 0..100 {
        scene.side.turn();
    }
    scene.side.provider.close(scene.connection);
    turn_until(&mut scene.side, "lost", |side| !side.heard.lost.is_empty());
    assert_eq!(scene.side.heard.lost, [(scene.connection, RailFault::Closed)]);
    let mut nothing = [0; 16];
    assert_eq!(rustix::net::recv(&scene.stranger, &mut nothing, RecvFlags::empty()).unwrap().1, 0);
}

// proves: T12
#[test]
fn strangers_beyond_the_limit_are_turned_away_and_come_in_when_one_leaves() {
    let mut side = Side::new(ShmProvider::new(LAYOUT));
    let address = address();
    side.provider.listen(rail(0), &address).unwrap();
    let mut strangers = Vec::new();
    for count in 1..=CONNECTIONS_MAX {
        strangers.push(stranger(&address));
        turn_until(&mut side, "accepted", |side| side.heard.accepted.len() == count);
    }
    let one_more = stranger(&address);
    turn_until(&mut side, "turned away", |side| side.provider.statistics().turned_away == 1);
    assert_eq!(rustix::net::recv(&one_more, &mut [0; 16], RecvFlags::empty()).unwrap().1, 0);
    assert!(matches!(
        side.provider.dial(side.now(), rail(1), &String::new(), &address),
        Err(transport_provider::DialRefusal::TooMany)
    ));
    strangers.pop();
    turn_until(&mut side, "one leaves", |side| side.heard.lost.len() == 1);
    strangers.push(stranger(&address));
    turn_until(&mut side, "its place is taken", |side| side.heard.accepted.len() == CONNECTIONS_MAX + 1);
}

#[test]
fn a_peer_that_claims_to_have_taken_too_much_is_found_out() {
    let mut scene = Scene::new();
    scene.side.establish(scene.connection);
    let ring = Region::create(RING_REGION_BYTES).unwrap();
    let slab = Region::create(LAYOUT.region_bytes()).unwrap();
    scene.send(&grant(LAYOUT), &[&owned(&ring), &owned(&slab), &bell()]);
    turn_until(&mut scene.side, "established", |side| !side.heard.established.is_empty());
    // The first word of a ring is how far its consumer has come.
    ring.word(0).store(1 << 40, Ordering::Relaxed);
    let refused = (0..=RING_SLOTS as u64).find_map(|number| {
        scene.side.post(scene.connection, number, &[], &[], transport_provider::PayloadSlice::EMPTY).err()
    });
    assert_eq!(refused, Some(PostRefusal::NotConnected));
    scene.assert_fault(|fault| fault == ProtocolFault::Consumed);
}
