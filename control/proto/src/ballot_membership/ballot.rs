//! The ballot that decides the successor of the present view: this node as one who votes, and as one who
//! proposes.

use super::{Ballot, Membership, Message, Output, View};
use alloc::vec::Vec;
use core::time::Duration;
use transport_proto::identity::{Epoch, NodeId};
use transport_proto::time::Time;

/// A round that is not through by then is given up.
const ROUND: Duration = Duration::from_millis(250);
/// After a round that failed, a node waits so long, and a little more the higher its id: two that outbid each
/// other drift apart.
const PAUSE: Duration = Duration::from_millis(20);

/// This node's attempt, if it makes one.
#[derive(Clone, Debug)]
pub(super) enum Round {
    Idle,
    /// Gathering promises.
    Preparing {
        ballot: Ballot,
        promised_by: Vec<NodeId>,
        best: Option<(Ballot, View)>,
        deadline: Time,
    },
    /// Gathering votes.
    Accepting {
        ballot: Ballot,
        view: View,
        accepted_by: Vec<NodeId>,
        deadline: Time,
    },
}

impl Round {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Round::Idle)
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match self {
            Round::Idle => None,
            Round::Preparing { deadline, .. } | Round::Accepting { deadline, .. } => Some(*deadline),
        }
    }
}

impl Membership {
    // --- proposing ---

    pub(super) fn begin_round(&mut self, out: &mut Vec<Output>) {
        let count = self.durable.promised.count.max(self.outbid).saturating_add(1);
        let ballot = Ballot { count, node: self.node };
        self.durable.promised = ballot;
        out.push(Output::Persist(self.durable.clone()));
        self.round = Round::Preparing {
            ballot,
            promised_by: Vec::from([self.node]),
            best: self.durable.accepted.clone(),
            deadline: self.now + ROUND,
        };
        let after = self.durable.view.epoch;
        self.broadcast(&Message::Prepare { after, ballot }, out);
        self.count_promises(out);
    }

    pub(super) fn give_up_late_round(&mut self) {
        if self.round.deadline().is_some_and(|deadline| self.now >= deadline) {
            self.give_up_round();
        }
    }

    fn give_up_round(&mut self) {
        self.round = Round::Idle;
        let rank = self.peers.iter().filter(|peer| peer.node < self.node).count() as u32;
        self.retry_at = self.now + PAUSE * (rank + 1);
    }

    pub(super) fn hear_promise(
        &mut self,
        from: NodeId,
        after: Epoch,
        promised: Ballot,
        accepted: Option<(Ballot, View)>,
        out: &mut Vec<Output>,
    ) {
        let present = self.durable.view.epoch;
        let Round::Preparing { ballot, promised_by, best, .. } = &mut self.round else { return };
        if after != present || promised != *ballot || promised_by.contains(&from) {
            return;
        }
        promised_by.push(from);
        if let Some((theirs, view)) = accepted
            && best.as_ref().is_none_or(|(ours, _)| theirs > *ours)
        {
            *best = Some((theirs, view));
        }
        self.count_promises(out);
    }

    fn count_promises(&mut self, out: &mut Vec<Output>) {
        let Round::Preparing { ballot, promised_by, best, deadline } = &self.round else { return };
        if promised_by.len() < self.majority() {
            return;
        }
        let (ballot, deadline) = (*ballot, *deadline);
        // What may have been decided must be proposed again; only if nothing was, this node's own wish
        // counts.
        let wish = || self.desired().filter(|desired| self.differs(desired));
        let Some(view) = best.as_ref().map(|(_, view)| view.clone()).or_else(wish) else {
            self.give_up_round();
            return;
        };
        self.durable.accepted = Some((ballot, view.clone()));
        out.push(Output::Persist(self.durable.clone()));
        let after = self.durable.view.epoch;
        self.broadcast(&Message::Accept { after, ballot, view: view.clone() }, out);
        self.round = Round::Accepting { ballot, view, accepted_by: Vec::from([self.node]), deadline };
        self.count_votes(out);
    }

    pub(super) fn hear_accepted(&mut self, from: NodeId, after: Epoch, voted: Ballot, out: &mut Vec<Output>) {
        let present = self.durable.view.epoch;
        let Round::Accepting { ballot, accepted_by, .. } = &mut self.round else { return };
        if after == present && voted == *ballot && !accepted_by.contains(&from) {
            accepted_by.push(from);
            self.count_votes(out);
        }
    }

    fn count_votes(&mut self, out: &mut Vec<Output>) {
        let Round::Accepting { view, accepted_by, .. } = &self.round else { return };
        if accepted_by.len() >= self.majority() {
            let view = view.clone();
            self.broadcast(&Message::Commit(view.clone()), out);
            self.adopt(view, out);
        }
    }

    pub(super) fn hear_refused(&mut self, after: Epoch, promised: Ballot) {
        let ours = match &self.round {
            Round::Preparing { ballot, .. } | Round::Accepting { ballot, .. } => *ballot,
            Round::Idle => return,
        };
        if after == self.durable.view.epoch && promised > ours {
            self.outbid = self.outbid.max(promised.count);
            self.give_up_round();
        }
    }

    // --- voting ---

    pub(super) fn hear_prepare(&mut self, from: NodeId, after: Epoch, ballot: Ballot, out: &mut Vec<Output>) {
        if !self.level(from, after, out) {
            return;
        }
        if ballot < self.durable.promised {
            let promised = self.durable.promised;
            return self.send(from, Message::Refused { after, promised }, out);
        }
        self.promise(ballot, out);
        let accepted = self.durable.accepted.clone();
        self.send(from, Message::Promise { after, ballot, accepted }, out);
    }

    pub(super) fn hear_accept(
        &mut self,
        from: NodeId,
        after: Epoch,
        ballot: Ballot,
        view: View,
        out: &mut Vec<Output>,
    ) {
        if !self.level(from, after, out) || view.epoch <= after {
            return;
        }
        if ballot < self.durable.promised {
            let promised = self.durable.promised;
            return self.send(from, Message::Refused { after, promised }, out);
        }
        self.promise(ballot, out);
        if self.durable.accepted.as_ref().is_none_or(|(accepted, _)| *accepted != ballot) {
            self.durable.accepted = Some((ballot, view));
            out.push(Output::Persist(self.durable.clone()));
        }
        self.send(from, Message::Accepted { after, ballot }, out);
    }

    /// Takes part in no lower ballot from now on, its own attempt included.
    fn promise(&mut self, ballot: Ballot, out: &mut Vec<Output>) {
        if ballot > self.durable.promised {
            self.durable.promised = ballot;
            out.push(Output::Persist(self.durable.clone()));
            if !self.round.is_idle() {
                self.give_up_round();
            }
        }
    }
}
