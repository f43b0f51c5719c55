//! The membership that should be, as far as the leader can tell, and what is proposed for it.

use super::{Membership, Output, Status};
use crate::ccd::{BROKEN_MAX, Change, MemberCause, Why};
use crate::protocol_rules::ProtocolRules;
use crate::view::{BrokenPath, Member};
use alloc::vec::Vec;
use core::time::Duration;

impl<R: ProtocolRules> Membership<R> {
    /// Nodes are given this time after the first start to find each other, so that the first membership has
    /// them all.
    pub(super) fn settling(&self) -> Duration {
        self.log.times.suspect * 2
    }

    /// As leader: proposes what should be, if it is not so.
    pub(super) fn seek_change(&mut self, out: &mut Vec<Output>) {
        let Some(by) = self.stewardship() else { return };
        if self.proposed_until.is_some_and(|until| self.now < until) {
            return;
        }
        self.proposed_until = None;
        self.going.clear();
        let wanted = self.clique();
        let expected = self.log.membership.clone();
        // Whoever is to go for its silence may still hold a lease: it stays in for so long, but gets none.
        let (mut members, mut causes) = (wanted.clone(), Vec::new());
        for gone in expected.members.iter().filter(|member| !wanted.contains(member)) {
            self.going.push(*gone);
            let replaced = wanted.iter().any(|member| member.node == gone.node);
            let why = self.why_gone(*gone, replaced);
            let waits = !matches!(why, Why::Left | Why::Restarted | Why::Distress);
            if waits && self.now < self.expires_at(*gone) {
                members.push(*gone);
            } else if !replaced {
                causes.push(MemberCause { node: gone.node, why });
            }
        }
        members.sort();
        let settled = wanted.len() == self.log.configured.len()
            || !expected.members.is_empty()
            || self.now >= self.started + self.settling();
        if members.is_empty() || !settled {
            return;
        }
        self.note_comers(&members, &mut causes);
        let broken = self.desired_broken(&members);
        self.note_paths(&broken, &mut causes);
        if members == expected.members && broken == expected.broken {
            return;
        }
        self.doomed.extend(expected.members.iter().filter(|member| !members.contains(member)));
        self.proposed_until = Some(self.now + self.patience());
        let expect = expected.number;
        out.push(Output::Propose(Change::Membership { by, expect, members, broken, causes }));
    }

    fn note_comers(&self, members: &[Member], causes: &mut Vec<MemberCause>) {
        let before = &self.log.membership;
        for came in members.iter().filter(|member| !before.has(**member)) {
            let known = |other: &Member| other.node == came.node;
            let again = before.members.iter().any(known) || before.departed.iter().any(known);
            let why = if again { Why::Restarted } else { Why::Joined };
            causes.push(MemberCause { node: came.node, why });
        }
    }

    fn why_gone(&self, gone: Member, replaced: bool) -> Why {
        if replaced {
            return Why::Restarted;
        }
        if self.log.tombstoned.contains(&gone.node) {
            return Why::Distress;
        }
        if gone == self.me() {
            return if self.leaving { Why::Left } else { self.hung(self.oldest_io) };
        }
        let peer = self.peers.iter().find(|peer| peer.node == gone.node);
        match peer {
            None => Why::Left,
            Some(peer) if peer.incarnation > gone.incarnation => Why::Restarted,
            Some(peer) if gone.incarnation <= peer.ended => Why::Left,
            Some(peer) => match &peer.status {
                Some(status) if status.leaving => Why::Left,
                Some(status) if self.is_hung(status.oldest_io) => self.hung(status.oldest_io),
                _ if peer.up => Why::Parted,
                _ => Why::Unreachable,
            },
        }
    }

    fn hung(&self, age: Duration) -> Why {
        Why::HungDisk { age_ms: age.as_millis().min(u128::from(u32::MAX)) as u32 }
    }

    fn note_paths(&self, broken: &[BrokenPath], causes: &mut Vec<MemberCause>) {
        let before = &self.log.membership.broken;
        let mut note = |path: &BrokenPath, why| {
            let cause = MemberCause { node: path.node, why };
            if !causes.contains(&cause) {
                causes.push(cause);
            }
        };
        broken.iter().filter(|path| !before.contains(path)).for_each(|path| note(path, Why::PathBroken));
        before.iter().filter(|path| !broken.contains(path)).for_each(|path| note(path, Why::PathMended));
    }

    /// Nodes in which everyone sees everyone: first the leader, then those who are in, then those who join,
    /// each by rising id. One that joins and has not met all of them yet waits, and does not take anybody's
    /// place.
    fn clique(&self) -> Vec<Member> {
        let (membership, suspect) = (&self.log.membership, self.log.times.suspect);
        let others = self.peers.iter().filter_map(|peer| {
            let member = peer.life(self.now, suspect, membership)?;
            // One that joins must have spoken, or it may be a life that is over already.
            let known = membership.has(member) || (peer.up && peer.status.is_some());
            let hung = peer.status.as_ref().is_some_and(|status| self.is_hung(status.oldest_io));
            (known && !hung).then_some(member)
        });
        let me = (!self.leaving && !self.is_hung(self.oldest_io)).then_some(self.me());
        let mut lives: Vec<Member> = others.chain(me).collect();
        lives.retain(|life| !membership.is_over(*life) && !self.log.tombstoned.contains(&life.node));
        lives.retain(|life| !self.doomed.contains(life));
        let is_earlier = |life: &Member| membership.members.iter().any(|m| m.node == life.node && m > life);
        lives.retain(|life| !is_earlier(life));
        lives.sort_by_key(|life| (*life != self.me(), !membership.has(*life), *life));
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
    /// doubt.
    fn sees(&self, one: Member, other: Member) -> bool {
        if one == self.me() {
            let peer = self.peers.iter().find(|peer| peer.node == other.node);
            let (suspect, membership) = (self.log.times.suspect, &self.log.membership);
            return peer.and_then(|peer| peer.life(self.now, suspect, membership)) == Some(other);
        }
        let watch = self.peers.iter().find(|peer| peer.node == one.node);
        // What a member said before it had the present membership may be older than the rail to one that
        // joined by it.
        let formed = self.log.membership.formed;
        let is_stale = |status: &Status| self.log.membership.has(one) && status.number < formed;
        let watch = watch.filter(|peer| !peer.status.as_ref().is_some_and(is_stale));
        watch.and_then(|peer| peer.sees(other)).unwrap_or(true)
    }

    fn desired_broken(&self, members: &[Member]) -> Vec<BrokenPath> {
        let membership = &self.log.membership;
        // A new life of a node has proved nothing broken yet.
        let stays = |path: &BrokenPath| {
            members.iter().any(|member| member.node == path.node && membership.has(*member))
                && !self.mended_by_owner(*path)
        };
        let reported = self.peers.iter().filter_map(|peer| peer.status.as_ref()).flat_map(|s| &s.broken);
        let fresh = reported.chain(&self.broken).filter(|path| {
            members.iter().any(|member| member.node == path.node) && !self.mended_by_owner(**path)
        });
        let mut broken: Vec<BrokenPath> =
            membership.broken.iter().filter(|path| stays(path)).chain(fresh).copied().collect();
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

    /// A disk was seen at a number that is not passed yet. Whoever saw it asks for that by itself.
    pub(super) fn seek_raise(&mut self, out: &mut Vec<Output>) {
        if self.floor < self.log.number || self.floor.0 == 0 {
            (self.floor.0, self.raise_until) = (0, None);
            return;
        }
        if self.raise_until.is_none_or(|until| self.now >= until) {
            self.raise_until = Some(self.now + self.patience());
            out.push(Output::Propose(Change::RaiseEpoch { above: self.floor }));
        }
    }
}
