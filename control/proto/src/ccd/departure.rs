//! A member that goes for good (SPEC C5): its membership and its rows go in one step, so that there is no
//! moment in which it is one without the other.

use super::database::{Database, Done};
use super::event::Cause;
use super::refusal::Refusal;
use super::row::RowChange;
use crate::protocol_rules::ProtocolRules;
use crate::view::Member;
use alloc::vec::Vec;

impl<R: ProtocolRules> Database<R> {
    /// The row changes must take the node out; they are not waited for, since the node serves nothing any
    /// more.
    pub(super) fn depart(&mut self, member: Member, changes: &[RowChange]) -> Result<Done, Refusal> {
        let node = member.node;
        if self.rows.node(node).is_none() {
            return Ok(Done::nothing());
        }
        if self.membership.members.iter().any(|other| other.node == node && *other != member) {
            return Err(Refusal::LifeIsOver { member });
        }
        let serves =
            |row: &&crate::rows::VirtualDiskRow| row.candidates.iter().any(|(other, _)| *other == node);
        if let Some(row) = self.rows.virtual_disks.iter().find(serves) {
            return Err(Refusal::StillServes { node, name: row.name.clone() });
        }
        // On a copy: the rows are refused or taken as a whole, and the members with them.
        let mut after = self.clone();
        let stays: Vec<Member> =
            self.membership.members.iter().filter(|other| other.node != node).copied().collect();
        let mut events = Vec::new();
        let mut cause = Cause::Departed(node);
        if self.membership.has(member) {
            if stays.is_empty() {
                return Err(Refusal::MembersMalformed);
            }
            let broken = self.membership.broken.iter().filter(|path| path.node != node).copied().collect();
            events.push(after.set_members(stays, broken));
            after.members_changed(&mut events, &mut cause);
            // What that decided of a reconfiguration is told by its own row.
            cause = Cause::Departed(node);
        }
        let staged = after.stage(changes, None)?;
        events.extend(after.take_over_at_once(staged));
        if after.rows.node(node).is_some() {
            return Err(Refusal::IsMember { node });
        }
        *self = after;
        Ok(Done { outcome: Default::default(), cause, changes: events })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Bench, disk, link, member, virtual_disk};
    use super::*;
    use crate::ccd::{Change, Row, RowKey};
    use alloc::string::ToString;
    use alloc::vec;
    use transport_proto::identity::NodeId;

    fn gone(id: u16, stay: &[u16]) -> Vec<RowChange> {
        vec![
            RowChange::Remove(RowKey::Node(NodeId(id))),
            RowChange::Put(Row::Link(link(stay))),
            RowChange::Put(Row::Disk(disk(12, &[2]))),
        ]
    }

    /// Node 3 serves nothing any more.
    fn handed_over() -> Bench {
        let mut bench = Bench::formed();
        let changes = vec![RowChange::Put(Row::VirtualDisk(virtual_disk(2, 12, &[2])))];
        let begun = bench.give(Change::Prepare { changes, deadline_ms: 900, hold: false });
        let reconfiguration = begun.result.expect("it begins").reconfiguration.expect("a number");
        for node in 1..=3 {
            bench.give(Change::Ack { reconfiguration, member: member(node) }).result.expect("an ack");
        }
        bench
    }

    // proves: C3 C5
    #[test]
    fn a_member_goes_with_its_row_in_one_step_and_its_life_does_not_come_back() {
        let mut bench = handed_over();
        let before = bench.database.number();
        let change = Change::Depart { member: member(3), changes: gone(3, &[1, 2]) };
        bench.give(change.clone()).result.expect("it serves nothing");
        assert!(bench.database.rows().node(NodeId(3)).is_none());
        assert_eq!(bench.database.membership().members, [member(1), member(2)]);
        assert!(bench.database.number() > before);
        assert!(bench.database.membership().is_over(member(3)));
        let event = bench.database.events_since(bench.index - 1).expect("no gap").next().cloned();
        assert_eq!(event.expect("an event").cause.to_string(), "node 3 left for good");
        bench.give(change).result.expect("said again, it is so already");
    }

    #[test]
    fn a_departure_that_is_refused_leaves_everything_as_it_was() {
        let mut bench = Bench::formed();
        let serves = bench.refusal(Change::Depart { member: member(3), changes: gone(3, &[1, 2]) });
        assert!(serves.contains("still serves vd2"), "{serves}");
        let mut bench = handed_over();
        let members = bench.database.membership().clone();
        // The rows forget the link, or keep the node.
        let half = vec![RowChange::Remove(RowKey::Node(NodeId(3)))];
        bench.refusal(Change::Depart { member: member(3), changes: half });
        let none = vec![RowChange::Put(Row::Disk(disk(77, &[1])))];
        bench.refusal(Change::Depart { member: member(3), changes: none });
        let mut earlier = member(3);
        earlier.incarnation.0 -= 1;
        bench.refusal(Change::Depart { member: earlier, changes: gone(3, &[1, 2]) });
        assert_eq!(*bench.database.membership(), members);
    }
}
