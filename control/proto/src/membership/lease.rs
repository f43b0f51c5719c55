//! Leases: this node as one who asks the leader for one, and as the leader who grants them.

use super::{Membership, Message, Output};
use crate::ccd::{Change, Steward};
use crate::protocol_rules::ProtocolRules;
use crate::view::Member;
use alloc::vec::Vec;
use core::time::Duration;
use transport_proto::identity::NodeId;
use transport_proto::time::Time;

/// A lease is asked for so many times before it is over.
const ASKS_PER_LEASE: u32 = 6;
/// One that holds none asks as often as this, however long leases are.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What is held, and what was granted.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    /// Until when this node holds one.
    pub(super) until: Time,
    pub(super) ask_due: Time,
    leader: Option<NodeId>,
    pub(super) term: u64,
    /// This node leads.
    pub(super) leads: bool,
    /// Since when it does; what others granted before may last one lease from here.
    leads_since: Time,
    /// When a majority that confirmed it was asked, last.
    confirmed: Option<Time>,
    /// To whom it granted, and when, last.
    granted: Vec<(Member, Time)>,
    /// Who asked before this node was confirmed, with what stamp.
    waiting: Vec<(Member, Time)>,
    /// Asks before this are of a life before.
    stamps_from: Time,
}

impl Lease {
    pub(super) fn new(now: Time) -> Lease {
        Lease {
            until: now,
            ask_due: now,
            leader: None,
            term: 0,
            leads: false,
            leads_since: now,
            confirmed: None,
            granted: Vec::new(),
            waiting: Vec::new(),
            stamps_from: now,
        }
    }

    /// Nothing is held any more, and what is still on its way counts for nothing.
    pub(super) fn forget(&mut self) {
        self.until = Time(0);
        self.stamps_from = Time::NEVER;
    }
}

impl<R: ProtocolRules> Membership<R> {
    pub(super) fn follow_leader(&mut self, leader: Option<NodeId>, term: u64) {
        let lease = &mut self.lease;
        if (leader, term) == (lease.leader, lease.term) {
            return;
        }
        (lease.leader, lease.term, lease.ask_due) = (leader, term, self.now);
        lease.waiting.clear();
        self.steward_until = None;
        self.follow_steward();
        // The new leader is to know at once what this node sees.
        self.status_due = self.now;
    }

    /// Whether this node takes care of the membership may have changed.
    pub(super) fn follow_steward(&mut self) {
        let me = Steward { member: self.me(), term: self.lease.term };
        let leads = self.lease.leader == Some(self.node) && self.log.membership.steward == Some(me);
        if leads && !self.lease.leads {
            self.lease.leads_since = self.now;
            self.lease.confirmed = None;
            self.lease.granted.clear();
            self.lease.ask_due = self.now;
        }
        if leads != self.lease.leads {
            self.lease.leads = leads;
            self.proposed_until = None;
            self.going.clear();
            self.doomed.clear();
        }
    }

    /// The steward's name, if this node is it.
    pub(super) fn stewardship(&self) -> Option<Steward> {
        self.log.membership.steward.filter(|_| self.lease.leads)
    }

    /// One that leads the log takes over the care of the membership.
    pub(super) fn seek_stewardship(&mut self, out: &mut Vec<Output>) {
        let asked = self.steward_until.is_some_and(|until| self.now < until);
        if self.lease.leader == Some(self.node) && !self.lease.leads && !asked {
            self.steward_until = Some(self.now + self.patience());
            let steward = Steward { member: self.me(), term: self.lease.term };
            out.push(Output::Propose(Change::Steward(steward)));
        }
    }

    pub(super) fn confirmed(&mut self, at: Time, out: &mut Vec<Output>) {
        // What was asked before it led confirms nothing.
        if !self.lease.leads || at < self.lease.leads_since {
            return;
        }
        let at = if R::LEASE_FROM_SEND { at.min(self.now) } else { self.now };
        self.lease.confirmed = self.lease.confirmed.max(Some(at));
        for (member, stamp) in core::mem::take(&mut self.lease.waiting) {
            self.answer_ask(member, stamp, out);
        }
    }

    /// A node asks for a lease. Whoever asks a leader that is about to be confirmed is answered then.
    pub(super) fn answer_ask(&mut self, member: Member, stamp: Time, out: &mut Vec<Output>) {
        if self.lease.leader != Some(self.node) {
            return;
        }
        match self.grant(member) {
            Some(age) => {
                let term = self.lease.term;
                self.send(member.node, Message::Grant { term, stamp, age }, out);
            }
            None => {
                self.lease.waiting.retain(|(other, _)| other.node != member.node);
                self.lease.waiting.push((member, stamp));
            }
        }
    }

    pub(super) fn ask_for_lease(&mut self, out: &mut Vec<Output>) {
        let length = self.log.times.lease;
        self.take_lease();
        if self.now < self.lease.ask_due {
            return;
        }
        let held = self.now < self.lease.until;
        let pause = if held { length / ASKS_PER_LEASE } else { (length / ASKS_PER_LEASE).min(ASK_AGAIN) };
        self.lease.ask_due = self.now + pause.max(Duration::from_millis(1));
        self.lease.stamps_from = self.lease.stamps_from.min(self.now);
        if self.lease.leads {
            out.push(Output::Confirm { at: self.now });
        }
        let leader = self.lease.leader.filter(|leader| *leader != self.node);
        let up = |leader: &NodeId| self.peers.iter().any(|peer| peer.node == *leader && peer.up);
        if let Some(leader) = leader.filter(up) {
            self.send(leader, Message::Ask { stamp: self.now }, out);
        }
    }

    /// The leader's own lease: one lease from when a majority that confirmed it was asked.
    fn take_lease(&mut self) {
        let Some(confirmed) = self.lease.confirmed.filter(|_| self.lease.leads) else { return };
        if self.may_hold(self.me()) {
            self.lease.until = self.lease.until.max(confirmed + self.log.times.lease);
            self.note_grant(self.me(), confirmed);
        }
    }

    /// Whether the leader lets this one hold a lease.
    fn may_hold(&self, member: Member) -> bool {
        let hung = if member == self.me() {
            self.is_hung(self.oldest_io)
        } else {
            let peer = self.peers.iter().find(|peer| peer.node == member.node);
            peer.and_then(|peer| peer.status.as_ref()).is_some_and(|status| self.is_hung(status.oldest_io))
        };
        let over = self.log.membership.is_over(member) || self.log.tombstoned.contains(&member.node);
        let earlier = |other: &Member| other.node == member.node && other.incarnation > member.incarnation;
        let replaced = self.log.membership.members.iter().any(earlier);
        !over && !hung && !replaced && !self.going.contains(&member) && !self.doomed.contains(&member)
    }

    fn note_grant(&mut self, member: Member, at: Time) {
        let granted = &mut self.lease.granted;
        granted.retain(|(other, _)| other.node != member.node || *other == member);
        match granted.iter_mut().find(|(other, _)| *other == member) {
            Some((_, last)) => *last = at.max(*last),
            None => granted.push((member, at)),
        }
    }

    /// As leader: lets a node have a lease, `age` long spent already. `None` if not.
    fn grant(&mut self, member: Member) -> Option<Duration> {
        let confirmed = self.lease.confirmed.filter(|_| self.lease.leads)?;
        let age = Duration::from_nanos(self.now.0.saturating_sub(confirmed.0));
        if age >= self.log.times.lease || !self.may_hold(member) {
            return None;
        }
        self.note_grant(member, self.now);
        Some(age)
    }

    /// As holder: the leader lets this node have what it asked for.
    pub(super) fn granted(&mut self, from: NodeId, term: u64, stamp: Time, age: Duration) {
        let lease = &mut self.lease;
        let current = lease.leader == Some(from) && lease.term == term;
        if !current || stamp < lease.stamps_from || stamp > self.now {
            return;
        }
        let counted_from = if R::LEASE_FROM_SEND { stamp } else { self.now };
        let length = self.log.times.lease.saturating_sub(age);
        lease.until = lease.until.max(counted_from + length);
    }

    /// As leader: when every lease that a member may hold is over.
    pub(super) fn expires_at(&self, member: Member) -> Time {
        let granted = self.lease.granted.iter().find(|(other, _)| *other == member);
        let last = granted.map_or(Time(0), |(_, at)| *at);
        last.max(self.lease.leads_since) + self.log.times.lease
    }
}
