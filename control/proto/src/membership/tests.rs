//! Courses of a few membership machines, told step by step. Whole clusters are in `tests/membership.rs`.

use super::*;
use crate::ccd::{Applied, Command, DistressLevel, OperationId, Steward, Why};
use crate::rows::{ClusterRows, LinkNumber, LinkRow, NodeRow, RailAddress, RailEnd, RailRow, voters_usual};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use blockdev_proto::geometry::DiskId;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use transport_proto::identity::{LinkId, RailId};

const MS: u64 = 1_000_000;

fn rows(ids: &[NodeId]) -> ClusterRows {
    let voters = voters_usual(ids);
    let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let node =
        |id: &NodeId| NodeRow { id: *id, name: format!("node{}", id.0), host, voter: voters.contains(id) };
    let end = |id: &NodeId| RailEnd {
        node: *id,
        address: RailAddress::Tcp(SocketAddr::new(host, 7000 + 2 * id.0)),
        heartbeat: SocketAddr::new(host, 7001 + 2 * id.0),
    };
    let rail = RailRow { id: RailId(0), ends: ids.iter().map(end).collect() };
    let link = LinkRow { number: LinkNumber(0), id: LinkId(0), nodes: ids.to_vec(), rails: vec![rail] };
    let links = if ids.len() > 1 { vec![link] } else { vec![] };
    ClusterRows { nodes: ids.iter().map(node).collect(), links, ..ClusterRows::empty("north") }
}

/// Machines that hear each other at once, around a log that all of them hear at once. Node 1 leads it.
struct Trio {
    machines: Vec<Membership>,
    database: Database,
    leader: usize,
    /// Pairs that do not hear each other, and nodes that hear nothing of the log.
    deaf: Vec<(usize, usize)>,
    told: Vec<(NodeId, Output)>,
    sequence: u64,
    causes: Vec<(NodeId, Why)>,
}

impl Trio {
    fn of(count: u16) -> Trio {
        let ids: Vec<NodeId> = (1..=count).map(NodeId).collect();
        let database = Database::found(rows(&ids)).expect("sound rows");
        let log = database.log_state();
        let life = |id: NodeId| Incarnation(100 + u64::from(id.0));
        let machine = |id: &NodeId| Membership::new(*id, life(*id), log.clone(), Time(0));
        let machines = ids.iter().map(machine).collect();
        let (deaf, told, causes) = (vec![], vec![], vec![]);
        Trio { machines, database, leader: 0, deaf, told, sequence: 0, causes }
    }

    /// All have met, and node 1 leads.
    fn formed() -> Trio {
        let mut trio = Trio::of(3);
        trio.meet_all(10);
        trio.lead(10, 1);
        assert_eq!(trio.members(), [1, 2, 3]);
        trio
    }

    fn members(&self) -> Vec<u16> {
        self.database.membership().members.iter().map(|member| member.node.0).collect()
    }

    fn lead(&mut self, ms: u64, term: u64) {
        let leader = Some(self.machines[self.leader].node);
        let inputs = (0..self.machines.len()).map(|at| (at, Input::Leader { leader, term }));
        self.settle(ms, inputs.collect());
    }

    fn meet_all(&mut self, ms: u64) {
        let lives: Vec<Member> = self.machines.iter().map(Membership::me).collect();
        let mut inputs = vec![];
        for (at, machine) in self.machines.iter().enumerate() {
            for life in lives.iter().filter(|life| life.node != machine.node) {
                inputs.push((at, Input::PeerUp { node: life.node, incarnation: life.incarnation }));
            }
        }
        self.settle(ms, inputs);
    }

    /// Ticks at every deadline until this time.
    fn until(&mut self, ms: u64) {
        loop {
            let due = self.machines.iter().map(Membership::next_deadline).min().expect("machines");
            if due.0 > ms * MS {
                return self.settle(ms, self.ticks());
            }
            self.settle_at(due, self.ticks());
        }
    }

    fn ticks(&self) -> Vec<(usize, Input)> {
        (0..self.machines.len()).map(|at| (at, Input::Tick)).collect()
    }

    fn settle(&mut self, ms: u64, inputs: Vec<(usize, Input)>) {
        self.settle_at(Time(ms * MS), inputs);
    }

    fn settle_at(&mut self, now: Time, inputs: Vec<(usize, Input)>) {
        let mut queue = VecDeque::from(inputs);
        while let Some((at, input)) = queue.pop_front() {
            let mut out = vec![];
            self.machines[at].handle(now, input, &mut out);
            let (from, incarnation) = (self.machines[at].node, self.machines[at].incarnation);
            for output in out {
                match output {
                    Output::Send { to, message } => {
                        let to = usize::from(to.0) - 1;
                        if !self.deaf.contains(&(at, to)) && !self.deaf.contains(&(to, at)) {
                            queue.push_back((to, Input::Message { from, incarnation, message }));
                        }
                    }
                    Output::Confirm { at: asked } if at == self.leader => {
                        queue.push_back((at, Input::Confirmed { at: asked }));
                    }
                    Output::Confirm { .. } => {}
                    Output::Propose(change) => {
                        if self.apply(from, incarnation, change) {
                            let log = self.database.log_state();
                            let hears = |to: &usize| !self.deaf.contains(&(*to, *to));
                            let all = (0..self.machines.len()).filter(hears);
                            queue.extend(all.map(|to| (to, Input::Applied(log.clone()))));
                        }
                    }
                    output => self.told.push((from, output)),
                }
            }
        }
    }

    fn apply(&mut self, node: NodeId, life: Incarnation, change: Change) -> bool {
        self.sequence += 1;
        let operation = OperationId { node, life, sequence: self.sequence };
        if let Change::Membership { causes, .. } = &change {
            self.causes.extend(causes.iter().map(|cause| (cause.node, cause.why)));
        }
        let command = Command { operation, expect: vec![], change };
        let applied = self.database.apply(self.database.index() + 1, &command);
        matches!(applied, Applied::Done { .. })
    }

    fn down(&mut self, ms: u64, at: usize, node: u16) {
        self.settle(ms, vec![(at, Input::PeerDown { node: NodeId(node) })]);
    }

    /// Node `lost` is not heard by anybody any more, and hears nobody.
    fn lose(&mut self, ms: u64, lost: usize) {
        self.deaf.extend([(0, lost), (1, lost), (2, lost), (lost, lost)]);
        for at in (0..3).filter(|at| *at != lost) {
            self.down(ms, at, lost as u16 + 1);
            self.down(ms, lost, at as u16 + 1);
        }
    }
}

fn path(node: u16) -> BrokenPath {
    BrokenPath { node: NodeId(node), disk: DiskId(9) }
}

// proves: C3
#[test]
fn a_cluster_of_one_forms_by_itself_and_holds_its_own_lease() {
    let mut alone = Trio::of(1);
    alone.lead(1, 1);
    assert_eq!(alone.members(), [1]);
    assert_eq!(alone.told, [(NodeId(1), Output::QuorumRegained)]);
    alone.until(60_000);
    assert!(alone.told.len() == 1 && alone.machines[0].has_quorum());
}

// proves: C3
#[test]
fn three_nodes_that_meet_form_one_membership_without_waiting() {
    let trio = Trio::formed();
    assert!(trio.machines.iter().all(|machine| machine.is_member() && machine.has_quorum()));
    assert_eq!(trio.causes, [1, 2, 3].map(|node| (NodeId(node), Why::Joined)));
}

// proves: D4
#[test]
fn a_node_that_says_it_has_fenced_itself_is_out_at_once_and_an_earlier_life_says_nothing() {
    let mut trio = Trio::formed();
    let life = trio.machines[2].me();
    let earlier = Member { incarnation: Incarnation(life.incarnation.0 - 1), ..life };
    trio.settle(100, vec![(0, Input::Ended(earlier)), (1, Input::Ended(earlier))]);
    assert_eq!(trio.members(), [1, 2, 3]);
    trio.settle(101, vec![(0, Input::Ended(life)), (1, Input::Ended(life))]);
    assert_eq!(trio.members(), [1, 2], "no time has passed, and it is still heard");
    assert!(trio.causes.contains(&(NodeId(3), Why::Left)));
}

// proves: D4
#[test]
fn a_node_that_announced_its_end_is_in_while_it_may_hold_a_lease() {
    let mut trio = Trio::formed();
    trio.until(100);
    let life = trio.machines[2].me();
    trio.settle(100, vec![(0, Input::Ending(life)), (1, Input::Ending(life))]);
    trio.until(300);
    assert_eq!(trio.members(), [1, 2, 3], "it serves until it has fenced itself");
    trio.lose(300, 2);
    let holds_until = trio.machines[2].lease_until();
    trio.until(holds_until.0 / MS - 1);
    assert_eq!(trio.members(), [1, 2, 3]);
    trio.until(300 + 1500);
    assert_eq!(trio.members(), [1, 2]);
}

// proves: C3 C6
#[test]
fn a_silent_node_closes_its_gates_before_the_others_go_on_without_it() {
    let mut trio = Trio::formed();
    trio.until(100);
    trio.lose(100, 2);
    let holds_until = trio.machines[2].lease_until();
    trio.until(holds_until.0 / MS - 1);
    assert_eq!(trio.members(), [1, 2, 3], "it may hold its lease still");
    trio.until(100 + 1500);
    assert_eq!(trio.members(), [1, 2]);
    assert!(trio.causes.contains(&(NodeId(3), Why::Unreachable)));
    let lost = trio.told.iter().position(|told| *told == (NodeId(3), Output::QuorumLost));
    assert!(lost.is_some() && !trio.machines[2].has_quorum());
    trio.until(60_000);
    assert!(trio.machines[0].has_quorum() && trio.machines[1].has_quorum());
}

// proves: C3
#[test]
fn a_removed_node_learns_it_and_comes_back_only_in_a_new_life() {
    let mut trio = Trio::formed();
    trio.lose(20, 2);
    trio.until(2000);
    trio.deaf.clear();
    trio.settle(2001, vec![(2, Input::Applied(trio.database.log_state()))]);
    assert!(trio.told.contains(&(NodeId(3), Output::Removed)));
    trio.meet_all(2002);
    trio.until(4000);
    assert_eq!(trio.members(), [1, 2], "the old life came back");
    assert!(!trio.machines[2].has_quorum(), "a life that is over holds no lease");
    trio.settle(4001, vec![(2, Input::Reincarnate(Incarnation(500)))]);
    trio.meet_all(4002);
    assert_eq!(trio.members(), [1, 2, 3]);
    assert_eq!(trio.causes.last(), Some(&(NodeId(3), Why::Restarted)));
    trio.until(4500);
    assert!(trio.machines.iter().all(|machine| machine.is_member() && machine.has_quorum()));
}

#[test]
fn a_node_that_nobody_talks_to_learns_from_heartbeats_that_its_life_is_over() {
    let mut trio = Trio::formed();
    trio.lose(20, 2);
    trio.until(5000);
    assert!(!trio.told.contains(&(NodeId(3), Output::Removed)), "nothing newer was heard of");
    let newer = trio.database.number();
    trio.settle(5001, vec![(2, Input::HeardOf(newer)), (2, Input::Tick)]);
    trio.until(9000);
    let removed = trio.told.iter().filter(|told| **told == (NodeId(3), Output::Removed));
    assert_eq!(removed.count(), 1);
}

#[test]
fn a_node_that_leaves_is_out_at_once_and_told_so() {
    let mut trio = Trio::formed();
    trio.settle(20, vec![(1, Input::Leave)]);
    assert_eq!(trio.members(), [1, 3]);
    assert!(trio.told.contains(&(NodeId(2), Output::Left)));
    // The leader, too.
    trio.settle(30, vec![(0, Input::Leave)]);
    assert_eq!(trio.members(), [3]);
    assert_eq!(trio.causes[3..], [(NodeId(2), Why::Left), (NodeId(1), Why::Left)]);
}

// proves: C3
#[test]
fn a_node_whose_disk_hangs_is_out_until_the_disk_answers() {
    let mut trio = Trio::formed();
    let age = Duration::from_secs(31);
    trio.settle(100, vec![(1, Input::OldestIo(age))]);
    trio.until(5000);
    assert_eq!(trio.members(), [1, 3]);
    assert!(trio.causes.contains(&(NodeId(2), Why::HungDisk { age_ms: 31_000 })));
    assert!(trio.told.contains(&(NodeId(2), Output::QuorumLost)), "its lease had to end first");
    trio.settle(5001, vec![(1, Input::Reincarnate(Incarnation(500)))]);
    trio.meet_all(5002);
    assert_eq!(trio.members(), [1, 3], "the disk hangs still");
    trio.settle(6000, vec![(1, Input::OldestIo(Duration::ZERO))]);
    assert_eq!(trio.members(), [1, 2, 3]);
    // One that leads fares no better.
    trio.settle(6001, vec![(0, Input::OldestIo(age))]);
    trio.until(9000);
    assert_eq!(trio.members(), [2, 3]);
    assert!(trio.told.contains(&(NodeId(1), Output::QuorumLost)));
}

// proves: B3
#[test]
fn a_broken_path_reported_by_any_node_is_known_until_its_owner_mends_it() {
    let mut trio = Trio::formed();
    trio.settle(20, vec![(2, Input::PathBroken(path(2)))]);
    assert_eq!(trio.database.membership().broken, [path(2)]);
    trio.settle(30, vec![(2, Input::PathMended(path(2)))]);
    assert_eq!(trio.database.membership().broken, [path(2)], "another than the owner mended it");
    trio.settle(40, vec![(1, Input::PathMended(path(2)))]);
    assert_eq!(trio.database.membership().broken, []);
    assert_eq!(trio.causes[3..], [(NodeId(2), Why::PathBroken), (NodeId(2), Why::PathMended)]);
}

#[test]
fn a_spent_number_is_passed_over_by_whoever_saw_it() {
    let mut trio = Trio::formed();
    trio.settle(20, vec![(2, Input::EpochSpent(Epoch(40)))]);
    assert_eq!(trio.database.number(), Epoch(41));
    trio.until(4000);
    assert_eq!(trio.database.number(), Epoch(41));
}

#[test]
fn two_nodes_that_do_not_see_each_other_do_not_both_stay() {
    let mut trio = Trio::formed();
    trio.deaf = vec![(1, 2)];
    trio.down(20, 1, 3);
    trio.down(20, 2, 2);
    trio.until(4000);
    assert_eq!(trio.members(), [1, 2]);
    assert!(trio.causes.contains(&(NodeId(3), Why::Parted)));
    let settled = trio.database.membership().clone();
    trio.settle(4001, vec![(2, Input::Reincarnate(Incarnation(500)))]);
    trio.settle(4002, vec![(0, Input::PeerUp { node: NodeId(3), incarnation: Incarnation(500) })]);
    trio.until(20_000);
    assert_eq!(trio.database.membership(), &settled, "the membership flaps");
}

// proves: C6
#[test]
fn a_new_leader_lets_nobody_expire_for_one_lease_and_the_old_one_decides_nothing() {
    let mut trio = Trio::formed();
    trio.until(1000);
    trio.lose(1000, 2);
    trio.until(1200);
    trio.leader = 1;
    trio.lead(1300, 2);
    assert_eq!(trio.database.membership().steward.map(|steward| steward.term), Some(2));
    trio.until(1300 + 1499);
    assert_eq!(trio.members(), [1, 2, 3]);
    trio.until(1300 + 1501);
    assert_eq!(trio.members(), [1, 2]);
    // What the leader of the first term still has under way is refused by the log.
    let by = Steward { member: Member { node: NodeId(1), incarnation: Incarnation(101) }, term: 1 };
    let (expect, members) = (trio.database.membership().number, vec![by.member]);
    let late = Change::Membership { by, expect, members, broken: vec![], causes: vec![] };
    assert!(!trio.apply(NodeId(1), Incarnation(101), late));
}

#[test]
fn a_leader_that_no_majority_confirms_grants_nothing_and_loses_its_own_lease() {
    let mut trio = Trio::formed();
    trio.until(1000);
    trio.leader = 9;
    trio.until(1000 + 1600);
    assert!(trio.machines.iter().all(|machine| !machine.has_quorum()));
    assert_eq!(trio.members(), [1, 2, 3], "and it puts nobody out");
}

#[test]
fn a_node_in_distress_stays_out_and_a_node_that_is_added_comes_in() {
    let mut trio = Trio::formed();
    let (member, level) = (trio.machines[1].me(), DistressLevel::Dying);
    assert!(trio.apply(NodeId(3), Incarnation(103), Change::Distress { member, level, reason: "".into() }));
    let log = trio.database.log_state();
    trio.settle(20, (0..3).map(|at| (at, Input::Applied(log.clone()))).collect());
    assert!(trio.told.contains(&(NodeId(2), Output::Removed)));
    trio.settle(30, vec![(1, Input::Reincarnate(Incarnation(500)))]);
    trio.meet_all(40);
    trio.until(4000);
    assert_eq!(trio.members(), [1, 3]);
    assert!(trio.apply(NodeId(3), Incarnation(103), Change::Clear { node: NodeId(2) }));
    let log = trio.database.log_state();
    trio.settle(4001, (0..3).map(|at| (at, Input::Applied(log.clone()))).collect());
    assert_eq!(trio.members(), [1, 2, 3]);
    // The machines follow what is configured.
    let mut wider = log;
    wider.configured.push(NodeId(4));
    trio.settle(4100, vec![(0, Input::Applied(wider))]);
    assert_eq!(trio.machines[0].peers.len(), 3);
}

#[test]
fn every_message_survives_its_encoding_and_nonsense_is_refused() {
    let status = Status {
        incarnation: Incarnation(7),
        number: Epoch(9),
        leaving: true,
        oldest_io: Duration::from_millis(12),
        reaches: vec![Member { node: NodeId(1), incarnation: Incarnation(5) }],
        broken: vec![path(1), path(2)],
        mended: vec![],
    };
    let twice = Status { broken: vec![path(1), path(1)], ..status.clone() };
    let encoded = Message::Status(twice).encode();
    assert!(Message::decode(&encoded.control, &encoded.data).is_err());
    let (stamp, age) = (Time(77), Duration::from_millis(3));
    let messages = [Message::Status(status), Message::Ask { stamp }, Message::Grant { term: 4, stamp, age }];
    for message in messages {
        let encoded = message.encode();
        assert_eq!(Message::decode(&encoded.control, &encoded.data), Ok(message.clone()));
        let longer = [&encoded.data[..], &[0]].concat();
        assert!(Message::decode(&encoded.control, &longer).is_err(), "{message:?} with a byte too many");
        let mut other = encoded.control;
        other[0] = 1;
        let fault = Message::decode(&other, &encoded.data).expect_err("another version");
        assert!(fault.to_string().contains("version 1"), "{fault}");
    }
}

/// A node that had just joined led at once, with words from before it joined, in which nobody saw it.
// proves: C3
#[test]
fn what_a_member_said_before_it_had_the_membership_is_no_ground_to_put_it_out() {
    let mut trio = Trio::formed();
    let formed = trio.database.membership().formed;
    for (number, goes) in [(Epoch(formed.0 - 1), false), (formed, true)] {
        let status = Status { number, reaches: vec![], ..trio.machines[1].status() };
        let (from, incarnation) = (NodeId(2), Incarnation(102));
        let mut out = vec![];
        let input = Input::Message { from, incarnation, message: Message::Status(status) };
        trio.machines[0].handle(Time(20 * MS), input, &mut out);
        assert_eq!(trio.machines[0].going.len(), usize::from(goes), "said at number {}", number.0);
    }
}
