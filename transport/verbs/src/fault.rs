//! What a peer can do that no peer of ours does, and what the provider counts.

use core::fmt;
use transport_proto::wire::FrameFault;
use transport_provider::RailName;

/// A breach of protocol by the process at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolFault {
    /// A frame header that cannot be.
    Frame(FrameFault),
    /// Control part and inline data do not fit what came.
    Body {
        /// Bytes that the header claims.
        claimed: usize,
        /// Bytes there were.
        available: usize,
    },
    /// A chunk that does not exist, is too small for the data, or was not the peer's to hand over.
    Chunk {
        /// Its number, as the peer says.
        index: u32,
        /// Bytes, as the device says.
        length: usize,
    },
    /// A frame is missing, repeated or out of place: a reliable connection does not do that.
    Position {
        /// Position of the frame that should come.
        expected: u32,
        /// Position that it bears.
        found: u32,
    },
    /// It claims to have taken frames that were never sent.
    Consumed,
    /// More frames than a handshake has.
    Greetings,
    /// Payload, or a frame by the side channel, at a time when there must be none.
    OutOfTurn,
    /// A grant or a notice that this version does not know.
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
            ProtocolFault::Position { expected, found } => {
                write!(f, "frame {found} came where {expected} was due")
            }
            ProtocolFault::Consumed => write!(f, "peer claims to have taken frames that were never sent"),
            ProtocolFault::Greetings => write!(f, "more frames than a handshake has"),
            ProtocolFault::OutOfTurn => write!(f, "frame at a time when there must be none"),
            ProtocolFault::Grant => write!(f, "grant or notice of a kind that this version does not know"),
        }
    }
}

impl std::error::Error for ProtocolFault {}

/// What the provider has counted since it began. The first three are bugs of this provider if they are not 0
/// among peers of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Times that a peer had no receive posted.
    pub receiver_not_ready: u64,
    /// Requests that a device refused for their memory.
    pub access_faults: u64,
    /// Posts that a queue had no room for although this side's books said so.
    pub queue_overruns: u64,
    /// Requests that came back undone because their queue had failed.
    pub flushed: u64,
    /// Connections that ended because the path or the peer did not answer any more.
    pub retries_exceeded: u64,
    /// Connections that ended because the port went down, its address moved, or the device vanished.
    pub device_losses: u64,
    /// Devices that vanished.
    pub devices_gone: u64,
    /// Connections that could not be set up for want of a device, memory or an answer.
    pub setups_failed: u64,
    /// Connections whose queue had to be destroyed before all its requests came back.
    pub drains_cut_short: u64,
    /// Connections that ended by a breach of protocol.
    pub protocol_faults: u64,
    /// The last of these.
    pub last_fault: Option<(RailName, ProtocolFault)>,
    /// Peers turned away because every connection was taken.
    pub turned_away: u64,
    /// Doorbells rung.
    pub doorbells: u64,
    /// Sends posted.
    pub sends: u64,
    /// Sends that completed with a signal.
    pub signals: u64,
    /// Data bytes that went from registered memory.
    pub bytes_without_copy: u64,
    /// Data bytes that were copied into registered memory first.
    pub bytes_copied: u64,
}
