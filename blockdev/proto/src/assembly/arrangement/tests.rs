//! Every byte of a volume lies on one part, once, and comes back from there.

use super::*;
use alloc::vec;
use proptest::prelude::*;

const BLOCK: BlockBytes = BlockBytes::USUAL;
const KIB: u64 = 1024;

fn sizes() -> impl Strategy<Value = Vec<u64>> {
    // Odd sizes too: what does not fill a block or a chunk is left out.
    proptest::collection::vec((1u64..40, 0u64..4096).prop_map(|(blocks, rest)| blocks * 4096 + rest), 1..6)
}

/// An arrangement, with the sizes of its parts.
fn arrangements() -> impl Strategy<Value = (Arrangement, Vec<u64>)> {
    let any = (sizes(), any::<bool>(), 0u32..3).prop_map(|(sizes, in_turns, power)| {
        let made = match in_turns {
            true => Arrangement::stripe(&sizes, 4096 << power, BLOCK),
            false => Arrangement::concatenation(&sizes, BLOCK),
        };
        made.ok().map(|made| (made, sizes))
    });
    any.prop_filter_map("parts that are too few or too small", |made| made)
}

fn range_in(whole: u64, offset: u64, length: u64) -> ByteRange {
    let offset = offset % whole;
    ByteRange::new(offset, (length % (whole - offset + 1)) as u32)
}

proptest! {
    // proves: B9
    #[test]
    fn shares_cover_a_range_once_and_lie_within_their_parts(
        (made, sizes) in arrangements(), offset: u64, length: u64,
    ) {
        let range = range_in(made.capacity(), offset, length);
        prop_assert!(made.covers(range));
        let mut covered = vec![0u8; range.length as usize];
        let mut places = Vec::new();
        for share in made.shares(range) {
            places.push(share.place);
            prop_assert!(share.range.length > 0);
            prop_assert!(share.range.end() <= sizes[share.place]);
            let mut total = 0;
            let mut end_before = None;
            for Fragment { at, length } in made.fragments(share.place, range) {
                prop_assert!(length > 0);
                // What lies next to each other was not torn.
                prop_assert_ne!(end_before, Some(at));
                end_before = Some(at + length);
                covered[at as usize..][..length as usize].iter_mut().for_each(|times| *times += 1);
                total += length;
            }
            prop_assert_eq!(total, share.range.length);
        }
        prop_assert!(covered.iter().all(|times| *times == 1), "a byte has no part, or two");
        // One share a part, whatever the length.
        let mut once = places.clone();
        once.dedup();
        prop_assert_eq!(once, places);
    }

    // proves: B9
    #[test]
    fn neighbours_in_the_whole_are_neighbours_on_the_part(
        (made, _) in arrangements(), offset: u64, one: u64, two: u64,
    ) {
        let first = range_in(made.capacity(), offset, one);
        let after = made.capacity() - first.end();
        prop_assume!(after > 0);
        let second = ByteRange::new(first.end(), (two % after + 1) as u32);
        let both = ByteRange::new(first.offset, first.length + second.length);
        for place in 0..made.parts() {
            let (a, b) = (made.share(place, first), made.share(place, second));
            let whole = made.share(place, both).map(|share| share.range);
            let joined = match (a.map(|a| a.range), b.map(|b| b.range)) {
                (Some(a), Some(b)) => {
                    prop_assert_eq!(a.end(), b.offset);
                    Some(ByteRange::new(a.offset, a.length + b.length))
                }
                (one, other) => one.or(other),
            };
            prop_assert_eq!(whole, joined);
        }
    }

    // proves: B9
    #[test]
    fn what_is_written_through_the_whole_reads_back_equal(
        (made, sizes) in arrangements(),
        writes in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u8>()), 1..12),
        (offset, length) in any::<(u64, u64)>(),
    ) {
        let mut model = vec![0u8; made.capacity() as usize];
        let mut parts: Vec<Vec<u8>> = sizes.iter().map(|size| vec![0xEE; *size as usize]).collect();
        let everything = (0, made.capacity() - 1, 0);
        for (turn, (offset, length, seed)) in [everything].into_iter().chain(writes).enumerate() {
            let mut range = range_in(made.capacity(), offset, length);
            if turn == 0 {
                range = ByteRange::new(0, made.capacity() as u32);
            }
            let salt = seed.wrapping_add(turn as u8);
            let pattern = |index: u32| (index as u8).wrapping_mul(31).wrapping_add(salt);
            let bytes: Vec<u8> = (0..range.length).map(pattern).collect();
            model[range.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            for share in made.shares(range) {
                let gathered = made.gather(share.place, range, &bytes);
                prop_assert_eq!(gathered.len() as u32, share.range.length);
                let part = &mut parts[share.place][share.range.offset as usize..];
                part[..gathered.len()].copy_from_slice(&gathered);
            }
        }
        for range in [ByteRange::new(0, made.capacity() as u32), range_in(made.capacity(), offset, length)] {
            let mut read = vec![0u8; range.length as usize];
            for share in made.shares(range) {
                let bytes = &parts[share.place][share.range.offset as usize..][..share.range.length as usize];
                prop_assert!(made.scatter(share.place, range, bytes, &mut read));
            }
            prop_assert_eq!(&read, &model[range.offset as usize..][..read.len()]);
        }
    }
}

// proves: B9
#[test]
fn sizes_are_those_of_whole_blocks_and_chunks() {
    let concatenated = Arrangement::concatenation(&[10 * KIB, 4 * KIB], BLOCK).expect("fits");
    assert_eq!(concatenated.capacity(), 12 * KIB);
    let striped = Arrangement::stripe(&[300 * KIB, 200 * KIB, 130 * KIB], 64 << 10, BLOCK).expect("fits");
    assert_eq!(striped.capacity(), 3 * 128 * KIB);
    assert!(!striped.covers(ByteRange::new(3 * 128 * KIB - 4096, 8192)));
    assert!(!striped.covers(ByteRange::new(u64::MAX, 8192)));
}

// proves: B9
#[test]
fn a_long_trim_is_one_range_of_each_part() {
    let made = Arrangement::stripe(&[1 << 40; 4], 64 << 10, BLOCK).expect("fits");
    let range = ByteRange::new(32 << 10, u32::MAX - 4095);
    let shares: Vec<Share> = made.shares(range).collect();
    assert_eq!(shares.len(), 4);
    assert_eq!(
        shares.iter().map(|share| u64::from(share.range.length)).sum::<u64>(),
        u64::from(range.length)
    );
    assert_eq!(shares[0].range.offset, 32 << 10);
    assert_eq!(shares[1].range.offset, 0);
}

// proves: B9
#[test]
fn what_cannot_be_arranged_is_refused_with_its_cause() {
    use ArrangementFault::{Chunk, PartCount, PartTooSmall, TooLarge};
    let large = [1 << 30; 2];
    let stripe = |parts: &[u64], chunk| Arrangement::stripe(parts, chunk, BLOCK).expect_err("refused");
    assert_eq!(stripe(&large[..1], 65536), PartCount { found: 1 });
    assert_eq!(stripe(&[1 << 30; PARTS_MAX + 1], 65536), PartCount { found: PARTS_MAX + 1 });
    for chunk in [0, 2048, 65537, 96 << 10, CHUNK_BYTES_MAX * 2] {
        assert_eq!(stripe(&large, chunk), Chunk { found: chunk });
    }
    assert_eq!(stripe(&[1 << 30, 4096], 65536), PartTooSmall { place: 1 });
    assert_eq!(stripe(&[u64::MAX; 2], 65536), TooLarge);
    let block = BlockBytes::new(64 << 10).expect("a block");
    assert_eq!(Arrangement::stripe(&large, 4096, block), Err(Chunk { found: 4096 }));
    assert_eq!(Arrangement::concatenation(&[], BLOCK), Err(PartCount { found: 0 }));
    assert_eq!(Arrangement::concatenation(&[8192, 100], BLOCK), Err(PartTooSmall { place: 1 }));
    assert_eq!(Arrangement::concatenation(&[u64::MAX; 2], BLOCK), Err(TooLarge));
}

// proves: B9 B11
#[test]
fn of_several_errors_the_one_of_a_broken_disk_is_told() {
    use BlockErrno::{Eio, Enodev, Enospc, Erofs};
    assert_eq!(combined(None, Enospc), Enospc);
    assert_eq!(combined(Some(Enospc), Eio), Eio);
    assert_eq!(combined(Some(Enospc), Erofs), Enospc);
    assert_eq!(combined(Some(Eio), Enodev), Eio);
    assert_eq!(combined(Some(Eio), Enospc), Eio);
}
