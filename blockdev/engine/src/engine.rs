//! The engine: state, submission and the round.

use crate::data::{ReadData, WriteData};
use crate::disks::{Disk, OwnershipWish};
use crate::hosted::HostedVolumes;
use crate::legs;
use crate::master_side::{Answering, Running};
use crate::slots::Slots;
use blockdev_proto::driver::{Driver, DriverAction, Submission, SubmitRefusal, Tag};
use blockdev_proto::errno::BlockErrno;
use blockdev_proto::geometry::{ByteRange, VolumeId};
use blockdev_proto::lanes::{Lane, STOREYS_MAX};
use blockdev_proto::mapping::{Mapping, MappingFault};
use blockdev_proto::master::{GatePhase, Master, MasterAction, MasterLimits};
use blockdev_proto::mirror::Proposal;
use blockdev_proto::reservation::Reservations;
use blockdev_proto::wire::{Attached, Message, Operation, PathBroken, RequestFlags, Settle, WireFault};
use blockdev_store::DriveEnd;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use transport_endpoint::{
    Clients, Completion, Core, Data, Delivery, PeerEvent, PostRefusal, SendBuffer, SendRefusal,
};
use transport_proto::identity::{ClientId, Epoch, Incarnation, NodeId};
use transport_proto::time::Time;

/// A request of a client of this node.
#[derive(Debug)]
pub struct BlockIo {
    /// The virtual disk.
    pub volume: VolumeId,
    /// What to do.
    pub operation: Operation,
    /// Wishes.
    pub flags: RequestFlags,
    /// Which bytes; [`ByteRange::EMPTY`] for a flush.
    pub range: ByteRange,
    /// Payload of a write, as long as the range; `None` for all else.
    pub data: Option<WriteData>,
    /// Comes back with the completion.
    pub tag: u64,
}

/// A request was not taken; nothing happened.
#[derive(Debug)]
pub struct Refused {
    /// The request, untouched.
    pub io: BlockIo,
    /// Why.
    pub why: RefusedWhy,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedWhy {
    /// Too many are pending; try again after a completion.
    Full,
    /// The request can never succeed.
    Failed(BlockErrno),
}

/// The end of a request.
#[derive(Debug)]
pub struct BlockCompletion {
    /// The client's name for it.
    pub tag: u64,
    /// What became of it; the bytes of a read.
    pub result: Result<Option<ReadData>, BlockErrno>,
    /// Time from submission to completion, nanoseconds.
    pub nanos: u64,
}

/// News for the rest of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// A node cannot reach a disk: the mapping must change.
    PathBroken(PathBroken),
    /// A newer mapping than ours exists somewhere.
    FetchMapping {
        /// The virtual disk.
        volume: VolumeId,
        /// A number that some master has.
        seen: Epoch,
    },
    /// Nothing of the volume is under way any more (after a suspension).
    Drained {
        /// The virtual disk.
        volume: VolumeId,
        /// Number of the mapping under which it drained.
        epoch: Epoch,
    },
    /// The configuration's number was used before; the next must lie above `persisted`.
    EpochSpent {
        /// The virtual disk.
        volume: VolumeId,
        /// The number found with the disk.
        persisted: Epoch,
    },
    /// This node serves the volume from now on.
    GateOpened {
        /// The virtual disk.
        volume: VolumeId,
        /// The configuration number.
        epoch: Epoch,
    },
    /// Reservations are in force, see [`BlockEngine::settle`].
    Settled(Settle),
    /// The configuration is to say this of a mirror, if its row is still of that generation.
    Mirror {
        /// The mirror.
        volume: VolumeId,
        /// The row's generation.
        generation: u64,
        /// What it is to say.
        proposal: Proposal,
    },
    /// This node does not serve the volume any more.
    GateClosed {
        /// The virtual disk.
        volume: VolumeId,
        /// The configuration number that it served at.
        epoch: Epoch,
    },
}

/// A client's request while it is pending.
#[derive(Debug)]
pub(crate) struct ClientRequest {
    pub(crate) tag: u64,
    pub(crate) volume: VolumeId,
    pub(crate) data: Option<WriteData>,
    /// Bytes that a good end brings: the length of a read, none for all else.
    pub(crate) brings: usize,
    pub(crate) since: Time,
}

/// A virtual disk went on at another node: when, and for how long its clients waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    /// The virtual disk.
    pub volume: VolumeId,
    /// Configuration number of the change.
    pub epoch: Epoch,
    /// Served before; `None` if nobody did.
    pub from: Option<NodeId>,
    /// Serves from then on.
    pub to: NodeId,
    /// From the last completion of a request of this node before the change to the first one after it,
    /// nanoseconds. `None` until that one comes.
    pub gap_nanos: Option<u64>,
}

/// Failovers that are kept for `status`; older ones are forgotten.
const FAILOVERS_MAX: usize = 64;

/// The block engine of one node.
pub struct BlockEngine {
    pub(crate) node: NodeId,
    pub(crate) driver: Driver,
    /// The drivers of what volumes here ask of their parts, one a lane.
    pub(crate) legs: [Driver; STOREYS_MAX],
    pub(crate) leg_actions: Vec<DriverAction>,
    pub(crate) hosted: HostedVolumes,
    /// Members and their lives.
    pub(crate) lives: Vec<(NodeId, Incarnation)>,
    pub(crate) master: Master,
    pub(crate) driver_actions: Vec<DriverAction>,
    pub(crate) master_actions: Vec<MasterAction>,
    pub(crate) requests: Slots<ClientRequest>,
    pub(crate) arrived: Slots<ReadData>,
    pub(crate) disks: Vec<Disk>,
    /// What the disks reported in one round; kept for its memory.
    pub(crate) ends: Vec<DriveEnd>,
    pub(crate) wishes: Vec<OwnershipWish>,
    pub(crate) wishes_due: Time,
    pub(crate) running: Vec<Option<Running>>,
    pub(crate) answering: VecDeque<Answering>,
    pub(crate) completions: VecDeque<BlockCompletion>,
    pub(crate) events: VecDeque<EngineEvent>,
    pub(crate) failovers: VecDeque<Failover>,
    /// When a request of each volume last completed here.
    pub(crate) last_done: Vec<(VolumeId, Time)>,
    pub(crate) wire_faults: u64,
    pub(crate) last_wire_fault: Option<WireFault>,
    acting: bool,
    pub(crate) shut: Arc<AtomicBool>,
    /// Says by the clock whether the lease has run out.
    pub(crate) lease_is_over: Option<Box<dyn Fn() -> bool>>,
}

impl BlockEngine {
    /// An engine without disks and mappings. `incarnation` is this life of the driver: it names requests in
    /// the masters' duplicate tables.
    pub fn new(node: NodeId, incarnation: Incarnation) -> BlockEngine {
        BlockEngine {
            node,
            driver: Driver::new(node, incarnation, Lane::Clients.limits()),
            legs: legs::drivers(node, incarnation),
            leg_actions: Vec::new(),
            hosted: HostedVolumes::default(),
            lives: Vec::new(),
            master: Master::new(node, MasterLimits::default()),
            driver_actions: Vec::with_capacity(64),
            master_actions: Vec::with_capacity(64),
            requests: Slots::default(),
            arrived: Slots::default(),
            disks: Vec::new(),
            ends: Vec::new(),
            wishes: Vec::new(),
            wishes_due: Time(0),
            running: Vec::new(),
            answering: VecDeque::new(),
            completions: VecDeque::new(),
            events: VecDeque::new(),
            failovers: VecDeque::new(),
            last_done: Vec::new(),
            wire_faults: 0,
            last_wire_fault: None,
            acting: false,
            shut: Arc::default(),
            lease_is_over: None,
        }
    }

    /// Takes the newest mapping of a volume: the master always, the driver if the volume is open here (SPEC
    /// B7).
    pub fn mapping(&mut self, core: &mut Core, mapping: &Mapping) -> Result<(), MappingFault> {
        let now = core.now();
        self.note_failover(mapping);
        // Before anything else that this number changes.
        self.hosted_before_mapping(mapping);
        self.master.mapping(now, mapping, &mut self.master_actions)?;
        self.map_part(core, mapping);
        if self.is_open(mapping.volume) {
            self.driver.mapping(now, mapping, &mut self.driver_actions)?;
        }
        self.act(core);
        Ok(())
    }

    /// Sets a volume up for requests of this node's clients. `false`: there is no such volume.
    pub fn open(&mut self, core: &mut Core, volume: VolumeId) -> bool {
        let Some(mapping) = self.master.mapping_of(volume).copied() else { return false };
        if !self.is_open(volume) {
            // The master has checked the row.
            let taken = self.driver.mapping(core.now(), &mapping, &mut self.driver_actions);
            debug_assert!(taken.is_ok());
            self.act(core);
        }
        true
    }

    /// Whether requests of the volume are taken here.
    pub fn is_open(&self, volume: VolumeId) -> bool {
        self.driver.mapping_of(volume).is_some()
    }

    /// No client has the volume open any more. `false`: requests are pending, ask again later.
    pub fn close(&mut self, core: &mut Core, volume: VolumeId) -> bool {
        if self.driver.pending_of(volume) > 0 {
            return false;
        }
        self.driver.forget(core.now(), volume, BlockErrno::Enodev, &mut self.driver_actions);
        self.last_done.retain(|(known, _)| *known != volume);
        self.act(core);
        true
    }

    /// The volume is not for clients any more: what they have pending ends with `EPERM`.
    pub fn evict(&mut self, core: &mut Core, volume: VolumeId) {
        self.driver.forget(core.now(), volume, BlockErrno::Eperm, &mut self.driver_actions);
        self.last_done.retain(|(known, _)| *known != volume);
        self.act(core);
    }

    /// The volume is gone from the configuration. What clients have pending ends with `ENODEV`; what runs on
    /// the disk is drained before the disk is given up.
    pub fn remove(&mut self, core: &mut Core, volume: VolumeId) {
        let now = core.now();
        self.driver.forget(now, volume, BlockErrno::Enodev, &mut self.driver_actions);
        for driver in &mut self.legs {
            driver.forget(now, volume, BlockErrno::Enodev, &mut self.leg_actions);
        }
        self.master.remove(now, volume, &mut self.master_actions);
        self.last_done.retain(|(known, _)| *known != volume);
        self.act(core);
    }

    fn note_failover(&mut self, mapping: &Mapping) {
        let (Some(known), Some(to)) = (self.master.mapping_of(mapping.volume), mapping.serving) else {
            return;
        };
        // Number 0 is the time before the first view.
        if known.serving == Some(to) || known.epoch >= mapping.epoch || known.epoch == Epoch(0) {
            return;
        }
        if self.failovers.len() == FAILOVERS_MAX {
            self.failovers.pop_front();
        }
        let (volume, epoch, from) = (mapping.volume, mapping.epoch, known.serving);
        self.failovers.push_back(Failover { volume, epoch, from, to, gap_nanos: None });
    }

    /// A request of the volume completed: closes the gap of a failover that was open.
    pub(crate) fn note_done(&mut self, now: Time, volume: VolumeId) {
        let last = match self.last_done.iter_mut().find(|(known, _)| *known == volume) {
            Some((_, last)) => Some(core::mem::replace(last, now)),
            None => {
                self.last_done.push((volume, now));
                None
            }
        };
        if self.failovers.is_empty() {
            return;
        }
        let open = self.failovers.iter_mut().rev().find(|failover| failover.volume == volume);
        if let (Some(failover), Some(last)) = (open, last)
            && failover.gap_nanos.is_none()
        {
            failover.gap_nanos = Some(now.since(last).as_nanos() as u64);
        }
    }

    /// Failovers since the start, the latest last.
    pub fn failovers(&self) -> impl Iterator<Item = &Failover> {
        self.failovers.iter()
    }

    /// Takes the newest reservations of all volumes that have any, with their revisions (SPEC B12). Comes
    /// before the mappings of the same entry of the log.
    pub fn set_reservations<'rows>(
        &mut self,
        core: &mut Core,
        rows: impl Iterator<Item = (VolumeId, u64, &'rows Reservations)>,
    ) {
        let mut gone: BTreeSet<VolumeId> = self.master.reserved().collect();
        for (volume, revision, row) in rows {
            gone.remove(&volume);
            self.master.reservations(volume, Some((revision, row)), &mut self.master_actions);
        }
        for volume in gone {
            self.master.reservations(volume, None, &mut self.master_actions);
        }
        self.act(core);
    }

    /// Asks the node that serves a volume to say when reservations are in force there: see
    /// [`EngineEvent::Settled`]. To be asked again after a while, of whoever serves it then.
    pub fn settle(&mut self, core: &mut Core, settle: &Settle) {
        let serving = self.master.mapping_of(settle.volume).and_then(|mapping| mapping.serving);
        match serving {
            Some(node) if node == self.node => {
                self.master.settle(node, settle, &mut self.master_actions);
                self.act(core);
            }
            Some(node) => {
                self.send_control(core, node, &Message::Settle(*settle));
            }
            None => {}
        }
    }

    /// Serves nothing from now on, whatever mappings say: majority or membership is lost.
    pub fn fence(&mut self, core: &mut Core) {
        self.abandon_all_hosted();
        self.master.fence(core.now(), &mut self.master_actions);
        self.act(core);
    }

    /// Serves again as the mappings say.
    pub fn unfence(&mut self, core: &mut Core) {
        self.master.unfence(core.now(), &mut self.master_actions);
        self.act(core);
    }

    /// Fails the volume's requests with `EIO` at once, or lets them wait again (SPEC C6).
    pub fn set_failing(&mut self, core: &mut Core, volume: VolumeId, failing: bool) {
        if failing {
            self.driver.fail(core.now(), volume, BlockErrno::Eio, &mut self.driver_actions);
        } else {
            self.driver.stop_failing(volume);
        }
        self.act(core);
    }

    /// Whether nothing of the volume is under way here and nothing new goes out: what a member has to say
    /// yes to before a mapping changes (SPEC C4).
    pub fn stands_still(&self, volume: VolumeId) -> bool {
        self.driver.stands_still(volume)
            && self.legs.iter().all(|driver| driver.stands_still(volume))
            && !matches!(self.master.gate(volume), GatePhase::Draining(_))
    }

    /// Nothing is admitted while this is set, by whichever thread: a lease has run out, and the reactor has
    /// yet to close the gates.
    pub fn shut_by(&mut self, shut: Arc<AtomicBool>) {
        self.shut = shut;
    }

    /// Asked before a mirror answers a read: its own copy may be stale when another node has taken over, and
    /// a process that was stopped and goes on may read it before `shut_by`'s thread has looked at the clock.
    pub fn lease_by(&mut self, is_over: impl Fn() -> bool + 'static) {
        self.lease_is_over = Some(Box::new(is_over));
    }

    /// Requests that run on the disks here.
    pub fn executing(&self) -> u64 {
        self.master.counts().executing
    }

    /// Takes the newest list of members with their lives; comes before the mappings of the same number.
    pub fn members(&mut self, members: &[(NodeId, Incarnation)]) {
        self.lives = members.to_vec();
        let nodes: Vec<NodeId> = members.iter().map(|(node, _)| *node).collect();
        self.master.members(&nodes);
    }

    /// The newest mapping of a volume here.
    pub fn mapping_of(&self, volume: VolumeId) -> Option<&Mapping> {
        self.master.mapping_of(volume)
    }

    /// Memory to build the payload of a write in. `NoMemory`: try again after a completion.
    pub fn write_buffer(&mut self, core: &mut Core, length: usize) -> Result<SendBuffer, PostRefusal> {
        core.allocate(length)
    }

    /// Takes a request. Its completion comes out of [`BlockEngine::next_completion`], never from within this
    /// call.
    #[inline]
    pub fn submit(&mut self, core: &mut Core, io: BlockIo) -> Result<(), Refused> {
        let expected = if io.operation == Operation::Write { io.range.length as usize } else { 0 };
        if io.data.as_ref().map_or(0, WriteData::len) != expected {
            return Err(Refused { io, why: RefusedWhy::Failed(BlockErrno::Einval) });
        }
        let now = core.now();
        let BlockIo { volume, operation, flags, range, data, tag } = io;
        let brings = if operation == Operation::Read { range.length as usize } else { 0 };
        let number = self.requests.insert(ClientRequest { tag, volume, data, brings, since: now });
        let submission = Submission { volume, operation, flags, range, tag: Tag(u64::from(number)) };
        match self.driver.submit(now, &submission, &mut self.driver_actions) {
            Ok(_) => {
                self.act(core);
                Ok(())
            }
            Err(refusal) => {
                let data = self.requests.remove(number).and_then(|request| request.data);
                let why = match refusal {
                    SubmitRefusal::Full { .. } => RefusedWhy::Full,
                    SubmitRefusal::NoMapping => RefusedWhy::Failed(BlockErrno::Enodev),
                    SubmitRefusal::Invalid(errno) => RefusedWhy::Failed(errno),
                };
                Err(Refused { io: BlockIo { volume, operation, flags, range, data, tag }, why })
            }
        }
    }

    /// Whether one more request would be taken now.
    #[inline]
    pub fn may_submit(&self) -> bool {
        self.driver.pending() < self.driver.limits().pending_max
    }

    /// The next request that ended.
    #[inline]
    pub fn next_completion(&mut self) -> Option<BlockCompletion> {
        self.completions.pop_front()
    }

    /// The next piece of news.
    pub fn next_event(&mut self) -> Option<EngineEvent> {
        self.events.pop_front()
    }

    /// One round: what the disks have finished, what is due by time. Returns how much was found; 0 = idle.
    #[inline]
    pub fn poll(&mut self, core: &mut Core) -> usize {
        let now = core.now();
        let found = self.poll_disks(core);
        self.pursue_wishes(core);
        if now >= self.driver.next_deadline() {
            self.driver.timer(now, &mut self.driver_actions);
        }
        for driver in self.legs.iter_mut().filter(|driver| now >= driver.next_deadline()) {
            driver.timer(now, &mut self.leg_actions);
        }
        if now >= self.master.next_deadline() {
            self.master.timer(now, &mut self.master_actions);
        }
        self.hosted_timers(core);
        self.act(core);
        if !self.answering.is_empty() {
            self.send_answers(core);
        }
        self.kick_disks();
        found
    }

    /// When the engine wants a round though nothing has arrived.
    pub fn next_deadline(&mut self, now: Time) -> Time {
        let soon = |wanted: bool| {
            if wanted { now + core::time::Duration::from_millis(1) } else { Time::NEVER }
        };
        let wish = soon(!self.wishes.is_empty());
        let answers = soon(!self.answering.is_empty());
        let of_legs = self.legs.iter().map(Driver::next_deadline);
        let drivers = of_legs.fold(self.driver.next_deadline(), Time::min);
        drivers.min(self.master.next_deadline()).min(self.hosted.next_deadline()).min(wish).min(answers)
    }

    /// Prepares to sleep; `false`: a disk has finished something, poll again.
    pub fn arm(&mut self) -> bool {
        self.completions.is_empty() && self.events.is_empty() && self.disks.iter_mut().all(Disk::arm)
    }

    /// Carries out what the machines want, until they want nothing more. What is asked for from within is
    /// carried out by the outermost call, in order.
    pub(crate) fn act(&mut self, core: &mut Core) {
        if self.acting {
            return;
        }
        self.acting = true;
        while !(self.driver_actions.is_empty()
            && self.master_actions.is_empty()
            && self.leg_actions.is_empty()
            && self.hosted.is_idle())
        {
            let mut actions = core::mem::take(&mut self.driver_actions);
            for action in actions.drain(..) {
                self.do_driver(core, action);
            }
            restore(&mut self.driver_actions, actions);
            let mut actions = core::mem::take(&mut self.master_actions);
            for action in actions.drain(..) {
                self.do_master(core, action);
            }
            restore(&mut self.master_actions, actions);
            let mut actions = core::mem::take(&mut self.leg_actions);
            for action in actions.drain(..) {
                self.do_legs(core, action);
            }
            restore(&mut self.leg_actions, actions);
            while self.act_for_hosted(core) {}
        }
        self.acting = false;
    }

    /// Sends a message that is its control part only; `false`: no credit, or no such peer now.
    pub(crate) fn send_control(&mut self, core: &mut Core, to: NodeId, message: &Message) -> bool {
        let encoded = message.encode();
        // With credits that no request waiting for others can use up.
        let client = ClientId::LEGS;
        core.send(to, client, encoded.as_bytes(), Data::Empty, transport_endpoint::Tag::SILENT).is_ok()
    }
}

/// Puts an emptied list back in place, keeping its memory, in front of what came meanwhile.
fn restore<T>(place: &mut Vec<T>, mut emptied: Vec<T>) {
    emptied.append(place);
    *place = emptied;
}

/// The engine as clients of the transport, one a [`Lane`]. A program with more of them forwards the
/// call-backs of these here.
impl Clients for BlockEngine {
    fn deliver(&mut self, core: &mut Core, delivery: Delivery<'_>) {
        let from = delivery.from;
        match Message::parse(delivery.control) {
            Ok(Message::Request(request)) => self.on_request(core, request, delivery),
            Ok(Message::Answer(answer)) => self.on_answer(core, from, answer, delivery),
            Ok(Message::Attach(attach)) => self.master.attach(from, &attach, &mut self.master_actions),
            Ok(Message::Attached(attached)) => {
                self.attached(core, from, &attached);
            }
            Ok(Message::PathBroken(report)) => self.events.push_back(EngineEvent::PathBroken(report)),
            Ok(Message::Settle(settle)) => self.master.settle(from, &settle, &mut self.master_actions),
            Ok(Message::Settled(settled)) => self.events.push_back(EngineEvent::Settled(settled)),
            Err(fault) => self.wire_fault(from, fault),
        }
        self.act(core);
    }

    fn complete(&mut self, _core: &mut Core, _completion: Completion) {}

    fn peer(&mut self, core: &mut Core, event: PeerEvent) {
        match event {
            PeerEvent::Up { node, .. } | PeerEvent::Reachable { node } => {
                self.legs_of_peer(core, node, true);
            }
            PeerEvent::Restarted { node, .. } => {
                self.legs_of_peer(core, node, false);
                self.legs_of_peer(core, node, true);
            }
            PeerEvent::Gone { node } => self.legs_of_peer(core, node, false),
            PeerEvent::Unreachable { .. } => {}
        }
        let (now, actions) = (core.now(), &mut self.driver_actions);
        match event {
            PeerEvent::Up { node, .. } => {
                self.driver.peer_up(now, node, actions);
                self.driver.writable(now, node, u32::MAX, actions);
            }
            PeerEvent::Restarted { node, .. } => {
                self.driver.peer_restarted(now, node, actions);
                self.driver.writable(now, node, u32::MAX, actions);
                self.forget_answers(node);
            }
            PeerEvent::Gone { node } => {
                self.driver.peer_gone(now, node, actions);
                self.forget_answers(node);
            }
            PeerEvent::Reachable { node } => self.driver.writable(now, node, u32::MAX, actions),
            PeerEvent::Unreachable { .. } => {}
        }
        self.act(core);
    }

    fn writable(&mut self, core: &mut Core, node: NodeId, client: ClientId) {
        self.send_answers(core);
        let (driver, actions) = self.driver_of(Lane::of_client(client).unwrap_or(Lane::Clients));
        driver.writable(core.now(), node, u32::MAX, actions);
        self.act(core);
    }
}

impl BlockEngine {
    /// A master's word on an attach: whichever driver asked knows it.
    pub(crate) fn attached(&mut self, core: &mut Core, from: NodeId, attached: &Attached) {
        let now = core.now();
        self.driver.attached(now, from, attached, &mut self.driver_actions);
        for driver in &mut self.legs {
            driver.attached(now, from, attached, &mut self.leg_actions);
        }
    }

    /// Nothing is admitted: the lease has run out.
    pub(crate) fn is_shut(&self) -> bool {
        // Nothing else is published with it.
        self.shut.load(Ordering::Relaxed)
    }

    pub(crate) fn wire_fault(&mut self, from: NodeId, fault: WireFault) {
        self.wire_faults += 1;
        if self.last_wire_fault != Some(fault) {
            tracing::warn!(from = from.0, ?fault, "not a block message; run one release on all nodes");
        }
        self.last_wire_fault = Some(fault);
    }
}

/// Whether a refusal of the transport will be followed by another chance for the same peer.
pub(crate) fn passes(refusal: SendRefusal) -> bool {
    matches!(refusal, SendRefusal::NoCredit | SendRefusal::NotConnected)
}
