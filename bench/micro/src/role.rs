//! What a worker process does: each role is the other end of one exchange.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::control::log_node;
use crate::limits::{cache_line, memory_copy, socket_round_trip, socket_stream};
use crate::netdisk::{cluster_node, disk_master, partner};

/// The hidden sub-command that turns this binary, or netdisk, into a worker.
pub(crate) const SUB_COMMAND: &str = "worker";

/// The role of a worker, as its parent writes it into the worker's argument.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Answers each change of a shared cache line.
    CacheLineEcho(cache_line::Echo),
    /// Reads messages that its parent copied into shared memory.
    MemoryCopyReader(memory_copy::Reader),
    /// Sends each message of a socket back.
    SocketEcho(socket_round_trip::Echo),
    /// Takes in the stream of a socket and tells how fast it came.
    SocketSink(socket_stream::Sink),
    /// netdisk's endpoint at the other end.
    NetdiskPartner(partner::Partner),
    /// netdisk's master of a memory disk at the other end.
    NetdiskDiskMaster(disk_master::DiskMaster),
    /// A whole node of a netdisk cluster.
    NetdiskNode(cluster_node::ClusterNode),
    /// A node of the replicated log.
    LogNode(log_node::LogNode),
}

impl Role {
    /// Plays the role until the exchange ends or the parent is gone.
    ///
    /// # Errors
    /// Whatever breaks the exchange; the parent sees the worker end and prints that its reason stands above.
    pub(crate) fn serve(self) -> Result<()> {
        bench_harness::die_with_parent()?;
        match self {
            Self::CacheLineEcho(echo) => echo.serve(),
            Self::MemoryCopyReader(reader) => reader.serve(),
            Self::SocketEcho(echo) => echo.serve(),
            Self::SocketSink(sink) => sink.serve(),
            Self::NetdiskPartner(partner) => partner.serve(),
            Self::NetdiskDiskMaster(master) => master.serve(),
            Self::NetdiskNode(node) => node.serve(),
            Self::LogNode(node) => node.serve(),
        }
    }
}
