//! Why a replicated log does not start, and why a running one stops.

use std::io;
use std::path::PathBuf;

use transport_proto::identity::NodeId;

/// Why the log was not started. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// The folder cannot be made, read or written.
    #[error("{path}: the raft folder cannot be used; check that it exists and that netdisk may write there")]
    Folder {
        /// Folder or file in question.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the log open.
    #[error("{path} is in use: another netdisk runs from this state folder; stop it first")]
    InUse {
        /// The log.
        path: PathBuf,
    },
    /// The file is none of ours.
    #[error("{path} is not a raft log of netdisk and is left as it is; give this node another state folder")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is ours but not whole.
    #[error(
        "{path} is damaged ({why}) and is left as it is; move the state folder away and let this node join \
         again as a new node: the other voters have its rows"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// The file was written by another version.
    #[error("{path} has format {found}, this netdisk reads format {known}; start the version that wrote it")]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Format of the file.
        found: u32,
        /// Format of this program.
        known: u32,
    },
    /// The file belongs to another cluster, or to one of the same name that was made anew.
    #[error("{path} belongs to another cluster; give this node the state folder that it had before")]
    OtherCluster {
        /// The file.
        path: PathBuf,
    },
    /// The file belongs to another node of this cluster. Two nodes with one vote would break the quorum.
    #[error("{path} belongs to {owner}; a state folder cannot be copied from node to node")]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: NodeId,
    },
    /// Options that do not fit together.
    #[error("the times of the replicated log do not fit together: {why}")]
    Options {
        /// What does not fit.
        why: String,
    },
    /// The operating system gave no thread.
    #[error("no thread for the replicated log")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// The log could not be taken up.
    #[error("the replicated log does not start: {why}")]
    Raft {
        /// What failed.
        why: String,
    },
}

/// The log has stopped for good: this node must stop too, since what it holds on disk is no longer known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replicated log has stopped: {why}; stop this node, mend the cause, start it again")]
pub struct Fatal {
    /// What failed: disk full, a write or fsync that the disk refused, a snapshot that cannot be restored.
    pub why: String,
}
