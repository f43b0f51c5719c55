//! The requests of the transmission phase, and the flags that say what an export can do.

use super::WireFault;
use super::bytes::{ByteSink, Fields};

const REQUEST_MAGIC: u32 = 0x2560_9513;

/// What an export can do, told at the end of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransmissionFlags(pub u16);

impl TransmissionFlags {
    #![allow(missing_docs, reason = "the names are the protocol's own")]
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const ROTATIONAL: u16 = 1 << 4;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_RESIZE: u16 = 1 << 9;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;

    /// Is every one of these flags set?
    pub fn has(self, flags: u16) -> bool {
        self.0 & flags == flags
    }
}

/// Flags of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandFlags(pub u16);

impl CommandFlags {
    #![allow(missing_docs, reason = "the names are the protocol's own")]
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;

    /// Is every one of these flags set?
    pub fn has(self, flags: u16) -> bool {
        self.0 & flags == flags
    }

    /// Is any flag set beyond these?
    pub fn exceeds(self, allowed: u16) -> bool {
        self.0 & !allowed != 0
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read bytes.
    Read,
    /// Write the payload that follows.
    Write,
    /// Disconnect.
    Disconnect,
    /// Make earlier writes durable.
    Flush,
    /// The bytes are no longer needed.
    Trim,
    /// Read ahead into a cache.
    Cache,
    /// Write zeroes.
    WriteZeroes,
    /// Tell what is allocated.
    BlockStatus,
    /// A command that we do not know.
    Unknown(u16),
}

impl Command {
    fn number(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Unknown(number) => number,
        }
    }

    fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            _ => Self::Unknown(number),
        }
    }
}

/// One request, 28 bytes; a write's payload follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Flags.
    pub flags: CommandFlags,
    /// What to do.
    pub command: Command,
    /// Chosen by the client; comes back in the reply. Clients must not, but may, use one twice.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

impl Request {
    /// Bytes on the wire, payload excluded.
    pub const BYTES: usize = 28;

    /// Appends the request; the payload of a write is the caller's to append.
    pub fn encode(&self, sink: &mut impl ByteSink) {
        sink.put_u32(REQUEST_MAGIC);
        sink.put_u16(self.flags.0);
        sink.put_u16(self.command.number());
        sink.put_u64(self.cookie);
        sink.put_u64(self.offset);
        sink.put_u32(self.length);
    }

    /// Reads a request; `Ok(None)` while bytes are missing.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, WireFault> {
        let mut fields = Fields(input);
        match fields.u32() {
            None => return Ok(None),
            Some(REQUEST_MAGIC) => {}
            Some(found) => {
                let (expected, found) = (u64::from(REQUEST_MAGIC), u64::from(found));
                return Err(WireFault::Magic { expected, found });
            }
        }
        Ok(Self::parse_body(&mut fields))
    }

    fn parse_body(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            flags: CommandFlags(fields.u16()?),
            command: Command::from_number(fields.u16()?),
            cookie: fields.u64()?,
            offset: fields.u64()?,
            length: fields.u32()?,
        })
    }
}
