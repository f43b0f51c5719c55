//! A cluster of membership machines with a database each, around a perfect log.

use control_proto::ccd::{Applied, Change, Command, Database, MembershipRow, OperationId, Steward, Why};
use control_proto::membership::{Input, Membership, Message, Output};
use control_proto::protocol_rules::ProtocolRules;
use control_proto::rows::{
    ClusterRows, LinkNumber, LinkRow, NodeRow, RailAddress, RailEnd, RailRow, voters_usual,
};
use control_proto::view::Member;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use transport_proto::identity::{Epoch, Incarnation, LinkId, NodeId, RailId};
use transport_proto::time::Time;

const MS: u64 = 1_000_000;
/// Until then, faults happen; then everything is healed.
const FAULTS_END: u64 = 20_000 * MS;
const END: u64 = 45_000 * MS;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.roll(many) == 0
    }
}

/// What is going to happen; what is about a process names its life.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Tick {
        node: usize,
    },
    Deliver {
        to: usize,
        slot: usize,
    },
    /// It has come to a process that sleeps.
    Inbox {
        to: usize,
        process: u64,
        slot: usize,
    },
    Notice {
        node: usize,
        peer: usize,
    },
    Arrive {
        slot: usize,
    },
    Answer {
        node: usize,
        process: u64,
        kind: u8,
        at: u64,
    },
    Apply {
        node: usize,
    },
    Elect,
    LeaderSeen {
        node: usize,
    },
    Start {
        node: usize,
    },
    Reincarnate {
        node: usize,
    },
    Fault,
}

struct Node<R: ProtocolRules> {
    machine: Option<Membership<R>>,
    /// Survives the process: applied entries are durable.
    database: Database<R>,
    process: u64,
    incarnation: Incarnation,
    paused_until: u64,
    sequence: u64,
    /// Per peer: the life that the machine was told to be up.
    told: Vec<Option<Incarnation>>,
}

pub(crate) struct Cluster<R: ProtocolRules> {
    dice: Dice,
    now: u64,
    count: u64,
    nodes: Vec<Node<R>>,
    ids: Vec<NodeId>,
    cut: BTreeSet<(usize, usize)>,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    messages: Vec<(usize, Incarnation, Message)>,
    proposals: Vec<(usize, Command)>,
    leader: Option<usize>,
    term: u64,
    pub(crate) log: Vec<Command>,
    /// What the whole log says.
    head: Database<R>,
    /// Lives that were removed for their silence.
    expired: BTreeSet<Member>,
    /// Snapshot of each applied index.
    states: BTreeMap<u64, u64>,
    pub(crate) violations: Vec<String>,
}

fn rows(ids: &[NodeId]) -> ClusterRows {
    let voters = voters_usual(ids);
    let node = |id: &NodeId| NodeRow {
        id: *id,
        name: format!("node{}", id.0),
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        voter: voters.contains(id),
    };
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let end = |id: &NodeId| RailEnd {
        node: *id,
        address: RailAddress::Tcp(at(7000 + 2 * id.0)),
        heartbeat: at(7001 + 2 * id.0),
    };
    let rail = RailRow { id: RailId(0), ends: ids.iter().map(end).collect() };
    let link = LinkRow { number: LinkNumber(0), id: LinkId(0), nodes: ids.to_vec(), rails: vec![rail] };
    ClusterRows { nodes: ids.iter().map(node).collect(), links: vec![link], ..ClusterRows::empty("north") }
}

impl<R: ProtocolRules> Cluster<R> {
    pub(crate) fn new(size: usize, seed: u64) -> Cluster<R> {
        let ids: Vec<NodeId> = (1..=size as u16).map(NodeId).collect();
        let database = || Database::found_with_rules(rows(&ids)).expect("sound rows");
        let node = |_| Node {
            machine: None,
            database: database(),
            process: 0,
            incarnation: Incarnation(0),
            paused_until: 0,
            sequence: 0,
            told: vec![None; size],
        };
        let nodes = (0..size).map(node).collect();
        let mut cluster = Cluster {
            dice: Dice(seed),
            now: MS,
            count: 0,
            nodes,
            head: database(),
            ids,
            cut: BTreeSet::new(),
            queue: BinaryHeap::new(),
            messages: Vec::new(),
            proposals: Vec::new(),
            leader: None,
            term: 0,
            log: Vec::new(),
            expired: BTreeSet::new(),
            states: BTreeMap::new(),
            violations: Vec::new(),
        };
        for node in 0..size {
            let delay = cluster.dice.roll(300) * MS;
            cluster.later(delay, Happening::Start { node });
        }
        cluster.later(500 * MS, Happening::Fault);
        cluster.later(100 * MS, Happening::Elect);
        cluster
    }

    /// Lives that were removed for their silence.
    pub(crate) fn expired(&self) -> usize {
        self.expired.len()
    }

    /// Memberships that the log has decided.
    pub(crate) fn decided(&self) -> u64 {
        self.head.membership().number.0
    }

    fn later(&mut self, delay: u64, happening: Happening) {
        self.count += 1;
        self.queue.push(Reverse((self.now + delay, self.count, happening)));
    }

    pub(crate) fn run(&mut self) {
        while let Some(Reverse((at, _, happening))) = self.queue.pop() {
            if at > END {
                break;
            }
            self.now = at;
            self.happen(happening);
        }
    }

    /// What happens to a process that sleeps happens when it wakes, and what has come to it is there.
    fn unless_asleep(&mut self, happening: Happening) -> Option<Happening> {
        if let Happening::Deliver { to, slot } = happening
            && self.nodes[to].paused_until > self.now
        {
            if self.talk(self.messages[slot].0, to) {
                let (process, wakes) = (self.nodes[to].process, self.nodes[to].paused_until);
                self.later(wakes - self.now, Happening::Inbox { to, process, slot });
            }
            return None;
        }
        let node = match &happening {
            Happening::Tick { node }
            | Happening::Inbox { to: node, .. }
            | Happening::Notice { node, .. }
            | Happening::Answer { node, .. }
            | Happening::Apply { node }
            | Happening::LeaderSeen { node }
            | Happening::Reincarnate { node } => Some(*node),
            _ => None,
        };
        let wakes = node.map(|node| self.nodes[node].paused_until);
        if let Some(wakes) = wakes.filter(|wakes| *wakes > self.now) {
            self.later(wakes - self.now, happening);
            return None;
        }
        Some(happening)
    }

    fn happen(&mut self, happening: Happening) {
        let Some(happening) = self.unless_asleep(happening) else { return };
        match happening {
            Happening::Tick { node } => {
                let due = self.nodes[node].machine.as_ref().map(Membership::next_deadline);
                if due.is_some_and(|due| due.0 <= self.now) {
                    self.give(node, Input::Tick);
                }
            }
            Happening::Deliver { to, slot } => {
                let (from, incarnation, message) = self.messages[slot].clone();
                if self.talk(from, to) {
                    self.give(to, Input::Message { from: self.ids[from], incarnation, message });
                }
            }
            Happening::Inbox { to, process, slot } => {
                let (from, incarnation, message) = self.messages[slot].clone();
                if self.nodes[to].process == process {
                    self.give(to, Input::Message { from: self.ids[from], incarnation, message });
                }
            }
            Happening::Notice { node, peer } => self.notice(node, peer),
            Happening::Arrive { slot } => self.arrive(slot),
            Happening::Answer { node, process, kind, at } if self.nodes[node].process == process => {
                let input = match kind {
                    0 => Input::MembersAnswered,
                    1 => Input::RaiseAnswered,
                    2 => Input::StewardAnswered,
                    _ => Input::Confirmed { at: Time(at) },
                };
                self.give(node, input);
            }
            Happening::Answer { .. } => {}
            Happening::Apply { node } => self.apply(node),
            Happening::Elect => self.elect(),
            Happening::LeaderSeen { node } => {
                let seen = self.leader.filter(|leader| self.talk(*leader, node) || *leader == node);
                let (leader, term) = (seen.map(|leader| self.ids[leader]), self.term);
                self.give(node, Input::Leader { leader, term });
            }
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
        let membership = self.nodes[node].machine.as_ref().map(|machine| &machine.log().membership);
        let life = Member { node: self.ids[peer], incarnation: self.nodes[peer].incarnation };
        membership.is_some_and(|membership| membership.is_over(life))
    }

    fn talk(&self, a: usize, b: usize) -> bool {
        let alive = self.nodes[a].machine.is_some() && self.nodes[b].machine.is_some();
        alive && !self.is_cut(a, b) && !self.refuses(a, b) && !self.refuses(b, a)
    }

    /// Tells the machine what its monitor sees now.
    fn notice(&mut self, node: usize, peer: usize) {
        let alive = node != peer && self.nodes[peer].machine.is_some() && !self.is_cut(node, peer);
        if alive {
            let heard = self.nodes[peer].database.number();
            self.give(node, Input::HeardOf(heard));
        }
        let talks = alive && self.talk(node, peer);
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
        let (now, peers) = (self.now, self.nodes.len());
        let id = self.ids[node];
        let state = &mut self.nodes[node];
        (state.process, state.sequence, state.paused_until) = (now, 0, 0);
        (state.incarnation, state.told) = (Incarnation(now), vec![None; peers]);
        let log = state.database.log_state();
        state.machine = Some(Membership::with_rules(id, Incarnation(now), log, Time(now)));
        self.give(node, Input::Tick);
        self.notice_all(node);
        self.later(MS, Happening::Apply { node });
        self.later(20 * MS, Happening::LeaderSeen { node });
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].machine = None;
        self.notice_all(node);
        let delay = self.dice.roll(3000) * MS + MS;
        self.later(delay, Happening::Start { node });
    }

    fn heal(&mut self) {
        let cut = std::mem::take(&mut self.cut);
        for (a, b) in cut {
            self.later(20 * MS, Happening::Notice { node: a, peer: b });
            self.later(25 * MS, Happening::Notice { node: b, peer: a });
        }
    }

    fn fault(&mut self) {
        if self.now >= FAULTS_END {
            return self.heal();
        }
        let size = self.nodes.len() as u64;
        let node = self.dice.roll(size) as usize;
        match self.dice.roll(6) {
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
            3 => self.nodes[node].paused_until = self.now + self.dice.roll(2500) * MS,
            4 => self.depose(),
            _ => {
                self.heal();
                (0..self.nodes.len()).for_each(|node| self.notice_all(node));
            }
        }
        let delay = self.dice.roll(900) * MS;
        self.later(delay, Happening::Fault);
    }

    // --- the log ---

    fn depose(&mut self) {
        self.leader = None;
    }

    /// Nodes that this one could lead.
    fn reach(&self, node: usize) -> usize {
        let awake = |node: usize| self.nodes[node].paused_until <= self.now;
        let others = (0..self.nodes.len()).filter(|&other| other != node && awake(other));
        1 + others.filter(|&other| self.talk(node, other)).count()
    }

    fn elect(&mut self) {
        let majority = self.nodes.len() / 2 + 1;
        let led = self.leader;
        self.leader = self
            .leader
            .filter(|&leader| self.nodes[leader].machine.is_some() && self.reach(leader) >= majority);
        if self.leader.is_none() {
            let able = |&node: &usize| {
                let state = &self.nodes[node];
                state.machine.is_some() && state.paused_until <= self.now && self.reach(node) >= majority
            };
            let able: Vec<usize> = (0..self.nodes.len()).filter(able).collect();
            if !able.is_empty() {
                self.leader = Some(able[self.dice.roll(able.len() as u64) as usize]);
                self.term += 1;
            }
        }
        for node in 0..self.nodes.len() {
            let slow = if self.leader == led { 100 } else { 600 };
            let delay = self.dice.roll(slow) * MS;
            self.later(delay, Happening::LeaderSeen { node });
        }
        let delay = (50 + self.dice.roll(400)) * MS;
        self.later(delay, Happening::Elect);
    }

    fn propose(&mut self, node: usize, change: Change) {
        let state = &mut self.nodes[node];
        state.sequence += 1;
        let life = Incarnation(state.process);
        let operation = OperationId { node: self.ids[node], life, sequence: state.sequence };
        self.proposals.push((node, Command { operation, expect: vec![], change }));
        let slot = self.proposals.len() - 1;
        let faulty = self.now < FAULTS_END;
        let lost = faulty && self.dice.one_in(10);
        let copies = if lost { 0 } else { 1 + u64::from(faulty && self.dice.one_in(15)) };
        for _ in 0..copies {
            let slow = if faulty && self.dice.one_in(10) { 1500 } else { 20 };
            let delay = self.dice.roll(slow * MS) + MS;
            self.later(delay, Happening::Arrive { slot });
        }
    }

    /// A proposal reaches whoever leads now, whoever led when it was made.
    fn arrive(&mut self, slot: usize) {
        let (from, command) = self.proposals[slot].clone();
        let Some(leader) = self.leader.filter(|leader| self.nodes[*leader].machine.is_some()) else { return };
        if from != leader && self.is_cut(from, leader) {
            return;
        }
        self.log.push(command.clone());
        let before = self.head.membership().clone();
        let applied = self.head.apply(self.log.len() as u64, &command);
        if let (Applied::Done { .. }, Change::Membership { causes, .. }) = (&applied, &command.change) {
            let after = self.head.membership().clone();
            self.check_decided(&before, &after);
            for gone in before.members.iter().filter(|member| !after.has(**member)) {
                let silent = |why| matches!(why, Why::Unreachable | Why::Parted | Why::HungDisk { .. });
                if causes.iter().any(|cause| cause.node == gone.node && silent(cause.why)) {
                    self.expired.insert(*gone);
                }
            }
            (0..self.nodes.len()).for_each(|node| self.check_lease(node));
        }
        let kind = match command.change {
            Change::Membership { .. } => 0,
            Change::RaiseEpoch { .. } => 1,
            _ => 2,
        };
        // The answer may be lost on the way: then the outcome is unknown to the proposer.
        if !self.dice.one_in(10) {
            let process = command.operation.life.0;
            let delay = self.dice.roll(30) * MS;
            self.later(delay, Happening::Answer { node: from, process, kind, at: 0 });
        }
    }

    /// A node hears what the log has for it, in order, late.
    fn apply(&mut self, node: usize) {
        if self.nodes[node].machine.is_none() {
            return;
        }
        let connected = self.leader.is_some_and(|leader| leader == node || self.talk(leader, node));
        let known = self.nodes[node].database.index();
        if connected && known < self.log.len() as u64 {
            let command = self.log[known as usize].clone();
            self.nodes[node].database.apply(known + 1, &command);
            self.check_state(node);
            let log = self.nodes[node].database.log_state();
            self.give(node, Input::Applied(log));
            self.notice_all(node);
        }
        let slow = if self.now < FAULTS_END && self.dice.one_in(30) { 800 } else { 15 };
        let delay = self.dice.roll(slow) * MS + MS;
        self.later(delay, Happening::Apply { node });
    }

    // --- a process ---

    /// Gives a machine an input and carries its outputs out, unless the node dies on the way.
    fn give(&mut self, node: usize, input: Input) {
        let mut out = Vec::new();
        let Some(machine) = &mut self.nodes[node].machine else { return };
        machine.handle(Time(self.now), input, &mut out);
        let due = machine.next_deadline().0;
        assert!(due > self.now, "a deadline that has passed would spin");
        self.check_lease(node);
        for output in out {
            if self.now < FAULTS_END && self.dice.one_in(3000) {
                return self.kill(node);
            }
            self.carry_out(node, output);
        }
        self.later(due - self.now, Happening::Tick { node });
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        match output {
            Output::Send { to, message } => self.send(node, usize::from(to.0) - 1, message),
            Output::Propose(change) => self.propose(node, change),
            Output::Confirm { at } => {
                // The question finds a majority that knows of no later term, or it finds none.
                if self.leader == Some(node) && self.reach(node) > self.nodes.len() / 2 {
                    let slow = if self.now < FAULTS_END && self.dice.one_in(10) { 1000 } else { 10 };
                    let delay = self.dice.roll(slow) * MS + MS / 10;
                    let process = self.nodes[node].process;
                    self.later(delay, Happening::Answer { node, process, kind: 3, at: at.0 });
                }
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

    // --- what must hold, whatever happens ---

    /// Whoever was removed for its silence holds no lease any more.
    fn check_lease(&mut self, node: usize) {
        let state = &self.nodes[node];
        let life = Member { node: self.ids[node], incarnation: state.incarnation };
        let awake = state.paused_until <= self.now;
        let holds = state
            .machine
            .as_ref()
            .is_some_and(|machine| machine.has_quorum() && machine.lease_until() > Time(self.now));
        if awake && holds && self.expired.contains(&life) {
            self.violations.push(format!("{life:?} was removed for its silence and holds a lease"));
        }
    }

    fn check_decided(&mut self, before: &MembershipRow, after: &MembershipRow) {
        if after.number <= before.number {
            self.violations.push(format!("number {:?} after {:?}", after.number, before.number));
        }
        if let Some(back) = after.members.iter().find(|member| before.is_over(**member)) {
            self.violations.push(format!("{back:?} left and came back at {:?}", after.number));
        }
        let steward: Option<Steward> = after.steward;
        if steward.is_none() {
            self.violations.push("a membership that nobody takes care of".into());
        }
    }

    /// Same index, same rows.
    fn check_state(&mut self, node: usize) {
        let database = &self.nodes[node].database;
        let sum = database.snapshot().iter().fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        let index = database.index();
        if *self.states.entry(index).or_insert(sum) != sum {
            self.violations.push(format!("{} has other rows at index {index}", self.ids[node]));
        }
    }

    /// What must be true some seconds after everything was healed.
    pub(crate) fn check_healed(&mut self) {
        let last = self.head.membership().clone();
        for (at, node) in self.nodes.iter().enumerate() {
            let me = Member { node: self.ids[at], incarnation: node.incarnation };
            let healthy = node.machine.as_ref().is_some_and(|machine| {
                machine.has_quorum() && machine.is_member() && machine.log().membership == last
            });
            if !healthy || !last.has(me) || node.database.number() == Epoch(0) {
                let log = node.machine.as_ref().map(Membership::log);
                let quorum = node.machine.as_ref().map(Membership::has_quorum);
                self.violations.push(format!("{} is not back: quorum {quorum:?}, {log:?}", self.ids[at]));
            }
        }
    }
}
