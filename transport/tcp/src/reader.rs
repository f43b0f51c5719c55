//! From the bytes of a stream to frames: buffer, decoding, checks, and data parts read straight into chunks.

use crate::fault::TcpFault;
use std::io::{ErrorKind, IoSliceMut, Read};
use transport_buf::{Chunk, Slab};
use transport_proto::wire::{
    CONTROL_BYTES_MAX, FLAG_DATA_CRC, FRAGMENT_EXTENSION_BYTES, FrameFault, FrameHeader, HEADER_BYTES,
};
use transport_provider::{INLINE_BYTES_MAX, Incoming};

/// Bytes that one `read` takes of small frames at the most; also the memory that a peer holds before it is
/// authenticated.
pub const BUFFER_BYTES: usize = 64 << 10;
/// Control part at the most, with the extension of a fragment.
const CONTROL_PART_MAX: usize = CONTROL_BYTES_MAX + FRAGMENT_EXTENSION_BYTES;
/// A data part from this size on makes the reader expect more of its kind.
const BULK_BYTES: usize = 16 << 10;
/// While bulk is expected, bytes that a `read` takes into the buffer: enough for header and control part of
/// the next frame, little of its data, since that is copied once more.
const LOOKAHEAD_BYTES: usize = 512;
/// Free bytes at the end of the buffer below which its content moves to the front.
const TAIL_BYTES_MIN: usize = 4 << 10;

const _: () = assert!(HEADER_BYTES + CONTROL_PART_MAX <= LOOKAHEAD_BYTES);
const _: () = assert!(HEADER_BYTES + INLINE_BYTES_MAX + LOOKAHEAD_BYTES <= TAIL_BYTES_MIN);

/// What one `read` brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Some bytes.
    Bytes {
        /// All that there was room for: there may be more.
        full: bool,
    },
    /// None yet.
    Empty,
    /// None any more.
    End,
}

/// What the bytes so far amount to.
#[derive(Debug)]
pub enum Step<'a> {
    /// A whole, checked frame.
    Frame {
        /// As it was posted, but for stamp and checksum.
        header: FrameHeader,
        /// Control part.
        control: &'a [u8],
        /// Data part.
        data: Incoming<'a>,
    },
    /// A checked frame whose data part was dropped ([`FrameReader::shed`]).
    Shed {
        /// As it was posted, but for stamp and checksum.
        header: FrameHeader,
    },
    /// Read again.
    NeedBytes,
    /// The data part that begins needs a chunk and there is none for its client: try again when chunks have
    /// returned.
    NeedMemory {
        /// The client.
        client: u16,
    },
    /// The data part that begins may be taken only from an authenticated peer: try again after that.
    NeedEstablish,
}

/// A data part on its way into a chunk.
struct Filling {
    chunk: Chunk,
    filled: usize,
}

/// A data part on its way to nowhere.
struct Shedding {
    left: usize,
    /// Checksum so far.
    sum: u32,
}

/// The receiving half of a connection.
pub struct FrameReader {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Header and control part of the frame whose data part is on its way.
    header: FrameHeader,
    control: [u8; CONTROL_PART_MAX],
    filling: Option<Filling>,
    shedding: Option<Shedding>,
    /// Position of the next frame on this connection.
    position: u64,
    bulk: bool,
}

impl Default for FrameReader {
    fn default() -> FrameReader {
        FrameReader::new()
    }
}

impl FrameReader {
    /// A reader at the beginning of a stream.
    pub fn new() -> FrameReader {
        FrameReader {
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            header: FrameHeader::new(transport_proto::wire::FrameType::Data),
            control: [0; CONTROL_PART_MAX],
            filling: None,
            shedding: None,
            position: 1,
            bulk: false,
        }
    }

    /// Whether the bytes so far end inside a frame.
    pub fn is_inside_frame(&self) -> bool {
        self.filling.is_some() || self.shedding.is_some() || self.start != self.end
    }

    /// Reads once. Call [`FrameReader::next`] until it needs bytes before the next call.
    pub fn fill(&mut self, stream: &mut impl Read) -> std::io::Result<Fill> {
        let result = match &mut self.filling {
            Some(filling) => {
                assert!(self.start == self.end, "buffered bytes go into the chunk before more are read");
                (self.start, self.end) = (0, 0);
                let rest = &mut filling.chunk.as_mut()[filling.filled..];
                let (wanted, room) = (rest.len(), rest.len() + LOOKAHEAD_BYTES);
                let lookahead = &mut self.buffer[..LOOKAHEAD_BYTES];
                stream.read_vectored(&mut [IoSliceMut::new(rest), IoSliceMut::new(lookahead)]).map(|count| {
                    let into_chunk = count.min(wanted);
                    filling.filled += into_chunk;
                    self.end = count - into_chunk;
                    (count, room)
                })
            }
            None => {
                let space = self.make_space();
                let room = space.len();
                stream.read(space).map(|count| {
                    self.end += count;
                    (count, room)
                })
            }
        };
        match result {
            Ok((0, _)) => Ok(Fill::End),
            Ok((count, room)) => Ok(Fill::Bytes { full: count == room }),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(Fill::Empty),
            Err(e) => Err(e),
        }
    }

    fn make_space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < TAIL_BYTES_MIN {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = if self.bulk { LOOKAHEAD_BYTES } else { self.buffer.len() - self.end };
        &mut self.buffer[self.end..self.end + room]
    }

    /// The next frame of what was read. Chunks come from `pool`; without `established` no frame that needs
    /// one is taken. A fault is the peer's; the stream has no meaning after it.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self, pool: &mut Slab, established: bool) -> Result<Step<'_>, TcpFault> {
        if self.filling.is_some() {
            return self.finish_filling();
        }
        if self.shedding.is_some() {
            return self.finish_shedding();
        }
        let bytes = &self.buffer[self.start..self.end];
        if bytes.len() < HEADER_BYTES {
            return self.check_beginning();
        }
        let mut header = FrameHeader::parse(bytes).map_err(TcpFault::Frame)?;
        let control_end = HEADER_BYTES + usize::from(header.control_length.get());
        let data_length = header.data_length.get() as usize;
        if bytes.len() < control_end {
            return Ok(Step::NeedBytes);
        }
        let frame_bytes = control_end + data_length;
        if frame_bytes - HEADER_BYTES <= INLINE_BYTES_MAX {
            if bytes.len() < frame_bytes {
                return Ok(Step::NeedBytes);
            }
            let (control, data) = (&bytes[HEADER_BYTES..control_end], &bytes[control_end..frame_bytes]);
            check_frame(&mut header, self.position, control, data)?;
            self.position += 1;
            self.bulk = false;
            let from = self.start;
            self.start += frame_bytes;
            let bytes = &self.buffer[from..from + frame_bytes];
            let data =
                if data_length == 0 { Incoming::Empty } else { Incoming::Inline(&bytes[control_end..]) };
            return Ok(Step::Frame { header, control: &bytes[HEADER_BYTES..control_end], data });
        }
        // Nothing may be allocated at the word of a damaged header; with a checksum that covers the data part
        // too, the header's own limits bound what is allocated, and the rest is checked at the end.
        if header.flags & FLAG_DATA_CRC == 0 {
            check_checksum(&header, &bytes[HEADER_BYTES..control_end], &[])?;
        }
        if !established {
            return Ok(Step::NeedEstablish);
        }
        let client = header.client.get();
        let Ok(mut chunk) = pool.allocate_for(client, data_length) else {
            return Ok(Step::NeedMemory { client });
        };
        self.control[..control_end - HEADER_BYTES].copy_from_slice(&bytes[HEADER_BYTES..control_end]);
        let filled = data_length.min(bytes.len() - control_end);
        chunk.as_mut()[..filled].copy_from_slice(&bytes[control_end..control_end + filled]);
        self.start += control_end + filled;
        self.header = header;
        self.bulk = data_length >= BULK_BYTES;
        self.filling = Some(Filling { chunk, filled });
        self.finish_filling()
    }

    /// Whether the chunk that [`Step::NeedMemory`] asked for can be had by now.
    pub fn is_memory_there(&self, pool: &mut Slab) -> bool {
        let header = FrameHeader::parse(&self.buffer[self.start..self.end]);
        let bytes = |header: &FrameHeader| header.data_length.get() as usize;
        header.is_ok_and(|header| pool.allocate_for(header.client.get(), bytes(&header)).is_ok())
    }

    /// After [`Step::NeedMemory`]: the frame's data part is dropped as it comes, and
    /// [`FrameReader::next`] goes on. At the end it says [`Step::Shed`].
    pub fn shed(&mut self) {
        let bytes = &self.buffer[self.start..self.end];
        let Ok(header) = FrameHeader::parse(bytes) else { return };
        let control_length = usize::from(header.control_length.get());
        let control = &bytes[HEADER_BYTES..HEADER_BYTES + control_length];
        self.shedding =
            Some(Shedding { left: header.data_length.get() as usize, sum: checksum(&header, control, &[]) });
        self.header = header;
        self.start += HEADER_BYTES + control_length;
        // What is dropped is read by the buffer, in large pieces.
        self.bulk = false;
    }

    fn finish_shedding(&mut self) -> Result<Step<'_>, TcpFault> {
        let Some(shedding) = &mut self.shedding else { return Ok(Step::NeedBytes) };
        let count = shedding.left.min(self.end - self.start);
        let dropped = &self.buffer[self.start..self.start + count];
        if self.header.flags & FLAG_DATA_CRC != 0 && count > 0 {
            shedding.sum = crc32c::crc32c_append(shedding.sum, dropped);
        }
        (self.start, shedding.left) = (self.start + count, shedding.left - count);
        if shedding.left > 0 {
            return Ok(Step::NeedBytes);
        }
        let sum = shedding.sum;
        self.shedding = None;
        let mut header = self.header;
        if sum != header.crc32c.get() {
            return Err(TcpFault::Frame(FrameFault::Checksum));
        }
        check_position(&mut header, self.position)?;
        self.position += 1;
        Ok(Step::Shed { header })
    }

    /// Fewer bytes than a header: what is wrong already is told at once, so that a stranger is not waited
    /// for.
    fn check_beginning(&self) -> Result<Step<'_>, TcpFault> {
        let bytes = &self.buffer[self.start..self.end];
        if let [first, second, ..] = *bytes {
            let found = u16::from_le_bytes([first, second]);
            if found != transport_proto::wire::MAGIC {
                return Err(TcpFault::Frame(FrameFault::Magic { found }));
            }
        }
        Ok(Step::NeedBytes)
    }

    fn finish_filling(&mut self) -> Result<Step<'_>, TcpFault> {
        let Some(filling) = self.filling.take_if(|filling| filling.filled == filling.chunk.as_ref().len())
        else {
            return Ok(Step::NeedBytes);
        };
        let control = &self.control[..usize::from(self.header.control_length.get())];
        let mut header = self.header;
        check_frame(&mut header, self.position, control, filling.chunk.as_ref())?;
        self.position += 1;
        Ok(Step::Frame { header, control, data: Incoming::Chunk(filling.chunk) })
    }
}

/// Checks checksum and position, and takes the provider's flag off the header.
fn check_frame(header: &mut FrameHeader, expected: u64, control: &[u8], data: &[u8]) -> Result<(), TcpFault> {
    let covers_data = header.flags & FLAG_DATA_CRC != 0;
    check_checksum(header, control, if covers_data { data } else { &[] })?;
    check_position(header, expected)
}

fn check_position(header: &mut FrameHeader, expected: u64) -> Result<(), TcpFault> {
    header.flags &= !FLAG_DATA_CRC;
    let found = header.rail_stamp.get() & ((1 << 48) - 1);
    if found == expected { Ok(()) } else { Err(TcpFault::Position { expected, found }) }
}

fn check_checksum(header: &FrameHeader, control: &[u8], data: &[u8]) -> Result<(), TcpFault> {
    if checksum(header, control, data) == header.crc32c.get() {
        Ok(())
    } else {
        Err(TcpFault::Frame(FrameFault::Checksum))
    }
}

/// CRC32C over header (its checksum field zero), control part and `data`.
pub fn checksum(header: &FrameHeader, control: &[u8], data: &[u8]) -> u32 {
    let mut header = *header;
    header.crc32c.set(0);
    let mut sum = crc32c::crc32c(zerocopy::IntoBytes::as_bytes(&header));
    for part in [control, data] {
        if !part.is_empty() {
            sum = crc32c::crc32c_append(sum, part);
        }
    }
    sum
}
