//! Data of requests: what a client gives with a write, what it gets from a read.

use blockdev_store::{ReadTarget, WriteSource};
use std::sync::Arc;
use transport_buf::SharedChunk;
use transport_endpoint::{Data, Lease, LeaseTicket, SendBuffer};

/// Payload of a write. The engine keeps it until the request completes, since it may have to be sent to
/// another node.
#[derive(Clone, Debug)]
pub enum WriteData {
    /// A chunk of this node's memory ([`SendBuffer`], shared when it is filled).
    Shared(SharedChunk),
    /// The caller's own memory, lent until the completion.
    Caller(Arc<Vec<u8>>),
}

impl WriteData {
    /// Payload that was built in memory from [`crate::BlockEngine::write_buffer`].
    pub fn built(buffer: SendBuffer) -> WriteData {
        WriteData::Shared(buffer.into_parts().0.share())
    }

    /// Bytes of payload.
    pub fn len(&self) -> usize {
        match self {
            WriteData::Shared(chunk) => chunk.as_ref().len(),
            WriteData::Caller(bytes) => bytes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn as_ref(&self) -> &[u8] {
        match self {
            WriteData::Shared(chunk) => chunk.as_ref(),
            WriteData::Caller(bytes) => bytes,
        }
    }

    pub(crate) fn to_transport(&self) -> Data<'static> {
        match self {
            WriteData::Shared(chunk) => Data::Shared(chunk.clone()),
            WriteData::Caller(bytes) => Data::Caller(bytes.clone()),
        }
    }

    /// The payload of a write that came to the master.
    pub(crate) fn of_store(source: WriteSource) -> WriteData {
        match source {
            WriteSource::Shared(chunk, _) => WriteData::Shared(chunk),
            WriteSource::Caller(bytes, _) => WriteData::Caller(bytes),
        }
    }

    pub(crate) fn to_store(&self) -> WriteSource {
        match self {
            WriteData::Shared(chunk) => WriteSource::whole(chunk.clone()),
            WriteData::Caller(bytes) => WriteSource::Caller(bytes.clone(), 0..bytes.len()),
        }
    }
}

/// Bytes of a read, where they landed. Dropping it gives the memory back.
#[derive(Debug)]
pub enum ReadData {
    /// From another node, in this node's slab.
    Lease(Lease),
    /// From a disk of this node.
    Local(ReadTarget),
    /// In memory that others read too.
    Shared(WriteData, Option<LeaseTicket>),
}

impl ReadData {
    /// The bytes as the payload of a write, and as what they were.
    pub(crate) fn into_shared(self) -> (WriteData, ReadData) {
        let (data, ticket) = match self {
            ReadData::Lease(lease) => match lease.into_shared() {
                Ok((chunk, ticket)) => (WriteData::Shared(chunk), Some(ticket)),
                Err(lease) => (WriteData::Caller(Arc::new(lease.as_ref().to_vec())), None),
            },
            ReadData::Local(ReadTarget::Chunk(chunk)) => (WriteData::Shared(chunk.share()), None),
            ReadData::Local(ReadTarget::Bytes(bytes)) => (WriteData::Caller(Arc::new(bytes)), None),
            ReadData::Shared(data, ticket) => (data, ticket),
        };
        (data.clone(), ReadData::Shared(data, ticket))
    }
}

impl AsRef<[u8]> for ReadData {
    fn as_ref(&self) -> &[u8] {
        match self {
            ReadData::Lease(lease) => lease.as_ref(),
            ReadData::Local(ReadTarget::Chunk(chunk)) => chunk.as_ref(),
            ReadData::Local(ReadTarget::Bytes(bytes)) => bytes,
            ReadData::Shared(WriteData::Shared(chunk), _) => chunk.as_ref(),
            ReadData::Shared(WriteData::Caller(bytes), _) => bytes,
        }
    }
}
