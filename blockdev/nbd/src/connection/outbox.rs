//! What waits to be written to the client: encoded headers and the leases of the bytes between them.

use std::collections::VecDeque;
use std::io::IoSlice;

use crate::codec::Head;

/// One run of bytes for the socket.
#[derive(Debug)]
enum Segment<R> {
    /// A header of fixed size; the path of reads and writes knows only these.
    Head(Head),
    /// Bytes of the handshake, of error messages and of extents.
    Bytes(Vec<u8>),
    /// The bytes of a read, lent by the service; dropped, and so returned, once they are written.
    Payload(R),
}

impl<R: AsRef<[u8]>> Segment<R> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Head(head) => head.as_slice(),
            Self::Bytes(bytes) => bytes,
            Self::Payload(data) => data.as_ref(),
        }
    }
}

/// The queue of outgoing bytes of one connection, gathered into vectored writes.
///
/// Bounded by its owner: [`Outbox::bytes`] and [`Outbox::segments`] say how full it is, and no request is
/// parsed while it is too full.
#[derive(Debug)]
pub struct Outbox<R> {
    segments: VecDeque<Segment<R>>,
    /// Bytes of the front segment that are written already.
    front_written: usize,
    bytes: u64,
}

impl<R: AsRef<[u8]>> Outbox<R> {
    pub(super) fn with_capacity(segments: usize) -> Self {
        Self { segments: VecDeque::with_capacity(segments), front_written: 0, bytes: 0 }
    }

    pub(super) fn push_head(&mut self, head: Head) {
        self.push(Segment::Head(head));
    }

    pub(super) fn push_bytes(&mut self, bytes: Vec<u8>) {
        self.push(Segment::Bytes(bytes));
    }

    pub(super) fn push_payload(&mut self, data: R) {
        self.push(Segment::Payload(data));
    }

    fn push(&mut self, segment: Segment<R>) {
        let length = segment.as_slice().len() as u64;
        if length > 0 {
            self.bytes += length;
            self.segments.push_back(segment);
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Segments that wait.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Points `slices` at the bytes that wait, in order, and tells how many slices were set.
    pub fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            let skip = if count == 0 { self.front_written } else { 0 };
            *slice = IoSlice::new(&segment.as_slice()[skip..]);
            count += 1;
        }
        count
    }

    /// Gives back what the service has lent; copies wait in its place. For a client that takes its bytes
    /// slowly or not at all: memory of the service would be missing elsewhere.
    pub fn detach(&mut self) {
        for segment in &mut self.segments {
            if let Segment::Payload(data) = segment {
                *segment = Segment::Bytes(data.as_ref().to_vec());
            }
        }
    }

    /// The socket took the first `count` bytes: forget them and return the leases that are fully written.
    pub fn written(&mut self, count: usize) {
        self.bytes -= count as u64;
        let mut left = self.front_written + count;
        while let Some(front) = self.segments.front() {
            let length = front.as_slice().len();
            if left < length {
                break;
            }
            left -= length;
            self.segments.pop_front();
        }
        self.front_written = left;
    }

    pub(super) fn clear(&mut self) {
        self.segments.clear();
        self.front_written = 0;
        self.bytes = 0;
    }
}
