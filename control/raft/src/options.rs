//! What a node's replicated log is started with, and the limits of everything in it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use transport_proto::identity::NodeId;

/// Bytes of one command at the most. Fits, with its neighbours, into one message of the transport.
pub const COMMAND_BYTES_MAX: usize = 256 << 10;
/// Bytes of a machine's answer to a command at the most; of a longer one a proposer on another node learns
/// only that the outcome is unknown.
pub const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Nodes that take part, as voters or learners, at the most.
pub const MEMBERS_MAX: usize = 256;
/// Proposals, reads and changes of members that one node may have open at once; more are refused.
pub const REQUESTS_MAX: usize = 1024;
/// Messages that wait for the reactor at the most; a further one is dropped and counted, raft sends it again.
pub const OUTGOING_MAX: usize = 1024;
/// Bytes of messages that wait for the reactor at the most.
pub const OUTGOING_BYTES_MAX: usize = 8 << 20;
/// Messages, and orders of the reactor, that wait for raft at the most.
pub const INCOMING_MAX: usize = 2 * REQUESTS_MAX;
/// Bytes of messages that wait for raft at the most.
pub const INCOMING_BYTES_MAX: usize = 16 << 20;
/// Bytes of log entries in one message; one entry more may exceed it.
pub(crate) const MESSAGE_ENTRIES_BYTES: usize = 256 << 10;
/// Bytes of a snapshot in one message.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 128 << 10;

/// Which cluster this is. Every message and every file carries it; what another cluster sends or wrote is
/// refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClusterStamp {
    /// Number of the cluster, chosen at random when it was made.
    pub cluster: u64,
    /// Digest of what the cluster was made from, so that nodes made from differing files notice.
    pub genesis: [u8; 32],
}

/// Times of heartbeats and elections. A leader's death is noticed after its lease (`election_max`) and
/// another `election_min..election_max`, rounded up to the next tick (1.5 × `heartbeat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From one heartbeat of the leader to the next.
    pub heartbeat: Duration,
    /// Shortest patience of a follower.
    pub election_min: Duration,
    /// Longest patience of a follower, and how long a leader's lease lasts.
    pub election_max: Duration,
    /// How long a proposal or read may stay open; then its outcome is unknown.
    pub request: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(250),
            election_max: Duration::from_millis(450),
            request: Duration::from_secs(5),
        }
    }
}

/// When the log is cut short by a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Entries since the last snapshot that call for a new one.
    pub entries: u64,
    /// Bytes of log since the last snapshot that call for a new one. The whole log is also in memory.
    pub bytes: usize,
    /// Entries kept behind a snapshot, so that a follower that lags a little needs no snapshot.
    pub keep_entries: u64,
    /// Bytes of a snapshot at the most; a larger one from another node is refused.
    pub snapshot_bytes_max: usize,
}

impl Default for Compaction {
    fn default() -> Self {
        Compaction { entries: 5000, bytes: 4 << 20, keep_entries: 500, snapshot_bytes_max: 64 << 20 }
    }
}

/// What a node's replicated log is started with.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub stamp: ClusterStamp,
    /// Folder of the log and the snapshot; made if it is missing. One node's alone.
    pub folder: PathBuf,
    /// The voters of a new cluster, the same on each of them. Looked at only while the folder has no log yet;
    /// on a node that joins later it is empty, and the leader tells it everything.
    pub first_voters: BTreeSet<NodeId>,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// Snapshots and purging.
    pub compaction: Compaction,
}

impl RaftOptions {
    /// Default times and limits.
    pub fn new(
        node: NodeId,
        stamp: ClusterStamp,
        folder: impl Into<PathBuf>,
        first_voters: BTreeSet<NodeId>,
    ) -> RaftOptions {
        RaftOptions {
            node,
            stamp,
            folder: folder.into(),
            first_voters,
            timing: Timing::default(),
            compaction: Compaction::default(),
        }
    }
}
