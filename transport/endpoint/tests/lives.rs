//! Lives of nodes that end, begin, and wait to become members.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use ProviderKind::Tcp;
use support::Pair;
use transport_endpoint::{Data, PeerEvent, ProviderKind, Tag};
use transport_proto::identity::{ClientId, Epoch, Incarnation, NodeId};
use transport_proto::route::Spread;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// Node 2 says this to node 1, as soon as it may.
fn say(pair: &mut Pair, word: &[u8]) {
    let word = word.to_vec();
    pair.until("node 2 may send", |pair| {
        pair.nodes[1].core().send(ONE, ClientId::USER, &word, Data::Empty, Tag(1)).is_ok()
    });
}

/// A node was restarted before the others missed it. The view without its old life came when its new one was
/// connected already, and shut that one out too, for ever.
// proves: T7 T11
#[test]
fn a_life_that_waits_to_join_is_not_shut_out_with_the_one_before_it() {
    let mut pair = Pair::connected(&[&[Tcp]], Spread::Home);
    pair.nodes[1].core().reincarnate(Incarnation(201));
    pair.until("the new life is met", |pair| {
        pair.nodes[0].core().peer_incarnation(TWO) == Some(Incarnation(201))
    });
    pair.nodes[0].core().configure_lives(Epoch(2), &[ONE], &[(TWO, Incarnation(200))]);
    assert_eq!(pair.nodes[0].core().peer_incarnation(TWO), Some(Incarnation(201)));
    pair.nodes[0].core().configure_lives(Epoch(3), &[ONE, TWO], &[]);
    say(&mut pair, b"here");
    pair.until("it is heard", |pair| pair.messages(0).iter().any(|message| message.2 == b"here"));
}

/// The rails of a node's former life fell unseen: its clients held a peer for reachable that never came back.
// proves: T3
#[test]
fn a_node_that_takes_a_new_life_tells_its_clients_that_its_peers_are_out_of_reach() {
    let mut pair = Pair::connected(&[&[Tcp]], Spread::Home);
    pair.nodes[1].clients().events.clear();
    pair.nodes[1].core().reincarnate(Incarnation(201));
    pair.until("it is back", |pair| {
        pair.nodes[1].clients().events.contains(&PeerEvent::Reachable { node: ONE })
    });
    let events = pair.nodes[1].clients().events.clone();
    assert_eq!(events.first(), Some(&PeerEvent::Unreachable { node: ONE }), "{events:?}");
}

// proves: T11
#[test]
fn a_life_that_has_left_is_shut_out_and_its_client_is_told() {
    let mut pair = Pair::connected(&[&[Tcp]], Spread::Home);
    pair.nodes[0].core().configure_lives(Epoch(2), &[ONE], &[(TWO, Incarnation(200))]);
    pair.until("it is told", |pair| pair.nodes[0].clients().events.contains(&PeerEvent::Gone { node: TWO }));
    assert_eq!(pair.nodes[0].core().peer_incarnation(TWO), None);
}

/// A node knows of its membership before one of its peers does. What it sent that peer was dropped, and
/// everything after it waited until the rail died.
// proves: T10 T11
#[test]
fn what_a_joining_node_says_too_early_arrives_once_it_is_a_member_without_losing_a_rail() {
    let mut pair = Pair::connected(&[&[Tcp, Tcp]], Spread::Home);
    pair.nodes[0].core().configure_lives(Epoch(2), &[ONE], &[]);
    say(&mut pair, b"early");
    say(&mut pair, b"also early");
    let fenced = |pair: &mut Pair| pair.nodes[0].core().status().peers[0].counters.frames_fenced;
    pair.until("both are dropped", |pair| fenced(pair) >= 2);
    pair.nodes[0].core().configure_lives(Epoch(3), &[ONE, TWO], &[]);
    say(&mut pair, b"late");
    pair.until("all are heard", |pair| pair.messages(0).len() == 3);
    let words: Vec<Vec<u8>> = pair.messages(0).iter().map(|message| message.2.clone()).collect();
    assert_eq!(words, [&b"early"[..], b"also early", b"late"]);
    assert_eq!(pair.nodes[0].core().status().peers[0].counters.rails_lost, 0);
}
