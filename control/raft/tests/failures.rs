//! Nodes that stop, that are cut off, that hear from strangers, that have too much to do.

mod cluster;

use cluster::{Cluster, STAMP};
use control_raft::{ClusterStamp, NotDone, Outcome, REQUESTS_MAX, Refusal, Ticket};
use transport_proto::identity::{Incarnation, NodeId};

// proves: C1
#[test]
fn the_others_go_on_when_the_leader_stops_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let mut written = 0_u8;
    for _ in 0..3 {
        let leader = cluster.leader();
        for _ in 0..20 {
            cluster.write(leader, &[written]);
            written += 1;
        }
        cluster.stop(leader);
        let other = cluster.leader();
        cluster.write(other, &[written]);
        written += 1;
        cluster.start(leader);
    }
    for node in [1, 2, 3] {
        cluster.await_commands(node, usize::from(written));
        let commands = cluster.commands(node);
        assert!((0..written).all(|number| commands.contains(&vec![number])));
    }
    cluster.assert_same_history();
}

// proves: C1
#[test]
fn a_leader_that_starts_anew_does_not_lead_on_in_its_old_term() {
    for voters in [&[1][..], &[1, 2, 3]] {
        let mut cluster = Cluster::of(voters);
        let leader = cluster.leader();
        cluster.write(leader, b"before");
        let term = cluster.state(leader).term;
        // Together, so that no other takes over meanwhile.
        voters.iter().for_each(|voter| cluster.stop(*voter));
        voters.iter().for_each(|voter| cluster.start(*voter));
        let next = cluster.leader();
        assert!(cluster.state(next).term > term, "it would give the same ids to other entries");
        cluster.write(next, b"after");
        assert_eq!(cluster.commands(next), [&b"before"[..], b"after"]);
    }
}

/// With time-outs longer than any test: whoever is elected is elected for the word alone.
// proves: D4
#[test]
fn a_leader_that_said_its_end_is_succeeded_without_waiting_for_its_lease() {
    for voters in [&[1, 2, 3][..], &[1, 2, 3, 4, 5]] {
        let mut cluster = Cluster::adjusted(voters, |options| {
            options.timing.election_min = std::time::Duration::from_secs(3600);
            options.timing.election_max = std::time::Duration::from_secs(7200);
        });
        let first = cluster.leader();
        assert_eq!(first, 1, "the first voter begins the cluster, the others would wait for hours");
        cluster.write(first, b"before");
        voters.iter().for_each(|voter| cluster.await_commands(*voter, 1));
        let term = cluster.state(first).term;
        cluster.stop(first);
        for (node, there) in &cluster.nodes {
            assert_eq!(there.running.handle.state().leader, Some(NodeId(first)), "{node} trusts it still");
            there.running.handle.peer_ended(NodeId(first));
        }
        let next = cluster.leader();
        assert!(cluster.state(next).term > term);
        cluster.write(next, b"after");

        // Nothing is taken from one that leads, for the word of another.
        cluster.until(|cluster| {
            let leaders = cluster.nodes.values().map(|there| there.running.handle.state().leader);
            leaders.into_iter().all(|leader| leader == Some(NodeId(next))).then_some(())
        });
        let term = cluster.state(next).term;
        for there in cluster.nodes.values() {
            there.running.handle.peer_ended(NodeId(first));
        }
        cluster.write(next, b"later");
        assert_eq!((cluster.leader(), cluster.state(next).term), (next, term));
    }
}

// proves: C6
#[test]
fn without_a_majority_nobody_leads_and_nothing_is_changed() {
    let mut cluster = Cluster::adjusted(&[1, 2, 3], |options| {
        options.timing.request = std::time::Duration::from_millis(900);
    });
    let leader = cluster.leader();
    cluster.write(leader, b"before");
    for node in cluster.followers() {
        cluster.stop(node);
    }
    cluster.until(|cluster| {
        let state = cluster.state(leader);
        (!state.leads && state.leader.is_none()).then_some(())
    });
    let ticket = cluster.propose(leader, b"during");
    assert_eq!(cluster.answer(ticket), Outcome::NotDone(NotDone::NoLeader));
    assert_eq!(cluster.read(leader), Outcome::NotDone(NotDone::NoLeader));
    assert_eq!(cluster.commands(leader), [b"before"]);
}

// proves: C1
#[test]
fn a_leader_that_is_cut_off_steps_down_and_its_late_writes_do_not_land() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let old = cluster.leader();
    cluster.write(old, b"before");
    cluster.isolate(old, true);
    let lost = cluster.propose(old, b"lost");
    let new = cluster.until(|cluster| {
        let leading = |node: &&u16| **node != old && cluster.state(**node).leads;
        [1, 2, 3].iter().find(leading).copied()
    });
    cluster.until(|cluster| (!cluster.state(old).leads).then_some(()));
    cluster.write(new, b"after");
    cluster.isolate(old, false);
    cluster.await_commands(old, 2);
    assert_ne!(cluster.answer(lost), Outcome::NotDone(NotDone::NoLeader), "it was in a log: who knows?");
    assert_eq!(cluster.commands(old), [b"before".to_vec(), b"after".to_vec()]);
    cluster.assert_same_history();
}

#[test]
fn one_way_cuts_do_not_stop_the_rest() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let leader = cluster.leader();
    for (number, follower) in cluster.followers().into_iter().enumerate() {
        cluster.cut.insert((NodeId(leader), NodeId(follower)));
        cluster.write(leader, &[number as u8]);
        cluster.cut.clear();
        cluster.write(leader, &[number as u8 + 100]);
    }
    cluster.assert_same_history();
}

// proves: C1
#[test]
fn a_read_on_any_node_sees_what_was_written_before_it_began() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    for round in 0..20_u8 {
        let written = cluster.write(1 + u16::from(round) % 3, &[round]);
        let reader = 1 + u16::from(round + 1) % 3;
        let Outcome::Done { index, .. } = cluster.read(reader) else { panic!("a majority is there") };
        assert!(index >= written);
        assert!(cluster.commands(reader).contains(&vec![round]));
    }
}

#[test]
fn strangers_and_garbage_are_counted_and_change_nothing() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let mut strangers = Cluster::adjusted(&[1, 2, 3], |options| {
        options.stamp = ClusterStamp { genesis: [9; 32], ..STAMP };
    });
    let leader = strangers.leader();
    cluster.write(1, b"a");
    let before = cluster.state(1);
    let overheard = strangers.until(|strangers| {
        strangers.nodes.get_mut(&NodeId(leader)).and_then(|node| node.running.outputs.next_message())
    });
    let handle = cluster.nodes[&NodeId(1)].running.handle.clone();
    let life = Incarnation(u64::MAX);
    handle.receive(NodeId(2), life, &overheard.control, &overheard.data);
    handle.receive(NodeId(2), life, b"", b"garbage");
    handle.receive(NodeId(2), Incarnation(1), &overheard.control, &overheard.data);
    cluster.until(|_| {
        let counters = handle.counters();
        (counters.strangers == 1 && counters.torn == 1 && counters.stale >= 1).then_some(())
    });
    assert_eq!(cluster.state(1).term, before.term);
    cluster.write(3, b"b");
}

#[test]
fn a_full_backlog_refuses_and_takes_again_when_answers_are_fetched() {
    let mut cluster = Cluster::of(&[1]);
    cluster.leader();
    let handle = cluster.nodes[&NodeId(1)].running.handle.clone();
    let mut taken = 0;
    let refused = loop {
        match handle.propose(Ticket(10_000 + taken), b"x".to_vec()) {
            Ok(()) => taken += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refused, Refusal::Backlog { max: REQUESTS_MAX });
    assert_eq!(taken, REQUESTS_MAX as u64);
    cluster.until(|cluster| (cluster.answers.len() == REQUESTS_MAX).then_some(()));
    assert!(handle.propose(Ticket(1), b"x".to_vec()).is_ok());
    let bytes = control_raft::COMMAND_BYTES_MAX + 1;
    let refused = handle.propose(Ticket(2), vec![0; bytes]);
    assert!(matches!(refused, Err(Refusal::TooLarge { .. })));
}

#[test]
fn losing_and_doubling_messages_changes_no_history() {
    let mut cluster = Cluster::adjusted(&[1, 2, 3], |options| {
        options.timing.request = std::time::Duration::from_millis(300);
    });
    cluster.lose_one_in = 7;
    for number in 0..60_u8 {
        cluster.write(1 + u16::from(number) % 3, &[number]);
    }
    cluster.lose_one_in = 0;
    let total = cluster.nodes.keys().map(|node| cluster.commands(node.0).len()).max().unwrap();
    for node in [1, 2, 3] {
        cluster.await_commands(node, total);
        let commands = cluster.commands(node);
        assert!((0..60).all(|number| commands.contains(&vec![number])));
    }
    cluster.assert_same_history();
}
