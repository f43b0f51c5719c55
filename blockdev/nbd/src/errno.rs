//! Why a block operation failed, as far as a client can be told.

use std::fmt;

/// The error values of the block interface; each has exactly one number on the wire.
///
/// The service chooses the value that fits the cause, the client's kernel or library turns the number into
/// its own errno. Source: NBD protocol, "Error values".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockErrno {
    /// The export is read-only or the client may not do this.
    NotPermitted,
    /// The disk or every path to it failed.
    Io,
    /// No memory for the request now; the same request may succeed later.
    NoMemory,
    /// The request itself is wrong: unknown command or flag, out of bounds, not aligned.
    Invalid,
    /// A write beyond the end, or a thin disk is full.
    NoSpace,
    /// The answer would be larger than the client allowed, for instance an unfragmented read.
    Overflow,
    /// Not possible for this disk, for instance zeroing without writing.
    NotSupported,
    /// The server is about to stop.
    Shutdown,
}

impl BlockErrno {
    /// Every value once, for tables and tests.
    pub const ALL: [Self; 8] = [
        Self::NotPermitted,
        Self::Io,
        Self::NoMemory,
        Self::Invalid,
        Self::NoSpace,
        Self::Overflow,
        Self::NotSupported,
        Self::Shutdown,
    ];

    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            Self::NotPermitted => 1,
            Self::Io => 5,
            Self::NoMemory => 12,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSupported => 95,
            Self::Shutdown => 108,
        }
    }

    /// The value of a number on the wire. Numbers that the protocol does not know count as invalid, as it
    /// says.
    pub fn from_number(number: u32) -> Self {
        Self::ALL.into_iter().find(|errno| errno.number() == number).unwrap_or(Self::Invalid)
    }

    /// What a person reads in the error chunk when nothing more precise is known.
    pub fn message(self) -> &'static str {
        match self {
            Self::NotPermitted => "the export does not permit this",
            Self::Io => "the disk or every path to it failed",
            Self::NoMemory => "no memory for the request at the moment",
            Self::Invalid => "the request is not valid",
            Self::NoSpace => "no space left on the disk",
            Self::Overflow => "the answer would be too large",
            Self::NotSupported => "the disk cannot do this",
            Self::Shutdown => "the server is shutting down",
        }
    }
}

impl fmt::Display for BlockErrno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for BlockErrno {}
