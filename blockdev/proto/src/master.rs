//! The netdisk master (NM): decides for each request that comes in whether it may run now, was run before, or must
//! never run, and opens and closes each volume's gate as its mapping changes (SPEC B3-B5).

use crate::errno::BlockErrno;
use crate::geometry::{DiskId, VolumeId};
use crate::mapping::{Mapping, MappingFault};
use crate::wire::{Answer, Attach, Attached, PathBroken, Request};
use alloc::vec::Vec;
use core::time::Duration;
use transport_proto::identity::{Epoch, Incarnation, NodeId};
use transport_proto::time::Time;

/// Sizes and spans of a master. None is needed for safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MasterLimits {
    /// Requests running on the store at the most, over all volumes; one more is answered busy.
    pub executing_max: usize,
    /// After a store refused to give ownership or to persist a number, the master asks again after this time.
    pub store_again_after: Duration,
}

impl Default for MasterLimits {
    fn default() -> MasterLimits {
        MasterLimits { executing_max: 4096, store_again_after: Duration::from_secs(1) }
    }
}

/// A request that runs on the store; given back with [`Master::executed`], once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Dense number, `0..executing_max`, for the caller's own table of running requests.
    pub index: u32,
    /// Which use of that number.
    pub generation: u32,
}

/// What is to be done with a request that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// Run it on the store, then tell [`Master::executed`].
    Execute(Token),
    /// Send this answer, run nothing.
    Answer(Answer),
    /// Do nothing: a copy of a request that runs now (its answer will go out), or a message of an earlier life or
    /// of a node that is no member.
    Drop,
}

/// An answer and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The driver's node; may be this very node.
    pub to: NodeId,
    /// What to send; with the bytes read if it is a read that went well.
    pub answer: Answer,
}

/// What the master wants its caller to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasterAction {
    /// Get exclusive ownership of the disk (for a file: `flock(EX)` on the very file description that carries the
    /// I/O, so that no I/O of an earlier owner can be left), however long that takes, read the configuration number
    /// persisted with it, and tell [`Master::ownership_taken`] or [`Master::store_failed`].
    TakeOwnership {
        /// The virtual disk.
        volume: VolumeId,
        /// The disk.
        disk: DiskId,
    },
    /// Give ownership up, or stop trying to get it; tell [`Master::ownership_released`]. No I/O is under way.
    ReleaseOwnership {
        /// The virtual disk.
        volume: VolumeId,
        /// The disk.
        disk: DiskId,
    },
    /// Write this number to stable storage with the disk; tell [`Master::epoch_persisted`] or
    /// [`Master::store_failed`].
    PersistEpoch {
        /// The virtual disk.
        volume: VolumeId,
        /// The disk.
        disk: DiskId,
        /// The number.
        epoch: Epoch,
    },
    /// For the log and the counters: requests at this number run from now on.
    GateOpened {
        /// The virtual disk.
        volume: VolumeId,
        /// The number.
        epoch: Epoch,
    },
    /// For the log and the counters: nothing of this number or below runs any more, and nothing will.
    GateClosed {
        /// The virtual disk.
        volume: VolumeId,
        /// The number that it had been open at.
        epoch: Epoch,
    },
    /// Send this.
    AnswerAttached {
        /// The driver's node; may be this very node.
        to: NodeId,
        /// What to send.
        attached: Attached,
    },
    /// Tell whoever decides on mappings.
    ReportPathBroken(PathBroken),
    /// The number of our mapping was used by another life (or a later one was): we do not open. Whoever numbers
    /// configurations must go above `persisted`.
    EpochSpent {
        /// The virtual disk.
        volume: VolumeId,
        /// The number found with the disk.
        persisted: Epoch,
    },
}

/// Where a volume's gate is, for `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatePhase {
    /// Not ours, nothing runs.
    Closed,
    /// Waiting for ownership of the disk.
    Taking,
    /// Waiting for the number to be persisted.
    Persisting(Epoch),
    /// Requests of this number run.
    Open(Epoch),
    /// Was open at this number; waiting for what still runs.
    Draining(Epoch),
    /// Waiting for ownership to be given up.
    Releasing,
    /// The store failed us, or the number was spent; waiting for a newer mapping or for the time to ask again.
    Resting,
}

/// Counts of what a master has met; they only rise, but for the gauge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MasterCounts {
    /// Gauge: requests running on the store now.
    pub executing: u64,
    /// Requests that ran.
    pub executed: u64,
    /// Copies of requests that run or ran, not run again.
    pub duplicates: u64,
    /// Requests refused for their configuration number.
    pub stale: u64,
    /// Requests refused for want of room or an open gate.
    pub busy: u64,
    /// Messages of earlier lives or of nodes that are no members.
    pub dropped: u64,
    /// Gates opened.
    pub gates_opened: u64,
    /// Paths found broken.
    pub paths_broken: u64,
}

/// The master of one node, for all disks attached to it.
pub struct Master {
    node: NodeId,
    limits: MasterLimits,
    counts: MasterCounts,
}

impl Master {
    /// A master without volumes.
    pub fn new(node: NodeId, limits: MasterLimits) -> Master {
        Master { node, limits, counts: MasterCounts::default() }
    }

    /// Takes a newer mapping of a volume. An older or equal number is ignored.
    pub fn mapping(
        &mut self,
        now: Time,
        mapping: &Mapping,
        actions: &mut Vec<MasterAction>,
    ) -> Result<(), MappingFault> {
        let _ = (now, actions);
        mapping.check()
    }

    /// Takes the list of nodes that are members. From now on messages of others are dropped.
    pub fn members(&mut self, members: &[NodeId]) {
        let _ = members;
    }

    /// A request came in from this node. Check its data part with [`Request::check_data_length`] before.
    pub fn admit(&mut self, now: Time, from: NodeId, request: &Request) -> Admission {
        let _ = (now, from, request);
        Admission::Drop
    }

    /// The store is done with a request. The answer, if there is one to give, is for the caller to send.
    pub fn executed(
        &mut self,
        now: Time,
        token: Token,
        result: Result<(), BlockErrno>,
        actions: &mut Vec<MasterAction>,
    ) -> Option<Reply> {
        let _ = (now, token, result, actions);
        None
    }

    /// An attach came in from this node.
    pub fn attach(&mut self, now: Time, from: NodeId, attach: &Attach, actions: &mut Vec<MasterAction>) {
        let _ = (now, from, attach, actions);
    }

    /// Ownership is ours, and this number was persisted last with the disk (zero: none ever).
    pub fn ownership_taken(
        &mut self,
        now: Time,
        volume: VolumeId,
        persisted: Epoch,
        actions: &mut Vec<MasterAction>,
    ) {
        let _ = (now, volume, persisted, actions);
    }

    /// Ownership is given up, and no attempt to get it is under way.
    pub fn ownership_released(&mut self, now: Time, volume: VolumeId, actions: &mut Vec<MasterAction>) {
        let _ = (now, volume, actions);
    }

    /// This number is on stable storage with the disk.
    pub fn epoch_persisted(
        &mut self,
        now: Time,
        volume: VolumeId,
        epoch: Epoch,
        actions: &mut Vec<MasterAction>,
    ) {
        let _ = (now, volume, epoch, actions);
    }

    /// The store could not give ownership or persist a number.
    pub fn store_failed(
        &mut self,
        now: Time,
        volume: VolumeId,
        errno: BlockErrno,
        actions: &mut Vec<MasterAction>,
    ) {
        let _ = (now, volume, errno, actions);
    }

    /// Does what is due at `now`.
    pub fn timer(&mut self, now: Time, actions: &mut Vec<MasterAction>) {
        let _ = (now, actions);
    }

    /// When [`Master::timer`] wants to be called; [`Time::NEVER`] if nothing is due. May be early, never late.
    pub fn next_deadline(&self) -> Time {
        Time::NEVER
    }

    /// Where the volume's gate is.
    pub fn gate(&self, volume: VolumeId) -> GatePhase {
        let _ = volume;
        GatePhase::Closed
    }

    /// The life of this client node that the master serves, if it has met one.
    pub fn client_incarnation(&self, client: NodeId) -> Option<Incarnation> {
        let _ = client;
        None
    }

    /// What it has met so far.
    pub fn counts(&self) -> MasterCounts {
        self.counts
    }

    /// The node it runs on.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Its sizes and spans.
    pub fn limits(&self) -> &MasterLimits {
        &self.limits
    }
}
