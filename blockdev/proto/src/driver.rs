//! The netdisk driver (ND): takes requests from clients, keeps each until its answer is in, and sees to it
//! that it is executed as if once, whatever becomes of nodes, paths and mappings on the way (SPEC B2–B5).

mod flow;
#[cfg(test)]
mod tests;
mod volume;

use self::volume::{Attachment, VolumeView};
use crate::errno::BlockErrno;
use crate::geometry::{ByteRange, VolumeId};
use crate::mapping::{Mapping, MappingFault};
use crate::pending::{PendingList, Stage};
use crate::volume_table::VolumeTable;
use crate::wire::{Answer, Attach, AttachVerdict, Attached, Execution, Operation, PathBroken};
use crate::wire::{Request, RequestFlags, RequestId, SLOTS_MAX, Slot, Verdict};
use alloc::vec::Vec;
use core::time::Duration;
use transport_proto::identity::{Epoch, Incarnation, NodeId};
use transport_proto::time::Time;

/// The caller's own name for a request (an index, a pointer); the driver hands it back and never looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tag(pub u64);

/// The caller's handle of the data part that came with an answer (a lease); handed through, never looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DataHandle(pub u64);

/// Sizes and spans of a driver. All may be chosen freely; none is needed for safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverLimits {
    /// The first of its slots: two drivers of one life of a node have none in common.
    pub first_slot: Slot,
    /// Requests pending at the most, over all volumes. `1..=SLOTS_MAX - first_slot`; one more is refused.
    pub pending_max: usize,
    /// First wait after a busy answer; doubles with each further one.
    pub busy_wait_min: Duration,
    /// Longest wait after a busy answer.
    pub busy_wait_max: Duration,
    /// An attach without answer is sent again after this time, and a broken path or stale mapping reported
    /// again.
    pub attach_again_after: Duration,
    /// A request without answer is sent again, under the same id to the same master, after this time.
    pub send_again_after: Duration,
}

impl Default for DriverLimits {
    fn default() -> DriverLimits {
        DriverLimits {
            first_slot: Slot(0),
            pending_max: 1024,
            busy_wait_min: Duration::from_micros(200),
            busy_wait_max: Duration::from_millis(50),
            attach_again_after: Duration::from_millis(200),
            send_again_after: Duration::from_secs(2),
        }
    }
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The virtual disk.
    pub volume: VolumeId,
    /// What to do.
    pub operation: Operation,
    /// Wishes.
    pub flags: RequestFlags,
    /// Which bytes; [`ByteRange::EMPTY`] for a flush.
    pub range: ByteRange,
    /// Comes back with the completion.
    pub tag: Tag,
}

/// Why a request was not taken. Nothing happened; the caller still owns its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitRefusal {
    /// As many requests as allowed are pending; submit again after a completion.
    Full {
        /// The limit.
        pending_max: usize,
    },
    /// No mapping of this volume has come yet.
    NoMapping,
    /// Such a request makes no sense on this virtual disk.
    Invalid(BlockErrno),
}

/// What the driver wants its caller to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverAction {
    /// Send this request; with the payload of `tag` if it is a write. The payload must stay as it is until
    /// the request completes, since it may have to be sent again. If the transport takes it not, tell
    /// [`Driver::refused`].
    Send {
        /// The master's node; may be this very node.
        to: NodeId,
        /// The client's request.
        tag: Tag,
        /// What to send; `request.id.slot` names the place in the pending list.
        request: Request,
    },
    /// Send this attach. If the transport takes it not, nothing needs to be told: it is sent again.
    Attach {
        /// The master's node; may be this very node.
        to: NodeId,
        /// What to send.
        attach: Attach,
    },
    /// The request is finished, and its slot and payload are free.
    Complete {
        /// Where it was pending.
        slot: Slot,
        /// The client's request.
        tag: Tag,
        /// What the client gets to know.
        result: Result<(), BlockErrno>,
        /// The data part of the answer, as given to [`Driver::answer`]; only with a read that went well.
        data: Option<DataHandle>,
    },
    /// Tell whoever decides on mappings. Told again while the mapping does not change.
    ReportPathBroken(PathBroken),
    /// A newer mapping than ours exists: fetch it. Told again while none comes.
    FetchMapping {
        /// The virtual disk.
        volume: VolumeId,
        /// A number that some master has; ours is lower.
        seen: Epoch,
    },
    /// Every request that had been sent before the suspension is finished; nothing is under way (SPEC C4).
    Drained {
        /// The virtual disk.
        volume: VolumeId,
        /// Number of the mapping under which it drained.
        epoch: Epoch,
    },
}

/// What an answer was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum AnswerUse {
    /// It finished its request; a completion is among the actions and owns the data handle if it names it.
    Completed,
    /// It moved its request on; the data handle, if any, is the caller's to free.
    Absorbed,
    /// Nothing waits for it (late, repeated, or of another life); the data handle is the caller's to free.
    Stray,
}

/// Counts of what a driver has met; they only rise, but for the gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverCounts {
    /// Gauge: requests pending now.
    pub pending: u64,
    /// Requests finished.
    pub completed: u64,
    /// Of those, with an error.
    pub failed: u64,
    /// Requests sent again under the same id, for whatever reason.
    pub reissued: u64,
    /// Requests whose outcome became unknown when a path or node was lost.
    pub limbo: u64,
    /// Volumes that went on at another node than before.
    pub failovers: u64,
    /// Answers that nothing waited for.
    pub strays: u64,
    /// Busy answers.
    pub busy: u64,
    /// Stale answers.
    pub stale: u64,
    /// Answers that told of a broken path.
    pub path_broken: u64,
    /// Requests that had to wait for an overlapping earlier one.
    pub overlapped: u64,
}

/// A node as a target of requests.
#[derive(Clone, Copy)]
struct Peer {
    /// Messages that the transport may still take for it; `u32::MAX` while it has refused none.
    room: u32,
    /// Something waits for room.
    starved: bool,
}

/// The driver of one node, for all its virtual disks.
///
/// Feed it what happens ([`mapping`](Driver::mapping), [`submit`](Driver::submit),
/// [`answer`](Driver::answer), [`attached`](Driver::attached), transport events, [`timer`](Driver::timer))
/// and carry out the actions that each call appends to `actions`, in their order. The caller clears and
/// reuses the list.
pub struct Driver {
    node: NodeId,
    incarnation: Incarnation,
    limits: DriverLimits,
    volumes: VolumeTable<VolumeView>,
    pending: PendingList,
    /// By node number.
    peers: Vec<Peer>,
    /// Nothing is due before this time.
    deadline: Time,
    /// When to look for requests that are without an answer for long.
    send_again_at: Time,
    /// Reused lists of slots; empty between calls.
    scratch: Vec<Slot>,
    counts: DriverCounts,
}

impl Driver {
    /// A driver of this node's present life, without any volume. Allocates its pending list here and now.
    pub fn new(node: NodeId, incarnation: Incarnation, limits: DriverLimits) -> Driver {
        let slots = limits.pending_max.clamp(1, SLOTS_MAX - limits.first_slot.index());
        Driver {
            node,
            incarnation,
            limits: DriverLimits { pending_max: slots, ..limits },
            volumes: VolumeTable::new(),
            pending: PendingList::new(limits.first_slot.0, slots),
            peers: Vec::new(),
            deadline: Time::NEVER,
            send_again_at: Time::NEVER,
            scratch: Vec::with_capacity(slots),
            counts: DriverCounts::default(),
        }
    }

    /// Takes a newer mapping of a volume; the first one makes the volume known. An older or equal number is
    /// ignored.
    ///
    /// What was sent to a node that does not serve any more falls into Limbo. What was sent to the node that
    /// still serves stays: that node answers it, or says that it is stale.
    pub fn mapping(
        &mut self,
        now: Time,
        mapping: &Mapping,
        actions: &mut Vec<DriverAction>,
    ) -> Result<(), MappingFault> {
        mapping.check()?;
        self.know_peers(mapping);
        let Some(index) = self.volumes.find(mapping.volume) else {
            let index = self.volumes.enter(mapping.volume, VolumeView::new(mapping));
            self.tell_drained(index, actions);
            return Ok(());
        };
        let volume = &mut self.volumes[index];
        if mapping.epoch <= volume.mapping.epoch {
            return Ok(());
        }
        let before = core::mem::replace(&mut volume.mapping, *mapping);
        volume.attachment = Attachment::Detached;
        volume.forget_busy();
        volume.drain_owed |= mapping.suspended && !before.suspended;
        volume.drain_owed &= volume.is_suspended();
        let has_moved = before.serving != mapping.serving;
        self.counts.failovers += u64::from(has_moved && before.serving.is_some());
        if volume.under_way > 0 {
            let serving = mapping.serving;
            self.lose_sent(|to, of| of == index && Some(to) != serving);
        }
        self.tell_drained(index, actions);
        self.advance(now, index, actions);
        Ok(())
    }

    /// Forgets a volume: no client has it open any more, or it is gone from the configuration. What is still
    /// pending ends with this error; whether it ran is unknown, and nothing can come after it.
    pub fn forget(
        &mut self,
        now: Time,
        volume: VolumeId,
        errno: BlockErrno,
        actions: &mut Vec<DriverAction>,
    ) {
        let Some(index) = self.volumes.find(volume) else { return };
        // Nothing that waits behind another may go out when that one ends.
        let nowhere = Mapping::nowhere(&self.volumes[index].mapping);
        self.volumes[index].mapping = nowhere;
        self.volumes[index].attachment = Attachment::Detached;
        self.volumes[index].drain_owed = false;
        let mut slots = Vec::new();
        self.pending.select(&mut slots, |entry| entry.volume as usize == index);
        for slot in slots {
            self.complete(now, slot, Err(errno), None, actions);
        }
        self.volumes.leave(volume, VolumeView::new(&nowhere));
    }

    /// The newest mapping of a volume, as far as this driver knows.
    pub fn mapping_of(&self, volume: VolumeId) -> Option<&Mapping> {
        self.volumes.find(volume).map(|index| &self.volumes[index].mapping)
    }

    /// Takes a request of a client. On success it stays pending until its [`DriverAction::Complete`].
    #[inline]
    pub fn submit(
        &mut self,
        now: Time,
        submission: &Submission,
        actions: &mut Vec<DriverAction>,
    ) -> Result<Slot, SubmitRefusal> {
        let Some(index) = self.volumes.find(submission.volume) else {
            return Err(SubmitRefusal::NoMapping);
        };
        let volume = &mut self.volumes[index];
        let geometry = volume.mapping.geometry();
        geometry.check(submission.operation, submission.range).map_err(SubmitRefusal::Invalid)?;
        if let Some(errno) = volume.failing {
            return Err(SubmitRefusal::Invalid(errno));
        }
        let Some(id) = self.pending.take() else {
            return Err(SubmitRefusal::Full { pending_max: self.limits.pending_max });
        };
        volume.pending += 1;
        let entry = self.pending.at_mut(id.slot);
        entry.volume = index as u32;
        entry.operation = submission.operation;
        entry.flags = submission.flags;
        entry.range = submission.range;
        entry.tag = submission.tag;
        if submission.operation != Operation::Flush {
            let modifies = submission.operation.modifies();
            let (position, blockers) = volume.overlap.enter(submission.range, modifies, id.slot, id.sequence);
            entry.position = position;
            if blockers > 0 {
                entry.stage = Stage::Blocked;
                self.counts.overlapped += 1;
                return Ok(id.slot);
            }
        }
        volume.held.insert(&mut self.pending, id.slot);
        self.pump(now, index, actions);
        Ok(id.slot)
    }

    /// A master's answer came in, with this data part if it has one.
    ///
    /// It counts only if it answers the latest attempt (same node, same mapping number, same life of ours).
    /// That holds in Limbo too: what the old master did, it did before its gate closed, so its word is true
    /// as long as the request has not gone to another master. The README argues why, for reads and for
    /// writes.
    #[inline]
    pub fn answer(
        &mut self,
        now: Time,
        from: NodeId,
        answer: &Answer,
        data: Option<DataHandle>,
        actions: &mut Vec<DriverAction>,
    ) -> AnswerUse {
        let own_life = answer.incarnation == self.incarnation;
        let found = self.pending.find(answer.id).filter(|entry| {
            own_life && entry.is_under_way() && entry.to == from && entry.sent_epoch == answer.epoch
        });
        let Some((index, stage)) = found.map(|entry| (entry.volume as usize, entry.stage)) else {
            self.counts.strays += 1;
            return AnswerUse::Stray;
        };
        if self.volumes[index].mapping.volume != answer.volume {
            self.counts.strays += 1;
            return AnswerUse::Stray;
        }
        let slot = answer.id.slot;
        match answer.verdict {
            Verdict::Done => {
                self.volumes[index].forget_busy();
                self.complete(now, slot, Ok(()), data, actions);
                AnswerUse::Completed
            }
            // A dying node's last words: the disk itself may be well, as the next master will find out.
            Verdict::Errno(errno) if stage == Stage::Limbo && errno.means_broken_path() => {
                AnswerUse::Absorbed
            }
            Verdict::Errno(errno) => {
                self.complete(now, slot, Err(errno), None, actions);
                AnswerUse::Completed
            }
            negative => {
                self.negative(now, index, from, answer.id, negative, actions);
                AnswerUse::Absorbed
            }
        }
    }

    /// A master did not carry the request out; what follows for the request and for its volume.
    #[cold]
    fn negative(
        &mut self,
        now: Time,
        index: usize,
        from: NodeId,
        id: RequestId,
        verdict: Verdict,
        actions: &mut Vec<DriverAction>,
    ) {
        let mapping = &self.volumes[index].mapping;
        let sent_epoch = self.pending.at(id.slot).sent_epoch;
        // The word of a former master, or on a former number, says nothing about how the present one stands.
        let is_current = mapping.serving == Some(from) && mapping.epoch == sent_epoch;
        let mapping_epoch = mapping.epoch;
        if let Verdict::NackPath { execution: Execution::Unknown } = verdict {
            self.enter_limbo(id.slot);
        } else {
            self.not_executed(id.slot);
        }
        match verdict {
            Verdict::NackStale { gate_epoch: seen } | Verdict::NackNotServing { mapping_epoch: seen } => {
                self.counts.stale += 1;
                if !self.saw_epoch(now, index, seen, actions) && is_current && seen < mapping_epoch {
                    // It knows less than we: it tells when its gate is open at our number.
                    self.detach(index);
                }
            }
            Verdict::NackBusy => {
                self.counts.busy += 1;
                if is_current {
                    self.volumes[index].back_off(now, &self.limits);
                }
            }
            Verdict::NackPath { .. } => {
                self.counts.path_broken += 1;
                if is_current {
                    self.path_is_broken(now, index, from, actions);
                }
            }
            Verdict::Done | Verdict::Errno(_) => {}
        }
        self.tell_drained(index, actions);
        self.advance(now, index, actions);
    }

    /// A master's word on an attach came in.
    pub fn attached(
        &mut self,
        now: Time,
        from: NodeId,
        attached: &Attached,
        actions: &mut Vec<DriverAction>,
    ) {
        let Some(index) = self.volumes.find(attached.volume) else { return };
        let volume = &mut self.volumes[index];
        let is_asked = matches!(volume.attachment, Attachment::Asked { .. });
        let is_from_master = volume.mapping.serving == Some(from);
        let is_ours = attached.incarnation == self.incarnation && attached.epoch == volume.mapping.epoch;
        if !is_asked || !is_from_master || !is_ours {
            return;
        }
        match attached.verdict {
            AttachVerdict::Open { gate_epoch } if gate_epoch == volume.mapping.epoch => {
                volume.attachment = Attachment::Open;
                self.advance(now, index, actions);
            }
            AttachVerdict::Open { gate_epoch: seen } | AttachVerdict::NotServing { mapping_epoch: seen } => {
                // If it knows less than we, it is asked again when the time has come.
                self.saw_epoch(now, index, seen, actions);
            }
        }
    }

    /// The transport did not take a [`DriverAction::Send`] (no credit): nothing was sent. The request and all
    /// others for that node wait for [`Driver::writable`]. To be told before anything else is fed in.
    pub fn refused(&mut self, slot: Slot) {
        let entry = self.pending.at_mut(slot);
        if entry.stage != Stage::Sent {
            return;
        }
        entry.attempts = entry.attempts.saturating_sub(1);
        let (unknown, to, index) = (entry.unknown, entry.to, entry.volume as usize);
        self.set_stage(slot, if unknown { Stage::Limbo } else { Stage::Held });
        self.volumes[index].held.insert(&mut self.pending, slot);
        self.peers[usize::from(to.0)] = Peer { room: 0, starved: true };
    }

    /// The transport may take this many more messages for the node (`u32::MAX`: try and see).
    pub fn writable(&mut self, now: Time, node: NodeId, room: u32, actions: &mut Vec<DriverAction>) {
        let Some(peer) = self.peers.get_mut(usize::from(node.0)) else { return };
        peer.room = room;
        if core::mem::take(&mut peer.starved) {
            self.for_volumes_of(node, |driver, index| driver.advance(now, index, actions));
        }
    }

    /// The transport cannot tell whether the request's last attempt reached the master.
    pub fn outcome_unknown(&mut self, now: Time, id: RequestId, actions: &mut Vec<DriverAction>) {
        let Some(entry) = self.pending.find(id) else { return };
        if entry.stage != Stage::Sent {
            return;
        }
        let (index, to) = (entry.volume as usize, entry.to);
        self.enter_limbo(id.slot);
        if self.volumes[index].mapping.serving == Some(to) {
            self.detach(index);
        }
        self.advance(now, index, actions);
    }

    /// The transport reaches the node (again). Never needed for safety; saves a wait.
    pub fn peer_up(&mut self, now: Time, node: NodeId, actions: &mut Vec<DriverAction>) {
        self.forget_room(node);
        self.for_volumes_of(node, |driver, index| {
            if matches!(driver.volumes[index].attachment, Attachment::Asked { .. }) {
                driver.detach(index);
            }
            driver.advance(now, index, actions);
        });
    }

    /// The node lives a new life: what the old one was asked will not be answered.
    pub fn peer_restarted(&mut self, now: Time, node: NodeId, actions: &mut Vec<DriverAction>) {
        self.peer_gone(now, node, actions);
        self.peer_up(now, node, actions);
    }

    /// The transport has given the node up: what was sent there falls into Limbo.
    pub fn peer_gone(&mut self, now: Time, node: NodeId, actions: &mut Vec<DriverAction>) {
        self.forget_room(node);
        self.lose_sent(|to, _| to == node);
        self.for_volumes_of(node, |driver, index| {
            driver.detach(index);
            driver.advance(now, index, actions);
        });
    }

    /// Holds new requests of the volume from now on; [`DriverAction::Drained`] tells when nothing is under
    /// way.
    pub fn suspend(&mut self, volume: VolumeId, actions: &mut Vec<DriverAction>) {
        let Some(index) = self.volumes.find(volume) else { return };
        self.volumes[index].suspended = true;
        self.volumes[index].drain_owed = true;
        self.tell_drained(index, actions);
    }

    /// Lets the held requests of the volume go, unless its mapping says that it is suspended.
    pub fn resume(&mut self, now: Time, volume: VolumeId, actions: &mut Vec<DriverAction>) {
        let Some(index) = self.volumes.find(volume) else { return };
        let view = &mut self.volumes[index];
        view.suspended = false;
        view.drain_owed &= view.mapping.suspended;
        self.advance(now, index, actions);
    }

    /// Fails the volume's requests with this error from now on, those that are pending too, instead of
    /// letting them wait. One that may have reached a master keeps later ones to the same blocks behind it,
    /// as ever, although its client has its answer (SPEC B5).
    pub fn fail(&mut self, now: Time, volume: VolumeId, errno: BlockErrno, actions: &mut Vec<DriverAction>) {
        let Some(index) = self.volumes.find(volume) else { return };
        self.volumes[index].failing = Some(errno);
        let mut slots = Vec::new();
        self.pending.select(&mut slots, |entry| entry.volume as usize == index && !entry.abandoned);
        // From the last to the first: nothing that waits behind another may go out when that one ends.
        for slot in slots.into_iter().rev() {
            if self.pending.at(slot).is_under_way() {
                self.abandon(slot, errno, actions);
            } else {
                self.complete(now, slot, Err(errno), None, actions);
            }
        }
    }

    /// Takes the volume's requests again, see [`Driver::fail`].
    pub fn stop_failing(&mut self, volume: VolumeId) {
        if let Some(index) = self.volumes.find(volume) {
            self.volumes[index].failing = None;
        }
    }

    /// Whether the volume stands still here: nothing of it is under way, and nothing new goes out. So does
    /// one that nobody has open.
    pub fn stands_still(&self, volume: VolumeId) -> bool {
        self.volumes.find(volume).is_none_or(|index| {
            let volume = &self.volumes[index];
            volume.is_suspended() && volume.under_way == 0
        })
    }

    /// Does what is due at `now`.
    pub fn timer(&mut self, now: Time, actions: &mut Vec<DriverAction>) {
        if now < self.deadline {
            return;
        }
        self.deadline = Time::NEVER;
        for index in 0..self.volumes.len() {
            self.volume_timer(now, index, actions);
        }
        self.send_again(now, actions);
    }

    /// When [`Driver::timer`] wants to be called; [`Time::NEVER`] if nothing is due. May be early, never
    /// late.
    #[inline]
    pub fn next_deadline(&self) -> Time {
        self.deadline
    }

    /// Requests pending now, of all volumes.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Requests pending now, of one volume.
    pub fn pending_of(&self, volume: VolumeId) -> usize {
        self.volumes.find(volume).map_or(0, |index| self.volumes[index].pending)
    }

    /// What it has met so far.
    pub fn counts(&self) -> DriverCounts {
        DriverCounts { pending: self.pending.len() as u64, ..self.counts }
    }

    /// The node it runs on.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The life of the node it runs in.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Its sizes and spans.
    pub fn limits(&self) -> &DriverLimits {
        &self.limits
    }

    /// The gate must be asked for again, unless only a newer mapping helps.
    fn detach(&mut self, index: usize) {
        let volume = &mut self.volumes[index];
        if !matches!(volume.attachment, Attachment::Barred { .. }) {
            volume.attachment = Attachment::Detached;
        }
    }

    fn for_volumes_of(&mut self, node: NodeId, mut visit: impl FnMut(&mut Driver, usize)) {
        for index in 0..self.volumes.len() {
            if self.volumes[index].mapping.serving == Some(node) {
                visit(self, index);
            }
        }
    }

    fn know_peers(&mut self, mapping: &Mapping) {
        for candidate in mapping.candidates.iter().flatten() {
            let number = usize::from(candidate.node.0);
            if self.peers.len() <= number {
                self.peers.resize(number + 1, Peer { room: u32::MAX, starved: false });
            }
        }
    }

    fn forget_room(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(usize::from(node.0)) {
            *peer = Peer { room: u32::MAX, starved: false };
        }
    }
}
