//! The server's replies to options.

use super::bytes::{ByteSink, Fields};
use super::{TransmissionFlags, WireFault};
use crate::limits::{OPTION_SKIP_BYTES_MAX, STRING_BYTES_MAX};

const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const ACK: u32 = 1;
const SERVER: u32 = 2;
const INFO: u32 = 3;
const META_CONTEXT: u32 = 4;
const ERROR_BIT: u32 = 1 << 31;

/// Why an option was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// The server does not know the option.
    Unsupported,
    /// The server knows the option but its rules forbid it.
    Policy,
    /// The option's data is malformed, or the option comes at the wrong time.
    Invalid,
    /// The platform cannot do it.
    Platform,
    /// TLS first.
    TlsRequired,
    /// No such export.
    Unknown,
    /// The server is about to stop.
    Shutdown,
    /// The export needs a client that asks for block sizes.
    BlockSizeRequired,
    /// The option's data is too long.
    TooBig,
}

impl OptionError {
    /// Every value once.
    pub const ALL: [Self; 9] = [
        Self::Unsupported,
        Self::Policy,
        Self::Invalid,
        Self::Platform,
        Self::TlsRequired,
        Self::Unknown,
        Self::Shutdown,
        Self::BlockSizeRequired,
        Self::TooBig,
    ];

    fn number(self) -> u32 {
        // The numbers on the wire are 1 to 9 in the order of the enum.
        ERROR_BIT | (self as u32 + 1)
    }
}

/// One piece of information about an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerInfo<'a> {
    /// Size and transmission flags; always sent.
    Export {
        /// Size in bytes.
        size_bytes: u64,
        /// What the export can do.
        flags: TransmissionFlags,
    },
    /// The canonical name.
    Name(&'a str),
    /// A sentence for people.
    Description(&'a str),
    /// Sizes that requests must keep to, in bytes.
    BlockSize {
        /// Unit of offset and length.
        minimum: u32,
        /// What works best.
        preferred: u32,
        /// Longest payload.
        maximum: u32,
    },
    /// A kind that we do not know.
    Other {
        /// Its number.
        kind: u16,
        /// Its bytes.
        data: &'a [u8],
    },
}

impl<'a> ServerInfo<'a> {
    /// Number of [`ServerInfo::Export`].
    pub const KIND_EXPORT: u16 = 0;
    /// Number of [`ServerInfo::Name`].
    pub const KIND_NAME: u16 = 1;
    /// Number of [`ServerInfo::Description`].
    pub const KIND_DESCRIPTION: u16 = 2;
    /// Number of [`ServerInfo::BlockSize`].
    pub const KIND_BLOCK_SIZE: u16 = 3;

    fn encode(&self, sink: &mut Vec<u8>) {
        match *self {
            Self::Export { size_bytes, flags } => {
                sink.put_u16(Self::KIND_EXPORT);
                sink.put_u64(size_bytes);
                sink.put_u16(flags.0);
            }
            Self::Name(text) => {
                sink.put_u16(Self::KIND_NAME);
                sink.put(text.as_bytes());
            }
            Self::Description(text) => {
                sink.put_u16(Self::KIND_DESCRIPTION);
                sink.put(text.as_bytes());
            }
            Self::BlockSize { minimum, preferred, maximum } => {
                sink.put_u16(Self::KIND_BLOCK_SIZE);
                sink.put_u32(minimum);
                sink.put_u32(preferred);
                sink.put_u32(maximum);
            }
            Self::Other { kind, data } => {
                sink.put_u16(kind);
                sink.put(data);
            }
        }
    }

    fn parse(body: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let kind = fields.u16()?;
        let info = match kind {
            Self::KIND_EXPORT => {
                let size_bytes = fields.u64()?;
                Self::Export { size_bytes, flags: TransmissionFlags(fields.u16()?) }
            }
            Self::KIND_NAME => return std::str::from_utf8(fields.0).ok().map(Self::Name),
            Self::KIND_DESCRIPTION => return std::str::from_utf8(fields.0).ok().map(Self::Description),
            Self::KIND_BLOCK_SIZE => {
                let (minimum, preferred) = (fields.u32()?, fields.u32()?);
                Self::BlockSize { minimum, preferred, maximum: fields.u32()? }
            }
            _ => return Some(Self::Other { kind, data: fields.0 }),
        };
        fields.is_empty().then_some(info)
    }
}

/// A reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReply<'a> {
    /// Number of the option that this answers.
    pub option: u32,
    /// The answer.
    pub body: OptionReplyBody<'a>,
}

/// What a reply to an option says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionReplyBody<'a> {
    /// Done; the last reply to a successful option.
    Ack,
    /// One export of the list.
    Server {
        /// Its name.
        name: &'a str,
        /// A sentence for people.
        description: &'a str,
    },
    /// One piece of information about an export.
    Info(ServerInfo<'a>),
    /// One metadata context.
    MetaContext {
        /// Number of the context in block status replies.
        id: u32,
        /// Its name.
        name: &'a str,
    },
    /// Refused; the last reply to the option.
    Error {
        /// Why.
        error: OptionError,
        /// A sentence for people.
        message: &'a str,
    },
    /// A reply of a kind that we do not know.
    Other {
        /// Its number.
        kind: u32,
        /// Its bytes.
        data: &'a [u8],
    },
}

/// The 20 bytes before the data of a reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// Number of the option that this answers.
    pub option: u32,
    /// Number of the kind of reply.
    pub kind: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionReplyHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 20;

    fn encode(&self, sink: &mut Vec<u8>) {
        sink.put_u64(REPLY_MAGIC);
        sink.put_u32(self.option);
        sink.put_u32(self.kind);
        sink.put_u32(self.length);
    }

    /// Reads a header; `Ok(None)` while bytes are missing.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, WireFault> {
        let mut fields = Fields(input);
        match fields.u64() {
            None => return Ok(None),
            Some(REPLY_MAGIC) => {}
            Some(found) => return Err(WireFault::Magic { expected: REPLY_MAGIC, found }),
        }
        let (Some(option), Some(kind), Some(length)) = (fields.u32(), fields.u32(), fields.u32()) else {
            return Ok(None);
        };
        if length > OPTION_SKIP_BYTES_MAX {
            return Err(WireFault::Length { limit: OPTION_SKIP_BYTES_MAX, found: length });
        }
        Ok(Some(Self { option, kind, length }))
    }
}

impl<'a> OptionReply<'a> {
    /// Appends header and data. Texts are the caller's to keep within [`STRING_BYTES_MAX`].
    pub fn encode(&self, sink: &mut Vec<u8>) {
        let mut data = Vec::new();
        let kind = match self.body {
            OptionReplyBody::Ack => ACK,
            OptionReplyBody::Server { name, description } => {
                data.put_u32(name.len() as u32);
                data.put(name.as_bytes());
                data.put(description.as_bytes());
                SERVER
            }
            OptionReplyBody::Info(info) => {
                info.encode(&mut data);
                INFO
            }
            OptionReplyBody::MetaContext { id, name } => {
                data.put_u32(id);
                data.put(name.as_bytes());
                META_CONTEXT
            }
            OptionReplyBody::Error { error, message } => {
                data.put(message.as_bytes());
                error.number()
            }
            OptionReplyBody::Other { kind, data: bytes } => {
                data.put(bytes);
                kind
            }
        };
        OptionReplyHeader { option: self.option, kind, length: data.len() as u32 }.encode(sink);
        sink.put(&data);
    }

    /// Reads a whole reply off the front of `input` and tells its length; `Ok(None)` while bytes are missing.
    pub fn parse(input: &'a [u8]) -> Result<Option<(Self, usize)>, WireFault> {
        let Some(header) = OptionReplyHeader::parse(input)? else { return Ok(None) };
        let end = OptionReplyHeader::BYTES + header.length as usize;
        let Some(data) = input.get(OptionReplyHeader::BYTES..end) else { return Ok(None) };
        let body = Self::parse_body(header.kind, data)
            .ok_or(WireFault::Shape("the data of an option reply does not fit its kind"))?;
        Ok(Some((Self { option: header.option, body }, end)))
    }

    fn parse_body(kind: u32, data: &'a [u8]) -> Option<OptionReplyBody<'a>> {
        let text =
            |bytes: &'a [u8]| std::str::from_utf8(bytes).ok().filter(|text| text.len() <= STRING_BYTES_MAX);
        let mut fields = Fields(data);
        Some(match kind {
            ACK => fields.is_empty().then_some(OptionReplyBody::Ack)?,
            SERVER => {
                let length = fields.u32()?;
                let name = text(fields.take(length as usize)?)?;
                OptionReplyBody::Server { name, description: text(fields.0)? }
            }
            INFO => OptionReplyBody::Info(ServerInfo::parse(data)?),
            META_CONTEXT => {
                let id = fields.u32()?;
                OptionReplyBody::MetaContext { id, name: text(fields.0)? }
            }
            _ => match OptionError::ALL.into_iter().find(|error| error.number() == kind) {
                Some(error) => OptionReplyBody::Error { error, message: text(data)? },
                None => OptionReplyBody::Other { kind, data },
            },
        })
    }
}
