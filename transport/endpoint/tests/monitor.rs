//! The connectivity monitor's threads over real UDP sockets on the loopback device.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport_endpoint::{MonitorRefusal, MonitorThread, VerdictBoard, WatchedRail};
use transport_proto::cluster_key::ClusterKey;
use transport_proto::connectivity::{RailState, Settings};
use transport_proto::identity::{Epoch, Incarnation, LinkId, NodeId, Path, RailId};

const LIVES: [Incarnation; 2] = [Incarnation(11), Incarnation(22)];

fn key() -> ClusterKey {
    ClusterKey::derive("north", b"sixteen bytes or more")
}

/// Slow enough that a busy machine is not taken for a broken one.
fn settings() -> Settings {
    Settings {
        period: Duration::from_millis(20),
        hold_first: Duration::from_millis(40),
        ..Settings::default()
    }
}

fn path(rail: u8) -> Path {
    Path { link: LinkId(rail / 4), rail: RailId(rail % 4) }
}

fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let sockets: Vec<UdpSocket> =
        (0..count).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a free port")).collect();
    sockets.iter().map(|socket| socket.local_addr().expect("bound")).collect()
}

/// Two nodes with so many rails between them.
fn pair(rails: u8) -> [MonitorThread; 2] {
    pair_by(settings(), rails)
}

fn pair_by(settings: Settings, rails: u8) -> [MonitorThread; 2] {
    let addresses = free_addresses(2 * usize::from(rails));
    [0, 1].map(|side| {
        let watched: Vec<WatchedRail> = (0..rails)
            .map(|rail| WatchedRail {
                peer: NodeId(2 - side as u16),
                path: path(rail),
                local: addresses[2 * usize::from(rail) + side],
                remote: addresses[2 * usize::from(rail) + 1 - side],
            })
            .collect();
        let node = (NodeId(1 + side as u16), LIVES[side]);
        MonitorThread::start(&key(), settings, node, &watched, Arc::<VerdictBoard>::default())
            .expect("a monitor on free ports")
    })
}

fn state(monitor: &MonitorThread, rail: u8) -> Option<RailState> {
    let reports = monitor.reports();
    reports.first()?.rails.iter().find(|report| report.path == path(rail)).map(|report| report.state)
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn all_up(pair: &[MonitorThread; 2], rails: u8) -> bool {
    pair.iter().all(|monitor| (0..rails).all(|rail| state(monitor, rail) == Some(RailState::Up)))
}

// proves: T6
#[test]
fn both_ends_see_every_rail_come_up_and_measure_it() {
    let pair = pair(6);
    wait_for("all rails are up", || all_up(&pair, 6));
    let report = &pair[0].reports()[0];
    assert_eq!(report.summary.incarnation, LIVES[1]);
    assert!(
        report.rails.iter().all(|rail| rail.round_trip.is_some_and(|span| span < Duration::from_secs(1)))
    );
}

// proves: T6 F2
#[test]
fn a_muted_rail_goes_down_at_both_ends_alone_and_comes_back() {
    let pair = pair(2);
    wait_for("all rails are up", || all_up(&pair, 2));
    let failed = |rail: usize| {
        let count = |monitor: &MonitorThread| monitor.reports()[0].rails[rail].counters.failed;
        pair.iter().map(count).sum::<u64>()
    };
    let before = failed(1);
    assert!(pair[0].mute(path(0), true));
    wait_for("rail 0 is down at both ends", || {
        pair.iter().all(|monitor| state(monitor, 0).is_some_and(|state| state != RailState::Up))
    });
    assert_eq!(failed(1), before, "the other rail went down too");
    assert!(pair[0].mute(path(0), false));
    wait_for("all rails are up again", || all_up(&pair, 2));
    assert!(!pair[0].mute(path(3), true), "a rail that does not exist was muted");
}

// proves: T7
#[test]
fn settings_change_while_it_watches() {
    // Nothing is ever missed, until the settings say so.
    let pair = pair_by(Settings { missed_down: u32::MAX, ..settings() }, 1);
    wait_for("the rail is up", || all_up(&pair, 1));
    assert!(pair[0].mute(path(0), true));
    pair.iter().for_each(|monitor| monitor.set_settings(settings()));
    wait_for("the rail is down at both ends", || {
        pair.iter().all(|monitor| state(monitor, 0).is_some_and(|state| state != RailState::Up))
    });
}

#[test]
fn what_a_node_announces_reaches_its_peer_and_a_new_life_is_met() {
    let pair = pair(1);
    pair[0].announce(Epoch(7), 120);
    wait_for("the peer knows", || {
        pair[1]
            .reports()
            .first()
            .is_some_and(|report| (report.summary.epoch, report.summary.disk_age_ms) == (Epoch(7), 120))
    });
    assert_eq!((pair[1].heard_epoch(), pair[0].heard_epoch()), (Epoch(7), Epoch(0)));
    pair[0].reincarnate(Incarnation(99));
    wait_for("the new life is up", || {
        all_up(&pair, 1) && pair[1].reports()[0].summary.incarnation == Incarnation(99)
    });
}

#[test]
fn garbage_and_foreign_heartbeats_leave_a_rail_up() {
    let addresses = free_addresses(2);
    let monitor = |side: usize| {
        let rail = WatchedRail {
            peer: NodeId(2 - side as u16),
            path: path(0),
            local: addresses[side],
            remote: addresses[1 - side],
        };
        let node = (NodeId(1 + side as u16), LIVES[side]);
        MonitorThread::start(&key(), settings(), node, &[rail], Arc::<VerdictBoard>::default())
            .expect("a monitor on free ports")
    };
    let pair = [monitor(0), monitor(1)];
    wait_for("the rail is up", || all_up(&pair, 1));
    let heard = || pair[0].reports()[0].rails[0].counters.heard;
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    for length in [0, 1, 87, 88, 89, 1400] {
        stranger.send_to(&vec![0x5a; length], addresses[0]).expect("sent");
    }
    let before = heard();
    wait_for("heartbeats go on", || heard() > before + 5);
    assert_eq!(pair[0].reports()[0].rails[0].counters.failed, 0);
}

// proves: T6
#[test]
fn an_address_that_is_not_this_machines_leaves_the_other_rails_watched() {
    let addresses = free_addresses(2);
    let monitor = |side: usize, extra: Option<SocketAddr>| {
        let peer = NodeId(2 - side as u16);
        let (local, remote) = (addresses[side], addresses[1 - side]);
        let mut rails = vec![WatchedRail { peer, path: path(1), local, remote }];
        rails.extend(extra.map(|local| WatchedRail { peer, path: path(0), local, remote: local }));
        rails.reverse();
        let node = (NodeId(1 + side as u16), LIVES[side]);
        MonitorThread::start(&key(), settings(), node, &rails, Arc::<VerdictBoard>::default())
            .expect("one rail is well")
    };
    // An address for documentation: no machine has it.
    let pair = [monitor(0, Some(SocketAddr::from(([192, 0, 2, 1], 7)))), monitor(1, None)];
    wait_for("the good rail is up", || pair.iter().all(|monitor| state(monitor, 1) == Some(RailState::Up)));
}

#[test]
fn an_address_in_use_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let local = taken.local_addr().expect("bound");
    let rail = WatchedRail { peer: NodeId(2), path: path(0), local, remote: local };
    let board = Arc::<VerdictBoard>::default();
    let refusal = MonitorThread::start(&key(), settings(), (NodeId(1), LIVES[0]), &[rail], board);
    let refusal = refusal.err().expect("the address is taken");
    assert!(matches!(refusal, MonitorRefusal::Bind { .. }));
    assert!(refusal.to_string().contains(&local.to_string()), "{refusal}");
}

// proves: D6
#[test]
fn what_is_no_heartbeat_reaches_its_owner_if_it_is_believed_and_the_rail_is_not_cut() {
    let local = free_addresses(1)[0];
    let rail = WatchedRail { peer: NodeId(2), path: path(0), local, remote: local };
    let board = Arc::<VerdictBoard>::default();
    board.watch_notices(Box::new(|bytes| bytes.ends_with(b"good")));
    let monitor = MonitorThread::start(&key(), settings(), (NodeId(1), LIVES[0]), &[rail], board.clone())
        .expect("a monitor on a free port");
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let say = |words: &[u8]| stranger.send_to(words, local).expect("sent");
    say(b"nd, forged");
    wait_for("the forged one is refused", || board.notices_refused() == 1);
    say(b"nd, good");
    wait_for("the good one is there", || board.take_notice().is_some_and(|words| words == b"nd, good"));
    monitor.mute(path(0), true);
    wait_for("the cut is in force", || {
        say(b"nd, forged while it is not");
        let before = board.notices_refused();
        std::thread::park_timeout(Duration::from_millis(20));
        board.notices_refused() == before
    });
    monitor.mute(path(0), false);
    wait_for("the cut is mended", || {
        say(b"nd, mended and good");
        board.take_notice().is_some_and(|words| words == b"nd, mended and good")
    });
    assert!(monitor.is_alive());
}

// proves: T7
#[test]
fn rails_are_added_and_taken_away_while_the_others_stay_up() {
    let addresses = free_addresses(4);
    let board: [Arc<VerdictBoard>; 2] = Default::default();
    let rails = |side: usize, rails: &[u8]| -> Vec<WatchedRail> {
        let rail = |rail: &u8| WatchedRail {
            peer: NodeId(2 - side as u16),
            path: path(*rail),
            local: addresses[2 * usize::from(*rail) + side],
            remote: addresses[2 * usize::from(*rail) + 1 - side],
        };
        rails.iter().map(rail).collect()
    };
    let pair = [0, 1].map(|side| {
        let node = (NodeId(1 + side as u16), LIVES[side]);
        MonitorThread::start(&key(), settings(), node, &rails(side, &[0]), board[side].clone())
            .expect("a monitor on free ports")
    });
    wait_for("the first rail is up", || all_up(&pair, 1));
    let failed = || pair.iter().map(|monitor| monitor.reports()[0].rails[0].counters.failed).sum::<u64>();
    let before = failed();
    for _ in 0..2 {
        (0..2).for_each(|side| pair[side].set_rails(&rails(side, &[0, 1])));
        wait_for("the second is up too", || all_up(&pair, 2));
        (0..2).for_each(|side| pair[side].set_rails(&rails(side, &[0])));
        wait_for("it is watched no more", || pair.iter().all(|monitor| state(monitor, 1).is_none()));
        assert!(UdpSocket::bind(addresses[2]).is_ok(), "its address is free again");
    }
    assert_eq!(failed(), before, "the rail that stayed was disturbed");
    pair[0].set_rails(&[]);
    wait_for("the peer is forgotten", || pair[0].reports().is_empty());
}
