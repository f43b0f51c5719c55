//! The volumes that this node serves from other virtual disks, or may come to: their machines, and the bytes
//! that are on their way between clients and parts. What is asked of parts is in `legs.rs`.

use crate::data::{ReadData, WriteData};
use crate::engine::BlockEngine;
use crate::legs::LegTraffic;
use blockdev_proto::assembly::{Assembly, AssemblyAction};
use blockdev_proto::errno::BlockErrno;
use blockdev_proto::geometry::VolumeId;
use blockdev_proto::mapping::Mapping;
use blockdev_proto::master::{GatePhase, Token};
use blockdev_proto::mirror::{IoId, Mirror, MirrorAction};
use blockdev_proto::wire::Request;
use std::collections::VecDeque;
use transport_endpoint::Core;
use transport_proto::identity::{Epoch, Incarnation, NodeId};
use transport_proto::time::Time;

/// What carries a volume's requests out.
pub(crate) enum Machine {
    Mirror(Box<Mirror>),
    Assembly(Box<Assembly>),
}

/// What a machine wants done.
enum Action {
    Mirror(MirrorAction),
    Assembly(AssemblyAction),
}

/// A volume at this node.
pub(crate) struct Hosted {
    pub(crate) volume: VolumeId,
    pub(crate) machine: Machine,
    /// Bytes that reads of parts brought, by the number of the read.
    reads: Vec<Option<(IoId, ReadData)>>,
}

impl Hosted {
    pub(crate) fn keep(&mut self, io: IoId, data: ReadData) {
        let index = io.index as usize;
        if self.reads.len() <= index {
            self.reads.resize_with(index + 1, || None);
        }
        self.reads[index] = Some((io, data));
    }

    pub(crate) fn take(&mut self, io: IoId) -> Option<ReadData> {
        let place = self.reads.get_mut(io.index as usize)?;
        place.take_if(|(kept, _)| *kept == io).map(|(_, data)| data)
    }

    /// The bytes of a read, to be written elsewhere; they stay here.
    pub(crate) fn share(&mut self, io: IoId) -> Option<WriteData> {
        let data = self.take(io)?;
        let (shared, data) = data.into_shared();
        self.keep(io, data);
        Some(shared)
    }

    fn lies_on(&self, part: VolumeId) -> bool {
        match &self.machine {
            Machine::Mirror(mirror) => mirror.current_layout().legs().any(|leg| leg.volume == part),
            Machine::Assembly(assembly) => assembly.current_layout().parts.contains(&part),
        }
    }
}

/// What a virtual disk lies on, if not on a disk: whichever node serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    /// The virtual disk.
    pub volume: VolumeId,
    /// What it lies on.
    pub parts: Vec<VolumeId>,
    /// One of them is enough to go on: they are copies.
    pub are_copies: bool,
}

/// All of them.
#[derive(Default)]
pub(crate) struct HostedVolumes {
    hosted: Vec<Hosted>,
    /// Of all volumes of the cluster.
    below: Vec<Below>,
    pub(crate) traffic: LegTraffic,
    actions: VecDeque<(VolumeId, Action)>,
    /// Kept for their memory.
    mirror_scratch: Vec<MirrorAction>,
    assembly_scratch: Vec<AssemblyAction>,
    deadline: Option<Time>,
}

impl HostedVolumes {
    pub(crate) fn is_idle(&self) -> bool {
        self.traffic.is_idle() && self.actions.is_empty()
    }

    pub(crate) fn has(&self, volume: VolumeId) -> bool {
        self.find(volume).is_some()
    }

    pub(crate) fn find(&self, volume: VolumeId) -> Option<&Hosted> {
        self.hosted.iter().find(|hosted| hosted.volume == volume)
    }

    pub(crate) fn find_mut(&mut self, volume: VolumeId) -> Option<&mut Hosted> {
        self.hosted.iter_mut().find(|hosted| hosted.volume == volume)
    }

    pub(crate) fn enter(&mut self, volume: VolumeId, machine: Machine) {
        self.hosted.push(Hosted { volume, machine, reads: Vec::new() });
        self.deadline = None;
    }

    /// Takes the bytes of a read of a part.
    pub(crate) fn take_read(&mut self, volume: VolumeId, io: IoId) -> Option<ReadData> {
        self.find_mut(volume).and_then(|hosted| hosted.take(io))
    }

    /// Tells a mirror something; what it wants done is queued. Nothing, if the volume is none.
    pub(crate) fn tell_mirror(
        &mut self,
        volume: VolumeId,
        what: impl FnOnce(&mut Mirror, &mut Vec<MirrorAction>),
    ) {
        let mut actions = core::mem::take(&mut self.mirror_scratch);
        if let Some(Hosted { machine: Machine::Mirror(mirror), .. }) = self.find_mut(volume) {
            what(mirror, &mut actions);
            self.deadline = None;
        }
        self.actions.extend(actions.drain(..).map(|action| (volume, Action::Mirror(action))));
        self.mirror_scratch = actions;
    }

    /// Tells an assembly something; what it wants done is queued. Nothing, if the volume is none.
    pub(crate) fn tell_assembly(
        &mut self,
        volume: VolumeId,
        what: impl FnOnce(&mut Assembly, &mut Vec<AssemblyAction>),
    ) {
        let mut actions = core::mem::take(&mut self.assembly_scratch);
        if let Some(Hosted { machine: Machine::Assembly(assembly), .. }) = self.find_mut(volume) {
            what(assembly, &mut actions);
        }
        self.actions.extend(actions.drain(..).map(|action| (volume, Action::Assembly(action))));
        self.assembly_scratch = actions;
    }

    pub(crate) fn next_deadline(&mut self) -> Time {
        let of = |hosted: &Hosted| match &hosted.machine {
            Machine::Mirror(mirror) => mirror.next_deadline(),
            Machine::Assembly(_) => Time::NEVER,
        };
        let hosted = &self.hosted;
        *self.deadline.get_or_insert_with(|| hosted.iter().map(of).min().unwrap_or(Time::NEVER))
    }

    fn below(&self, volume: VolumeId) -> Option<&Below> {
        self.below.iter().find(|below| below.volume == volume)
    }

    /// The volume that lies on this virtual disk, hosted here or not.
    fn over(&self, part: VolumeId) -> Option<VolumeId> {
        let found = self.below.iter().find(|below| below.parts.contains(&part));
        found.map(|below| below.volume)
    }

    fn on_part(&self, part: VolumeId) -> Vec<VolumeId> {
        let found = self.hosted.iter().filter(|hosted| hosted.lies_on(part));
        found.map(|hosted| hosted.volume).collect()
    }
}

pub(crate) fn token_of(token: u64) -> Token {
    Token { index: token as u32, generation: (token >> 32) as u32 }
}

fn number_of(token: Token) -> u64 {
    u64::from(token.index) | u64::from(token.generation) << 32
}

impl BlockEngine {
    /// The volumes on other virtual disks that are known here.
    pub fn hosted(&self) -> impl Iterator<Item = VolumeId> + '_ {
        self.hosted.hosted.iter().map(|hosted| hosted.volume)
    }

    /// Such a volume is gone from the configuration, or not for this node any more.
    pub fn remove_hosted(&mut self, core: &mut Core, volume: VolumeId) {
        self.abandon_hosted(volume);
        self.act(core);
        self.hosted.hosted.retain(|hosted| hosted.volume != volume);
        self.hosted.deadline = None;
        // What the gate waited for, nobody would answer any more; one of that number may come again.
        let now = core.now();
        self.master.store_failed(now, volume, BlockErrno::Enodev, &mut self.master_actions);
        self.act(core);
    }

    /// This node does not serve the volume any more, or may not.
    pub(crate) fn abandon_hosted(&mut self, volume: VolumeId) {
        self.hosted.tell_mirror(volume, Mirror::abandon);
        self.hosted.tell_assembly(volume, Assembly::abandon);
    }

    pub(crate) fn abandon_all_hosted(&mut self) {
        for volume in self.hosted().collect::<Vec<_>>() {
            self.abandon_hosted(volume);
        }
    }

    /// A newer mapping of a volume is about to be taken.
    pub(crate) fn hosted_before_mapping(&mut self, mapping: &Mapping) {
        let is_newer = self.master.mapping_of(mapping.volume).is_none_or(|known| known.epoch < mapping.epoch);
        if mapping.serving != Some(self.node) {
            self.abandon_hosted(mapping.volume);
        } else if is_newer {
            self.hosted.tell_assembly(mapping.volume, Assembly::renew);
        }
    }

    /// Takes what all volumes of the cluster lie on; comes before the mappings by the same rows.
    pub fn set_below(&mut self, below: Vec<Below>) {
        self.hosted.below = below;
    }

    /// Takes the mapping of a virtual disk that a volume here lies on, by itself or by way of another.
    pub(crate) fn map_part(&mut self, core: &mut Core, mapping: &Mapping) {
        let now = core.now();
        let wholes = self.hosted.on_part(mapping.volume);
        if !wholes.is_empty() {
            self.map_leg(now, mapping);
            self.tell_of_part(now, wholes, mapping);
        }
        // With it comes, goes or begins anew what lies on it.
        let Some(over) = self.hosted.over(mapping.volume) else { return };
        let wholes = self.hosted.on_part(over);
        if !wholes.is_empty()
            && let Some(mapping) = self.master.mapping_of(over).copied()
        {
            self.tell_of_part(now, wholes, &mapping);
        }
    }

    fn tell_of_part(&mut self, now: Time, wholes: Vec<VolumeId>, mapping: &Mapping) {
        let part = mapping.volume;
        let life = self.life_of_part(mapping);
        let is_near = mapping.serving == Some(self.node);
        for whole in wholes {
            self.hosted.tell_mirror(whole, |mirror, actions| {
                if is_near {
                    mirror.prefer(Some(part));
                } else {
                    mirror.prefer_not(part);
                }
                mirror.reachable(now, part, life, actions);
            });
        }
    }

    /// Takes the mappings of parts, those of a volume that became known.
    pub(crate) fn map_parts(&mut self, core: &mut Core, parts: impl Iterator<Item = VolumeId>) {
        for part in parts {
            if let Some(mapping) = self.master.mapping_of(part).copied() {
                self.map_part(core, &mapping);
            }
        }
    }

    /// What must not have begun anew for a part to have all that it was given; `None`: it does not answer. Of
    /// a part that lies on others these are the lives of all that serve them, mixed to one number.
    fn life_of_part(&self, mapping: &Mapping) -> Option<Incarnation> {
        let own = self.life_of(mapping.serving?);
        let Some(below) = self.hosted.below(mapping.volume) else { return Some(own) };
        let life = |part: &VolumeId| {
            let serving = self.master.mapping_of(*part).and_then(|mapping| mapping.serving);
            serving.filter(|node| self.is_member(*node)).map(|node| self.life_of(node))
        };
        let mut mixed = 0xcbf2_9ce4_8422_2325u64;
        let mut away = 0;
        for life in below.parts.iter().map(life) {
            away += usize::from(life.is_none());
            mixed = (mixed ^ life.map_or(0, |life| life.0)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        let may_be_away = if below.are_copies { below.parts.len().saturating_sub(1) } else { 0 };
        (away <= may_be_away).then_some(Incarnation(mixed))
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.lives.iter().any(|(known, _)| *known == node)
    }

    /// The life of a member; a node that is none has not lived.
    fn life_of(&self, node: NodeId) -> Incarnation {
        let found = self.lives.iter().find(|(known, _)| *known == node);
        found.map_or(Incarnation(0), |(_, life)| *life)
    }

    /// A client's request that the master let in, for a volume on others.
    pub(crate) fn run_on_hosted(&mut self, core: &mut Core, token: Token, request: &Request) {
        let now = core.now();
        let token = number_of(token);
        let Request { volume, operation, flags, range, .. } = *request;
        self.hosted.tell_mirror(volume, |mirror, actions| {
            mirror.submit(now, token, operation, flags, range, actions);
        });
        self.hosted.tell_assembly(volume, |assembly, actions| {
            assembly.submit(token, operation, flags, range, actions);
        });
        self.act(core);
    }

    /// Opens such a volume.
    pub(crate) fn open_hosted(&mut self, core: &mut Core, volume: VolumeId) {
        let now = core.now();
        self.hosted.tell_mirror(volume, |mirror, actions| mirror.open(now, actions));
        if self.is_assembly(volume) {
            self.hosted.tell_assembly(volume, Assembly::open);
            // No number is kept on its parts: theirs fence it, and a life that begins has a newer one.
            self.master.ownership_taken(now, volume, Epoch(0), &mut self.master_actions);
        }
    }

    pub(crate) fn persist_on_hosted(&mut self, core: &mut Core, volume: VolumeId, epoch: Epoch) {
        let now = core.now();
        self.hosted.tell_mirror(volume, |mirror, actions| mirror.persist(now, epoch, actions));
        if self.is_assembly(volume) {
            self.master.epoch_persisted(now, volume, epoch, &mut self.master_actions);
        }
    }

    fn is_assembly(&self, volume: VolumeId) -> bool {
        let found = self.hosted.find(volume);
        found.is_some_and(|hosted| matches!(hosted.machine, Machine::Assembly(_)))
    }

    pub(crate) fn hosted_timers(&mut self, core: &mut Core) {
        let now = core.now();
        if now < self.hosted.next_deadline() {
            return;
        }
        for volume in self.hosted().collect::<Vec<_>>() {
            self.hosted.tell_mirror(volume, |mirror, actions| mirror.timer(now, actions));
        }
    }

    /// Carries out what the machines want and tells them what has ended, one thing. `false`: there is none.
    pub(crate) fn act_for_hosted(&mut self, core: &mut Core) -> bool {
        match self.hosted.actions.pop_front() {
            Some((volume, Action::Mirror(action))) => self.do_mirror(core, volume, action),
            Some((volume, Action::Assembly(action))) => self.do_assembly(core, volume, action),
            None => match self.hosted.traffic.next_end() {
                Some(end) => self.part_ended(core, end.whole, end.io, end.result, end.data),
                None => return false,
            },
        }
        true
    }

    fn part_ended(
        &mut self,
        core: &mut Core,
        volume: VolumeId,
        io: IoId,
        result: Result<(), BlockErrno>,
        data: Option<ReadData>,
    ) {
        let now = core.now();
        // The machine of a mirror looks at its own records, and every machine forgets what it does not want.
        self.hosted.tell_mirror(volume, |mirror, actions| {
            let bytes = data.as_ref().map_or(&[][..], AsRef::as_ref);
            mirror.done(now, io, result, bytes, actions);
        });
        self.hosted.tell_assembly(volume, |assembly, actions| assembly.done(io, result, actions));
        if let (Some(hosted), Some(data)) = (self.hosted.find_mut(volume), data) {
            hosted.keep(io, data);
        }
    }

    /// A read that ends when the gate is closed may have met a part that is not what it was: it is asked
    /// again.
    pub(crate) fn answer_for_hosted(
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
}
