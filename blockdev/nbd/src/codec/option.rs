//! The options that a client sends during the handshake.

use super::bytes::{ByteSink, Fields};
use super::handshake::OPTION_MAGIC;
use super::{WireFault, option_reply::ServerInfo};
use crate::limits::{OPTION_SKIP_BYTES_MAX, STRING_BYTES_MAX};

/// The numbers of the options.
pub mod option_number {
    #![allow(missing_docs, reason = "the names are the protocol's own")]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// The 16 bytes before an option's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// The option's number.
    pub number: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 16;

    /// Appends the header.
    pub fn encode(&self, sink: &mut impl ByteSink) {
        sink.put_u64(OPTION_MAGIC);
        sink.put_u32(self.number);
        sink.put_u32(self.length);
    }

    /// Reads a header; `Ok(None)` while bytes are missing.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, WireFault> {
        let mut fields = Fields(input);
        match fields.u64() {
            None => return Ok(None),
            Some(OPTION_MAGIC) => {}
            Some(found) => return Err(WireFault::Magic { expected: OPTION_MAGIC, found }),
        }
        let (Some(number), Some(length)) = (fields.u32(), fields.u32()) else { return Ok(None) };
        if length > OPTION_SKIP_BYTES_MAX {
            return Err(WireFault::Length { limit: OPTION_SKIP_BYTES_MAX, found: length });
        }
        Ok(Some(Self { number, length }))
    }
}

/// The data of an option is not what its number promises; answered with `NBD_REP_ERR_INVALID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionFault(pub &'static str);

/// An option with its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOption<'a> {
    /// Open this export and start transmission at once; has no way to report an error.
    ExportName(&'a str),
    /// The client gives up politely.
    Abort,
    /// Which exports are there?
    List,
    /// Switch to TLS.
    StartTls,
    /// Tell about an export.
    Info(ExportQuery<'a>),
    /// Open an export and start transmission.
    Go(ExportQuery<'a>),
    /// Replies come as structured chunks from now on.
    StructuredReply,
    /// Which metadata contexts are there?
    ListMetaContext(MetaQuery<'a>),
    /// Select metadata contexts.
    SetMetaContext(MetaQuery<'a>),
    /// Some option that we do not know.
    Unknown {
        /// Its number.
        number: u32,
        /// Its data.
        data: &'a [u8],
    },
}

impl<'a> ClientOption<'a> {
    /// Reads the data of the option of that number; `data` is all of it.
    pub fn parse(number: u32, data: &'a [u8]) -> Result<Self, OptionFault> {
        let without_data = |option| {
            if data.is_empty() { Ok(option) } else { Err(OptionFault("the option carries no data")) }
        };
        match number {
            option_number::EXPORT_NAME => text(data).map(Self::ExportName),
            option_number::ABORT => Ok(Self::Abort),
            option_number::LIST => without_data(Self::List),
            option_number::STARTTLS => without_data(Self::StartTls),
            option_number::INFO => ExportQuery::parse(data).map(Self::Info),
            option_number::GO => ExportQuery::parse(data).map(Self::Go),
            option_number::STRUCTURED_REPLY => without_data(Self::StructuredReply),
            option_number::LIST_META_CONTEXT => MetaQuery::parse(data).map(Self::ListMetaContext),
            option_number::SET_META_CONTEXT => MetaQuery::parse(data).map(Self::SetMetaContext),
            _ => Ok(Self::Unknown { number, data }),
        }
    }

    /// The option's number.
    pub fn number(&self) -> u32 {
        match self {
            Self::ExportName(_) => option_number::EXPORT_NAME,
            Self::Abort => option_number::ABORT,
            Self::List => option_number::LIST,
            Self::StartTls => option_number::STARTTLS,
            Self::Info(_) => option_number::INFO,
            Self::Go(_) => option_number::GO,
            Self::StructuredReply => option_number::STRUCTURED_REPLY,
            Self::ListMetaContext(_) => option_number::LIST_META_CONTEXT,
            Self::SetMetaContext(_) => option_number::SET_META_CONTEXT,
            Self::Unknown { number, .. } => *number,
        }
    }

    /// Appends header and data.
    pub fn encode(&self, sink: &mut Vec<u8>) {
        let mut data = Vec::new();
        match self {
            Self::ExportName(name) => data.put(name.as_bytes()),
            Self::Abort | Self::List | Self::StartTls | Self::StructuredReply => {}
            Self::Info(query) | Self::Go(query) => query.encode(&mut data),
            Self::ListMetaContext(query) | Self::SetMetaContext(query) => query.encode(&mut data),
            Self::Unknown { data: bytes, .. } => data.put(bytes),
        }
        OptionHeader { number: self.number(), length: data.len() as u32 }.encode(sink);
        sink.put(&data);
    }
}

/// Name of an export, and what the client wants to know about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportQuery<'a> {
    /// The export.
    pub name: &'a str,
    wanted: &'a [u8],
}

impl<'a> ExportQuery<'a> {
    /// A query for `name` that asks for nothing beyond what servers tell anyway.
    pub fn plain(name: &'a str) -> Self {
        Self { name, wanted: &[] }
    }

    /// Did the client ask for this piece of information? See the `KIND_` constants of [`ServerInfo`].
    pub fn wants(&self, kind: u16) -> bool {
        self.wanted.chunks_exact(2).any(|pair| pair == kind.to_be_bytes())
    }

    /// Does the client ask for the block sizes, and so promise to keep to them?
    pub fn wants_block_size(&self) -> bool {
        self.wants(ServerInfo::KIND_BLOCK_SIZE)
    }

    fn parse(data: &'a [u8]) -> Result<Self, OptionFault> {
        const SHORT: OptionFault = OptionFault("the data ends before the export query does");
        let mut fields = Fields(data);
        let name = long_text(&mut fields)?;
        let count = fields.u16().ok_or(SHORT)?;
        let wanted = fields.take(usize::from(count) * 2).ok_or(SHORT)?;
        if !fields.is_empty() {
            return Err(OptionFault("bytes follow the export query"));
        }
        Ok(Self { name, wanted })
    }

    fn encode(&self, sink: &mut Vec<u8>) {
        sink.put_u32(self.name.len() as u32);
        sink.put(self.name.as_bytes());
        sink.put_u16((self.wanted.len() / 2) as u16);
        sink.put(self.wanted);
    }
}

/// Name of an export and the metadata contexts that the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaQuery<'a> {
    /// The export.
    pub name: &'a str,
    count: u32,
    queries: &'a [u8],
}

impl<'a> MetaQuery<'a> {
    /// A query made of queries that are encoded already, for clients: each a 32-bit length and the text.
    pub fn from_encoded(name: &'a str, count: u32, queries: &'a [u8]) -> Self {
        Self { name, count, queries }
    }

    /// Number of queries.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The queries, in order.
    pub fn queries(&self) -> impl Iterator<Item = &'a str> {
        let mut fields = Fields(self.queries);
        (0..self.count).map_while(move |_| long_text(&mut fields).ok())
    }

    fn parse(data: &'a [u8]) -> Result<Self, OptionFault> {
        let mut fields = Fields(data);
        let name = long_text(&mut fields)?;
        let count = fields.u32().ok_or(OptionFault("the data ends before the context query does"))?;
        let queries = fields.0;
        for _ in 0..count {
            long_text(&mut fields)?;
        }
        if !fields.is_empty() {
            return Err(OptionFault("bytes follow the context query"));
        }
        Ok(Self { name, count, queries })
    }

    fn encode(&self, sink: &mut Vec<u8>) {
        sink.put_u32(self.name.len() as u32);
        sink.put(self.name.as_bytes());
        sink.put_u32(self.count);
        sink.put(self.queries);
    }
}

fn text(bytes: &[u8]) -> Result<&str, OptionFault> {
    if bytes.len() > STRING_BYTES_MAX {
        return Err(OptionFault("a string is longer than 4096 bytes"));
    }
    std::str::from_utf8(bytes).map_err(|_| OptionFault("a string is not UTF-8"))
}

fn long_text<'a>(fields: &mut Fields<'a>) -> Result<&'a str, OptionFault> {
    const SHORT: OptionFault = OptionFault("the data ends before the string does");
    let length = fields.u32().ok_or(SHORT)?;
    fields.take(length as usize).ok_or(SHORT).and_then(text)
}
