//! The map of regions that a mirror keeps on its legs: before a region is written its bit is on stable
//! storage on every leg, and it stays there until the copies are known to be equal again.
//!
//! Writes that wait for bits of one block share one write of that block (group commit).

use super::layout::{Layout, MAP_REGIONS};
use super::record;
use super::regions::RegionSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Map blocks being written at one time.
const WRITES_MAX: usize = 8;

/// A block on its way to the legs.
#[derive(Debug)]
struct BlockWrite {
    block: u64,
    /// Its regions that are set in what is written.
    set: Vec<u64>,
    /// Legs that have not answered.
    left: u32,
    has_failed: bool,
}

/// The map.
#[derive(Debug)]
pub(super) struct Intent {
    /// What the legs are to say.
    pub(super) wanted: RegionSet,
    /// What every leg is certain to say.
    safe: RegionSet,
    /// Blocks to be written.
    due: RegionSet,
    writing: Vec<BlockWrite>,
}

impl Intent {
    pub(super) fn new(layout: &Layout) -> Intent {
        Intent {
            wanted: RegionSet::none(layout.regions()),
            safe: RegionSet::none(layout.regions()),
            due: RegionSet::none(layout.map_blocks()),
            writing: Vec::new(),
        }
    }

    /// Whether all of these regions are safe; those that are not will be.
    #[inline]
    pub(super) fn require(&mut self, first: u64, last: u64) -> bool {
        let mut all = true;
        for region in first..=last {
            if self.safe.has(region) && self.wanted.has(region) {
                continue;
            }
            if !self.wanted.has(region) {
                self.wanted.insert(region);
            }
            if !self.safe.has(region) {
                all = false;
                if !self.is_coming(region) {
                    self.due.insert(region / MAP_REGIONS);
                }
            }
        }
        all
    }

    fn is_coming(&self, region: u64) -> bool {
        let block = region / MAP_REGIONS;
        self.writing.iter().any(|write| write.block == block && write.set.binary_search(&region).is_ok())
    }

    /// The copies of this region are equal.
    pub(super) fn release(&mut self, region: u64) {
        if self.wanted.has(region) {
            self.wanted.remove(region);
            self.due.insert(region / MAP_REGIONS);
        }
    }

    /// Everything is in doubt.
    pub(super) fn fill(&mut self) {
        self.wanted.fill();
        self.due.fill();
    }

    /// This block is to be written again.
    pub(super) fn mark_due(&mut self, block: u64) {
        self.due.insert(block);
    }

    /// Every block is to be written again: a leg was added that has none.
    pub(super) fn write_all(&mut self) {
        self.due.fill();
    }

    /// The next block to write, and what it says.
    pub(super) fn next_write(&mut self, layout: &Layout) -> Option<(u64, Arc<Vec<u8>>)> {
        if self.due.is_empty() || self.writing.len() >= WRITES_MAX {
            return None;
        }
        let free = |block: &u64| !self.writing.iter().any(|write| write.block == *block);
        let block = self.due.iter().take(WRITES_MAX + 1).find(free)?;
        self.due.remove(block);
        let first = block * MAP_REGIONS;
        let last = (first + MAP_REGIONS).min(self.wanted.length());
        let mut set = Vec::new();
        for region in first..last {
            if self.wanted.has(region) {
                set.push(region);
            } else {
                self.safe.remove(region);
            }
        }
        self.writing.push(BlockWrite { block, set, left: 0, has_failed: false });
        Some((block, Arc::new(record::map_block(layout, block, &self.wanted))))
    }

    /// The block went out to so many legs.
    pub(super) fn issued(&mut self, block: u64, legs: u32) {
        if let Some(write) = self.writing.iter_mut().find(|write| write.block == block) {
            write.left = legs;
        }
    }

    /// A leg has the block, or is out of use (`is_good`); or the last one in use failed. `true`: this block
    /// is on no leg that counts, and none of its regions is safe by it.
    pub(super) fn written(&mut self, block: u64, is_good: bool) -> bool {
        let Some(place) = self.writing.iter().position(|write| write.block == block) else { return false };
        let write = &mut self.writing[place];
        write.left = write.left.saturating_sub(1);
        write.has_failed |= !is_good;
        if write.left > 0 {
            return false;
        }
        let write = self.writing.swap_remove(place);
        if !write.has_failed {
            write.set.iter().for_each(|region| self.safe.insert(*region));
        }
        write.has_failed
    }

    /// Whether the legs say what they are to say.
    pub(super) fn is_settled(&self) -> bool {
        self.due.is_empty() && self.writing.is_empty()
    }
}
