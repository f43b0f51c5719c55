//! How the reactor speaks with the replicated log: it never blocks here, and it never waits but by polling.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use transport_proto::identity::{Incarnation, NodeId};

use crate::fault::Fatal;
use crate::log_store::LogStore;
use crate::options::{COMMAND_BYTES_MAX, INCOMING_BYTES_MAX, REQUESTS_MAX};
use crate::post::Post;

/// The caller's own number for a request, given back with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A message for another node. Sent at most once, in any order; raft asks again for what is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Whom for.
    pub to: NodeId,
    /// At most [`crate::CONTROL_BYTES`] bytes.
    pub control: Vec<u8>,
    /// At most [`crate::DATA_BYTES_MAX`] bytes.
    pub data: Vec<u8>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request's.
    pub ticket: Ticket,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed and applied on the leader. For a read: this node's machine has everything up to `index`,
    /// which is all that was committed when the read began.
    Done {
        /// Index in the log.
        index: u64,
        /// The machine's answer; empty for reads and changes of members.
        answer: Vec<u8>,
    },
    /// May have been committed, or may still be. Propose the same operation again; its id keeps it from being
    /// applied twice.
    Unknown,
    /// Nothing happened and nothing will.
    NotDone(NotDone),
}

/// Why nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// No leader with a majority was found in time.
    #[error("no majority of the voters could be reached; bring more of them up, or mend the network")]
    NoLeader,
    /// Only the leader changes members, and this node is not it.
    #[error("this node does not lead the replicated log")]
    NotLeader,
    /// The leader has too much to do.
    #[error("the leader has too many open requests; try again")]
    Backlog,
    /// An earlier change of members is not finished.
    #[error("a change of the voters is under way; try again when it is done")]
    ChangeUnderWay,
    /// A node that is to vote lags too far behind. It stays a learner and goes on catching up.
    #[error("{node} has not caught up with the log yet; it votes once it has")]
    Behind {
        /// The node.
        node: NodeId,
    },
    /// A configuration without voters, or with too many nodes.
    #[error("a cluster needs at least one voter and takes at most {max} nodes")]
    NoSuchMembers {
        /// [`crate::MEMBERS_MAX`].
        max: usize,
    },
}

/// Why a request was not taken. The caller still has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many requests are open; fetch answers, then try again.
    #[error("{max} requests are open already; try again when one is answered")]
    Backlog {
        /// [`REQUESTS_MAX`].
        max: usize,
    },
    /// The command is too large.
    #[error("a command of {bytes} bytes is larger than the {max} that one may have; split it")]
    TooLarge {
        /// Bytes of the command.
        bytes: usize,
        /// [`COMMAND_BYTES_MAX`].
        max: usize,
    },
    /// The log has stopped.
    #[error("the replicated log of this node has stopped")]
    Stopped,
}

/// What is known of the replicated log, as of now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftState {
    /// The leader; on the leader itself only while a majority answers it.
    pub leader: Option<NodeId>,
    /// Whether this node leads and a majority answers it.
    pub leads: bool,
    /// The term; rises with each election.
    pub term: u64,
    /// Who votes; while the voters change, those before and those after.
    pub voters: BTreeSet<NodeId>,
    /// Who gets the log without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Whether a change of voters is under way.
    pub changing: bool,
    /// Index of the last entry applied here.
    pub applied: u64,
    /// Index of the last entry in the log here.
    pub last: u64,
    /// Index of the last entry in the snapshot here; 0 if there is none.
    pub snapshot: u64,
}

impl RaftState {
    pub(crate) fn same_but_for_indexes(&self, other: &RaftState) -> bool {
        self.leader == other.leader
            && self.leads == other.leads
            && self.term == other.term
            && self.voters == other.voters
            && self.learners == other.learners
            && self.changing == other.changing
    }
}

/// What was thrown away, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages of another cluster, or of a node made from another genesis.
    pub strangers: u64,
    /// Messages of another version of netdisk.
    pub other_version: u64,
    /// Messages that are none.
    pub torn: u64,
    /// Messages of an earlier life of a node.
    pub stale: u64,
    /// Messages that nobody sent because too many waited.
    pub outgoing_dropped: u64,
    /// Messages that nobody read because too many waited.
    pub incoming_dropped: u64,
}

/// What the reactor wants of raft's thread.
pub(crate) enum Order {
    Propose { ticket: Ticket, command: Vec<u8> },
    Read { ticket: Ticket },
    Members { ticket: Ticket, voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId> },
    Receive { from: NodeId, incarnation: Incarnation, control: Vec<u8>, data: Vec<u8> },
    Reachable { node: NodeId, reachable: bool },
    Ended { node: NodeId },
    Snapshot,
}

/// Bytes of messages on their way to raft's thread.
#[derive(Clone, Default)]
pub(crate) struct IncomingBytes(pub(crate) Arc<AtomicUsize>);

/// The way in. Clones speak with the same log.
#[derive(Clone)]
pub struct Handle {
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) incoming: IncomingBytes,
    pub(crate) post: Arc<Post>,
    pub(crate) log: LogStore,
}

impl Handle {
    /// Proposes a command, on any node: it finds its way to the leader. The answer comes as [`Answer`].
    pub fn propose(&self, ticket: Ticket, command: Vec<u8>) -> Result<(), Refusal> {
        let bytes = command.len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(Refusal::TooLarge { bytes, max: COMMAND_BYTES_MAX });
        }
        self.request(Order::Propose { ticket, command })
    }

    /// Asks when this node's machine has all that is committed by now, so that reading it is linearizable.
    pub fn read(&self, ticket: Ticket) -> Result<(), Refusal> {
        self.request(Order::Read { ticket })
    }

    /// On the leader: makes exactly these nodes voters and learners. New voters first catch up as learners.
    /// Asking for what holds already is done at once.
    pub fn set_members(
        &self,
        ticket: Ticket,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> Result<(), Refusal> {
        self.request(Order::Members { ticket, voters, learners })
    }

    fn request(&self, order: Order) -> Result<(), Refusal> {
        if self.post.fatal().is_some() {
            return Err(Refusal::Stopped);
        }
        if !self.post.open_request(REQUESTS_MAX) {
            return Err(Refusal::Backlog { max: REQUESTS_MAX });
        }
        self.orders.try_send(order).map_err(|fault| {
            self.post.withdraw_request();
            match fault {
                mpsc::error::TrySendError::Full(_) => Refusal::Backlog { max: REQUESTS_MAX },
                mpsc::error::TrySendError::Closed(_) => Refusal::Stopped,
            }
        })
    }

    /// A message has come from another node. Any bytes will do; when too many wait it is dropped and counted.
    pub fn receive(&self, from: NodeId, incarnation: Incarnation, control: &[u8], data: &[u8]) {
        let bytes = control.len() + data.len();
        let fits = |waiting: usize| (waiting + bytes <= INCOMING_BYTES_MAX).then_some(waiting + bytes);
        let waiting = &self.incoming.0;
        if waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return self.post.count_incoming_dropped();
        }
        let order = Order::Receive { from, incarnation, control: control.into(), data: data.into() };
        if self.orders.try_send(order).is_err() {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.post.count_incoming_dropped();
        }
    }

    /// Nothing reaches this node now: what was asked of it is given up, and nothing is asked until it is
    /// back. Optional; without it raft finds out by itself, later.
    pub fn peer_unreachable(&self, node: NodeId) {
        self.reachable(node, false);
    }

    /// This node can be reached again.
    pub fn peer_reachable(&self, node: NodeId) {
        self.reachable(node, true);
    }

    fn reachable(&self, node: NodeId, reachable: bool) {
        self.post.set_reachable(node, reachable);
        // Only hurries those who wait for it; they look again by themselves.
        let _ = self.orders.try_send(Order::Reachable { node, reachable });
    }

    /// This node is known to lead no more, since it said so itself. If it is the leader, the voters elect
    /// another one at once, without waiting until its lease is over. To be called on all of them.
    pub fn peer_ended(&self, node: NodeId) {
        // Lost, the election comes when the lease is over.
        let _ = self.orders.try_send(Order::Ended { node });
    }

    /// Takes a snapshot now, and cuts the log short. Otherwise it happens by itself, see
    /// [`crate::Compaction`].
    pub fn snapshot(&self) -> Result<(), Refusal> {
        self.orders.try_send(Order::Snapshot).map_err(|fault| match fault {
            mpsc::error::TrySendError::Full(_) => Refusal::Backlog { max: REQUESTS_MAX },
            mpsc::error::TrySendError::Closed(_) => Refusal::Stopped,
        })
    }

    /// The state as of now.
    pub fn state(&self) -> RaftState {
        self.post.state()
    }

    /// What was thrown away.
    pub fn counters(&self) -> Counters {
        self.post.counters()
    }

    /// Age of the log write that the disk has not finished, for those who watch over hung disks.
    pub fn disk_age(&self) -> Option<Duration> {
        self.log.disk_age()
    }
}

/// The way out, for the one reactor. Poll all of it after each wake-up, until each says `None`.
pub struct Outputs {
    pub(crate) post: Arc<Post>,
}

impl Outputs {
    /// The next message for another node.
    pub fn next_message(&mut self) -> Option<Outgoing> {
        self.post.next_outgoing()
    }

    /// The next answer.
    pub fn next_answer(&mut self) -> Option<Answer> {
        self.post.next_answer()
    }

    /// The state, if leader, term or members have changed since the last call.
    pub fn changed_state(&mut self) -> Option<RaftState> {
        self.post.take_fresh_state()
    }

    /// Why the log has stopped, if it has. The node must stop too.
    pub fn fatal(&self) -> Option<Fatal> {
        self.post.fatal()
    }
}
