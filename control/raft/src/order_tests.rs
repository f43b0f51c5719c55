//! A node whose disk waits for the test: what it says to others before the disk has written, and what only
//! then.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use openraft::raft::{AppendEntriesRequest, VoteResponse};
use openraft::testing::log_id;
use openraft::{EntryPayload, Vote};
use transport_proto::identity::{Incarnation, NodeId};

use crate::codec::{self, Reader};
use crate::flavour::{Command, Entry};
use crate::log_store::LogStore;
use crate::shelf::{Batch, Contents, Shelf, ShelfFault};
use crate::thread::start_on;
use crate::wire::{AppendAnswer, Message};
use crate::{ClusterStamp, Machine, Outcome, RaftOptions, RestoreFault, Running, Ticket};

const STAMP: ClusterStamp = ClusterStamp { cluster: 5, genesis: [1; 32] };
const OTHER: NodeId = NodeId(2);

/// What the disk is about to write.
struct Writing {
    entries: usize,
    /// One of them is a command.
    commands: bool,
}

/// Tells the test what it is to write, and waits for leave.
struct Slow {
    begun: Sender<Writing>,
    leave: Receiver<bool>,
}

impl Shelf for Slow {
    fn keep(&mut self, batch: &Batch) -> Result<(), ShelfFault> {
        let entry = |bytes: &Vec<u8>| codec::entry(&mut Reader::new(bytes)).unwrap();
        let commands = batch.entries.iter().map(entry).any(|entry| is_command(&entry));
        let alone = self.begun.send(Writing { entries: batch.entries.len(), commands }).is_err();
        if alone || self.leave.recv().unwrap_or(true) {
            return Ok(());
        }
        Err(ShelfFault { path: "raft.log".into(), why: "Input/output error".into() })
    }
}

struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _index: u64, _command: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _index: u64, _bytes: &[u8]) -> Result<(), RestoreFault> {
        Ok(())
    }
}

/// Dropped from the top: without its test the disk no longer waits, so that the log can stop.
struct Node {
    begun: Receiver<Writing>,
    leave: Sender<bool>,
    running: Running,
}

impl Node {
    /// Node 1 of these voters.
    fn of(voters: &[u16]) -> Node {
        let (begun_sender, begun) = channel();
        let (leave, leave_receiver) = channel();
        let voters: BTreeSet<NodeId> = voters.iter().map(|voter| NodeId(*voter)).collect();
        // Nothing is written there: the log is the test's, and no snapshot is taken.
        let options = RaftOptions::new(NodeId(1), STAMP, PathBuf::from("/nonexistent"), voters);
        let log = LogStore::new(Slow { begun: begun_sender, leave: leave_receiver }, Contents::default());
        let test = thread::current();
        let running = start_on(options, log, Nothing, move || test.unpark()).unwrap();
        Node { running, begun, leave }
    }

    fn hear(&self, call: u64, message: &Message) {
        let parts = message.encode(STAMP, call);
        self.running.handle.receive(OTHER, Incarnation(1), &parts.control, &parts.data);
    }

    /// What the node has said to the other so far.
    fn said(&mut self) -> Vec<(u64, Message)> {
        let mut said = Vec::new();
        while let Some(message) = self.running.outputs.next_message() {
            if message.to == OTHER {
                said.push(Message::decode(STAMP, &message.control, &message.data).unwrap());
            }
        }
        said
    }

    /// Lets the disk write until `found` in what the node says.
    fn say<T>(&mut self, found: impl Fn(&(u64, Message)) -> Option<T>) -> T {
        loop {
            if let Some(found) = self.said().iter().find_map(&found) {
                return found;
            }
            match self.begun.try_recv() {
                Ok(_) => self.leave.send(true).unwrap(),
                Err(_) => thread::park_timeout(std::time::Duration::from_millis(5)),
            }
        }
    }

    /// Waits until the disk is to write entries, granting what is not entries.
    fn entries_begin(&mut self) -> usize {
        loop {
            match self.begun.recv().unwrap().entries {
                0 => self.leave.send(true).unwrap(),
                entries => return entries,
            }
        }
    }
}

fn is_command(entry: &Entry) -> bool {
    matches!(entry.payload, EntryPayload::Normal(_))
}

fn entry(index: u64) -> Entry {
    let payload = EntryPayload::Normal(Command(std::sync::Arc::from([1])));
    Entry { log_id: log_id(3, 2, index), payload }
}

fn append(indexes: std::ops::Range<u64>, commit: Option<u64>) -> Message {
    let prev_log_id = indexes.start.checked_sub(1).map(|index| log_id(3, 2, index));
    Message::Append(AppendEntriesRequest {
        vote: Vote::new_committed(3, 2),
        prev_log_id,
        entries: indexes.map(entry).collect(),
        leader_commit: commit.map(|index| log_id(3, 2, index)),
    })
}

fn is_appended(said: &(u64, Message)) -> Option<AppendAnswer> {
    match &said.1 {
        Message::Appended(answer) => Some(answer.clone()),
        _ => None,
    }
}

// proves: C1
#[test]
fn a_follower_answers_only_when_its_disk_has_written() {
    let mut node = Node::of(&[2, 3]);
    node.hear(1, &append(0..3, None));
    assert_eq!(node.entries_begin(), 3);
    assert!(node.said().iter().all(|said| is_appended(said).is_none()), "the disk has not written yet");
    node.leave.send(true).unwrap();
    assert_eq!(node.say(is_appended), AppendAnswer::Success);
}

#[test]
fn a_follower_whose_disk_fails_says_so_and_stops() {
    let mut node = Node::of(&[2, 3]);
    node.hear(1, &append(0..3, None));
    node.entries_begin();
    node.leave.send(false).unwrap();
    while node.running.outputs.fatal().is_none() {
        assert!(node.said().iter().all(|said| is_appended(said) != Some(AppendAnswer::Success)));
        thread::park_timeout(std::time::Duration::from_millis(5));
    }
    assert!(node.running.outputs.fatal().unwrap().why.contains("Input/output error"));
    node.hear(2, &append(0..3, None));
    assert!(node.said().iter().all(|said| is_appended(said) != Some(AppendAnswer::Success)));
}

/// A leader, elected by the other node's vote.
fn leader() -> Node {
    let mut node = Node::of(&[1, 2]);
    let (call, vote) = node.say(|(call, message)| match message {
        Message::Vote(request) => Some((*call, request.vote)),
        _ => None,
    });
    node.hear(call, &Message::Voted(VoteResponse::new(vote, None, true)));
    loop {
        let (call, blank) = node.say(|(call, message)| match message {
            Message::Append(request) => Some((*call, !request.entries.is_empty())),
            _ => None,
        });
        node.hear(call, &Message::Appended(AppendAnswer::Success));
        if blank {
            return node;
        }
    }
}

// proves: C1
#[test]
fn a_leader_sends_while_its_disk_writes_and_answers_when_both_are_done() {
    let mut node = leader();
    node.running.handle.propose(Ticket(1), b"x".to_vec()).unwrap();
    let mut sent = None;
    loop {
        let writing = node.begun.try_recv();
        for (call, message) in node.said() {
            match message {
                Message::Append(request) if request.entries.iter().any(is_command) => sent = Some(call),
                Message::Append(_) => node.hear(call, &Message::Appended(AppendAnswer::Success)),
                _ => {}
            }
        }
        match writing {
            Ok(writing) if writing.commands => break,
            Ok(_) => node.leave.send(true).unwrap(),
            Err(_) => thread::park_timeout(std::time::Duration::from_millis(5)),
        }
    }
    let call = sent.expect("sent before the disk began to write");
    node.hear(call, &Message::Appended(AppendAnswer::Success));
    assert!(node.running.outputs.next_answer().is_none(), "its own disk has not written yet");
    node.leave.send(true).unwrap();
    loop {
        if let Some(answer) = node.running.outputs.next_answer() {
            assert!(matches!(answer.outcome, Outcome::Done { .. }));
            return;
        }
        if node.begun.try_recv().is_ok() {
            node.leave.send(true).unwrap();
        }
        for (call, message) in node.said() {
            if let Message::Append(_) = message {
                node.hear(call, &Message::Appended(AppendAnswer::Success));
            }
        }
        thread::park_timeout(std::time::Duration::from_millis(5));
    }
}
