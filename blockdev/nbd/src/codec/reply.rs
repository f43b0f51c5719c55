//! The replies of the transmission phase: simple ones, and structured ones made of chunks.

use super::WireFault;
use super::bytes::{ByteSink, Fields};
use crate::BlockErrno;
use crate::limits::{REQUEST_BYTES_MAX, STRING_BYTES_MAX};

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// A simple reply, 16 bytes; the data of a successful read follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// `None` is success.
    pub error: Option<BlockErrno>,
    /// The request's cookie.
    pub cookie: u64,
}

impl SimpleReply {
    /// Bytes on the wire.
    pub const BYTES: usize = 16;

    /// Appends the reply.
    pub fn encode(&self, sink: &mut impl ByteSink) {
        sink.put_u32(SIMPLE_MAGIC);
        sink.put_u32(self.error.map_or(0, BlockErrno::number));
        sink.put_u64(self.cookie);
    }

    /// Reads a reply; `Ok(None)` while bytes are missing.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, WireFault> {
        let mut fields = Fields(input);
        match fields.u32() {
            None => return Ok(None),
            Some(SIMPLE_MAGIC) => {}
            Some(found) => {
                let (expected, found) = (u64::from(SIMPLE_MAGIC), u64::from(found));
                return Err(WireFault::Magic { expected, found });
            }
        }
        let (Some(number), Some(cookie)) = (fields.u32(), fields.u64()) else { return Ok(None) };
        Ok(Some(Self { error: (number != 0).then(|| BlockErrno::from_number(number)), cookie }))
    }
}

/// Flags of a chunk.
pub mod chunk_flags {
    /// The last chunk of the reply.
    pub const DONE: u16 = 1 << 0;
}

/// Kind of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkKind {
    /// Nothing but the flags.
    None,
    /// An offset and bytes read there.
    OffsetData,
    /// An offset and a length that reads as zeroes.
    OffsetHole,
    /// Extents of a metadata context.
    BlockStatus,
    /// The request failed.
    Error,
    /// The request failed at an offset.
    ErrorOffset,
    /// A kind that we do not know.
    Other(u16),
}

impl ChunkKind {
    const TABLE: [(Self, u16); 6] = [
        (Self::None, 0),
        (Self::OffsetData, 1),
        (Self::OffsetHole, 2),
        (Self::BlockStatus, 5),
        (Self::Error, (1 << 15) | 1),
        (Self::ErrorOffset, (1 << 15) | 2),
    ];

    fn number(self) -> u16 {
        match self {
            Self::Other(number) => number,
            kind => Self::TABLE.iter().find(|row| row.0 == kind).map_or(0, |row| row.1),
        }
    }

    fn from_number(number: u16) -> Self {
        Self::TABLE.iter().find(|row| row.1 == number).map_or(Self::Other(number), |row| row.0)
    }
}

/// The 20 bytes before a chunk's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// See [`chunk_flags`].
    pub flags: u16,
    /// Kind of the payload.
    pub kind: ChunkKind,
    /// The request's cookie.
    pub cookie: u64,
    /// Bytes of payload that follow.
    pub length: u32,
}

impl ChunkHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 20;

    /// Appends the header.
    pub fn encode(&self, sink: &mut impl ByteSink) {
        sink.put_u32(CHUNK_MAGIC);
        sink.put_u16(self.flags);
        sink.put_u16(self.kind.number());
        sink.put_u64(self.cookie);
        sink.put_u32(self.length);
    }

    /// Reads a header; `Ok(None)` while bytes are missing.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, WireFault> {
        /// An offset before the longest payload.
        const LENGTH_MAX: u32 = REQUEST_BYTES_MAX + 8;
        let mut fields = Fields(input);
        match fields.u32() {
            None => return Ok(None),
            Some(CHUNK_MAGIC) => {}
            Some(found) => {
                let (expected, found) = (u64::from(CHUNK_MAGIC), u64::from(found));
                return Err(WireFault::Magic { expected, found });
            }
        }
        let (Some(flags), Some(kind), Some(cookie), Some(length)) =
            (fields.u16(), fields.u16(), fields.u64(), fields.u32())
        else {
            return Ok(None);
        };
        if length > LENGTH_MAX {
            return Err(WireFault::Length { limit: LENGTH_MAX, found: length });
        }
        Ok(Some(Self { flags, kind: ChunkKind::from_number(kind), cookie, length }))
    }

    /// Is this the last chunk of its reply?
    pub fn is_done(&self) -> bool {
        self.flags & chunk_flags::DONE != 0
    }
}

/// One extent of a block status chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusExtent {
    /// Bytes.
    pub length: u32,
    /// For `base:allocation`: bit 0 hole, bit 1 reads as zeroes.
    pub flags: u32,
}

impl StatusExtent {
    /// No space is allocated.
    pub const HOLE: u32 = 1 << 0;
    /// Reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
}

/// The payload of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// Nothing but the flags.
    None,
    /// Bytes that were read.
    OffsetData {
        /// Where.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// Bytes that read as zeroes.
    OffsetHole {
        /// Where.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// What is allocated.
    BlockStatus {
        /// The number that the handshake gave to the context.
        context: u32,
        /// The extents, in order.
        extents: Vec<StatusExtent>,
    },
    /// The request failed.
    Error {
        /// Why.
        error: BlockErrno,
        /// A sentence for people.
        message: &'a str,
        /// Where, if the server could tell.
        offset: Option<u64>,
    },
    /// A kind that we do not know.
    Other {
        /// Its number.
        kind: u16,
        /// Its bytes.
        data: &'a [u8],
    },
}

impl<'a> Chunk<'a> {
    /// Bytes of a data chunk's payload before the data.
    pub const OFFSET_BYTES: u32 = 8;

    /// Appends the header and the offset of a data chunk whose data of `length` bytes the caller sends
    /// itself.
    pub fn encode_data_head(sink: &mut impl ByteSink, cookie: u64, flags: u16, offset: u64, length: u32) {
        let length = length + Self::OFFSET_BYTES;
        ChunkHeader { flags, kind: ChunkKind::OffsetData, cookie, length }.encode(sink);
        sink.put_u64(offset);
    }

    /// Appends header and payload.
    pub fn encode(&self, sink: &mut Vec<u8>, cookie: u64, flags: u16) {
        let mut payload = Vec::new();
        let kind = match self {
            Self::None => ChunkKind::None,
            Self::OffsetData { offset, data } => {
                payload.put_u64(*offset);
                payload.put(data);
                ChunkKind::OffsetData
            }
            Self::OffsetHole { offset, length } => {
                payload.put_u64(*offset);
                payload.put_u32(*length);
                ChunkKind::OffsetHole
            }
            Self::BlockStatus { context, extents } => {
                payload.put_u32(*context);
                for extent in extents {
                    payload.put_u32(extent.length);
                    payload.put_u32(extent.flags);
                }
                ChunkKind::BlockStatus
            }
            Self::Error { error, message, offset } => {
                payload.put_u32(error.number());
                payload.put_u16(message.len() as u16);
                payload.put(message.as_bytes());
                if let Some(offset) = offset {
                    payload.put_u64(*offset);
                }
                if offset.is_some() { ChunkKind::ErrorOffset } else { ChunkKind::Error }
            }
            Self::Other { kind, data } => {
                payload.put(data);
                ChunkKind::Other(*kind)
            }
        };
        ChunkHeader { flags, kind, cookie, length: payload.len() as u32 }.encode(sink);
        sink.put(&payload);
    }

    /// Reads a whole chunk off the front of `input` and tells its length; `Ok(None)` while bytes are missing.
    pub fn parse(input: &'a [u8]) -> Result<Option<(ChunkHeader, Self, usize)>, WireFault> {
        let Some(header) = ChunkHeader::parse(input)? else { return Ok(None) };
        let end = ChunkHeader::BYTES + header.length as usize;
        let Some(payload) = input.get(ChunkHeader::BYTES..end) else { return Ok(None) };
        let chunk = Self::parse_payload(header.kind, payload)
            .ok_or(WireFault::Shape("the payload of a chunk does not fit its kind"))?;
        Ok(Some((header, chunk, end)))
    }

    fn parse_payload(kind: ChunkKind, payload: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        let chunk = match kind {
            ChunkKind::None => Self::None,
            ChunkKind::OffsetData => {
                let offset = fields.u64()?;
                return (!fields.is_empty()).then_some(Self::OffsetData { offset, data: fields.0 });
            }
            ChunkKind::OffsetHole => {
                let offset = fields.u64()?;
                Self::OffsetHole { offset, length: fields.u32()? }
            }
            ChunkKind::BlockStatus => {
                let context = fields.u32()?;
                let mut extents = Vec::new();
                while !fields.is_empty() {
                    let length = fields.u32()?;
                    extents.push(StatusExtent { length, flags: fields.u32()? });
                }
                Self::BlockStatus { context, extents }
            }
            ChunkKind::Error | ChunkKind::ErrorOffset => {
                let error = BlockErrno::from_number(fields.u32()?);
                let length = usize::from(fields.u16()?);
                let message = std::str::from_utf8(fields.take(length)?).ok()?;
                if message.len() > STRING_BYTES_MAX {
                    return None;
                }
                let offset = if kind == ChunkKind::ErrorOffset { Some(fields.u64()?) } else { None };
                Self::Error { error, message, offset }
            }
            ChunkKind::Other(kind) => return Some(Self::Other { kind, data: payload }),
        };
        fields.is_empty().then_some(chunk)
    }
}
