//! The inner moves of a driver: how a request gets from stage to stage, and a volume from gate to gate.

use super::volume::{Attachment, BarCause};
use super::{DataHandle, Driver, DriverAction};
use crate::errno::BlockErrno;
use crate::geometry::DiskId;
use crate::pending::Stage;
use crate::wire::{Attach, Operation, PathBroken, Request, RequestId, Slot};
use alloc::vec::Vec;
use transport_proto::identity::{Epoch, NodeId};
use transport_proto::time::Time;

impl Driver {
    /// Makes sure that [`Driver::timer`] is called at this time.
    #[inline]
    pub(super) fn arm(&mut self, at: Time) {
        self.deadline = self.deadline.min(at);
    }

    /// Moves a request to a stage and keeps the volume's counts right.
    #[inline]
    pub(super) fn set_stage(&mut self, slot: Slot, stage: Stage) {
        let entry = self.pending.at_mut(slot);
        let volume = &mut self.volumes[entry.volume as usize];
        let (was_under_way, was_limbo) = (entry.is_under_way(), entry.stage == Stage::Limbo);
        entry.stage = stage;
        let (is_under_way, is_limbo) = (entry.is_under_way(), stage == Stage::Limbo);
        volume.under_way = volume.under_way + usize::from(is_under_way) - usize::from(was_under_way);
        volume.limbo = volume.limbo + usize::from(is_limbo) - usize::from(was_limbo);
    }

    /// Asks for the gate if something wants it, or lets go what may go.
    pub(super) fn advance(&mut self, now: Time, index: usize, actions: &mut Vec<DriverAction>) {
        if self.volumes[index].attachment == Attachment::Open {
            // Whatever fell into Limbo and left the gate open was sent before this gate opened: it may go
            // again.
            if self.volumes[index].limbo > 0 {
                self.leave_limbo(index);
            }
            self.pump(now, index, actions);
        } else if self.volumes[index].wants_gate() {
            self.ask(now, index, actions);
        }
    }

    /// Sends what the volume holds, as far as its master, its node's credits and a suspension allow.
    #[inline]
    pub(super) fn pump(&mut self, now: Time, index: usize, actions: &mut Vec<DriverAction>) {
        loop {
            let volume = &mut self.volumes[index];
            let Some(first) = volume.held.first() else { return };
            let Some(to) = volume.mapping.serving else { return };
            if volume.attachment != Attachment::Open {
                return self.ask(now, index, actions);
            }
            if now < volume.busy_until {
                let until = volume.busy_until;
                return self.arm(until);
            }
            let peer = &mut self.peers[usize::from(to.0)];
            if peer.room == 0 {
                peer.starved = true;
                return;
            }
            if volume.is_suspended() {
                // Only what was under way before may finish; it must, or the volume never drains.
                let Some(limbo) = volume.held.find(&self.pending, |entry| entry.stage == Stage::Limbo) else {
                    return;
                };
                volume.held.remove(&mut self.pending, limbo);
                self.send(now, limbo, to, actions);
            } else {
                volume.held.pop(&mut self.pending);
                self.send(now, first, to, actions);
            }
        }
    }

    /// Sends a request to the serving node, for the first time or again.
    #[inline]
    pub(super) fn send(&mut self, now: Time, slot: Slot, to: NodeId, actions: &mut Vec<DriverAction>) {
        if self.pending.at(slot).abandoned {
            // The gate that opened here is the proof that it will not run any more.
            return self.complete(now, slot, Ok(()), None, actions);
        }
        self.set_stage(slot, Stage::Sent);
        let peer = &mut self.peers[usize::from(to.0)];
        if peer.room != u32::MAX {
            peer.room = peer.room.saturating_sub(1);
        }
        let entry = self.pending.at_mut(slot);
        let mapping = &self.volumes[entry.volume as usize].mapping;
        self.counts.reissued += u64::from(entry.attempts > 0);
        entry.attempts = entry.attempts.saturating_add(1);
        entry.to = to;
        entry.sent_epoch = mapping.epoch;
        entry.sent_at = now;
        let request = Request {
            volume: mapping.volume,
            epoch: mapping.epoch,
            client: self.node,
            incarnation: self.incarnation,
            id: RequestId { slot, sequence: entry.sequence },
            operation: entry.operation,
            flags: entry.flags,
            range: entry.range,
        };
        actions.push(DriverAction::Send { to, tag: entry.tag, request });
        if self.send_again_at == Time::NEVER {
            self.send_again_at = now + self.limits.send_again_after;
            self.arm(self.send_again_at);
        }
    }

    /// Asks the serving node to tell when its gate is open, unless that was done or is of no use.
    pub(super) fn ask(&mut self, now: Time, index: usize, actions: &mut Vec<DriverAction>) {
        let volume = &mut self.volumes[index];
        let (Attachment::Detached, Some(to)) = (volume.attachment, volume.mapping.serving) else { return };
        let again_at = now + self.limits.attach_again_after;
        volume.attachment = Attachment::Asked { again_at };
        let attach = Attach {
            volume: volume.mapping.volume,
            epoch: volume.mapping.epoch,
            client: self.node,
            incarnation: self.incarnation,
        };
        actions.push(DriverAction::Attach { to, attach });
        self.arm(again_at);
    }

    /// Nothing goes out any more before a newer mapping comes; says why, now and again and again.
    pub(super) fn bar(&mut self, now: Time, index: usize, cause: BarCause, actions: &mut Vec<DriverAction>) {
        let again_at = now + self.limits.attach_again_after;
        let volume = &mut self.volumes[index];
        volume.attachment = Attachment::Barred { again_at, cause };
        actions.push(match cause {
            BarCause::PathBroken(report) => DriverAction::ReportPathBroken(report),
            BarCause::NewerMapping(seen) => {
                DriverAction::FetchMapping { volume: volume.mapping.volume, seen }
            }
        });
        self.arm(again_at);
    }

    /// A master has this number: if ours is lower, our view is stale (SPEC B6).
    pub(super) fn saw_epoch(
        &mut self,
        now: Time,
        index: usize,
        seen: Epoch,
        actions: &mut Vec<DriverAction>,
    ) -> bool {
        let volume = &self.volumes[index];
        let is_newer = seen > volume.mapping.epoch;
        if is_newer && !matches!(volume.attachment, Attachment::Barred { .. }) {
            self.bar(now, index, BarCause::NewerMapping(seen), actions);
        }
        is_newer
    }

    /// The serving node cannot reach the disk (SPEC B3).
    pub(super) fn path_is_broken(
        &mut self,
        now: Time,
        index: usize,
        node: NodeId,
        actions: &mut Vec<DriverAction>,
    ) {
        let volume = &self.volumes[index];
        let known = matches!(volume.attachment, Attachment::Barred { cause: BarCause::PathBroken(_), .. });
        if known {
            return;
        }
        let mapping = &volume.mapping;
        let disk = mapping.candidate(node).map_or(DiskId::default(), |candidate| candidate.disk);
        let report = PathBroken { volume: mapping.volume, epoch: mapping.epoch, node, disk };
        self.bar(now, index, BarCause::PathBroken(report), actions);
    }

    /// Whether the request ran or will run is unknown from now on.
    pub(super) fn enter_limbo(&mut self, slot: Slot) {
        let entry = self.pending.at_mut(slot);
        if entry.stage == Stage::Limbo {
            return;
        }
        entry.unknown = true;
        self.set_stage(slot, Stage::Limbo);
        self.counts.limbo += 1;
    }

    /// The requests of a volume in Limbo may go again: the proof is there.
    pub(super) fn leave_limbo(&mut self, index: usize) {
        let mut slots = core::mem::take(&mut self.scratch);
        self.pending.select(&mut slots, |entry| {
            entry.volume as usize == index && entry.stage == Stage::Limbo && !entry.queued
        });
        for slot in slots.drain(..) {
            self.volumes[index].held.insert(&mut self.pending, slot);
        }
        self.scratch = slots;
    }

    /// The requests that were sent to a node, of one volume or of all, fall into Limbo.
    pub(super) fn lose_sent(&mut self, is_lost: impl Fn(NodeId, usize) -> bool) {
        let mut slots = core::mem::take(&mut self.scratch);
        self.pending.select(&mut slots, |entry| {
            entry.stage == Stage::Sent && is_lost(entry.to, entry.volume as usize)
        });
        for slot in slots.drain(..) {
            self.enter_limbo(slot);
        }
        self.scratch = slots;
    }

    /// A master said that the request's latest attempt did not run: it waits for its turn again.
    pub(super) fn not_executed(&mut self, slot: Slot) {
        self.set_stage(slot, Stage::Held);
        let entry = self.pending.at_mut(slot);
        entry.unknown = false;
        if !entry.queued {
            let index = entry.volume as usize;
            self.volumes[index].held.insert(&mut self.pending, slot);
        }
    }

    /// Tells a client that its request failed, while nobody knows yet whether it ran or will run.
    pub(super) fn abandon(&mut self, slot: Slot, errno: BlockErrno, actions: &mut Vec<DriverAction>) {
        let entry = self.pending.at_mut(slot);
        entry.abandoned = true;
        self.counts.completed += 1;
        self.counts.failed += 1;
        actions.push(DriverAction::Complete { slot, tag: entry.tag, result: Err(errno), data: None });
    }

    /// Finishes a request and lets those go that waited for it.
    #[inline]
    pub(super) fn complete(
        &mut self,
        now: Time,
        slot: Slot,
        result: Result<(), BlockErrno>,
        data: Option<DataHandle>,
        actions: &mut Vec<DriverAction>,
    ) {
        self.set_stage(slot, Stage::Held);
        let entry = self.pending.at(slot);
        let (index, tag, position) = (entry.volume as usize, entry.tag, entry.position);
        let (operation, queued, abandoned) = (entry.operation, entry.queued, entry.abandoned);
        if queued {
            self.volumes[index].held.remove(&mut self.pending, slot);
        }
        if operation != Operation::Flush {
            self.leave_overlap(index, position);
        }
        self.pending.give_back(slot);
        self.volumes[index].pending -= 1;
        if !abandoned {
            self.counts.completed += 1;
            self.counts.failed += u64::from(result.is_err());
            let data = data.filter(|_| result.is_ok() && operation == Operation::Read);
            actions.push(DriverAction::Complete { slot, tag, result, data });
        }
        self.tell_drained(index, actions);
        if !self.volumes[index].held.is_empty() {
            self.pump(now, index, actions);
        }
    }

    #[inline]
    fn leave_overlap(&mut self, index: usize, position: crate::overlap::Position) {
        let volume = &mut self.volumes[index];
        if let Some(moved) = volume.overlap.leave(position, &mut self.scratch) {
            self.pending.at_mut(moved).position = position;
        }
        for slot in self.scratch.drain(..) {
            self.pending.at_mut(slot).stage = Stage::Held;
            volume.held.insert(&mut self.pending, slot);
        }
    }

    /// Tells that the volume is drained, if that is owed and true.
    #[inline]
    pub(super) fn tell_drained(&mut self, index: usize, actions: &mut Vec<DriverAction>) {
        let volume = &mut self.volumes[index];
        if volume.drain_owed && volume.under_way == 0 {
            volume.drain_owed = false;
            actions
                .push(DriverAction::Drained { volume: volume.mapping.volume, epoch: volume.mapping.epoch });
        }
    }

    /// What is due for one volume.
    pub(super) fn volume_timer(&mut self, now: Time, index: usize, actions: &mut Vec<DriverAction>) {
        let volume = &mut self.volumes[index];
        match volume.attachment {
            Attachment::Asked { again_at } if again_at <= now => {
                volume.attachment = Attachment::Detached;
                if volume.wants_gate() {
                    self.ask(now, index, actions);
                }
            }
            Attachment::Barred { again_at, cause } if again_at <= now => self.bar(now, index, cause, actions),
            Attachment::Asked { again_at } | Attachment::Barred { again_at, .. } => self.arm(again_at),
            Attachment::Detached => {}
            Attachment::Open => self.pump(now, index, actions),
        }
    }

    /// Sends again, under the same id to the same master, what has been without an answer for long.
    pub(super) fn send_again(&mut self, now: Time, actions: &mut Vec<DriverAction>) {
        if now < self.send_again_at {
            if self.send_again_at != Time::NEVER {
                self.arm(self.send_again_at);
            }
            return;
        }
        let patience = self.limits.send_again_after;
        let mut slots = core::mem::take(&mut self.scratch);
        self.pending.select(&mut slots, |entry| entry.stage == Stage::Sent && !entry.abandoned);
        self.send_again_at = if slots.is_empty() { Time::NEVER } else { now + patience };
        for slot in slots.drain(..) {
            let entry = self.pending.at(slot);
            if entry.sent_at + patience > now {
                self.send_again_at = self.send_again_at.min(entry.sent_at + patience);
                continue;
            }
            let (index, to) = (entry.volume as usize, entry.to);
            let volume = &self.volumes[index];
            let has_room = self.peers[usize::from(to.0)].room > 0;
            if volume.attachment == Attachment::Open && volume.mapping.serving == Some(to) && has_room {
                self.pending.at_mut(slot).unknown = true;
                self.send(now, slot, to, actions);
            } else {
                self.ask(now, index, actions);
            }
        }
        self.scratch = slots;
        if self.send_again_at != Time::NEVER {
            // Not more often than four times within the patience, however the requests are spread.
            self.send_again_at = self.send_again_at.max(now + patience / 4);
            self.arm(self.send_again_at);
        }
    }
}
