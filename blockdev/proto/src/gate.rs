//! The epoch gate of one volume at its master: one number is open, or none, and it is known what still runs.
//!
//! `Closed → Taking → Persisting → Open → Draining → Persisting …` or `→ Releasing → Closed`. Raising the
//! number is close, wait for zero, persist, open; moving away is close, wait for zero, release. Checking a
//! request's number and counting it in are one step, [`Gate::enter`], so nothing slips in behind a closing
//! gate (SPEC B5).

use crate::rules::Rules;
use transport_proto::identity::Epoch;

/// Where a volume's gate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatePhase {
    /// Not ours, nothing runs.
    Closed,
    /// Waiting for ownership of the disk.
    Taking,
    /// Waiting for the number to be persisted.
    Persisting(Epoch),
    /// Requests of this number run.
    Open(Epoch),
    /// Was open at this number; waiting for what still runs.
    Draining(Epoch),
    /// Waiting for ownership to be given up.
    Releasing,
    /// The store failed us, or the number was spent; waiting for a newer mapping or for the time to ask
    /// again.
    Resting,
}

/// What the mapping wants of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    /// The number to be open at.
    pub(crate) epoch: Epoch,
    /// The number must be persisted before. Not so on a read-only volume: a store that cannot be written
    /// cannot keep a number, and there are no writes that could be stale.
    pub(crate) persist: bool,
}

/// What the gate wants done; the caller does it and reports back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateStep {
    /// Take ownership.
    Take,
    /// Give ownership up, or stop taking it.
    Release,
    /// Persist this number.
    Persist(Epoch),
    /// Open now.
    Opened(Epoch),
    /// Drained now, of this number.
    Closed(Epoch),
    /// Will not open: this number, found with the disk, is not below ours.
    Spent(Epoch),
}

/// Why a request may not enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateRefusal {
    /// The request's number is lower than the gate's present or coming one.
    Stale(Epoch),
    /// The gate is not open yet, or not yet at so high a number.
    NotYet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Taking,
    /// Ownership is ours, and nothing runs.
    Owned,
    Persisting(Epoch),
    Open(Epoch),
    Draining(Epoch),
    Releasing {
        rest: bool,
    },
    Resting,
}

/// The gate of one volume.
pub(crate) struct Gate {
    phase: Phase,
    goal: Option<Goal>,
    /// Requests that entered and have not left.
    in_flight: u32,
    /// The number known to be persisted with the disk, while it is owned.
    persisted: Epoch,
    /// The highest number that this life has tried to persist; nobody else opens at it.
    tried: Epoch,
}

impl Gate {
    pub(crate) const fn new() -> Gate {
        Gate { phase: Phase::Closed, goal: None, in_flight: 0, persisted: Epoch(0), tried: Epoch(0) }
    }

    pub(crate) fn phase(&self) -> GatePhase {
        match self.phase {
            Phase::Closed => GatePhase::Closed,
            Phase::Taking => GatePhase::Taking,
            Phase::Owned => GatePhase::Draining(self.persisted),
            Phase::Persisting(epoch) => GatePhase::Persisting(epoch),
            Phase::Open(epoch) => GatePhase::Open(epoch),
            Phase::Draining(epoch) => GatePhase::Draining(epoch),
            Phase::Releasing { .. } => GatePhase::Releasing,
            Phase::Resting => GatePhase::Resting,
        }
    }

    /// The number that the gate is open at.
    #[inline]
    pub(crate) fn open_epoch(&self) -> Option<Epoch> {
        match self.phase {
            Phase::Open(epoch) => Some(epoch),
            _ => None,
        }
    }

    /// Sets what the mapping wants: to be open at a number, or not to serve. A gate that is open at another
    /// number is closed at once.
    pub(crate) fn aim(&mut self, goal: Option<Goal>) {
        let has_changed = goal != self.goal;
        self.goal = goal;
        match self.phase {
            Phase::Open(epoch) if goal.map(|goal| goal.epoch) != Some(epoch) => {
                self.phase = Phase::Draining(epoch);
            }
            Phase::Resting if has_changed => self.phase = Phase::Closed,
            Phase::Releasing { rest: true } if has_changed => self.phase = Phase::Releasing { rest: false },
            _ => {}
        }
    }

    /// Leaves rest and tries again.
    pub(crate) fn retry(&mut self) {
        if self.phase == Phase::Resting {
            self.phase = Phase::Closed;
        }
    }

    /// Checks a request's number and counts the request in, in one step.
    #[inline]
    pub(crate) fn enter<R: Rules>(&mut self, epoch: Epoch) -> Result<(), GateRefusal> {
        let is_open = self.phase == Phase::Open(epoch);
        if !is_open && R::EPOCH_GATE {
            return Err(match self.goal {
                Some(goal) if epoch < goal.epoch => GateRefusal::Stale(goal.epoch),
                _ => GateRefusal::NotYet,
            });
        }
        self.in_flight += 1;
        Ok(())
    }

    /// A request that entered has left.
    #[inline]
    pub(crate) fn leave(&mut self) {
        assert!(self.in_flight > 0, "more requests left a gate than entered it");
        self.in_flight -= 1;
    }

    /// True when the last request to leave may have made a step possible.
    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.phase, Phase::Draining(_))
    }

    /// Ownership is ours, and this number was found with the disk. Ignored if we gave up meanwhile.
    pub(crate) fn taken(&mut self, persisted: Epoch) {
        if self.phase == Phase::Taking {
            self.phase = Phase::Owned;
            self.persisted = persisted;
        }
    }

    /// Ownership is given up.
    pub(crate) fn released(&mut self) {
        if let Phase::Releasing { rest } = self.phase {
            self.phase = if rest { Phase::Resting } else { Phase::Closed };
        }
    }

    /// The number is persisted.
    pub(crate) fn persisted(&mut self, epoch: Epoch) {
        if self.phase == Phase::Persisting(epoch) {
            self.phase = Phase::Owned;
            self.persisted = epoch;
        }
    }

    /// The store could not take or persist. Returns whether that was awaited.
    pub(crate) fn failed(&mut self) -> Option<GateStep> {
        match self.phase {
            Phase::Taking | Phase::Persisting(_) => {
                // Give up whatever we have, so that another node can try.
                self.phase = Phase::Releasing { rest: true };
                Some(GateStep::Release)
            }
            _ => None,
        }
    }

    /// The next thing to be done, if any; called until there is none.
    pub(crate) fn step<R: Rules>(&mut self) -> Option<GateStep> {
        match (self.phase, self.goal) {
            (Phase::Closed, Some(_)) => {
                self.phase = Phase::Taking;
                Some(GateStep::Take)
            }
            (Phase::Taking | Phase::Owned, None) => {
                self.phase = Phase::Releasing { rest: false };
                Some(GateStep::Release)
            }
            (Phase::Owned, Some(goal)) => Some(self.raise(goal)),
            (Phase::Draining(epoch), _) if self.in_flight == 0 || !R::EPOCH_GATE => {
                self.phase = Phase::Owned;
                Some(GateStep::Closed(epoch))
            }
            _ => None,
        }
    }

    /// Owned and empty: opens if the number is safe with the disk, else persists it first.
    fn raise(&mut self, goal: Goal) -> GateStep {
        // A number that this life has tried to persist was opened by no other: at each number one node
        // serves.
        let own = goal.epoch == self.tried;
        if self.persisted > goal.epoch || (self.persisted == goal.epoch && !own) {
            self.phase = Phase::Releasing { rest: true };
            return GateStep::Spent(self.persisted);
        }
        if self.persisted == goal.epoch || !goal.persist {
            self.phase = Phase::Open(goal.epoch);
            return GateStep::Opened(goal.epoch);
        }
        self.tried = goal.epoch;
        self.phase = Phase::Persisting(goal.epoch);
        GateStep::Persist(goal.epoch)
    }

    /// True when the gate waits for time to pass.
    pub(crate) fn is_resting(&self) -> bool {
        self.phase == Phase::Resting
    }
}
