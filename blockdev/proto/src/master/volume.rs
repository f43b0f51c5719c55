//! The inner moves of a master for one volume: the gate step by step, what a failed execution means, and who
//! is told that the gate is open.

use super::client::Life;
use super::{Master, MasterAction, Served};
use crate::errno::BlockErrno;
use crate::gate::{Gate, GatePhase, GateRefusal, GateStep, Goal};
use crate::geometry::VolumeId;
use crate::rules::Rules;
use crate::wire::{AttachVerdict, Execution, PathBroken, Verdict};
use alloc::vec::Vec;
use transport_proto::identity::Epoch;
use transport_proto::time::Time;

impl<R: Rules> Master<R> {
    pub(super) fn gate_verdict(&self, index: usize, refusal: GateRefusal) -> Verdict {
        let mapping = &self.volumes[index].mapping;
        match refusal {
            GateRefusal::Stale(gate_epoch) => Verdict::NackStale { gate_epoch },
            GateRefusal::NotYet if mapping.serving == Some(self.node) => Verdict::NackBusy,
            GateRefusal::NotYet => Verdict::NackNotServing { mapping_epoch: mapping.epoch },
        }
    }

    /// What a failed execution means: a broken path, as long as another node may do better, else an error.
    #[cold]
    pub(super) fn failure(
        &mut self,
        index: usize,
        epoch: Epoch,
        errno: BlockErrno,
        actions: &mut Vec<MasterAction>,
    ) -> Verdict {
        let served = &self.volumes[index];
        let is_final = served.mapping.has_parts() || !served.mapping.usable_elsewhere(self.node);
        if !errno.means_broken_path() || is_final {
            return Verdict::Errno(errno);
        }
        if epoch == served.mapping.epoch && !served.path_broken {
            self.volumes[index].path_broken = true;
            self.report_path_broken(index, actions);
        }
        Verdict::NackPath { execution: Execution::Unknown }
    }

    pub(super) fn report_path_broken(&mut self, index: usize, actions: &mut Vec<MasterAction>) {
        let served = &self.volumes[index];
        let (volume, epoch) = (served.mapping.volume, served.mapping.epoch);
        let report = PathBroken { volume, epoch, node: self.node, disk: served.disk(self.node) };
        self.counts.paths_broken += 1;
        actions.push(MasterAction::ReportPathBroken(report));
    }

    pub(super) fn store_said(
        &mut self,
        now: Time,
        volume: VolumeId,
        actions: &mut Vec<MasterAction>,
        word: impl FnOnce(&mut Gate),
    ) {
        let Some(index) = self.volumes.find(volume) else { return };
        word(&mut self.volumes[index].gate);
        self.step_gate(now, index, actions);
    }

    /// Sets the gate's goal by the mapping. If that names another disk than the one in hand, the goal is to
    /// let go of this one first.
    pub(super) fn aim_gate(&mut self, index: usize) {
        let served = &mut self.volumes[index];
        let mapping = &served.mapping;
        if let Some(candidate) = mapping.candidate(self.node)
            && candidate.disk != self.disks[index]
        {
            if !matches!(served.gate.phase(), GatePhase::Closed | GatePhase::Resting) {
                return served.gate.aim(None);
            }
            self.disks[index] = candidate.disk;
        }
        let serves = mapping.serving == Some(self.node) && !self.fenced;
        let goal = Goal { epoch: mapping.epoch, persist: !mapping.read_only };
        served.gate.aim(serves.then_some(goal));
    }

    /// Takes the gate as far as it can go now.
    pub(super) fn step_gate(&mut self, now: Time, index: usize, actions: &mut Vec<MasterAction>) {
        while let Some(step) = self.volumes[index].gate.step::<R>() {
            self.do_step(index, step, actions);
        }
        let served = &mut self.volumes[index];
        if served.gate.is_resting() && served.again_at == Time::NEVER {
            served.again_at = now + self.limits.store_again_after;
            self.deadline = self.deadline.min(served.again_at);
        }
    }

    pub(super) fn do_step(&mut self, index: usize, step: GateStep, actions: &mut Vec<MasterAction>) {
        let (volume, disk) = (self.volumes[index].mapping.volume, self.disks[index]);
        match step {
            GateStep::Take => actions.push(MasterAction::TakeOwnership { volume, disk }),
            GateStep::Release => actions.push(MasterAction::ReleaseOwnership { volume, disk }),
            GateStep::Persist(epoch) => actions.push(MasterAction::PersistEpoch { volume, disk, epoch }),
            GateStep::Closed(epoch) => actions.push(MasterAction::GateClosed { volume, epoch }),
            GateStep::Spent(persisted) => {
                actions.push(MasterAction::EpochSpent { volume, persisted });
                actions.push(MasterAction::ReleaseOwnership { volume, disk });
            }
            GateStep::Opened(epoch) => {
                self.counts.gates_opened += 1;
                actions.push(MasterAction::GateOpened { volume, epoch });
                self.settle_attaches(index, actions);
                self.settle_reservations(index, actions);
            }
        }
    }

    /// Forgets a volume that left the configuration, once nothing of it is in hand.
    pub(super) fn forget_left(&mut self, index: usize) {
        let served = &self.volumes[index];
        if served.leaving && matches!(served.gate.phase(), GatePhase::Closed | GatePhase::Resting) {
            let mapping = served.mapping;
            self.volumes.leave(mapping.volume, Served::new(&mapping));
        }
    }

    pub(super) fn settle_all_attaches(&mut self, actions: &mut Vec<MasterAction>) {
        for index in 0..self.volumes.len() {
            self.settle_attaches(index, actions);
        }
    }

    /// Answers the attaches that can be answered now.
    pub(super) fn settle_attaches(&mut self, index: usize, actions: &mut Vec<MasterAction>) {
        let served = &mut self.volumes[index];
        let (mapping_epoch, serves) = (served.mapping.epoch, served.mapping.serving == Some(self.node));
        let open = served.gate.open_epoch();
        let clients = &mut self.clients;
        served.waiting.retain(|attach| {
            let verdict = match clients.meet(attach.client, attach.incarnation) {
                Life::Past => return false,
                _ if !serves && mapping_epoch >= attach.epoch => AttachVerdict::NotServing { mapping_epoch },
                // The client's former life still has something running here.
                Life::Coming => return true,
                Life::Present(_) => match open {
                    Some(gate_epoch) if gate_epoch >= attach.epoch => AttachVerdict::Open { gate_epoch },
                    _ => return true,
                },
            };
            let attached = attach.answered(verdict);
            actions.push(MasterAction::AnswerAttached { to: attach.client, attached });
            false
        });
    }
}
