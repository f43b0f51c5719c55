//! Tests of the wire: every message comes back as it was, and no bytes whatever make the reader panic.

use super::*;
use proptest::prelude::*;

fn request_id() -> impl Strategy<Value = RequestId> {
    (0..SLOTS_MAX as u32, any::<u64>())
        .prop_map(|(slot, sequence)| RequestId { slot: Slot(slot), sequence: Sequence(sequence) })
}

fn request() -> impl Strategy<Value = Request> {
    let numbers = (any::<u32>(), any::<u64>(), any::<u16>(), any::<u64>(), any::<u64>());
    (numbers, request_id(), 1u8..=5, 0u8..8, 0u32..=1 << 20).prop_map(
        |((volume, epoch, client, incarnation, offset), id, operation, flags, length)| Request {
            volume: VolumeId(volume),
            epoch: Epoch(epoch),
            client: NodeId(client),
            incarnation: Incarnation(incarnation),
            id,
            operation: Operation::from_wire(operation).expect("1..=5"),
            flags: RequestFlags::from_wire(flags).expect("0..8"),
            range: ByteRange::new(offset, length),
        },
    )
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Done),
        prop::sample::select(&BlockErrno::ALL[..]).prop_map(Verdict::Errno),
        any::<u64>().prop_map(|epoch| Verdict::NackStale { gate_epoch: Epoch(epoch) }),
        Just(Verdict::NackBusy),
        Just(Verdict::NackPath { execution: Execution::NotExecuted }),
        Just(Verdict::NackPath { execution: Execution::Unknown }),
        any::<u64>().prop_map(|epoch| Verdict::NackNotServing { mapping_epoch: Epoch(epoch) }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let attach = (any::<u32>(), any::<u64>(), any::<u16>(), any::<u64>()).prop_map(
        |(volume, epoch, client, incarnation)| Attach {
            volume: VolumeId(volume),
            epoch: Epoch(epoch),
            client: NodeId(client),
            incarnation: Incarnation(incarnation),
        },
    );
    let attached = (attach.clone(), any::<bool>(), any::<u64>()).prop_map(|(attach, open, epoch)| {
        attach.answered(match open {
            true => AttachVerdict::Open { gate_epoch: Epoch(epoch) },
            false => AttachVerdict::NotServing { mapping_epoch: Epoch(epoch) },
        })
    });
    let report =
        (any::<u32>(), any::<u64>(), any::<u16>(), any::<u32>()).prop_map(|(volume, epoch, node, disk)| {
            PathBroken {
                volume: VolumeId(volume),
                epoch: Epoch(epoch),
                node: NodeId(node),
                disk: DiskId(disk),
            }
        });
    let settle = (any::<u32>(), any::<u64>(), any::<bool>()).prop_map(|(volume, revision, aborts)| Settle {
        volume: VolumeId(volume),
        revision,
        aborts,
    });
    prop_oneof![
        settle.clone().prop_map(Message::Settle),
        settle.prop_map(Message::Settled),
        request().prop_map(Message::Request),
        (request(), verdict()).prop_map(|(request, verdict)| Message::Answer(request.answered(verdict))),
        attach.prop_map(Message::Attach),
        attached.prop_map(Message::Attached),
        report.prop_map(Message::PathBroken),
    ]
}

proptest! {
    // proves: B2 B11
    #[test]
    fn every_message_comes_back_as_it_was_and_fits_into_a_control_part(message in message()) {
        let encoded = message.encode();
        prop_assert!(encoded.as_bytes().len() <= transport_proto::wire::CONTROL_BYTES_MAX);
        prop_assert_eq!(Message::parse(encoded.as_bytes()), Ok(message));
    }

    #[test]
    fn a_message_of_another_length_is_refused(message in message(), cut in 1usize..16, extra in 1usize..70) {
        let encoded = message.encode();
        let bytes = encoded.as_bytes();
        let short = &bytes[..bytes.len() - cut];
        prop_assert_eq!(Message::parse(short), Err(WireFault::Length { found: short.len() }));
        let mut long = bytes.to_vec();
        long.resize(bytes.len() + extra, 0);
        prop_assert_eq!(Message::parse(&long), Err(WireFault::Length { found: long.len() }));
    }

    #[test]
    fn no_bytes_make_the_reader_panic_and_what_it_reads_is_in_range(
        mut bytes in prop::collection::vec(any::<u8>(), 0..130), kind in 0u8..7, version in 0u8..3,
        fit in any::<bool>(),
    ) {
        let lengths = [0, 56, 48, 24, 32, 24, 0];
        if fit { bytes.resize(lengths[kind as usize], 0); }
        if let Some(first) = bytes.first_mut() { *first = kind; }
        if let Some(second) = bytes.get_mut(1) { *second = version; }
        match Message::parse(&bytes) {
            Ok(Message::Request(request)) => {
                prop_assert!(request.id.slot.index() < SLOTS_MAX);
                prop_assert!(request.data_length() <= transport_proto::wire::DATA_BYTES_MAX);
            }
            Ok(Message::Answer(answer)) => prop_assert!(answer.id.slot.index() < SLOTS_MAX),
            _ => {}
        }
    }
}

#[test]
fn an_unknown_number_names_its_field() {
    let request = Request {
        volume: VolumeId(1),
        epoch: Epoch(2),
        client: NodeId(3),
        incarnation: Incarnation(4),
        id: RequestId { slot: Slot(5), sequence: Sequence(6) },
        operation: Operation::Write,
        flags: RequestFlags::FUA,
        range: ByteRange::new(0, 4096),
    };
    let changed = |index: usize, value: u8| {
        let encoded = request.encode();
        let mut bytes = encoded.as_bytes().to_vec();
        bytes[index] = value;
        Message::parse(&bytes)
    };
    assert_eq!(changed(0, 9), Err(WireFault::Kind { found: 9 }));
    assert_eq!(changed(1, 2), Err(WireFault::Version { found: 2 }));
    assert_eq!(changed(2, 0), Err(WireFault::Field { field: "operation" }));
    assert_eq!(changed(3, 8), Err(WireFault::Field { field: "flags" }));
    assert_eq!(changed(43, 0x7f), Err(WireFault::Field { field: "length" }));
    assert_eq!(changed(45, 0x10), Err(WireFault::Field { field: "slot" }));
    assert_eq!(request.check_data_length(4096), Ok(()));
    let fault = WireFault::DataLength { expected: 4096, found: 512 };
    assert_eq!(request.check_data_length(512), Err(fault));
}
