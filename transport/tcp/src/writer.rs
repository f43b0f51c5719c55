//! From frames to the bytes of a stream: a bounded queue of headers by value and payloads by reference.

use crate::reader::checksum;
use core::ops::Range;
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Write};
use transport_buf::Chunk;
use transport_proto::wire::{FLAG_DATA_CRC, FrameHeader, HEADER_BYTES};
use transport_provider::Payload;
use zerocopy::IntoBytes;

/// Bytes of headers, control parts and copied data that wait on one connection at the most.
pub const RING_BYTES: usize = 64 << 10;
/// Entries of the queue at the most: frames with data of their own; small ones merge.
pub const QUEUE_ENTRIES_MAX: usize = 256;
/// Data bytes that wait by reference on one connection, unless options say otherwise.
pub const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Data parts up to this size are copied beside their header: cheaper than a reference and a part of the
/// write.
pub const COPIED_BYTES_MAX: usize = 1024;
/// Parts of one vectored write at the most.
const PARTS_MAX: usize = 64;

/// A data part that waits, kept alive until it has left.
#[derive(Debug)]
pub enum Held {
    /// By reference to the sender's memory.
    Payload(Payload),
    /// A copy of memory that only its owner may keep a reference to.
    Copy(Chunk),
}

impl Held {
    fn bytes(&self) -> &[u8] {
        match self {
            Held::Payload(Payload::Shared(chunk)) => chunk.as_ref(),
            Held::Payload(Payload::Caller(bytes)) => bytes,
            Held::Copy(chunk) => chunk.as_ref(),
            Held::Payload(Payload::Empty | Payload::Placed(_)) => &[],
        }
    }
}

/// Bytes of the ring, then bytes of `held`; both shrink as they leave.
struct Entry {
    ring_bytes: usize,
    held: Option<Held>,
    range: Range<usize>,
}

/// How much of the queue left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// All of it.
    Done,
    /// The kernel takes more later; it will say when.
    Blocked,
}

/// The sending half of a connection.
pub struct FrameWriter {
    ring: Box<[u8]>,
    /// Bytes ever taken from and put into the ring.
    taken: usize,
    put: usize,
    entries: VecDeque<Entry>,
    held_bytes: usize,
    held_bytes_max: usize,
    /// Generation of the connection and position of the last frame.
    stamp: u64,
}

impl FrameWriter {
    /// An empty queue that holds data of `held_bytes_max` bytes by reference (one data part always fits).
    /// `stamp` is the connection's generation with position 0.
    pub fn new(held_bytes_max: usize, stamp: u64) -> FrameWriter {
        FrameWriter {
            ring: vec![0; RING_BYTES].into_boxed_slice(),
            taken: 0,
            put: 0,
            entries: VecDeque::with_capacity(QUEUE_ENTRIES_MAX + 1),
            held_bytes: 0,
            held_bytes_max,
            stamp,
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a frame with `beside` bytes of control part and copied data, and `held` bytes by reference,
    /// fits.
    pub fn has_room(&self, beside: usize, held: usize) -> bool {
        let ring_left = RING_BYTES - (self.put - self.taken);
        HEADER_BYTES + beside <= ring_left
            && self.entries.len() < QUEUE_ENTRIES_MAX
            && (held == 0 || self.held_bytes == 0 || self.held_bytes + held <= self.held_bytes_max)
    }

    /// Whether at least half of every limit is free: the moment to tell who was refused.
    pub fn is_half_empty(&self) -> bool {
        self.put - self.taken <= RING_BYTES / 2
            && self.entries.len() <= QUEUE_ENTRIES_MAX / 2
            && self.held_bytes <= self.held_bytes_max / 2
    }

    /// Puts a frame whose data lie in `beside` (copied). The caller has asked [`FrameWriter::has_room`].
    pub fn push_copied(&mut self, header: &FrameHeader, control: &[u8], beside: &[u8], data_checksum: bool) {
        let ring_bytes = self.push_head(header, control, beside, data_checksum);
        self.put_in_ring(beside);
        match self.entries.back_mut() {
            Some(last) if last.held.is_none() => last.ring_bytes += ring_bytes + beside.len(),
            _ => {
                let ring_bytes = ring_bytes + beside.len();
                self.entries.push_back(Entry { ring_bytes, held: None, range: 0..0 });
            }
        }
    }

    /// Puts a frame whose data are `range` of `held`. The caller has asked [`FrameWriter::has_room`].
    pub fn push_held(
        &mut self,
        header: &FrameHeader,
        control: &[u8],
        held: Held,
        range: Range<usize>,
        data_checksum: bool,
    ) {
        let ring_bytes = self.push_head(header, control, &held.bytes()[range.clone()], data_checksum);
        self.held_bytes += range.len();
        match self.entries.back_mut() {
            Some(last) if last.held.is_none() => {
                last.ring_bytes += ring_bytes;
                (last.held, last.range) = (Some(held), range);
            }
            _ => self.entries.push_back(Entry { ring_bytes, held: Some(held), range }),
        }
    }

    /// Stamps, sums and copies header and control part. Returns their bytes.
    fn push_head(&mut self, header: &FrameHeader, control: &[u8], data: &[u8], data_checksum: bool) -> usize {
        let mut header = *header;
        self.stamp += 1;
        header.rail_stamp.set(self.stamp);
        header.flags &= !FLAG_DATA_CRC;
        let covered = if data_checksum && !data.is_empty() {
            header.flags |= FLAG_DATA_CRC;
            data
        } else {
            &[]
        };
        header.crc32c.set(checksum(&header, control, covered));
        self.put_in_ring(header.as_bytes());
        self.put_in_ring(control);
        HEADER_BYTES + control.len()
    }

    fn put_in_ring(&mut self, bytes: &[u8]) {
        assert!(self.put - self.taken + bytes.len() <= RING_BYTES, "the caller asks for room first");
        let at = self.put % RING_BYTES;
        let first = bytes.len().min(RING_BYTES - at);
        self.ring[at..at + first].copy_from_slice(&bytes[..first]);
        self.ring[..bytes.len() - first].copy_from_slice(&bytes[first..]);
        self.put += bytes.len();
    }

    /// Writes until nothing is left or the kernel takes no more.
    pub fn drain(&mut self, stream: &mut impl Write) -> std::io::Result<Drain> {
        while !self.is_empty() {
            match self.write_once(stream) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.advance(count),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Drain::Blocked),
                Err(e) if e.kind() == ErrorKind::Interrupted => (),
                Err(e) => return Err(e),
            }
        }
        Ok(Drain::Done)
    }

    fn write_once(&mut self, stream: &mut impl Write) -> std::io::Result<usize> {
        let mut parts = [IoSlice::new(&[]); PARTS_MAX];
        let mut count = 0;
        let mut at = self.taken;
        for entry in &self.entries {
            if count + 3 > PARTS_MAX {
                break;
            }
            for part in ring_parts(&self.ring, at, entry.ring_bytes) {
                if !part.is_empty() {
                    parts[count] = IoSlice::new(part);
                    count += 1;
                }
            }
            at += entry.ring_bytes;
            if let Some(held) = &entry.held {
                parts[count] = IoSlice::new(&held.bytes()[entry.range.clone()]);
                count += 1;
            }
        }
        if count == 1 { stream.write(&parts[0]) } else { stream.write_vectored(&parts[..count]) }
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let entry = self.entries.front_mut().expect("the kernel takes no more than it was given");
            let from_ring = count.min(entry.ring_bytes);
            entry.ring_bytes -= from_ring;
            self.taken += from_ring;
            count -= from_ring;
            let from_held = count.min(entry.range.len());
            entry.range.start += from_held;
            self.held_bytes -= from_held;
            count -= from_held;
            if entry.ring_bytes == 0 && entry.range.is_empty() {
                self.entries.pop_front();
            }
        }
    }

    /// Forgets all that waits and returns payloads to their owners.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.taken = self.put;
        self.held_bytes = 0;
    }
}

/// The `length` bytes of `ring` from position `at` on, in the one or two parts in which they lie.
fn ring_parts(ring: &[u8], at: usize, length: usize) -> [&[u8]; 2] {
    let at = at % RING_BYTES;
    let first = length.min(RING_BYTES - at);
    [&ring[at..at + first], &ring[..length - first]]
}
