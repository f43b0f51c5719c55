//! The types that openraft is instantiated with. Nothing outside this crate sees them.

use std::fmt;
use std::sync::Arc;

use openraft::impls::OneshotResponder;

/// A proposed command: bytes that mean something to the [`crate::Machine`] only.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Arc<[u8]>);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

/// What applying one log entry gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Index of the entry in the log.
    pub(crate) index: u64,
    /// The machine's answer; empty for entries that the machine never sees.
    pub(crate) answer: Vec<u8>,
}

openraft::declare_raft_types!(
    /// Nodes by number, commands as bytes, snapshots as bytes.
    pub(crate) Flavour:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = openraft::EmptyNode,
        Entry = openraft::Entry<Flavour>,
        SnapshotData = Vec<u8>,
        Responder = OneshotResponder<Flavour>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Entry = openraft::Entry<Flavour>;
pub(crate) type Membership = openraft::Membership<u64, openraft::EmptyNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, openraft::EmptyNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::EmptyNode>;
pub(crate) type Snapshot = openraft::Snapshot<Flavour>;
pub(crate) type StorageError = openraft::StorageError<u64>;
