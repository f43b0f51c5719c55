//! Messages between two endpoints: over every provider, in every size, exactly once and in order.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use ProviderKind::{Shm, Tcp, Verbs};
use std::sync::Arc;
use support::{NETWORK, Pair};
use transport_endpoint::{Data, Outcome, PeerEvent, ProviderKind, RailAddress, SendRefusal, Tag};
use transport_proto::identity::{ClientId, LinkId, NodeId, Path, RailId};
use transport_proto::route::Spread;
use transport_proto::window::WINDOW;

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + seed * 17) as u8).collect()
}

fn sends_every_size(links: &[&[ProviderKind]], spread: Spread) {
    let mut pair = Pair::connected(links, spread);
    let lengths = [0, 1, 63, 64, 128, 191, 192, 193, 4096, 5000, 65536, 65537, 300_000, 1 << 20];
    for (seed, length) in lengths.into_iter().enumerate() {
        let control = pattern(seed * 9, seed);
        let bytes = pattern(length, seed);
        let data = match seed % 3 {
            0 => Data::Caller(Arc::new(bytes.clone())),
            1 => Data::Copy(&bytes),
            _ => {
                let mut buffer = pair.nodes[0].core().reserve(NodeId(2), ClientId::USER, length).unwrap();
                transport_endpoint::SendBuffer::as_mut(&mut buffer).copy_from_slice(&bytes);
                Data::Reserved(buffer)
            }
        };
        let sent = pair.nodes[0].core().send(NodeId(2), ClientId::USER, &control, data, Tag(seed as u64));
        assert!(sent.is_ok());
        pair.until("the message is there", |pair| pair.messages(1).len() == seed + 1);
        let (from, client, got_control, got) = pair.messages(1).last().unwrap().clone();
        assert_eq!((from, client), (NodeId(1), ClientId::USER));
        assert!(got_control == control && got == bytes, "{length} bytes arrived unchanged");
    }
    let count = lengths.len();
    pair.until("all are acknowledged", |pair| pair.nodes[0].clients().completions.len() == count);
    let completions = &pair.nodes[0].clients().completions;
    assert!(
        completions
            .iter()
            .enumerate()
            .all(|(i, c)| c.tag == Tag(i as u64) && c.outcome == Outcome::Delivered)
    );
}

// proves: T1 T3 T8 T9
#[test]
fn shared_memory_carries_messages_of_every_size() {
    sends_every_size(&[&[Shm]], Spread::Single);
}

// proves: T1 T3 T8 T9
#[test]
fn tcp_carries_messages_of_every_size() {
    sends_every_size(&[&[Tcp]], Spread::Single);
}

// proves: T1 T3 T8 T9
#[test]
fn verbs_carry_messages_of_every_size() {
    sends_every_size(&[&[Verbs]], Spread::Single);
}

// proves: T5
#[test]
fn messages_striped_over_links_of_both_providers_arrive_whole() {
    sends_every_size(&[&[Shm], &[Tcp]], Spread::Stripe);
}

// proves: T5 T10
#[test]
fn order_holds_whatever_links_messages_take() {
    for spread in
        [Spread::RoundRobin, Spread::LeastInFlight, Spread::Stripe, Spread::Home, Spread::LowestLatency]
    {
        let mut pair = Pair::connected(&[&[Shm, Tcp], &[Tcp, Shm]], spread);
        let mut sent = 0u32;
        pair.until("all have arrived", |pair| {
            while sent < 2000 {
                let bytes = pattern(if sent.is_multiple_of(50) { 70_000 } else { 100 }, sent as usize);
                let core = pair.nodes[0].core();
                match core.send(
                    NodeId(2),
                    ClientId::USER,
                    &sent.to_le_bytes(),
                    Data::Copy(&bytes),
                    Tag::SILENT,
                ) {
                    Ok(()) => sent += 1,
                    Err((SendRefusal::NoCredit, _)) => break,
                    Err((refusal, _)) => panic!("{refusal:?}"),
                }
            }
            pair.messages(1).len() == 2000
        });
        for (number, (_, _, control, data)) in pair.messages(1).iter().enumerate() {
            assert_eq!(control, &(number as u32).to_le_bytes(), "{spread:?}");
            assert_eq!(data, &pattern(if number % 50 == 0 { 70_000 } else { 100 }, number));
        }
    }
}

// proves: T2 T4 T12
#[test]
fn a_client_that_keeps_its_leases_stalls_itself_and_nobody_else() {
    let mut pair = Pair::connected(&[&[Shm]], Spread::Single);
    pair.nodes[1].clients().keep = Some(ClientId::USER);
    let mut sent = 0;
    pair.until("credit is spent", |pair| {
        match pair.nodes[0].core().send(
            NodeId(2),
            ClientId::USER,
            b"kept",
            Data::Copy(&[7; 4096]),
            Tag::SILENT,
        ) {
            Ok(()) => sent += 1,
            Err((SendRefusal::NoCredit, _)) => return pair.nodes[1].clients().leases.len() == sent,
            Err((refusal, _)) => panic!("{refusal:?}"),
        }
        false
    });
    assert_eq!(sent, WINDOW, "the bound is the window");
    let held = pair.nodes[1].core().status().peers[0].leases;
    assert!(held.0 == WINDOW && held.1.is_some(), "held leases are counted and aged");

    let other = pair.nodes[0].core().send(NodeId(2), ClientId::BLOCK, b"free", Data::Empty, Tag::SILENT);
    assert!(other.is_ok());
    pair.until("the other client is served", |pair| pair.messages(1).iter().any(|m| m.1 == ClientId::BLOCK));

    let leases = std::mem::take(&mut pair.nodes[1].clients().leases);
    assert!(leases.iter().all(|lease| lease.as_ref() == [7; 4096]), "a kept lease is intact");
    std::thread::spawn(move || drop(leases)).join().unwrap();
    pair.until("the sender hears that it may go on", |pair| {
        pair.nodes[0].clients().writable.contains(&(NodeId(2), ClientId::USER))
    });
    assert!(pair.nodes[0].core().send(NodeId(2), ClientId::USER, b"on", Data::Empty, Tag::SILENT).is_ok());
}

/// Sends numbered messages while `disturb` plays with the rails; every number must arrive once and in order.
fn survives(links: &[&[ProviderKind]], spread: Spread, mut disturb: impl FnMut(&mut Pair, u32)) -> Pair {
    let mut pair = Pair::connected(links, spread);
    let mut sent = 0u32;
    const COUNT: u32 = 6000;
    pair.until("all have arrived", |pair| {
        for _ in 0..20 {
            if sent == COUNT {
                break;
            }
            let bytes = pattern(if sent.is_multiple_of(16) { 20_000 } else { 48 }, sent as usize);
            let core = pair.nodes[0].core();
            match core.send(NodeId(2), ClientId::USER, &sent.to_le_bytes(), Data::Copy(&bytes), Tag::SILENT) {
                Ok(()) => {
                    sent += 1;
                    disturb(pair, sent);
                }
                Err((SendRefusal::NoCredit, _)) => break,
                Err((refusal, _)) => panic!("{refusal:?}"),
            }
        }
        pair.messages(1).len() as u32 >= COUNT
    });
    let numbers: Vec<u32> =
        pair.messages(1).iter().map(|m| u32::from_le_bytes(m.2[..].try_into().unwrap())).collect();
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
    let intact = pair.messages(1).iter().enumerate();
    assert!(intact.into_iter().all(|(i, m)| m.3 == pattern(if i % 16 == 0 { 20_000 } else { 48 }, i)));
    pair
}

fn path(link: u8, rail: u8) -> Path {
    Path { link: LinkId(link), rail: RailId(rail) }
}

// proves: T6 T8 T10
#[test]
fn traffic_moves_from_shared_memory_to_tcp_and_back_without_loss_or_repetition() {
    let pair = survives(&[&[Shm, Tcp]], Spread::Single, |pair, sent| {
        if sent % 1000 == 500 {
            pair.nodes[sent as usize / 1000 % 2]
                .core()
                .cut_rail(NodeId(if sent / 1000 % 2 == 0 { 2 } else { 1 }), path(0, 0));
        }
    });
    drop(pair);
}

// proves: T6 T8 T10 T11
#[test]
fn traffic_moves_from_verbs_to_tcp_and_back_whatever_happens_to_the_device() {
    let network = NETWORK.with(Clone::clone);
    let mut strikes = 0;
    let mut pair = survives(&[&[Verbs, Tcp]], Spread::Single, |pair, sent| {
        let address = |(local, _): &(RailAddress, RailAddress)| match local {
            RailAddress::Verbs(address) => address.ip(),
            _ => unreachable!("rail 0 is of verbs"),
        };
        let ip = address(&pair.rails[&path(0, 0)]);
        match sent % 1000 {
            300 => {
                strikes += 1;
                match sent / 1000 % 3 {
                    0 => network.set_present(ip, false),
                    1 => network.set_port(ip, false),
                    _ => network.move_address(ip),
                }
            }
            600 => {
                network.set_present(ip, true);
                network.set_port(ip, true);
            }
            _ => {}
        }
    });
    assert_eq!(strikes, 6);
    pair.until("the rail is back", |pair| pair.rails_up() == 4);
    let counters = network.counters();
    assert_eq!((counters.receiver_not_ready, counters.access_faults, counters.overruns), (0, 0, 0));
}

// proves: T6 T10
#[test]
fn both_links_losing_rails_in_turn_lose_no_message() {
    survives(&[&[Shm, Tcp], &[Tcp, Shm]], Spread::RoundRobin, |pair, sent| {
        if sent % 300 == 0 {
            let which = sent / 300;
            pair.nodes[0].core().cut_rail(NodeId(2), path((which % 2) as u8, (which / 2 % 2) as u8));
        }
    });
}

// proves: T5 T7
#[test]
fn links_and_rails_come_and_go_under_traffic_unseen_by_clients() {
    let pair = survives(&[&[Tcp]], Spread::RoundRobin, |pair, sent| {
        if sent == 1000 {
            pair.rails.extend(support::plan(&[&[], &[Shm, Tcp]]));
            pair.configure();
        }
        if sent == 3000 {
            pair.rails.remove(&path(0, 0));
            pair.configure();
        }
    });
    drop(pair);
}

// proves: T5 T10
#[test]
fn a_removed_peer_is_gone_and_what_was_under_way_to_it_is_of_unknown_outcome() {
    let mut pair = Pair::connected(&[&[Shm, Tcp]], Spread::Single);
    let sent = pair.nodes[0].core().send(NodeId(2), ClientId::USER, b"last", Data::Empty, Tag(7));
    assert!(sent.is_ok());
    pair.nodes[0].core().remove_peer(NodeId(2));
    pair.until("it is told", |pair| {
        let ear = pair.nodes[0].clients();
        !ear.completions.is_empty() && ear.events.contains(&PeerEvent::Gone { node: NodeId(2) })
    });
    let outcomes: Vec<_> = pair.nodes[0].clients().completions.iter().map(|c| (c.tag, c.outcome)).collect();
    assert_eq!(outcomes, [(Tag(7), Outcome::Unknown)]);
    pair.until("no rail is left", |pair| pair.rails_up() == 0);
    assert!(!pair.nodes[0].core().is_reachable(NodeId(2)));
}

/// Reserves all of the peer's memory that one client may have for data of 1 MiB.
fn reserve_all(pair: &mut Pair) -> Vec<transport_endpoint::SendBuffer> {
    let core = pair.nodes[0].core();
    core::iter::from_fn(|| core.reserve(NodeId(2), ClientId::USER, 1 << 20).ok()).collect()
}

// proves: T2 T10
#[test]
fn messages_that_have_their_place_at_the_peer_do_not_starve_one_before_them_that_needs_it() {
    let mut pair = Pair::connected(&[&[Shm]], Spread::Single);
    let buffers = reserve_all(&mut pair);
    let count = buffers.len() + 1;
    assert!(count > 2, "there is room for several");
    let needs_memory = Data::Caller(Arc::new(pattern(1 << 20, 0)));
    let all = core::iter::once(needs_memory).chain(buffers.into_iter().map(Data::Reserved));
    for (number, data) in all.enumerate() {
        let control = [number as u8];
        let sent = pair.nodes[0].core().send(NodeId(2), ClientId::USER, &control, data, Tag(number as u64));
        assert!(sent.is_ok());
    }
    pair.until("all have come", |pair| pair.messages(1).len() == count);
    let order: Vec<u8> = pair.messages(1).iter().map(|(_, _, control, _)| control[0]).collect();
    assert_eq!(order, (0..count as u8).collect::<Vec<_>>());
    assert!(pair.messages(1)[0].3 == pattern(1 << 20, 0), "the first arrived unchanged");
}

// proves: T2 T10
#[test]
fn a_client_that_reserves_in_vain_after_a_message_that_waits_gets_memory_of_its_own() {
    let mut pair = Pair::connected(&[&[Shm]], Spread::Single);
    let mut buffers = reserve_all(&mut pair);
    let waits = Data::Caller(Arc::new(pattern(1 << 20, 0)));
    assert!(pair.nodes[0].core().send(NodeId(2), ClientId::USER, &[0], waits, Tag(0)).is_ok());
    // One comes back, but it is for the message that waits.
    buffers.pop();
    let mut built = pair.nodes[0].core().reserve(NodeId(2), ClientId::USER, 1 << 20).unwrap();
    built.as_mut().fill(7);
    let sent = pair.nodes[0].core().send(NodeId(2), ClientId::USER, &[1], Data::Reserved(built), Tag(1));
    assert!(sent.is_ok());
    pair.until("both have come", |pair| pair.messages(1).len() == 2);
    let (_, _, control, data) = pair.messages(1)[1].clone();
    assert!(control == [1] && data.len() == 1 << 20 && data.iter().all(|byte| *byte == 7));
    drop(buffers);
}
