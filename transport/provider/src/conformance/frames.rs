//! Rules about what arrives: once, whole, unchanged, in posted order, whatever its size and wherever its
//! bytes lay.

use super::{Fixture, Link, Pair, Received, pattern};
use crate::{INLINE_BYTES_MAX, Payload, PayloadSlice, PostRefusal, Provider};
use std::sync::Arc;
use transport_proto::identity::RailGeneration;
use transport_proto::wire::{
    CONTROL_BYTES_MAX, DATA_BYTES_MAX, FLAG_DATA_CRC, FLAG_REPLAYED, FRAGMENT_EXTENSION_BYTES, FrameHeader,
    FrameType,
};

/// Posts until it is taken, turning both ends meanwhile, and moves what arrives to `arrived`.
fn post_patiently<F: Fixture>(
    pair: &mut Pair<'_, F>,
    arrived: &mut Vec<Received>,
    mut post: impl FnMut(&mut Pair<'_, F>) -> Result<(), PostRefusal>,
) {
    pair.until("a post is taken", |pair| {
        arrived.extend(pair.right.heard.frames.drain(..));
        match post(pair) {
            Ok(()) => true,
            Err(PostRefusal::Full | PostRefusal::NoMemory) => false,
            Err(refusal) => panic!("refused as {refusal:?}"),
        }
    });
}

/// The payload that a sender builds in memory that it reserved: placed at the peer or shared from here.
fn reserved_payload<F: Fixture>(pair: &mut Pair<'_, F>, link: Link, bytes: &[u8]) -> Payload {
    let mut chunk = None;
    pair.until("memory can be reserved", |pair| {
        match pair.left.provider.reserve(link.left, bytes.len()) {
            Ok(reserved) => chunk = Some(reserved),
            Err(PostRefusal::NoMemory) => pair.right.heard.frames.clear(),
            Err(refusal) => panic!("refused as {refusal:?}"),
        }
        chunk.is_some()
    });
    let mut chunk = chunk.expect("waited for it");
    chunk.set_length(bytes.len());
    chunk.as_mut().copy_from_slice(bytes);
    if F::Provider::RESERVES_AT_PEER {
        Payload::Placed(chunk.place())
    } else {
        Payload::Shared(chunk.share())
    }
}

/// Every control length with every inline length that fits beside it, in one stream.
pub fn frames_of_every_control_and_inline_length_arrive_once_whole_and_in_order<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let link = pair.establish();
    let mut lengths = Vec::new();
    for control in 0..=CONTROL_BYTES_MAX {
        for inline in [0, 1, 2, 63, 64, 65, 127, INLINE_BYTES_MAX - control] {
            if control + inline <= INLINE_BYTES_MAX {
                lengths.push((control, inline));
            }
        }
    }
    let mut arrived = Vec::new();
    for (number, &(control, inline)) in (1..).zip(&lengths) {
        let (control, inline) = (pattern(number, control), pattern(number + 1_000_000, inline));
        post_patiently(&mut pair, &mut arrived, |pair| {
            pair.left.post(link.left, number, &control, &inline, PayloadSlice::EMPTY)
        });
    }
    pair.until("all frames arrive", |pair| {
        arrived.extend(pair.right.heard.frames.drain(..));
        arrived.len() >= lengths.len()
    });
    pair.settle();
    assert!(pair.right.heard.frames.is_empty(), "a frame arrived twice");
    for ((number, &(control, inline)), frame) in (1..).zip(&lengths).zip(&arrived) {
        assert_eq!(frame.header.sequence.get(), number);
        assert_eq!(frame.connection, link.right);
        assert_eq!(frame.control, pattern(number, control));
        assert_eq!(frame.bytes(), pattern(number + 1_000_000, inline));
    }
}

/// Data of 0 B to 1 MiB from the caller's memory, from a chunk of the sender and from reserved memory.
pub fn data_of_every_size_arrives_whole_from_every_kind_of_payload<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let link = pair.establish();
    let around = |size: usize| [size - 1, size, size + 1];
    let mut sizes = vec![0, 1, 2, 7, 8, 100];
    for size in [INLINE_BYTES_MAX, 512, 4096, 8192, 65_536, 262_144] {
        sizes.extend(around(size));
    }
    sizes.extend([DATA_BYTES_MAX - 1, DATA_BYTES_MAX]);
    let mut number = 0;
    for size in sizes {
        for (kind, control) in [(0, 0), (1, 17), (2, CONTROL_BYTES_MAX)] {
            number += 1;
            let bytes = pattern(number, size);
            let payload = match kind {
                0 => Payload::Caller(Arc::new(bytes.clone())),
                1 => Payload::Shared(own_chunk(&bytes)),
                _ => reserved_payload(&mut pair, link, &bytes),
            };
            let control = pattern(number + 1_000_000, control);
            let mut arrived = Vec::new();
            post_patiently(&mut pair, &mut arrived, |pair| {
                pair.left.post(link.left, number, &control, &[], payload.whole())
            });
            assert!(arrived.is_empty());
            let frame = pair.receive();
            assert_eq!((frame.header.sequence.get(), frame.connection), (number, link.right));
            assert_eq!(frame.control, control);
            assert!(frame.bytes() == bytes, "{size} bytes of kind {kind} arrived changed");
        }
    }
    pair.settle();
    assert!(pair.right.heard.frames.is_empty(), "a frame arrived twice");
}

/// A chunk of memory that no provider knows.
fn own_chunk(bytes: &[u8]) -> transport_buf::SharedChunk {
    let chunk_bytes = bytes.len().max(1).next_multiple_of(4096) as u32;
    let layout = transport_buf::SlabLayout { classes: [(chunk_bytes, 1), (0, 0), (0, 0), (0, 0)] };
    let mut slab = transport_buf::Slab::create(layout).expect("memory for one chunk");
    let mut chunk = slab.allocate(bytes.len()).expect("the slab is fresh");
    chunk.as_mut().copy_from_slice(bytes);
    chunk.share()
}

/// Sub-ranges of one payload travel as frames of their own.
pub fn slices_of_a_payload_arrive_as_their_own_bytes<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let link = pair.establish();
    let bytes = pattern(1, 200_000);
    let ranges = [0..100, 1..70_001, 4096..8192, 100_000..200_000, 199_999..200_000, 7..7];
    for payload in [Payload::Caller(Arc::new(bytes.clone())), Payload::Shared(own_chunk(&bytes))] {
        for range in ranges.clone() {
            let slice = PayloadSlice { payload: &payload, range: range.clone() };
            let mut arrived = Vec::new();
            post_patiently(&mut pair, &mut arrived, |pair| {
                pair.left.post(link.left, 9, b"slice", &[], slice.clone())
            });
            let frame = pair.receive();
            assert!(frame.bytes() == &bytes[range.clone()], "{range:?} arrived changed");
            assert_eq!(frame.control, b"slice");
        }
    }
}

/// Every field but the two that belong to the provider arrives as it was posted.
pub fn header_fields_arrive_as_they_were_posted<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let link = pair.establish();
    let mut header = FrameHeader::new(FrameType::Fragment);
    header.flags = FLAG_REPLAYED;
    header.link = 7;
    header.rail = 3;
    header.epoch.set(0x0102_0304_0506_0708);
    header.source.set(0x1112);
    header.destination.set(0x2122);
    header.client.set(5);
    header.incarnation.set(0x3132_3334_3536_3738);
    header.sequence.set(0x4142_4344_4546_4748);
    header.ack.set(0x5152_5354);
    header.credit.set(0x6162_6364);
    header.rail_stamp.set(FrameHeader::stamp(RailGeneration(3), 4));
    let control = pattern(1, CONTROL_BYTES_MAX + FRAGMENT_EXTENSION_BYTES);
    header.control_length.set(control.len() as u16);
    for length in [0, 48, 10_000] {
        header.data_length.set(length as u32);
        let payload = Payload::Caller(Arc::new(pattern(2, length)));
        pair.left.provider.post(link.left, &header, &control, &[], payload.whole()).expect("there is room");
        let mut frame = pair.receive();
        assert_eq!(frame.control, control);
        assert!(frame.bytes() == pattern(2, length));
        frame.header.rail_stamp = header.rail_stamp;
        frame.header.crc32c = header.crc32c;
        frame.header.flags &= !FLAG_DATA_CRC;
        assert_eq!(frame.header, header);
    }
}

/// Small and large frames mixed, both ways at once, on three connections: each keeps its own order.
pub fn mixed_traffic_in_both_directions_keeps_its_order<F: Fixture>(fixture: &F) {
    const FRAMES: u64 = 600;
    let mut pair = Pair::new(fixture);
    let links: Vec<Link> = (0..3).map(|_| pair.establish()).collect();
    let length = |number: u64| match number % 7 {
        0 => 70_000,
        1 | 2 => 4096,
        3 => 0,
        _ => (number % 190) as usize,
    };
    let mut posted = [[0u64; 3]; 2];
    let mut arrived = [[0u64; 3]; 2];
    pair.until("all frames arrive", |pair| {
        for (index, link) in links.iter().enumerate() {
            for (end, side) in [&mut pair.left, &mut pair.right].into_iter().enumerate() {
                let connection = if end == 0 { link.left } else { link.right };
                let number = posted[end][index] + 1;
                if number <= FRAMES && side.post_pattern(connection, number, length(number)).is_ok() {
                    posted[end][index] = number;
                }
            }
        }
        for (end, side) in [&mut pair.left, &mut pair.right].into_iter().enumerate() {
            for frame in side.heard.frames.drain(..) {
                let ours = |link: &Link| if end == 0 { link.left } else { link.right };
                let index =
                    links.iter().position(|link| ours(link) == frame.connection).expect("one of ours");
                arrived[end][index] += 1;
                let number = frame.header.sequence.get();
                assert_eq!(number, arrived[end][index], "out of order or twice");
                assert!(frame.bytes() == pattern(number, length(number)), "arrived changed");
            }
        }
        arrived.iter().flatten().all(|count| *count == FRAMES)
    });
    pair.settle();
    assert!(pair.left.heard.frames.is_empty() && pair.right.heard.frames.is_empty());
}

/// A message that was built for one connection, which then died, goes out over another one: fail-over of a
/// rail.
pub fn memory_reserved_on_a_dead_connection_is_sent_over_another<F: Fixture>(fixture: &F) {
    let mut pair = Pair::new(fixture);
    let (dead, alive) = (pair.establish(), pair.establish());
    let bytes = pattern(1, 150_000);
    let payload = reserved_payload(&mut pair, dead, &bytes);
    pair.left.post(dead.left, 1, &[], &[], payload.whole()).expect("there is room");
    pair.left.provider.close(dead.left);
    pair.until("the first connection is lost", |pair| {
        !pair.left.heard.lost.is_empty() && !pair.right.heard.lost.is_empty()
    });
    pair.right.heard.frames.clear();
    let half = PayloadSlice { payload: &payload, range: 75_000..150_000 };
    pair.left.post(alive.left, 2, &[], &[], payload.whole()).expect("there is room");
    pair.left.post(alive.left, 3, &[], &[], half).expect("there is room");
    let (whole, half) = (pair.receive(), pair.receive());
    assert_eq!((whole.connection, half.connection), (alive.right, alive.right));
    assert!(whole.bytes() == bytes && half.bytes() == &bytes[75_000..]);
}
