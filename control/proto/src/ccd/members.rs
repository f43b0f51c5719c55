//! The membership row and the commands that change it (SPEC C3, D5).

use super::answer::Outcome;
use super::database::{Database, Done};
use super::event::{Cause, RowEvent};
use super::refusal::Refusal;
use super::row::{Row, RowKey};
use super::tombstone::{DistressLevel, REASON_BYTES_MAX, Tombstone};
use crate::codec::coded;
use crate::protocol_rules::ProtocolRules;
use crate::view::{BrokenPath, Member};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use transport_proto::identity::{Epoch, NodeId};

/// Broken paths that are known at one time at the most; further reports wait until some are mended.
pub const BROKEN_MAX: usize = 4096;
/// Configuration numbers stay below; a number above is a fault of whoever told it.
pub(super) const NUMBER_MAX: Epoch = Epoch(1 << 62);

/// Who is a member at one configuration number. Lists rise, so that equal rows are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipRow {
    /// The configuration number of its last change; 0 before the first. Compared by
    /// [`super::Change::Membership`].
    pub number: Epoch,
    /// That of the last change of members: every virtual disk's mapping is of this number or a higher one.
    pub formed: Epoch,
    /// Who is in.
    pub members: Vec<Member>,
    /// The last life of each node that left; neither it nor an earlier one comes back.
    pub departed: Vec<Member>,
    /// Paths found broken, of members.
    pub broken: Vec<BrokenPath>,
    /// Who may change the membership, and grants leases: the leader of the log that said so last.
    pub steward: Option<Steward>,
}

/// A leader of the log that has taken over the care of the membership, with an entry of the log: from there
/// on, what a leader before it still proposes is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Steward {
    /// The node, in the life in which it leads.
    pub member: Member,
    /// The term in which it does.
    pub term: u64,
}

impl MembershipRow {
    /// Whether the node is in, in this very life.
    pub fn has(&self, member: Member) -> bool {
        self.members.contains(&member)
    }

    /// Whether this life of the node left and may not come back.
    pub fn is_over(&self, member: Member) -> bool {
        self.departed.iter().any(|gone| gone.node == member.node && gone.incarnation >= member.incarnation)
    }
}

/// Why a node is in, or is not in any more, or lost a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It came.
    Joined,
    /// It came in a new life.
    Restarted,
    /// It said that it leaves.
    Left,
    /// It cannot be reached by any rail.
    Unreachable,
    /// Some members do not reach it, and it is the one to go.
    Parted,
    /// Its oldest disk I/O is of this age.
    HungDisk {
        /// ms.
        age_ms: u32,
    },
    /// It cried for help.
    Distress,
    /// It does not reach a disk.
    PathBroken,
    /// It reaches a disk again.
    PathMended,
}

/// A node, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberCause {
    /// The node.
    pub node: NodeId,
    /// Why.
    pub why: Why,
}

impl fmt::Display for MemberCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} ", self.node.0)?;
        match self.why {
            Why::Joined => f.write_str("joined"),
            Why::Restarted => f.write_str("was restarted and joined anew"),
            Why::Left => f.write_str("left in good order"),
            Why::Unreachable => f.write_str("cannot be reached by any rail"),
            Why::Parted => f.write_str("is not reached by all others"),
            Why::HungDisk { age_ms } => write!(f, "has a disk that has not answered for {age_ms} ms"),
            Why::Distress => f.write_str("cried for help"),
            Why::PathBroken => f.write_str("does not reach a disk"),
            Why::PathMended => f.write_str("reaches its disk again"),
        }
    }
}

coded! {
    struct MembershipRow { number, formed, members, departed, broken, steward }
    struct Steward { member, term }
    struct MemberCause { node, why }
}
coded! {
    enum Why {
        1 = Joined, 2 = Restarted, 3 = Left, 4 = Unreachable, 5 = Parted, 6 = HungDisk { age_ms },
        7 = Distress, 8 = PathBroken, 9 = PathMended
    }
}

impl<R: ProtocolRules> Database<R> {
    pub(super) fn take_stewardship(&mut self, steward: Steward) -> Result<Done, Refusal> {
        let known = self.membership.steward;
        if known == Some(steward) {
            return Ok(Done::nothing());
        }
        let later = |known: Steward| (steward.term, steward.member) > (known.term, known.member);
        if !known.is_none_or(later) {
            return Err(Refusal::NotSteward { term: steward.term });
        }
        let before = self.membership.clone();
        self.membership.steward = Some(steward);
        let changes = Vec::from([RowEvent {
            key: RowKey::Membership,
            before: Some(Row::Membership(before)),
            after: Some(Row::Membership(self.membership.clone())),
        }]);
        Ok(Done { outcome: Outcome::default(), cause: Cause::Steward(steward.member.node), changes })
    }

    pub(super) fn change_members(
        &mut self,
        by: Steward,
        expect: Epoch,
        members: &[Member],
        broken: &[BrokenPath],
        causes: &[MemberCause],
    ) -> Result<Done, Refusal> {
        let before = self.membership.clone();
        if before.steward != Some(by) {
            return Err(Refusal::NotSteward { term: by.term });
        }
        if expect != before.number {
            return Err(Refusal::MembershipChanged { expected: expect, found: before.number });
        }
        self.check_members(members, broken)?;
        if before.members == members && before.broken == broken {
            return Ok(Done::nothing());
        }
        let mut changes = Vec::from([self.set_members(members.to_vec(), broken.to_vec())]);
        let mut cause = Cause::Members(causes.to_vec());
        self.members_changed(&mut changes, &mut cause);
        Ok(Done { outcome: Outcome::default(), cause, changes })
    }

    /// Puts a membership, checked, into force, at a new number.
    pub(super) fn set_members(&mut self, members: Vec<Member>, broken: Vec<BrokenPath>) -> RowEvent {
        let before = self.membership.clone();
        let number = self.raise_number();
        let mut departed = before.departed.clone();
        for gone in before.members.iter().filter(|member| !members.contains(member)) {
            departed.retain(|other| other.node != gone.node);
            departed.push(*gone);
        }
        departed.retain(|gone| !members.iter().any(|member| member.node == gone.node));
        departed.sort();
        if before.members == members {
            self.paths_changed(&before.broken, &broken, number);
        }
        let formed = if before.members == members { before.formed } else { number };
        let steward = before.steward;
        self.membership = MembershipRow { number, formed, members, departed, broken, steward };
        RowEvent {
            key: RowKey::Membership,
            before: Some(Row::Membership(before)),
            after: Some(Row::Membership(self.membership.clone())),
        }
    }

    /// Only those disks whose paths changed get a new number.
    fn paths_changed(&mut self, before: &[BrokenPath], after: &[BrokenPath], number: Epoch) {
        let changed = before.iter().filter(|path| !after.contains(path));
        let changed: Vec<BrokenPath> =
            changed.chain(after.iter().filter(|path| !before.contains(path))).copied().collect();
        let rows = self.rows.clone();
        for row in &rows.virtual_disks {
            let concerns = |path: &BrokenPath| row.candidates.contains(&(path.node, path.disk));
            if changed.iter().any(concerns) {
                self.volume_changed(row.id, number);
            }
        }
    }

    fn check_members(&self, members: &[Member], broken: &[BrokenPath]) -> Result<(), Refusal> {
        let rise = members.windows(2).all(|pair| pair[0].node < pair[1].node);
        let paths_rise = broken.windows(2).all(|pair| pair[0] < pair[1]);
        let of_members = broken.iter().all(|path| members.iter().any(|member| member.node == path.node));
        let well = !members.is_empty() && rise && paths_rise && of_members && broken.len() <= BROKEN_MAX;
        if !well {
            return Err(Refusal::MembersMalformed);
        }
        for &member in members {
            let node = member.node;
            let earlier = |known: &&Member| known.node == node && known.incarnation > member.incarnation;
            if self.rows.node(node).is_none() {
                return Err(Refusal::NotConfigured { node });
            } else if self.tombstones.contains_key(&node) {
                return Err(Refusal::Tombstoned { node });
            } else if self.membership.is_over(member) || self.membership.members.iter().any(|m| earlier(&m)) {
                return Err(Refusal::LifeIsOver { member });
            }
        }
        Ok(())
    }

    pub(super) fn raise_epoch(&mut self, above: Epoch) -> Result<Done, Refusal> {
        if above >= NUMBER_MAX {
            return Err(Refusal::NumberTooLarge { number: above });
        }
        if above < self.number {
            return Ok(Done::nothing());
        }
        self.base = self.base.max((above.0 + 1).saturating_sub(self.index));
        let number = self.raise_number();
        let before = self.membership.clone();
        self.membership.formed = number;
        self.membership.number = number;
        let changes = Vec::from([RowEvent {
            key: RowKey::Membership,
            before: Some(Row::Membership(before)),
            after: Some(Row::Membership(self.membership.clone())),
        }]);
        Ok(Done { outcome: Outcome::default(), cause: Cause::NumberSpent(above), changes })
    }

    /// A node gave up: it is out in the same moment, and stays out.
    pub(super) fn distress(
        &mut self,
        member: Member,
        level: DistressLevel,
        reason: &str,
    ) -> Result<Done, Refusal> {
        let node = member.node;
        if self.rows.node(node).is_none() {
            return Err(Refusal::NotConfigured { node });
        }
        let known = |other: &&Member| other.node == node && other.incarnation > member.incarnation;
        if self.membership.is_over(member) || self.membership.members.iter().any(|other| known(&other)) {
            return Err(Refusal::LifeIsOver { member });
        }
        let before = self.tombstones.get(&node).cloned();
        let stands = |stone: &Tombstone| stone.member >= member && stone.level >= level;
        if before.as_ref().is_some_and(stands) {
            return Ok(Done::nothing());
        }
        let reason = shortened(reason);
        let stone = Tombstone { member, level, reason };
        self.tombstones.insert(node, stone.clone());
        let mut changes = Vec::from([RowEvent {
            key: RowKey::Tombstone(node),
            before: before.map(Row::Tombstone),
            after: Some(Row::Tombstone(stone)),
        }]);
        let mut cause = Cause::Distress(member, level);
        // The takeover is part of the same entry, so that nothing is waited for. Nobody takes over from the
        // last one.
        let stays: Vec<Member> =
            self.membership.members.iter().filter(|other| other.node != node).copied().collect();
        if self.membership.has(member) && !stays.is_empty() {
            let broken = self.membership.broken.iter().filter(|path| path.node != node).copied().collect();
            changes.push(self.set_members(stays, broken));
            self.members_changed(&mut changes, &mut cause);
        }
        Ok(Done { outcome: Outcome::default(), cause, changes })
    }

    pub(super) fn clear(&mut self, node: NodeId) -> Result<Done, Refusal> {
        let stone = self.tombstones.remove(&node).ok_or(Refusal::NoTombstone { node })?;
        let changes = Vec::from([RowEvent {
            key: RowKey::Tombstone(node),
            before: Some(Row::Tombstone(stone)),
            after: None,
        }]);
        Ok(Done { outcome: Outcome::default(), cause: Cause::Cleared(node), changes })
    }
}

fn shortened(reason: &str) -> String {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    String::from(&reason[..end])
}
