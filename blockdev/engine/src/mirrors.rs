//! The mirrors that this node serves, or may come to: the machines, their requests to legs, and the bytes
//! that are on their way between clients and legs.
//!
//! A leg is a virtual disk like any other. Requests to legs have a driver of their own, with slots and
//! credits of their own, so that they never wait for what waits for them.

use crate::data::{ReadData, WriteData};
use crate::engine::{BlockEngine, EngineEvent};
use crate::slots::Slots;
use blockdev_proto::driver::{DataHandle, DriverAction, Submission, SubmitRefusal, Tag};
use blockdev_proto::errno::BlockErrno;
use blockdev_proto::geometry::VolumeId;
use blockdev_proto::mapping::Mapping;
use blockdev_proto::master::{GatePhase, Token};
use blockdev_proto::mirror::{IoId, Layout, Mirror, MirrorAction, MirrorLimits, MirrorStatus, Payload};
use blockdev_proto::wire::{Operation, Request, Slot};
use std::collections::VecDeque;
use transport_endpoint::Core;
use transport_proto::identity::{ClientId, Incarnation, NodeId};
use transport_proto::time::Time;

/// The first slot of the driver of legs; below are those of clients.
pub(crate) const LEGS_FIRST_SLOT: Slot = Slot(1024);
/// Slots of the driver of legs: what mirrors have under way, about three for each of a client's.
pub(crate) const LEGS_PENDING_MAX: usize = 3072;

/// A mirror at this node.
struct Hosted {
    volume: VolumeId,
    mirror: Mirror,
    /// Bytes that reads of legs brought, by the number of the read.
    reads: Vec<Option<(IoId, ReadData)>>,
}

impl Hosted {
    fn keep(&mut self, io: IoId, data: ReadData) {
        let index = io.index as usize;
        if self.reads.len() <= index {
            self.reads.resize_with(index + 1, || None);
        }
        self.reads[index] = Some((io, data));
    }

    fn take(&mut self, io: IoId) -> Option<ReadData> {
        let place = self.reads.get_mut(io.index as usize)?;
        place.take_if(|(kept, _)| *kept == io).map(|(_, data)| data)
    }

    /// The bytes of a read, to be written elsewhere; they stay here.
    fn share(&mut self, io: IoId) -> Option<WriteData> {
        let data = self.take(io)?;
        let (shared, data) = data.into_shared();
        self.keep(io, data);
        Some(shared)
    }
}

/// A request to a leg.
struct LegRequest {
    mirror: VolumeId,
    io: IoId,
    data: Option<WriteData>,
    brings: usize,
}

/// A request to a leg that its driver had no room for.
struct Waiting {
    number: u32,
    submission: Submission,
}

/// The end of a request to a leg, before its mirror has heard of it.
struct LegEnd {
    mirror: VolumeId,
    io: IoId,
    result: Result<(), BlockErrno>,
    data: Option<ReadData>,
}

/// All mirrors of one node.
#[derive(Default)]
pub(crate) struct Mirrors {
    hosted: Vec<Hosted>,
    requests: Slots<LegRequest>,
    waiting: VecDeque<Waiting>,
    ends: VecDeque<LegEnd>,
    actions: VecDeque<(VolumeId, MirrorAction)>,
    /// Kept for its memory.
    scratch: Vec<MirrorAction>,
    deadline: Option<Time>,
}

impl Mirrors {
    pub(crate) fn is_idle(&self) -> bool {
        self.ends.is_empty() && self.actions.is_empty()
    }

    fn find(&self, volume: VolumeId) -> Option<usize> {
        self.hosted.iter().position(|hosted| hosted.volume == volume)
    }

    pub(crate) fn has(&self, volume: VolumeId) -> bool {
        self.find(volume).is_some()
    }

    /// Tells a mirror something; what it wants done is queued.
    fn tell(&mut self, volume: VolumeId, what: impl FnOnce(&mut Mirror, &mut Vec<MirrorAction>)) {
        let Some(place) = self.find(volume) else { return };
        let mut actions = core::mem::take(&mut self.scratch);
        let mirror = &mut self.hosted[place].mirror;
        what(mirror, &mut actions);
        self.deadline = None;
        self.actions.extend(actions.drain(..).map(|action| (volume, action)));
        self.scratch = actions;
    }

    pub(crate) fn next_deadline(&mut self) -> Time {
        let hosted = &self.hosted;
        *self.deadline.get_or_insert_with(|| {
            hosted.iter().map(|hosted| hosted.mirror.next_deadline()).min().unwrap_or(Time::NEVER)
        })
    }

    /// The data of a request to a leg.
    pub(crate) fn data_of(&self, tag: Tag) -> Option<&WriteData> {
        self.requests.get(tag.0 as u32).and_then(|request| request.data.as_ref())
    }

    fn have_leg(&self, leg: VolumeId) -> Vec<VolumeId> {
        let has = |hosted: &&Hosted| hosted.mirror.current_layout().legs().any(|one| one.volume == leg);
        self.hosted.iter().filter(has).map(|hosted| hosted.volume).collect()
    }
}

fn token_of(token: u64) -> Token {
    Token { index: token as u32, generation: (token >> 32) as u32 }
}

fn number_of(token: Token) -> u64 {
    u64::from(token.index) | u64::from(token.generation) << 32
}

impl BlockEngine {
    /// Takes the newest row of a mirror that this node may serve.
    pub fn set_mirror(&mut self, core: &mut Core, layout: &Layout) {
        let volume = layout.volume;
        if self.mirrors.has(volume) {
            let now = core.now();
            self.mirrors.tell(volume, |mirror, actions| mirror.layout(now, layout, actions));
        } else {
            let mirror = Mirror::new(layout, MirrorLimits::default());
            self.mirrors.hosted.push(Hosted { volume, mirror, reads: Vec::new() });
            self.mirrors.deadline = None;
        }
        for leg in layout.legs() {
            if let Some(mapping) = self.master.mapping_of(leg.volume).copied() {
                self.map_leg(core, &mapping);
            }
        }
        self.act(core);
    }

    /// The mirrors known here.
    pub fn mirrors(&self) -> impl Iterator<Item = VolumeId> + '_ {
        self.mirrors.hosted.iter().map(|hosted| hosted.volume)
    }

    /// How a mirror stands here; `None` if it is none of this node's.
    pub fn mirror_status(&self, volume: VolumeId) -> Option<MirrorStatus> {
        self.mirrors.find(volume).map(|place| self.mirrors.hosted[place].mirror.status())
    }

    /// The mirror is gone from the configuration.
    pub fn remove_mirror(&mut self, core: &mut Core, volume: VolumeId) {
        self.abandon_mirror(volume);
        self.act(core);
        self.mirrors.hosted.retain(|hosted| hosted.volume != volume);
        self.mirrors.deadline = None;
    }

    /// This node does not serve the mirror any more, or may not.
    pub(crate) fn abandon_mirror(&mut self, volume: VolumeId) {
        self.mirrors.tell(volume, Mirror::abandon);
    }

    pub(crate) fn abandon_mirrors(&mut self) {
        for volume in self.mirrors().collect::<Vec<_>>() {
            self.abandon_mirror(volume);
        }
    }

    /// Takes the mapping of a virtual disk that is a leg of a mirror here; of any other it does nothing.
    pub(crate) fn map_leg(&mut self, core: &mut Core, mapping: &Mapping) {
        let now = core.now();
        for mirror in self.mirrors.have_leg(mapping.volume) {
            // The master has checked the row.
            let taken = self.legs.mapping(now, mapping, &mut self.leg_actions);
            debug_assert!(taken.is_ok());
            let leg = mapping.volume;
            let life = mapping.serving.map(|node| self.life_of(node));
            let is_near = mapping.serving == Some(self.node);
            self.mirrors.tell(mirror, |mirror, actions| {
                if is_near {
                    mirror.prefer(Some(leg));
                } else {
                    mirror.prefer_not(leg);
                }
                mirror.reachable(now, leg, life, actions);
            });
        }
    }

    /// The life of a member; a node that is none has not lived.
    fn life_of(&self, node: NodeId) -> Incarnation {
        let found = self.lives.iter().find(|(known, _)| *known == node);
        found.map_or(Incarnation(0), |(_, life)| *life)
    }

    /// A client's request that the master let in, for a mirror.
    pub(crate) fn run_on_mirror(&mut self, core: &mut Core, token: Token, request: &Request) {
        let now = core.now();
        let Request { volume, operation, flags, range, .. } = *request;
        self.mirrors.tell(volume, |mirror, actions| {
            mirror.submit(now, number_of(token), operation, flags, range, actions);
        });
        self.act(core);
    }

    pub(crate) fn open_mirror(&mut self, core: &mut Core, volume: VolumeId) {
        let now = core.now();
        self.mirrors.tell(volume, |mirror, actions| mirror.open(now, actions));
    }

    pub(crate) fn persist_on_mirror(
        &mut self,
        core: &mut Core,
        volume: VolumeId,
        epoch: transport_proto::identity::Epoch,
    ) {
        let now = core.now();
        self.mirrors.tell(volume, |mirror, actions| mirror.persist(now, epoch, actions));
    }

    pub(crate) fn mirror_timers(&mut self, core: &mut Core) {
        let now = core.now();
        if now < self.mirrors.next_deadline() {
            return;
        }
        for volume in self.mirrors().collect::<Vec<_>>() {
            self.mirrors.tell(volume, |mirror, actions| mirror.timer(now, actions));
        }
    }

    /// Carries out what mirrors want and tells them what has ended, one thing. `false`: there is none.
    pub(crate) fn act_for_mirrors(&mut self, core: &mut Core) -> bool {
        if let Some((volume, action)) = self.mirrors.actions.pop_front() {
            self.do_mirror(core, volume, action);
            return true;
        }
        let Some(LegEnd { mirror: volume, io, result, data }) = self.mirrors.ends.pop_front() else {
            return false;
        };
        let now = core.now();
        let Some(place) = self.mirrors.find(volume) else { return true };
        // The machine looks at its own records only, and forgets what it does not want.
        if let Some(data) = data {
            self.mirrors.hosted[place].keep(io, data);
        }
        let data = self.mirrors.hosted[place].take(io);
        self.mirrors.tell(volume, |mirror, actions| {
            let bytes = data.as_ref().map_or(&[][..], AsRef::as_ref);
            mirror.done(now, io, result, bytes, actions);
        });
        if let Some(data) = data {
            self.mirrors.hosted[place].keep(io, data);
        }
        true
    }

    fn do_mirror(&mut self, core: &mut Core, volume: VolumeId, action: MirrorAction) {
        let now = core.now();
        match action {
            MirrorAction::Io { io, leg, operation, flags, range, payload } => {
                let data = match payload {
                    Payload::None => None,
                    Payload::Record(bytes) => Some(WriteData::Caller(bytes)),
                    Payload::Request(token) => self.payload_of(token_of(token)),
                    Payload::Read(read) => {
                        let place = self.mirrors.find(volume);
                        place.and_then(|place| self.mirrors.hosted[place].share(read))
                    }
                };
                self.send_to_leg(
                    core,
                    volume,
                    io,
                    Submission { volume: leg, operation, flags, range, tag: Tag(0) },
                    data,
                );
            }
            MirrorAction::Answer { token, result, read } => {
                let place = self.mirrors.find(volume);
                let data = read.and_then(|io| place.and_then(|place| self.mirrors.hosted[place].take(io)));
                self.answer_for_mirror(core, volume, token_of(token), result, data);
            }
            MirrorAction::Withdraw { token } => self.withdraw(core, token_of(token)),
            MirrorAction::Forget { io } => {
                if let Some(place) = self.mirrors.find(volume) {
                    self.mirrors.hosted[place].take(io);
                }
            }
            MirrorAction::Drop { leg } => {
                self.fail_waiting(leg);
                self.legs.fail(now, leg, BlockErrno::Eio, &mut self.leg_actions);
            }
            MirrorAction::Retake { leg } => self.legs.stop_failing(leg),
            MirrorAction::Propose { generation, proposal } => {
                self.events.push_back(EngineEvent::Mirror { volume, generation, proposal });
            }
            MirrorAction::Opened { persisted } => {
                self.master.ownership_taken(now, volume, persisted, &mut self.master_actions);
            }
            MirrorAction::OpenFailed { errno } => {
                tracing::error!(volume = volume.0, "no copy of the mirror that is in sync can be read");
                self.master.store_failed(now, volume, errno, &mut self.master_actions);
            }
            MirrorAction::Persisted { epoch } => {
                self.master.epoch_persisted(now, volume, epoch, &mut self.master_actions);
            }
        }
    }

    /// A read that ends when the gate is closed may have met a leg that is not what it was: it is asked
    /// again.
    fn answer_for_mirror(
        &mut self,
        core: &mut Core,
        volume: VolumeId,
        token: Token,
        result: Result<(), BlockErrno>,
        data: Option<ReadData>,
    ) {
        if data.is_some() {
            let is_over = self.lease_is_over.as_ref().is_some_and(|is_over| is_over());
            let is_open = matches!(self.master.gate(volume), GatePhase::Open(_)) && !self.is_shut();
            if is_over || !is_open {
                return self.withdraw(core, token);
            }
        }
        let Some(running) = self.take_running(token) else { return };
        self.executed_for(core, running, result, data);
    }

    fn send_to_leg(
        &mut self,
        core: &mut Core,
        mirror: VolumeId,
        io: IoId,
        submission: Submission,
        data: Option<WriteData>,
    ) {
        let brings =
            if submission.operation == Operation::Read { submission.range.length as usize } else { 0 };
        let lacks_data = submission.operation == Operation::Write && data.is_none();
        let number = self.mirrors.requests.insert(LegRequest { mirror, io, data, brings });
        if lacks_data {
            return self.leg_ended(number, Err(BlockErrno::Einval), None);
        }
        let submission = Submission { tag: Tag(u64::from(number)), ..submission };
        if self.mirrors.waiting.is_empty() {
            self.submit_to_leg(core, number, submission);
        } else {
            self.mirrors.waiting.push_back(Waiting { number, submission });
        }
    }

    /// `false`: there was no room, and it waits.
    fn submit_to_leg(&mut self, core: &mut Core, number: u32, submission: Submission) -> bool {
        match self.legs.submit(core.now(), &submission, &mut self.leg_actions) {
            Ok(_) => true,
            Err(SubmitRefusal::Full { .. }) => {
                self.mirrors.waiting.push_front(Waiting { number, submission });
                false
            }
            Err(SubmitRefusal::NoMapping) => {
                self.leg_ended(number, Err(BlockErrno::Enodev), None);
                true
            }
            Err(SubmitRefusal::Invalid(errno)) => {
                self.leg_ended(number, Err(errno), None);
                true
            }
        }
    }

    /// What waits for room and is meant for a leg that is dropped fails with the rest.
    fn fail_waiting(&mut self, leg: VolumeId) {
        for waiting in core::mem::take(&mut self.mirrors.waiting) {
            if waiting.submission.volume == leg {
                self.leg_ended(waiting.number, Err(BlockErrno::Eio), None);
            } else {
                self.mirrors.waiting.push_back(waiting);
            }
        }
    }

    fn leg_ended(&mut self, number: u32, result: Result<(), BlockErrno>, data: Option<ReadData>) {
        let Some(LegRequest { mirror, io, brings, .. }) = self.mirrors.requests.remove(number) else {
            return;
        };
        let brought = data.as_ref().map_or(0, |data| data.as_ref().len());
        // Not the answer to the question: the peer's word cannot be trusted.
        let result = if brought == brings { result } else { result.and(Err(BlockErrno::Eio)) };
        self.mirrors.ends.push_back(LegEnd { mirror, io, result, data });
    }

    /// The driver of legs has an answer.
    pub(crate) fn complete_leg(
        &mut self,
        core: &mut Core,
        tag: Tag,
        result: Result<(), BlockErrno>,
        data: Option<DataHandle>,
    ) {
        let data = data.and_then(|handle| self.arrived.remove(handle.0 as u32));
        self.leg_ended(tag.0 as u32, result, data);
        while let Some(Waiting { number, submission }) = self.mirrors.waiting.pop_front() {
            if !self.submit_to_leg(core, number, submission) {
                return;
            }
        }
    }

    /// What the driver of legs wants done.
    pub(crate) fn do_legs(&mut self, core: &mut Core, action: DriverAction) {
        match action {
            DriverAction::Send { to, tag, request } => {
                self.send_driver_request(core, to, tag, request, ClientId::LEGS);
            }
            DriverAction::Complete { tag, result, data, .. } => self.complete_leg(core, tag, result, data),
            // A mirror cannot do more about a broken path than drop the leg; the master tells of it too.
            other => self.do_driver(core, other),
        }
    }

    /// Room for a read of a leg is this node's own.
    pub(crate) fn is_leg_request(slot: Slot) -> bool {
        slot.0 >= LEGS_FIRST_SLOT.0
    }

    pub(crate) fn legs_of_peer(&mut self, core: &mut Core, node: NodeId, is_up: bool) {
        let now = core.now();
        if is_up {
            self.legs.peer_up(now, node, &mut self.leg_actions);
            self.legs.writable(now, node, u32::MAX, &mut self.leg_actions);
        } else {
            self.legs.peer_gone(now, node, &mut self.leg_actions);
        }
    }
}
