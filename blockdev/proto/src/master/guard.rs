//! Reservations at the master: whom they keep from what, and when a command has taken effect.
//!
//! A row of reservations comes by the log as mappings do, and before the mappings of the same entry. A master
//! that opens its gate at a number therefore knows every row up to that number; and what was admitted by
//! another master is out by then. So a row is in force as soon as the serving node with its gate open has it,
//! and a preemption that aborts is done when nothing runs there that an older row let in.

use super::{Master, MasterAction, Served};
use crate::geometry::VolumeId;
use crate::lanes::Lane;
use crate::reservation::Reservations;
use crate::rules::Rules;
use crate::wire::{Request, Settle};
use alloc::sync::Arc;
use alloc::vec::Vec;
use transport_proto::identity::NodeId;

/// Commands of one volume that wait at the most; whoever asked asks again.
const SETTLING_MAX: usize = 64;

/// A row of reservations and how new it is.
#[derive(Debug)]
pub(super) struct Guard {
    revision: u64,
    row: Reservations,
}

/// Somebody who waits for a row to be in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settling {
    from: NodeId,
    settle: Settle,
}

impl Served {
    /// Whether a reservation keeps the request's node from it. What volumes ask their parts is never kept:
    /// the whole has its own reservations, and parts have none.
    #[inline]
    pub(super) fn is_kept_from(&self, request: &Request) -> bool {
        self.guard.as_ref().is_some_and(|guard| {
            Lane::of(request.id.slot) == Lane::Clients
                && !guard.row.permits(request.client, request.operation)
        })
    }

    #[inline]
    pub(super) fn guard_revision(&self) -> u64 {
        self.guard.as_ref().map_or(0, |guard| guard.revision)
    }
}

impl<R: Rules> Master<R> {
    /// Takes the newest reservations of a volume; `None`: it has none any more, since it is gone or new. An
    /// older row than the known one is ignored. Comes before the mappings of the same entry of the log.
    pub fn reservations(
        &mut self,
        volume: VolumeId,
        newest: Option<(u64, &Reservations)>,
        actions: &mut Vec<MasterAction>,
    ) {
        let known = self.guards.get(&volume);
        if let Some((revision, _)) = newest
            && known.is_some_and(|known| known.revision >= revision)
        {
            return;
        }
        let guard = newest.map(|(revision, row)| Arc::new(Guard { revision, row: row.clone() }));
        match &guard {
            Some(guard) => self.guards.insert(volume, guard.clone()),
            None => self.guards.remove(&volume),
        };
        let Some(index) = self.volumes.find(volume) else { return };
        self.volumes[index].guard = guard;
        self.settle_reservations(index, actions);
    }

    /// Volumes that have reservations here.
    pub fn reserved(&self) -> impl Iterator<Item = VolumeId> {
        self.guards.keys().copied()
    }

    /// Somebody wants to know when reservations are in force. Answered when they are, if this node serves the
    /// volume then; never otherwise.
    pub fn settle(&mut self, from: NodeId, settle: &Settle, actions: &mut Vec<MasterAction>) {
        let Some(index) = self.volumes.find(settle.volume) else { return };
        let settling = &mut self.volumes[index].settling;
        let wanted = Settling { from, settle: *settle };
        if settling.len() < SETTLING_MAX && !settling.contains(&wanted) {
            settling.push(wanted);
        }
        self.settle_reservations(index, actions);
    }

    /// Answers those who need not wait any more.
    pub(super) fn settle_reservations(&mut self, index: usize, actions: &mut Vec<MasterAction>) {
        let served = &mut self.volumes[index];
        if served.mapping.serving != Some(self.node) {
            return served.settling.clear();
        }
        if served.gate.open_epoch().is_none() {
            return;
        }
        let (revision, running) = (served.guard_revision(), &self.running);
        served.settling.retain(|Settling { from, settle }| {
            let has_older = || running.has_older(index as u32, settle.revision);
            let waits = revision < settle.revision || settle.aborts && R::ABORT_WAITS && has_older();
            if !waits {
                actions.push(MasterAction::AnswerSettled { to: *from, settled: *settle });
            }
            waits
        });
    }
}
