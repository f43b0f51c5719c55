//! What the node that serves a mirror says of its legs (SPEC B10). Each such word is one entry of the log,
//! for a row that is still as the node knew it (see [`super::Expect::Row`]), and only from the node that
//! serves: so a leg that missed writes is called stale before anybody else could read it.

use super::answer::Outcome;
use super::database::{Database, Done};
use super::event::{Cause, RowEvent};
use super::refusal::Refusal;
use super::row::{Row, RowKey};
use crate::codec::coded;
use crate::protocol_rules::ProtocolRules;
use crate::rows::{LegRow, MirrorShape, Shape, StaleReason, VolumeRow};
use crate::view::Member;
use alloc::sync::Arc;
use alloc::vec::Vec;
use blockdev_proto::geometry::VolumeId;
use blockdev_proto::mirror::LegState;
use core::fmt;

/// What is said of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MirrorChange {
    /// A leg may lack writes. Said of one that is stale already, it only makes the row a newer one: whatever
    /// was asked for the older row is void then.
    Stale {
        /// The leg.
        leg: VolumeId,
        /// Why.
        why: StaleReason,
    },
    /// A leg has everything.
    InSync {
        /// The leg.
        leg: VolumeId,
    },
    /// The mirror has its records.
    Formatted,
}

impl fmt::Display for StaleReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StaleReason::New => "it was never copied to",
            StaleReason::Unreachable => "no node served it",
            StaleReason::Failed => "it failed a request",
            StaleReason::Lost => "its content was gone",
            StaleReason::Operator => "an operator took it out",
        })
    }
}

impl fmt::Display for MirrorChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MirrorChange::Stale { leg, why } => write!(f, "leg {} is stale, {why}", leg.0),
            MirrorChange::InSync { leg } => write!(f, "leg {} is in sync", leg.0),
            MirrorChange::Formatted => f.write_str("it has its records"),
        }
    }
}

impl<R: ProtocolRules> Database<R> {
    pub(super) fn change_mirror(
        &mut self,
        volume: VolumeId,
        by: Member,
        change: MirrorChange,
    ) -> Result<Done, Refusal> {
        let key = RowKey::Volume(volume);
        let before = self.rows.volume(volume).ok_or(Refusal::NoSuchRow { key: key.clone() })?.clone();
        if self.view().serving(volume) != Some(by.node) || !self.membership.has(by) {
            return Err(Refusal::NotServing { node: by.node, volume });
        }
        let Shape::Mirror(mut mirror) = before.shape.clone() else {
            return Err(Refusal::NoSuchRow { key });
        };
        mirror.change(volume, change)?;
        let after = VolumeRow { volume, shape: Shape::Mirror(mirror) };
        Arc::make_mut(&mut self.rows).put(Row::Volume(after.clone()));
        let changes =
            Vec::from([RowEvent { key, before: Some(Row::Volume(before)), after: Some(Row::Volume(after)) }]);
        Ok(Done { outcome: Outcome::default(), cause: Cause::Mirror(volume, change), changes })
    }

    /// A row that is written by hand: what only the node that serves can know stays as it is.
    pub(super) fn check_volume(&self, row: &VolumeRow) -> Result<(), Refusal> {
        let Some(known) = self.rows.volume(row.volume) else { return Ok(()) };
        let (known, wanted) = match (&known.shape, &row.shape) {
            (Shape::Mirror(known), Shape::Mirror(wanted)) => (known, wanted),
            // What is added comes after all bytes there are.
            (Shape::Concatenation(known), Shape::Concatenation(wanted)) if wanted.starts_with(known) => {
                return Ok(());
            }
            (known, wanted) if known == wanted => return Ok(()),
            _ => return Err(Refusal::PartsFixed { volume: row.volume }),
        };
        if (known.instance, known.fresh) != (wanted.instance, wanted.fresh) {
            return Err(Refusal::NotByHand { key: RowKey::Volume(row.volume) });
        }
        for leg in wanted.legs.iter().filter(|leg| leg.state == LegState::InSync) {
            let was = known.legs.iter().find(|old| old.identity == leg.identity && old.volume == leg.volume);
            if was.is_none_or(|old| old.state != LegState::InSync) {
                return Err(Refusal::LegByHand { volume: row.volume, leg: leg.volume });
            }
        }
        Ok(())
    }
}

impl MirrorShape {
    /// Legs that have everything.
    pub fn in_sync(&self) -> impl Iterator<Item = &LegRow> {
        self.legs.iter().filter(|leg| leg.state == LegState::InSync)
    }

    fn change(&mut self, volume: VolumeId, change: MirrorChange) -> Result<(), Refusal> {
        match change {
            MirrorChange::Stale { leg, why } => {
                if !self.in_sync().any(|other| other.volume != leg) {
                    return Err(Refusal::LastLeg { volume, leg });
                }
                let row = self.leg_mut(volume, leg)?;
                (row.state, row.why) = (LegState::Stale, why);
            }
            MirrorChange::InSync { leg } => self.leg_mut(volume, leg)?.state = LegState::InSync,
            MirrorChange::Formatted => self.fresh = false,
        }
        Ok(())
    }

    fn leg_mut(&mut self, volume: VolumeId, leg: VolumeId) -> Result<&mut LegRow, Refusal> {
        let found = self.legs.iter_mut().find(|row| row.volume == leg);
        found.ok_or(Refusal::NoLeg { volume, leg })
    }
}

coded! {
    enum MirrorChange { 1 = Stale { leg, why }, 2 = InSync { leg }, 3 = Formatted }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Bench, member, virtual_disk};
    use super::*;
    use crate::ccd::{Change, Expect, RowChange};
    use crate::rows::VirtualDiskRow;
    use alloc::vec;
    use blockdev_proto::geometry::DiskId;
    use transport_proto::identity::NodeId;

    const MIRROR: VolumeId = VolumeId(5);

    fn leg(volume: u32, state: LegState) -> LegRow {
        LegRow { volume: VolumeId(volume), identity: u64::from(volume), state, why: StaleReason::New }
    }

    fn row(legs: Vec<LegRow>) -> RowChange {
        let shape = Shape::Mirror(MirrorShape { instance: 9, fresh: true, legs });
        RowChange::Put(Row::Volume(VolumeRow { volume: MIRROR, shape }))
    }

    /// Virtual disks 1 and 2 become a mirror that nodes 1 and 2 may serve.
    fn mirrored() -> Bench {
        let mut bench = Bench::formed();
        let known = virtual_disk(1, 11, &[1]);
        let whole = VirtualDiskRow {
            id: MIRROR,
            name: "m".into(),
            candidates: vec![(NodeId(1), DiskId::PARTS), (NodeId(2), DiskId::PARTS)],
            size_bytes: 4096,
            ..known
        };
        let legs = vec![leg(1, LegState::InSync), leg(2, LegState::Stale)];
        let rows = vec![RowChange::Put(Row::VirtualDisk(whole)), row(legs)];
        bench.give(Change::Rows(rows)).result.expect("a mirror");
        bench
    }

    fn says(by: u16, change: MirrorChange) -> Change {
        Change::Mirror { volume: MIRROR, by: member(by), change }
    }

    // proves: B10 C2
    #[test]
    fn only_who_serves_says_how_legs_stand_and_the_last_in_sync_stays_so() {
        let mut bench = mirrored();
        let in_sync = MirrorChange::InSync { leg: VolumeId(2) };
        let stale = |leg| MirrorChange::Stale { leg: VolumeId(leg), why: StaleReason::Unreachable };
        assert!(bench.refusal(says(2, in_sync)).contains("does not serve"));
        assert!(bench.refusal(says(1, stale(1))).contains("last"));
        bench.give(says(1, in_sync)).result.expect("it serves");
        bench.give(says(1, stale(1))).result.expect("another is in sync");
        assert!(bench.refusal(says(1, stale(2))).contains("last"));
        let mirror = bench.database.rows().volume(MIRROR).and_then(VolumeRow::mirror).expect("it is there");
        assert_eq!(mirror.in_sync().map(|leg| leg.volume.0).collect::<Vec<_>>(), [2]);
        let unknown = MirrorChange::InSync { leg: VolumeId(7) };
        assert!(bench.refusal(says(1, unknown)).contains("no leg"));
    }

    // proves: B10
    #[test]
    fn a_word_for_an_older_row_is_void() {
        let mut bench = mirrored();
        let key = RowKey::Volume(MIRROR);
        let revision = bench.database.revision(&key);
        let again = MirrorChange::Stale { leg: VolumeId(2), why: StaleReason::Failed };
        bench.give(says(1, again)).result.expect("stale again");
        let mut late = bench.command(says(1, MirrorChange::InSync { leg: VolumeId(2) }));
        late.expect.push(Expect::Row { key, revision });
        bench.apply(&late).answer().result.clone().expect_err("the row is a newer one");
    }

    // proves: B9 C2
    #[test]
    fn rows_of_volumes_are_checked_and_parts_are_nobody_elses() {
        let mut bench = mirrored();
        let by_hand =
            bench.refusal(Change::Rows(vec![row(vec![leg(1, LegState::InSync), leg(2, LegState::InSync)])]));
        assert!(by_hand.contains("copied to"), "{by_hand}");
        let none = bench.refusal(Change::Rows(vec![row(vec![leg(2, LegState::Stale)])]));
        assert!(none.contains("in sync"), "{none}");
        let twice = vec![leg(1, LegState::InSync), LegRow { identity: 8, ..leg(1, LegState::Stale) }];
        let twice = bench.refusal(Change::Rows(vec![row(twice)]));
        assert!(twice.contains("twice"), "{twice}");
        let itself = vec![leg(1, LegState::InSync), leg(5, LegState::Stale)];
        let itself = bench.refusal(Change::Rows(vec![row(itself)]));
        assert!(itself.contains("on itself"), "{itself}");
        let removed = vec![RowChange::Remove(RowKey::VirtualDisk(VolumeId(2)))];
        let removed = bench.refusal(Change::Prepare { changes: removed, deadline_ms: 900, hold: false });
        assert!(removed.contains("still used"), "{removed}");
        let bare = vec![RowChange::Remove(RowKey::Volume(MIRROR))];
        let bare = bench.refusal(Change::Rows(bare));
        assert!(bare.contains("parts"), "{bare}");
    }
}
