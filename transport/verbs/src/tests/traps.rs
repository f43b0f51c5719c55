//! The traps of verbs, each by name.

use super::{Ends, LEFT, OPTIONS, RIGHT};
use crate::VerbsProvider;
use crate::fabric::double::{DoubleNetwork, Weather};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use transport_buf::Slab;
use transport_provider::conformance::{Side, pattern, rail};
use transport_provider::{DialRefusal, ListenRefusal, Payload, Provider, RailFault};

fn ends(weather: Weather) -> Ends {
    Ends::new(&DoubleNetwork::new(5, weather))
}

fn says_all(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

// proves: T8
#[test]
fn a_cut_path_is_lost_as_broken_once_every_request_came_back() {
    let mut ends = ends(Weather::ROUGH);
    let link = ends.establish();
    for number in 1..=20 {
        ends.left.post_pattern(link.left, number, 4000).unwrap();
    }
    ends.network.set_cut(LEFT, RIGHT, true);
    assert_eq!(ends.lost(link).0, RailFault::Broken);
    let statistics = *ends.left.provider.statistics();
    assert_eq!((statistics.retries_exceeded, statistics.drains_cut_short), (1, 0));
    ends.network.set_cut(LEFT, RIGHT, false);
    let link = ends.establish();
    ends.left.post_pattern(link.left, 1, 4000).unwrap();
    ends.until("a frame arrives", |ends| !ends.right.heard.frames.is_empty());
}

// proves: T6
#[test]
fn a_port_that_goes_down_ends_its_idle_connections_at_once() {
    let mut ends = ends(Weather::FAIR);
    let link = ends.establish();
    ends.network.set_port(LEFT, false);
    assert_eq!(ends.lost(link), (RailFault::Broken, RailFault::PeerClosed));
    let (local, address) = (SocketAddr::new(LEFT, 0), ends.address);
    let now = ends.left.now();
    let refused = ends.left.provider.dial(now, rail(0), &local, &address);
    let Err(DialRefusal::Os(error)) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("is down: check its cable"), "{error}");
    ends.network.set_port(LEFT, true);
    ends.establish();
}

// proves: T6
#[test]
fn an_address_is_looked_up_at_each_connect_and_one_that_moves_ends_its_connections() {
    let mut ends = ends(Weather::FAIR);
    for _ in 0..3 {
        let link = ends.establish();
        ends.network.move_address(RIGHT);
        assert_eq!(ends.lost(link), (RailFault::PeerClosed, RailFault::Broken));
    }
    ends.check();
}

// proves: T6
#[test]
fn a_device_that_vanishes_in_use_is_closed_and_opened_again_when_it_returns() {
    let mut ends = ends(Weather::FAIR);
    for round in 1..=3 {
        let link = ends.establish();
        ends.left.post_pattern(link.left, round, 50_000).unwrap();
        ends.until("a frame arrives", |ends| !ends.right.heard.frames.is_empty());
        ends.network.set_present(RIGHT, false);
        assert_eq!(ends.lost(link).1, RailFault::Broken);
        let held = ends.right.heard.frames.pop_front().unwrap();
        assert!(held.bytes() == pattern(round, 50_000), "held memory outlives its device");
        ends.network.set_present(RIGHT, true);
    }
    ends.establish();
    assert_eq!(ends.right.provider.statistics().devices_gone, 3);
    ends.check();
}

// proves: T6
#[test]
fn a_device_that_is_missing_is_told_with_what_to_do_and_used_when_it_comes() {
    let mut ends = ends(Weather::FAIR);
    ends.network.set_present(LEFT, false);
    let (local, address) = (SocketAddr::new(LEFT, 0), ends.address);
    let now = ends.left.now();
    let refused = ends.left.provider.dial(now, rail(0), &local, &address);
    let Err(DialRefusal::Os(error)) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("no RDMA device has rail address 127.0.0.2"), "{error}");
    ends.network.set_present(LEFT, true);
    ends.establish();
}

// proves: T8
#[test]
fn a_memory_limit_that_is_too_small_is_told_with_what_to_do() {
    let network = DoubleNetwork::new(1, Weather::FAIR);
    network.limit_memory(Some(2 << 20));
    let mut side = Side::new(VerbsProvider::new(network.fabric(), OPTIONS).unwrap());
    let address = SocketAddr::new(RIGHT, 0);
    let refused = side.provider.listen(rail(0), &address);
    let Err(refusal @ ListenRefusal::Os { .. }) = refused else { panic!("{refused:?}") };
    let text = says_all(&refusal);
    assert!(text.contains("may lock only 2048 KiB: raise the limit (`ulimit -l unlimited`"), "{text}");
}

// proves: T8
#[test]
fn an_end_at_any_moment_of_the_setup_is_clean() {
    let mut ends = ends(Weather::ROUGH);
    for turns in 0..120 {
        let link = ends.connect();
        ends.left.establish(link.left);
        ends.right.establish(link.right);
        for _ in 0..turns {
            ends.turn();
        }
        if turns % 2 == 0 {
            ends.left.provider.close(link.left);
        } else {
            ends.right.provider.close(link.right);
        }
        ends.lost(link);
        ends.left.heard.established.clear();
        ends.right.heard.established.clear();
    }
    ends.establish();
    ends.check();
}

// proves: T9
#[test]
fn registered_memory_goes_out_without_a_copy() {
    let mut ends = ends(Weather::ROUGH);
    let mut own = Slab::create(OPTIONS.reserve).unwrap();
    ends.left.provider.register(own.region());
    let link = ends.establish();
    let mut chunk = own.allocate(300_000).unwrap();
    chunk.as_mut().copy_from_slice(&pattern(1, 300_000));
    let payload = Payload::Shared(chunk.share());
    ends.left.post(link.left, 1, b"control", &[], payload.whole()).unwrap();
    drop(payload);
    ends.until("a frame arrives", |ends| !ends.right.heard.frames.is_empty());
    assert!(ends.right.heard.frames[0].bytes() == pattern(1, 300_000));
    let statistics = ends.left.provider.statistics();
    assert_eq!((statistics.bytes_without_copy, statistics.bytes_copied), (300_000, 0));
    // Its memory comes back although nothing else is sent.
    ends.until("the chunk comes back", |_| own.in_use() == 0);
    ends.left.post_pattern(link.left, 2, 100_000).unwrap();
    assert_eq!(ends.left.provider.statistics().bytes_copied, 100_000);
}

// proves: T8
#[test]
fn a_burst_rings_one_doorbell() {
    let mut ends = ends(Weather::FAIR);
    let link = ends.establish();
    let before = *ends.left.provider.statistics();
    for number in 1..=50 {
        ends.left.post_pattern(link.left, number, if number % 5 == 0 { 3000 } else { 30 }).unwrap();
    }
    ends.left.provider.flush();
    let after = *ends.left.provider.statistics();
    assert_eq!((after.doorbells - before.doorbells, after.sends - before.sends), (1, 50));
}

// proves: T8
#[test]
fn a_peer_that_grants_what_cannot_be_is_dropped() {
    use std::io::Write;
    let mut ends = ends(Weather::FAIR);
    for record in [&b"ndQ1"[..], b"ndQ2", b"ndR1"] {
        let mut stranger = TcpStream::connect(ends.address).unwrap();
        stranger.write_all(record).unwrap();
        stranger.write_all(&[0xff; 200]).unwrap();
        ends.until("the stranger is lost", |ends| !ends.right.heard.lost.is_empty());
        assert_eq!(ends.right.heard.lost.pop_front().unwrap().1, RailFault::Protocol);
    }
    ends.right.heard.accepted.clear();
    ends.establish();
}

// proves: T8
#[test]
fn a_rail_address_finds_the_device_that_has_it_and_no_other() {
    let network = DoubleNetwork::new(3, Weather::FAIR);
    let mut ends = Ends::new(&network);
    network.set_present(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)), false);
    let link = ends.establish();
    network.set_port(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)), false);
    ends.left.post_pattern(link.left, 1, 10).unwrap();
    ends.until("a frame arrives", |ends| !ends.right.heard.frames.is_empty());
}
