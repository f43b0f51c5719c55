//! What commands do and what is refused: rows, members, distress, invitations, copies of commands, events.

use super::*;
use crate::view::BrokenPath;

fn put(row: Row) -> Change {
    Change::Rows(vec![RowChange::Put(row)])
}

// proves: C2
#[test]
fn a_copy_of_a_command_is_applied_once_and_gets_the_earlier_answer() {
    let mut bench = Bench::formed();
    let command = bench.command(put(Row::VirtualDisk(virtual_disk(7, 17, &[1]))));
    let first = bench.apply(&command).answer().clone();
    assert!(first.result.is_err(), "there is no disk 17 yet");
    bench.put(Row::Disk(disk(17, &[1]))).result.expect("a disk");
    // It would succeed now, and must not: it was refused.
    assert_eq!(bench.apply(&command), Applied::Repeated(first));
    let command = bench.command(put(Row::VirtualDisk(virtual_disk(7, 17, &[1]))));
    let done = bench.apply(&command);
    assert!(matches!(done, Applied::Done { .. }));
    let removed = bench.command(Change::RaiseEpoch { above: Epoch(900) });
    bench.apply(&removed);
    let before = bench.database.snapshot();
    assert_eq!(bench.apply(&command), Applied::Repeated(done.answer().clone()));
    // Nothing but the index moved.
    let restored = Database::<crate::protocol_rules::Strict>::restore(&before).expect("a snapshot");
    assert_eq!(restored.rows(), bench.database.rows());
    assert_eq!(restored.number(), bench.database.number());
}

// proves: C2
#[test]
fn a_command_that_nobody_remembers_is_refused_and_never_applied_again() {
    let mut bench = Bench::formed();
    let old = bench.command(Change::RaiseEpoch { above: Epoch(50) });
    bench.apply(&old);
    for _ in 0..=ANSWERS_MAX {
        bench.give(Change::Clear { node: NodeId(3) });
    }
    let number = bench.database.number();
    let refused = bench.apply(&old).answer().clone().result;
    assert_eq!(refused, Err(Refusal::Forgotten { sequence: old.operation.sequence }));
    // A later life of the node puts an end to what an earlier one may still have under way.
    let mut later = bench.command(Change::RaiseEpoch { above: Epoch(60) });
    later.operation = OperationId { life: Incarnation(101), sequence: 1, ..later.operation };
    bench.apply(&later).answer().clone().result.expect("a new life asks");
    let late = bench.command(Change::RaiseEpoch { above: Epoch(70_000) });
    let refused = bench.apply(&late).answer().clone().result;
    assert!(matches!(refused, Err(Refusal::EarlierLife { .. })), "{refused:?}");
    let mut strange = late;
    strange.operation.node = NodeId(9);
    let refused = bench.apply(&strange).answer().clone().result;
    assert_eq!(refused, Err(Refusal::Stranger { node: NodeId(9) }));
    assert!(number < bench.database.number() && bench.database.number() < Epoch(70_000));
}

// proves: C2
#[test]
fn a_command_thought_out_for_other_rows_changes_nothing() {
    let mut bench = Bench::formed();
    let key = RowKey::VirtualDisk(VolumeId(1));
    let revision = bench.database.revision(&key);
    let renamed = |name: &str| {
        Row::VirtualDisk(VirtualDiskRow { name: name.to_string(), ..virtual_disk(1, 11, &[1, 2]) })
    };
    let mut first = bench.command(put(renamed("data")));
    first.expect = vec![Expect::Row { key, revision }];
    let mut second = bench.command(put(renamed("logs")));
    second.expect = first.expect.clone();
    bench.apply(&first).answer().clone().result.expect("nobody was faster");
    let refused = bench.apply(&second).answer().clone().result.expect_err("somebody was");
    assert!(refused.to_string().starts_with("virtual disk 1 was changed by somebody else"), "{refused}");
    assert_eq!(bench.database.rows().virtual_disks[0].name, "data");
    let mut third = bench.command(put(Row::Disk(disk(17, &[1]))));
    third.expect = vec![Expect::Row { key: RowKey::Disk(DiskId(11)), revision: 0 }];
    let refused = bench.apply(&third).answer().clone().result.expect_err("it is there");
    assert!(refused.to_string().starts_with("disk 11 is already there"), "{refused}");
    let mut fourth = bench.command(put(Row::Disk(disk(17, &[1]))));
    fourth.expect = vec![Expect::Number(Epoch(1))];
    let number = bench.database.number();
    assert_eq!(number, Epoch(3), "renaming made number 3");
    let refused = bench.apply(&fourth).answer().clone().result.expect_err("that was long ago");
    assert!(refused.to_string().starts_with("the configuration went on from number 1 to 3"), "{refused}");
}

#[test]
fn rows_change_together_or_not_at_all_and_the_refusal_names_the_row() {
    let mut bench = Bench::formed();
    let changes = vec![
        RowChange::Put(Row::Disk(disk(17, &[1]))),
        RowChange::Put(Row::VirtualDisk(virtual_disk(7, 18, &[1]))),
    ];
    let refusal = bench.refusal(Change::Rows(changes));
    assert_eq!(refusal, "virtual disk 7: there is no disk 18: add it, or correct the reference");
    assert_eq!(bench.database.rows().disk(DiskId(17)), None);
    let four = vec![RowChange::Put(Row::Node(node(4)))];
    let refusal = bench.refusal(Change::Rows(four.clone()));
    assert!(refusal.contains("no link joins node1 and node4"), "{refusal}");
    let joined = [four, vec![RowChange::Put(Row::Link(link(&[1, 2, 3, 4])))]].concat();
    bench.give(Change::Rows(joined)).result.expect("with its link");
    assert_eq!(bench.database.rows().rails_of(NodeId(4)).count(), 3);
}

// proves: C6
#[test]
fn what_an_administrator_may_not_do_is_refused_with_what_to_do_instead() {
    let mut bench = Bench::formed();
    bench.put(Row::Disk(disk(13, &[1, 2]))).result.expect("a disk");
    let remove = |key| Change::Rows(vec![RowChange::Remove(key)]);
    let vd = |change: fn(&mut VirtualDiskRow)| {
        let mut row = virtual_disk(1, 11, &[1, 2]);
        change(&mut row);
        put(Row::VirtualDisk(row))
    };
    let twice = Change::Rows(vec![
        RowChange::Put(Row::Disk(disk(14, &[1]))),
        RowChange::Put(Row::Disk(disk(14, &[2]))),
    ]);
    let settings = SettingsRow { name: "south".to_string(), ..rows().settings() };
    let format = FormatRow { version: 9, ..FormatRow::usual(Table::Nbd) };
    let cases = [
        (remove(RowKey::Node(NodeId(3))), "node 3 is a member of the running cluster: let it leave"),
        (remove(RowKey::Disk(DiskId(11))), "disk 11 is still used by virtual disk 1"),
        (remove(RowKey::Disk(DiskId(99))), "there is no disk 99"),
        (remove(RowKey::Link(LinkNumber(0))), "link 0: no link joins node1 and node2"),
        (remove(RowKey::Settings), "the settings comes about by itself"),
        (put(Row::Membership(MembershipRow::default())), "the membership comes about by itself"),
        (put(Row::Settings(settings)), "the cluster is named \"north\" for good"),
        (put(Row::Format(format)), "format version 9 of table nbd server, this release writes 1"),
        (vd(|row| row.size_bytes = 4096), "vd1 has 1073741824 bytes and 4096 are fewer"),
        (vd(|row| row.block_bytes = BlockBytes::MIN), "vd1 keeps the block size"),
        (vd(|row| row.size_bytes *= 2), "virtual disk 1 is in use, so all nodes must stand still"),
        (vd(|row| row.candidates.reverse()), "virtual disk 1 is in use, so all nodes must stand still"),
        (remove(RowKey::VirtualDisk(VolumeId(1))), "virtual disk 1 is in use, so all nodes must stand"),
        (put(Row::Disk(disk(11, &[1]))), "virtual disk 1: node2 does not reach disk disk11"),
        (vd(|row| row.name = "vd2".to_string()), "virtual disk 1: virtual disk \"vd2\" is already"),
        (twice, "disk 14 is changed twice in one command"),
        (Change::Rows(vec![]), "the command changes no row"),
        (Change::Clear { node: NodeId(3) }, "node 3 has no tombstone"),
        (Change::RaiseEpoch { above: Epoch(u64::MAX) }, "configuration number 18446744073709551615"),
    ];
    for (change, text) in cases {
        let refusal = bench.refusal(change);
        assert!(refusal.starts_with(text), "expected {text}\nfound    {refusal}");
    }
}

// proves: B6 C3
#[test]
fn a_mapping_gets_a_new_number_only_for_what_concerns_it() {
    let mut bench = Bench::formed();
    let (formed, nodes) = (bench.mapping_number(1), vec![NodeId(1)]);
    let permission = PermissionRow { volume: VolumeId(1), owner: 7, group: 7, mode: 0o600, nodes };
    bench.put(Row::Permission(permission)).result.expect("a permission");
    let listen = NbdAddress::Unix("/run/netdisk/nbd".to_string());
    let server = NbdRow { node: NodeId(1), listen, exports: vec![VolumeId(1)] };
    bench.put(Row::Nbd(server)).result.expect("a server");
    assert_eq!(bench.database.number().0, formed, "nobody's view depends on them");
    bench.put(Row::Disk(disk(13, &[1]))).result.expect("a disk");
    bench.put(Row::VirtualDisk(virtual_disk(3, 13, &[1]))).result.expect("another virtual disk");
    let renamed = VirtualDiskRow { name: "data".to_string(), ..virtual_disk(1, 11, &[1, 2]) };
    bench.put(Row::VirtualDisk(renamed)).result.expect("a name");
    assert_eq!([bench.mapping_number(1), bench.mapping_number(2)], [formed, formed]);
    assert_eq!((bench.mapping_number(3), bench.database.number().0), (bench.index - 1, bench.index));
    // A broken path concerns the virtual disks behind it.
    let (expect, broken) =
        (bench.database.membership().number, BrokenPath { node: NodeId(3), disk: DiskId(12) });
    let members = vec![member(1), member(2), member(3)];
    let change = Change::Membership { by: STEWARD, expect, members, broken: vec![broken], causes: vec![] };
    bench.give(change).result.expect("a path broke");
    assert_eq!([bench.mapping_number(1), bench.mapping_number(2)], [formed, bench.index]);
    // Members that change concern all.
    bench.members(&[member(1), member(2)]).result.expect("one left");
    assert_eq!([1, 2, 3].map(|volume| bench.mapping_number(volume)), [bench.index; 3]);
    bench.give(Change::RaiseEpoch { above: Epoch(500) }).result.expect("a disk was ahead");
    assert_eq!([1, 2, 3].map(|volume| bench.mapping_number(volume)), [501; 3]);
    bench.members(&[member(1), member(2), member(3)]).result.expect_err("its life is over");
    let back = Member { incarnation: Incarnation(101), ..member(3) };
    bench.members(&[member(1), member(2), back]).result.expect("a new life");
    assert_eq!(bench.database.number().0, 501 + 2, "numbers go on from there, log index by log index");
}

// proves: C3
#[test]
fn members_change_by_comparison_and_a_life_that_left_stays_out() {
    let mut bench = Bench::formed();
    let first = bench.database.membership().number;
    bench.members(&[member(1), member(2)]).result.expect("node 3 left");
    let stale = Change::Membership {
        by: STEWARD,
        expect: first,
        members: vec![member(1)],
        broken: vec![],
        causes: vec![],
    };
    assert!(bench.refusal(stale).starts_with("the membership is number 3 and not 2 any more"));
    let all = [member(1), member(2), member(3)];
    let refused = bench.members(&all).result.expect_err("it left");
    assert!(refused.to_string().starts_with("this life of node 3 is over"), "{refused}");
    let earlier = Member { incarnation: Incarnation(99), ..member(2) };
    let refused = bench.members(&[member(1), earlier]).result.expect_err("an earlier life");
    assert_eq!(refused, Refusal::LifeIsOver { member: earlier });
    let refused = bench.members(&[member(1), member(9)]).result.expect_err("unknown");
    assert_eq!(refused, Refusal::NotConfigured { node: NodeId(9) });
    assert_eq!(bench.members(&[member(2), member(1)]).result, Err(Refusal::MembersMalformed));
    assert_eq!(bench.members(&[]).result, Err(Refusal::MembersMalformed));
    // Another leader takes over: what the one before still has under way counts no more.
    let next = Steward { member: member(2), term: 2 };
    bench.give(Change::Steward(next)).result.expect("a higher term");
    assert_eq!(bench.members(&[member(2)]).result, Err(Refusal::NotSteward { term: 1 }));
    bench.give(Change::Steward(STEWARD)).result.expect_err("a term that is over");
    assert_eq!(bench.database.last_life(NodeId(3)), Some(Incarnation(100)));
}

// proves: D5
#[test]
fn a_node_in_distress_is_out_in_the_same_entry_and_stays_out_until_it_is_cleared() {
    let mut bench = Bench::formed();
    let distress = |level| Change::Distress { member: member(2), level, reason: "fire".to_string() };
    let command = bench.command(distress(DistressLevel::Dying));
    let applied = bench.apply(&command);
    let event = applied.event().expect("an event");
    assert_eq!(event.changes.len(), 2, "tombstone and membership: {event:?}");
    assert_eq!(event.cause.to_string(), "node 2 cried for help: it is dying");
    assert_eq!(bench.database.membership().members, [member(1), member(3)]);
    assert_eq!(bench.mapping_number(1), bench.index);
    bench.give(distress(DistressLevel::Fenced)).result.expect_err("its life is over by now");
    let again = Member { incarnation: Incarnation(200), ..member(2) };
    let refused = bench.members(&[member(1), again, member(3)]).result.expect_err("it stays out");
    assert!(refused.to_string().ends_with("netdisk node clear 2"), "{refused}");
    bench.give(Change::Clear { node: NodeId(2) }).result.expect("an operator clears it");
    bench.members(&[member(1), again, member(3)]).result.expect("and it joins");
}

#[test]
fn an_invitation_lets_one_node_in_once_and_in_time() {
    let mut bench = Bench::formed();
    let hash = TokenHash::of(b"a secret of sixteen bytes");
    let token =
        TokenRow { hash, expires_unix_ms: 1000, expires_index: 40, node: Some(NodeId(4)), used: None };
    bench.give(Change::CreateToken(token.clone())).result.expect("an invitation");
    assert!(bench.refusal(Change::CreateToken(token)).starts_with("token"));
    let ends = RowChange::Put(Row::Link(link(&[1, 2, 3, 4])));
    let join = |token, unix_ms, node: NodeRow| Change::Join {
        token,
        nonce: [node.id.0 as u8; 16],
        unix_ms,
        changes: vec![RowChange::Put(Row::Node(node)), ends.clone()],
    };
    let wrong = TokenHash::of(b"another secret");
    assert!(bench.refusal(join(wrong, 1, node(4))).starts_with("this token was never given"));
    assert!(bench.refusal(join(hash, 1001, node(4))).starts_with("this token has expired"));
    assert!(bench.refusal(join(hash, 1, node(3))).starts_with("joining adds exactly one node"));
    assert!(bench.refusal(join(hash, 1, node(5))).starts_with("this token was given for node 4"));
    bench.give(join(hash, 1000, node(4))).result.expect("it joins");
    assert!(bench.database.rows().node(NodeId(4)).is_some());
    assert!(bench.refusal(join(hash, 1000, node(5))).contains("was used already"));
    let hash = TokenHash::of(b"another secret of sixteen bytes");
    let late = TokenRow { hash, expires_unix_ms: 0, expires_index: bench.index, node: None, used: None };
    bench.give(Change::CreateToken(late)).result.expect("an invitation");
    assert!(bench.refusal(join(hash, 1, node(5))).starts_with("this token has expired"));
}

#[test]
fn whoever_watches_sees_every_change_in_order_or_learns_of_the_gap() {
    let mut bench = Bench::formed();
    let start = bench.index;
    bench.put(Row::Disk(disk(13, &[1]))).result.expect("a disk");
    bench.put(Row::Disk(disk(13, &[1]))).result.expect("the same again: no event");
    bench.refusal(put(Row::Disk(disk(14, &[9]))));
    bench.members(&[member(1), member(2)]).result.expect("one left");
    let events: Vec<_> = bench.database.events_since(start).expect("no gap").cloned().collect();
    assert_eq!(events.iter().map(|event| event.index).collect::<Vec<_>>(), [start + 1, start + 4]);
    assert_eq!(events[0].cause.to_string(), "asked for at node 1");
    assert_eq!(events[0].changes[0].key, RowKey::Disk(DiskId(13)));
    for _ in 0..EVENTS_MAX {
        let path = format!("/dev/other{}", bench.index);
        let ports = vec![DiskPort { node: NodeId(1), path }];
        bench.put(Row::Disk(DiskRow { ports, ..disk(13, &[1]) })).result.expect("a change");
    }
    let gap = bench.database.events_since(start).err().expect("too long ago");
    assert!(bench.database.events_since(gap.kept_after).is_ok());
    let restored = Database::<crate::protocol_rules::Strict>::restore(&bench.database.snapshot());
    let restored = restored.expect("a snapshot");
    assert!(restored.events_since(bench.index).expect("from here on").next().is_none());
    assert!(restored.events_since(bench.index - 1).is_err());
}
