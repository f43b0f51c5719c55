//! The load against a disk in memory: it finds nothing wrong with a good one, and every kind of wrong with a
//! bad one.

use super::*;

const RUN: u64 = 42;
const BLOCKS: u64 = 16;
const LOAD: (Moment, &str) = (Moment::Load, "C");
const READ_BACK: (Moment, &str) = (Moment::ReadBack, "B");

struct Rig {
    load: Load,
    disk: Vec<u8>,
    faults: Faults,
}

impl Rig {
    fn new() -> Rig {
        let disk = vec![0; BLOCKS as usize * BLOCK_BYTES];
        Rig { load: Load::new(RUN, BLOCKS), disk, faults: Faults::default() }
    }

    fn span(first: BlockNumber, count: usize) -> std::ops::Range<usize> {
        let start = first.0 as usize * BLOCK_BYTES;
        start..start + count * BLOCK_BYTES
    }

    /// One request carried out as a good disk does.
    fn step(&mut self) {
        match self.load.next() {
            LoadRequest::Write { first, bytes, .. } => {
                let count = bytes.len() / BLOCK_BYTES;
                self.disk[Rig::span(first, count)].copy_from_slice(&bytes);
                self.load.wrote(first, count as u64, true);
            }
            LoadRequest::Read { first, floors } => {
                let bytes = self.disk[Rig::span(first, floors.len())].to_vec();
                self.load.read(first, &floors, &bytes, &mut self.faults, LOAD);
            }
        }
    }

    fn look_at_all(&mut self, seen: (Moment, &str)) {
        let floors = self.load.floors(BlockNumber(0), BLOCKS);
        self.load.read(BlockNumber(0), &floors, &self.disk, &mut self.faults, seen);
    }

    fn with_every_block_written() -> Rig {
        let mut rig = Rig::new();
        for _ in 0..2000 {
            rig.step();
        }
        assert!(rig.faults.is_clean(), "{:?}", rig.faults);
        rig
    }

    fn block(&mut self, number: u64) -> &mut [u8] {
        &mut self.disk[Rig::span(BlockNumber(number), 1)]
    }
}

#[test]
fn a_good_disk_gives_no_fault() {
    let mut rig = Rig::with_every_block_written();
    rig.look_at_all(READ_BACK);
    assert!(rig.faults.is_clean(), "{:?}", rig.faults);
}

#[test]
fn an_old_block_is_stale_during_the_load_and_lost_at_the_end() {
    let mut rig = Rig::with_every_block_written();
    let old = rig.disk.clone();
    for _ in 0..2000 {
        rig.step();
    }
    rig.block(5).copy_from_slice(&old[Rig::span(BlockNumber(5), 1)]);
    rig.look_at_all(LOAD);
    assert_eq!((rig.faults.stale, rig.faults.lost), (1, 0));
    rig.look_at_all(READ_BACK);
    assert_eq!((rig.faults.stale, rig.faults.lost), (1, 1));
    assert!(rig.faults.notes[0].starts_with("block 5, read through C, holds version"));
}

#[test]
fn a_block_that_went_back_to_zeroes_is_lost() {
    let mut rig = Rig::with_every_block_written();
    rig.block(5).fill(0);
    rig.look_at_all(READ_BACK);
    assert_eq!(rig.faults.lost, 1);
}

#[test]
fn a_block_written_to_a_wrong_place_is_misplaced() {
    let mut rig = Rig::with_every_block_written();
    let other = rig.block(6).to_vec();
    rig.block(5).copy_from_slice(&other);
    rig.look_at_all(READ_BACK);
    assert_eq!(rig.faults.misplaced, 1);
}

#[test]
fn a_half_written_block_is_torn() {
    let mut rig = Rig::with_every_block_written();
    let half = rig.block(6)[2048..].to_vec();
    rig.block(5)[2048..].copy_from_slice(&half);
    rig.look_at_all(READ_BACK);
    assert_eq!(rig.faults.torn, 1);
}
