//! Changes of what is in use: acknowledgements, members that go and come meanwhile, holding, cancelling.

use super::*;

/// The primary of virtual disk 1 moves from node 1 to node 2.
fn swap() -> Vec<RowChange> {
    vec![RowChange::Put(Row::VirtualDisk(virtual_disk(1, 11, &[2, 1])))]
}

fn prepare(bench: &mut Bench, changes: Vec<RowChange>, hold: bool) -> ReconfigurationId {
    let answer = bench.give(Change::Prepare { changes, deadline_ms: 5000, hold });
    answer.result.expect("it begins").reconfiguration.expect("it has an id")
}

fn ack(id: ReconfigurationId, member: Member) -> Change {
    Change::Ack { reconfiguration: id, member }
}

fn serving(bench: &Bench) -> Option<u16> {
    bench.database.view().serving(VolumeId(1)).map(|node| node.0)
}

fn suspended(bench: &Bench, volume: u32) -> bool {
    bench.database.view().mapping(VolumeId(volume)).expect("it is there").suspended
}

fn phase(bench: &Bench, id: ReconfigurationId) -> Phase {
    bench.database.reconfiguration(id).expect("it is kept").phase
}

// proves: C4
#[test]
fn the_last_acknowledgement_changes_the_rows_in_the_same_entry() {
    let mut bench = Bench::formed();
    let other = bench.mapping_number(2);
    let id = prepare(&mut bench, swap(), false);
    assert!(suspended(&bench, 1) && !suspended(&bench, 2));
    assert_eq!((bench.mapping_number(1), bench.mapping_number(2)), (bench.index, other));
    for node in [1, 3] {
        bench.give(ack(id, member(node))).result.expect("an acknowledgement");
        assert_eq!((serving(&bench), suspended(&bench, 1)), (Some(1), true));
    }
    let command = bench.command(ack(id, member(2)));
    let applied = bench.apply(&command);
    let event = applied.event().expect("an event");
    assert_eq!(event.cause, Cause::Committed(id));
    assert_eq!((serving(&bench), suspended(&bench, 1)), (Some(2), false));
    assert_eq!((bench.mapping_number(1), bench.mapping_number(2)), (bench.index, other));
    assert_eq!(phase(&bench, id), Phase::Committed { at: bench.index });
    let refusal = bench.refusal(ack(id, member(2)));
    assert_eq!(refusal, format!("reconfiguration {} is over: it is done", id.0));
}

// proves: C4
#[test]
fn an_acknowledgement_of_another_life_or_of_nobody_counts_for_nothing() {
    let mut bench = Bench::formed();
    let id = prepare(&mut bench, swap(), false);
    let earlier = Member { incarnation: Incarnation(99), ..member(2) };
    assert!(bench.refusal(ack(id, earlier)).contains("does not wait for this life of node 2"));
    assert!(bench.refusal(ack(id, member(9))).contains("does not wait for this life of node 9"));
    assert!(
        bench.refusal(ack(ReconfigurationId(77), member(2))).starts_with("there is no reconfiguration 77")
    );
    bench.give(ack(id, member(1))).result.expect("counts");
    bench.give(ack(id, member(1))).result.expect("twice is once");
    assert_eq!(bench.database.reconfiguration(id).expect("live").missing, [member(2), member(3)]);
}

// proves: C4
#[test]
fn a_member_that_is_removed_is_not_waited_for_and_one_that_joins_is() {
    let mut bench = Bench::formed();
    let id = prepare(&mut bench, swap(), false);
    bench.give(ack(id, member(1))).result.expect("counts");
    // Node 2 is restarted: its first life is removed, its second one is to acknowledge.
    let again = Member { incarnation: Incarnation(200), ..member(2) };
    bench.members(&[member(1), again, member(3)]).result.expect("a restart");
    assert_eq!(bench.database.reconfiguration(id).expect("live").missing, [again, member(3)]);
    assert!(bench.refusal(ack(id, member(2))).contains("does not wait for this life"));
    bench.give(ack(id, again)).result.expect("counts");
    assert_eq!(phase(&bench, id), Phase::Preparing);
    // The last one missing is removed, and that decides it.
    bench.members(&[member(1), again]).result.expect("node 3 is gone");
    assert_eq!(phase(&bench, id), Phase::Committed { at: bench.index });
    assert_eq!((serving(&bench), suspended(&bench, 1)), (Some(2), false));
}

// proves: C4
#[test]
fn a_cancelled_one_leaves_the_rows_as_they_were_under_a_new_number() {
    let mut bench = Bench::formed();
    let before = bench.database.rows().clone();
    let id = prepare(&mut bench, swap(), false);
    bench.give(ack(id, member(1))).result.expect("counts");
    bench.give(Change::Cancel { reconfiguration: id, why: CancelCause::Deadline }).result.expect("too late");
    assert_eq!((bench.database.rows(), suspended(&bench, 1)), (&before, false));
    assert_eq!(bench.mapping_number(1), bench.index);
    let refusal = bench.refusal(ack(id, member(2)));
    assert!(refusal.ends_with("it was given up, a node did not acknowledge in time"), "{refusal}");
    bench.refusal(Change::Cancel { reconfiguration: id, why: CancelCause::Operator });
}

// proves: C5
#[test]
fn a_disk_moves_with_its_cable_between_acknowledgement_and_change() {
    let mut bench = Bench::formed();
    let moved = vec![
        RowChange::Put(Row::Disk(disk(11, &[2, 3]))),
        RowChange::Put(Row::VirtualDisk(virtual_disk(1, 11, &[2, 3]))),
    ];
    let id = prepare(&mut bench, moved, true);
    assert!(bench.refusal(Change::Proceed { reconfiguration: id }).contains("is not held"));
    for node in 1..=3 {
        bench.give(ack(id, member(node))).result.expect("counts");
    }
    assert_eq!(phase(&bench, id), Phase::Held { since: bench.index });
    assert_eq!((serving(&bench), suspended(&bench, 1)), (Some(1), true));
    // Members that come and go while it is held are not asked again: everything stands still.
    bench.members(&[member(1), member(2)]).result.expect("node 3 is gone");
    assert!(matches!(phase(&bench, id), Phase::Held { .. }));
    bench.give(Change::Proceed { reconfiguration: id }).result.expect("the cable is moved");
    assert_eq!((serving(&bench), suspended(&bench, 1)), (Some(2), false));
    assert_eq!(bench.database.rows().disk(DiskId(11)).expect("there").ports[1].node, NodeId(3));
}

// proves: C5
#[test]
fn growing_swapping_adding_removing_a_secondary_and_removing_a_disk_go_the_same_way() {
    let mut bench = Bench::formed();
    let with_third = RowChange::Put(Row::Disk(disk(11, &[1, 2, 3])));
    let row = |change: fn(&mut VirtualDiskRow)| {
        let mut row = virtual_disk(1, 11, &[1, 2]);
        change(&mut row);
        RowChange::Put(Row::VirtualDisk(row))
    };
    let courses = [
        vec![row(|row| row.size_bytes *= 2)],
        vec![with_third, row(|row| (row.size_bytes *= 2, row.candidates.push((NodeId(3), DiskId(11)))).0)],
        vec![row(|row| (row.size_bytes *= 2, row.candidates.truncate(1)).0)],
        vec![RowChange::Remove(RowKey::VirtualDisk(VolumeId(1)))],
    ];
    for changes in courses {
        let id = prepare(&mut bench, changes.clone(), false);
        for node in 1..=3 {
            bench.give(ack(id, member(node))).result.expect("counts");
        }
        for change in &changes {
            let expected = match change {
                RowChange::Put(row) => Some(row.clone()),
                RowChange::Remove(_) => None,
            };
            assert_eq!(bench.database.row(&change.key()), expected);
        }
    }
    assert_eq!(bench.database.volume(VolumeId(1)), VolumeState::default());
}

// proves: C4
#[test]
fn what_is_under_way_is_not_changed_by_others_and_what_does_not_fit_any_more_is_given_up() {
    let mut bench = Bench::formed();
    let renamed = VirtualDiskRow { name: "fast".to_string(), ..virtual_disk(1, 11, &[2, 1]) };
    let id = prepare(&mut bench, vec![RowChange::Put(Row::VirtualDisk(renamed))], false);
    let busy = format!("virtual disk 1 is just being changed by reconfiguration {}", id.0);
    let again = Change::Prepare { changes: swap(), deadline_ms: 5000, hold: false };
    assert!(bench.refusal(again).starts_with(&busy));
    assert!(bench.refusal(Change::Rows(swap())).starts_with(&busy));
    let disk_moves = vec![RowChange::Put(Row::Disk(disk(11, &[2])))];
    bench.refusal(Change::Prepare { changes: disk_moves, deadline_ms: 5000, hold: false });
    // Somebody takes the name that it wanted.
    let taken = VirtualDiskRow { name: "fast".to_string(), ..virtual_disk(2, 12, &[2, 3]) };
    bench.put(Row::VirtualDisk(taken)).result.expect("the name is free so far");
    for node in 1..=3 {
        bench.give(ack(id, member(node))).result.expect("counts");
    }
    assert_eq!(phase(&bench, id), Phase::Cancelled { at: bench.index, why: CancelCause::Unfit });
    assert_eq!((serving(&bench), suspended(&bench, 1)), (Some(1), false));
}

#[test]
fn what_needs_no_standing_still_is_not_prepared_and_a_formless_table_changes_at_once() {
    let mut bench = Bench::new();
    let prepare = |changes, deadline_ms| Change::Prepare { changes, deadline_ms, hold: false };
    assert!(bench.refusal(prepare(swap(), 5)).starts_with("the cluster has no members yet"));
    let mut bench = Bench::formed();
    assert!(bench.refusal(prepare(swap(), 0)).starts_with("a deadline of 0 ms"));
    let fresh = vec![RowChange::Put(Row::Disk(disk(13, &[1])))];
    assert!(bench.refusal(prepare(fresh, 5)).starts_with("nothing in use is changed"));
    // The format row is what says so (SPEC C2).
    let format = FormatRow { before: vec![], ..FormatRow::usual(Table::VirtualDisks) };
    bench.put(Row::Format(format)).result.expect("no steps");
    bench.give(Change::Rows(swap())).result.expect("at once");
    assert_eq!(serving(&bench), Some(2));
}

#[test]
fn only_the_last_ones_that_ended_are_kept() {
    let mut bench = Bench::formed();
    for _ in 0..FINISHED_MAX + 10 {
        let id = prepare(&mut bench, swap(), false);
        bench.give(Change::Cancel { reconfiguration: id, why: CancelCause::Operator }).result.expect("over");
    }
    let live = prepare(&mut bench, swap(), false);
    assert_eq!(bench.database.reconfigurations().count(), FINISHED_MAX + 1);
    assert_eq!(bench.database.live_reconfigurations().map(|row| row.id).collect::<Vec<_>>(), [live]);
}
