//! The two halves of a connection without a socket: streams cut at every boundary, damaged, and written in
//! pieces.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::path::Path;
use std::sync::Arc;
use transport_buf::{Slab, SlabLayout};
use transport_proto::wire::{DATA_BYTES_MAX, FrameFault, FrameHeader, FrameType, HEADER_BYTES, MAGIC};
use transport_provider::Payload;
use transport_provider::conformance::pattern;
use transport_tcp::TcpFault;
use transport_tcp::exercise::{Decoded, decode_in_pieces, exercise};
use transport_tcp::reader::{Fill, FrameReader, Step, checksum};
use transport_tcp::writer::{Drain, FrameWriter, Held, QUEUE_BYTES_MAX};
use zerocopy::IntoBytes;

fn pool() -> Slab {
    Slab::create(SlabLayout { classes: [(4096, 8), (64 << 10, 8), (1 << 20, 4), (0, 0)] }).unwrap()
}

/// A frame to be: control part and data part.
type Message = (Vec<u8>, Vec<u8>);

fn header_of(number: u64, (control, data): &Message) -> FrameHeader {
    let mut header = FrameHeader::new(FrameType::Data);
    header.sequence.set(number);
    header.control_length.set(control.len() as u16);
    header.data_length.set(data.len() as u32);
    header
}

/// Puts a message into the queue the way the provider does: small data beside the header, large by reference.
fn push(writer: &mut FrameWriter, number: u64, message: &Message, data_checksum: bool) -> bool {
    let (control, data) = message;
    let header = header_of(number, message);
    let copied = data.len() <= 1024;
    let (beside, held) = if copied { (data.len(), 0) } else { (0, data.len()) };
    if !writer.has_room(control.len() + beside, held) {
        return false;
    }
    if copied {
        writer.push_copied(&header, control, data, data_checksum);
    } else {
        let held = Held::Payload(Payload::Caller(Arc::new(data.clone())));
        writer.push_held(&header, control, held, 0..data.len(), data_checksum);
    }
    true
}

/// The bytes of `messages` on the wire.
fn stream_of(messages: &[Message], data_checksum: bool) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut writer = FrameWriter::new(QUEUE_BYTES_MAX, 0);
    for (number, message) in (1..).zip(messages) {
        assert!(push(&mut writer, number, message, data_checksum));
        assert_eq!(writer.drain(&mut stream).unwrap(), Drain::Done);
    }
    stream
}

fn assert_delivered(decoded: &Decoded, messages: &[Message]) {
    assert_eq!(decoded.frames.len(), messages.len());
    for ((number, message), (header, control, data)) in (1..).zip(messages).zip(&decoded.frames) {
        assert_eq!(header.sequence.get(), number);
        assert_eq!((control, data), (&message.0, &message.1));
    }
}

fn sample() -> Vec<Message> {
    let sizes = [(0, 0), (128, 0), (5, 187), (5, 188), (0, 700), (128, 3000), (0, 1)];
    (1..).zip(sizes).map(|(n, (control, data))| (pattern(n, control), pattern(n + 100, data))).collect()
}

// proves: T8 T10
#[test]
fn a_stream_torn_at_any_byte_yields_the_whole_frames_before_and_nothing_else() {
    let messages = sample();
    let stream = stream_of(&messages, false);
    let mut ends = vec![0];
    for (control, data) in &messages {
        ends.push(ends.last().unwrap() + HEADER_BYTES + control.len() + data.len());
    }
    let mut pool = pool();
    for cut in 0..=stream.len() {
        let decoded = decode_in_pieces(&stream[..cut], &[usize::MAX], true, &mut pool);
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        assert_eq!(decoded.fault, None);
        assert_eq!(decoded.torn, !ends.contains(&cut));
        assert_delivered(&decoded, &messages[..whole]);
    }
}

// proves: T8
#[test]
fn frames_are_whole_whatever_byte_the_stream_is_split_at() {
    let messages = sample();
    let stream = stream_of(&messages, true);
    let mut pool = pool();
    assert_delivered(&decode_in_pieces(&stream, &[1], true, &mut pool), &messages);
    for first in 1..=stream.len() {
        let decoded = decode_in_pieces(&stream, &[usize::MAX, first], true, &mut pool);
        assert_eq!(decoded.fault, None);
        assert_delivered(&decoded, &messages);
    }
}

#[test]
fn a_flipped_bit_in_header_or_control_part_is_never_delivered() {
    let messages = [(pattern(1, 40), pattern(2, 100)), (pattern(3, 9), pattern(4, 2000))];
    let clean = stream_of(&messages, false);
    let second = HEADER_BYTES + 140;
    let covered = (0..HEADER_BYTES + 40).chain(second..second + HEADER_BYTES + 9);
    let mut pool = pool();
    for byte in covered {
        for bit in 0..8 {
            let mut stream = clean.clone();
            stream[byte] ^= 1 << bit;
            let decoded = decode_in_pieces(&stream, &[usize::MAX], true, &mut pool);
            let before = usize::from(byte >= second);
            assert_delivered(&decoded, &messages[..before]);
            assert!(decoded.fault.is_some() || decoded.torn, "byte {byte} bit {bit} went unnoticed");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_data_part_is_found_when_the_sender_sums_it() {
    for length in [100, 5000, 100_000] {
        let messages = [(pattern(1, 8), pattern(2, length))];
        let clean = stream_of(&messages, true);
        let mut pool = pool();
        for byte in [HEADER_BYTES + 8, HEADER_BYTES + 8 + length / 2, clean.len() - 1] {
            let mut stream = clean.clone();
            stream[byte] ^= 4;
            let decoded = decode_in_pieces(&stream, &[usize::MAX, 999], true, &mut pool);
            assert_eq!(decoded.fault, Some(TcpFault::Frame(FrameFault::Checksum)));
            assert!(decoded.frames.is_empty());
        }
    }
}

#[test]
fn every_wrong_beginning_has_its_own_reason() {
    let message = (vec![1, 2], Vec::new());
    let faulty = |change: &dyn Fn(&mut FrameHeader)| {
        let mut header = header_of(1, &message);
        header.rail_stamp.set(1);
        change(&mut header);
        header.crc32c.set(checksum(&header, &message.0, &[]));
        let stream = [header.as_bytes(), &message.0, &[0; 4096]].concat();
        decode_in_pieces(&stream, &[usize::MAX], true, &mut pool()).fault
    };
    let frame = |fault| Some(TcpFault::Frame(fault));
    assert_eq!(faulty(&|header| header.magic.set(7)), frame(FrameFault::Magic { found: 7 }));
    assert_eq!(faulty(&|header| header.version = 9), frame(FrameFault::Version { found: 9 }));
    assert_eq!(faulty(&|header| header.frame_type = 99), frame(FrameFault::Type { found: 99 }));
    let long = DATA_BYTES_MAX as u32 + 1;
    let oversize = frame(FrameFault::DataLength { found: long as usize });
    assert_eq!(faulty(&|header| header.data_length.set(long)), oversize);
    let oversize = frame(FrameFault::ControlLength { found: 129 });
    assert_eq!(faulty(&|header| header.control_length.set(129)), oversize);
    assert_eq!(faulty(&|header| header.link = 8), frame(FrameFault::Range));
    let position = Some(TcpFault::Position { expected: 1, found: 2 });
    assert_eq!(faulty(&|header| header.rail_stamp.set(2)), position);
}

#[test]
fn a_stranger_is_recognised_by_two_bytes() {
    let decoded = decode_in_pieces(b"GE", &[usize::MAX], false, &mut pool());
    let found = u16::from_le_bytes(*b"GE");
    assert_ne!(found, MAGIC);
    assert_eq!(decoded.fault, Some(TcpFault::Frame(FrameFault::Magic { found })));
}

/// A stream that notes how large the places are that it is asked to fill.
struct Watched<'a> {
    rest: &'a [u8],
    first_places: Vec<usize>,
}

impl Read for Watched<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(out)])
    }

    fn read_vectored(&mut self, places: &mut [IoSliceMut<'_>]) -> std::io::Result<usize> {
        self.first_places.push(places[0].len());
        if self.rest.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.rest.read_vectored(places)
    }
}

// proves: T9
#[test]
fn bulk_is_read_into_its_chunk_and_only_its_head_through_the_buffer() {
    const LENGTH: usize = 500_000;
    let messages: Vec<Message> = (0..4).map(|n| (pattern(n, 16), pattern(n, LENGTH))).collect();
    let stream = stream_of(&messages, false);
    let mut watched = Watched { rest: &stream, first_places: Vec::new() };
    let (mut reader, mut pool, mut arrived) = (FrameReader::new(), pool(), 0);
    while reader.fill(&mut watched).unwrap() != Fill::Empty {
        while let Step::Frame { data, .. } = reader.next(&mut pool, true).unwrap() {
            assert!(data.bytes() == messages[arrived].1);
            arrived += 1;
        }
    }
    assert_eq!(arrived, 4);
    let buffered = 64 << 10;
    let head = HEADER_BYTES + 16;
    // The first read cannot know. From then on a read takes the rest of a data part to its place, and a few
    // hundred bytes of what follows.
    assert_eq!(watched.first_places[0], buffered);
    assert_eq!(watched.first_places[1], LENGTH - (buffered - head));
    assert_eq!(watched.first_places[2..5], [LENGTH - (512 - head); 3]);
}

// proves: T2
#[test]
fn a_data_part_without_memory_is_dropped_and_the_stream_goes_on_behind_it() {
    let messages: Vec<Message> =
        [300_000, 20, 300_000, 5000].map(|length| (pattern(7, 16), pattern(9, length))).into();
    for data_checksum in [false, true] {
        let stream = stream_of(&messages, data_checksum);
        let mut stream = stream.as_slice();
        let (mut reader, mut pool) = (FrameReader::new(), pool());
        let hoard: Vec<_> = core::iter::from_fn(|| pool.allocate(300_000).ok()).collect();
        let mut heard = Vec::new();
        while reader.fill(&mut stream).unwrap() != Fill::End {
            loop {
                match reader.next(&mut pool, true).unwrap() {
                    Step::NeedMemory { client: 0 } => reader.shed(),
                    Step::Shed { header } => heard.push((header.sequence.get(), None)),
                    Step::Frame { header, data, .. } => {
                        heard.push((header.sequence.get(), Some(data.bytes().to_vec())));
                    }
                    Step::NeedBytes => break,
                    other => panic!("{other:?}"),
                }
            }
        }
        let whole = |at: usize| Some(messages[at].1.clone());
        assert_eq!(heard, [(1, None), (2, whole(1)), (3, None), (4, whole(3))]);
        drop(hoard);
    }
}

/// Takes a few bytes a call, and nothing at every third.
struct Trickle {
    taken: Vec<u8>,
    sizes: Vec<usize>,
    calls: usize,
}

impl Write for Trickle {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> std::io::Result<usize> {
        self.calls += 1;
        if self.calls.is_multiple_of(3) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let count = self.sizes[self.calls % self.sizes.len()].min(all.len());
        self.taken.extend_from_slice(&all[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn message() -> impl Strategy<Value = Message> {
    let data = prop_oneof![0..200usize, 1000..1100usize, 0..70_000usize];
    (0..=128usize, data, any::<u64>())
        .prop_map(|(control, data, seed)| (pattern(seed, control), pattern(!seed, data)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // proves: T8
    #[test]
    fn what_is_written_in_pieces_is_read_in_pieces_as_it_was(
        messages in prop::collection::vec(message(), 1..150),
        writes in prop::collection::vec(1..20_000usize, 1..6),
        reads in prop::collection::vec(1..20_000usize, 2..6),
        data_checksum in any::<bool>(),
    ) {
        let mut writer = FrameWriter::new(200_000, 0);
        let mut trickle = Trickle { taken: Vec::new(), sizes: writes, calls: 0 };
        let mut number = 0;
        while number < messages.len() || !writer.is_empty() {
            let fits = |next: &Message, writer: &mut FrameWriter, number: usize| {
                push(writer, number as u64 + 1, next, data_checksum)
            };
            while messages.get(number).is_some_and(|next| fits(next, &mut writer, number)) {
                number += 1;
            }
            writer.drain(&mut trickle).unwrap();
        }
        let decoded = decode_in_pieces(&trickle.taken, &reads, true, &mut pool());
        prop_assert_eq!(decoded.fault, None);
        prop_assert!(!decoded.torn);
        assert_delivered(&decoded, &messages);
    }

    #[test]
    fn arbitrary_bytes_make_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        exercise(&bytes);
    }
}

#[test]
fn the_frame_decode_corpus_makes_no_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/fuzz/corpus/frame_decode");
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is committed") {
        exercise(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 5, "only {inputs} inputs in {}", folder.display());
}
