//! The checks of the suite, one behaviour each.

use std::collections::HashSet;

use super::bench::{Bench, TestMemory, pattern};
use crate::backing::Backing;
use crate::fault::SubmitRefusal;
use crate::geometry::TRANSFER_BYTES_MAX;
use crate::request::StoreOperation;

/// Nothing was written, so nothing but zeroes is read, at both ends.
pub fn a_fresh_disk_reads_as_zeroes<B: Backing>(disk: B) {
    let mut bench = Bench::new(disk);
    let data_bytes = bench.disk.geometry().data_bytes;
    for offset in [0, data_bytes - (64 << 10)] {
        assert!(bench.read(offset, 64 << 10).iter().all(|byte| *byte == 0));
    }
}

/// One block to a mebibyte, at the first and the last byte and across odd places.
pub fn what_was_written_is_read_back<B: Backing>(disk: B) {
    let mut bench = Bench::new(disk);
    let geometry = bench.disk.geometry();
    let block = u64::from(geometry.block_bytes);
    for (seed, length) in [block, 3 * block, 4096, 64 << 10, 1 << 20].into_iter().enumerate() {
        for offset in [0, block, 77 * block, geometry.data_bytes - length] {
            let bytes = pattern(seed as u64 ^ offset, length as usize);
            bench.write(offset, &bytes);
            assert!(bench.read(offset, length as usize) == bytes, "{length} bytes at {offset}");
        }
    }
}

/// Memory that starts at any byte works, and where the device cannot reach it the detour is counted.
pub fn memory_of_any_alignment_is_served<B: Backing>(disk: B) {
    let mut bench = Bench::new(disk);
    let alignment = bench.disk.geometry().memory_alignment;
    let length = 1 << 20;
    for shift in [1, 3, 511, 2049] {
        let source = TestMemory::zeroed(length + 4096);
        let bytes = pattern(shift as u64, length);
        source.put(shift, &bytes);
        let write = StoreOperation::Write { memory: source.io(shift, length), fua: false };
        assert_eq!(bench.run(0, write), Ok(()));
        let target = TestMemory::zeroed(length + 4096);
        assert_eq!(bench.run(0, StoreOperation::Read { memory: target.io(shift, length) }), Ok(()));
        assert!(target.get(shift, length) == bytes, "memory shifted by {shift}");
        assert!(target.get(0, shift).iter().all(|byte| *byte == 0), "bytes before the memory were touched");
        let behind = target.get(shift + length, 4096 - shift);
        assert!(behind.iter().all(|byte| *byte == 0), "bytes behind the memory were touched");
    }
    let bounced = bench.disk.counters().bounced;
    assert_eq!(bounced > 0, alignment > 1, "{bounced} bounced where memory alignment is {alignment}");
}

/// Each reason to refuse, with the disk unchanged and nothing in flight afterwards.
pub fn requests_that_do_not_fit_are_refused_and_change_nothing<B: Backing>(disk: B) {
    let mut bench = Bench::new(disk);
    let geometry = bench.disk.geometry();
    let (data_bytes, block_bytes) = (geometry.data_bytes, geometry.block_bytes);
    let block = u64::from(block_bytes);
    let before = pattern(1, 4 * block as usize);
    bench.write(0, &before);
    let memory = TestMemory::with(&pattern(2, 4 * block as usize));
    let write = |length: u64| StoreOperation::Write { memory: memory.io(0, length as usize), fua: false };
    let read = |length: u64| StoreOperation::Read { memory: memory.io(0, length as usize) };
    let discard = |length_bytes| StoreOperation::Discard { length_bytes };
    let zero = |length_bytes| StoreOperation::WriteZeroes { length_bytes, may_unmap: true, fua: false };
    let unaligned = SubmitRefusal::Unaligned { block_bytes };
    let outside = SubmitRefusal::OutOfRange { data_bytes };
    for (offset, operation, refusal) in [
        (1, write(block), unaligned),
        (0, write(block - 1), unaligned),
        (block / 2, read(block), unaligned),
        (0, discard(block + 1), unaligned),
        (0, zero(block / 2), unaligned),
        (data_bytes, write(block), outside),
        (data_bytes - block, read(2 * block), outside),
        (data_bytes - block, discard(2 * block), outside),
        (0, zero(data_bytes + block), outside),
        (u64::MAX / block * block, discard(block), outside),
        (u64::MAX / block * block, write(block), outside),
        (0, write(0), SubmitRefusal::Empty),
        (0, discard(0), SubmitRefusal::Empty),
    ] {
        assert_eq!(bench.submit(offset, operation), Err(refusal), "{operation:?} at {offset}");
    }
    if data_bytes > TRANSFER_BYTES_MAX {
        let huge = TestMemory::zeroed((TRANSFER_BYTES_MAX + block) as usize);
        let read = StoreOperation::Read { memory: huge.io(0, (TRANSFER_BYTES_MAX + block) as usize) };
        let too_long = SubmitRefusal::TooLong { length_bytes_max: TRANSFER_BYTES_MAX };
        assert_eq!(bench.submit(0, read), Err(too_long));
    }
    assert_eq!(bench.disk.in_flight(), 0);
    assert!(bench.read(0, before.len()) == before);
}

/// Zeroes appear exactly where they were asked for, whichever way they are made.
pub fn written_zeroes_are_read_and_neighbours_stay<B: Backing>(disk: B) {
    let mut bench = Bench::new(disk);
    let block = u64::from(bench.disk.geometry().block_bytes);
    for (may_unmap, fua) in [(false, false), (true, false), (false, true), (true, true)] {
        for (offset, length_bytes) in
            [(block, block), (3 * block, 40 * block), (block, (1 << 20) + block), (0, 2 << 20)]
        {
            let mut expected = pattern(offset ^ length_bytes, 3 << 20);
            bench.write(0, &expected);
            let zero = StoreOperation::WriteZeroes { length_bytes, may_unmap, fua };
            assert_eq!(bench.run(offset, zero), Ok(()));
            expected[offset as usize..(offset + length_bytes) as usize].fill(0);
            let case = (offset, length_bytes, may_unmap, fua);
            assert!(bench.read(0, 3 << 20) == expected, "offset, length, may_unmap, fua = {case:?}");
        }
    }
}

/// A discard is a hint: each block afterwards is zero or untouched, and others are not concerned.
pub fn discarded_blocks_read_as_zeroes_or_as_before_and_neighbours_stay<B: Backing>(disk: B) {
    let mut bench = Bench::new(disk);
    let block = bench.disk.geometry().block_bytes as usize;
    let before = pattern(5, 2 << 20);
    for (offset, length) in [(block, block), (3 * block, 100 * block), (block, (1 << 20) + block)] {
        bench.write(0, &before);
        let discard = StoreOperation::Discard { length_bytes: length as u64 };
        assert_eq!(bench.run(offset as u64, discard), Ok(()));
        let after = bench.read(0, before.len());
        for at in (0..before.len()).step_by(block) {
            let inside = (offset..offset + length).contains(&at);
            let (was, is) = (&before[at..at + block], &after[at..at + block]);
            let zero = is.iter().all(|byte| *byte == 0);
            assert!(is == was || (inside && zero), "block at {at} after discarding {length} at {offset}");
        }
    }
}

/// Durability itself needs a power cut to prove; here: the requests work and their bytes are there.
pub fn durable_requests_and_flushes_end_well<B: Backing>(disk: B) {
    let mut bench = Bench::new(disk);
    let bytes = pattern(3, 64 << 10);
    let memory = TestMemory::with(&bytes);
    let write = StoreOperation::Write { memory: memory.io(0, bytes.len()), fua: true };
    assert_eq!(bench.run(4096, write), Ok(()));
    assert_eq!(bench.run(0, StoreOperation::Flush), Ok(()));
    assert!(bench.read(4096, bytes.len()) == bytes);
    assert_eq!(bench.disk.counters().flushes, 1);
}

/// Fills the queue several times over without polling: the bound holds, and no tag is lost or doubled.
pub fn a_full_queue_refuses_and_every_taken_request_ends_once<B: Backing>(disk: B) {
    let mut bench = Bench::new(disk);
    let geometry = bench.disk.geometry();
    let memory = TestMemory::with(&pattern(9, 4096));
    let mut taken = HashSet::new();
    for _round in 0..3 {
        for request in 0..u64::from(geometry.queue_depth) + 5 {
            let offset = request * 4096 % geometry.data_bytes;
            let write = StoreOperation::Write { memory: memory.io(0, 4096), fua: false };
            match bench.submit(offset, write) {
                Ok(tag) => assert!(taken.insert(tag)),
                Err(refusal) => {
                    let full = SubmitRefusal::Full { in_flight: geometry.queue_depth as usize };
                    assert_eq!(refusal, full);
                    assert!(geometry.queue_depth > 0, "a disk without a queue is never full");
                }
            }
        }
        assert_eq!(bench.disk.in_flight(), geometry.queue_depth as usize);
        assert_eq!(bench.disk.oldest_submitted_age().is_some(), geometry.queue_depth > 0);
        let ended = bench.drain();
        assert_eq!(ended.keys().copied().collect::<HashSet<_>>(), std::mem::take(&mut taken));
        assert!(ended.values().all(Result::is_ok));
        assert_eq!(bench.disk.oldest_submitted_age(), None);
    }
}

/// One request at a time, with a real sleep in between: a lost wake-up would end in the bench's patience.
pub fn a_sleeper_is_woken_by_each_completion<B: Backing>(disk: B) {
    let mut bench = Bench::new(disk);
    let memory = TestMemory::with(&pattern(9, 4096));
    for request in 0..200 {
        let operation = match request % 4 {
            0 => StoreOperation::Write { memory: memory.io(0, 4096), fua: true },
            1 => StoreOperation::Flush,
            2 => StoreOperation::Discard { length_bytes: 4096 },
            _ => StoreOperation::Read { memory: memory.io(0, 4096) },
        };
        assert_eq!(bench.run(request / 4 * 4096, operation), Ok(()));
    }
    assert!(bench.disk.arm(), "an idle disk lets the thread sleep");
}

/// What `status` prints adds up.
pub fn counters_tell_what_was_done<B: Backing>(disk: B) {
    let mut bench = Bench::new(disk);
    let block = bench.disk.geometry().block_bytes as usize;
    bench.write(0, &pattern(1, 2 * block));
    bench.write(0, &pattern(1, block));
    let _ = bench.read(0, 4 * block);
    assert_eq!(bench.run(0, StoreOperation::Flush), Ok(()));
    assert_eq!(bench.run(0, StoreOperation::Discard { length_bytes: 8 * block as u64 }), Ok(()));
    let counters = bench.disk.counters();
    assert_eq!((counters.writes, counters.written_bytes), (2, 3 * block as u64));
    assert_eq!((counters.reads, counters.read_bytes), (1, 4 * block as u64));
    assert_eq!((counters.flushes, counters.discards, counters.errors, counters.bounced), (1, 1, 0, 0));
}

/// The device owns the memory of what is in flight; after the drop it must be at rest.
pub fn dropping_a_disk_waits_for_what_is_in_flight<B: Backing>(disk: B) {
    let mut bench = Bench::new(disk);
    let bytes = pattern(7, 1 << 20);
    bench.write(0, &bytes);
    let memories: Vec<_> = (0..16).map(|_| TestMemory::zeroed(bytes.len())).collect();
    for memory in &memories {
        let read = StoreOperation::Read { memory: memory.io(0, bytes.len()) };
        bench.submit(0, read).expect("sixteen requests fit");
    }
    bench.disk.kick();
    drop(bench);
    assert!(
        memories.iter().all(|memory| memory.get(0, bytes.len()) == bytes),
        "a read went on after the drop"
    );
}
