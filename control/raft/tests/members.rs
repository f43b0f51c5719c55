//! Learners, promotion, clusters that grow and shrink.

mod cluster;

use cluster::{Cluster, ids};
use control_raft::{NotDone, Outcome};

fn done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { .. })
}

// proves: C5
#[test]
fn a_cluster_grows_from_one_voter_to_five_and_shrinks_to_three() {
    let mut cluster = Cluster::of(&[1]);
    cluster.write(1, b"one");
    for node in [2, 3, 4, 5] {
        cluster.start(node);
    }
    assert!(done(&cluster.set_members(1, &[1], &[2, 3])));
    assert_eq!(cluster.state(1).learners, ids(&[2, 3]));
    cluster.await_commands(3, 1);
    assert!(done(&cluster.set_members(1, &[1, 2, 3], &[])));
    cluster.write(2, b"three");
    let leader = cluster.leader();
    assert!(done(&cluster.set_members(leader, &[1, 2, 3, 4, 5], &[])));
    let leader = cluster.leader();
    let state = cluster.state(leader);
    assert_eq!((state.voters, state.changing), (ids(&[1, 2, 3, 4, 5]), false));
    for node in [1, 2, 3, 4, 5] {
        cluster.write(node, &[node as u8]);
    }
    assert!(done(&cluster.set_members(leader, &[1, 2, 3, 4, 5], &[])), "what holds already is done");

    let kept: Vec<u16> =
        [1, 2, 3, 4, 5].into_iter().filter(|node| *node != leader).take(2).chain([leader]).collect();
    assert!(done(&cluster.set_members(leader, &kept, &[])));
    for node in [1, 2, 3, 4, 5].into_iter().filter(|node| !kept.contains(node)) {
        cluster.stop(node);
    }
    assert_eq!(cluster.state(leader).voters, ids(&kept));
    cluster.write(leader, b"last");
    cluster.await_commands(kept[0], 8);
    cluster.assert_same_history();
}

#[test]
fn a_learner_learns_without_a_vote() {
    let mut cluster = Cluster::of(&[1, 2]);
    cluster.start(9);
    let leader = cluster.leader();
    assert!(done(&cluster.set_members(leader, &[1, 2], &[9])));
    for number in 0..10_u8 {
        cluster.write(9, &[number]);
    }
    cluster.await_commands(9, 10);
    cluster.stop(if leader == 1 { 2 } else { 1 });
    cluster.until(|cluster| (!cluster.state(leader).leads).then_some(()));
    assert!(cluster.state(9).learners.contains(&transport_proto::identity::NodeId(9)));
}

#[test]
fn only_the_leader_changes_members() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let follower = cluster.followers()[0];
    assert_eq!(cluster.set_members(follower, &[1], &[]), Outcome::NotDone(NotDone::NotLeader));
    let leader = cluster.leader();
    let none = cluster.set_members(leader, &[], &[1]);
    assert!(matches!(none, Outcome::NotDone(NotDone::NoSuchMembers { .. })));
}

#[test]
fn a_node_that_is_not_there_becomes_no_voter() {
    let mut cluster = Cluster::adjusted(&[1, 2, 3], |options| {
        options.timing.request = std::time::Duration::from_millis(500);
    });
    let leader = cluster.leader();
    let behind = cluster.set_members(leader, &[1, 2, 3, 4], &[]);
    let node = transport_proto::identity::NodeId(4);
    assert_eq!(behind, Outcome::NotDone(NotDone::Behind { node }));
    assert_eq!(cluster.state(leader).voters, ids(&[1, 2, 3]));
    cluster.write(leader, b"goes on");
    cluster.start(4);
    cluster.await_commands(4, 1);
    assert!(done(&cluster.set_members(leader, &[1, 2, 3, 4], &[])), "and once it is there, it does");
}

#[test]
fn a_leader_can_remove_itself() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let old = cluster.leader();
    let others: Vec<u16> = [1, 2, 3].into_iter().filter(|node| *node != old).collect();
    let outcome = cluster.set_members(old, &others, &[old]);
    assert!(done(&outcome) || outcome == Outcome::Unknown, "{outcome:?}");
    let new = cluster.until(|cluster| others.iter().find(|node| cluster.state(**node).leads).copied());
    cluster.until(|cluster| (cluster.state(new).voters == ids(&others)).then_some(()));
    cluster.write(old, b"through a learner");
}
