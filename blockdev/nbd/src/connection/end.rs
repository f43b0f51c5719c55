//! Why a connection ended.

use std::fmt;

use crate::codec::WireFault;

/// Why a connection ended, for counters and for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The client said `NBD_CMD_DISC`.
    Disconnected,
    /// The client said `NBD_OPT_ABORT`.
    Aborted,
    /// The socket closed without a word, perhaps in the middle of a request.
    HungUp,
    /// The socket failed.
    SocketFailed(std::io::ErrorKind),
    /// The client speaks only the old handshake, which has no way to report errors.
    NotFixedNewstyle,
    /// The client set handshake flags that were not offered.
    UnknownClientFlags(u32),
    /// The client sends options without end.
    TooManyOptions,
    /// `NBD_OPT_EXPORT_NAME` named an export that cannot be opened; that option has no other answer.
    ExportRefused,
    /// What came is not NBD.
    Garbage(WireFault),
    /// A read failed after a part of its simple reply was out; the protocol knows no other way to tell.
    ReplyTorn,
    /// The client did not finish its handshake in time and another client needed the place.
    HandshakeTooSlow,
    /// The server stops.
    Stopping,
}

impl EndReason {
    /// Did the client break the protocol?
    pub fn is_client_fault(self) -> bool {
        match self {
            Self::NotFixedNewstyle
            | Self::UnknownClientFlags(_)
            | Self::TooManyOptions
            | Self::Garbage(_) => true,
            Self::Disconnected
            | Self::Aborted
            | Self::HungUp
            | Self::SocketFailed(_)
            | Self::ExportRefused
            | Self::ReplyTorn
            | Self::HandshakeTooSlow
            | Self::Stopping => false,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("the client disconnected"),
            Self::Aborted => f.write_str("the client gave up the handshake"),
            Self::HungUp => f.write_str("the client hung up without disconnecting"),
            Self::SocketFailed(kind) => write!(f, "the socket failed: {kind}"),
            Self::NotFixedNewstyle => {
                f.write_str("the client does not speak the fixed newstyle handshake; use a newer client")
            }
            Self::UnknownClientFlags(flags) => {
                write!(f, "the client set handshake flags {flags:#x} that were not offered")
            }
            Self::TooManyOptions => f.write_str("the client sent options without end"),
            Self::ExportRefused => f.write_str("the client named an export that cannot be opened"),
            Self::Garbage(fault) => write!(f, "what the client sent is not NBD: {fault}"),
            Self::ReplyTorn => f.write_str("a read failed in the middle of its simple reply"),
            Self::HandshakeTooSlow => f.write_str("the client did not finish its handshake in time"),
            Self::Stopping => f.write_str("the server stops"),
        }
    }
}
