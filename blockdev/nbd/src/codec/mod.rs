//! The bytes of the NBD protocol: typed parsing and encoding of every message, both directions.
//!
//! Pure: no I/O, no clock, no state. Parsing borrows from the input, checks every length against
//! [`crate::limits`] and gives a fault for what the protocol does not allow; no input makes it panic.
//! All integers are big-endian. Source: the NBD protocol document (`doc/proto.md` of the nbd project).

mod bytes;
mod handshake;
mod option;
mod option_reply;
mod reply;
mod request;

pub use bytes::{ByteSink, Head};
pub use handshake::{ClientFlags, Greeting, HandshakeFlags};
pub use option::{ClientOption, ExportQuery, MetaQuery, OptionFault, OptionHeader, option_number};
pub use option_reply::{OptionError, OptionReply, OptionReplyBody, OptionReplyHeader, ServerInfo};
pub use reply::{Chunk, ChunkHeader, ChunkKind, SimpleReply, StatusExtent, chunk_flags};
pub use request::{Command, CommandFlags, Request, TransmissionFlags};

use std::fmt;

/// What came in does not belong to the protocol at all; the stream cannot be trusted any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireFault {
    /// A message starts with the wrong magic number.
    Magic {
        /// The number that was expected.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// A length field is beyond what the protocol or [`crate::limits`] allow.
    Length {
        /// The limit in bytes.
        limit: u32,
        /// The length that came, in bytes.
        found: u32,
    },
    /// A string is not UTF-8, or a body does not have the shape of its kind.
    Shape(&'static str),
}

impl fmt::Display for WireFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic { expected, found } => {
                write!(f, "wrong magic number {found:#x} where {expected:#x} belongs")
            }
            Self::Length { limit, found } => write!(f, "a length of {found} bytes, the limit is {limit}"),
            Self::Shape(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for WireFault {}
