//! Names and faults of rails and connections.

use core::fmt;
use transport_proto::identity::{NodeId, Path};

/// One rail of one peer, as configured. The listener may not know the peer before the handshake, so a rail is
/// listened for under the name of the peer that is expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RailName {
    /// The node at the other end.
    pub peer: NodeId,
    /// Link and rail.
    pub path: Path,
}

impl fmt::Display for RailName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.peer, self.path)
    }
}

/// A connection of one provider: table slot (low 16 bits) and a count that tells reuses of the slot apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u32);

impl ConnectionId {
    /// From table slot and reuse count.
    pub fn new(slot: u16, reuse: u16) -> ConnectionId {
        ConnectionId(u32::from(reuse) << 16 | u32::from(slot))
    }

    /// Table slot.
    #[inline]
    pub fn slot(self) -> usize {
        (self.0 & 0xffff) as usize
    }
}

/// Why a post or a reservation was refused. Nothing happened, the caller still owns everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostRefusal {
    /// Send queue full; [`crate::Sink::writable`] follows.
    Full,
    /// No chunk free at the receiver or in the pool; [`crate::Sink::writable`] follows, or poll and try
    /// again.
    NoMemory,
    /// Larger than any chunk.
    TooLarge,
    /// Not established (payload), or no such connection any more.
    NotConnected,
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub enum ListenRefusal {
    /// The address is in use by a live process.
    InUse {
        /// The address, as configured.
        address: String,
    },
    /// Any other refusal of the operating system.
    Os {
        /// The address, as configured.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl fmt::Display for ListenRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenRefusal::InUse { address } => write!(
                f,
                "rail address {address} is in use: is another node running with this id? \
                 stop it or change the rail"
            ),
            ListenRefusal::Os { address, .. } => {
                write!(f, "cannot listen on rail address {address}: does this machine own it?")
            }
        }
    }
}

impl std::error::Error for ListenRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ListenRefusal::InUse { .. } => None,
            ListenRefusal::Os { source, .. } => Some(source),
        }
    }
}

/// Why a dial could not even begin. Try again later.
#[derive(Debug)]
pub enum DialRefusal {
    /// Every connection slot is taken.
    TooMany,
    /// The operating system refused at once.
    Os(std::io::Error),
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RailFault {
    /// This side closed it.
    Closed,
    /// The peer closed it or its process ended.
    PeerClosed,
    /// Nobody answered at the address.
    Refused,
    /// The path broke (reset, unreachable, timed out).
    Broken,
    /// The peer sent what no peer of ours sends; the details are counted and logged by the provider once.
    Protocol,
    /// Memory for the connection could not be had on this side.
    NoMemory,
}
