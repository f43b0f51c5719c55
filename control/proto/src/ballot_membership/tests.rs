//! The membership machine by itself: the trivial cluster, the messages, a few courses told step by step.
//! Whole clusters under faults are in `tests/membership.rs`.

use super::*;
use blockdev_proto::geometry::DiskId;
use proptest::prelude::*;

const MS: u64 = 1_000_000;

fn machine(node: u16, configured: &[u16]) -> Membership {
    let configured: Vec<NodeId> = configured.iter().copied().map(NodeId).collect();
    let life = Incarnation(100 + u64::from(node));
    Membership::new(NodeId(node), life, &configured, MembershipTimes::default(), Durable::default(), Time(0))
}

fn path(node: u16) -> BrokenPath {
    BrokenPath { node: NodeId(node), disk: DiskId(9) }
}

fn views(out: &[Output]) -> Vec<View> {
    let view = |output: &Output| match output {
        Output::NewView(view) => Some(view.clone()),
        _ => None,
    };
    out.iter().filter_map(view).collect()
}

/// Machines that hear each other at once, at one time.
fn settle(machines: &mut [Membership], now: Time, inputs: Vec<(usize, Input)>) -> Vec<(NodeId, Output)> {
    let mut told = Vec::new();
    let mut queue = alloc::collections::VecDeque::from(inputs);
    while let Some((at, input)) = queue.pop_front() {
        let mut out = Vec::new();
        machines[at].handle(now, input, &mut out);
        let (from, incarnation) = (machines[at].node, machines[at].incarnation);
        for output in out {
            match output {
                Output::Send { to, message } => {
                    if let Some(to) = machines.iter().position(|machine| machine.node == to) {
                        queue.push_back((to, Input::Message { from, incarnation, message }));
                    }
                }
                output => told.push((from, output)),
            }
        }
    }
    told
}

fn meet_all(machines: &mut [Membership], now: Time) -> Vec<(NodeId, Output)> {
    let lives: Vec<Member> = machines.iter().map(Membership::me).collect();
    let mut inputs = Vec::new();
    for (at, machine) in machines.iter().enumerate() {
        for life in lives.iter().filter(|life| life.node != machine.node) {
            inputs.push((at, Input::PeerUp { node: life.node, incarnation: life.incarnation }));
        }
    }
    settle(machines, now, inputs)
}

fn trio() -> Vec<Membership> {
    let mut machines: Vec<Membership> = (1..=3).map(|node| machine(node, &[1, 2, 3])).collect();
    meet_all(&mut machines, Time(10 * MS));
    assert!(machines.iter().all(|machine| machine.view().members.len() == 3));
    machines
}

fn tick_all(machines: &mut [Membership], now: Time) -> Vec<(NodeId, Output)> {
    let ticks = (0..machines.len()).map(|at| (at, Input::Tick)).collect();
    settle(machines, now, ticks)
}

// proves: C3
#[test]
fn a_cluster_of_one_is_its_own_majority() {
    let mut alone = machine(7, &[7]);
    let mut out = Vec::new();
    alone.handle(Time(MS), Input::Tick, &mut out);
    let views = views(&out);
    assert_eq!(views.len(), 1);
    assert_eq!((views[0].epoch, views[0].members.len()), (Epoch(1), 1));
    assert!(out.contains(&Output::QuorumRegained) && alone.is_member());
    out.clear();
    alone.handle(Time(5000 * MS), Input::Tick, &mut out);
    assert_eq!(out, []);
}

// proves: C3
#[test]
fn three_nodes_that_meet_form_one_view_without_waiting() {
    let machines = trio();
    assert!(machines.windows(2).all(|pair| pair[0].view() == pair[1].view()));
    assert!(machines.iter().all(|machine| machine.is_member() && machine.has_quorum()));
}

#[test]
fn a_node_that_is_not_heard_is_out_after_the_suspect_time_and_not_before() {
    let mut machines = trio();
    let before = machines[0].view().epoch;
    settle(&mut machines, Time(20 * MS), [(0, 3), (1, 3)].map(|(at, node)| (at, down(node))).into());
    tick_all(&mut machines[..2], Time(500 * MS));
    assert_eq!(machines[0].view().epoch, before);
    tick_all(&mut machines[..2], Time(521 * MS));
    assert_eq!(machines[0].view().epoch.0, before.0 + 1);
    assert_eq!(machines[1].view(), machines[0].view());
    assert!(!machines[0].view().members.iter().any(|member| member.node == NodeId(3)));
    assert_eq!(machines[0].view().departed, [Member { node: NodeId(3), incarnation: Incarnation(103) }]);
}

fn life(node: u16) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(100 + u64::from(node)) }
}

// proves: D4
#[test]
fn a_node_that_says_it_fails_is_out_at_once_though_it_is_still_heard() {
    for victim in [1, 3] {
        let mut machines = trio();
        let before = machines[1].view().epoch;
        let others: Vec<usize> = (0..3).filter(|at| *at != victim - 1).collect();
        let word = others.iter().map(|at| (*at, Input::Failed(life(victim as u16)))).collect();
        settle(&mut machines, Time(20 * MS), word);
        let view = machines[1].view().clone();
        assert_eq!(view.epoch.0, before.0 + 1, "no time has passed");
        assert_eq!(view.departed, [life(victim as u16)]);
        // Its next life is another matter, and comes in; a recording of the old one's word changes nothing.
        settle(&mut machines, Time(30 * MS), [(1, Input::Failed(life(victim as u16)))].into());
        let next = Incarnation(900);
        settle(&mut machines, Time(40 * MS), [(victim - 1, Input::Reincarnate(next))].into());
        meet_all(&mut machines, Time(50 * MS));
        assert!(machines[1].view().has(Member { node: NodeId(victim as u16), incarnation: next }));
    }
}

// proves: D4
#[test]
fn a_node_that_is_about_to_end_is_out_in_the_moment_it_is_not_heard() {
    let mut machines = trio();
    let before = machines[0].view().epoch;
    settle(&mut machines, Time(20 * MS), [0, 1].map(|at| (at, Input::Ending(life(3)))).into());
    tick_all(&mut machines, Time(300 * MS));
    assert_eq!(machines[0].view().epoch, before, "it still serves");
    settle(&mut machines, Time(310 * MS), [0, 1].map(|at| (at, down(3))).into());
    assert_eq!(machines[0].view().departed, [life(3)]);
}

// proves: D6
#[test]
fn the_end_of_an_earlier_life_says_nothing_about_the_present_one() {
    let mut machines = trio();
    let view = machines[0].view().clone();
    let earlier = Member { node: NodeId(3), incarnation: Incarnation(102) };
    settle(&mut machines, Time(20 * MS), [0, 1].map(|at| (at, Input::Failed(earlier))).into());
    settle(&mut machines, Time(21 * MS), [0, 1].map(|at| (at, Input::Ending(earlier))).into());
    settle(&mut machines, Time(22 * MS), [0, 1].map(|at| (at, down(3))).into());
    tick_all(&mut machines[..2], Time(400 * MS));
    assert_eq!(*machines[0].view(), view, "missed for as long as anyone is");
}

fn down(node: u16) -> Input {
    Input::PeerDown { node: NodeId(node) }
}

#[test]
fn a_node_alone_loses_its_quorum_after_the_lease_and_decides_nothing() {
    let mut machines = trio();
    let view = machines[0].view().clone();
    let mut out = Vec::new();
    for node in [2, 3] {
        machines[0].handle(Time(20 * MS), down(node), &mut out);
    }
    machines[0].handle(Time(1519 * MS), Input::Tick, &mut out);
    assert!(!out.contains(&Output::QuorumLost));
    machines[0].handle(Time(1521 * MS), Input::Tick, &mut out);
    assert!(out.contains(&Output::QuorumLost) && !machines[0].has_quorum());
    machines[0].handle(Time(60_000 * MS), Input::Tick, &mut out);
    assert_eq!(machines[0].view(), &view);
    out.clear();
    let up = Input::PeerUp { node: NodeId(2), incarnation: Incarnation(102) };
    machines[0].handle(Time(60_001 * MS), up, &mut out);
    assert!(out.contains(&Output::QuorumRegained));
}

#[test]
fn a_removed_node_learns_it_and_comes_back_only_in_a_new_life() {
    let mut machines = trio();
    settle(&mut machines, Time(20 * MS), [(0, 3), (1, 3)].map(|(at, node)| (at, down(node))).into());
    tick_all(&mut machines[..2], Time(600 * MS));
    let told = meet_all(&mut machines, Time(700 * MS));
    assert!(told.contains(&(NodeId(3), Output::Removed)));
    tick_all(&mut machines, Time(1500 * MS));
    assert_eq!(machines[0].view().members.len(), 2, "the old life came back");
    settle(&mut machines, Time(1600 * MS), [(2, Input::Reincarnate(Incarnation(500)))].into());
    let told = meet_all(&mut machines, Time(1700 * MS));
    assert!(machines.iter().all(|machine| machine.is_member()));
    assert_eq!(machines[2].view().members[2].incarnation, Incarnation(500));
    assert!(machines[0].view().departed.is_empty());
    assert!(!told.iter().any(|(_, output)| *output == Output::Removed));
}

#[test]
fn a_node_that_nobody_talks_to_learns_from_heartbeats_that_its_life_is_over() {
    let mut machines = trio();
    let stranded = &mut machines[2];
    let mut out = Vec::new();
    for node in [1, 2] {
        stranded.handle(Time(20 * MS), down(node), &mut out);
    }
    stranded.handle(Time(5000 * MS), Input::Tick, &mut out);
    assert!(!out.contains(&Output::Removed), "nothing newer was heard of");
    let newer = Epoch(stranded.view().epoch.0 + 1);
    stranded.handle(Time(5001 * MS), Input::HeardOf(newer), &mut out);
    stranded.handle(Time(9000 * MS), Input::HeardOf(newer), &mut out);
    assert_eq!(out.iter().filter(|output| **output == Output::Removed).count(), 1);
}

/// Node 1 was killed and came back; it met node 2 at once, but node 3 only after the suspect time. It put
/// node 3 out, whose clients then waited for the answers to what it had sent in the life that was over.
#[test]
fn a_node_that_comes_back_puts_out_no_member_that_it_has_not_met_yet() {
    let mut machines = trio();
    settle(&mut machines[1..], Time(20 * MS), [(0, down(1)), (1, down(1))].into());
    for now in [521, 800] {
        tick_all(&mut machines[1..], Time(now * MS));
    }
    assert_eq!(machines[1].view().members.len(), 2);
    let (durable, life) = (machines[0].durable.clone(), Incarnation(500));
    let configured = [1, 2, 3].map(NodeId);
    machines[0] =
        Membership::new(NodeId(1), life, &configured, MembershipTimes::default(), durable, Time(900 * MS));
    meet_all(&mut machines[..2], Time(910 * MS));
    for now in [1000, 1400, 1500, 2000, 3000] {
        let told = tick_all(&mut machines, Time(now * MS));
        assert!(!told.iter().any(|(_, output)| *output == Output::Removed), "{told:?} at {now} ms");
    }
    assert!(machines[2].is_member() && !machines[0].is_member());
    meet_all(&mut machines, Time(3100 * MS));
    assert!(machines.iter().all(|machine| machine.is_member()), "{:?}", machines[0].view());
    assert_eq!(machines[2].view().members.len(), 3);
}

#[test]
fn two_nodes_that_come_back_go_on_without_a_third_that_does_not() {
    let mut machines = trio();
    let configured = [1, 2, 3].map(NodeId);
    for (at, machine) in machines[..2].iter_mut().enumerate() {
        let (node, life) = (machine.node, Incarnation(500 + at as u64));
        let durable = machine.durable.clone();
        let times = MembershipTimes::default();
        *machine = Membership::new(node, life, &configured, times, durable, Time(900 * MS));
    }
    meet_all(&mut machines[..2], Time(910 * MS));
    for now in [1500, 2000] {
        tick_all(&mut machines[..2], Time(now * MS));
    }
    assert!(machines[..2].iter().all(|machine| machine.is_member() && machine.view().members.len() == 2));
}

#[test]
fn a_node_that_leaves_is_out_at_once_and_told_so() {
    let mut machines = trio();
    let told = settle(&mut machines, Time(20 * MS), [(1, Input::Leave)].into());
    assert!(told.contains(&(NodeId(2), Output::Left)));
    assert_eq!(machines[0].view().members.len(), 2);
}

// proves: B3
#[test]
fn a_broken_path_reported_by_any_node_is_in_the_view_until_its_owner_mends_it() {
    let mut machines = trio();
    settle(&mut machines, Time(20 * MS), [(2, Input::PathBroken(path(1)))].into());
    assert!(machines.iter().all(|machine| machine.view().broken == [path(1)]));
    settle(&mut machines, Time(30 * MS), [(2, Input::PathMended(path(1)))].into());
    assert_eq!(machines[0].view().broken, [path(1)], "another than the owner mended it");
    settle(&mut machines, Time(40 * MS), [(0, Input::PathMended(path(1)))].into());
    assert!(machines.iter().all(|machine| machine.view().broken.is_empty()));
}

#[test]
fn a_spent_number_is_passed_over() {
    let mut machines = trio();
    settle(&mut machines, Time(20 * MS), [(2, Input::EpochSpent(Epoch(40)))].into());
    assert!(machines.iter().all(|machine| machine.view().epoch == Epoch(41)));
    tick_all(&mut machines, Time(400 * MS));
    assert!(machines.iter().all(|machine| machine.view().epoch == Epoch(41)));
}

#[test]
fn two_nodes_that_do_not_see_each_other_do_not_both_stay() {
    let mut machines = trio();
    settle(&mut machines, Time(20 * MS), [(1, down(3)), (2, down(2))].into());
    let cut = |machines: &mut [Membership], now| {
        // Nodes 2 and 3 do not send to each other, since they hold each other for down.
        tick_all(machines, now)
    };
    cut(&mut machines, Time(521 * MS));
    cut(&mut machines, Time(800 * MS));
    assert_eq!(machines[0].view().members.iter().map(|member| member.node.0).collect::<Vec<_>>(), [1, 2]);
    let settled = machines[0].view().clone();
    for step in 0..20 {
        cut(&mut machines, Time((1000 + step * 250) * MS));
    }
    assert_eq!(machines[0].view(), &settled, "the view flaps");
}

#[test]
fn every_message_survives_its_encoding() {
    let view = View {
        epoch: Epoch(9),
        members: Vec::from([Member { node: NodeId(1), incarnation: Incarnation(5) }]),
        departed: Vec::from([Member { node: NodeId(3), incarnation: Incarnation(6) }]),
        broken: Vec::from([path(1), path(2)]),
    };
    let ballot = Ballot { count: 4, node: NodeId(2) };
    let status =
        Status { epoch: Epoch(9), leaving: true, reaches: view.members.clone(), ..Status::default() };
    let after = Epoch(8);
    let messages = [
        Message::Status(status),
        Message::Prepare { after, ballot },
        Message::Promise { after, ballot, accepted: None },
        Message::Promise { after, ballot, accepted: Some((ballot, view.clone())) },
        Message::Accept { after, ballot, view: view.clone() },
        Message::Accepted { after, ballot },
        Message::Refused { after, promised: ballot },
        Message::Commit(view.clone()),
    ];
    for message in messages {
        let encoded = message.encode();
        assert_eq!(Message::decode(&encoded.control, &encoded.data), Ok(message.clone()));
        let longer = [&encoded.data[..], &[0]].concat();
        assert!(Message::decode(&encoded.control, &longer).is_err(), "{message:?} with a byte too many");
    }
    let durable = Durable { view: view.clone(), promised: ballot, accepted: Some((ballot, view)) };
    assert_eq!(Durable::decode(&durable.encode()), Ok(durable));
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(
        kind in 0u8..9,
        control in prop::collection::vec(any::<u8>(), 24..25),
        data in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let control = [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &control].concat();
        if let Ok(message) = Message::decode(&control, &data) {
            let mut machine = machine(1, &[1, 2, 3]);
            let mut out = Vec::new();
            let input = Input::Message { from: NodeId(2), incarnation: Incarnation(102), message };
            machine.handle(Time(MS), input, &mut out);
            machine.handle(Time(3000 * MS), Input::Tick, &mut out);
        }
        let _ = Durable::decode(&data);
    }
}
