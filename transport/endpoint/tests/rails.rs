//! Rails that come and go in awkward moments.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use ProviderKind::Tcp;
use std::net::TcpListener;
use std::time::{Duration, Instant};
use support::{Pair, endpoint, free_port, plan};
use transport_endpoint::{Data, ProviderKind, RailAddress, Tag, Verdict};
use transport_proto::identity::{ClientId, LinkId, NodeId, Path, RailId};
use transport_proto::rail::RailState;
use transport_proto::route::Spread;

fn path(link: u8, rail: u8) -> Path {
    Path { link: LinkId(link), rail: RailId(rail) }
}

/// A connection that was closed had its place taken by the next dial before its end was reported. The end
/// then was nobody's, and the rail waited for it for ever.
// proves: T6
#[test]
fn a_rail_that_closes_while_another_dials_comes_back() {
    let mut pair = Pair {
        nodes: [endpoint(1, 100), endpoint(2, 200)],
        rails: plan(&[&[Tcp, Tcp]]),
        spread: Spread::Home,
    };
    let (steady, absent) = (path(0, 0), path(0, 1));
    // Something else listens where node 1's second rail should: node 2 dials it again and again.
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    stranger.set_nonblocking(true).unwrap();
    let elsewhere = RailAddress::Tcp(stranger.local_addr().unwrap());
    let mut here = pair.peer_plan(1);
    for rail in &mut here.rails {
        rail.monitored = rail.path == steady;
        if rail.path == absent {
            rail.remote = elsewhere.clone();
        }
    }
    pair.nodes[1].core().set_peer(&here).unwrap();
    let mut there = pair.peer_plan(0);
    there.rails.retain(|rail| rail.path == steady);
    pair.nodes[0].core().set_peer(&there).unwrap();
    let verdicts = pair.nodes[1].verdicts();
    let say = |up| verdicts.post(Verdict { peer: NodeId(1), path: steady, up, round_trip: Duration::ZERO });
    let state = |pair: &mut Pair, path: Path| {
        let status = pair.nodes[1].core().status();
        let mut rails = status.peers[0].links.iter().flat_map(|link| &link.rails);
        rails.find(|rail| rail.path == path).unwrap().state
    };
    for _ in 0..5 {
        say(true);
        pair.until("the steady rail is up", |pair| state(pair, steady) == RailState::Up);
        pair.until("the other is hung up on", |pair| {
            while stranger.accept().is_ok() {}
            state(pair, absent) == RailState::Down
        });
        // SLEEP: the next dial falls due by time alone, and here it must meet the close in one turn.
        std::thread::sleep(Duration::from_millis(700));
        say(false);
        pair.until("the steady rail is closed", |pair| state(pair, steady) != RailState::Up);
    }
    say(true);
    pair.until("the steady rail is back", |pair| state(pair, steady) == RailState::Up);
}

/// The monitor said "up" of a rail that the endpoint had not heard of yet, nobody kept it, and the rail
/// waited for a word that would not be spoken again.
// proves: T7
#[test]
fn a_rail_that_is_added_after_the_monitor_spoke_of_it_comes_up() {
    let mut pair = Pair {
        nodes: [endpoint(1, 100), endpoint(2, 200)],
        rails: plan(&[&[Tcp, Tcp]]),
        spread: Spread::Home,
    };
    let late = path(0, 1);
    let mut plans = [0, 1].map(|of| pair.peer_plan(of));
    for (of, plan) in plans.iter_mut().enumerate() {
        plan.rails[1].monitored = true;
        let first = transport_endpoint::PeerPlan { rails: plan.rails[..1].to_vec(), ..plan.clone() };
        pair.nodes[of].core().set_peer(&first).unwrap();
    }
    pair.until("the first rail is up", |pair| pair.rails_up() == 2);
    for of in [0, 1] {
        let peer = NodeId(2 - of as u16);
        let verdict = Verdict { peer, path: late, up: true, round_trip: Duration::from_micros(30) };
        pair.nodes[of].verdicts().post(verdict);
    }
    (0..100).for_each(|_| pair.turn());
    for (of, plan) in plans.iter().enumerate() {
        pair.nodes[of].core().set_peer(plan).unwrap();
    }
    pair.until("the rail that was added is up", |pair| pair.rails_up() == 4);
}

// proves: T6 T7
#[test]
fn a_rail_whose_address_is_not_this_machines_keeps_no_other_from_its_work() {
    let mut pair = Pair {
        nodes: [endpoint(1, 100), endpoint(2, 200)],
        rails: plan(&[&[Tcp, Tcp]]),
        spread: Spread::Single,
    };
    // An address for documentation: no machine has it.
    let foreign = RailAddress::Tcp("192.0.2.1:7".parse().unwrap());
    let good = pair.rails.insert(path(0, 0), (foreign, RailAddress::Tcp(free_port()))).unwrap();
    for of in [0, 1] {
        let plan = pair.peer_plan(of);
        assert_eq!(pair.nodes[of].core().set_peer(&plan).is_err(), of == 0, "who listens there finds out");
    }
    pair.until("the other rail is up at both ends", |pair| pair.rails_up() == 2);
    let open = |pair: &mut Pair| -> Vec<bool> {
        let status = pair.nodes[0].core().status();
        let rails = status.peers[0].links.iter().flat_map(|link| &link.rails);
        rails.map(|rail| rail.open_to_calls).collect()
    };
    assert_eq!(open(&mut pair), [false, true]);

    pair.rails.insert(path(0, 0), good);
    pair.configure();
    pair.until("both are up", |pair| pair.rails_up() == 4);
    assert_eq!(open(&mut pair), [true, true]);
}

// proves: T8
#[test]
#[cfg(not(feature = "verbs"))]
fn a_verbs_rail_is_refused_by_a_build_without_verbs_with_what_to_do() {
    use std::error::Error;
    use transport_endpoint::{Endpoint, EndpointConfig, PeerPlan, RailPlan};
    use transport_proto::identity::{Incarnation, NodeId};
    let config = EndpointConfig::new(NodeId(1), Incarnation(1), support::key());
    let mut endpoint = Endpoint::new(config, support::Ear::default()).unwrap();
    let address = RailAddress::Verbs("127.0.0.1:7400".parse().unwrap());
    let path = transport_proto::identity::Path {
        link: transport_proto::identity::LinkId(0),
        rail: transport_proto::identity::RailId(0),
    };
    let rail = RailPlan { path, local: address.clone(), remote: address, monitored: false };
    let plan =
        PeerPlan { node: NodeId(2), spread: transport_proto::route::Spread::Single, rails: vec![rail] };
    let refusal = endpoint.core().set_peer(&plan).unwrap_err();
    let text = refusal.source().unwrap().to_string();
    assert!(text.contains("built without verbs: build it with `--features verbs`"), "{text}");
}

/// A client that never lets its thread sleep (news that nobody took kept a master of virtual disks awake)
/// kept it from its sockets as well: the peer's words lay there for ever.
#[test]
fn an_endpoint_that_may_not_sleep_hears_its_sockets_all_the_same() {
    let rails = plan(&[&[Tcp]]);
    let mut pair = Pair { nodes: [endpoint(1, 100), endpoint(2, 200)], rails, spread: Spread::Home };
    pair.configure();
    let started = Instant::now();
    while pair.rails_up() < 2 {
        assert!(started.elapsed() < Duration::from_secs(30), "what the sockets said was not heard");
        for node in &mut pair.nodes {
            if node.poll() == 0 {
                node.rest(|_| false, Duration::ZERO, |_, _, _| ()).unwrap();
            }
        }
    }
}

/// A loop that finds work in each round never came to look at its sockets: whoever called waited for a pause
/// in the traffic, and was given up and called again, for as long as the load lasted.
// proves: T6
#[test]
fn an_endpoint_that_is_never_idle_hears_its_callers_all_the_same() {
    let mut pair = Pair::connected(&[&[ProviderKind::Shm, Tcp]], Spread::Single);
    let gone = pair.rails.remove(&path(0, 1)).unwrap();
    pair.configure();
    pair.until("one rail is left", |pair| pair.rails_up() == 2);
    pair.rails.insert(path(0, 1), gone);
    pair.configure();
    let started = Instant::now();
    while pair.rails_up() < 4 {
        assert!(started.elapsed() < Duration::from_secs(30), "the caller was not heard");
        let [busy, other] = &mut pair.nodes;
        // Whatever the other cannot send now, it has sent before.
        let _ = other.core().send(NodeId(1), ClientId::USER, &[], Data::Copy(b"work"), Tag::SILENT);
        other.poll();
        other.sleep(Duration::ZERO, |_, _, _| ()).unwrap();
        busy.run_once(Duration::ZERO).unwrap();
        busy.clients().messages.clear();
    }
}
