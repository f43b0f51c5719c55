//! What a node knows of the others: who is there, in which life, and whom they see.

use super::Status;
use crate::ccd::MembershipRow;
use crate::view::Member;
use core::time::Duration;
use transport_proto::identity::{Incarnation, NodeId};
use transport_proto::time::Time;

/// One other configured node.
#[derive(Clone, Debug)]
pub(super) struct PeerWatch {
    pub(super) node: NodeId,
    /// Some rail to it is up.
    pub(super) up: bool,
    /// The latest life heard of; zero if none.
    pub(super) incarnation: Incarnation,
    /// Since when no rail is up.
    pub(super) down_since: Time,
    /// What it said last, in its latest life.
    pub(super) status: Option<Status>,
    /// The latest life that said it has ended in order; zero if none.
    pub(super) ended: Incarnation,
    /// The latest life that said it is about to end.
    pub(super) ending: Incarnation,
}

impl PeerWatch {
    pub(super) fn new(node: NodeId, now: Time) -> PeerWatch {
        let none = Incarnation(0);
        PeerWatch {
            node,
            up: false,
            incarnation: none,
            down_since: now,
            status: None,
            ended: none,
            ending: none,
        }
    }

    /// A life was heard of. What an earlier one said is void.
    pub(super) fn meet(&mut self, incarnation: Incarnation) {
        if incarnation > self.incarnation {
            self.incarnation = incarnation;
            self.status = None;
        }
    }

    /// When this node gives the peer up; `None` while a rail is up.
    pub(super) fn gone_at(&self, suspect: Duration) -> Option<Time> {
        (!self.up).then(|| self.down_since + suspect)
    }

    /// Whether the life said its end: that it has ended, or that it is about to and is not heard any more.
    /// Such silence needs no time to be believed.
    pub(super) fn has_ended(&self, life: Incarnation) -> bool {
        life <= self.ended || (!self.up && life <= self.ending)
    }

    /// The life in which the peer is there, as far as this node can tell. A peer that is not heard is held
    /// for there for the suspect time, in the life that is a member.
    pub(super) fn life(&self, now: Time, suspect: Duration, membership: &MembershipRow) -> Option<Member> {
        if self.status.as_ref().is_some_and(|status| status.leaving) {
            return None;
        }
        if self.up && self.incarnation > Incarnation(0) && !self.has_ended(self.incarnation) {
            return Some(Member { node: self.node, incarnation: self.incarnation });
        }
        let member = membership.members.iter().find(|member| member.node == self.node)?;
        let same_life = self.incarnation <= member.incarnation;
        let in_time = self.gone_at(suspect).is_none_or(|gone| now < gone);
        (same_life && in_time && !self.has_ended(member.incarnation)).then_some(*member)
    }

    /// Whether the peer says that it sees `other`. `None` while it has said nothing.
    pub(super) fn sees(&self, other: Member) -> Option<bool> {
        self.status.as_ref().map(|status| status.reaches.contains(&other))
    }
}
