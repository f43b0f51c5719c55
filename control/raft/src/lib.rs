//! The replicated log of the control plane: commands, as bytes, in one order on all nodes.
//!
//! The only crate that knows openraft; nothing of it shows outside. A caller gives a [`Machine`] and
//! [`RaftOptions`] to [`start`], hands requests and incoming messages to the [`Handle`], and polls the
//! [`Outputs`] after each wake-up: messages for other nodes, answers, changes of the leader, and the end.
#![forbid(unsafe_code)]
#![allow(clippy::result_large_err, reason = "openraft's errors are as large as they are")]

mod codec;
mod fault;
mod flavour;
mod handle;
mod journal;
mod leadership;
mod log_store;
mod machine;
mod machine_store;
mod members;
mod network;
mod options;
#[cfg(test)]
mod order_tests;
mod post;
mod service;
mod shelf;
mod snapshot_file;
mod snapshot_intake;
#[cfg(test)]
mod storage_tests;
mod thread;
mod wire;
#[cfg(test)]
mod wire_tests;

pub use fault::{Fatal, StartFault};
pub use handle::{Answer, Counters, Handle, NotDone, Outcome, Outgoing, Outputs, RaftState, Refusal, Ticket};
pub use machine::{Machine, RestoreFault};
pub use options::{
    ANSWER_BYTES_MAX, COMMAND_BYTES_MAX, ClusterStamp, Compaction, INCOMING_BYTES_MAX, INCOMING_MAX,
    MEMBERS_MAX, OUTGOING_BYTES_MAX, OUTGOING_MAX, REQUESTS_MAX, RaftOptions, Timing,
};
pub use thread::{Running, start};

/// Bytes of the control part of each message.
pub const CONTROL_BYTES: usize = wire::HEAD_BYTES;
/// Bytes of the data part of a message at the most; the transport takes as many.
pub const DATA_BYTES_MAX: usize = 1 << 20;
