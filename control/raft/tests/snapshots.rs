//! The log stays short, and a node that lacks what is gone gets a snapshot.

mod cluster;

use cluster::Cluster;
use control_raft::{Compaction, Outcome};

const LARGE: usize = 20 << 10;

fn short_log(options: &mut control_raft::RaftOptions) {
    options.compaction = Compaction { entries: 50, keep_entries: 10, ..Compaction::default() };
}

fn large(number: u8) -> Vec<u8> {
    vec![number; LARGE]
}

// proves: C1
#[test]
fn a_node_that_was_away_catches_up_by_a_snapshot_in_bounded_pieces() {
    let mut cluster = Cluster::adjusted(&[1, 2, 3], short_log);
    let away = cluster.followers()[0];
    cluster.stop(away);
    let leader = cluster.leader();
    for number in 0..120 {
        cluster.write(leader, &large(number));
    }
    cluster.until(|cluster| (cluster.state(leader).snapshot >= 99).then_some(()));
    cluster.largest_data = 0;
    cluster.start(away);
    cluster.await_commands(away, 120);
    assert!(cluster.largest_data < 512 << 10, "a snapshot of {} bytes goes in pieces", 120 * LARGE);
    assert!(cluster.state(away).snapshot >= 99);
    cluster.write(away, b"more");
    cluster.assert_same_history();

    cluster.stop(away);
    cluster.start(away);
    cluster.await_commands(away, 121);
    cluster.assert_same_history();
}

#[test]
fn a_new_learner_begins_with_a_snapshot() {
    let mut cluster = Cluster::adjusted(&[1], short_log);
    for number in 0..120_u8 {
        cluster.write(1, &[number]);
    }
    cluster.until(|cluster| (cluster.state(1).snapshot >= 99).then_some(()));
    cluster.start(2);
    assert!(matches!(cluster.set_members(1, &[1, 2], &[]), Outcome::Done { .. }));
    cluster.await_commands(2, 120);
    cluster.assert_same_history();
}

#[test]
fn size_alone_calls_for_a_snapshot_and_memory_is_given_back() {
    let mut cluster = Cluster::adjusted(&[1], |options| {
        options.compaction = Compaction { bytes: 200 << 10, ..Compaction::default() };
    });
    for number in 0..30 {
        cluster.write(1, &large(number));
    }
    cluster.until(|cluster| (cluster.state(1).snapshot > 0).then_some(()));
    let before = cluster.nodes[&transport_proto::identity::NodeId(1)].journal.lines();
    cluster.stop(1);
    cluster.start(1);
    cluster.await_commands(1, 30);
    assert_eq!(cluster.nodes[&transport_proto::identity::NodeId(1)].journal.lines(), before);
}

#[test]
fn a_snapshot_without_its_log_is_refused() {
    let mut cluster = Cluster::of(&[1]);
    cluster.write(1, b"x");
    cluster.nodes[&transport_proto::identity::NodeId(1)].running.handle.snapshot().unwrap();
    cluster.until(|cluster| (cluster.state(1).snapshot > 0).then_some(()));
    cluster.stop(1);
    let folder = cluster.folder(1);
    std::fs::remove_file(folder.join("raft.log")).unwrap();
    let voters = cluster::ids(&[1]);
    let options =
        control_raft::RaftOptions::new(transport_proto::identity::NodeId(1), cluster::STAMP, &folder, voters);
    let Err(fault) = control_raft::start(options, cluster::Journal::default(), || {}) else {
        panic!("a lost vote must not be cast again")
    };
    assert!(fault.to_string().contains("move the state folder away"), "{fault}");
    assert!(!folder.join("raft.log").exists());
}
