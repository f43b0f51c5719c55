//! The pending list: every request that has no answer yet, with all that is needed to issue it again (SPEC
//! B2).
//!
//! A slab of fixed size. The index of an entry is the request's [`Slot`]; slots are reused last-in first-out,
//! so that a quiet driver touches few cache lines and its masters keep small duplicate tables. The held queue
//! of each volume is threaded through the entries.

use crate::driver::Tag;
use crate::geometry::ByteRange;
use crate::overlap::Position;
use crate::wire::{Operation, RequestFlags, RequestId, SLOTS_MAX, Slot};
use alloc::vec::Vec;
use transport_proto::identity::{Epoch, NodeId, Sequence};
use transport_proto::time::Time;

/// Where a request is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No request has this slot.
    Free,
    /// Waits for overlapping earlier requests.
    Blocked,
    /// Waits in its volume's queue; nothing of it can be running anywhere.
    Held,
    /// Sent, no answer yet.
    Sent,
    /// Sent once, and whether it ran or will run is unknown. Waits for the proof that it cannot run any more.
    /// May stand in the queue, once the proof is there.
    Limbo,
}

/// A pending request.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) stage: Stage,
    /// Stands in its volume's queue.
    pub(crate) queued: bool,
    /// An earlier attempt may have run or may run; set until a master says that it did not.
    pub(crate) unknown: bool,
    /// Its client was told that it failed, and its payload is gone: it only keeps later ones behind it until
    /// it is certain that it will not run any more.
    pub(crate) abandoned: bool,
    pub(crate) operation: Operation,
    pub(crate) flags: RequestFlags,
    /// Node of the latest attempt.
    pub(crate) to: NodeId,
    /// Number of attempts.
    pub(crate) attempts: u32,
    /// Index of the volume in the driver.
    pub(crate) volume: u32,
    pub(crate) sequence: Sequence,
    pub(crate) tag: Tag,
    pub(crate) range: ByteRange,
    /// Mapping number of the latest attempt.
    pub(crate) sent_epoch: Epoch,
    /// When the latest attempt was made.
    pub(crate) sent_at: Time,
    /// Place in the overlap table; without meaning for a flush, which has no range.
    pub(crate) position: Position,
    /// Next in the volume's queue, or in the list of free slots.
    next: Option<Slot>,
}

impl Pending {
    fn free(next: Option<Slot>) -> Pending {
        Pending {
            stage: Stage::Free,
            queued: false,
            unknown: false,
            abandoned: false,
            operation: Operation::Flush,
            flags: RequestFlags::NONE,
            to: NodeId(0),
            attempts: 0,
            volume: 0,
            sequence: Sequence(0),
            tag: Tag(0),
            range: ByteRange::EMPTY,
            sent_epoch: Epoch(0),
            sent_at: Time(0),
            position: Position::default(),
            next,
        }
    }

    /// True while something of it may be running at a master.
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self.stage, Stage::Sent | Stage::Limbo)
    }
}

/// All pending requests of a driver.
pub(crate) struct PendingList {
    entries: Vec<Pending>,
    free: Option<Slot>,
    length: usize,
    last_sequence: Sequence,
}

impl PendingList {
    /// An empty list of this many slots, from this one on; all are below [`SLOTS_MAX`].
    pub(crate) fn new(first: u32, slots: usize) -> PendingList {
        let end = first as usize + slots;
        assert!(slots > 0 && end <= SLOTS_MAX, "{slots} slots from {first} on are not below {SLOTS_MAX}");
        let next = |index: usize| (index + 1 < end).then_some(Slot(index as u32 + 1));
        let entries = (0..end).map(|index| Pending::free(next(index))).collect();
        PendingList { entries, free: Some(Slot(first)), length: 0, last_sequence: Sequence(0) }
    }

    /// Requests in the list.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Takes a free slot and gives it the next sequence; `None` when all are taken.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<RequestId> {
        let slot = self.free?;
        let entry = &mut self.entries[slot.index()];
        self.free = entry.next.take();
        self.length += 1;
        self.last_sequence = self.last_sequence.next();
        entry.sequence = self.last_sequence;
        entry.stage = Stage::Held;
        entry.queued = false;
        entry.unknown = false;
        entry.abandoned = false;
        entry.attempts = 0;
        Some(RequestId { slot, sequence: entry.sequence })
    }

    /// Frees the slot of a finished request.
    #[inline]
    pub(crate) fn give_back(&mut self, slot: Slot) {
        let free = self.free;
        let entry = &mut self.entries[slot.index()];
        assert!(
            entry.stage != Stage::Free && !entry.queued,
            "slot {} is freed twice or while queued",
            slot.0
        );
        entry.stage = Stage::Free;
        entry.next = free;
        self.free = Some(slot);
        self.length -= 1;
    }

    /// The request with this id, if it is still pending.
    #[inline]
    pub(crate) fn find(&mut self, id: RequestId) -> Option<&mut Pending> {
        let entry = self.entries.get_mut(id.slot.index())?;
        (entry.stage != Stage::Free && entry.sequence == id.sequence).then_some(entry)
    }

    /// The entry in this slot, pending or free.
    #[inline]
    pub(crate) fn at(&self, slot: Slot) -> &Pending {
        &self.entries[slot.index()]
    }

    /// The entry in this slot, pending or free.
    #[inline]
    pub(crate) fn at_mut(&mut self, slot: Slot) -> &mut Pending {
        &mut self.entries[slot.index()]
    }

    /// The slots of pending requests that fulfil the condition are appended to `slots`, in the order in which
    /// they were submitted. Looks at every slot; for rare events only.
    pub(crate) fn select(&self, slots: &mut Vec<Slot>, condition: impl Fn(&Pending) -> bool) {
        let from = slots.len();
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.stage != Stage::Free && condition(entry) {
                slots.push(Slot(index as u32));
            }
        }
        slots[from..].sort_unstable_by_key(|slot| self.at(*slot).sequence);
    }
}

/// The requests of one volume that could go out and have not, in the order in which they were submitted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeldQueue {
    head: Option<Slot>,
    tail: Option<Slot>,
}

impl HeldQueue {
    /// The first, which goes next.
    #[inline]
    pub(crate) fn first(&self) -> Option<Slot> {
        self.head
    }

    /// True when nothing is held.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// The first that fulfils the condition; for rare events only.
    pub(crate) fn find(&self, list: &PendingList, condition: impl Fn(&Pending) -> bool) -> Option<Slot> {
        let mut cursor = self.head;
        while let Some(at) = cursor.filter(|at| !condition(list.at(*at))) {
            cursor = list.at(at).next;
        }
        cursor
    }

    /// Puts a request in its place. At once for the youngest; else walks from the oldest on, where re-issued
    /// requests belong.
    pub(crate) fn insert(&mut self, list: &mut PendingList, slot: Slot) {
        let sequence = list.at(slot).sequence;
        let mut before = self.tail.filter(|tail| list.at(*tail).sequence < sequence);
        if before.is_none() {
            let mut cursor = self.head;
            while let Some(at) = cursor.filter(|at| list.at(*at).sequence < sequence) {
                before = Some(at);
                cursor = list.at(at).next;
            }
        }
        let after = match before {
            Some(at) => list.at_mut(at).next.replace(slot),
            None => self.head.replace(slot),
        };
        let entry = list.at_mut(slot);
        assert!(!entry.queued, "slot {} is queued twice", slot.0);
        entry.queued = true;
        entry.next = after;
        if after.is_none() {
            self.tail = Some(slot);
        }
    }

    /// Takes the first out.
    #[inline]
    pub(crate) fn pop(&mut self, list: &mut PendingList) -> Option<Slot> {
        let slot = self.head?;
        let entry = list.at_mut(slot);
        entry.queued = false;
        self.head = entry.next.take();
        if self.head.is_none() {
            self.tail = None;
        }
        Some(slot)
    }

    /// Takes one out from wherever it stands; for rare events only.
    pub(crate) fn remove(&mut self, list: &mut PendingList, slot: Slot) {
        let mut before = None;
        let mut cursor = self.head;
        while let Some(at) = cursor.filter(|at| *at != slot) {
            before = Some(at);
            cursor = list.at(at).next;
        }
        assert!(cursor == Some(slot), "slot {} is not in the queue", slot.0);
        let entry = list.at_mut(slot);
        entry.queued = false;
        let after = entry.next.take();
        match before {
            Some(at) => list.at_mut(at).next = after,
            None => self.head = after,
        }
        if after.is_none() {
            self.tail = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drained(queue: &mut HeldQueue, list: &mut PendingList) -> Vec<u32> {
        core::iter::from_fn(|| queue.pop(list)).map(|slot| slot.0).collect()
    }

    // proves: B2
    #[test]
    fn the_list_refuses_when_full_and_never_gives_a_sequence_twice() {
        let mut list = PendingList::new(0, 3);
        let ids: Vec<RequestId> = core::iter::from_fn(|| list.take()).collect();
        assert_eq!(ids.len(), 3);
        assert_eq!(list.take(), None);
        list.give_back(ids[1].slot);
        let again = list.take().expect("one slot is free");
        assert_eq!(again.slot, ids[1].slot);
        assert!(ids.iter().all(|id| id.sequence < again.sequence));
        assert!(list.find(ids[1]).is_none(), "the earlier request of that slot is no longer pending");
        assert!(list.find(again).is_some());
    }

    proptest! {
        // proves: B2
        #[test]
        fn the_queue_gives_requests_in_the_order_of_their_sequence(
            order in Just((0u32..24).collect::<Vec<_>>()).prop_shuffle(),
            gone in prop::collection::btree_set(0u32..24, 0..12),
        ) {
            let mut list = PendingList::new(0, 24);
            while list.take().is_some() {}
            let mut queue = HeldQueue::default();
            for number in &order {
                queue.insert(&mut list, Slot(*number));
            }
            for number in &gone {
                queue.remove(&mut list, Slot(*number));
            }
            let expected: Vec<u32> = (0..24).filter(|number| !gone.contains(number)).collect();
            prop_assert_eq!(drained(&mut queue, &mut list), expected);
            queue.insert(&mut list, Slot(5));
            prop_assert_eq!(drained(&mut queue, &mut list), [5]);
            prop_assert!(queue.is_empty());
        }
    }
}
