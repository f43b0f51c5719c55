//! Which pending requests of one volume touch the same bytes, so that a later one waits for an earlier one.
//!
//! Two requests conflict when their ranges overlap and at least one of them modifies. A request is blocked by
//! every conflicting one with a lower sequence that is not finished, in Limbo or not (SPEC B5): else a write
//! that is issued a second time could land on top of a later one that was answered in between.
//!
//! No tree: the ranges' granules lie side by side as 32-bit numbers, and "surely alone" is one pass of vector
//! compares over them, some tens of nanoseconds at queue depth 256. Only a granule in common is followed by
//! the exact look.

use crate::geometry::ByteRange;
use crate::wire::Slot;
use alloc::vec::Vec;
use transport_proto::identity::Sequence;

/// log2 of the bytes of a granule (4 KiB).
const GRANULE_SHIFT: u32 = 12;

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

/// The ranges of one volume's pending requests. The three lists have the same order.
#[derive(Default)]
pub(crate) struct OverlapTable {
    /// First granule of each range.
    firsts: Vec<i32>,
    /// Last granule of each range.
    lasts: Vec<i32>,
    entries: Vec<Entry>,
    /// Ranges that wait for others.
    blocked: usize,
}

impl OverlapTable {
    /// Enters a range whose sequence is higher than all before, and tells by how many it is blocked.
    #[inline]
    pub(crate) fn enter(
        &mut self,
        range: ByteRange,
        modifies: bool,
        slot: Slot,
        sequence: Sequence,
    ) -> (Position, u32) {
        let (first, last) = (granule(range.offset), granule(range.end() - 1));
        let blockers = if self.is_alone(first, last) {
            0
        } else {
            self.entries.iter().filter(|other| other.conflicts(range, modifies)).count() as u32
        };
        self.blocked += usize::from(blockers > 0);
        let position = Position(self.entries.len() as u32);
        self.firsts.push(first);
        self.lasts.push(last);
        self.entries.push(Entry { range, sequence, slot, blockers, modifies });
        (position, blockers)
    }

    /// Takes a finished range out. Those that it was the last to block are appended to `released`. If another
    /// range moved to its place, that one's slot is returned.
    #[inline]
    pub(crate) fn leave(&mut self, position: Position, released: &mut Vec<Slot>) -> Option<Slot> {
        let index = position.0 as usize;
        self.firsts.swap_remove(index);
        self.lasts.swap_remove(index);
        let gone = self.entries.swap_remove(index);
        self.blocked -= usize::from(gone.blockers > 0);
        if self.blocked > 0 {
            self.release(&gone, released);
        }
        self.entries.get(index).map(|moved| moved.slot)
    }

    /// True when no range in the table has a granule in common with these. Without branches, so that it
    /// compiles to vector compares.
    #[inline]
    fn is_alone(&self, first: i32, last: i32) -> bool {
        let pairs = self.firsts.iter().zip(&self.lasts);
        let meets = |(from, to): (&i32, &i32)| i32::from(*from <= last) & i32::from(*to >= first);
        pairs.map(meets).fold(0, |any, one| any | one) == 0
    }

    #[cold]
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

/// The granule of a byte. Bytes past 8 TiB share the last one: they cost exact looks, not errors.
#[inline]
fn granule(byte: u64) -> i32 {
    i32::try_from(byte >> GRANULE_SHIFT).unwrap_or(i32::MAX)
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
        fn a_range_is_free_exactly_when_no_earlier_conflicting_one_is_pending(
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let mut table = OverlapTable::default();
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
            prop_assert_eq!(table.entries.len(), plain.len());
            prop_assert_eq!(table.blocked, plain.iter().filter(|one| blockers(&plain, one) > 0).count());
        }
    }
}
