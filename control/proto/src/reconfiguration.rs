//! Changes of what is in use, as a node takes part in them (SPEC C4): what the log asks of it, step by step.
//! What decides is in [`crate::ccd`]; here are the two machines around it.
//!
//! [`Participant`], on every member: a reconfiguration that waits for this life of this node is in the log →
//! suspend its virtual disks, wait until they are drained, drop the copies of their mappings, acknowledge. A
//! node lets a virtual disk go on only when the log says that nothing holds it any more: done, given up, or
//! not waited for since this node begins anew. No timer of its own decides that, whatever it waits for. It
//! follows what the log says now, not what it said meanwhile, so it does not matter where a process begins to
//! read.
//!
//! [`DeadlineWatch`], on the leader: what takes longer than it may is cancelled, by an entry of the log.
//!
//! Calling order: [`Participant::handle`] with each [`Input`] and at each [`Participant::next_deadline`];
//! outputs in their order. Proposals may be lost, repeated and overtaken.

use crate::ccd::{CancelCause, Change, Database, Phase, ReconfigurationId};
use crate::protocol_rules::{ProtocolRules, Strict};
use crate::view::Member;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use blockdev_proto::geometry::VolumeId;
use core::marker::PhantomData;
use core::time::Duration;
use transport_proto::time::Time;

/// An acknowledgement that the log does not show by then is proposed again.
const ACK_AGAIN: Duration = Duration::from_millis(500);
/// After an answer, the log is given this long to show what it says.
const ACK_PAUSE: Duration = Duration::from_millis(20);

/// A reconfiguration under way, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Which.
    pub id: ReconfigurationId,
    /// Members are still waited for.
    pub preparing: bool,
    /// This life of this node is waited for.
    pub waits_for_me: bool,
    /// Virtual disks that stand still.
    pub volumes: Vec<VolumeId>,
    /// How long each of its two phases may take.
    pub deadline: Duration,
}

impl<R: ProtocolRules> Database<R> {
    /// What is under way, for this member; what [`Input::Applied`] takes, by rising id.
    pub fn live_for(&self, me: Member) -> Vec<Live> {
        let live = self.live_reconfigurations().map(|row| Live {
            id: row.id,
            preparing: row.phase == Phase::Preparing,
            waits_for_me: row.missing.contains(&me),
            volumes: row.volumes.clone(),
            deadline: Duration::from_millis(u64::from(row.deadline_ms)),
        });
        live.collect()
    }
}

/// What happens to a participant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// The log has gone on: this is under way now, for this life of this node.
    Applied {
        /// This node.
        me: Member,
        /// What is under way.
        live: Vec<Live>,
    },
    /// Nothing of this suspended virtual disk is under way any more on this node. Also at once, if it is not
    /// open here.
    Drained(VolumeId),
    /// What became of an acknowledgement is known, or known to be unknown.
    AckAnswered(ReconfigurationId),
}

/// What the owner is to do, in this order; a node that reads the log does what suspends before it takes over
/// the mappings of the entry, and what resumes after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Hold new requests of this virtual disk, and say [`Input::Drained`] when nothing is under way. One that
    /// is not open here is drained at once, and opens suspended ([`Participant::is_suspended`]).
    Suspend(VolumeId),
    /// Drop the copy of its mapping: the log will have another. What is held waits for that.
    Invalidate(VolumeId),
    /// Propose; answered by [`Input::AckAnswered`].
    Propose(Change),
    /// Let the held requests of this virtual disk go, by the mapping that the log has now.
    Resume(VolumeId),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Work {
    id: ReconfigurationId,
    preparing: bool,
    waits_for_me: bool,
    volumes: Vec<VolumeId>,
    /// Its copies are dropped.
    invalidated: bool,
    again_at: Time,
    /// Since when it was known here; only a mutant looks at it.
    since: Time,
    deadline: Duration,
}

/// A node's part in the reconfigurations under way, see the head of this file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Participant<R: ProtocolRules = Strict> {
    me: Member,
    work: BTreeMap<ReconfigurationId, Work>,
    /// Virtual disks that stand still on this node, and whether they are drained.
    suspended: BTreeMap<VolumeId, bool>,
    obeys: PhantomData<R>,
}

impl Participant {
    /// A participant that knows of nothing yet.
    pub fn new(me: Member) -> Participant {
        Participant::with_rules(me)
    }
}

impl<R: ProtocolRules> Participant<R> {
    /// As [`Participant::new`], obeying the given rules.
    pub fn with_rules(me: Member) -> Participant<R> {
        Participant { me, work: BTreeMap::new(), suspended: BTreeMap::new(), obeys: PhantomData }
    }

    /// Whether this virtual disk stands still on this node.
    pub fn is_suspended(&self, volume: VolumeId) -> bool {
        self.suspended.contains_key(&volume)
    }

    /// Takes in what happened and what time has brought.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Tick => {}
            Input::Applied { me, live } => self.applied(now, me, live, out),
            Input::Drained(volume) => {
                if let Some(drained) = self.suspended.get_mut(&volume) {
                    *drained = true;
                }
            }
            Input::AckAnswered(id) => {
                if let Some(work) = self.work.get_mut(&id) {
                    work.again_at = work.again_at.min(now + ACK_PAUSE);
                }
            }
        }
        if !R::RESUME_ON_LOG_ONLY {
            self.lose_patience(now, out);
        }
        self.acknowledge(now, out);
    }

    /// When to call [`Participant::handle`] with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Time {
        let mut deadline = Time::NEVER;
        for work in self.work.values() {
            if work.invalidated && work.preparing && work.waits_for_me {
                deadline = deadline.min(work.again_at);
            }
            let held = work.volumes.iter().any(|volume| self.is_suspended(*volume));
            if !R::RESUME_ON_LOG_ONLY && held {
                deadline = deadline.min(work.since + work.deadline);
            }
        }
        deadline
    }

    fn applied(&mut self, now: Time, me: Member, live: Vec<Live>, out: &mut Vec<Output>) {
        // What another life did counts for nothing.
        let reborn = core::mem::replace(&mut self.me, me) != me;
        self.work.retain(|id, _| live.iter().any(|row| row.id == *id));
        for row in live {
            let fresh = || Work {
                id: row.id,
                preparing: true,
                waits_for_me: false,
                volumes: row.volumes.clone(),
                invalidated: false,
                again_at: now,
                since: now,
                deadline: row.deadline,
            };
            let known = self.work.contains_key(&row.id);
            let work = self.work.entry(row.id).or_insert_with(fresh);
            (work.preparing, work.waits_for_me) = (row.preparing, row.waits_for_me);
            if reborn {
                work.again_at = now;
            }
            if known {
                continue;
            }
            for volume in row.volumes {
                if let alloc::collections::btree_map::Entry::Vacant(place) = self.suspended.entry(volume) {
                    place.insert(false);
                    out.push(Output::Suspend(volume));
                }
            }
        }
        self.resume_what_nothing_holds(out);
    }

    fn resume_what_nothing_holds(&mut self, out: &mut Vec<Output>) {
        let held: BTreeSet<VolumeId> = self.work.values().flat_map(|work| work.volumes.clone()).collect();
        let free: Vec<VolumeId> =
            self.suspended.keys().filter(|volume| !held.contains(volume)).copied().collect();
        for volume in free {
            self.suspended.remove(&volume);
            out.push(Output::Resume(volume));
        }
    }

    /// The mutant: what has taken too long is taken for over.
    fn lose_patience(&mut self, now: Time, out: &mut Vec<Output>) {
        for work in self.work.values().filter(|work| now >= work.since + work.deadline) {
            for volume in &work.volumes {
                if self.suspended.remove(volume).is_some() {
                    out.push(Output::Resume(*volume));
                }
            }
        }
    }

    fn acknowledge(&mut self, now: Time, out: &mut Vec<Output>) {
        for work in self.work.values_mut() {
            let drained = |volume: &VolumeId| self.suspended.get(volume).copied().unwrap_or(true);
            if !work.volumes.iter().all(drained) {
                continue;
            }
            if !work.invalidated {
                work.invalidated = true;
                out.extend(work.volumes.iter().copied().map(Output::Invalidate));
            }
            if work.preparing && work.waits_for_me && now >= work.again_at {
                work.again_at = now + ACK_AGAIN;
                let ack = Change::Ack { reconfiguration: work.id, member: self.me };
                out.push(Output::Propose(ack));
            }
        }
    }
}

/// The leader's watch over deadlines.
#[derive(Clone, Debug, Default)]
pub struct DeadlineWatch {
    /// Since when each is in its phase, as far as this node knows, and when to cancel it (again).
    known: BTreeMap<ReconfigurationId, (bool, Time)>,
}

impl DeadlineWatch {
    /// A watch that knows of nothing. A new leader begins to count anew.
    pub fn new() -> DeadlineWatch {
        DeadlineWatch::default()
    }

    /// This is under way at `now`, and this node leads; what has taken too long comes out as proposals.
    pub fn watch(&mut self, now: Time, live: &[Live], out: &mut Vec<Change>) {
        self.known.retain(|id, _| live.iter().any(|row| row.id == *id));
        for row in live {
            let entry = self.known.entry(row.id).or_insert((row.preparing, now + row.deadline));
            if entry.0 != row.preparing {
                *entry = (row.preparing, now + row.deadline);
            }
            if now >= entry.1 {
                entry.1 = now + ACK_AGAIN;
                let why = if row.preparing { CancelCause::Deadline } else { CancelCause::HeldTooLong };
                out.push(Change::Cancel { reconfiguration: row.id, why });
            }
        }
    }

    /// When to call [`DeadlineWatch::watch`] at the latest.
    pub fn next_deadline(&self) -> Time {
        self.known.values().map(|(_, due)| *due).min().unwrap_or(Time::NEVER)
    }
}

#[cfg(test)]
#[path = "reconfiguration/tests.rs"]
mod tests;
