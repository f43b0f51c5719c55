//! Reservations of virtual disks (SPEC B12) as rows that come about by commands of nodes. The log puts the
//! commands of all nodes in one order, and its machine carries each out; that is what makes one of two who
//! want the same disk the loser. What a row keeps others from is enforced where the disk is served.

use super::answer::Outcome;
use super::database::{Database, Done};
use super::event::{Cause, RowEvent};
use super::refusal::Refusal;
use super::row::{Row, RowKey};
use crate::codec::coded;
use crate::protocol_rules::ProtocolRules;
use alloc::vec::Vec;
use blockdev_proto::geometry::VolumeId;
use blockdev_proto::reservation::{Command, Conflict, Held, Key, Kind, Registrant, Reservations};
use transport_proto::identity::NodeId;

/// The reservations of one virtual disk. Once there, the row stays as long as the disk, so that its
/// generation never goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationRow {
    /// The virtual disk.
    pub volume: VolumeId,
    /// Who is registered, and who holds it.
    pub reservations: Reservations,
}

impl<R: ProtocolRules> Database<R> {
    pub(super) fn reserve(
        &mut self,
        node: NodeId,
        volume: VolumeId,
        command: Command,
    ) -> Result<Done, Refusal> {
        if self.rows.virtual_disk(volume).is_none() {
            return Err(Refusal::NoSuchRow { key: RowKey::VirtualDisk(volume) });
        }
        if let Some(whole) = self.rows.whole_of(volume) {
            return Err(Refusal::PartReserved { volume, whole: whole.volume });
        }
        let registers = matches!(command, Command::Register { new, .. } if new != Key::NONE);
        if registers && self.rows.permission(volume).is_some_and(|row| !row.nodes.contains(&node)) {
            return Err(Refusal::NotPermitted { node, volume });
        }
        let before = self.reservations.get(&volume).cloned();
        let mut after = before.as_ref().map(|row| row.reservations.clone()).unwrap_or_default();
        let conflict = |conflict| Refusal::ReservationConflict { volume, conflict };
        after.apply(node, command).map_err(conflict)?;
        let changes = self.put_reservations(ReservationRow { volume, reservations: after });
        let cause = Cause::Reserved(volume, node, command);
        Ok(Done { outcome: Outcome::default(), cause, changes: changes.into_iter().collect() })
    }

    /// The change, if it is one.
    fn put_reservations(&mut self, after: ReservationRow) -> Option<RowEvent> {
        let key = RowKey::Reservation(after.volume);
        let before = self.reservations.insert(after.volume, after.clone());
        let (before, after) = (before.map(Row::Reservation), Some(Row::Reservation(after)));
        (before != after).then_some(RowEvent { key, before, after })
    }

    /// A virtual disk is gone, and who was registered with it.
    pub(super) fn forget_reservations(&mut self, volume: VolumeId) -> Option<RowEvent> {
        let row = self.reservations.remove(&volume)?;
        let key = RowKey::Reservation(volume);
        Some(RowEvent { key, before: Some(Row::Reservation(row)), after: None })
    }

    /// A node is gone for good: it holds nothing any more.
    pub(super) fn forget_host(&mut self, node: NodeId) -> Vec<RowEvent> {
        let rows: Vec<ReservationRow> = self.reservations.values().cloned().collect();
        let without = |mut row: ReservationRow| {
            row.reservations.forget(node);
            row
        };
        rows.into_iter().map(without).filter_map(|row| self.put_reservations(row)).collect()
    }
}

coded! {
    newtype Key
}
coded! {
    struct Registrant { node, key }
    struct Held { by, kind }
    struct Reservations { generation, registrants, held }
    struct ReservationRow { volume, reservations }
}
coded! {
    enum Kind {
        1 = WriteExclusive, 3 = ExclusiveAccess, 5 = WriteExclusiveRegistrants,
        6 = ExclusiveAccessRegistrants, 7 = WriteExclusiveAll, 8 = ExclusiveAccessAll
    }
    enum Command {
        1 = Register { existing, new }, 2 = Reserve { key, kind }, 3 = Release { key, kind },
        4 = Preempt { key, victim, kind, abort }, 5 = Clear { key }
    }
    enum Conflict {
        1 = NotRegistered, 2 = OtherKey, 3 = Held { by, kind }, 4 = OtherKind { kind }, 5 = NoVictim
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Bench, member};
    use super::*;
    use crate::ccd::{Change, OperationId, RowChange};
    use crate::rows::PermissionRow;
    use alloc::string::ToString;
    use alloc::vec;

    const DISK: VolumeId = VolumeId(1);

    fn asks(bench: &mut Bench, node: u16, command: Command) -> Result<Outcome, Refusal> {
        let mut asked = bench.command(Change::Reservation { volume: DISK, command });
        let sequence = asked.operation.sequence;
        asked.operation = OperationId { node: NodeId(node), life: member(node).incarnation, sequence };
        bench.apply(&asked).answer().result.clone()
    }

    fn register(node: u16) -> Command {
        Command::Register { existing: None, new: Key(u64::from(node)) }
    }

    fn reserve(node: u16) -> Command {
        Command::Reserve { key: Key(u64::from(node)), kind: Kind::WriteExclusive }
    }

    fn row(bench: &Bench) -> Reservations {
        bench.database.reservations().next().map(|row| row.reservations.clone()).expect("there is one")
    }

    // proves: B12 C2
    #[test]
    fn of_two_who_reserve_the_first_in_the_log_has_it_and_no_mapping_is_disturbed() {
        let mut bench = Bench::formed();
        let number = bench.mapping_number(1);
        for node in [1, 2] {
            asks(&mut bench, node, register(node)).expect("free");
        }
        let permission =
            PermissionRow { volume: DISK, owner: 0, group: 0, mode: 0o600, nodes: vec![NodeId(1)] };
        bench.put(Row::Permission(permission)).result.expect("a sound row");
        let refused = asks(&mut bench, 3, register(3)).expect_err("it may not open it").to_string();
        assert!(refused.contains("may not open"), "{refused}");
        asks(&mut bench, 2, reserve(2)).expect("the first");
        let refused = asks(&mut bench, 1, reserve(1)).expect_err("the second").to_string();
        assert!(refused.contains("conflict") && refused.contains("node 2 holds it"), "{refused}");
        assert_eq!(row(&bench).held.map(|held| held.by), Some(NodeId(2)));
        assert_eq!(bench.mapping_number(1), number);
        // The same question again changes nothing.
        let revision = bench.database.revision(&RowKey::Reservation(DISK));
        asks(&mut bench, 2, reserve(2)).expect("its own");
        assert_eq!(bench.database.revision(&RowKey::Reservation(DISK)), revision);
    }

    // proves: B12 C2
    #[test]
    fn reservations_survive_as_bytes_and_go_with_the_disk_and_with_the_node() {
        let mut bench = Bench::formed();
        for node in [1, 2] {
            asks(&mut bench, node, register(node)).expect("free");
        }
        asks(&mut bench, 2, reserve(2)).expect("free");
        let restored: Database = Database::restore(&bench.database.snapshot()).expect("its own bytes");
        assert_eq!(restored.snapshot(), bench.database.snapshot());
        assert_eq!(restored.reservations().next(), bench.database.reservations().next());
        // By hand nobody writes them.
        let mine = ReservationRow { volume: DISK, reservations: row(&bench) };
        let by_hand = bench.refusal(Change::Rows(vec![RowChange::Put(Row::Reservation(mine))]));
        assert!(by_hand.contains("by itself"), "{by_hand}");
        bench.database.forget_host(NodeId(2));
        assert_eq!((row(&bench).held, row(&bench).registrants.len()), (None, 1));
        let gone = vec![RowChange::Remove(RowKey::VirtualDisk(DISK))];
        bench.give(Change::Prepare { changes: gone, deadline_ms: 900, hold: false }).result.expect("begun");
        let id = bench.database.reconfigurations().last().map(|row| row.id).expect("one");
        for node in [1, 2, 3] {
            bench.give(Change::Ack { reconfiguration: id, member: member(node) }).result.expect("asked");
        }
        assert_eq!(bench.database.reservations().count(), 0);
    }
}
