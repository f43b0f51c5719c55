//! The duplicate table that a master keeps for each driver's life: what came in from each of the driver's
//! slots last, and what became of it.
//!
//! A driver uses a slot for a new request only after the answer to the one before, so one entry a slot is all
//! there is to remember, the table is as long as the driver's pending list, and nothing needs trimming
//! (NFSv4.1 sessions work this way). A write that came twice runs once; a read may run again, since its bytes
//! are not kept.

use crate::errno::BlockErrno;
use crate::wire::{RequestId, SLOTS_MAX, Verdict};
use alloc::vec::Vec;
use transport_proto::identity::{Epoch, Sequence};

/// What the table knows of a request that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Never ran here, or may run again.
    New,
    /// Runs now; its answer will go out.
    Running,
    /// Ran; this is the answer.
    Answered(Verdict),
    /// The driver has used the slot for a later request since: nobody waits for this one any more.
    Superseded,
    /// The slot's earlier request still runs. No sound driver does that.
    SlotInUse,
}

#[derive(Clone, Copy)]
enum Fate {
    /// May run (again).
    Open,
    Running,
    Done,
    Failed(BlockErrno),
}

#[derive(Clone, Copy)]
struct Entry {
    sequence: Sequence,
    /// Number of the latest attempt that came in.
    epoch: Epoch,
    fate: Fate,
}

/// The table of one driver's life.
pub(crate) struct DuplicateTable {
    entries: Vec<Entry>,
}

impl DuplicateTable {
    pub(crate) const fn new() -> DuplicateTable {
        DuplicateTable { entries: Vec::new() }
    }

    /// Forgets everything: a new life of the driver counts its requests anew.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Looks a request up. If it runs now, its answer will name this attempt's number.
    #[inline]
    pub(crate) fn look(&mut self, id: RequestId, epoch: Epoch) -> Seen {
        let Some(entry) = self.entries.get_mut(id.slot.index()) else { return Seen::New };
        if id.sequence < entry.sequence {
            return Seen::Superseded;
        }
        let is_same = id.sequence == entry.sequence;
        match entry.fate {
            Fate::Running if is_same => {
                entry.epoch = entry.epoch.max(epoch);
                Seen::Running
            }
            Fate::Running => Seen::SlotInUse,
            Fate::Done if is_same => Seen::Answered(Verdict::Done),
            Fate::Failed(errno) if is_same => Seen::Answered(Verdict::Errno(errno)),
            _ => Seen::New,
        }
    }

    /// The request runs from now on. Its slot is below [`SLOTS_MAX`].
    #[inline]
    pub(crate) fn begin(&mut self, id: RequestId, epoch: Epoch) {
        let index = id.slot.index();
        assert!(index < SLOTS_MAX, "slot {index} is beyond every driver's");
        if self.entries.len() <= index {
            let blank = Entry { sequence: Sequence(0), epoch: Epoch(0), fate: Fate::Open };
            self.entries.resize((index + 1).next_power_of_two(), blank);
        }
        self.entries[index] = Entry { sequence: id.sequence, epoch, fate: Fate::Running };
    }

    /// The request has run with this verdict. `repeatable` when a copy may run again rather than be answered
    /// from here. Returns the number of the latest attempt.
    #[inline]
    pub(crate) fn end(&mut self, id: RequestId, verdict: Verdict, repeatable: bool) -> Option<Epoch> {
        let entry = self.entries.get_mut(id.slot.index()).filter(|entry| entry.sequence == id.sequence)?;
        entry.fate = match verdict {
            Verdict::Done if !repeatable => Fate::Done,
            Verdict::Errno(errno) if !repeatable => Fate::Failed(errno),
            _ => Fate::Open,
        };
        Some(entry.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Slot;

    const fn id(slot: u32, sequence: u64) -> RequestId {
        RequestId { slot: Slot(slot), sequence: Sequence(sequence) }
    }

    // proves: B5
    #[test]
    fn a_copy_is_answered_from_the_table_until_its_slot_is_used_again() {
        let mut table = DuplicateTable::new();
        assert_eq!(table.look(id(3, 7), Epoch(5)), Seen::New);
        table.begin(id(3, 7), Epoch(5));
        assert_eq!(table.look(id(3, 7), Epoch(5)), Seen::Running);
        assert_eq!(table.look(id(3, 8), Epoch(5)), Seen::SlotInUse);
        assert_eq!(table.end(id(3, 7), Verdict::Done, false), Some(Epoch(5)));
        assert_eq!(table.look(id(3, 7), Epoch(6)), Seen::Answered(Verdict::Done));
        assert_eq!(table.look(id(3, 9), Epoch(6)), Seen::New);
        table.begin(id(3, 9), Epoch(6));
        assert_eq!(table.look(id(3, 7), Epoch(6)), Seen::Superseded);
    }

    // proves: B2
    #[test]
    fn an_answer_names_the_latest_attempt_that_came_in_while_it_ran() {
        let mut table = DuplicateTable::new();
        table.begin(id(0, 1), Epoch(5));
        assert_eq!(table.look(id(0, 1), Epoch(6)), Seen::Running);
        assert_eq!(table.look(id(0, 1), Epoch(5)), Seen::Running);
        assert_eq!(table.end(id(0, 1), Verdict::Done, false), Some(Epoch(6)));
    }

    #[test]
    fn a_read_and_a_broken_path_may_run_again_but_an_error_is_final() {
        let mut table = DuplicateTable::new();
        table.begin(id(0, 1), Epoch(5));
        table.end(id(0, 1), Verdict::Done, true);
        assert_eq!(table.look(id(0, 1), Epoch(5)), Seen::New);
        table.begin(id(0, 1), Epoch(5));
        table.end(id(0, 1), Verdict::Errno(BlockErrno::Enospc), false);
        assert_eq!(table.look(id(0, 1), Epoch(5)), Seen::Answered(Verdict::Errno(BlockErrno::Enospc)));
    }
}
