//! Changes of what is in use, as the log decides them (SPEC C4): every member stands still and acknowledges;
//! with the last acknowledgement, and in the same entry of the log, the rows change. There is no coordinator
//! that could die: what counts the acknowledgements is the database itself, on every node alike.
//!
//! *Who is waited for.* Whoever is a member, in its present life, at any time while the reconfiguration is
//! being
//! prepared: also one that joins meanwhile, since its driver may hold requests of a life before. A member
//! that is removed is not waited for any more: the configuration that removed it fences it (SPEC B5).
//!
//! *What is changed.* Configured rows, checked when it begins and again when it is committed; rows that it is
//! about are not changed by others meanwhile.

use super::answer::Outcome;
use super::database::{Database, Done};
use super::event::{Cause, RowEvent};
use super::refusal::Refusal;
use super::row::{Row, RowChange, RowKey};
use crate::codec::coded;
use crate::protocol_rules::ProtocolRules;
use crate::view::Member;
use alloc::vec::Vec;
use blockdev_proto::geometry::VolumeId;
use core::fmt;
use transport_proto::identity::NodeId;

/// Reconfigurations that may be under way at one time.
pub const RECONFIGURATIONS_MAX: usize = 64;
/// Reconfigurations that are over and kept to be looked at.
pub const FINISHED_MAX: usize = 64;
/// The longest deadline, ms: a day.
pub const DEADLINE_MS_MAX: u32 = 86_400_000;

/// A reconfiguration: the log index at which it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReconfigurationId(pub u64);

/// Why a reconfiguration was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CancelCause {
    /// Some member took longer than it may.
    Deadline,
    /// It was held, and nobody let it go on in time.
    HeldTooLong,
    /// Somebody asked for it.
    Operator,
    /// The rows around it changed so that its own cannot be.
    Unfit,
}

impl fmt::Display for CancelCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CancelCause::Deadline => "a node did not acknowledge in time",
            CancelCause::HeldTooLong => "nobody let it go on in time",
            CancelCause::Operator => "an operator cancelled it",
            CancelCause::Unfit => "what it changes does not fit to what was changed meanwhile",
        })
    }
}

/// How far a reconfiguration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Members suspend, drain, invalidate, acknowledge.
    Preparing,
    /// All have acknowledged; somebody must let it go on.
    Held {
        /// Log index since when.
        since: u64,
    },
    /// The rows are changed.
    Committed {
        /// Log index at which.
        at: u64,
    },
    /// The rows are as before.
    Cancelled {
        /// Log index at which.
        at: u64,
        /// Why.
        why: CancelCause,
    },
}

impl Phase {
    /// Whether members stand still for it.
    pub const fn is_live(self) -> bool {
        matches!(self, Phase::Preparing | Phase::Held { .. })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Preparing => f.write_str("it waits for nodes to acknowledge"),
            Phase::Held { .. } => f.write_str("all nodes are ready, it is held"),
            Phase::Committed { .. } => f.write_str("it is done"),
            Phase::Cancelled { why, .. } => write!(f, "it was given up, {why}"),
        }
    }
}

/// A reconfiguration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconfiguration {
    /// Which.
    pub id: ReconfigurationId,
    /// Where it was asked for.
    pub asked_at: NodeId,
    /// What it changes.
    pub changes: Vec<RowChange>,
    /// Virtual disks that stand still for it, rising.
    pub volumes: Vec<VolumeId>,
    /// Longest time that members may take, and that it may be held, ms on the leader's clock.
    pub deadline_ms: u32,
    /// Whether it waits for `Proceed` after the last acknowledgement.
    pub hold: bool,
    /// How far it is.
    pub phase: Phase,
    /// Members, by their lives, that acknowledged or are waited for, rising.
    pub needed: Vec<Member>,
    /// Those of them that are waited for now, rising.
    pub missing: Vec<Member>,
}

coded! {
    newtype ReconfigurationId
}
coded! {
    struct Reconfiguration {
        id, asked_at, changes, volumes, deadline_ms, hold, phase, needed, missing
    }
}
coded! {
    enum CancelCause { 1 = Deadline, 2 = HeldTooLong, 3 = Operator, 4 = Unfit }
    enum Phase { 1 = Preparing, 2 = Held { since }, 3 = Committed { at }, 4 = Cancelled { at, why } }
}

impl<R: ProtocolRules> Database<R> {
    pub(super) fn prepare(
        &mut self,
        asked_at: NodeId,
        changes: &[RowChange],
        deadline_ms: u32,
        hold: bool,
    ) -> Result<Done, Refusal> {
        if !(1..=DEADLINE_MS_MAX).contains(&deadline_ms) {
            return Err(Refusal::BadDeadline { deadline_ms, most: DEADLINE_MS_MAX });
        }
        if self.live_reconfigurations().count() >= RECONFIGURATIONS_MAX {
            return Err(Refusal::TooManyReconfigurations { most: RECONFIGURATIONS_MAX });
        }
        if self.membership.members.is_empty() {
            return Err(Refusal::NoMembers);
        }
        let (volumes, synchronised) = self.try_changes(changes)?;
        if !synchronised {
            return Err(Refusal::NothingToSynchronise);
        }
        let id = ReconfigurationId(self.index);
        let needed = self.membership.members.clone();
        let row = Reconfiguration {
            id,
            asked_at,
            changes: changes.to_vec(),
            volumes: volumes.clone(),
            deadline_ms,
            hold,
            phase: Phase::Preparing,
            missing: needed.clone(),
            needed,
        };
        let number = self.raise_number();
        for volume in volumes {
            self.volume_changed(volume, number);
            self.suspend_volume(volume, Some(id));
        }
        self.reconfigurations.insert(id, row.clone());
        let changes = Vec::from([RowEvent {
            key: RowKey::Reconfiguration(id),
            before: None,
            after: Some(Row::Reconfiguration(row)),
        }]);
        Ok(Done { outcome: about(id), cause: Cause::Prepared(id, asked_at), changes })
    }

    pub(super) fn acknowledge(&mut self, id: ReconfigurationId, member: Member) -> Result<Done, Refusal> {
        let row = self.live(id)?;
        let of_node = |other: &&Member| other.node == member.node;
        let waited_for = if R::ACK_OF_THIS_LIFE {
            row.missing.iter().find(|other| **other == member)
        } else {
            row.missing.iter().find(|other| of_node(other))
        };
        let Some(&waited_for) = waited_for else {
            let gave = row.needed.contains(&member);
            return if gave { Ok(Done::about(id)) } else { Err(Refusal::NotAsked { id, member }) };
        };
        let before = row.clone();
        let mut changes = Vec::new();
        let mut cause = Cause::Acknowledged(id, member);
        if let Some(row) = self.reconfigurations.get_mut(&id) {
            row.missing.retain(|other| *other != waited_for);
        }
        self.go_on(id, before, &mut changes, &mut cause);
        Ok(Done { outcome: about(id), cause, changes })
    }

    pub(super) fn proceed(&mut self, id: ReconfigurationId) -> Result<Done, Refusal> {
        let before = self.live(id)?.clone();
        if !matches!(before.phase, Phase::Held { .. }) {
            return Err(Refusal::NotHeld { id });
        }
        let mut changes = Vec::new();
        let cause = self.commit(id, before, &mut changes);
        Ok(Done { outcome: about(id), cause, changes })
    }

    pub(super) fn cancel(&mut self, id: ReconfigurationId, why: CancelCause) -> Result<Done, Refusal> {
        let before = self.live(id)?.clone();
        let mut changes = Vec::new();
        let cause = self.give_up(id, before, why, &mut changes);
        Ok(Done { outcome: about(id), cause, changes })
    }

    fn live(&self, id: ReconfigurationId) -> Result<&Reconfiguration, Refusal> {
        let row = self.reconfigurations.get(&id).ok_or(Refusal::NoReconfiguration { id })?;
        if row.phase.is_live() { Ok(row) } else { Err(Refusal::Decided { id, phase: row.phase }) }
    }

    /// The members have changed: those that are gone are waited for no more, those that came are.
    pub(super) fn members_changed(&mut self, changes: &mut Vec<RowEvent>, cause: &mut Cause) {
        let preparing: Vec<ReconfigurationId> =
            self.live_reconfigurations().filter(|row| row.phase == Phase::Preparing).map(|r| r.id).collect();
        for id in preparing {
            let members = self.membership.members.clone();
            let Some(row) = self.reconfigurations.get_mut(&id) else { continue };
            let before = row.clone();
            let same = |a: &Member, b: &Member| if R::ACK_OF_THIS_LIFE { a == b } else { a.node == b.node };
            row.missing.retain(|waited| members.iter().any(|member| same(waited, member)));
            row.needed.retain(|waited| members.iter().any(|member| same(waited, member)));
            for member in members {
                if !row.needed.iter().any(|known| same(known, &member)) {
                    row.missing.push(member);
                    row.needed.push(member);
                }
            }
            row.needed.sort();
            row.missing.sort();
            if *row != before {
                let mut ended = cause.clone();
                self.go_on(id, before, changes, &mut ended);
            }
        }
    }

    /// Something about who is waited for has changed. `cause` is told if that decides it.
    fn go_on(
        &mut self,
        id: ReconfigurationId,
        before: Reconfiguration,
        changes: &mut Vec<RowEvent>,
        cause: &mut Cause,
    ) {
        let Some(row) = self.reconfigurations.get_mut(&id) else { return };
        if row.missing.is_empty() && !row.hold {
            *cause = self.commit(id, before, changes);
            return;
        }
        if row.missing.is_empty() {
            row.phase = Phase::Held { since: self.index };
            *cause = Cause::Held(id);
        }
        changes.push(RowEvent {
            key: RowKey::Reconfiguration(id),
            before: Some(Row::Reconfiguration(before)),
            after: Some(Row::Reconfiguration(row.clone())),
        });
    }

    fn commit(&mut self, id: ReconfigurationId, before: Reconfiguration, out: &mut Vec<RowEvent>) -> Cause {
        let number = self.raise_number();
        match self.stage(&before.changes, Some(id)) {
            Ok(staged) => {
                out.extend(self.take_over(staged, number));
                for &volume in &before.volumes {
                    self.volume_changed(volume, number);
                    self.suspend_volume(volume, None);
                }
                self.end(id, before, Phase::Committed { at: self.index }, out);
                Cause::Committed(id)
            }
            Err(_) => self.give_up(id, before, CancelCause::Unfit, out),
        }
    }

    fn give_up(
        &mut self,
        id: ReconfigurationId,
        before: Reconfiguration,
        why: CancelCause,
        out: &mut Vec<RowEvent>,
    ) -> Cause {
        let number = self.raise_number();
        for &volume in &before.volumes {
            self.volume_changed(volume, number);
            self.suspend_volume(volume, None);
        }
        self.end(id, before, Phase::Cancelled { at: self.index, why }, out);
        Cause::Cancelled(id, why)
    }

    fn end(&mut self, id: ReconfigurationId, before: Reconfiguration, phase: Phase, out: &mut Vec<RowEvent>) {
        let Some(row) = self.reconfigurations.get_mut(&id) else { return };
        row.phase = phase;
        row.missing.clear();
        out.push(RowEvent {
            key: RowKey::Reconfiguration(id),
            before: Some(Row::Reconfiguration(before)),
            after: Some(Row::Reconfiguration(row.clone())),
        });
        let mut over: Vec<(u64, ReconfigurationId)> =
            self.reconfigurations.values().filter_map(|row| Some((ended_at(row)?, row.id))).collect();
        over.sort();
        for (_, old) in over.iter().take(over.len().saturating_sub(FINISHED_MAX)) {
            self.reconfigurations.remove(old);
        }
    }

    /// Those under way, by rising id.
    pub fn live_reconfigurations(&self) -> impl Iterator<Item = &Reconfiguration> {
        self.reconfigurations.values().filter(|row| row.phase.is_live())
    }
}

fn ended_at(row: &Reconfiguration) -> Option<u64> {
    match row.phase {
        Phase::Committed { at } | Phase::Cancelled { at, .. } => Some(at),
        Phase::Preparing | Phase::Held { .. } => None,
    }
}

fn about(id: ReconfigurationId) -> Outcome {
    Outcome { reconfiguration: Some(id) }
}

impl Done {
    /// Everything about it was already so.
    fn about(id: ReconfigurationId) -> Done {
        Done { outcome: about(id), ..Done::nothing() }
    }
}
