//! Nodes in one process, joined by a switch that the test's own thread turns: it carries messages, cuts
//! links, stops and restarts nodes.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

pub mod scratch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::Duration;

use control_raft::{
    ClusterStamp, Machine, NotDone, Outcome, RaftOptions, RaftState, RestoreFault, Running, Ticket, start,
};
use transport_proto::identity::{Incarnation, NodeId};

pub use scratch::Scratch;

pub const STAMP: ClusterStamp = ClusterStamp { cluster: 7, genesis: [3; 32] };

/// Commands with their indexes.
pub type Lines = Vec<(u64, Vec<u8>)>;

/// A machine that remembers each command with its index, and answers with how many it has.
#[derive(Clone, Default)]
pub struct Journal {
    pub lines: Arc<Mutex<Lines>>,
}

impl Journal {
    pub fn commands(&self) -> Vec<Vec<u8>> {
        self.lines.lock().unwrap().iter().map(|(_, command)| command.clone()).collect()
    }

    pub fn lines(&self) -> Lines {
        self.lines.lock().unwrap().clone()
    }
}

impl Machine for Journal {
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8> {
        let mut lines = self.lines.lock().unwrap();
        if let Some((last, _)) = lines.last() {
            assert!(*last < index, "indexes rise");
        }
        lines.push((index, command.to_vec()));
        (lines.len() as u64).to_le_bytes().to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, command) in self.lines.lock().unwrap().iter() {
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(&(command.len() as u32).to_le_bytes());
            bytes.extend_from_slice(command);
        }
        bytes
    }

    fn restore(&mut self, _index: u64, mut bytes: &[u8]) -> Result<(), RestoreFault> {
        let mut lines = Vec::new();
        while let Some((head, rest)) = bytes.split_at_checked(12) {
            let index = u64::from_le_bytes(head[..8].try_into().unwrap());
            let length = u32::from_le_bytes(head[8..].try_into().unwrap()) as usize;
            let Some((command, rest)) = rest.split_at_checked(length) else {
                return Err(RestoreFault { why: "cut short".into() });
            };
            lines.push((index, command.to_vec()));
            bytes = rest;
        }
        *self.lines.lock().unwrap() = lines;
        Ok(())
    }
}

pub struct Node {
    pub running: Running,
    pub journal: Journal,
    pub life: Incarnation,
}

pub struct Cluster {
    pub scratch: Scratch,
    pub nodes: BTreeMap<NodeId, Node>,
    pub answers: BTreeMap<Ticket, Outcome>,
    /// One-way: nothing goes from the first to the second.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// Changes what a node is started with.
    pub adjust: fn(&mut RaftOptions),
    /// Of so many messages one is lost and the next one comes twice; 0: none.
    pub lose_one_in: u64,
    pub messages: u64,
    pub largest_data: usize,
    voters: BTreeSet<NodeId>,
    tickets: u64,
    lives: u64,
}

pub fn ids(numbers: &[u16]) -> BTreeSet<NodeId> {
    numbers.iter().map(|number| NodeId(*number)).collect()
}

impl Cluster {
    /// Starts these nodes as the voters of a new cluster.
    pub fn of(voters: &[u16]) -> Cluster {
        Cluster::adjusted(voters, |_| {})
    }

    pub fn adjusted(voters: &[u16], adjust: fn(&mut RaftOptions)) -> Cluster {
        Cluster::within(Scratch::new(), voters, adjust)
    }

    pub fn within(scratch: Scratch, voters: &[u16], adjust: fn(&mut RaftOptions)) -> Cluster {
        let mut cluster = Cluster {
            scratch,
            nodes: BTreeMap::new(),
            answers: BTreeMap::new(),
            cut: BTreeSet::new(),
            adjust,
            lose_one_in: 0,
            messages: 0,
            largest_data: 0,
            voters: ids(voters),
            tickets: 0,
            lives: 0,
        };
        for voter in cluster.voters.clone() {
            cluster.start(voter.0);
        }
        cluster
    }

    pub fn start(&mut self, node: u16) {
        let node = NodeId(node);
        let first = if self.voters.contains(&node) { self.voters.clone() } else { BTreeSet::new() };
        let mut options = RaftOptions::new(node, STAMP, self.folder(node.0), first);
        (self.adjust)(&mut options);
        let journal = Journal::default();
        let pump: Thread = thread::current();
        let running = start(options, journal.clone(), move || pump.unpark()).unwrap();
        self.lives += 1;
        self.nodes.insert(node, Node { running, journal, life: Incarnation(self.lives) });
        for (other, there) in &self.nodes {
            if *other != node {
                there.running.handle.peer_reachable(node);
            }
        }
    }

    pub fn folder(&self, node: u16) -> std::path::PathBuf {
        self.scratch.path().join(format!("node-{node}"))
    }

    pub fn stop(&mut self, node: u16) {
        if let Some(node) = self.nodes.remove(&NodeId(node)) {
            node.running.stop();
        }
        for there in self.nodes.values() {
            there.running.handle.peer_unreachable(NodeId(node));
        }
    }

    /// Cuts a node off, or joins it again.
    pub fn isolate(&mut self, node: u16, isolated: bool) {
        for other in self.nodes.keys().copied().collect::<Vec<_>>() {
            for pair in [(NodeId(node), other), (other, NodeId(node))] {
                if isolated {
                    self.cut.insert(pair)
                } else {
                    self.cut.remove(&pair)
                };
            }
        }
    }

    /// Carries what waits. Whether there was anything.
    pub fn turn(&mut self) -> bool {
        let mut moved = false;
        let mut mail = Vec::new();
        for (from, node) in &mut self.nodes {
            while let Some(answer) = node.running.outputs.next_answer() {
                moved = true;
                assert!(self.answers.insert(answer.ticket, answer.outcome).is_none(), "answered once");
            }
            moved |= node.running.outputs.changed_state().is_some();
            while let Some(message) = node.running.outputs.next_message() {
                moved = true;
                mail.push((*from, node.life, message));
            }
        }
        for (from, life, message) in mail {
            assert!(message.control.len() <= control_raft::CONTROL_BYTES);
            assert!(message.data.len() <= control_raft::DATA_BYTES_MAX);
            self.messages += 1;
            self.largest_data = self.largest_data.max(message.data.len());
            if !self.cut.contains(&(from, message.to))
                && let Some(there) = self.nodes.get(&message.to)
            {
                let copies = match self.messages.checked_rem(self.lose_one_in) {
                    Some(0) => 0,
                    Some(1) => 2,
                    _ => 1,
                };
                for _ in 0..copies {
                    there.running.handle.receive(from, life, &message.control, &message.data);
                }
            }
        }
        moved
    }

    /// Turns the switch until something holds.
    pub fn until<T>(&mut self, mut holds: impl FnMut(&mut Cluster) -> Option<T>) -> T {
        loop {
            if let Some(found) = holds(self) {
                return found;
            }
            if !self.turn() {
                // Indexes change without a wake-up; looking again now and then is enough.
                thread::park_timeout(Duration::from_millis(20));
            }
        }
    }

    pub fn state(&self, node: u16) -> RaftState {
        self.nodes[&NodeId(node)].running.handle.state()
    }

    pub fn leader(&mut self) -> u16 {
        self.until(|cluster| {
            let leading = |node: &&NodeId| cluster.state(node.0).leads;
            cluster.nodes.keys().find(leading).map(|leader| leader.0)
        })
    }

    pub fn followers(&mut self) -> Vec<u16> {
        let leader = self.leader();
        self.nodes.keys().map(|node| node.0).filter(|node| *node != leader).collect()
    }

    pub fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    pub fn propose(&mut self, node: u16, command: &[u8]) -> Ticket {
        let ticket = self.ticket();
        self.nodes[&NodeId(node)].running.handle.propose(ticket, command.into()).unwrap();
        ticket
    }

    pub fn answer(&mut self, ticket: Ticket) -> Outcome {
        self.until(|cluster| cluster.answers.remove(&ticket))
    }

    /// Proposes until it is done; where the outcome is unknown it may then be there twice.
    pub fn write(&mut self, node: u16, command: &[u8]) -> u64 {
        loop {
            let ticket = self.propose(node, command);
            match self.answer(ticket) {
                Outcome::Done { index, .. } => return index,
                Outcome::Unknown | Outcome::NotDone(NotDone::NoLeader | NotDone::Backlog) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn read(&mut self, node: u16) -> Outcome {
        let ticket = self.ticket();
        self.nodes[&NodeId(node)].running.handle.read(ticket).unwrap();
        self.answer(ticket)
    }

    pub fn set_members(&mut self, node: u16, voters: &[u16], learners: &[u16]) -> Outcome {
        let ticket = self.ticket();
        let handle = &self.nodes[&NodeId(node)].running.handle;
        handle.set_members(ticket, ids(voters), ids(learners)).unwrap();
        self.answer(ticket)
    }

    pub fn commands(&self, node: u16) -> Vec<Vec<u8>> {
        self.nodes[&NodeId(node)].journal.commands()
    }

    pub fn await_commands(&mut self, node: u16, count: usize) {
        self.until(|cluster| (cluster.commands(node).len() >= count).then_some(()));
    }

    /// All nodes have the same lines, as far as they have come.
    pub fn assert_same_history(&self) {
        let mut longest: Vec<(u64, Vec<u8>)> = Vec::new();
        for node in self.nodes.values() {
            let lines = node.journal.lines();
            let common = lines.len().min(longest.len());
            assert_eq!(lines[..common], longest[..common], "histories differ");
            if lines.len() > longest.len() {
                longest = lines;
            }
        }
    }
}
