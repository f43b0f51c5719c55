//! Whole clusters of membership machines under one seed: lost, late and repeated messages, partitions, nodes
//! that die between two outputs and come back with what they had on disk. Afterwards all is healed and all
//! must agree.

use control_proto::ballot_membership::{Ballot, Durable, Input, Membership, Message, Output, View};
use control_proto::rows::MembershipTimes;
use control_proto::view::Member;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use transport_proto::identity::{Incarnation, NodeId};
use transport_proto::time::Time;

const MS: u64 = 1_000_000;
const FAULTS_END: u64 = 15_000 * MS;
const END: u64 = 25_000 * MS;

/// SplitMix64: small, and good enough to choose faults.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Tick {
        node: usize,
    },
    Deliver {
        to: usize,
        slot: usize,
    },
    /// The connectivity monitor of `node` has noticed how it stands with `peer`.
    Notice {
        node: usize,
        peer: usize,
    },
    Start {
        node: usize,
    },
    Reincarnate {
        node: usize,
    },
    Fault,
}

struct Node {
    machine: Option<Membership>,
    durable: Durable,
    incarnation: Incarnation,
    /// Per peer: the life that the machine was told to be up.
    told: Vec<Option<Incarnation>>,
    last_epoch: u64,
}

struct Cluster {
    dice: Dice,
    now: u64,
    count: u64,
    nodes: Vec<Node>,
    ids: Vec<NodeId>,
    cut: BTreeSet<(usize, usize)>,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    messages: Vec<(usize, Incarnation, Message)>,
    /// A node that restarts has lost its disk. For the test of the checker.
    forgetful: bool,
    checker: Checker,
}

/// What must hold, whatever happens.
#[derive(Default)]
struct Checker {
    /// The one view of each epoch.
    views: BTreeMap<u64, View>,
    /// Who had which view on disk as accepted, by predecessor's successor and ballot.
    accepted: BTreeMap<(u64, Ballot), (View, BTreeSet<NodeId>)>,
    violations: Vec<String>,
}

impl Checker {
    fn accepted(&mut self, node: NodeId, durable: &Durable) {
        if let Some((ballot, view)) = &durable.accepted {
            let key = (view.epoch.0, *ballot);
            let (first, nodes) = self.accepted.entry(key).or_insert_with(|| (view.clone(), BTreeSet::new()));
            if first != view {
                self.violations.push(format!("ballot {ballot:?} carried two views"));
            }
            nodes.insert(node);
        }
    }

    fn decided(&mut self, view: &View, majority: usize) {
        match self.views.get(&view.epoch.0) {
            Some(other) if other != view => {
                self.violations.push(format!("two views of one number:\n  {other:?}\n  {view:?}"));
            }
            Some(_) => {}
            None => {
                let by_majority =
                    self.accepted.values().any(|(other, nodes)| other == view && nodes.len() >= majority);
                if !by_majority {
                    self.violations.push(format!("decided without a majority: {view:?}"));
                }
                if view.members.len() < majority {
                    self.violations.push(format!("members are a minority: {view:?}"));
                }
                self.views.insert(view.epoch.0, view.clone());
            }
        }
    }

    /// No life that left comes back.
    fn lives(&mut self) {
        let mut gone: BTreeSet<Member> = BTreeSet::new();
        let mut before: Vec<Member> = Vec::new();
        for view in self.views.values() {
            gone.extend(before.iter().filter(|member| !view.members.contains(member)));
            if let Some(back) = view.members.iter().find(|member| gone.contains(member)) {
                self.violations.push(format!("{back:?} left and came back at {:?}", view.epoch));
            }
            before.clone_from(&view.members);
        }
    }
}

impl Cluster {
    fn new(size: usize, seed: u64, forgetful: bool) -> Cluster {
        let ids: Vec<NodeId> = (1..=size as u16).map(NodeId).collect();
        let node = |_| Node {
            machine: None,
            durable: Durable::default(),
            incarnation: Incarnation(0),
            told: vec![None; size],
            last_epoch: 0,
        };
        let mut cluster = Cluster {
            dice: Dice(seed),
            now: MS,
            count: 0,
            nodes: (0..size).map(node).collect(),
            ids,
            cut: BTreeSet::new(),
            queue: BinaryHeap::new(),
            messages: Vec::new(),
            forgetful,
            checker: Checker::default(),
        };
        for node in 0..size {
            let delay = cluster.dice.roll(300) * MS;
            cluster.later(delay, Happening::Start { node });
        }
        cluster.later(500 * MS, Happening::Fault);
        cluster
    }

    fn later(&mut self, delay: u64, happening: Happening) {
        self.count += 1;
        self.queue.push(Reverse((self.now + delay, self.count, happening)));
    }

    fn run(&mut self) {
        while let Some(Reverse((at, _, happening))) = self.queue.pop() {
            if at > END {
                break;
            }
            self.now = at;
            self.happen(happening);
        }
        self.checker.lives();
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick { node } => {
                let due = self.nodes[node].machine.as_ref().map(Membership::next_deadline);
                if due.is_some_and(|due| due.0 <= self.now) {
                    self.give(node, Input::Tick);
                }
            }
            Happening::Deliver { to, slot } => {
                let (from, incarnation, message) = self.messages[slot].clone();
                if !self.is_cut(from, to) && !self.refuses(to, from) && !self.refuses(from, to) {
                    self.give(to, Input::Message { from: self.ids[from], incarnation, message });
                }
            }
            Happening::Notice { node, peer } => self.notice(node, peer),
            Happening::Start { node } => self.start(node),
            Happening::Reincarnate { node } => {
                if self.nodes[node].machine.is_some() {
                    self.nodes[node].incarnation = Incarnation(self.now);
                    self.give(node, Input::Reincarnate(Incarnation(self.now)));
                    self.notice_all(node);
                }
            }
            Happening::Fault => self.fault(),
        }
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// A node does not talk to a life that it knows to be removed, as the transport does not.
    fn refuses(&self, node: usize, peer: usize) -> bool {
        let view = self.nodes[node].machine.as_ref().map(Membership::view);
        let (id, life) = (self.ids[peer], self.nodes[peer].incarnation);
        view.is_some_and(|view| view.departed.iter().any(|gone| gone.node == id && gone.incarnation >= life))
    }

    /// Tells the machine what its monitor sees now.
    fn notice(&mut self, node: usize, peer: usize) {
        let alive = node != peer && self.nodes[peer].machine.is_some() && !self.is_cut(node, peer);
        if let Some(heard) = self.nodes[peer].machine.as_ref().filter(|_| alive).map(|m| m.view().epoch) {
            self.give(node, Input::HeardOf(heard));
        }
        let talks = alive && !self.refuses(node, peer) && !self.refuses(peer, node);
        let seen = talks.then_some(self.nodes[peer].incarnation);
        if self.nodes[node].machine.is_none() || self.nodes[node].told[peer] == seen {
            return;
        }
        self.nodes[node].told[peer] = seen;
        let id = self.ids[peer];
        let input = match seen {
            Some(incarnation) => Input::PeerUp { node: id, incarnation },
            None => Input::PeerDown { node: id },
        };
        self.give(node, input);
    }

    /// All monitors notice a change of `node` a little later.
    fn notice_all(&mut self, node: usize) {
        for peer in (0..self.nodes.len()).filter(|&peer| peer != node) {
            let (there, back) = (self.dice.roll(50) * MS, self.dice.roll(50) * MS);
            self.later(10 * MS + there, Happening::Notice { node: peer, peer: node });
            self.later(10 * MS + back, Happening::Notice { node, peer });
        }
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].machine.is_some() {
            return;
        }
        let mut durable = self.nodes[node].durable.clone();
        if self.forgetful {
            durable = Durable::default();
        }
        let incarnation = Incarnation(self.now);
        let now = Time(self.now);
        let machine =
            Membership::new(self.ids[node], incarnation, &self.ids, MembershipTimes::default(), durable, now);
        let peers = self.nodes.len();
        let state = &mut self.nodes[node];
        (state.machine, state.incarnation, state.told) = (Some(machine), incarnation, vec![None; peers]);
        self.give(node, Input::Tick);
        self.notice_all(node);
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].machine = None;
        self.notice_all(node);
        let delay = self.dice.roll(3000) * MS + MS;
        self.later(delay, Happening::Start { node });
    }

    fn fault(&mut self) {
        if self.now >= FAULTS_END {
            let cut = std::mem::take(&mut self.cut);
            for (a, b) in cut {
                self.later(20 * MS, Happening::Notice { node: a, peer: b });
                self.later(25 * MS, Happening::Notice { node: b, peer: a });
            }
            return;
        }
        let size = self.nodes.len() as u64;
        let node = self.dice.roll(size) as usize;
        match self.dice.roll(4) {
            0 if self.nodes[node].machine.is_some() => self.kill(node),
            1 => {
                let other = self.dice.roll(size) as usize;
                let pair = (node.min(other), node.max(other));
                if node != other && !self.cut.remove(&pair) {
                    self.cut.insert(pair);
                }
                self.notice_all(node);
            }
            2 => {
                // A partition: one side of the line does not hear the other.
                let line = self.dice.roll(1 << size);
                for a in 0..self.nodes.len() {
                    for b in a + 1..self.nodes.len() {
                        if (line >> a) & 1 != (line >> b) & 1 {
                            self.cut.insert((a, b));
                        }
                    }
                    self.notice_all(a);
                }
            }
            _ => {
                self.cut.clear();
                (0..self.nodes.len()).for_each(|node| self.notice_all(node));
            }
        }
        let delay = self.dice.roll(900) * MS;
        self.later(delay, Happening::Fault);
    }

    /// Gives a machine an input and carries its outputs out, unless the node dies on the way.
    fn give(&mut self, node: usize, input: Input) {
        let mut out = Vec::new();
        let Some(machine) = &mut self.nodes[node].machine else { return };
        machine.handle(Time(self.now), input, &mut out);
        let due = machine.next_deadline().0;
        assert!(due > self.now, "a deadline that has passed would spin");
        for output in out {
            if self.now < FAULTS_END && self.dice.one_in(3000) {
                return self.kill(node);
            }
            self.carry_out(node, output);
        }
        let delay = due - self.now;
        self.later(delay, Happening::Tick { node });
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        let majority = self.nodes.len() / 2 + 1;
        match output {
            Output::Persist(durable) => {
                self.checker.accepted(self.ids[node], &durable);
                self.nodes[node].durable = durable;
            }
            Output::Send { to, message } => self.send(node, usize::from(to.0) - 1, message),
            Output::NewView(view) => {
                self.checker.decided(&view, majority);
                let last = &mut self.nodes[node].last_epoch;
                if view.epoch.0 <= *last && !self.forgetful {
                    self.checker.violations.push(format!("{:?} after {last}", view.epoch));
                }
                *last = view.epoch.0;
                self.notice_all(node);
            }
            Output::Removed => {
                let delay = self.dice.roll(200) * MS + MS;
                self.later(delay, Happening::Reincarnate { node });
            }
            Output::Left | Output::QuorumLost | Output::QuorumRegained => {}
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        // What travels is what the codec makes of it.
        let encoded = message.encode();
        let message = Message::decode(&encoded.control, &encoded.data).expect("our own message");
        let faulty = self.now < FAULTS_END;
        if faulty && self.dice.one_in(15) {
            return;
        }
        let copies = if faulty && self.dice.one_in(30) { 2 } else { 1 };
        for _ in 0..copies {
            let slow = if faulty && self.dice.one_in(20) { 400 } else { 5 };
            let delay = self.dice.roll(slow * MS) + MS / 10;
            self.messages.push((from, self.nodes[from].incarnation, message.clone()));
            let slot = self.messages.len() - 1;
            self.later(delay, Happening::Deliver { to, slot });
        }
    }

    /// What must be true some seconds after everything was healed.
    fn check_healed(&mut self) {
        let Some(first) = self.nodes[0].machine.as_ref().map(|machine| machine.view().clone()) else {
            self.checker.violations.push("node 1 did not come back".into());
            return;
        };
        for (at, node) in self.nodes.iter().enumerate() {
            let me = Member { node: self.ids[at], incarnation: node.incarnation };
            let healthy = node.machine.as_ref().is_some_and(|machine| {
                machine.has_quorum() && machine.is_member() && *machine.view() == first && first.has(me)
            });
            if !healthy {
                let view = node.machine.as_ref().map(Membership::view);
                self.checker.violations.push(format!("{} is not back: {view:?}", self.ids[at]));
            }
        }
    }
}

fn violations(size: usize, seed: u64) -> Vec<String> {
    let mut cluster = Cluster::new(size, seed, false);
    cluster.run();
    cluster.check_healed();
    assert!(!cluster.checker.views.is_empty(), "nothing was ever decided");
    cluster.checker.violations
}

fn run_seeds(size: usize, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let found = violations(size, seed);
        assert!(found.is_empty(), "{size} nodes, seed {seed}:\n{}", found.join("\n"));
    }
}

// proves: C3
#[test]
fn three_nodes_never_disagree_and_all_come_back() {
    run_seeds(3, 0..300);
}

// proves: C3
#[test]
fn five_nodes_never_disagree_and_all_come_back() {
    run_seeds(5, 0..120);
}

// proves: C3
#[test]
fn two_nodes_never_disagree_and_both_come_back() {
    run_seeds(2, 0..100);
}

/// The proof that the checker bites: nodes that forget their votes do decide two views of one number.
#[test]
fn the_checker_catches_nodes_that_forget_their_votes() {
    let caught = (0..300).any(|seed| {
        let mut cluster = Cluster::new(3, seed, true);
        cluster.run();
        cluster.checker.violations.iter().any(|violation| violation.starts_with("two views of one number"))
    });
    assert!(caught, "300 seeds of forgetful nodes and no disagreement");
}

#[test]
fn a_seed_gives_the_same_course_every_time() {
    let views = |seed| {
        let mut cluster = Cluster::new(3, seed, false);
        cluster.run();
        cluster.checker.views
    };
    assert_eq!(views(11), views(11));
}
