//! Commands one by one, and that no order of them lets two hosts hold one disk.

use super::*;
use proptest::prelude::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn key(node: NodeId) -> Key {
    Key(u64::from(node.0) * 10)
}

fn registered(nodes: &[NodeId]) -> Reservations {
    let mut row = Reservations::default();
    for node in nodes {
        row.apply(*node, Command::Register { existing: Some(Key::NONE), new: key(*node) }).expect("free");
    }
    row
}

fn reserve(row: &mut Reservations, node: NodeId, kind: Kind) -> Result<(), Conflict> {
    row.apply(node, Command::Reserve { key: key(node), kind })
}

// proves: B12
#[test]
fn each_type_lets_others_do_what_it_says_and_no_more() {
    // Read and write of: the holder, another that is registered, one that is not.
    let table = [
        (Kind::WriteExclusive, [true, true, true, false, true, false]),
        (Kind::ExclusiveAccess, [true, true, false, false, false, false]),
        (Kind::WriteExclusiveRegistrants, [true, true, true, true, true, false]),
        (Kind::ExclusiveAccessRegistrants, [true, true, true, true, false, false]),
        (Kind::WriteExclusiveAll, [true, true, true, true, true, false]),
        (Kind::ExclusiveAccessAll, [true, true, true, true, false, false]),
    ];
    for (kind, expected) in table {
        let mut row = registered(&[A, B]);
        reserve(&mut row, A, kind).expect("nobody holds it");
        let asked = [A, B, C].map(|node| [Operation::Read, Operation::Write].map(|op| row.permits(node, op)));
        assert_eq!(asked.as_flattened(), expected, "{kind}");
        for node in [A, B, C] {
            let writes = row.permits(node, Operation::Write);
            for operation in [Operation::Flush, Operation::Discard, Operation::WriteZeroes] {
                assert_eq!(row.permits(node, operation), writes, "{kind} {operation:?}");
            }
        }
    }
}

// proves: B12
#[test]
fn only_who_is_registered_by_its_key_may_command() {
    let mut row = registered(&[A]);
    let kind = Kind::WriteExclusive;
    for command in [
        Command::Reserve { key: key(A), kind },
        Command::Release { key: key(A), kind },
        Command::Preempt { key: key(A), victim: key(A), kind, abort: false },
        Command::Clear { key: key(A) },
    ] {
        assert_eq!(row.apply(B, command), Err(Conflict::NotRegistered));
    }
    assert_eq!(row.apply(A, Command::Reserve { key: Key(9), kind }), Err(Conflict::OtherKey));
    let again = Command::Register { existing: Some(Key::NONE), new: Key(7) };
    assert_eq!(row.apply(A, again), Err(Conflict::OtherKey));
    assert_eq!(
        row.apply(B, Command::Register { existing: Some(Key(7)), new: Key(8) }),
        Err(Conflict::NotRegistered)
    );
    row.apply(A, Command::Register { existing: None, new: Key(7) }).expect("whatever its key was");
    assert_eq!((row.key_of(A), row.generation), (Some(Key(7)), 2));
}

// proves: B12
#[test]
fn a_reservation_goes_by_release_by_clear_and_with_its_last_holder() {
    let kind = Kind::ExclusiveAccess;
    let mut row = registered(&[A, B]);
    reserve(&mut row, A, kind).expect("free");
    reserve(&mut row, A, kind).expect("its own");
    assert_eq!(reserve(&mut row, A, Kind::WriteExclusive), Err(Conflict::Held { by: A, kind }));
    assert_eq!(reserve(&mut row, B, kind), Err(Conflict::Held { by: A, kind }));
    row.apply(B, Command::Release { key: key(B), kind }).expect("nothing of its own, no fault");
    assert!(row.is_holder(A));
    let other = Command::Release { key: key(A), kind: Kind::WriteExclusive };
    assert_eq!(row.apply(A, other), Err(Conflict::OtherKind { kind }));
    row.apply(A, Command::Release { key: key(A), kind }).expect("its own");
    assert_eq!(row.held, None);
    // With its holder's registration.
    reserve(&mut row, A, kind).expect("free again");
    row.apply(A, Command::Register { existing: Some(key(A)), new: Key::NONE }).expect("registered");
    assert_eq!((row.held, row.key_of(A), row.key_of(B)), (None, None, Some(key(B))));
    // One that all hold stays until the last has gone.
    let mut row = registered(&[A, B]);
    reserve(&mut row, A, Kind::WriteExclusiveAll).expect("free");
    row.forget(A);
    assert!(row.is_holder(B) && !row.is_holder(A) && !row.permits(A, Operation::Write));
    row.forget(B);
    assert_eq!(row.held, None);
    let mut row = registered(&[A, B]);
    row.apply(B, Command::Clear { key: key(B) }).expect("registered");
    assert!(row.registrants.is_empty() && row.permits(C, Operation::Write));
}

// proves: B12
#[test]
fn preemption_takes_registrations_and_what_their_owner_holds() {
    let kind = Kind::WriteExclusive;
    let preempt = |victim| Command::Preempt { key: key(B), victim, kind, abort: true };
    let mut row = registered(&[A, B, C]);
    reserve(&mut row, A, Kind::ExclusiveAccess).expect("free");
    assert_eq!(row.apply(B, preempt(Key(5))), Err(Conflict::NoVictim));
    // One that does not hold it: only its registration goes.
    row.apply(B, preempt(key(C))).expect("there");
    assert!(row.is_holder(A) && row.key_of(C).is_none());
    row.apply(B, preempt(key(A))).expect("there");
    assert_eq!((row.held, row.key_of(A)), (Some(Held { by: B, kind }), None));
    assert!(!row.permits(A, Operation::Write));
    // Its own key: another type, nobody else's loss.
    row.apply(B, Command::Preempt { key: key(B), victim: key(B), kind: Kind::ExclusiveAccess, abort: false })
        .expect("its own");
    assert_eq!(row.held, Some(Held { by: B, kind: Kind::ExclusiveAccess }));
    // One that all hold is taken as a whole by no key.
    let mut row = registered(&[A, B, C]);
    reserve(&mut row, A, Kind::WriteExclusiveAll).expect("free");
    row.apply(B, preempt(key(A))).expect("there");
    assert!(row.is_holder(C) && row.key_of(A).is_none());
    row.apply(B, preempt(Key::NONE)).expect("all");
    assert_eq!(row.registrants.len(), 1);
    assert_eq!(row.held, Some(Held { by: B, kind }));
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(&Kind::ALL[..]).prop_map(|(kind, _)| kind)
}

fn keys() -> impl Strategy<Value = Key> {
    prop::sample::select(&[0, 10, 20, 30, 7][..]).prop_map(Key)
}

fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        (prop::option::of(keys()), keys()).prop_map(|(existing, new)| Command::Register { existing, new }),
        (keys(), kinds()).prop_map(|(key, kind)| Command::Reserve { key, kind }),
        (keys(), kinds()).prop_map(|(key, kind)| Command::Release { key, kind }),
        (keys(), keys(), kinds(), any::<bool>()).prop_map(|(key, victim, kind, abort)| Command::Preempt {
            key,
            victim,
            kind,
            abort
        }),
        keys().prop_map(|key| Command::Clear { key }),
    ]
}

proptest! {
    // proves: B12
    #[test]
    fn whatever_is_asked_in_whatever_order_one_holds_and_conflicts_change_nothing(
        asked in prop::collection::vec((1u16..=3, commands()), 0..60)
    ) {
        let mut row = Reservations::default();
        for (node, command) in asked {
            let before = row.clone();
            let done = row.apply(NodeId(node), command);
            if done.is_err() {
                prop_assert_eq!(&row, &before);
            }
            prop_assert!(row.generation >= before.generation);
            prop_assert!(row.registrants.is_sorted_by(|a, b| a.node < b.node));
            prop_assert!(row.registrants.iter().all(|one| one.key != Key::NONE));
            let holders: Vec<NodeId> = [A, B, C].into_iter().filter(|node| row.is_holder(*node)).collect();
            if let Some(held) = row.held {
                prop_assert!(!holders.is_empty(), "a reservation without a holder");
                prop_assert!(held.kind.is_held_by_all() || holders == [held.by]);
                if matches!(held.kind, Kind::WriteExclusive | Kind::ExclusiveAccess) {
                    let writers = [A, B, C].into_iter().filter(|node| row.permits(*node, Operation::Write));
                    prop_assert_eq!(writers.collect::<Vec<_>>(), holders);
                }
            } else {
                prop_assert!(holders.is_empty());
            }
        }
    }
}
