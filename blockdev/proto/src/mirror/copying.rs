//! Passes: regions in which legs differ are copied from one that is in sync, until a stale leg has everything
//! or nothing is in doubt any more.
//!
//! A region is locked while it is copied: writes to it wait, those under way end first. So a copy never
//! carries an older byte over a newer one.

use super::layout::{LEGS_MAX, RECORD_BYTES};
use super::legs::{LegCause, Standing};
use super::record;
use super::regions::RegionSet;
use super::{IoId, Mirror, MirrorAction, Payload, Phase, Purpose};
use crate::errno::BlockErrno;
use crate::geometry::ByteRange;
use crate::rules::Rules;
use crate::wire::{Operation, RequestFlags};
use alloc::sync::Arc;
use alloc::vec::Vec;
use transport_proto::time::Time;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The stale legs are asked for what they have.
    Heads,
    Copying,
    /// Everything is copied, and is being flushed.
    Flushing,
    /// The legs get their headers.
    Heading,
    /// The configuration is to say that they are in sync.
    Ready,
}

/// A pass over the regions.
#[derive(Debug)]
pub(super) struct Pass {
    stage: Stage,
    /// Places of the stale legs that are being copied to.
    legs: u8,
    todo: RegionSet,
    cursor: u64,
    /// It began with stale legs; else it is about doubt only.
    is_for_legs: bool,
    /// Every stale leg takes part: what is copied is behind nowhere.
    is_for_all: bool,
    /// Answers awaited in this stage.
    left: u32,
    /// Map blocks that some of the legs do not have yet, by place.
    owed: [Option<RegionSet>; LEGS_MAX],
}

impl Pass {
    pub(super) fn to_copy(&self) -> u64 {
        self.todo.count()
    }

    /// A leg that can be called in sync.
    pub(super) fn ready_leg(&self) -> Option<usize> {
        (self.stage == Stage::Ready && self.legs != 0).then_some(self.legs.trailing_zeros() as usize)
    }

    /// The leg in this place has this block of the map.
    pub(super) fn has_block(&mut self, place: usize, block: u64) {
        if let Some(owed) = &mut self.owed[place] {
            owed.remove(block);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CopyStage {
    /// Waits for writes that are under way.
    Draining,
    Reading,
    Writing {
        left: u32,
        read: IoId,
    },
}

/// A region that is being copied.
#[derive(Debug)]
pub(super) struct Copy {
    region: u64,
    stage: CopyStage,
    has_failed: bool,
}

impl<R: Rules> Mirror<R> {
    /// Whether one of these regions is locked.
    pub(super) fn is_being_copied(&self, first: u64, last: u64) -> bool {
        self.copies.iter().any(|(_, copy)| (first..=last).contains(&copy.region))
    }

    /// The legs may differ in this region, whatever was copied.
    pub(super) fn differs(&mut self, region: u64) {
        self.doubt.insert(region);
        if self.used_places().count() > self.places(Standing::Sound).count() || self.leaves_one_behind() {
            self.behind.insert(region);
        }
        if let Some(pass) = &mut self.pass {
            pass.todo.insert(region);
            if pass.stage != Stage::Heads {
                pass.stage = Stage::Copying;
            }
        }
    }

    /// The leg in this place is not copied to any more.
    pub(super) fn leave_pass(&mut self, place: usize) {
        if let Some(pass) = &mut self.pass {
            pass.legs &= !(1 << place);
            pass.owed[place] = None;
        }
    }

    /// Some leg does not take part in the pass that runs: what is copied may be missing there.
    pub(super) fn pass_leaves_one_behind(&mut self) {
        if let Some(pass) = &mut self.pass {
            pass.is_for_all = false;
        }
    }

    /// Begins a pass if there is need, and goes on with the one there is.
    pub(super) fn advance_pass(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        if !matches!(self.phase, Phase::Ready) {
            return;
        }
        if self.pass.is_none() {
            self.begin_pass(now, actions);
        }
        let Some(pass) = &self.pass else { return };
        match pass.stage {
            Stage::Heads if pass.left == 0 => self.begin_copying(actions),
            Stage::Heads => return,
            _ => {}
        }
        self.start_copies(now, actions);
        let Some(pass) = &self.pass else { return };
        let is_lone = pass.is_for_legs && pass.legs == 0;
        let is_copied = (pass.todo.is_empty() || is_lone) && self.copies.is_empty();
        match pass.stage {
            // What was asked for in an earlier stage has ended before the next begins.
            _ if pass.left > 0 => {}
            _ if is_lone && is_copied => {
                self.pass = None;
                // There may be doubt left, or a leg to be tried again.
                self.arm(now);
            }
            Stage::Copying if is_copied => self.after_copying(now, actions),
            Stage::Flushing => self.give_headers(actions),
            Stage::Heading => self.set_stage(Stage::Ready, 0),
            _ => {}
        }
    }

    fn set_stage(&mut self, stage: Stage, left: u32) {
        if let Some(pass) = &mut self.pass {
            (pass.stage, pass.left) = (stage, left);
        }
        if stage == Stage::Ready {
            self.propose_at = Time(0);
        }
    }

    fn begin_pass(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        if self.places(Standing::Sound).count() < 2 && self.places(Standing::Syncing).next().is_none() {
            // One copy cannot differ from itself.
            self.doubt.clear();
            self.retry_waiting(now, actions);
        }
        let is_due = |place: &usize| {
            self.view(*place).is_some_and(|view| view.reachable && view.retry_at <= now && !view.is_gone)
        };
        let legs: Vec<usize> = self.places(Standing::Out).filter(is_due).collect();
        if legs.is_empty() && self.doubt.is_empty() {
            let waits = self.places(Standing::Out).filter_map(|place| self.view(place));
            let next = waits.filter(|view| view.reachable).map(|view| view.retry_at).min();
            return next.into_iter().for_each(|at| self.arm(at));
        }
        self.pass = Some(Pass {
            stage: Stage::Heads,
            legs: 0,
            todo: RegionSet::none(self.layout.regions()),
            cursor: 0,
            is_for_legs: false,
            is_for_all: true,
            left: legs.len() as u32,
            owed: [const { None }; LEGS_MAX],
        });
        for place in legs {
            if let Some(view) = self.view(place) {
                actions.push(MirrorAction::Retake { leg: view.leg.volume });
            }
            let range = ByteRange::new(self.layout.header_offset(), RECORD_BYTES);
            let none = RequestFlags::NONE;
            self.io(place, Purpose::PassHeader, Operation::Read, none, range, Payload::None, actions);
        }
    }

    /// What a stale leg has: if it is not of this mirror, it gets everything.
    pub(super) fn pass_header_done(
        &mut self,
        now: Time,
        place: usize,
        result: Result<(), BlockErrno>,
        bytes: &[u8],
        actions: &mut Vec<MirrorAction>,
    ) {
        let is_writing = self.pass.as_ref().is_some_and(|pass| pass.stage != Stage::Heads);
        if let Some(pass) = &mut self.pass {
            pass.left = pass.left.saturating_sub(1);
        }
        if is_writing {
            if let Err(errno) = result {
                self.leg_failed(now, place, LegCause::Error(errno), actions);
            }
            return;
        }
        let checked = result.map(|()| record::read_header(&self.layout, self.identity(place), bytes));
        if self.standing(place) != Some(Standing::Out) {
            return;
        }
        match checked {
            Err(errno) => {
                let retry_at = now + self.limits.retry_after;
                if let Some(view) = self.legs[place].as_mut() {
                    view.cause = Some(LegCause::Error(errno));
                    view.retry_at = retry_at;
                }
                self.arm(retry_at);
                return;
            }
            Ok(Err(_)) => self.mark_all(),
            Ok(Ok(_)) => {}
        }
        if let Some(pass) = &mut self.pass {
            pass.legs |= 1 << place;
        }
    }

    fn begin_copying(&mut self, actions: &mut Vec<MirrorAction>) {
        let Some(asked) = self.pass.as_ref().map(|pass| pass.legs) else { return };
        let mut legs = 0;
        for place in self.places(Standing::Out).filter(|place| asked & (1 << place) != 0) {
            // One that went away meanwhile would hold up every write.
            if let Some(view) = self.legs[place].as_mut().filter(|view| view.reachable) {
                view.standing = Standing::Syncing;
                legs |= 1 << place;
            }
        }
        let is_for_all = !self.leaves_one_behind();
        let blocks = self.layout.map_blocks();
        let Some(pass) = &mut self.pass else { return };
        pass.todo.unite(&self.doubt);
        pass.legs = legs;
        pass.is_for_legs = legs != 0;
        pass.is_for_all = is_for_all && legs != 0;
        pass.stage = Stage::Copying;
        if legs == 0 {
            return;
        }
        pass.todo.unite(&self.behind);
        for (place, owed) in pass.owed.iter_mut().enumerate().filter(|(place, _)| legs & (1 << place) != 0) {
            debug_assert!(place < LEGS_MAX);
            let mut all = RegionSet::none(blocks);
            all.fill();
            *owed = Some(all);
        }
        self.intent.write_all();
        self.write_map(actions);
    }

    /// Starts as many copies as may run now.
    fn start_copies(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        let is_quiet = now.since(self.last_client) > self.limits.client_is_about && self.ops.is_empty();
        let most = if is_quiet { self.limits.copies_max } else { 1 };
        while self.copies.len() < most {
            let Some(region) = self.next_region() else { break };
            self.copies.insert(Copy { region, stage: CopyStage::Draining, has_failed: false });
        }
        let draining = |(index, copy): (u32, &Copy)| (copy.stage == CopyStage::Draining).then_some(index);
        for copy in self.copies.iter().filter_map(draining).collect::<Vec<u32>>() {
            self.read_copy(copy, actions);
        }
    }

    fn next_region(&mut self) -> Option<u64> {
        let pass = self.pass.as_mut().filter(|pass| pass.stage == Stage::Copying)?;
        if pass.is_for_legs && pass.legs == 0 {
            return None;
        }
        let is_free = |region: u64| !self.copies.iter().any(|(_, copy)| copy.region == region);
        while let Some(region) = self.urgent.pop_front() {
            if self.doubt.has(region) && is_free(region) {
                pass.todo.insert(region);
                return Some(region);
            }
        }
        let mut next = pass.todo.first_from(pass.cursor).or_else(|| pass.todo.first_from(0));
        while let Some(region) = next.filter(|region| !is_free(*region)) {
            next = pass.todo.first_from(region + 1);
        }
        pass.cursor = next? + 1;
        next
    }

    fn region_range(&self, region: u64) -> ByteRange {
        let bytes = u64::from(self.layout.region_bytes());
        let offset = region * bytes;
        ByteRange::new(offset, (self.layout.size_bytes - offset).min(bytes) as u32)
    }

    /// Reads the region of a copy, if nothing writes it any more.
    fn read_copy(&mut self, index: u32, actions: &mut Vec<MirrorAction>) {
        let Some(region) = self.copies.get(index).map(|copy| copy.region) else { return };
        let bytes = self.layout.region_bytes();
        if self.ops.iter().any(|(_, op)| op.changes(region, bytes)) {
            return;
        }
        let Some(place) = self.source(0) else { return };
        let Some(copy) = self.copies.get_mut(index) else { return };
        copy.stage = CopyStage::Reading;
        let (range, none) = (self.region_range(region), RequestFlags::NONE);
        let purpose = Purpose::CopyRead { copy: index };
        self.io(place, purpose, Operation::Read, none, range, Payload::None, actions);
    }

    pub(super) fn copy_read(
        &mut self,
        now: Time,
        index: u32,
        place: usize,
        io: IoId,
        result: Result<(), BlockErrno>,
        actions: &mut Vec<MirrorAction>,
    ) {
        let Some(region) = self.copies.get(index).map(|copy| copy.region) else { return };
        if let Err(errno) = result {
            actions.push(MirrorAction::Forget { io });
            let cause = LegCause::Error(errno);
            if self.leg_failed(now, place, cause, actions) {
                // Another leg is in sync: from there.
                if let Some(copy) = self.copies.get_mut(index) {
                    copy.stage = CopyStage::Draining;
                }
            } else {
                self.copies.take(index);
                self.stop_pass(now, cause, actions);
            }
            return;
        }
        let is_doubted = self.doubt.has(region);
        let sound = self.places(Standing::Sound).filter(|other| is_doubted && *other != place);
        let targets: Vec<usize> = sound.chain(self.places(Standing::Syncing)).collect();
        if targets.is_empty() {
            actions.push(MirrorAction::Forget { io });
            return self.copied(index);
        }
        let left = targets.len() as u32;
        if let Some(copy) = self.copies.get_mut(index) {
            copy.stage = CopyStage::Writing { left, read: io };
        }
        let range = self.region_range(region);
        for target in targets {
            let purpose = Purpose::CopyWrite { copy: index };
            let none = RequestFlags::NONE;
            self.io(target, purpose, Operation::Write, none, range, Payload::Read(io), actions);
        }
    }

    pub(super) fn copy_written(
        &mut self,
        now: Time,
        index: u32,
        place: usize,
        result: Result<(), BlockErrno>,
        actions: &mut Vec<MirrorAction>,
    ) {
        if let Err(errno) = result {
            let used = self.leg_failed(now, place, LegCause::Error(errno), actions);
            if let Some(copy) = self.copies.get_mut(index) {
                copy.has_failed |= !used;
            }
        }
        let Some(copy) = self.copies.get_mut(index) else { return };
        let CopyStage::Writing { left, read } = &mut copy.stage else { return };
        *left -= 1;
        if *left == 0 {
            actions.push(MirrorAction::Forget { io: *read });
            self.copied(index);
        }
    }

    /// A region is the same everywhere that counts.
    fn copied(&mut self, index: u32) {
        let Some(copy) = self.copies.take(index) else { return };
        if copy.has_failed {
            return;
        }
        self.copied_bytes += u64::from(self.region_range(copy.region).length);
        self.doubt.remove(copy.region);
        let Some(pass) = &mut self.pass else { return };
        pass.todo.remove(copy.region);
        if pass.is_for_all {
            self.behind.remove(copy.region);
        }
    }

    /// The only copy cannot be read: it is tried again later.
    fn stop_pass(&mut self, now: Time, cause: LegCause, actions: &mut Vec<MirrorAction>) {
        for place in self.places(Standing::Syncing) {
            self.leg_failed(now, place, cause, actions);
        }
    }

    fn after_copying(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        let Some(pass) = &self.pass else { return };
        if pass.legs == 0 {
            self.pass = None;
            return self.arm(now);
        }
        // They have the map too, or nothing could be told from it once they are in sync.
        if pass.owed.iter().flatten().any(|owed| !owed.is_empty()) {
            return;
        }
        let used = self.used_places();
        self.set_stage(Stage::Flushing, used.clone().count() as u32);
        for place in used {
            let (none, range) = (RequestFlags::NONE, ByteRange::EMPTY);
            self.io(place, Purpose::PassFlush, Operation::Flush, none, range, Payload::None, actions);
        }
    }

    pub(super) fn pass_flushed(
        &mut self,
        now: Time,
        place: usize,
        result: Result<(), BlockErrno>,
        actions: &mut Vec<MirrorAction>,
    ) {
        if let Some(pass) = &mut self.pass {
            pass.left = pass.left.saturating_sub(1);
        }
        if let Err(errno) = result {
            self.leg_failed(now, place, LegCause::Error(errno), actions);
        }
    }

    fn give_headers(&mut self, actions: &mut Vec<MirrorAction>) {
        let syncing = self.places(Standing::Syncing);
        self.set_stage(Stage::Heading, syncing.clone().count() as u32);
        for place in syncing {
            let range = ByteRange::new(self.layout.header_offset(), RECORD_BYTES);
            let payload = Payload::Record(Arc::new(self.header_of(place, self.epoch)));
            let purpose = Purpose::PassHeader;
            self.io(place, purpose, Operation::Write, RequestFlags::FUA, range, payload, actions);
        }
    }
}
