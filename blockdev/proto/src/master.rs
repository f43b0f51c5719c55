//! The netdisk master (NM): decides for each request that comes in whether it may run now, was run before, or
//! must never run, and opens and closes each volume's gate as its mapping changes (SPEC B3-B5).

mod client;
mod guard;
mod running;
#[cfg(test)]
mod tests;
mod volume;

use self::client::{ClientTable, Life};
use self::guard::{Guard, Settling};
use self::running::{Running, RunningList};
use crate::duplicates::Seen;
use crate::errno::BlockErrno;
use crate::gate::Gate;
pub use crate::gate::GatePhase;
use crate::geometry::{DiskId, VolumeId};
use crate::lanes::Lane;
use crate::mapping::{Mapping, MappingFault};
use crate::rules::{Rules, Strict};
use crate::volume_table::VolumeTable;
use crate::wire::{
    Answer, Attach, AttachVerdict, Attached, Execution, Operation, PathBroken, Request, Settle, Slot, Verdict,
};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::time::Duration;
use transport_proto::identity::{Epoch, Incarnation, NodeId};
use transport_proto::time::Time;

/// Sizes and spans of a master. None is needed for safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MasterLimits {
    /// Requests running on the store at the most, over all volumes; one more is answered busy.
    pub executing_max: usize,
    /// Of those, requests of clients for volumes that lie on other virtual disks, and as many of volumes for
    /// such parts of theirs; the rest is left for virtual disks that lie on a disk. See [`crate::lanes`].
    pub with_parts_max: usize,
    /// After a store refused to give ownership or to persist a number, the master asks again after this time.
    pub store_again_after: Duration,
}

impl Default for MasterLimits {
    fn default() -> MasterLimits {
        MasterLimits { executing_max: 4096, with_parts_max: 1024, store_again_after: Duration::from_secs(1) }
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
    /// Do nothing: a copy of a request that runs now (its answer will go out), or a message of an earlier
    /// life or of a node that is no member.
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
    /// Get exclusive ownership of the disk (for a file: `flock(EX)` on the very file description that carries
    /// the I/O, so that no I/O of an earlier owner can be left), however long that takes, read the
    /// configuration number persisted with it, and tell [`Master::ownership_taken`] or
    /// [`Master::store_failed`].
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
    /// Send this: it is so.
    AnswerSettled {
        /// Who asked; may be this very node.
        to: NodeId,
        /// What is so.
        settled: Settle,
    },
    /// Tell whoever decides on mappings.
    ReportPathBroken(PathBroken),
    /// The number of our mapping was used by another life (or a later one was): we do not open. Whoever
    /// numbers configurations must go above `persisted`.
    EpochSpent {
        /// The virtual disk.
        volume: VolumeId,
        /// The number found with the disk.
        persisted: Epoch,
    },
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
    /// Requests refused for a reservation.
    pub reserved: u64,
    /// Requests refused for want of room or an open gate.
    pub busy: u64,
    /// Messages of earlier lives or of nodes that are no members.
    pub dropped: u64,
    /// Gates opened.
    pub gates_opened: u64,
    /// Paths found broken.
    pub paths_broken: u64,
}

/// A volume in a master.
struct Served {
    mapping: Mapping,
    gate: Gate,
    /// Our disk was found broken at the mapping's number.
    path_broken: bool,
    /// Gone from the configuration: forgotten once the gate is closed and the disk given up.
    leaving: bool,
    /// When to ask the store again.
    again_at: Time,
    /// Attaches that wait for the gate; one a client at the most.
    waiting: Vec<Attach>,
    /// Who may do what by its reservations; `None`: there never were any.
    guard: Option<Arc<Guard>>,
    /// Those who wait for reservations to be in force.
    settling: Vec<Settling>,
}

impl Served {
    fn new(mapping: &Mapping) -> Served {
        Served {
            mapping: *mapping,
            gate: Gate::new(),
            path_broken: false,
            leaving: false,
            again_at: Time::NEVER,
            waiting: Vec::new(),
            guard: None,
            settling: Vec::new(),
        }
    }

    /// The disk as this node knows it; the default for a node that is no candidate, which never gets to use
    /// it.
    fn disk(&self, node: NodeId) -> DiskId {
        self.mapping.candidate(node).map_or(DiskId::default(), |candidate| candidate.disk)
    }
}

/// The master of one node, for all disks attached to it.
///
/// Feed it what happens and carry out the actions that a call appends to `actions`, in their order. For a
/// request: [`admit`](Master::admit); if it may run, run it on the store; [`executed`](Master::executed);
/// send the reply.
pub struct Master<R: Rules = Strict> {
    node: NodeId,
    limits: MasterLimits,
    volumes: VolumeTable<Served>,
    /// The disk that is owned or asked for, by index of the volume. A mapping may name another one, or none;
    /// then this one is released first.
    disks: Vec<DiskId>,
    clients: ClientTable,
    running: RunningList,
    /// Reservations, of volumes that are not mapped here yet too.
    guards: BTreeMap<VolumeId, Arc<Guard>>,
    /// Requests that run for volumes that lie on other virtual disks: those of clients, and those of volumes.
    running_with_parts: [usize; 2],
    deadline: Time,
    /// No gate may open, see [`Master::fence`].
    fenced: bool,
    counts: MasterCounts,
    rules: PhantomData<R>,
}

/// Which room of volumes that lie on others a request takes up.
fn room_of(slot: Slot) -> usize {
    usize::from(Lane::of(slot) != Lane::Clients)
}

impl Master {
    /// A master without volumes. Allocates its table of running requests here and now.
    pub fn new(node: NodeId, limits: MasterLimits) -> Master {
        Master::with_rules(node, limits)
    }
}

impl<R: Rules> Master<R> {
    /// As [`Master::new`], obeying these rules; others than [`Strict`] are for tests of checkers.
    pub fn with_rules(node: NodeId, limits: MasterLimits) -> Master<R> {
        Master {
            node,
            limits,
            volumes: VolumeTable::new(),
            disks: Vec::new(),
            clients: ClientTable::new(),
            running: RunningList::new(limits.executing_max.max(1)),
            guards: BTreeMap::new(),
            running_with_parts: [0; 2],
            deadline: Time::NEVER,
            fenced: false,
            counts: MasterCounts::default(),
            rules: PhantomData,
        }
    }

    /// Takes a newer mapping of a volume. An older or equal number is ignored. The gate closes at once; it
    /// opens at the new number, if this node serves, as soon as everything older is out and the number is
    /// persisted.
    pub fn mapping(
        &mut self,
        now: Time,
        mapping: &Mapping,
        actions: &mut Vec<MasterAction>,
    ) -> Result<(), MappingFault> {
        mapping.check()?;
        let index = match self.volumes.find(mapping.volume) {
            Some(index) if mapping.epoch <= self.volumes[index].mapping.epoch => return Ok(()),
            Some(index) => index,
            None => self.enter_volume(mapping),
        };
        let served = &mut self.volumes[index];
        served.mapping = *mapping;
        served.path_broken = false;
        served.leaving = false;
        served.again_at = Time::NEVER;
        self.aim_gate(index);
        self.step_gate(now, index, actions);
        self.settle_attaches(index, actions);
        Ok(())
    }

    /// The volume is gone from the configuration: its gate closes, what runs is drained, ownership is given
    /// up, and then the volume is unknown here.
    pub fn remove(&mut self, now: Time, volume: VolumeId, actions: &mut Vec<MasterAction>) {
        let Some(index) = self.volumes.find(volume) else { return };
        let served = &mut self.volumes[index];
        served.mapping = served.mapping.nowhere();
        served.leaving = true;
        self.aim_gate(index);
        self.step_gate(now, index, actions);
        self.settle_attaches(index, actions);
        self.forget_left(index);
    }

    /// Closes every gate and keeps it closed, whatever mappings come, until [`Master::unfence`]: this node
    /// has lost the majority, or its membership. What runs is drained, then ownership is given up.
    pub fn fence(&mut self, now: Time, actions: &mut Vec<MasterAction>) {
        self.set_fenced(now, true, actions);
    }

    /// Lets the gates open again as the mappings say.
    pub fn unfence(&mut self, now: Time, actions: &mut Vec<MasterAction>) {
        self.set_fenced(now, false, actions);
    }

    fn set_fenced(&mut self, now: Time, fenced: bool, actions: &mut Vec<MasterAction>) {
        self.fenced = fenced;
        for index in 0..self.volumes.len() {
            self.aim_gate(index);
            self.step_gate(now, index, actions);
            self.settle_attaches(index, actions);
        }
    }

    /// Takes the list of nodes that are members. From now on messages of others are dropped.
    pub fn members(&mut self, members: &[NodeId]) {
        self.clients.restrict(members);
    }

    /// A request came in from this node. Check its data part with [`Request::check_data_length`] before.
    ///
    /// The duplicate table is asked before the gate: a copy of a request that ran, or runs, gets that
    /// request's true answer even when the gate has closed in between, so that "stale" always means "did not
    /// and will not run".
    #[inline]
    pub fn admit(&mut self, now: Time, from: NodeId, request: &Request) -> Admission {
        if from != request.client {
            return self.dropped();
        }
        let client = match self.clients.meet(from, request.incarnation) {
            Life::Present(client) => client,
            Life::Coming => return self.answered(request, Verdict::NackBusy),
            Life::Past => return self.dropped(),
        };
        let Some(index) = self.volumes.find(request.volume) else {
            return self.answered(request, Verdict::NackNotServing { mapping_epoch: Epoch(0) });
        };
        if R::DUPLICATE_TABLE {
            match client.duplicates.look(request.id, request.epoch) {
                Seen::New => {}
                Seen::Running => {
                    self.counts.duplicates += 1;
                    return Admission::Drop;
                }
                Seen::Answered(verdict) => {
                    self.counts.duplicates += 1;
                    return Admission::Answer(request.answered(verdict));
                }
                Seen::Superseded => return self.dropped(),
                Seen::SlotInUse => return self.answered(request, Verdict::NackBusy),
            }
        }
        let served = &mut self.volumes[index];
        if served.path_broken && served.gate.open_epoch() == Some(request.epoch) {
            return self.answered(request, Verdict::NackPath { execution: Execution::NotExecuted });
        }
        if let Err(errno) = served.mapping.geometry().check(request.operation, request.range)
            && served.gate.open_epoch() == Some(request.epoch)
        {
            return self.answered(request, Verdict::Errno(errno));
        }
        // A copy of a request that was refused gets the same, whatever was released meanwhile.
        if served.is_kept_from(request) && served.gate.open_epoch() == Some(request.epoch) {
            client.duplicates.begin(request.id, request.epoch);
            let verdict = Verdict::Errno(BlockErrno::Eperm);
            client.duplicates.end(request.id, verdict, false);
            self.counts.reserved += 1;
            return self.answered(request, verdict);
        }
        let room = served.mapping.has_parts().then_some(room_of(request.id.slot));
        let is_full = |room: usize| self.running_with_parts[room] >= self.limits.with_parts_max;
        if self.running.is_full() || room.is_some_and(is_full) {
            return self.answered(request, Verdict::NackBusy);
        }
        if let Err(refusal) = served.gate.enter::<R>(request.epoch) {
            let verdict = self.gate_verdict(index, refusal);
            return self.answered(request, verdict);
        }
        client.duplicates.begin(request.id, request.epoch);
        client.running += 1;
        if let Some(room) = room {
            self.running_with_parts[room] += 1;
        }
        let token = self.running.begin(Running {
            client: from,
            incarnation: request.incarnation,
            id: request.id,
            epoch: request.epoch,
            volume: index as u32,
            operation: request.operation,
            reservations: served.guard_revision(),
            has_parts: room.is_some(),
            since: now,
        });
        Admission::Execute(token)
    }

    /// The store is done with a request. The answer, if there is one to give, is for the caller to send.
    /// A token given back twice is a bug of the caller, and stops the program.
    #[inline]
    pub fn executed(
        &mut self,
        now: Time,
        token: Token,
        result: Result<(), BlockErrno>,
        actions: &mut Vec<MasterAction>,
    ) -> Option<Reply> {
        let running = self.running.end(token);
        self.counts.executed += 1;
        let verdict = match result {
            Ok(()) => Verdict::Done,
            Err(errno) => self.failure(running.volume as usize, running.epoch, errno, actions),
        };
        self.ended(now, &running, verdict, actions)
    }

    /// A request will not be carried out here, whatever it did so far: its driver asks again. For volumes
    /// that lie on other virtual disks, whose gates see to it that nothing of it comes later than a newer
    /// number.
    pub fn withdrawn(&mut self, now: Time, token: Token, actions: &mut Vec<MasterAction>) -> Option<Reply> {
        let running = self.running.end(token);
        let gate_epoch = self.volumes[running.volume as usize].mapping.epoch;
        self.ended(now, &running, Verdict::NackStale { gate_epoch }, actions)
    }

    fn ended(
        &mut self,
        now: Time,
        running: &Running,
        verdict: Verdict,
        actions: &mut Vec<MasterAction>,
    ) -> Option<Reply> {
        let index = running.volume as usize;
        if running.has_parts {
            self.running_with_parts[room_of(running.id.slot)] -= 1;
        }
        let mut epoch = running.epoch;
        let client = self.clients.known(running.client);
        client.running -= 1;
        let is_present = client.incarnation == running.incarnation && !client.is_leaving();
        let may_adopt = client.is_leaving() && client.running == 0;
        if client.incarnation == running.incarnation {
            let repeatable = running.operation == Operation::Read;
            epoch = client.duplicates.end(running.id, verdict, repeatable).unwrap_or(epoch);
        }
        let served = &mut self.volumes[index];
        served.gate.leave();
        let volume = served.mapping.volume;
        let settles = !served.settling.is_empty();
        if served.gate.is_draining() {
            self.step_gate(now, index, actions);
        }
        if settles {
            self.settle_reservations(index, actions);
        }
        if may_adopt {
            self.settle_all_attaches(actions);
        }
        let (id, incarnation) = (running.id, running.incarnation);
        is_present.then_some(Reply {
            to: running.client,
            answer: Answer { volume, epoch, incarnation, id, verdict },
        })
    }

    /// An attach came in from this node. It is answered at once or, if the gate opens later, then.
    pub fn attach(&mut self, from: NodeId, attach: &Attach, actions: &mut Vec<MasterAction>) {
        if from != attach.client || matches!(self.clients.meet(from, attach.incarnation), Life::Past) {
            self.counts.dropped += 1;
            return;
        }
        let Some(index) = self.volumes.find(attach.volume) else {
            let attached = attach.answered(AttachVerdict::NotServing { mapping_epoch: Epoch(0) });
            actions.push(MasterAction::AnswerAttached { to: from, attached });
            return;
        };
        let waiting = &mut self.volumes[index].waiting;
        match waiting.iter_mut().find(|other| other.client == from) {
            Some(other) if (attach.incarnation, attach.epoch) >= (other.incarnation, other.epoch) => {
                *other = *attach;
            }
            Some(_) => {}
            None => waiting.push(*attach),
        }
        self.settle_attaches(index, actions);
    }

    /// Ownership is ours, and this number was persisted last with the disk (zero: none ever).
    pub fn ownership_taken(
        &mut self,
        now: Time,
        volume: VolumeId,
        persisted: Epoch,
        actions: &mut Vec<MasterAction>,
    ) {
        self.store_said(now, volume, actions, |gate| gate.taken(persisted));
    }

    /// Ownership is given up, and no attempt to get it is under way.
    pub fn ownership_released(&mut self, now: Time, volume: VolumeId, actions: &mut Vec<MasterAction>) {
        let Some(index) = self.volumes.find(volume) else { return };
        self.volumes[index].gate.released();
        self.aim_gate(index);
        self.step_gate(now, index, actions);
        self.forget_left(index);
    }

    /// This number is on stable storage with the disk.
    pub fn epoch_persisted(
        &mut self,
        now: Time,
        volume: VolumeId,
        epoch: Epoch,
        actions: &mut Vec<MasterAction>,
    ) {
        self.store_said(now, volume, actions, |gate| gate.persisted(epoch));
    }

    /// The store could not give ownership or persist a number. The path is reported broken, if there is
    /// another; ownership is given up, so that another node can serve, and asked for again after a while in
    /// case none does.
    pub fn store_failed(
        &mut self,
        now: Time,
        volume: VolumeId,
        errno: BlockErrno,
        actions: &mut Vec<MasterAction>,
    ) {
        let _ = errno;
        let Some(index) = self.volumes.find(volume) else { return };
        let Some(step) = self.volumes[index].gate.failed() else { return };
        // The last sound path is not reported: nobody would serve then, and nobody would ask the store again.
        let mapping = &self.volumes[index].mapping;
        if mapping.usable_elsewhere(self.node) && !mapping.has_parts() {
            self.report_path_broken(index, actions);
        }
        self.do_step(index, step, actions);
        self.step_gate(now, index, actions);
    }

    /// Does what is due at `now`.
    pub fn timer(&mut self, now: Time, actions: &mut Vec<MasterAction>) {
        if now < self.deadline {
            return;
        }
        self.deadline = Time::NEVER;
        for index in 0..self.volumes.len() {
            let again_at = self.volumes[index].again_at;
            if again_at > now {
                self.deadline = self.deadline.min(again_at);
                continue;
            }
            self.volumes[index].again_at = Time::NEVER;
            self.volumes[index].gate.retry();
            self.step_gate(now, index, actions);
        }
    }

    /// When [`Master::timer`] wants to be called; [`Time::NEVER`] if nothing is due. May be early, never
    /// late.
    #[inline]
    pub fn next_deadline(&self) -> Time {
        self.deadline
    }

    /// Where the volume's gate is.
    pub fn gate(&self, volume: VolumeId) -> GatePhase {
        self.volumes.find(volume).map_or(GatePhase::Closed, |index| self.volumes[index].gate.phase())
    }

    /// The disk that is in hand for a volume, or asked for; the default while there is none.
    #[inline]
    pub fn disk_in_hand(&self, volume: VolumeId) -> DiskId {
        self.volumes.find(volume).map_or(DiskId::default(), |index| self.disks[index])
    }

    /// The newest mapping of a volume, as far as this master knows.
    pub fn mapping_of(&self, volume: VolumeId) -> Option<&Mapping> {
        self.volumes.find(volume).map(|index| &self.volumes[index].mapping)
    }

    /// The life of this client node that the master serves, if it has met one.
    pub fn client_incarnation(&self, client: NodeId) -> Option<Incarnation> {
        self.clients.incarnation(client)
    }

    /// When the request was admitted that has been running on the store for longest; `None` if none runs.
    /// Looks at every running request. A node whose disk hangs is found out by this, though it is alive
    /// otherwise.
    pub fn oldest_running(&self) -> Option<Time> {
        self.running.oldest()
    }

    /// What it has met so far.
    pub fn counts(&self) -> MasterCounts {
        MasterCounts { executing: self.running.len() as u64, ..self.counts }
    }

    /// The node it runs on.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Its sizes and spans.
    pub fn limits(&self) -> &MasterLimits {
        &self.limits
    }

    fn enter_volume(&mut self, mapping: &Mapping) -> usize {
        let index = self.volumes.enter(mapping.volume, Served::new(mapping));
        if self.disks.len() <= index {
            self.disks.resize(index + 1, DiskId::default());
        }
        self.disks[index] = DiskId::default();
        self.volumes[index].guard = self.guards.get(&mapping.volume).cloned();
        index
    }

    #[cold]
    fn dropped(&mut self) -> Admission {
        self.counts.dropped += 1;
        Admission::Drop
    }

    #[cold]
    fn answered(&mut self, request: &Request, verdict: Verdict) -> Admission {
        match verdict {
            Verdict::NackBusy => self.counts.busy += 1,
            Verdict::NackStale { .. } | Verdict::NackNotServing { .. } => self.counts.stale += 1,
            Verdict::Done | Verdict::Errno(_) | Verdict::NackPath { .. } => {}
        }
        Admission::Answer(request.answered(verdict))
    }
}
