//! A message on its way out, kept until it is acknowledged; and one that waits on its way in.

use crate::client::Tag;
use crate::lease::LeasedBytes;
use std::sync::Arc;
use transport_buf::{Chunk, Region, SharedChunk};
use transport_proto::identity::Path;
use transport_provider::{INLINE_BYTES_MAX, InlineBytes, Payload};

/// Data part of a message to be sent.
#[derive(Debug)]
pub enum Data<'a> {
    /// None.
    Empty,
    /// Bytes that are copied: into the frame if they are few, else straight into the peer's memory.
    Copy(&'a [u8]),
    /// Memory from [`crate::Core::reserve`], filled by the caller.
    Reserved(SendBuffer),
    /// A chunk of this node's memory that others read too (a lease being forwarded, a block being written
    /// twice).
    Shared(SharedChunk),
    /// The caller's own memory, lent until the completion.
    Caller(Arc<Vec<u8>>),
}

impl Data<'_> {
    /// Bytes of data.
    pub fn len(&self) -> usize {
        match self {
            Data::Empty => 0,
            Data::Copy(bytes) => bytes.len(),
            Data::Reserved(buffer) => buffer.as_ref().len(),
            Data::Shared(chunk) => chunk.as_ref().len(),
            Data::Caller(bytes) => bytes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Memory in which a message's data part is built: where the provider can, in the peer's own memory.
#[derive(Debug)]
pub struct SendBuffer {
    pub(crate) chunk: Chunk,
    /// The rail whose peer memory it is in; `None` for memory of this node.
    pub(crate) placed: Option<Path>,
}

/// Whose memory a [`SendBuffer`] is.
#[derive(Clone, Copy, Debug)]
pub struct BufferHome(Option<Path>);

impl SendBuffer {
    /// Shortens it (never beyond what was reserved).
    pub fn truncate(&mut self, length: usize) {
        assert!(length <= self.as_ref().len());
        self.chunk.set_length(length);
    }

    /// Takes the chunk out, for the block path, which has the disk fill it; put together again by
    /// [`SendBuffer::from_parts`].
    pub fn into_parts(self) -> (Chunk, BufferHome) {
        (self.chunk, BufferHome(self.placed))
    }

    /// The opposite of [`SendBuffer::into_parts`].
    pub fn from_parts(chunk: Chunk, home: BufferHome) -> SendBuffer {
        SendBuffer { chunk, placed: home.0 }
    }
}

impl AsRef<[u8]> for SendBuffer {
    fn as_ref(&self) -> &[u8] {
        self.chunk.as_ref()
    }
}

impl AsMut<[u8]> for SendBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.chunk.as_mut()
    }
}

/// What the session keeps of a message.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Outgoing {
    bytes: [u8; INLINE_BYTES_MAX],
    control_length: u8,
    inline_length: u8,
    pub(crate) payload: Payload,
    pub(crate) tag: Tag,
}

/// Data of a message, as it is kept: beside the control part, or as a payload of its own.
#[derive(Debug)]
pub(crate) enum Body<'a> {
    Inline(&'a [u8]),
    Payload(Payload, Option<Path>),
}

impl Outgoing {
    const EMPTY: Outgoing = Outgoing {
        bytes: [0; INLINE_BYTES_MAX],
        control_length: 0,
        inline_length: 0,
        payload: Payload::Empty,
        tag: Tag::SILENT,
    };

    /// Takes up a message: control part, and the data that fits beside it or the payload.
    #[inline(always)]
    fn fill(&mut self, control: &[u8], body: Body<'_>, tag: Tag) {
        if !control.is_empty() {
            self.bytes[..control.len()].copy_from_slice(control);
        }
        self.control_length = control.len() as u8;
        self.tag = tag;
        match body {
            Body::Inline(bytes) => {
                self.bytes[control.len()..control.len() + bytes.len()].copy_from_slice(bytes);
                self.inline_length = bytes.len() as u8;
            }
            Body::Payload(payload, _) => {
                self.inline_length = 0;
                self.payload = payload;
            }
        }
    }

    #[inline]
    pub(crate) fn control(&self) -> &[u8] {
        &self.bytes[..usize::from(self.control_length)]
    }

    #[inline]
    pub(crate) fn inline(&self) -> &[u8] {
        let start = usize::from(self.control_length);
        &self.bytes[start..start + usize::from(self.inline_length)]
    }
}

/// Names a kept message in the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutgoingId {
    place: u32,
    /// The path in whose peer memory the payload lies.
    pub(crate) placed: Option<Path>,
}

/// The messages that sessions keep. Each is written once, in its place, and not moved again; places are used
/// again. Bounded by the windows of all clients and peers.
#[derive(Debug, Default)]
pub(crate) struct OutgoingPool {
    places: Vec<Outgoing>,
    free: Vec<u32>,
}

impl OutgoingPool {
    #[inline(always)]
    pub(crate) fn keep(&mut self, control: &[u8], body: Body<'_>, tag: Tag) -> OutgoingId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Outgoing::EMPTY);
            self.places.len() as u32 - 1
        });
        let placed = if let Body::Payload(_, placed) = &body { *placed } else { None };
        self.places[place as usize].fill(control, body, tag);
        OutgoingId { place, placed }
    }

    #[inline]
    pub(crate) fn get(&self, id: OutgoingId) -> &Outgoing {
        &self.places[id.place as usize]
    }

    /// Lets a message go; returns the client's name for it.
    #[inline]
    pub(crate) fn release(&mut self, id: OutgoingId) -> Tag {
        let message = &mut self.places[id.place as usize];
        if !matches!(message.payload, Payload::Empty) {
            message.payload = Payload::Empty;
        }
        self.free.push(id.place);
        message.tag
    }
}

/// A message that waits for earlier ones, or for its other fragments.
#[derive(Debug)]
pub(crate) struct Waiting {
    control: InlineBytes,
    pub(crate) data: LeasedBytes,
}

impl Waiting {
    pub(crate) fn new(control: &[u8], data: LeasedBytes) -> Waiting {
        Waiting { control: InlineBytes::new(control), data }
    }

    /// Sets the control part (the first fragment of a striped message brings it).
    pub(crate) fn set_control(&mut self, control: &[u8]) {
        self.control = InlineBytes::new(control);
    }

    /// Whether its data lie in a chunk of `region`.
    pub(crate) fn holds_chunk_of(&self, region: &Arc<Region>) -> bool {
        matches!(&self.data, LeasedBytes::Chunk(chunk) if Arc::ptr_eq(chunk.region(), region))
    }

    /// Control part and data.
    pub(crate) fn split(self) -> (InlineBytes, LeasedBytes) {
        (self.control, self.data)
    }
}
