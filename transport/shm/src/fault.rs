//! What a peer can do that no peer of ours does. Each ends its connection and is counted.

use core::fmt;
use transport_proto::wire::FrameFault;

/// A breach of protocol by the process at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolFault {
    /// A frame header that cannot be.
    Frame(FrameFault),
    /// Control part and inline data are longer than a slot, or than the datagram they came in.
    Body {
        /// Bytes that the header claims.
        claimed: usize,
        /// Bytes there were or can be.
        available: usize,
    },
    /// A chunk that does not exist, is too small for the data, or was not the peer's to hand over.
    Chunk {
        /// Its number, as the peer says.
        index: u32,
        /// Bytes of data, as the peer says.
        length: usize,
    },
    /// It claims to have taken frames that were never sent.
    Consumed,
    /// More frames than a handshake has.
    Greetings,
    /// Payload, or a frame by socket, at a time when there must be none.
    OutOfTurn,
    /// Memory that is not what was announced, or announced in a way this version does not know.
    Grant,
}

impl fmt::Display for ProtocolFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolFault::Frame(fault) => write!(f, "{fault}"),
            ProtocolFault::Body { claimed, available } => {
                write!(f, "frame claims {claimed} bytes behind its header where {available} are")
            }
            ProtocolFault::Chunk { index, length } => {
                write!(
                    f,
                    "{length} bytes in chunk {index}, which is not the peer's to hand over or too small"
                )
            }
            ProtocolFault::Consumed => write!(f, "peer claims to have taken frames that were never sent"),
            ProtocolFault::Greetings => write!(f, "more frames than a handshake has"),
            ProtocolFault::OutOfTurn => write!(f, "frame at a time when there must be none"),
            ProtocolFault::Grant => write!(f, "shared memory is not what was announced"),
        }
    }
}

impl std::error::Error for ProtocolFault {}
