//! The connectivity monitor, two of them facing each other over rails that the test cuts and mends.

use super::*;
use crate::identity::RailId;
use alloc::vec;
use proptest::prelude::*;
use zerocopy::FromBytes;

const PERIOD: Duration = Duration::from_millis(10);

fn key() -> ClusterKey {
    ClusterKey::derive("north", b"sixteen bytes or more")
}

fn path(link: u8, rail: u8) -> Path {
    Path { link: LinkId(link), rail: RailId(rail) }
}

fn monitor(node: u16, peer: u16, life: u64, now: Time, settings: Settings) -> Connectivity {
    let mut monitor = Connectivity::new(&key(), settings, NodeId(node), Incarnation(life), NodeId(peer), now);
    for rail in 0..2 {
        monitor.add_rail(now, path(0, rail));
    }
    monitor
}

/// Two nodes, two rails, a clock. Each direction of each rail can be cut.
struct Net {
    now: Time,
    nodes: [Connectivity; 2],
    /// `cut[from][rail]`.
    cut: [[bool; 2]; 2],
    delay: Duration,
    /// What each node said to its caller, sends left out.
    said: [Vec<(Time, Output)>; 2],
}

impl Net {
    fn new() -> Net {
        Net::with(Settings::default())
    }

    fn with(settings: Settings) -> Net {
        let now = Time(5_000_000_000);
        let nodes = [monitor(1, 2, 100, now, settings), monitor(2, 1, 200, now + PERIOD / 3, settings)];
        Net {
            now,
            nodes,
            cut: [[false; 2]; 2],
            delay: Duration::from_micros(50),
            said: [Vec::new(), Vec::new()],
        }
    }

    /// Runs for so many rounds; both nodes tick on time.
    fn run(&mut self, rounds: u32) {
        self.run_some(rounds, [true; 2]);
    }

    fn run_some(&mut self, rounds: u32, awake: [bool; 2]) {
        let end = self.now + PERIOD * rounds;
        loop {
            let due = (0..2).filter(|&node| awake[node]).min_by_key(|&node| self.nodes[node].next_deadline());
            let Some(node) = due.filter(|&node| self.nodes[node].next_deadline() <= end) else { break };
            self.now = self.now.max(self.nodes[node].next_deadline());
            self.tick(node, awake);
        }
        self.now = end;
    }

    fn tick(&mut self, node: usize, awake: [bool; 2]) {
        let mut out = Vec::new();
        self.nodes[node].tick(self.now, &mut out);
        for output in out {
            match output {
                Output::Send { path, datagram } => {
                    let lost = self.cut[node][usize::from(path.rail.0)];
                    if !lost && awake[1 - node] {
                        let mut heard = Vec::new();
                        let at = self.now + self.delay;
                        let taken = self.nodes[1 - node].handle_heartbeat(at, path, &datagram, &mut heard);
                        assert_eq!(taken, Ok(()));
                        self.said[1 - node].extend(heard.into_iter().map(|output| (at, output)));
                    }
                }
                told => self.said[node].push((self.now, told)),
            }
        }
    }

    fn cut_both(&mut self, rail: usize, cut: bool) {
        self.cut[0][rail] = cut;
        self.cut[1][rail] = cut;
    }

    fn state(&self, node: usize, rail: u8) -> RailState {
        let report = self.nodes[node].rails().find(|report| report.path == path(0, rail));
        report.expect("a configured rail").state
    }

    fn states(&self, rail: u8) -> [RailState; 2] {
        [self.state(0, rail), self.state(1, rail)]
    }

    fn actives(&self) -> [Option<RailId>; 2] {
        [self.nodes[0].active(LinkId(0)), self.nodes[1].active(LinkId(0))]
    }

    fn verdicts(&self, node: usize) -> Vec<(Time, Path, Verdict)> {
        let told = self.said[node].iter();
        let verdict = |(at, output): &(Time, Output)| match output {
            Output::Verdict { path, verdict } => Some((*at, *path, *verdict)),
            _ => None,
        };
        told.filter_map(verdict).collect()
    }
}

// proves: T6
#[test]
fn both_sides_hold_a_rail_for_up_after_hearing_each_other() {
    let mut net = Net::new();
    net.run(2);
    assert_eq!(net.states(0), [RailState::Probing; 2]);
    net.run(8);
    assert_eq!(net.states(0), [RailState::Up; 2]);
    assert_eq!(net.states(1), [RailState::Up; 2]);
    assert_eq!(net.actives(), [Some(RailId(0)); 2]);
    assert_eq!(net.nodes[0].peer_report().incarnation, Incarnation(200));
}

// proves: T6
#[test]
fn the_round_trip_leaves_out_the_time_between_hearing_and_answering() {
    let mut net = Net::new();
    net.run(100);
    for node in 0..2 {
        let report = net.nodes[node].rails().next().expect("a rail");
        assert_eq!(report.round_trip, Some(Duration::from_micros(100)));
    }
}

// proves: T6
#[test]
fn a_cut_rail_goes_down_on_both_sides_within_four_rounds_and_the_other_takes_over() {
    let mut net = Net::new();
    net.run(20);
    net.said = [Vec::new(), Vec::new()];
    let cut_at = net.now;
    net.cut_both(0, true);
    net.run(6);
    for node in 0..2 {
        let verdicts = net.verdicts(node);
        assert_eq!(verdicts.len(), 1);
        let (at, rail, verdict) = verdicts[0];
        assert_eq!((rail, verdict), (path(0, 0), Verdict::Down { cause: DownCause::Silent }));
        assert!(at.since(cut_at) <= PERIOD * 4, "took {:?}", at.since(cut_at));
    }
    assert_eq!(net.actives(), [Some(RailId(1)); 2]);
    assert_eq!(net.states(0), [RailState::Suspect; 2]);
    net.run(150);
    assert_eq!(net.states(0), [RailState::Down; 2]);
}

// proves: T6
#[test]
fn a_rail_that_carries_one_way_only_is_down_on_both_sides() {
    let mut net = Net::new();
    net.run(20);
    net.cut[0][0] = true;
    net.run(8);
    let [hears, deaf] = [net.state(0, 0), net.state(1, 0)];
    assert_ne!(hears, RailState::Up);
    assert_ne!(deaf, RailState::Up);
    let causes = [0, 1].map(|node| net.verdicts(node).last().expect("a verdict").2);
    assert_eq!(causes[0], Verdict::Down { cause: DownCause::PeerDoesNotHear });
    assert_eq!(causes[1], Verdict::Down { cause: DownCause::Silent });
}

#[test]
fn a_rail_that_fails_often_waits_longer_each_time_but_is_never_given_up() {
    let mut net = Net::new();
    net.run(20);
    let mut waits = Vec::new();
    for _ in 0..12 {
        net.cut_both(0, true);
        net.run(10);
        assert_ne!(net.state(0, 0), RailState::Up);
        net.cut_both(0, false);
        let mended = net.now;
        while net.states(0) != [RailState::Up; 2] {
            net.run(1);
            assert!(net.now.since(mended) < Duration::from_secs(11), "given up");
        }
        waits.push(net.now.since(mended));
    }
    assert!(waits[0] < Duration::from_millis(100), "first wait {:?}", waits[0]);
    assert!(waits[5] > waits[1] * 8, "no damping in {waits:?}");
    assert!(waits[11] <= Duration::from_secs(11), "no cap in {waits:?}");
    // After a calm time the count starts afresh.
    net.run(1100);
    net.cut_both(0, true);
    net.run(10);
    net.cut_both(0, false);
    net.run(15);
    assert_eq!(net.states(0), [RailState::Up; 2]);
}

#[test]
fn a_silence_that_this_side_slept_through_is_no_verdict() {
    let mut net = Net::new();
    net.run(20);
    net.said = [Vec::new(), Vec::new()];
    // Node 1 (index 0) does not run for 200 ms and its socket overflows: nothing that came meanwhile is left.
    let asleep = net.now + Duration::from_millis(200);
    net.now = asleep;
    net.nodes[1].planned = asleep + PERIOD / 3;
    net.tick(0, [true; 2]);
    assert_eq!(net.verdicts(0), vec![]);
    net.run(10);
    assert_eq!(net.verdicts(0), vec![]);
    assert_eq!(net.states(0), [RailState::Up; 2]);
    assert_eq!(net.nodes[0].peer_report().void_rounds, 1);
}

#[test]
fn late_ticks_one_after_the_other_never_make_a_false_down() {
    let mut net = Net::new();
    net.run(20);
    net.said = [Vec::new(), Vec::new()];
    for _ in 0..50 {
        let late = net.nodes[0].next_deadline() + PERIOD * 4;
        net.now = late;
        net.tick(0, [true; 2]);
        net.nodes[1].planned = late;
        net.tick(1, [true; 2]);
    }
    assert_eq!(net.verdicts(0), vec![]);
}

#[test]
fn a_peer_that_restarts_is_met_anew_and_its_old_life_is_refused() {
    let mut net = Net::new();
    net.run(20);
    let mut old = net.nodes[1].clone();
    net.nodes[1] = monitor(2, 1, 201, net.now, Settings::default());
    net.run(15);
    assert_eq!(net.states(0), [RailState::Up; 2]);
    let lives = net.said[0].iter().filter(|(_, output)| matches!(output, Output::PeerLife { .. })).count();
    assert_eq!(lives, 2);
    assert!(net.verdicts(0).iter().any(|v| v.2 == Verdict::Down { cause: DownCause::PeerRestarted }));

    let mut out = Vec::new();
    old.tick(net.now + PERIOD, &mut out);
    let sent = out.iter().find_map(|output| match output {
        Output::Send { path, datagram } => Some((*path, *datagram)),
        _ => None,
    });
    let (path, datagram) = sent.expect("a heartbeat");
    let taken = net.nodes[0].handle_heartbeat(net.now, path, &datagram, &mut Vec::new());
    assert_eq!(taken, Err(HeartbeatFault::StaleIncarnation));
}

#[test]
fn a_recorded_heartbeat_neither_counts_twice_nor_in_a_later_life_of_the_hearer() {
    let mut net = Net::new();
    net.run(20);
    let mut out = Vec::new();
    let now = net.nodes[1].next_deadline();
    net.nodes[1].tick(now, &mut out);
    let Some(Output::Send { path, datagram }) = out.first().cloned() else { panic!("no heartbeat") };
    assert_eq!(net.nodes[0].handle_heartbeat(now, path, &datagram, &mut Vec::new()), Ok(()));
    let again = net.nodes[0].handle_heartbeat(now, path, &datagram, &mut Vec::new());
    assert_eq!(again, Err(HeartbeatFault::Replayed));

    let mut reborn = monitor(1, 2, 101, now, Settings::default());
    assert_eq!(reborn.handle_heartbeat(now, path, &datagram, &mut Vec::new()), Ok(()));
    let report = reborn.rails().next().expect("a rail");
    assert_eq!((report.counters.heard, report.last_heard), (0, None));
}

#[test]
fn heartbeats_that_are_not_for_this_rail_or_node_are_refused() {
    let mut net = Net::new();
    let (mut out, mut sink) = (Vec::new(), Vec::new());
    let now = net.nodes[1].next_deadline();
    net.nodes[1].tick(now, &mut out);
    let Some(Output::Send { path: by, datagram }) = out.first().cloned() else { panic!("no heartbeat") };
    let mut other = monitor(3, 2, 1, now, Settings::default());
    assert_eq!(other.handle_heartbeat(now, by, &datagram, &mut sink), Err(HeartbeatFault::Misdirected));
    let wrong = Err(HeartbeatFault::WrongPath { found: by });
    assert_eq!(net.nodes[0].handle_heartbeat(now, path(0, 1), &datagram, &mut sink), wrong);
    assert_eq!(net.nodes[0].handle_heartbeat(now, path(3, 1), &datagram, &mut sink), wrong);
    let strangers_key = ClusterKey::derive("north", b"another secret altogether");
    let settings = Settings::default();
    let mut stranger = Connectivity::new(&strangers_key, settings, NodeId(1), Incarnation(1), NodeId(2), now);
    stranger.add_rail(now, by);
    assert_eq!(stranger.handle_heartbeat(now, by, &datagram, &mut sink), Err(HeartbeatFault::WrongKey));
    assert_eq!(Heartbeat::claimed_source(&datagram), Some(NodeId(2)));
    assert_eq!(Heartbeat::claimed_source(&datagram[1..]), None);
}

#[test]
fn both_sides_stay_on_one_rail_when_the_lower_one_comes_back() {
    let mut net = Net::new();
    net.run(20);
    net.cut_both(0, true);
    net.run(10);
    net.cut_both(0, false);
    net.run(100);
    assert_eq!(net.states(0), [RailState::Up; 2]);
    assert_eq!(net.actives(), [Some(RailId(1)); 2]);

    let mut returning = Net::with(Settings { sticky: false, ..Settings::default() });
    returning.run(20);
    returning.cut_both(0, true);
    returning.run(10);
    assert_eq!(returning.actives(), [Some(RailId(1)); 2]);
    returning.cut_both(0, false);
    returning.run(100);
    assert_eq!(returning.actives(), [Some(RailId(0)); 2]);
}

#[test]
fn a_rail_taken_out_goes_down_and_can_be_added_again() {
    let mut net = Net::new();
    net.run(20);
    let mut out = Vec::new();
    net.nodes[0].remove_rail(path(0, 0), &mut out);
    assert!(out.contains(&Output::Verdict {
        path: path(0, 0),
        verdict: Verdict::Down { cause: DownCause::Removed }
    }));
    assert!(out.contains(&Output::Active { link: LinkId(0), rail: Some(RailId(1)) }));
    let now = net.now;
    net.nodes[0].add_rail(now, path(0, 0));
    net.run(30);
    assert_eq!(net.states(0), [RailState::Up; 2]);
}

#[test]
fn epoch_and_disk_age_reach_the_peer() {
    let mut net = Net::new();
    net.nodes[0].announce(Epoch(12), 340);
    net.run(20);
    let report = net.nodes[1].peer_report();
    assert_eq!((report.epoch, report.disk_age_ms), (Epoch(12), 340));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), sign: bool) {
        let mut bytes = bytes;
        if sign && bytes.len() >= HEARTBEAT_BYTES {
            bytes.truncate(HEARTBEAT_BYTES);
            let mut heartbeat = Heartbeat::read_from_bytes(&bytes).expect("as long");
            heartbeat.magic = U16::new(HEARTBEAT_MAGIC);
            heartbeat.version = HEARTBEAT_VERSION;
            (heartbeat.link, heartbeat.rail) = (0, 1);
            (heartbeat.source, heartbeat.destination) = (U16::new(2), U16::new(1));
            bytes = heartbeat.seal(&key()).to_vec();
        }
        let now = Time(1_000_000_000);
        let mut monitor = monitor(1, 2, 5, now, Settings::default());
        let mut out = Vec::new();
        let taken = monitor.handle_heartbeat(now, path(0, 1), &bytes, &mut out);
        prop_assert!(sign || taken.is_err());
        monitor.tick(now, &mut out);
    }

    /// Whatever is cut in whatever order: once all is mended, both sides have both rails up and one active
    /// rail.
    #[test]
    fn after_any_cuts_the_two_sides_agree_again(
        steps in prop::collection::vec((0usize..2, 0usize..2, any::<bool>(), 1u32..30), 0..25),
    ) {
        let settings = Settings { hold_max: Duration::from_secs(1), ..Settings::default() };
        let mut net = Net::with(settings);
        for (node, rail, cut, rounds) in steps {
            net.cut[node][rail] = cut;
            net.run(rounds);
        }
        net.cut = [[false; 2]; 2];
        net.run(130);
        prop_assert_eq!(net.states(0), [RailState::Up; 2]);
        prop_assert_eq!(net.states(1), [RailState::Up; 2]);
        let [a, b] = net.actives();
        prop_assert!(a.is_some() && a == b);
    }
}
