//! Clusters of one, three and five voters: commands reach all of them, whichever node they are proposed on.

mod cluster;

use cluster::Cluster;
use control_raft::Outcome;

#[test]
fn a_single_voter_leads_and_applies() {
    let mut cluster = Cluster::of(&[1]);
    let first = cluster.write(1, b"a");
    let second = cluster.write(1, b"b");
    assert!(first < second);
    assert_eq!(cluster.commands(1), [b"a", b"b"]);
    assert_eq!(cluster.state(1).leader.map(|node| node.0), Some(1));
}

// proves: C1
#[test]
fn commands_proposed_on_any_node_are_applied_on_all_in_one_order() {
    for voters in [&[1, 2, 3][..], &[1, 2, 3, 4, 5]] {
        let mut cluster = Cluster::of(voters);
        for round in 0..10_u8 {
            for node in voters {
                cluster.write(*node, &[round, *node as u8]);
            }
        }
        let total = 10 * voters.len();
        for node in voters {
            cluster.await_commands(*node, total);
        }
        cluster.assert_same_history();
    }
}

#[test]
fn the_proposer_gets_the_machines_answer_also_through_another_node() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let follower = cluster.followers()[0];
    let ticket = cluster.propose(follower, b"x");
    let Outcome::Done { answer, .. } = cluster.answer(ticket) else { panic!("done") };
    assert_eq!(answer, 1_u64.to_le_bytes());
}

// proves: C1
#[test]
fn a_restarted_node_has_everything_again() {
    let mut cluster = Cluster::of(&[1]);
    for number in 0..50_u8 {
        cluster.write(1, &[number]);
    }
    let before = cluster.nodes[&transport_proto::identity::NodeId(1)].journal.lines();
    cluster.stop(1);
    cluster.start(1);
    cluster.await_commands(1, 50);
    assert_eq!(cluster.nodes[&transport_proto::identity::NodeId(1)].journal.lines(), before);
    cluster.write(1, b"more");
}
