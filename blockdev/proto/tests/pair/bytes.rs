//! Records and messages as bytes, damaged ones too, and words of no honest half.

use crate::world::{PAIR, SIDES};
use blockdev_proto::pair::{
    Command, Generation, Grant, Half, PAIR_MESSAGE_BYTES, PairAction, PairLimits, PairMessage, Record,
    RecordFault, Refusal, Role, Side, State,
};
use proptest::prelude::*;
use transport_proto::identity::NodeId;
use transport_proto::time::Time;

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..4u64, Just(u64::MAX)]
}

fn any_record() -> impl Strategy<Value = Record> {
    let grant = (0..2usize, 0..1000u16, any_number());
    let grant = grant.prop_map(|(side, node, epoch)| Grant { side: SIDES[side], node: NodeId(node), epoch });
    let fields = (
        (0..5usize, any::<bool>(), any_number(), any_number(), any::<bool>()),
        (proptest::option::of(grant), any_number(), proptest::option::of(0..1000u16)),
    );
    fields.prop_map(|((state, primary, term, step, consistent), (grant, arbiter_epoch, reserved))| Record {
        pair: PAIR,
        state: State::ALL[state],
        role: if primary { Role::Primary } else { Role::Secondary },
        generation: Generation { term, step },
        consistent,
        grant,
        arbiter_epoch,
        reserved: reserved.map(NodeId),
    })
}

fn any_message() -> impl Strategy<Value = PairMessage> {
    let any_node = || (0..1000u16).prop_map(NodeId);
    let command = prop_oneof![
        Just(Command::Create),
        Just(Command::Split),
        Just(Command::Resync),
        Just(Command::SwapResync),
        Just(Command::Delete),
        any::<bool>().prop_map(|alone| Command::Takeover { alone }),
        any_node().prop_map(|node| Command::Reserve { node }),
        any_node().prop_map(|node| Command::Release { node }),
    ];
    let refusal = prop_oneof![
        any_record().prop_map(|Record { state, role, .. }| Refusal::NotNow { state, role }),
        Just(Refusal::Incomplete),
        Just(Refusal::Busy),
        Just(Refusal::Unreachable),
        Just(Refusal::Unanswered),
        Just(Refusal::Crossed),
        any_node().prop_map(|by| Refusal::Reserved { by }),
        Just(Refusal::NotReserved),
    ];
    prop_oneof![
        (any::<u64>(), any::<u64>(), any_record()).prop_map(|(from, to, record)| PairMessage::Hello {
            from,
            to,
            record
        }),
        (any::<u64>(), command, any_record()).prop_map(|(to, command, record)| PairMessage::Ask {
            to,
            command,
            record
        }),
        (any::<u64>(), refusal).prop_map(|(to, why)| PairMessage::Refused { to, why }),
        (any::<u64>(), any_record()).prop_map(|(to, record)| PairMessage::Follow { to, record }),
        (any::<u64>(), any_record())
            .prop_map(|(to, record)| PairMessage::Followed { to, generation: record.generation }),
    ]
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written_and_any_damage_is_known(
        record in any_record(),
        at in 0..512usize,
        flip in 1..=255u8,
    ) {
        let mut bytes = record.encode();
        prop_assert_eq!(Record::decode(PAIR, &bytes), Ok(record));
        prop_assert_eq!(Record::decode(PAIR + 1, &bytes), Err(RecordFault::Foreign { pair: PAIR }));
        bytes[at] ^= flip;
        prop_assert!(Record::decode(PAIR, &bytes).is_err());
    }

    #[test]
    fn a_message_is_read_as_it_was_written(message in any_message()) {
        prop_assert_eq!(PairMessage::parse(&message.encode()), Ok(message));
    }

    /// Whatever is read as a message is written as the very bytes.
    #[test]
    fn any_bytes_are_a_fault_or_the_one_form_of_a_message(
        message in any_message(),
        turned in proptest::collection::vec((0..PAIR_MESSAGE_BYTES, any::<u8>()), 0..4),
        length in 0..=PAIR_MESSAGE_BYTES + 1,
    ) {
        let mut bytes = message.encode().to_vec();
        for (at, byte) in turned {
            bytes[at] = byte;
        }
        if let Ok(read) = PairMessage::parse(&bytes) {
            prop_assert_eq!(read.encode().to_vec(), bytes.clone());
        }
        bytes.resize(length, 0);
        prop_assert!(length == PAIR_MESSAGE_BYTES || PairMessage::parse(&bytes).is_err());
    }

    /// Words of no honest half: it does not panic.
    #[test]
    fn no_word_of_the_other_half_makes_it_panic(
        records in proptest::collection::vec((any_record(), 0..5u8, any::<bool>()), 1..30),
    ) {
        let mut half = Half::new(Side::First, Record::simplex(PAIR), PairLimits::default());
        let mut actions = Vec::new();
        half.connected(Time(1), 5, &mut actions);
        for (record, kind, known) in records {
            let to = if known { 5 } else { 6 };
            let message = match kind {
                0 => PairMessage::Hello { from: 9, to, record },
                1 => PairMessage::Ask { to, command: Command::Reserve { node: NodeId(2) }, record },
                2 => PairMessage::Refused { to, why: Refusal::Incomplete },
                3 => PairMessage::Follow { to, record },
                _ => PairMessage::Followed { to, generation: record.generation },
            };
            half.message(Time(2), message, &mut actions);
            for action in actions.split_off(0) {
                match action {
                    PairAction::Persist { .. } => half.persisted(Time(3), &mut actions),
                    PairAction::Yield => half.yielded(Time(3), &mut actions),
                    PairAction::Send(_) | PairAction::Answer { .. } => {}
                }
            }
        }
    }
}
