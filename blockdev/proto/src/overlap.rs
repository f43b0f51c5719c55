//! Which pending requests of one volume touch the same bytes, so that a later one waits for an earlier one.
//!
//! Two requests conflict when their ranges overlap and at least one of them modifies. A request is blocked by every
//! conflicting one with a lower sequence that is not finished, in Limbo or not (SPEC B5): else a write that is
//! issued a second time could land on top of a later one that was answered in between.
//!
//! Sane cost without a tree: a table of counters, one per 4 KiB granule modulo its size, tells "surely alone" in one
//! look; only a hit, true or by coincidence, is followed by a scan of the volume's ranges, which lie side by side.

use crate::geometry::ByteRange;
use crate::wire::Slot;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use transport_proto::identity::Sequence;

/// Counters of a table. At queue depth 256 of single blocks about one look in eight meets another's counter.
const GRANULES: usize = 2048;
/// log2 of the bytes of a granule (4 KiB).
const GRANULE_SHIFT: u32 = 12;
/// A range of more granules than this is not entered in the counters: while one is pending, everybody scans.
const GRANULES_PER_RANGE_MAX: u64 = 257;

/// How many pending ranges touch a granule.
#[derive(Clone, Copy, Default)]
struct Touches {
    reads: u16,
    writes: u16,
}

struct Entry {
    range: ByteRange,
    sequence: Sequence,
    slot: Slot,
    blockers: u32,
    modifies: bool,
}

impl Entry {
    #[inline]
    fn conflicts(&self, range: ByteRange, modifies: bool) -> bool {
        (self.modifies || modifies) && self.range.overlaps(range)
    }
}

/// Place of a range in the table; moves when others leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position(u32);

/// The ranges of one volume's pending requests.
pub(crate) struct OverlapTable {
    touches: Box<[Touches]>,
    entries: Vec<Entry>,
    wide: usize,
    blocked: usize,
}

impl OverlapTable {
    /// An empty table; allocates its counters (8 KiB).
    pub(crate) fn new() -> OverlapTable {
        OverlapTable {
            touches: vec![Touches::default(); GRANULES].into_boxed_slice(),
            entries: Vec::with_capacity(64),
            wide: 0,
            blocked: 0,
        }
    }

    /// Enters a range whose sequence is higher than all before, and tells by how many it is blocked.
    #[inline]
    pub(crate) fn enter(
        &mut self,
        range: ByteRange,
        modifies: bool,
        slot: Slot,
        sequence: Sequence,
    ) -> (Position, u32) {
        debug_assert!(range.length > 0);
        let mut alone = self.wide == 0;
        match granules(range) {
            Some((first, count)) => {
                for granule in first..first + count {
                    let touches = &mut self.touches[granule as usize % GRANULES];
                    alone &= touches.writes == 0 && !(modifies && touches.reads > 0);
                    if modifies { touches.writes += 1 } else { touches.reads += 1 }
                }
            }
            None => {
                alone = false;
                self.wide += 1;
            }
        }
        let blockers = if alone {
            0
        } else {
            self.entries.iter().filter(|other| other.conflicts(range, modifies)).count() as u32
        };
        self.blocked += usize::from(blockers > 0);
        let position = Position(self.entries.len() as u32);
        self.entries.push(Entry { range, sequence, slot, blockers, modifies });
        (position, blockers)
    }

    /// Takes a finished range out. Those that it was the last to block are appended to `released`. If another range
    /// moved to its place, that one's slot is returned.
    #[inline]
    pub(crate) fn leave(&mut self, position: Position, released: &mut Vec<Slot>) -> Option<Slot> {
        let index = position.0 as usize;
        let gone = self.entries.swap_remove(index);
        match granules(gone.range) {
            Some((first, count)) => {
                for granule in first..first + count {
                    let touches = &mut self.touches[granule as usize % GRANULES];
                    if gone.modifies { touches.writes -= 1 } else { touches.reads -= 1 }
                }
            }
            None => self.wide -= 1,
        }
        self.blocked -= usize::from(gone.blockers > 0);
        if self.blocked > 0 {
            self.release(&gone, released);
        }
        self.entries.get(index).map(|moved| moved.slot)
    }

    fn release(&mut self, gone: &Entry, released: &mut Vec<Slot>) {
        for entry in &mut self.entries {
            if entry.sequence > gone.sequence && entry.conflicts(gone.range, gone.modifies) {
                entry.blockers -= 1;
                if entry.blockers == 0 {
                    self.blocked -= 1;
                    released.push(entry.slot);
                }
            }
        }
    }
}

/// First granule and number of granules of a range; `None` if it is too wide for the counters.
#[inline]
fn granules(range: ByteRange) -> Option<(u64, u64)> {
    let first = range.offset >> GRANULE_SHIFT;
    let count = ((range.end() - 1) >> GRANULE_SHIFT) - first + 1;
    (count <= GRANULES_PER_RANGE_MAX).then_some((first, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Enter { range: ByteRange, modifies: bool },
        Leave { choice: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        let length = prop_oneof![8 => 1u32..5, 1 => 200u32..300, 1 => 2000u32..5000];
        prop_oneof![
            3 => (0u64..64, length, any::<bool>()).prop_map(|(block, blocks, modifies)| Step::Enter {
                range: ByteRange::new(block * 1024, blocks * 1024),
                modifies,
            }),
            2 => any::<usize>().prop_map(|choice| Step::Leave { choice }),
        ]
    }

    /// What the table must do, said without cleverness.
    struct Plain {
        slot: Slot,
        sequence: u64,
        range: ByteRange,
        modifies: bool,
        position: Position,
    }

    fn conflicting(one: &Plain, other: &Plain) -> bool {
        (one.modifies || other.modifies) && one.range.overlaps(other.range)
    }

    fn blockers(all: &[Plain], of: &Plain) -> usize {
        all.iter().filter(|other| other.sequence < of.sequence && conflicting(other, of)).count()
    }

    proptest! {
        // proves: B5
        #[test]
        fn a_range_is_free_exactly_when_no_earlier_conflicting_one_is_pending(steps in prop::collection::vec(step(), 1..80)) {
            let mut table = OverlapTable::new();
            let mut plain: Vec<Plain> = Vec::new();
            let mut released = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Enter { range, modifies } => {
                        let (slot, sequence) = (Slot(number as u32), Sequence(number as u64 + 1));
                        let (position, found) = table.enter(range, modifies, slot, sequence);
                        plain.push(Plain { slot, sequence: sequence.0, range, modifies, position });
                        let expected = blockers(&plain, plain.last().expect("just pushed"));
                        prop_assert_eq!(found as usize, expected);
                    }
                    Step::Leave { choice } if !plain.is_empty() => {
                        // Only a free request can finish.
                        let free: Vec<usize> =
                            (0..plain.len()).filter(|at| blockers(&plain, &plain[*at]) == 0).collect();
                        let gone = plain.remove(free[choice % free.len()]);
                        released.clear();
                        if let Some(moved) = table.leave(gone.position, &mut released) {
                            let mover = plain.iter_mut().find(|one| one.slot == moved).expect("known");
                            mover.position = gone.position;
                        }
                        let mut expected: Vec<Slot> = plain
                            .iter()
                            .filter(|one| one.sequence > gone.sequence && conflicting(one, &gone))
                            .filter(|one| blockers(&plain, one) == 0)
                            .map(|one| one.slot)
                            .collect();
                        expected.sort();
                        released.sort();
                        prop_assert_eq!(&released, &expected);
                    }
                    Step::Leave { .. } => {}
                }
            }
            for count in table.touches.iter().filter(|_| plain.is_empty()) {
                prop_assert_eq!((count.reads, count.writes), (0, 0));
            }
        }
    }
}
