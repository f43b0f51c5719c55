//! What peers did wrong, counted, for `status` and for one line in the log.

use core::fmt;
use std::net::SocketAddr;
use transport_proto::wire::FrameFault;
use transport_provider::RailName;

/// How a peer broke the protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpFault {
    /// Its bytes are no frame.
    Frame(FrameFault),
    /// A frame is missing, repeated or out of place: TCP does not do that, so its sender is confused.
    Position {
        /// Position of the frame that should come.
        expected: u64,
        /// Position that it bears.
        found: u64,
    },
}

impl fmt::Display for TcpFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TcpFault::Frame(fault) => write!(f, "{fault}"),
            TcpFault::Position { expected, found } => {
                write!(f, "frame {found} came where {expected} was due")
            }
        }
    }
}

impl core::error::Error for TcpFault {}

/// A fault with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFaultReport {
    /// The rail on which it happened.
    pub rail: RailName,
    /// Who sent it.
    pub peer: SocketAddr,
    /// What it was.
    pub fault: TcpFault,
}

impl fmt::Display for TcpFaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} sent what is no netdisk traffic: {}", self.rail, self.peer, self.fault)
    }
}

/// Counters of one provider's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFaults {
    /// Connections dropped because their peer broke the protocol.
    pub protocol: u64,
    /// Connections that ended in the middle of a frame, which was dropped.
    pub torn: u64,
    /// Callers turned away because every connection was taken.
    pub turned_away: u64,
    /// Times that a connection had to wait for receive memory.
    pub starved: u64,
    /// Data parts dropped since their client held all the receive memory that it may hold; sent again later.
    pub shed: u64,
    /// The last fault of protocol.
    pub last: Option<TcpFaultReport>,
}
