//! What a hostile reader of the transport found: each test is the story of one fault that was there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use ProviderKind::{Shm, Tcp};
use std::time::{Duration, Instant};
use support::{Pair, endpoint, free_port, plan};
use transport_endpoint::{Data, ProviderKind, RailAddress, Tag, Verdict};
use transport_proto::identity::{ClientId, Epoch, Incarnation, LinkId, NodeId, Path, RailId, Sequence};
use transport_proto::rail::RailState;
use transport_proto::route::Spread;
use transport_proto::time::Time;
use transport_proto::wire::{FrameHeader, FrameType};
use transport_provider::{ConnectionId, Incoming, PayloadSlice, Provider, RailFault, RailName, Sink};
use transport_tcp::{TcpOptions, TcpProvider};

fn path(rail: u8) -> Path {
    Path { link: LinkId(0), rail: RailId(rail) }
}

fn state(pair: &mut Pair, node: usize, rail: u8) -> RailState {
    let status = pair.nodes[node].core().status();
    let mut rails = status.peers[0].links.iter().flat_map(|link| &link.rails);
    rails.find(|known| known.path == path(rail)).unwrap().state
}

fn judge(pair: &Pair, rail: u8, up: bool) {
    let round_trip = Duration::ZERO;
    pair.nodes[1].verdicts().post(Verdict { peer: NodeId(1), path: path(rail), up, round_trip });
}

// proves: T6
#[test]
fn a_rail_that_dials_in_the_round_in_which_another_ends_leaves_both_alive() {
    let mut pair = Pair {
        nodes: [endpoint(1, 100), endpoint(2, 200)],
        rails: plan(&[&[Tcp, Tcp]]),
        spread: Spread::Single,
    };
    let mut watched = pair.peer_plan(1);
    watched.rails.iter_mut().for_each(|rail| rail.monitored = true);
    let plain = pair.peer_plan(0);
    pair.nodes[0].core().set_peer(&plain).unwrap();
    pair.nodes[1].core().set_peer(&watched).unwrap();
    [0, 1].iter().for_each(|rail| judge(&pair, *rail, true));
    let both_up = |pair: &mut Pair| [0, 1].iter().all(|rail| state(pair, 1, *rail) == RailState::Up);
    pair.until("both rails are up", both_up);

    judge(&pair, 1, false);
    pair.until("the second is down", |pair| state(pair, 1, 1) == RailState::Down);
    // Its pause passes while nobody looks; then one round finds the first rail down and the second due.
    let pause = Instant::now();
    while pause.elapsed() < Duration::from_millis(700) {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    judge(&pair, 0, false);
    pair.turn();
    [0, 1].iter().for_each(|rail| judge(&pair, *rail, true));
    pair.until("both are up again", both_up);
}

/// Whoever has taken the address of a peer: answers each call with a message in the peer's name.
#[derive(Default)]
struct Impostor {
    caller: Option<ConnectionId>,
    answered: bool,
}

impl Sink for Impostor {
    fn accepted(&mut self, _rail: RailName, connection: ConnectionId) {
        self.caller = Some(connection);
    }
    fn connected(&mut self, _connection: ConnectionId) {}
    fn established(&mut self, _connection: ConnectionId) {}
    fn frame(&mut self, _: ConnectionId, header: &FrameHeader, _control: &[u8], _data: Incoming<'_>) {
        self.answered |= header.frame_type() == Some(FrameType::Hello);
    }
    fn writable(&mut self, _connection: ConnectionId) {}
    fn lost(&mut self, _connection: ConnectionId, _fault: RailFault) {}
}

// proves: T10 T11
#[test]
fn an_impostor_at_a_dialed_address_is_not_heard_before_it_has_proved_itself() {
    let mut pair = Pair::connected(&[&[Tcp]], Spread::Single);
    let address = free_port();
    let events = mio::Poll::new().unwrap();
    let mut provider = TcpProvider::new(TcpOptions::default()).unwrap();
    provider.attach(events.registry().try_clone().unwrap(), 0..transport_tcp::TOKENS);
    provider.listen(RailName { peer: NodeId(2), path: path(1) }, &address).unwrap();
    pair.rails.insert(path(1), (RailAddress::Tcp(address), RailAddress::Tcp(free_port())));
    let dialer = pair.peer_plan(1);
    pair.nodes[1].core().set_peer(&dialer).unwrap();

    let mut impostor = Impostor::default();
    let mut queue = (events, mio::Events::with_capacity(16));
    let mut calls = 0;
    pair.until("it has called, and called again after the first was refused", |_| {
        queue.0.poll(&mut queue.1, Some(Duration::ZERO)).unwrap();
        for event in &queue.1 {
            provider.event(event.token(), event.is_readable(), event.is_writable());
        }
        provider.poll(Time(1), &mut impostor);
        if let Some(caller) = impostor.caller.take() {
            calls += 1;
            let mut header = FrameHeader::new(FrameType::Data);
            header.source.set(1);
            header.destination.set(2);
            header.incarnation.set(100);
            header.client.set(ClientId::USER.0);
            header.sequence.set(Sequence(1).0);
            header.credit.set(256);
            header.control_length.set(6);
            header.rail = 1;
            provider.post(caller, &header, b"forged", &[], PayloadSlice::EMPTY).unwrap();
            provider.flush();
        }
        calls == 2 && impostor.answered
    });
    let sent = pair.nodes[0].core().send(NodeId(2), ClientId::USER, b"true", Data::Empty, Tag::SILENT);
    assert!(sent.is_ok());
    pair.until("the peer is heard", |pair| !pair.messages(1).is_empty());
    assert_eq!(pair.messages(1)[0].2, b"true");
}

/// Sends numbered blocks built in the peer's own memory while the peer drops them, until `dropped`; then
/// `admit`.
fn dropped_blocks_arrive_intact(client: ClientId, prepare: fn(&mut Pair), admit: fn(&mut Pair)) {
    let mut pair =
        Pair { nodes: [endpoint(1, 100), endpoint(2, 200)], rails: plan(&[&[Shm]]), spread: Spread::Single };
    prepare(&mut pair);
    pair.configure();
    pair.until("they are connected", |pair| pair.rails_up() == 2);
    for number in 0..100u8 {
        let core = pair.nodes[0].core();
        let mut buffer = core.reserve(NodeId(2), client, 1000).unwrap();
        buffer.as_mut().fill(number);
        assert!(core.send(NodeId(2), client, &[number], Data::Reserved(buffer), Tag::SILENT).is_ok());
        pair.until("it is dropped", |pair| {
            let counters = pair.nodes[1].core().status().peers[0].counters;
            counters.frames_fenced + counters.frames_dropped > u64::from(number)
        });
    }
    admit(&mut pair);
    pair.until("all have arrived", |pair| pair.messages(1).len() == 100);
    for (number, (_, _, control, data)) in pair.messages(1).iter().enumerate() {
        assert_eq!(control, &[number as u8]);
        assert!(*data == [number as u8; 1000], "a block that is sent again carries its own bytes");
    }
}

// proves: T10 T11
#[test]
fn what_was_dropped_before_its_sender_became_a_member_arrives_intact() {
    dropped_blocks_arrive_intact(
        ClientId::USER,
        |pair| {
            pair.configure();
            pair.nodes[1].core().configure(Epoch(1), &[]);
        },
        |pair| pair.nodes[1].core().configure(Epoch(2), &[NodeId(1), NodeId(2)]),
    );
}

// proves: T2 T10
#[test]
fn what_came_before_its_client_was_opened_arrives_when_it_is() {
    const LATE: ClientId = ClientId(7);
    dropped_blocks_arrive_intact(
        LATE,
        |pair| pair.nodes[0].core().open_client(LATE),
        |pair| pair.nodes[1].core().open_client(LATE),
    );
}

// proves: T7
#[test]
fn an_endpoint_whose_rails_were_removed_can_sleep() {
    let mut pair = Pair::connected(&[&[Shm, Tcp]], Spread::Single);
    pair.rails.clear();
    pair.configure();
    // Longer than the pause after which a rail that is still wanted dials again.
    let begun = Instant::now();
    let nap = Duration::from_millis(100);
    loop {
        assert!(begun.elapsed() < Duration::from_secs(30), "no sleep lasts");
        pair.nodes[1].poll();
        let before = Instant::now();
        if pair.nodes[1].arm() {
            pair.nodes[1].sleep(nap, |_, _, _| ()).unwrap();
        }
        if before.elapsed() >= nap && begun.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
}

// proves: T2
#[test]
fn a_client_that_fills_a_rail_leaves_room_for_another() {
    let mut pair = Pair::connected(&[&[Tcp]], Spread::Single);
    let block = vec![7; 64 << 10];
    let core = pair.nodes[0].core();
    for _ in 0..256 {
        assert!(core.send(NodeId(2), ClientId::BLOCK, b"bulk", Data::Copy(&block), Tag::SILENT).is_ok());
    }
    assert!(core.send(NodeId(2), ClientId::USER, b"one", Data::Copy(&block), Tag::SILENT).is_ok());
    pair.until("the one is there", |pair| pair.messages(1).iter().any(|m| m.1 == ClientId::USER));
    pair.until("all are there", |pair| pair.messages(1).len() == 257);
    let place = pair.messages(1).iter().position(|m| m.1 == ClientId::USER).unwrap();
    assert!(place < 256, "it did not wait for the last of the bulk");
}

// proves: T4
#[test]
fn a_lease_taken_after_its_sender_was_dropped_in_the_same_call_back_counts_against_nobody() {
    let mut pair = Pair::connected(&[&[Shm]], Spread::Single);
    pair.nodes[1].clients().keep = Some(ClientId::USER);
    pair.nodes[1].clients().first = Some(|core| core.configure(Epoch(1), &[NodeId(2)]));
    let sent =
        pair.nodes[0].core().send(NodeId(2), ClientId::USER, b"last", Data::Copy(&[1; 500]), Tag::SILENT);
    assert!(sent.is_ok());
    pair.until("it is kept", |pair| pair.nodes[1].clients().leases.len() == 1);
    pair.nodes[0].core().reincarnate(Incarnation(101));
    pair.nodes[1].core().configure(Epoch(2), &[NodeId(1), NodeId(2)]);
    pair.until("the new life is met", |pair| {
        pair.nodes[1].core().peer_incarnation(NodeId(1)) == Some(Incarnation(101)) && pair.rails_up() == 2
    });
    pair.nodes[1].clients().leases.clear();
    (0..20).for_each(|_| pair.turn());
    let sent = pair.nodes[0].core().send(NodeId(2), ClientId::USER, b"first", Data::Empty, Tag::SILENT);
    assert!(sent.is_ok());
    pair.until("the new life is heard", |pair| pair.messages(1).len() == 2);
}
