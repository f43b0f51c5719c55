//! A client that keeps what it gets: the memory that it holds is its own share, and whoever shares rails
//! with it notices nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use ProviderKind::{Shm, Tcp};
use support::Pair;
use transport_endpoint::{Data, ProviderKind, Tag};
use transport_proto::identity::{ClientId, NodeId};
use transport_proto::route::Spread;
use transport_proto::window::WINDOW;

/// The client that gives nothing back.
const SLOW: ClientId = ClientId::USER;
/// The one that shares its rails.
const QUICK: ClientId = ClientId::BLOCK;
const QUICK_MESSAGES: usize = 300;

/// A message whose bytes tell which it is.
fn message(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 64 + number * 31) as u8).collect()
}

/// Sends the next message of a client if there is credit.
fn send(pair: &mut Pair, client: ClientId, number: usize, length: usize) -> bool {
    let bytes = message(number, length);
    let core = pair.nodes[0].core();
    core.send(NodeId(2), client, &(number as u32).to_le_bytes(), Data::Copy(&bytes), Tag::SILENT).is_ok()
}

fn count(pair: &mut Pair, of: ClientId) -> usize {
    pair.messages(1).iter().filter(|(_, client, ..)| *client == of).count()
}

/// Numbers of the client's messages, in the order of their delivery; each must be whole.
fn heard(pair: &mut Pair, of: ClientId, length: impl Fn(usize) -> usize) -> Vec<usize> {
    let messages = pair.messages(1).iter().filter(|(_, client, ..)| *client == of);
    messages
        .map(|(_, _, control, data)| {
            let number = u32::from_le_bytes(control.as_slice().try_into().unwrap()) as usize;
            assert!(*data == message(number, length(number)), "message {number} of {of:?} is spoilt");
            number
        })
        .collect()
}

/// A course in which one client keeps what it gets.
struct Course<'a> {
    /// A link of one rail each.
    rails: &'a [ProviderKind],
    spread: Spread,
    /// Messages of the slow client.
    messages: usize,
    /// Bytes of a message by its number.
    length: fn(usize) -> usize,
}

fn one_client_keeps_everything(course: &Course<'_>) {
    let Course { rails, spread, messages, length } = *course;
    let links: Vec<&[ProviderKind]> = rails.iter().map(core::slice::from_ref).collect();
    let mut pair = Pair::connected(&links, spread);
    pair.nodes[1].clients().keep = Some(SLOW);
    let (mut slow, mut quick) = (0, 0);
    pair.until("the quick client has heard all of its messages", |pair| {
        while slow < messages && send(pair, SLOW, slow, length(slow)) {
            slow += 1;
        }
        // The slow one is to have used up its memory first.
        if slow == messages && quick < QUICK_MESSAGES {
            quick += usize::from(send(pair, QUICK, quick, 64 << 10));
        }
        count(pair, QUICK) == QUICK_MESSAGES
    });
    assert_eq!(heard(&mut pair, QUICK, |_| 64 << 10), (0..QUICK_MESSAGES).collect::<Vec<_>>());
    assert!(count(&mut pair, SLOW) < messages, "all fitted: the slow client was not slow enough");

    pair.until("the slow client has heard all of its own too", |pair| {
        pair.nodes[1].clients().leases.clear();
        count(pair, SLOW) >= messages
    });
    assert_eq!(heard(&mut pair, SLOW, length), (0..messages).collect::<Vec<_>>(), "each once, in order");
}

// proves: T2 T4 T10
#[test]
fn a_client_that_keeps_its_leases_does_not_keep_another_waiting_on_tcp() {
    let course = Course { rails: &[Tcp], spread: Spread::Single, messages: WINDOW, length: |_| 64 << 10 };
    one_client_keeps_everything(&course);
}

// proves: T2 T4 T10
#[test]
fn a_client_that_keeps_its_leases_does_not_keep_another_waiting_on_shared_memory() {
    let course = Course { rails: &[Shm], spread: Spread::Single, messages: WINDOW, length: |_| 64 << 10 };
    one_client_keeps_everything(&course);
}

// proves: T2 T4 T10
#[test]
fn what_was_dropped_comes_again_though_small_messages_wait_behind_it() {
    let length = |number: usize| if number.is_multiple_of(2) { 64 << 10 } else { 64 };
    one_client_keeps_everything(&Course { rails: &[Tcp], spread: Spread::Single, messages: WINDOW, length });
}

// proves: T2 T4 T10
#[test]
fn what_was_dropped_comes_again_in_order_when_rails_overtake_each_other() {
    let (rails, spread) = ([Tcp, Tcp], Spread::RoundRobin);
    one_client_keeps_everything(&Course { rails: &rails, spread, messages: WINDOW, length: |_| 128 << 10 });
}
