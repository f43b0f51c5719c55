//! The netdisk driver (ND): takes requests from clients, keeps each until its answer is in, and sees to it that it
//! is executed as if once, whatever becomes of nodes, paths and mappings on the way (SPEC B2–B5).

use crate::errno::BlockErrno;
use crate::geometry::{ByteRange, VolumeId};
use crate::mapping::{Mapping, MappingFault};
use crate::wire::{Answer, Attach, Attached, Operation, PathBroken, Request, RequestFlags, Slot};
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
    /// Requests pending at the most, over all volumes. `1..=SLOTS_MAX`; one more is refused.
    pub pending_max: usize,
    /// First wait after a busy answer; doubles with each further one.
    pub busy_wait_min: Duration,
    /// Longest wait after a busy answer.
    pub busy_wait_max: Duration,
    /// An attach without answer is sent again after this time, and a broken path or stale mapping reported again.
    pub attach_again_after: Duration,
    /// A request without answer is sent again, under the same id to the same master, after this time.
    pub send_again_after: Duration,
}

impl Default for DriverLimits {
    fn default() -> DriverLimits {
        DriverLimits {
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
    /// Send this request; with the payload of `tag` if it is a write. The payload must stay as it is until the
    /// request completes, since it may have to be sent again. If the transport takes it not, tell
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

/// The driver of one node, for all its virtual disks.
///
/// Feed it what happens ([`mapping`](Driver::mapping), [`submit`](Driver::submit), [`answer`](Driver::answer),
/// [`attached`](Driver::attached), transport events, [`timer`](Driver::timer)) and carry out the actions that each
/// call appends to `actions`, in their order, before the next call. The caller clears and reuses the list.
pub struct Driver {
    node: NodeId,
    incarnation: Incarnation,
    limits: DriverLimits,
    counts: DriverCounts,
}

impl Driver {
    /// A driver of this node's present life, without any volume. Allocates its pending list here and now.
    pub fn new(node: NodeId, incarnation: Incarnation, limits: DriverLimits) -> Driver {
        Driver { node, incarnation, limits, counts: DriverCounts::default() }
    }

    /// Takes a newer mapping of a volume; the first one makes the volume known. An older or equal number is ignored.
    pub fn mapping(
        &mut self,
        now: Time,
        mapping: &Mapping,
        actions: &mut Vec<DriverAction>,
    ) -> Result<(), MappingFault> {
        let _ = (now, actions);
        mapping.check()
    }

    /// The newest mapping of a volume, as far as this driver knows.
    pub fn mapping_of(&self, volume: VolumeId) -> Option<&Mapping> {
        let _ = volume;
        None
    }

    /// Takes a request of a client. On success it stays pending until its [`DriverAction::Complete`].
    pub fn submit(
        &mut self,
        now: Time,
        submission: &Submission,
        actions: &mut Vec<DriverAction>,
    ) -> Result<Slot, SubmitRefusal> {
        let _ = (now, submission, actions);
        Err(SubmitRefusal::NoMapping)
    }

    /// A master's answer came in, with this data part if it has one.
    pub fn answer(
        &mut self,
        now: Time,
        from: NodeId,
        answer: &Answer,
        data: Option<DataHandle>,
        actions: &mut Vec<DriverAction>,
    ) -> AnswerUse {
        let _ = (now, from, answer, data, actions);
        AnswerUse::Stray
    }

    /// A master's word on an attach came in.
    pub fn attached(
        &mut self,
        now: Time,
        from: NodeId,
        attached: &Attached,
        actions: &mut Vec<DriverAction>,
    ) {
        let _ = (now, from, attached, actions);
    }

    /// The transport did not take a [`DriverAction::Send`] (no credit): nothing was sent. The request and all others
    /// for that node wait for [`Driver::writable`].
    pub fn refused(&mut self, now: Time, slot: Slot, actions: &mut Vec<DriverAction>) {
        let _ = (now, slot, actions);
    }

    /// The transport may take this many more messages for the node (`u32::MAX`: try and see).
    pub fn writable(&mut self, now: Time, node: NodeId, room: u32, actions: &mut Vec<DriverAction>) {
        let _ = (now, node, room, actions);
    }

    /// The transport cannot tell whether the request's last attempt reached the master.
    pub fn outcome_unknown(&mut self, now: Time, slot: Slot, actions: &mut Vec<DriverAction>) {
        let _ = (now, slot, actions);
    }

    /// The transport reaches the node (again), in this life of it. Never needed for safety; saves a wait.
    pub fn peer_up(
        &mut self,
        now: Time,
        node: NodeId,
        incarnation: Incarnation,
        actions: &mut Vec<DriverAction>,
    ) {
        let _ = (now, node, incarnation, actions);
    }

    /// The node lives a new life: what the old one was asked will not be answered.
    pub fn peer_restarted(
        &mut self,
        now: Time,
        node: NodeId,
        incarnation: Incarnation,
        actions: &mut Vec<DriverAction>,
    ) {
        let _ = (now, node, incarnation, actions);
    }

    /// The transport has given the node up.
    pub fn peer_gone(&mut self, now: Time, node: NodeId, actions: &mut Vec<DriverAction>) {
        let _ = (now, node, actions);
    }

    /// Holds new requests of the volume from now on; [`DriverAction::Drained`] tells when nothing is under way.
    pub fn suspend(&mut self, now: Time, volume: VolumeId, actions: &mut Vec<DriverAction>) {
        let _ = (now, volume, actions);
    }

    /// Lets the held requests of the volume go, unless its mapping says that it is suspended.
    pub fn resume(&mut self, now: Time, volume: VolumeId, actions: &mut Vec<DriverAction>) {
        let _ = (now, volume, actions);
    }

    /// Does what is due at `now`.
    pub fn timer(&mut self, now: Time, actions: &mut Vec<DriverAction>) {
        let _ = (now, actions);
    }

    /// When [`Driver::timer`] wants to be called; [`Time::NEVER`] if nothing is due. May be early, never late.
    pub fn next_deadline(&self) -> Time {
        Time::NEVER
    }

    /// Requests pending now, of all volumes.
    pub fn pending(&self) -> usize {
        self.counts.pending as usize
    }

    /// Requests pending now, of one volume.
    pub fn pending_of(&self, volume: VolumeId) -> usize {
        let _ = volume;
        0
    }

    /// What it has met so far.
    pub fn counts(&self) -> DriverCounts {
        self.counts
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
}
