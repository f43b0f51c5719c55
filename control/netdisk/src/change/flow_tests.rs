//! The course of a change against a database in memory: others change rows in between, answers get lost,
//! members stand still or do not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use super::*;
use crate::change::find;
use crate::change::sample::{database, member};
use control_proto::ccd::{CancelCause, Row};
use std::collections::VecDeque;

/// What happens to the next proposal.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// It is applied and answered.
    Fine,
    /// It is applied; the answer is lost.
    AnswerLost,
    /// It is lost on its way.
    Lost,
    /// Somebody else renames the virtual disk before it comes.
    Overtaken,
}

struct Toy {
    database: Database,
    fates: VecDeque<Fate>,
    sequence: u64,
    /// What members do when they are waited for.
    members: fn(&mut Toy),
    proposals: usize,
}

impl Toy {
    fn new(fates: &[Fate]) -> Toy {
        let members = Toy::acknowledge;
        Toy {
            database: database(),
            fates: fates.iter().copied().collect(),
            sequence: 0,
            members,
            proposals: 0,
        }
    }

    fn apply(&mut self, expect: Vec<Expect>, change: Change) -> Answer {
        self.sequence += 1;
        let operation = OperationId { node: NodeId(1), life: Incarnation(1), sequence: self.sequence };
        let index = self.database.index() + 1;
        self.database.apply(index, &Command { operation, expect, change }).answer().clone()
    }

    fn acknowledge(&mut self) {
        let waited: Vec<_> =
            self.database.live_reconfigurations().map(|row| (row.id, row.missing.clone())).collect();
        for (reconfiguration, missing) in waited {
            for member in missing {
                self.apply(Vec::new(), Change::Ack { reconfiguration, member }).result.unwrap();
            }
        }
    }

    fn give_up(&mut self) {
        let ids: Vec<_> = self.database.live_reconfigurations().map(|row| row.id).collect();
        for reconfiguration in ids {
            let why = CancelCause::Deadline;
            self.apply(Vec::new(), Change::Cancel { reconfiguration, why }).result.unwrap();
        }
    }

    fn rename(&mut self, name: &str) {
        let mut row = self.database.rows().virtual_disks[0].clone();
        row.name = name.into();
        self.apply(Vec::new(), Change::Rows(vec![RowChange::Put(Row::VirtualDisk(row))])).result.unwrap();
    }

    fn run(&mut self, plan: &dyn Fn(&Database) -> anyhow::Result<Plan>, hold: bool) -> anyhow::Result<Ended> {
        carry_out(self, plan, 500, hold, &mut |_| {}).map(|(_, _, ended)| ended)
    }
}

impl Cluster for Toy {
    fn database(&mut self) -> anyhow::Result<Database> {
        Ok(self.database.clone())
    }

    fn propose(&mut self, expect: Vec<Expect>, change: Change) -> anyhow::Result<Proposed> {
        self.proposals += 1;
        match self.fates.pop_front().unwrap_or(Fate::Fine) {
            Fate::Fine => Ok(Proposed::Answered(self.apply(expect, change))),
            Fate::AnswerLost => {
                self.apply(expect, change);
                Ok(Proposed::Unknown)
            }
            Fate::Lost => Ok(Proposed::Unknown),
            Fate::Overtaken => {
                self.rename("renamed");
                Ok(Proposed::Answered(self.apply(expect, change)))
            }
        }
    }

    fn pause(&mut self, _: Duration) {
        (self.members)(self);
    }
}

/// One more byte of the owner's number, whatever it is: doing it twice would show.
fn next_owner(database: &Database) -> anyhow::Result<Plan> {
    let mut row = database.rows().permissions[0].clone();
    row.owner += 1;
    Ok(Plan::new("owner", vec![RowChange::Put(Row::Permission(row))]))
}

fn swap(database: &Database) -> anyhow::Result<Plan> {
    let mut row = find::virtual_disk(database.rows(), "0")?.clone();
    row.candidates = vec![(NodeId(2), row.candidates[0].1), (NodeId(1), row.candidates[0].1)];
    Ok(Plan::new("swapped", vec![RowChange::Put(Row::VirtualDisk(row))]))
}

// proves: C2
#[test]
fn a_change_whose_answer_or_question_is_lost_is_made_once() {
    for fates in [&[Fate::AnswerLost][..], &[Fate::Lost], &[Fate::Lost, Fate::Lost, Fate::AnswerLost], &[]] {
        let mut toy = Toy::new(fates);
        let before = toy.database.rows().permissions[0].owner;
        assert!(toy.run(&next_owner, false).unwrap().index.is_some());
        assert_eq!(toy.database.rows().permissions[0].owner, before + 1, "{fates:?}");
    }
}

#[test]
fn a_change_that_is_never_answered_ends_as_unknown() {
    let mut toy = Toy::new(&[Fate::Lost; 100]);
    let error = toy.run(&next_owner, false).unwrap_err();
    assert!(matches!(error.downcast_ref::<Failure>(), Some(Failure::Unknown)), "{error:#}");
    assert_eq!(toy.proposals, ATTEMPTS_MAX as usize);
}

// proves: C4
#[test]
fn a_mapping_changes_when_all_members_stand_still_also_when_the_answer_is_lost() {
    for fates in [&[Fate::Fine][..], &[Fate::AnswerLost], &[Fate::Lost, Fate::AnswerLost]] {
        let mut toy = Toy::new(fates);
        let ended = toy.run(&swap, false).unwrap();
        assert!(!ended.held);
        assert_eq!(toy.database.rows().virtual_disks[0].candidates[0].0, NodeId(2), "{fates:?}");
        assert_eq!(toy.database.reconfigurations().count(), 1, "{fates:?}");
    }
}

#[test]
fn a_mapping_whose_members_do_not_stand_still_stays_and_the_reason_is_told() {
    let mut toy = Toy::new(&[]);
    toy.members = Toy::give_up;
    let error = toy.run(&swap, false).unwrap_err().to_string();
    assert!(error.contains("everything is as before") && error.contains("in time"), "{error}");
    assert_eq!(toy.database.rows().virtual_disks[0].candidates[0].0, NodeId(1));
}

#[test]
fn a_held_change_ends_when_all_stand_still_and_waits_for_its_word() {
    let mut toy = Toy::new(&[]);
    let ended = toy.run(&swap, true).unwrap();
    assert!(ended.held);
    assert_eq!(toy.database.rows().virtual_disks[0].candidates[0].0, NodeId(1));
    let reconfiguration = ended.reconfiguration.unwrap();
    toy.apply(Vec::new(), Change::Proceed { reconfiguration }).result.unwrap();
    assert_eq!(toy.database.rows().virtual_disks[0].candidates[0].0, NodeId(2));
}

#[test]
fn rows_that_others_changed_meanwhile_are_planned_again_and_nothing_of_theirs_is_lost() {
    let grow = |database: &Database| {
        let mut row = find::virtual_disk(database.rows(), "0")?.clone();
        row.read_only = true;
        Ok(Plan::new("read only", vec![RowChange::Put(Row::VirtualDisk(row))]))
    };
    let mut toy = Toy::new(&[Fate::Overtaken]);
    toy.run(&grow, false).unwrap();
    let row = &toy.database.rows().virtual_disks[0];
    assert_eq!((row.name.as_str(), row.read_only), ("renamed", true));
    assert_eq!(toy.proposals, 2);
}

#[test]
fn what_is_so_already_is_no_change_and_what_is_refused_says_why() {
    let mut toy = Toy::new(&[]);
    let same = |database: &Database| {
        let row = database.rows().virtual_disks[0].clone();
        Ok(Plan::new("same", vec![RowChange::Put(Row::VirtualDisk(row))]))
    };
    assert!(toy.run(&same, false).unwrap().index.is_none());
    let small = |database: &Database| {
        let mut row = database.rows().virtual_disks[0].clone();
        row.size_bytes = 4096;
        Ok(Plan::new("small", vec![RowChange::Put(Row::VirtualDisk(row))]))
    };
    assert!(toy.run(&small, false).unwrap_err().to_string().contains("only grows"));
    assert_eq!(toy.proposals, 0, "what the copy refuses is not proposed");
    assert!(member(1).node == NodeId(1));
}
