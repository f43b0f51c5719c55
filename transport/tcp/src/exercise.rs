//! The decoder against arbitrary bytes, for the fuzz target `frame_decode` and the test that replays its
//! corpus.

use crate::fault::TcpFault;
use crate::reader::{Fill, FrameReader, Step, checksum};
use std::io::{ErrorKind, Read};
use transport_buf::{Slab, SlabLayout};
use transport_proto::wire::{FLAG_DATA_CRC, FrameHeader, HEADER_BYTES, MAGIC, VERSION};
use zerocopy::IntoBytes;

/// First byte of an input: the frames in it get right beginnings, positions and checksums, so that what is
/// behind those checks is reached too.
const REPAIR: u8 = 1;
/// First byte of an input: the peer is authenticated.
const ESTABLISHED: u8 = 2;

/// A stream that hands out its bytes in pieces of a few sizes, in turn, with "nothing yet" between them.
struct Pieces<'a> {
    rest: &'a [u8],
    sizes: &'a [usize],
    turn: usize,
    dry: bool,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.dry = !self.dry && self.sizes.len() > 1;
        if self.dry {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.turn += 1;
        let size = self.sizes[self.turn % self.sizes.len()].min(out.len()).min(self.rest.len());
        let (now, later) = self.rest.split_at(size);
        out[..size].copy_from_slice(now);
        self.rest = later;
        Ok(size)
    }
}

/// What a stream was decoded to: the frames as they were on the wire, and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Header (stamp, checksum and the flag for it as delivered), control part, data part of each frame.
    pub frames: Vec<(FrameHeader, Vec<u8>, Vec<u8>)>,
    /// The fault that ended it, if one did.
    pub fault: Option<TcpFault>,
    /// Whether it ended inside a frame.
    pub torn: bool,
}

/// Decodes `stream`, which arrives in pieces of `sizes` in turn. Stops where a frame needs what it cannot
/// get.
pub fn decode_in_pieces(stream: &[u8], sizes: &[usize], established: bool, pool: &mut Slab) -> Decoded {
    let mut pieces = Pieces { rest: stream, sizes, turn: 0, dry: false };
    let mut reader = FrameReader::new();
    let mut frames = Vec::new();
    let fault = loop {
        match reader.fill(&mut pieces).expect("the stream does not fail") {
            Fill::Empty => continue,
            Fill::End => break None,
            Fill::Bytes { .. } => (),
        }
        match take_frames(&mut reader, established, pool, &mut frames) {
            Ok(true) => (),
            Ok(false) => break None,
            Err(fault) => break Some(fault),
        }
    };
    Decoded { frames, fault, torn: reader.is_inside_frame() }
}

/// Takes what is whole. `Ok(false)`: the next frame needs what it cannot get.
fn take_frames(
    reader: &mut FrameReader,
    established: bool,
    pool: &mut Slab,
    frames: &mut Vec<(FrameHeader, Vec<u8>, Vec<u8>)>,
) -> Result<bool, TcpFault> {
    loop {
        match reader.next(pool, established)? {
            Step::Frame { header, control, data } => {
                frames.push((header, control.to_vec(), data.bytes().to_vec()));
            }
            Step::NeedBytes => return Ok(true),
            Step::Shed { .. } => {}
            Step::NeedMemory { .. } | Step::NeedEstablish => return Ok(false),
        }
    }
}

/// Makes valid frames of arbitrary bytes: each header is taken as it stands but for what `parse` insists on,
/// and its lengths are cut to what is there.
fn repair(bytes: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut rest = bytes;
    let mut position = 0;
    while rest.len() >= HEADER_BYTES {
        let mut raw = [0; HEADER_BYTES];
        raw.copy_from_slice(&rest[..HEADER_BYTES]);
        rest = &rest[HEADER_BYTES..];
        raw[..2].copy_from_slice(&MAGIC.to_le_bytes());
        raw[2] = VERSION;
        let Ok(mut header) = FrameHeader::parse(&raw) else { break };
        let control = usize::from(header.control_length.get());
        let data = (header.data_length.get() as usize).min(rest.len().saturating_sub(control));
        if control > rest.len() {
            break;
        }
        position += 1;
        header.data_length.set(data as u32);
        header.rail_stamp.set(position);
        let covered = if header.flags & FLAG_DATA_CRC != 0 { data } else { 0 };
        let (control, after) = rest.split_at(control);
        header.crc32c.set(checksum(&header, control, &after[..covered]));
        stream.extend_from_slice(header.as_bytes());
        stream.extend_from_slice(control);
        stream.extend_from_slice(&after[..data]);
        rest = &after[data..];
    }
    stream.extend_from_slice(rest);
    stream
}

/// Decodes `bytes` whole and in pieces: nothing panics, both agree, and every frame that is delivered is on
/// the wire as delivered.
pub fn exercise(bytes: &[u8]) {
    let Some((&mode, bytes)) = bytes.split_first() else { return };
    let layout = SlabLayout { classes: [(4096, 4), (1 << 20, 2), (0, 0), (0, 0)] };
    thread_local! {
        static POOL: core::cell::RefCell<Option<Slab>> = const { core::cell::RefCell::new(None) };
    }
    POOL.with_borrow_mut(|pool| {
        let pool = pool.get_or_insert_with(|| Slab::create(layout).expect("memory for a few chunks"));
        let stream = if mode & REPAIR != 0 { repair(bytes) } else { bytes.to_vec() };
        let established = mode & ESTABLISHED != 0;
        let whole = decode_in_pieces(&stream, &[usize::MAX], established, pool);
        let pieces = decode_in_pieces(&stream, &[usize::from(mode >> 2) + 1, 7, 300, 1], established, pool);
        assert_eq!(
            (&whole.frames, whole.fault),
            (&pieces.frames, pieces.fault),
            "the pieces made a difference"
        );
        let mut at = 0;
        for (header, control, data) in &whole.frames {
            let end = at + HEADER_BYTES + control.len() + data.len();
            let mut sent = FrameHeader::parse(&stream[at..]).expect("it was delivered");
            sent.flags &= !FLAG_DATA_CRC;
            assert_eq!(sent, *header);
            assert_eq!(stream[at + HEADER_BYTES..end], [control.as_slice(), data].concat());
            at = end;
        }
    });
}
