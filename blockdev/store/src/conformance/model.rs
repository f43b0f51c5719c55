//! Random requests, many at once, against a plain vector of bytes. A failure names the seed.

use std::ops::Range;

use super::DATA_BYTES_MIN;
use super::bench::{Bench, TestMemory, pattern};
use crate::backing::Backing;
use crate::request::StoreOperation;

const SEEDS: Range<u64> = 1..4;
const REQUESTS: usize = 600;
/// Most bytes of one random request.
const REQUEST_BYTES_MAX: u64 = 256 << 10;

/// One step of xorshift64*. Never zero for a state that is not.
pub(super) fn next_random(mut state: u64) -> u64 {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = next_random(self.0);
        (self.0 >> 11) % bound
    }
}

/// A request in flight: where it works, its memory, and what a read must give.
struct Pending {
    tag: u64,
    range: Range<u64>,
    memory: TestMemory,
    shift: usize,
    expected: Option<Vec<u8>>,
    discard: bool,
}

/// Requests that do not overlap run at the same time, in every kind, size and alignment; each read sees what
/// the model has, and so does the whole disk at the end.
pub fn random_requests_agree_with_a_model<B: Backing>(disk: B) {
    let mut bench = Bench::new(disk);
    let mut model = vec![0; DATA_BYTES_MIN as usize];
    for seed in SEEDS {
        let mut random = Random(next_random(seed));
        let mut pending: Vec<Pending> = Vec::new();
        for request in 0..REQUESTS {
            let range = random_range(&mut random, u64::from(bench.disk.geometry().block_bytes));
            while let Some(at) = pending.iter().position(|other| overlaps(&other.range, &range)) {
                let other = pending.swap_remove(at);
                settle(&mut bench, &mut model, &other, seed);
            }
            pending.push(launch(&mut bench, &mut model, &mut random, range, request as u64 ^ seed << 32));
            if pending.len() > 24 {
                let oldest = pending.remove(0);
                settle(&mut bench, &mut model, &oldest, seed);
            }
        }
        for last in pending {
            settle(&mut bench, &mut model, &last, seed);
        }
        assert!(bench.read(0, model.len()) == model, "seed {seed}: the disk differs from the model");
    }
}

fn overlaps(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn random_range(random: &mut Random, block: u64) -> Range<u64> {
    let blocks_max = if random.below(4) == 0 { REQUEST_BYTES_MAX / block } else { 16 };
    let length = (1 + random.below(blocks_max)) * block;
    let start = random.below((DATA_BYTES_MIN - length) / block + 1) * block;
    start..start + length
}

fn launch<B: Backing>(
    bench: &mut Bench<B>,
    model: &mut [u8],
    random: &mut Random,
    range: Range<u64>,
    seed: u64,
) -> Pending {
    let length_bytes = range.end - range.start;
    let length = length_bytes as usize;
    let shift = if random.below(4) == 0 { random.below(4096) as usize } else { 0 };
    let memory = TestMemory::zeroed(length + shift);
    let place = &mut model[range.start as usize..range.end as usize];
    let mut expected = None;
    let (fua, may_unmap) = (random.below(16) == 0, random.below(2) == 0);
    let operation = match random.below(10) {
        0..4 => {
            place.copy_from_slice(&pattern(seed, length));
            memory.put(shift, place);
            StoreOperation::Write { memory: memory.io(shift, length), fua }
        }
        4..8 => {
            expected = Some(place.to_vec());
            StoreOperation::Read { memory: memory.io(shift, length) }
        }
        8 => {
            place.fill(0);
            StoreOperation::WriteZeroes { length_bytes, may_unmap, fua }
        }
        _ => StoreOperation::Discard { length_bytes },
    };
    let discard = matches!(operation, StoreOperation::Discard { .. });
    let tag = bench.submit_patiently(range.start, operation);
    Pending { tag, range, memory, shift, expected, discard }
}

fn settle<B: Backing>(bench: &mut Bench<B>, model: &mut [u8], pending: &Pending, seed: u64) {
    let range = &pending.range;
    assert_eq!(bench.wait(pending.tag), Ok(()), "seed {seed}, {range:?}");
    let length = (range.end - range.start) as usize;
    if let Some(expected) = &pending.expected {
        assert!(pending.memory.get(pending.shift, length) == *expected, "seed {seed}: read of {range:?}");
    }
    if pending.discard {
        // Zero or as before is both right; the model takes over what the disk chose.
        let block = bench.disk.geometry().block_bytes as usize;
        let chosen = bench.read(range.start, length);
        let place = &mut model[range.start as usize..range.end as usize];
        for (was, is) in place.chunks_mut(block).zip(chosen.chunks(block)) {
            assert!(is == was || is.iter().all(|byte| *byte == 0), "seed {seed}: discard of {range:?}");
            was.copy_from_slice(is);
        }
    }
}
