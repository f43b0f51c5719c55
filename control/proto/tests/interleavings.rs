//! Every interleaving of the reconfiguration protocol, for three nodes and two operations, with nodes that
//! crash at any step and come back in a new life, that are put out while they live, proposals that are lost
//! or come twice, and a leader that cancels whenever it likes. The databases and participants are the real
//! ones; a driver is what it can be seen to do: one request of the virtual disk under way or none, held or
//! not.
//!
//! There is no coordinator that could crash: whoever asked for a reconfiguration is forgotten the moment it
//! is in the log, so a crash of any node at any step is a crash of the coordinator as well.

use blockdev_proto::geometry::{BlockBytes, DiskId, VolumeId};
use control_proto::ccd::{
    CancelCause, Change, Command, Database, OperationId, Phase, ReconfigurationId, Row, RowChange, Steward,
};
use control_proto::protocol_rules::{AckOfAnyLife, ProtocolRules, ResumeOnTimer, Strict};
use control_proto::reconfiguration::{Input, Live, Output, Participant};
use control_proto::rows::{
    ClusterRows, DiskKind, DiskPort, DiskRow, LinkNumber, LinkRow, LostQuorum, NodeRow, RailAddress, RailEnd,
    RailRow, VirtualDiskRow,
};
use control_proto::view::Member;
use stateright::{Checker, Model, Property};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;
use transport_proto::identity::{Incarnation, LinkId, NodeId, RailId};
use transport_proto::time::Time;

const NODES: usize = 3;
const OPERATIONS: u8 = 2;
const VOLUME: VolumeId = VolumeId(1);
/// The node that has requests. Each node stands for itself in what must hold, and a request that takes its
/// time delays an acknowledgement, which may be late anyway: so one node's requests are as good as all
/// nodes'.
const ASKS: usize = 0;
const UNSAID: &str = "nothing is done without the word of every member in its life";
const OVER: &str = "nothing of a member runs under a mapping that is over";

/// An entry of the log, as short as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Entry {
    Prepare,
    /// Of the n-th reconfiguration, by a node in its n-th life.
    Ack {
        of: u8,
        node: u8,
        life: u8,
    },
    Cancel,
    /// The life in which each node is a member, 0 for none.
    Members([u8; NODES]),
}

/// What some log says: as much of it as makes a difference. Logs that say the same are one log here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Facts {
    members: [u8; NODES],
    /// The last life of each node that left.
    over: [u8; NODES],
    /// The life of each node that is waited for.
    missing: [u8; NODES],
    undecided: bool,
    begun: u8,
    done: u8,
    given_up: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node<R: ProtocolRules> {
    alive: bool,
    life: u8,
    /// Entries that it has applied, of those kept.
    applied: u8,
    participant: Participant<R>,
    /// New requests are held.
    held: bool,
    /// A request is under way; under a mapping that a reconfiguration has ended since, or not.
    under_way: Option<Asked>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asked {
    UnderThePresentMapping,
    UnderOneThatIsOver,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State<R: ProtocolRules> {
    /// What all nodes have applied.
    base: Facts,
    /// What some have not.
    log: Vec<Entry>,
    nodes: [Node<R>; NODES],
    /// Acknowledgements on their way, and how often they may still arrive.
    network: Vec<(Entry, u8)>,
    /// The life in which each node acknowledged the present reconfiguration, by the word of the log.
    said: [u8; NODES],
    /// One was done without the word of some member in its life.
    unsaid: bool,
    crashes: u8,
    expulsions: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Begin,
    Arrive(usize),
    Cancel,
    Apply(usize),
    Ask(usize),
    Answer(usize),
    Crash(usize),
    Restart(usize),
    /// The leader puts a node out: one that crashed, or that it only takes for dead.
    Remove(usize),
    /// The leader takes a new life in.
    Admit(usize),
    /// A mutant's patience is over.
    Lose(usize),
}

struct Cluster<R: ProtocolRules> {
    crashes: u8,
    expulsions: u8,
    copies: u8,
    /// A log for what it says.
    logs: Mutex<HashMap<Facts, Vec<Entry>>>,
    steps: Mutex<HashMap<(Facts, Entry), Facts>>,
    obeys: PhantomData<fn() -> R>,
}

fn rows() -> ClusterRows {
    let ids: Vec<NodeId> = (1..=NODES as u16).map(NodeId).collect();
    let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let node = |id: &NodeId| NodeRow { id: *id, name: format!("node{}", id.0), host, voter: true };
    let end = |id: &NodeId| RailEnd {
        node: *id,
        address: RailAddress::Tcp(SocketAddr::new(host, 7000 + 2 * id.0)),
        heartbeat: SocketAddr::new(host, 7001 + 2 * id.0),
    };
    let rail = RailRow { id: RailId(0), ends: ids.iter().map(end).collect() };
    let port = |id: u16| DiskPort { node: NodeId(id), path: "/dev/disk".to_owned() };
    ClusterRows {
        nodes: ids.iter().map(node).collect(),
        links: vec![LinkRow { number: LinkNumber(0), id: LinkId(0), nodes: ids, rails: vec![rail] }],
        disks: vec![DiskRow {
            id: DiskId(1),
            name: "disk".to_owned(),
            kind: DiskKind::Raw,
            ports: vec![port(1), port(2)],
        }],
        virtual_disks: vec![virtual_disk(false)],
        ..ClusterRows::empty("north")
    }
}

fn virtual_disk(swapped: bool) -> VirtualDiskRow {
    let mut candidates = vec![(NodeId(1), DiskId(1)), (NodeId(2), DiskId(1))];
    if swapped {
        candidates.reverse();
    }
    VirtualDiskRow {
        id: VOLUME,
        name: "vd".to_owned(),
        candidates,
        size_bytes: 1 << 20,
        block_bytes: BlockBytes::USUAL,
        read_only: false,
        on_lost_quorum: LostQuorum::Suspend,
    }
}

fn member(node: usize, life: u8) -> Member {
    Member { node: NodeId(node as u16 + 1), incarnation: Incarnation(u64::from(life)) }
}

/// A participant does not look at which node it is; so two of them are interchangeable.
fn anybody(life: u8) -> Member {
    member(0, life)
}

/// Of two states that differ in the names of the nodes that ask for nothing, one.
fn least<R: ProtocolRules>(state: State<R>) -> State<R> {
    let mut other = state.clone();
    let swap = |lives: &mut [u8; NODES]| lives.swap(1, 2);
    let facts = &mut other.base;
    [&mut facts.members, &mut facts.over, &mut facts.missing].into_iter().for_each(swap);
    for entry in other.log.iter_mut().chain(other.network.iter_mut().map(|(entry, _)| entry)) {
        match entry {
            Entry::Ack { node, .. } if *node > 0 => *node = 3 - *node,
            Entry::Members(lives) => swap(lives),
            _ => {}
        }
    }
    other.network.sort();
    swap(&mut other.said);
    other.nodes.swap(1, 2);
    let sum = |state: &State<R>| {
        let mut hasher = std::hash::DefaultHasher::new();
        state.hash(&mut hasher);
        hasher.finish()
    };
    if sum(&other) < sum(&state) { other } else { state }
}

fn members(lives: [u8; NODES]) -> Vec<Member> {
    let living = lives.iter().enumerate().filter(|(_, life)| **life > 0);
    living.map(|(node, life)| member(node, *life)).collect()
}

/// What a database says that has read this log.
fn read<R: ProtocolRules>(log: &[Entry]) -> Facts {
    let mut database: Database<R> = Database::found_with_rules(rows()).expect("sound rows");
    let by = Steward { member: member(0, 1), term: 1 };
    let mut ids = Vec::new();
    let first = [Change::Steward(by), change_for(&database, Entry::Members([1; NODES]), by, &ids)];
    first.into_iter().for_each(|change| give(&mut database, change, &mut ids));
    for entry in log {
        // What is proposed is made for the rows that there are then.
        let membership = database.membership();
        let by = membership.steward.unwrap_or(by);
        let change = change_for(&database, *entry, by, &ids);
        give(&mut database, change, &mut ids);
    }
    let lives = |members: &[Member]| {
        let mut lives = [0; NODES];
        for member in members {
            lives[usize::from(member.node.0) - 1] = member.incarnation.0 as u8;
        }
        lives
    };
    let missing: Vec<Member> = database.live_reconfigurations().flat_map(|row| row.missing.clone()).collect();
    let count =
        |is: fn(&Phase) -> bool| database.reconfigurations().filter(|row| is(&row.phase)).count() as u8;
    Facts {
        members: lives(&database.membership().members),
        over: lives(&database.membership().departed),
        missing: lives(&missing),
        undecided: database.live_reconfigurations().count() > 0,
        begun: ids.len() as u8,
        done: count(|phase| matches!(phase, Phase::Committed { .. })),
        given_up: count(|phase| matches!(phase, Phase::Cancelled { .. })),
    }
}

fn give<R: ProtocolRules>(database: &mut Database<R>, change: Change, ids: &mut Vec<ReconfigurationId>) {
    let index = database.index() + 1;
    // Every copy of an acknowledgement is a command of its own, which no memory of ids could tell.
    let operation = OperationId { node: NodeId(1), life: Incarnation(1), sequence: index };
    let begins = matches!(change, Change::Prepare { .. });
    let applied = database.apply(index, &Command { operation, expect: vec![], change });
    if let (true, Ok(outcome)) = (begins, &applied.answer().result) {
        ids.extend(outcome.reconfiguration);
    }
}

fn change_for<R: ProtocolRules>(
    database: &Database<R>,
    entry: Entry,
    by: Steward,
    ids: &[ReconfigurationId],
) -> Change {
    let last = ids.last().copied().unwrap_or(ReconfigurationId(0));
    match entry {
        Entry::Prepare => {
            let swapped = database.rows().virtual_disks[0] == virtual_disk(false);
            let changes = vec![RowChange::Put(Row::VirtualDisk(virtual_disk(swapped)))];
            Change::Prepare { changes, deadline_ms: 1, hold: false }
        }
        Entry::Ack { of, node, life } => Change::Ack {
            reconfiguration: ids.get(usize::from(of) - 1).copied().unwrap_or(ReconfigurationId(0)),
            member: member(usize::from(node), life),
        },
        Entry::Cancel => Change::Cancel { reconfiguration: last, why: CancelCause::Deadline },
        Entry::Members(lives) => {
            let expect = database.membership().number;
            Change::Membership { by, expect, members: members(lives), broken: vec![], causes: vec![] }
        }
    }
}

impl Facts {
    /// What is under way, for a node in a life. Which log index it has makes no difference to anybody.
    fn live_for(&self, at: usize, life: u8) -> Vec<Live> {
        let live = Live {
            id: ReconfigurationId(u64::from(self.begun)),
            preparing: true,
            waits_for_me: self.missing[at] == life,
            volumes: vec![VOLUME],
            deadline: Duration::from_millis(1),
        };
        if self.undecided { vec![live] } else { vec![] }
    }
}

impl<R: ProtocolRules> Cluster<R> {
    fn new(crashes: u8, expulsions: u8, copies: u8) -> Cluster<R> {
        let logs = Mutex::new(HashMap::from([(read::<R>(&[]), vec![])]));
        Cluster { crashes, expulsions, copies, logs, steps: Mutex::default(), obeys: PhantomData }
    }

    fn step(&self, facts: Facts, entry: Entry) -> Facts {
        if let Some(known) = self.steps.lock().expect("no panic").get(&(facts, entry)) {
            return *known;
        }
        let mut log = self.logs.lock().expect("no panic")[&facts].clone();
        log.push(entry);
        let after = read::<R>(&log);
        self.logs.lock().expect("no panic").entry(after).or_insert(log);
        self.steps.lock().expect("no panic").insert((facts, entry), after);
        after
    }

    fn after(&self, state: &State<R>, entries: usize) -> Facts {
        state.log[..entries].iter().fold(state.base, |facts, entry| self.step(facts, *entry))
    }

    fn head(&self, state: &State<R>) -> Facts {
        self.after(state, state.log.len())
    }

    /// What a node knows.
    fn known(&self, state: &State<R>, node: usize) -> Facts {
        self.after(state, usize::from(state.nodes[node].applied))
    }

    /// The log goes on. What changes nothing is nothing.
    fn append(&self, state: &mut State<R>, entry: Entry) {
        let before = self.head(state);
        let after = self.step(before, entry);
        if after == before {
            return;
        }
        state.log.push(entry);
        match entry {
            Entry::Prepare => state.said = [0; NODES],
            Entry::Ack { node, life, .. } => state.said[usize::from(node)] = life,
            _ => {}
        }
        if after.done > before.done {
            state.unsaid |= (0..NODES).any(|at| ![0, state.said[at]].contains(&after.members[at]));
            for asked in state.nodes.iter_mut().filter_map(|node| node.under_way.as_mut()) {
                *asked = Asked::UnderOneThatIsOver;
            }
        }
    }

    /// Whether an entry makes no difference to a node: then it does not matter when it applies it.
    fn is_unseen(&self, before: Facts, after: Facts, at: usize, life: u8) -> bool {
        let seen = |facts: Facts| {
            (facts.members[at], facts.begun, facts.undecided, facts.done, facts.missing[at] == life)
        };
        seen(before) == seen(after)
    }

    /// What makes no difference to a node is applied at once, and what all have applied is the base.
    fn trim(&self, state: &mut State<R>) {
        let mut facts = Vec::from([state.base]);
        for entry in &state.log {
            facts.push(self.step(facts[facts.len() - 1], *entry));
        }
        for (at, node) in state.nodes.iter_mut().enumerate() {
            let mut place = usize::from(node.applied);
            while place + 1 < facts.len() && self.is_unseen(facts[place], facts[place + 1], at, node.life) {
                place += 1;
            }
            node.applied = place as u8;
        }
        let all = state.nodes.iter().map(|node| node.applied).min().unwrap_or(0);
        state.base = self.after(state, usize::from(all));
        state.log.drain(..usize::from(all));
        state.nodes.iter_mut().for_each(|node| node.applied -= all);
        // What is about a reconfiguration that is over never does anything any more.
        let head = self.head(state);
        let matters =
            |ack: &Entry| matches!(ack, Entry::Ack { of, .. } if *of == head.begun) && head.undecided;
        state.network.retain(|(ack, _)| matters(ack));
    }

    /// Tells the participant something, and does what it wants.
    fn tell(&self, state: &mut State<R>, at: usize, now: Time, input: Input) {
        let mut queue = vec![input];
        while let Some(input) = queue.pop() {
            let mut out = Vec::new();
            state.nodes[at].participant.handle(now, input, &mut out);
            for output in out {
                let node = &mut state.nodes[at];
                match output {
                    Output::Suspend(volume) => {
                        node.held = true;
                        if node.under_way.is_none() {
                            queue.push(Input::Drained(volume));
                        }
                    }
                    Output::Resume(_) => node.held = false,
                    Output::Propose(Change::Ack { reconfiguration, member }) => {
                        let (node, life) = (at as u8, member.incarnation.0 as u8);
                        let ack = Entry::Ack { of: reconfiguration.0 as u8, node, life };
                        if !state.network.iter().any(|(other, _)| *other == ack) {
                            state.network.push((ack, self.copies));
                            state.network.sort();
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn applied(&self, state: &mut State<R>, at: usize) {
        let life = state.nodes[at].life;
        let live = self.known(state, at).live_for(at, life);
        self.tell(state, at, Time(0), Input::Applied { me: anybody(life), live });
    }

    fn apply(&self, state: &mut State<R>, at: usize) {
        let before = self.known(state, at);
        state.nodes[at].applied += 1;
        let after = self.known(state, at);
        let node = &mut state.nodes[at];
        // A life that was put out begins anew; what its driver had under way is fenced, and held.
        if before.members[at] == node.life && after.members[at] == 0 {
            node.life += 1;
            node.under_way = None;
            if node.held {
                self.tell(state, at, Time(0), Input::Drained(VOLUME));
            }
        }
        self.applied(state, at);
    }

    fn ask(&self, state: &mut State<R>, at: usize) {
        let is_over = self.known(state, at).done < self.head(state).done;
        let asked = if is_over { Asked::UnderOneThatIsOver } else { Asked::UnderThePresentMapping };
        state.nodes[at].under_way = Some(asked);
    }

    fn take(&self, state: &mut State<R>, action: Action) -> Option<()> {
        let head = self.head(state);
        match action {
            Action::Begin => self.append(state, Entry::Prepare),
            Action::Cancel => self.append(state, Entry::Cancel),
            Action::Arrive(place) => {
                let (ack, left) = &mut state.network[place];
                *left -= 1;
                let (ack, left) = (*ack, *left);
                if left == 0 {
                    state.network.remove(place);
                }
                self.append(state, ack);
            }
            Action::Apply(at) => self.apply(state, at),
            Action::Ask(at) => self.ask(state, at),
            Action::Answer(at) => {
                state.nodes[at].under_way = None;
                if state.nodes[at].held {
                    self.tell(state, at, Time(0), Input::Drained(VOLUME));
                }
            }
            Action::Crash(at) => {
                state.crashes += 1;
                let node = &mut state.nodes[at];
                (node.alive, node.held, node.under_way) = (false, false, None);
                node.participant = Participant::with_rules(anybody(node.life));
            }
            Action::Restart(at) => {
                let node = &mut state.nodes[at];
                (node.alive, node.life) = (true, node.life + 1);
                node.participant = Participant::with_rules(anybody(node.life));
                self.applied(state, at);
            }
            Action::Remove(at) => {
                state.expulsions += u8::from(state.nodes[at].alive);
                let mut lives = head.members;
                lives[at] = 0;
                self.append(state, Entry::Members(lives));
            }
            Action::Admit(at) => {
                let mut lives = head.members;
                lives[at] = state.nodes[at].life;
                self.append(state, Entry::Members(lives));
            }
            // Long after every deadline.
            Action::Lose(at) => self.tell(state, at, Time(u64::MAX / 2), Input::Tick),
        }
        Some(())
    }
}

impl<R: ProtocolRules + Send + Sync> Model for Cluster<R> {
    type State = State<R>;
    type Action = Action;

    fn init_states(&self) -> Vec<State<R>> {
        let node = |at| Node {
            alive: true,
            life: 1,
            applied: 0,
            participant: Participant::with_rules(anybody(1)),
            held: false,
            under_way: (at == ASKS).then_some(Asked::UnderThePresentMapping),
        };
        let nodes = std::array::from_fn(node);
        let (base, said) = (read::<R>(&[]), [0; NODES]);
        let (log, network) = (vec![], vec![]);
        vec![State { base, log, nodes, network, said, unsaid: false, crashes: 0, expulsions: 0 }]
    }

    fn actions(&self, state: &State<R>, actions: &mut Vec<Action>) {
        let head = self.head(state);
        if !head.undecided && head.begun < OPERATIONS {
            actions.push(Action::Begin);
        }
        if head.undecided {
            actions.push(Action::Cancel);
        }
        actions.extend((0..state.network.len()).map(Action::Arrive));
        let others = |at: usize| (0..NODES).any(|other| other != at && head.members[other] > 0);
        for (at, node) in state.nodes.iter().enumerate() {
            let is_in = head.members[at] == node.life;
            if is_in && others(at) && (!node.alive || state.expulsions < self.expulsions) {
                actions.push(Action::Remove(at));
            }
            if !node.alive {
                actions.push(Action::Restart(at));
                continue;
            }
            let known = self.known(state, at);
            if usize::from(node.applied) < state.log.len() {
                actions.push(Action::Apply(at));
            }
            if node.under_way.is_some() {
                actions.push(Action::Answer(at));
            } else if at == ASKS && !node.held && known.members[at] == node.life {
                actions.push(Action::Ask(at));
            }
            if state.crashes < self.crashes {
                actions.push(Action::Crash(at));
            }
            // One that still believes to be in has not learnt that it is out.
            if !is_in && known.members[at] != node.life {
                actions.push(Action::Admit(at));
            }
            if !R::RESUME_ON_LOG_ONLY && node.held {
                actions.push(Action::Lose(at));
            }
        }
    }

    fn next_state(&self, last: &State<R>, action: Action) -> Option<State<R>> {
        let mut state = last.clone();
        self.take(&mut state, action)?;
        self.trim(&mut state);
        let state = least(state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(UNSAID, |_, state: &State<R>| !state.unsaid),
            Property::always(OVER, |model, state: &State<R>| {
                let head = model.head(state);
                let over = |node: &Node<R>| node.under_way == Some(Asked::UnderOneThatIsOver);
                let of_member = |at: usize, node: &Node<R>| node.alive && head.members[at] == node.life;
                !state.nodes.iter().enumerate().any(|(at, node)| over(node) && of_member(at, node))
            }),
            Property::always(
                "what the log holds stands still where it is known",
                |model, state: &State<R>| {
                    let held = |at: usize, node: &Node<R>| node.held || !model.known(state, at).undecided;
                    !R::RESUME_ON_LOG_ONLY
                        || state.nodes.iter().enumerate().all(|(at, node)| !node.alive || held(at, node))
                },
            ),
            Property::always("what the log lets go goes on where it is known", |model, state: &State<R>| {
                let goes = |at: usize, node: &Node<R>| !node.held || model.known(state, at).undecided;
                state.nodes.iter().enumerate().all(|(at, node)| !node.alive || goes(at, node))
            }),
            Property::sometimes("both are done", |model, state: &State<R>| {
                model.head(state).done == OPERATIONS
            }),
            Property::sometimes("both are given up", |model, state: &State<R>| {
                model.head(state).given_up == OPERATIONS
            }),
        ]
    }
}

fn check<R: ProtocolRules + Send + Sync>(
    crashes: u8,
    expulsions: u8,
    copies: u8,
) -> impl Checker<Cluster<R>> {
    Cluster::new(crashes, expulsions, copies).checker().threads(2).spawn_bfs().join()
}

// proves: C4
#[test]
fn no_interleaving_of_two_reconfigurations_and_a_crash_breaks_what_must_hold() {
    let checker = check::<Strict>(1, 0, 1);
    checker.assert_properties();
    println!("{} different states, {} steps", checker.unique_state_count(), checker.state_count());
}

// proves: C4
#[test]
fn no_interleaving_of_two_reconfigurations_and_an_expulsion_breaks_what_must_hold() {
    let checker = check::<Strict>(0, 1, 2);
    checker.assert_properties();
    println!("{} different states, {} steps", checker.unique_state_count(), checker.state_count());
}

// proves: C4
#[test]
fn each_mutant_has_an_interleaving_that_shows_it() {
    assert!(check::<AckOfAnyLife>(0, 1, 2).discovery(UNSAID).is_some());
    assert!(check::<ResumeOnTimer>(0, 0, 1).discovery(OVER).is_some());
}
