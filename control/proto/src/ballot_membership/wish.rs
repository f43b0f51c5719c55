//! The view that should be, as far as this node can tell, and whose turn it is to propose it.

use super::{BROKEN_MAX, EPOCH_MAX, Membership, Output, STEP_IN, Status, View};
use crate::view::{BrokenPath, Member};
use alloc::vec::Vec;
use core::time::Duration;
use transport_proto::identity::Epoch;
use transport_proto::time::Time;

impl Membership {
    /// Nodes are given this time after the first start to find each other, so that the first view has them
    /// all.
    pub(super) fn settling(&self) -> Duration {
        self.times.suspect * 2
    }

    /// The view that should be, with the number that it would get; `None` if this node cannot say.
    pub(super) fn desired(&self) -> Option<View> {
        let view = &self.durable.view;
        let members = self.clique();
        if members.len() < self.majority() || !members.contains(&self.me()) || self.would_intrude(&members) {
            return None;
        }
        let mut departed: Vec<Member> = view.departed.clone();
        for gone in view.members.iter().filter(|member| !members.contains(member)) {
            departed.retain(|other| other.node != gone.node);
            departed.push(*gone);
        }
        departed.retain(|gone| !members.iter().any(|member| member.node == gone.node));
        departed.sort();
        let broken = self.desired_broken(&members);
        let floor = self.peers.iter().filter_map(|peer| peer.status.as_ref()).map(|status| status.floor);
        let floor = floor.fold(self.floor, Epoch::max).min(EPOCH_MAX).max(view.epoch);
        Some(View { epoch: Epoch(floor.0 + 1), members, departed, broken })
    }

    /// Whether this node, not in itself, would put out a member while it reaches another: it may just not
    /// have met that one yet. Those who are in will put out whom they have lost.
    fn would_intrude(&self, members: &[Member]) -> bool {
        let view = &self.durable.view;
        let reaches_member = || {
            let mut up = self.peers.iter().filter(|peer| peer.is_reached());
            up.any(|peer| view.has(Member { node: peer.node, incarnation: peer.incarnation }))
        };
        let lost = |member: &Member| !members.iter().any(|stays| stays.node == member.node);
        !view.has(self.me()) && view.members.iter().any(lost) && reaches_member()
    }

    /// Nodes in which everyone sees everyone: first those who are in, then those who join, each by rising id.
    /// One that joins and has not met all of them yet waits, and does not take anybody's place.
    fn clique(&self) -> Vec<Member> {
        let (view, suspect) = (&self.durable.view, self.times.suspect);
        let others = self.peers.iter().filter_map(|peer| {
            let member = peer.life(self.now, suspect, view)?;
            // One that joins must have spoken, or it may be a life that is over already.
            let known = view.has(member) || (peer.is_reached() && peer.status.is_some());
            known.then_some(member)
        });
        let mut lives: Vec<Member> = others.chain((!self.leaving).then_some(self.me())).collect();
        lives.retain(|member| !view.departed(*member));
        lives.sort_by_key(|life| (!view.has(*life), *life));
        let mut members: Vec<Member> = Vec::new();
        for life in lives {
            if members.iter().all(|other| self.sees(*other, life) && self.sees(life, *other)) {
                members.push(life);
            }
        }
        members.sort();
        members
    }

    /// Whether one sees the other, as far as known; one that has not spoken yet is given the benefit of the
    /// doubt. This node, while it is not in, sees whom it reaches.
    fn sees(&self, one: Member, other: Member) -> bool {
        if one == self.me() && !self.durable.view.has(one) {
            return self.peers.iter().any(|peer| peer.node == other.node && peer.up);
        }
        let watch = self.peers.iter().find(|peer| peer.node == one.node);
        // What a member said before it had the present view may be older than the rail to one that joined by
        // it.
        let is_stale = |status: &Status| self.durable.view.has(one) && status.epoch < self.durable.view.epoch;
        let watch = watch.filter(|peer| !peer.status.as_ref().is_some_and(is_stale));
        watch.and_then(|peer| peer.sees(other)).unwrap_or(true)
    }

    fn desired_broken(&self, members: &[Member]) -> Vec<BrokenPath> {
        let view = &self.durable.view;
        // A new life of a node has proved nothing broken yet.
        let stays = |path: &BrokenPath| {
            members.iter().any(|member| member.node == path.node && view.has(*member))
                && !self.mended_by_owner(*path)
        };
        let reported = self.peers.iter().filter_map(|peer| peer.status.as_ref()).flat_map(|s| &s.broken);
        let fresh = reported.chain(&self.broken).filter(|path| {
            members.iter().any(|member| member.node == path.node) && !self.mended_by_owner(**path)
        });
        let mut broken: Vec<BrokenPath> =
            view.broken.iter().filter(|path| stays(path)).chain(fresh).copied().collect();
        broken.sort();
        broken.dedup();
        broken.truncate(BROKEN_MAX);
        broken
    }

    fn mended_by_owner(&self, path: BrokenPath) -> bool {
        if path.node == self.node {
            return self.mended.contains(&path);
        }
        let owner = self.peers.iter().find(|peer| peer.node == path.node);
        owner.and_then(|peer| peer.status.as_ref()).is_some_and(|status| status.mended.contains(&path))
    }

    /// Whether a view differs from the present one in more than its number, or the number must rise.
    pub(super) fn differs(&self, desired: &View) -> bool {
        let view = &self.durable.view;
        let same = desired.members == view.members && desired.broken == view.broken;
        !same || desired.epoch.0 > view.epoch.0 + 1
    }

    /// When it is this node's turn to propose: at once for the lowest member, later for the others.
    pub(super) fn turn(&self) -> Option<Time> {
        let since = self.change_since?;
        let lower =
            self.peers.iter().filter(|peer| peer.is_reached() && peer.node < self.node).count() as u32;
        Some(since + STEP_IN * lower)
    }

    pub(super) fn seek_change(&mut self, out: &mut Vec<Output>) {
        self.give_up_late_round();
        let Some(desired) = self.desired().filter(|desired| self.differs(desired)) else {
            self.change_since = None;
            return;
        };
        let since = *self.change_since.get_or_insert(self.now);
        let all_here = desired.members.len() == self.peers.len() + 1;
        let settled =
            all_here || !self.durable.view.members.is_empty() || self.now >= self.started + self.settling();
        let turn = self.turn().unwrap_or(since);
        let reached = 1 + self.peers.iter().filter(|peer| peer.is_reached()).count();
        let may = settled && self.now >= turn && self.now >= self.retry_at && reached >= self.majority();
        if may && self.round.is_idle() {
            self.begin_round(out);
        }
    }
}
