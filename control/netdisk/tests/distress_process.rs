//! A node says that it fails, and the others take over without waiting until its silence is long enough: the
//! suspect time here is longer than any test, so whatever goes on does so by the signal alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use control_node::config::Config;
use control_node::{Node, NodeOptions};
use control_proto::distress::{Level, Reason, SIGNAL_BYTES, Signal, Speaker};
use control_proto::view::Member;
use fixtures_lab::{Cluster, ClusterPlan, KEY, Load, Signal as Kill, until};
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;
use std::net::UdpSocket;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{Epoch, Incarnation, NodeId};

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a disk, with the NBD server.
const FAR: u16 = 3;
const WORKERS: u64 = 4;
const BLOCKS: Range<u64> = 0..2048;

/// Nobody is missed by silence.
fn patient(nodes: u16) -> ClusterPlan {
    ClusterPlan { nodes, suspect_ms: 60_000, lease_ms: 120_000, ..ClusterPlan::default() }
}

fn cluster() -> Cluster {
    Cluster::start(NETDISK, patient(3))
}

/// Node 1 fails under load, in some way; node 2 goes on for it, and node 1 stays out until it is cleared.
#[track_caller]
fn is_taken_over(cluster: &mut Cluster, blocks: Range<u64>, fail: impl FnOnce(&mut Cluster), reason: &str) {
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, blocks);
    load.goes_on(500);
    fail(cluster);
    load.goes_on(500);
    let status = cluster.until_status(FAR, "node 1 is out", |status| !status.members.contains(&1));
    assert_eq!(status.virtual_disks[0].serving, Some(2));
    let said = &status.peers.iter().find(|peer| peer.node == 1).unwrap().distress;
    assert!(cluster.log(FAR).contains(reason), "{said}\n{}", cluster.log(FAR));
    stays_out(cluster, reason);
    load.goes_on(500);
    load.finish().verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
}

/// Node 1, which has ended, does not start before it is cleared, and joins afterwards.
#[track_caller]
fn stays_out(cluster: &mut Cluster, reason: &str) {
    let refusal = cluster.refused_start(1);
    assert!(refusal.contains(reason) && refusal.contains("netdisk node clear --state"), "{refusal}");
    assert!(cluster.refused_start(1).contains(reason), "asked again, it says the same");
    let folder = cluster.state_folder(1).display().to_string();
    let cleared = cluster.netdisk(&["node", "clear", "--state", &folder]).expect_success().out;
    assert!(cleared.contains(reason), "{cleared}");
    let again = cluster.netdisk(&["node", "clear", "--state", &folder]).expect_success().out;
    assert!(again.contains("nothing to clear"), "{again}");
    cluster.start_node(1);
    assert_eq!(cluster.until_whole(), 1);
}

// proves: D2 D3 D4 D5
#[test]
fn a_fatal_signal_moves_the_duties_without_waiting_for_silence() {
    let cases = [
        (Kill::SEGV, "SIGSEGV", 0..999),
        (Kill::ABORT, "SIGABRT", 999..2000),
        (Kill::BUS, "SIGBUS", 2000..3000),
    ];
    let mut cluster = cluster();
    for (signal, name, blocks) in cases {
        let end = |cluster: &mut Cluster| {
            cluster.node(1).signal(signal);
            let status = cluster.end_of_node(1);
            assert_eq!(status.signal(), Some(signal.as_raw()), "{status}");
        };
        is_taken_over(&mut cluster, blocks, end, name);
    }
}

// proves: D2 D3 D4 D5
#[test]
fn a_panic_of_any_thread_is_told_and_ends_the_node() {
    // Not patient: a node that finds itself removed would join again soon.
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    cluster.stop_node(1);
    cluster.start_node_by(1, child_command(&cluster));
    cluster.until_whole();
    let joins = |cluster: &Cluster| cluster.log(FAR).matches("joined anew").count();
    let panics = |cluster: &mut Cluster| {
        let before = joins(cluster);
        cluster.node(1).signal(Kill::USR1);
        let status = cluster.end_of_node(1);
        assert_eq!(status.signal(), Some(Kill::ABORT.as_raw()), "{status}");
        assert!(cluster.log(1).contains("the test asked for it"), "the message is printed too");
        assert_eq!(joins(cluster), before, "it joined again after its last word");
    };
    is_taken_over(&mut cluster, BLOCKS, panics, "panic");
}

// proves: D2 D3 D4
#[test]
fn a_planned_stop_hands_over_at_once_and_needs_no_clearing() {
    let mut cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    for _ in 0..2 {
        load.goes_on(500);
        cluster.stop_node(1);
        load.goes_on(500);
        assert!(cluster.log(FAR).contains("planned stop"), "{}", cluster.log(FAR));
        cluster.start_node(1);
        assert_eq!(cluster.until_whole(), 1);
    }
    load.finish().verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
}

// proves: D4
#[test]
fn a_node_that_is_killed_after_it_announced_its_end_is_missed_at_once() {
    // Not before its lease is over, for it has not said that it has fenced itself; but without suspicion.
    let plan = ClusterPlan { suspect_ms: 2_000, lease_ms: 2_500, ..ClusterPlan::default() };
    let mut cluster = Cluster::start(NETDISK, plan);
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(500);
    // What its thread would say while the reactor hangs in an orderly stop.
    let status = cluster.status(1).unwrap();
    let now = (status.incarnation, status.epoch);
    play(&cluster, &signal(&cluster, KEY.as_bytes(), now, Level::Dying, Reason::PlannedStop));
    for node in [2, 3] {
        cluster.until_status(node, "has heard it", |status| {
            status.peers.iter().any(|peer| peer.distress == "about to end: planned stop")
        });
    }
    load.goes_on(500);
    assert_eq!(cluster.status(FAR).unwrap().members, [1, 2, 3], "it serves until it is fenced");
    cluster.kill_node(1);
    load.goes_on(500);
    load.finish().verify(&socket);
}

// proves: D3 D4 D5
#[test]
fn a_power_failure_drains_the_node_and_moves_its_duties() {
    let mut cluster = cluster();
    let fails = |cluster: &mut Cluster| {
        let socket = cluster.admin_socket(1).display().to_string();
        cluster.netdisk(&["node", "power-fail", "--socket", &socket]).expect_success();
        let status = cluster.end_of_node(1);
        assert_eq!(status.code(), Some(1), "{status}");
        // The second time fenced; by then the others may have put it out already, and listen to it no more.
        assert_eq!(cluster.log(1).matches("told the others reason=").count(), 2, "{}", cluster.log(1));
    };
    is_taken_over(&mut cluster, BLOCKS, fails, "power failure");
}

// --- forged and replayed ---

fn signal(
    cluster: &Cluster,
    key: &[u8],
    (life, epoch): (u64, u64),
    level: Level,
    reason: Reason,
) -> [u8; SIGNAL_BYTES] {
    let name = cluster.status(FAR).unwrap().cluster;
    let member = Member { node: NodeId(1), incarnation: Incarnation(life) };
    let speaker = Speaker { member, epoch: Epoch(epoch), sequence: 1 };
    Signal::form(&ClusterKey::derive(&name, key), speaker, level, reason)
}

/// Says it to nodes 2 and 3 on their first rail, as anybody in the network can.
fn play(cluster: &Cluster, bytes: &[u8]) {
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    for node in [2, 3] {
        for (link, rail) in [(0, 0), (0, 1)] {
            stranger.send_to(bytes, ("127.0.0.1", cluster.rail_port(node, link, rail) + 1)).unwrap();
        }
    }
}

// proves: D6
#[test]
fn a_forged_or_replayed_signal_has_no_effect_on_running_nodes() {
    let mut cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    let status = cluster.status(1).unwrap();
    let now = (status.incarnation, status.epoch);
    let genuine = signal(&cluster, KEY.as_bytes(), now, Level::Fenced, Reason::Panic);
    play(&cluster, &signal(&cluster, b"a guess of the cluster's secret", now, Level::Fenced, Reason::Panic));
    for bit in [20, 60, 100, 8 * SIGNAL_BYTES - 1] {
        let mut flipped = genuine;
        flipped[bit / 8] ^= 1 << (bit % 8);
        play(&cluster, &flipped);
    }
    play(&cluster, &genuine[..SIGNAL_BYTES - 1]);
    // Counted: so they were looked at. 6 of them on 2 rails.
    for node in [2, 3] {
        cluster.until_status(node, "has refused them", |status| status.distress_refused == 12);
    }
    // A new life of node 1, and a recording of the one before.
    cluster.kill_node(1);
    play(&cluster, &genuine);
    cluster.until_status(FAR, "it is out", |status| status.members == [2, 3]);
    load.goes_on(500);
    cluster.start_node(1);
    assert_eq!(cluster.until_whole(), 1);
    let before = cluster.status(FAR).unwrap();
    play(&cluster, &genuine);
    let ahead = signal(&cluster, KEY.as_bytes(), (now.0, before.epoch + 9), Level::Fenced, Reason::Panic);
    play(&cluster, &ahead);
    until("the recording was looked at", || cluster.log(FAR).contains("that is no member").then_some(()));
    load.goes_on(500);
    let after = cluster.status(FAR).unwrap();
    assert_eq!((after.epoch, after.members), (before.epoch, vec![1, 2, 3]));
    load.finish().verify(&socket);
}

// --- a node inside this binary, told to panic ---

const CHILD: &str = "NETDISK_DISTRESS_CHILD";
/// From the word of a panic to the end of the process; time enough to join again.
const SLOW_PRINT: Duration = Duration::from_secs(2);

/// This test binary as node 1.
fn child_command(cluster: &Cluster) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_node_that_panics_when_it_is_told", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, cluster.node_words(1).join(" "));
    command
}

#[test]
fn the_node_that_panics_when_it_is_told() {
    let Ok(words) = std::env::var(CHILD) else { return };
    let words: Vec<&str> = words.split(' ').collect();
    let word = |name: &str| words[words.iter().position(|word| *word == name).unwrap() + 1];
    let config = Config::load(word("--config").as_ref()).unwrap();
    let mut options = NodeOptions::new(config, 1, word("--state").into());
    options.socket = Some(word("--socket").into());
    let mut signals = Signals::new([SIGUSR1]).unwrap();
    let node = Node::start(options).unwrap();
    // A backtrace of a large program on a busy machine: the node must not do anything of its own meanwhile.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |what| {
        print(what);
        // SLEEP: stands for the time that printing takes; what must not happen in it has no event.
        std::thread::sleep(SLOW_PRINT);
    }));
    node.speak_for_process().unwrap();
    std::thread::spawn(move || {
        signals.forever().next();
        panic!("the test asked for it");
    });
    node.run().unwrap();
}
