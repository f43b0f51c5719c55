//! The transmission phase: every command, every refusal, cutting and joining, death in the middle.

#![allow(clippy::unwrap_used, reason = "a test fails where it finds the unexpected")]

mod support;

use blockdev_nbd::codec::{Command, CommandFlags, Request, SimpleReply};
use blockdev_nbd::connection::{ConnectionLimits, EndReason, Step};
use blockdev_nbd::{BlockAnswer, BlockErrno, BlockOperation, Extent, OpenedExport};
use support::rig::{Rig, export, pattern};

const KIB: u32 = 1 << 10;
type C = CommandFlags;

fn done() -> Result<BlockAnswer<Vec<u8>>, BlockErrno> {
    Ok(BlockAnswer::Done)
}

// proves: B11 B13
#[test]
fn each_command_reaches_the_service_as_what_it_means() {
    let offset = 4096;
    for (command, flags, expected) in [
        (Command::Read, 0, "Read { offset: 4096, length: 512 }"),
        (Command::Read, C::DF, "Read { offset: 4096, length: 512 }"),
        (Command::Read, C::FUA, "Read { offset: 4096, length: 512 }"),
        (Command::Trim, 0, "Discard { offset: 4096, length: 512, fua: false }"),
        (Command::Trim, C::FUA, "Discard { offset: 4096, length: 512, fua: true }"),
        (
            Command::WriteZeroes,
            C::FUA,
            "WriteZeroes { offset: 4096, length: 512, fua: true, no_unmap: false, fast_only: false }",
        ),
        (
            Command::WriteZeroes,
            C::NO_HOLE | C::FAST_ZERO,
            "WriteZeroes { offset: 4096, length: 512, fua: false, no_unmap: true, fast_only: true }",
        ),
        (Command::BlockStatus, 0, "BlockStatus { offset: 4096, length: 512, one: false }"),
        (Command::BlockStatus, C::REQ_ONE, "BlockStatus { offset: 4096, length: 512, one: true }"),
    ] {
        let mut rig = Rig::transmitting(true, OpenedExport { fast_zero: true, ..export() });
        rig.request(command, flags, 1, offset, 512);
        assert_eq!(rig.submitted.len(), 1, "{command:?}");
        assert_eq!(format!("{:?}", rig.submitted[0].operation), expected);
        assert_eq!(rig.submitted[0].volume, export().volume);
    }
}

// proves: B11 B13
#[test]
fn a_request_that_is_not_valid_gets_the_errno_of_its_cause_and_never_reaches_the_service() {
    use BlockErrno::{Invalid, NoSpace, NotPermitted, Overflow};
    use Command::{BlockStatus, Cache, Flush, Read, Trim, Unknown, Write, WriteZeroes};
    let size = 1u64 << 30;
    let writable = export();
    let read_only = OpenedExport { read_only: true, ..export() };
    for (export, command, flags, offset, length, expected) in [
        (&writable, Read, 0, size, 512, Invalid),
        (&writable, Read, 0, size - 512, 1024, Invalid),
        (&writable, Read, 0, u64::MAX - 511, 512, Invalid),
        (&writable, Write, 0, size, 512, NoSpace),
        (&writable, WriteZeroes, 0, size, 512, NoSpace),
        (&writable, Trim, 0, size, 512, Invalid),
        (&writable, BlockStatus, 0, size, 512, Invalid),
        (&writable, Read, 0, 1, 512, Invalid),
        (&writable, Read, 0, 0, 511, Invalid),
        (&writable, Write, 0, 100, 512, Invalid),
        (&writable, Read, 0, 0, 0, Invalid),
        (&writable, Write, 0, 0, 0, Invalid),
        (&writable, Read, 0, 0, (32 << 20) + 512, Invalid),
        (&writable, Read, C::DF, 0, 65 * KIB, Overflow),
        (&writable, Read, C::NO_HOLE, 0, 512, Invalid),
        (&writable, Write, C::DF, 0, 512, Invalid),
        (&writable, Read, 1 << 14, 0, 512, Invalid),
        (&writable, WriteZeroes, C::FAST_ZERO, 0, 512, Invalid),
        (&writable, Flush, 0, 512, 0, Invalid),
        (&writable, Flush, 0, 0, 512, Invalid),
        (&writable, Cache, 0, 0, 512, Invalid),
        (&writable, Unknown(99), 0, 0, 512, Invalid),
        (&read_only, Write, 0, 0, 512, NotPermitted),
        (&read_only, Trim, 0, 0, 512, NotPermitted),
        (&read_only, WriteZeroes, 0, 0, 512, NotPermitted),
        (&read_only, Write, C::FUA, 0, 512, Invalid),
    ] {
        let case = format!("{command:?} flags {flags:#x} at {offset} of {length}");
        for structured in [true, false] {
            if !structured && (command == BlockStatus || flags == C::DF) {
                continue;
            }
            let mut rig = Rig::transmitting(structured, export.clone());
            rig.request(command, flags, 42, offset, length);
            if command == Write && length > 0 {
                assert!(rig.output().is_empty(), "{case}: an answer before the payload");
                rig.send(&vec![0; length as usize]);
            }
            assert!(rig.submitted.is_empty(), "{case}");
            if structured {
                assert_eq!(rig.chunks(), [(42, true, format!("error {expected:?}"))], "{case}");
            } else {
                assert_eq!(rig.simple_reply(), SimpleReply { error: Some(expected), cookie: 42 }, "{case}");
            }
            // And the stream is still in step.
            rig.request(Command::Read, 0, 43, 0, 512);
            assert_eq!(rig.submitted.len(), 1, "{case}");
        }
    }
}

// proves: B13
#[test]
fn without_structured_replies_neither_block_status_nor_unfragmented_reads_are_taken() {
    let mut rig = Rig::transmitting(false, export());
    rig.request(Command::BlockStatus, 0, 1, 0, 512);
    assert_eq!(rig.simple_reply().error, Some(BlockErrno::Invalid));
    rig.request(Command::Read, C::DF, 1, 0, 512);
    assert_eq!(rig.simple_reply().error, Some(BlockErrno::Invalid));
}

// proves: B11
#[test]
fn every_errno_of_the_service_reaches_the_client() {
    for errno in BlockErrno::ALL {
        for (structured, command, length) in [
            (true, Command::Flush, 0),
            (false, Command::Flush, 0),
            (true, Command::Read, 512),
            (false, Command::Read, 512),
        ] {
            let mut rig = Rig::transmitting(structured, export());
            rig.request(command, 0, 9, 0, length);
            rig.complete(0, Err(errno));
            if structured {
                assert_eq!(rig.chunks(), [(9, true, format!("error {errno:?}"))]);
            } else {
                assert_eq!(rig.simple_reply(), SimpleReply { error: Some(errno), cookie: 9 });
            }
        }
    }
}

// proves: B13
#[test]
fn a_structured_read_is_one_chunk_per_piece_in_any_order_and_the_last_says_so() {
    let mut rig = Rig::transmitting(true, export());
    rig.request(Command::Read, 0, 5, 1 << 20, 160 * KIB);
    assert_eq!(rig.submitted.len(), 3, "cut at 64 KiB");
    rig.complete_read(2);
    rig.complete_read(0);
    rig.complete_read(0);
    assert_eq!(
        rig.chunks(),
        [
            (5, false, "data 1179648+32768 sound".to_owned()),
            (5, false, "data 1048576+65536 sound".to_owned()),
            (5, true, "data 1114112+65536 sound".to_owned()),
        ]
    );
}

// proves: B13
#[test]
fn an_unfragmented_read_is_one_chunk() {
    let mut rig = Rig::transmitting(true, export());
    rig.request(Command::Read, C::DF, 5, 0, 64 * KIB);
    rig.complete_read(0);
    assert_eq!(rig.chunks(), [(5, true, "data 0+65536 sound".to_owned())]);
}

// proves: B11 B13
#[test]
fn an_error_in_one_piece_of_a_structured_read_ends_the_reply_with_an_error() {
    let mut rig = Rig::transmitting(true, export());
    rig.request(Command::Read, 0, 5, 0, 128 * KIB);
    rig.complete(0, Err(BlockErrno::Io));
    assert!(rig.chunks().is_empty(), "the other piece is still in the service");
    rig.complete_read(0);
    assert_eq!(
        rig.chunks(),
        [(5, false, "data 65536+65536 sound".to_owned()), (5, true, "error Io".to_owned())]
    );
}

// proves: B13
#[test]
fn a_simple_read_in_pieces_is_joined_in_order() {
    let mut rig = Rig::transmitting(false, export());
    rig.request(Command::Read, 0, 6, 0, 160 * KIB);
    rig.complete_read(1);
    rig.complete_read(0);
    assert!(rig.output().is_empty(), "not before all of it is in: an error could still come");
    rig.complete_read(0);
    let bytes = rig.output();
    assert_eq!(SimpleReply::parse(&bytes), Ok(Some(SimpleReply { error: None, cookie: 6 })));
    assert_eq!(bytes[SimpleReply::BYTES..], pattern(0, 160 * KIB));
}

// proves: B11 B13
#[test]
fn a_simple_read_with_an_error_in_any_piece_is_an_error_and_no_data() {
    for failing in 0..3 {
        let mut rig = Rig::transmitting(false, export());
        rig.request(Command::Read, 0, 6, 0, 160 * KIB);
        rig.complete(failing, Err(BlockErrno::Io));
        rig.complete_read(0);
        rig.complete_read(0);
        assert_eq!(rig.simple_reply(), SimpleReply { error: Some(BlockErrno::Io), cookie: 6 });
    }
}

// proves: T12 B13
#[test]
fn a_simple_read_larger_than_the_services_memory_goes_piece_by_piece_and_alone() {
    let mut rig = Rig::transmitting(false, export());
    rig.room = 2;
    rig.request(Command::Read, 0, 6, 0, 320 * KIB);
    rig.request(Command::Read, 0, 7, 512, 512);
    rig.complete_read(0);
    let mut bytes = rig.output();
    assert!(bytes.len() > SimpleReply::BYTES, "the reply has begun");
    rig.turn();
    while !rig.submitted.is_empty() {
        // The youngest first: a reply to the second request would land in the middle of the first.
        rig.complete_read(rig.submitted.len() - 1);
        bytes.extend(rig.output());
        rig.turn();
    }
    let length = SimpleReply::BYTES + 320 * KIB as usize;
    assert_eq!(SimpleReply::parse(&bytes), Ok(Some(SimpleReply { error: None, cookie: 6 })));
    assert_eq!(bytes[SimpleReply::BYTES..length], pattern(0, 320 * KIB));
    let rest = &bytes[length..];
    assert_eq!(SimpleReply::parse(rest), Ok(Some(SimpleReply { error: None, cookie: 7 })));
    assert_eq!(rest[SimpleReply::BYTES..], pattern(512, 512));
}

// proves: B13
#[test]
fn a_simple_reply_that_fails_half_way_is_torn_off_rather_than_padded() {
    let mut rig = Rig::transmitting(false, export());
    rig.room = 2;
    rig.request(Command::Read, 0, 6, 0, 320 * KIB);
    rig.complete_read(0);
    assert!(rig.output().len() > SimpleReply::BYTES, "the reply has begun");
    rig.complete(0, Err(BlockErrno::Io));
    assert_eq!(rig.connection.end_reason(), Some(EndReason::ReplyTorn));
    assert!(rig.connection.is_over());
}

// proves: B11
#[test]
fn data_of_the_wrong_length_is_an_error_of_the_disk() {
    let mut rig = Rig::transmitting(true, export());
    rig.request(Command::Read, 0, 6, 0, 1024);
    rig.complete(0, Ok(BlockAnswer::Data(vec![0; 512])));
    assert_eq!(rig.chunks(), [(6, true, "error Io".to_owned())]);
}

// proves: B11 B13
#[test]
fn a_write_reaches_the_service_in_pieces_with_its_payload_and_its_fua() {
    let mut rig = Rig::transmitting(true, export());
    rig.request(Command::Write, C::FUA, 8, 1 << 20, 160 * KIB);
    rig.send(&pattern(1 << 20, 160 * KIB));
    assert_eq!(rig.submitted.len(), 3);
    for io in &rig.submitted {
        let BlockOperation::Write { offset, buffer, fua: true } = &io.operation else { panic!("{io:?}") };
        assert_eq!(*buffer, pattern(*offset, buffer.len() as u32));
    }
    for _ in 0..3 {
        assert!(rig.output().is_empty());
        rig.complete(0, done());
    }
    assert_eq!(rig.simple_reply(), SimpleReply { error: None, cookie: 8 });
}

// proves: B11
#[test]
fn a_write_of_which_one_piece_fails_has_failed() {
    let mut rig = Rig::transmitting(true, export());
    rig.request(Command::Write, 0, 8, 0, 128 * KIB);
    rig.send(&pattern(0, 128 * KIB));
    rig.complete(1, Err(BlockErrno::NoSpace));
    rig.complete(0, done());
    assert_eq!(rig.chunks(), [(8, true, "error NoSpace".to_owned())]);
}

// proves: B13
#[test]
fn a_client_that_dies_at_any_byte_of_a_write_has_written_nothing() {
    let mut bytes = Vec::new();
    let (command, flags) = (Command::Write, CommandFlags(0));
    Request { flags, command, cookie: 1, offset: 0, length: 192 * KIB }.encode(&mut bytes);
    bytes.extend(pattern(0, 192 * KIB));
    for cut in (1..bytes.len()).step_by(4099).chain([bytes.len() - 1]) {
        let mut rig = Rig::transmitting(true, export());
        rig.send(&bytes[..cut]);
        rig.connection.lost(EndReason::HungUp);
        rig.turn();
        assert!(rig.submitted.is_empty(), "cut at {cut}");
        assert_eq!((rig.connection.in_service(), rig.connection.unfinished_count()), (0, 0));
    }
}

// proves: T12 B13
#[test]
fn a_write_larger_than_the_services_memory_goes_piece_by_piece() {
    let mut rig = Rig::transmitting(true, export());
    rig.room = 1;
    rig.request(Command::Write, 0, 8, 0, 256 * KIB);
    rig.send(&pattern(0, 256 * KIB));
    let mut written = 0;
    while let Some(io) = rig.submitted.first() {
        let BlockOperation::Write { offset, buffer, .. } = &io.operation else { panic!("{io:?}") };
        assert_eq!((*offset, buffer), (written, &pattern(written, 64 * KIB)));
        written += u64::from(64 * KIB);
        rig.complete(0, done());
        rig.turn();
    }
    assert_eq!(written, u64::from(256 * KIB));
    assert_eq!(rig.simple_reply(), SimpleReply { error: None, cookie: 8 });
}

// proves: T12
#[test]
fn a_busy_service_is_asked_again_and_requests_keep_their_order() {
    let mut rig = Rig::transmitting(true, export());
    rig.room = 1;
    for cookie in 0..8 {
        rig.request(Command::Read, 0, cookie, cookie * 512, 512);
    }
    for cookie in 0..8 {
        assert_eq!(rig.submitted.len(), 1);
        rig.complete_read(0);
        assert_eq!(rig.chunks(), [(cookie, true, format!("data {}+512 sound", cookie * 512))]);
        rig.turn();
    }
}

// proves: B11
#[test]
fn an_operation_that_the_service_refuses_for_good_is_answered_with_its_errno() {
    let mut rig = Rig::transmitting(true, export());
    rig.refusal = Some(BlockErrno::Shutdown);
    rig.request(Command::Read, 0, 4, 0, 160 * KIB);
    assert_eq!(rig.chunks(), [(4, true, "error Shutdown".to_owned())]);
    assert_eq!(rig.connection.unfinished_count(), 0);
}

// proves: T12
#[test]
fn a_client_is_read_no_further_than_its_limits_allow() {
    let limits = ConnectionLimits { requests_max: 4, bytes_max: 64 << 10 };
    let mut rig = Rig::with_limits(limits).greeted();
    rig.option(blockdev_nbd::codec::ClientOption::ExportName("disk"));
    rig.output();
    for cookie in 0..6 {
        rig.request(Command::Flush, 0, cookie, 0, 0);
    }
    assert_eq!((rig.submitted.len(), &rig.last_step), (4, &Step::Full), "four requests");
    assert_eq!(rig.input.len(), 2 * Request::BYTES);
    while !rig.submitted.is_empty() {
        rig.complete(0, done());
        rig.turn();
    }
    rig.output();
    rig.turn();
    assert!(rig.input.is_empty());

    rig.request(Command::Read, 0, 1, 0, 48 * KIB);
    rig.request(Command::Read, 0, 2, 0, 32 * KIB);
    assert_eq!((rig.submitted.len(), &rig.last_step), (1, &Step::Full), "64 KiB of payload");
    rig.complete_read(0);
    rig.turn();
    assert_eq!(rig.submitted.len(), 0, "the client has not taken its bytes yet");
    rig.output();
    rig.turn();
    assert_eq!(rig.submitted.len(), 1);
    rig.complete_read(0);
    rig.output();
    rig.request(Command::Read, 0, 3, 0, 128 * KIB);
    assert_eq!(rig.submitted.len(), 2, "a request beyond the limit passes when it is alone");
}

// proves: B13
#[test]
fn block_status_tells_extents_cut_to_the_request() {
    let extent = |length, hole| Extent { length, hole, zero: hole };
    for (flags, answer, expected) in [
        (0, vec![extent(512, true), extent(1024, false)], vec![(512, 3), (1024, 0)]),
        (0, vec![extent(512, true), extent(1 << 20, false)], vec![(512, 3), (3584, 0)]),
        (C::REQ_ONE, vec![extent(512, true), extent(1024, false)], vec![(512, 3)]),
        (C::REQ_ONE, vec![extent(1 << 20, false)], vec![(4096, 0)]),
    ] {
        let mut rig = Rig::transmitting(true, export());
        rig.request(Command::BlockStatus, flags, 2, 0, 4096);
        rig.complete(0, Ok(BlockAnswer::Extents(answer)));
        let extents: Vec<String> = expected
            .iter()
            .map(|(length, flags)| format!("StatusExtent {{ length: {length}, flags: {flags} }}"))
            .collect();
        let text = format!("BlockStatus {{ context: 1, extents: [{}] }}", extents.join(", "));
        assert_eq!(rig.chunks(), [(2, true, text)]);
    }
    for answer in [BlockAnswer::Extents(Vec::new()), BlockAnswer::Done] {
        let mut rig = Rig::transmitting(true, export());
        rig.request(Command::BlockStatus, 0, 2, 0, 4096);
        rig.complete(0, Ok(answer));
        assert_eq!(rig.chunks(), [(2, true, "error Io".to_owned())]);
    }
}

// proves: B13
#[test]
fn garbage_in_transmission_ends_the_connection_after_what_is_under_way() {
    let mut rig = Rig::transmitting(true, export());
    rig.request(Command::Read, 0, 1, 0, 512);
    rig.send(&[0xee; 28]);
    assert!(matches!(rig.connection.end_reason(), Some(EndReason::Garbage(_))));
    assert!(!rig.connection.is_over());
    rig.complete_read(0);
    assert_eq!(rig.chunks().len(), 1);
    assert!(rig.connection.is_over());
}

// proves: B13
#[test]
fn a_disconnect_waits_for_the_requests_before_it() {
    let mut rig = Rig::transmitting(true, export());
    rig.room = 1;
    rig.request(Command::Flush, 0, 1, 0, 0);
    rig.request(Command::Flush, 0, 2, 0, 0);
    rig.request(Command::Disconnect, 0, 3, 0, 0);
    rig.request(Command::Flush, 0, 4, 0, 0);
    assert_eq!(rig.connection.end_reason(), Some(EndReason::Disconnected));
    for _ in 0..2 {
        assert!(!rig.connection.is_over());
        rig.complete(0, done());
        rig.turn();
    }
    assert!(rig.submitted.is_empty(), "nothing after the disconnect counts");
    assert_eq!(rig.output().len(), 2 * SimpleReply::BYTES);
    assert!(rig.connection.is_over());
}

// proves: B5 B13
#[test]
fn a_lost_connection_forgets_what_was_not_submitted_and_outlives_what_was() {
    let mut rig = Rig::transmitting(true, export());
    rig.room = 2;
    for cookie in 0..4 {
        rig.request(Command::Write, 0, cookie, cookie * 512, 512);
        rig.send(&[1; 512]);
    }
    rig.connection.lost(EndReason::HungUp);
    let unfinished: Vec<_> = rig.connection.unfinished().collect();
    assert_eq!(unfinished.iter().map(|span| span.bytes.clone()).collect::<Vec<_>>(), [0..512, 512..1024]);
    assert!(unfinished.iter().all(|span| span.changes_disk));
    rig.complete(1, done());
    rig.complete(0, done());
    assert_eq!((rig.connection.in_service(), rig.connection.unfinished_count()), (0, 0));
    assert!(rig.output().is_empty());
}

// proves: B13
#[test]
fn a_stopping_server_refuses_new_requests_and_answers_the_old() {
    let mut rig = Rig::transmitting(true, export());
    rig.request(Command::Read, 0, 1, 0, 512);
    rig.connection.stop();
    rig.request(Command::Read, 0, 2, 0, 512);
    assert_eq!(rig.chunks(), [(2, true, "error Shutdown".to_owned())]);
    rig.complete_read(0);
    assert_eq!(rig.chunks(), [(1, true, "data 0+512 sound".to_owned())]);
}
