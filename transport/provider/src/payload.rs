//! The data part of a message: on its way out as [`Payload`], on its way in as [`Incoming`].

use crate::INLINE_BYTES_MAX;
use core::ops::Range;
use std::sync::Arc;
use transport_buf::{Chunk, PlacedChunk, SharedChunk};

/// Outgoing data, kept by the session until the peer acknowledged it. Cloning costs a reference count at
/// most.
#[derive(Clone, Debug, Default)]
pub enum Payload {
    /// No data, or data that travels inline.
    #[default]
    Empty,
    /// A chunk of this node's own memory.
    Shared(SharedChunk),
    /// A chunk in the peer's slab, filled in place.
    Placed(PlacedChunk),
    /// The caller's own memory, lent until the message is complete.
    Caller(Arc<Vec<u8>>),
}

impl Payload {
    /// Bytes of data.
    pub fn len(&self) -> usize {
        match self {
            Payload::Empty => 0,
            Payload::Shared(chunk) => chunk.as_ref().len(),
            Payload::Placed(chunk) => chunk.len(),
            Payload::Caller(bytes) => bytes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it.
    pub fn whole(&self) -> PayloadSlice<'_> {
        PayloadSlice { range: 0..self.len(), payload: self }
    }
}

/// A part of a payload: the whole for most messages, a fragment for striped ones.
#[derive(Clone, Debug)]
pub struct PayloadSlice<'a> {
    /// The payload.
    pub payload: &'a Payload,
    /// Bytes of it that this frame carries.
    pub range: Range<usize>,
}

impl PayloadSlice<'_> {
    /// No data.
    pub const EMPTY: PayloadSlice<'static> = PayloadSlice { payload: &Payload::Empty, range: 0..0 };

    /// Bytes of the slice.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Copies the slice to `out`, which must be as long.
    pub fn copy_to(&self, out: &mut [u8]) {
        match self.payload {
            Payload::Empty => assert!(out.is_empty()),
            Payload::Shared(chunk) => out.copy_from_slice(&chunk.as_ref()[self.range.clone()]),
            Payload::Placed(chunk) => chunk.copy_to(self.range.start, out),
            Payload::Caller(bytes) => out.copy_from_slice(&bytes[self.range.clone()]),
        }
    }
}

/// A few bytes held by value: data parts small enough to travel in the frame's slot.
#[derive(Clone, Copy)]
pub struct InlineBytes {
    bytes: [u8; INLINE_BYTES_MAX],
    length: u8,
}

const _: () = assert!(INLINE_BYTES_MAX <= u8::MAX as usize);

impl InlineBytes {
    /// Copies `bytes`. Panics over [`INLINE_BYTES_MAX`].
    pub fn new(bytes: &[u8]) -> InlineBytes {
        let mut copy = InlineBytes { bytes: [0; INLINE_BYTES_MAX], length: bytes.len() as u8 };
        copy.bytes[..bytes.len()].copy_from_slice(bytes);
        copy
    }
}

impl AsRef<[u8]> for InlineBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl core::fmt::Debug for InlineBytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "InlineBytes({} bytes)", self.length)
    }
}

/// Data of a frame that has just arrived.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// None.
    Empty,
    /// In the frame itself; valid during the call-back.
    Inline(&'a [u8]),
    /// In a chunk, which the receiver now owns and returns by dropping it.
    Chunk(Chunk),
}

impl Incoming<'_> {
    /// Bytes of data.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Incoming::Empty => &[],
            Incoming::Inline(bytes) => bytes,
            Incoming::Chunk(chunk) => chunk.as_ref(),
        }
    }
}
