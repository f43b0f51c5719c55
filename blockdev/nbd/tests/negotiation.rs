//! The handshake: every option, every refusal.

#![allow(clippy::unwrap_used, reason = "a test fails where it finds the unexpected")]

mod support;

use blockdev_nbd::codec::{
    ByteSink, ClientFlags, ClientOption, ExportQuery, Greeting, MetaQuery, OptionHeader, TransmissionFlags,
    option_number,
};
use blockdev_nbd::connection::{EndReason, Step};
use support::rig::{Rig, allocation_query, export, query};

type F = TransmissionFlags;

fn flags_bytes(flags: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    ClientFlags(flags).encode(&mut bytes);
    bytes
}

// proves: B13
#[test]
fn the_greeting_offers_fixed_newstyle_before_the_client_says_a_word() {
    let greeting = Greeting::parse(&Rig::fresh().output()).unwrap().unwrap();
    assert_eq!(greeting.flags.0, 3, "fixed newstyle and no zeroes");
}

// proves: B13
#[test]
fn clients_that_do_not_speak_fixed_newstyle_are_dropped() {
    for (flags, reason) in [
        (0, EndReason::NotFixedNewstyle),
        (ClientFlags::NO_ZEROES, EndReason::NotFixedNewstyle),
        (ClientFlags::FIXED_NEWSTYLE | 1 << 9, EndReason::UnknownClientFlags(1 << 9)),
    ] {
        let mut rig = Rig::fresh();
        rig.output();
        rig.send(&flags_bytes(flags));
        assert_eq!(rig.connection.end_reason(), Some(reason));
        assert!(reason.is_client_fault());
        assert!(rig.connection.is_over());
    }
}

// proves: B13
#[test]
fn bytes_that_are_no_option_end_the_connection() {
    let mut rig = Rig::fresh().greeted();
    rig.send(b"GET / HTTP/1.1\r\n");
    assert!(matches!(rig.connection.end_reason(), Some(EndReason::Garbage(_))));
    assert!(rig.connection.is_over());
}

// proves: B13
#[test]
fn export_name_starts_transmission_with_or_without_zeroes() {
    for (client_flags, length) in [(1, 8 + 2 + 124), (3, 8 + 2)] {
        let mut rig = Rig::fresh();
        rig.output();
        rig.send(&flags_bytes(client_flags));
        rig.option(ClientOption::ExportName("disk"));
        let bytes = rig.output();
        assert_eq!(bytes.len(), length);
        assert_eq!(bytes[..8], (1u64 << 30).to_be_bytes());
        assert!(rig.connection.agreement().is_some());
    }
}

// proves: B13
#[test]
fn export_name_of_an_unknown_export_has_no_other_answer_than_the_end() {
    let mut rig = Rig::fresh().greeted();
    rig.option(ClientOption::ExportName("nothing"));
    assert_eq!(rig.connection.end_reason(), Some(EndReason::ExportRefused));
    assert!(rig.output().is_empty());
    assert!(rig.connection.is_over());
}

// proves: B13
#[test]
fn abort_is_acknowledged_before_the_end() {
    let mut rig = Rig::fresh().greeted();
    rig.option(ClientOption::Abort);
    assert!(!rig.connection.is_over(), "the acknowledgement still has to leave");
    assert_eq!(rig.option_replies(), ["Ack"]);
    assert!(rig.connection.is_over());
    assert_eq!(rig.connection.end_reason(), Some(EndReason::Aborted));
}

// proves: B13
#[test]
fn list_tells_every_export() {
    let mut rig = Rig::fresh().greeted();
    rig.option(ClientOption::List);
    let replies = rig.option_replies();
    assert_eq!(replies.len(), 3);
    assert!(replies[0].contains("disk") && replies[1].contains("tape") && replies[2] == "Ack", "{replies:?}");
}

// proves: B13
#[test]
fn every_option_that_cannot_be_done_gets_its_own_refusal() {
    let queries = allocation_query();
    let one_context = MetaQuery::from_encoded("disk", 1, &queries);
    for (option, expected) in [
        (ClientOption::StartTls, "Policy"),
        (ClientOption::Unknown { number: 11, data: &[] }, "Unsupported"),
        (ClientOption::Unknown { number: 4, data: b"peek" }, "Unsupported"),
        (ClientOption::Go(ExportQuery::plain("nothing")), "Unknown"),
        (ClientOption::Info(ExportQuery::plain("nothing")), "Unknown"),
        (ClientOption::Go(ExportQuery::plain("secret")), "Policy"),
        (ClientOption::Go(ExportQuery::plain("far")), "Platform"),
        (ClientOption::SetMetaContext(one_context), "Invalid"),
        (ClientOption::ListMetaContext(one_context), "Invalid"),
    ] {
        let mut rig = Rig::fresh().greeted();
        rig.option(option);
        let replies = rig.option_replies();
        assert_eq!(replies.len(), 1, "{option:?}");
        assert!(replies[0].contains(&format!("error: {expected}")), "{option:?} got {}", replies[0]);
        // And the handshake goes on.
        rig.option(ClientOption::Go(ExportQuery::plain("disk")));
        assert!(rig.connection.agreement().is_some());
    }
}

// proves: B13
#[test]
fn malformed_data_is_refused_as_invalid_and_the_handshake_goes_on() {
    for (number, data) in [
        (option_number::LIST, &b"unexpected"[..]),
        (option_number::STARTTLS, b"x"),
        (option_number::STRUCTURED_REPLY, b"x"),
        (option_number::GO, b""),
        (option_number::GO, b"\0\0\0\xffdisk\0\0"),
        (option_number::INFO, b"\0\0\0\x04disk\0\x02\0\0"),
        (option_number::INFO, b"\0\0\0\x02\xff\xfe\0\0"),
        (option_number::LIST_META_CONTEXT, b"\0\0\0\x04disk\xff\xff\xff\xff"),
    ] {
        let mut rig = Rig::fresh().greeted();
        let mut bytes = Vec::new();
        OptionHeader { number, length: data.len() as u32 }.encode(&mut bytes);
        bytes.put(data);
        rig.send(&bytes);
        let replies = rig.option_replies();
        assert!(replies.len() == 1 && replies[0].contains("error: Invalid"), "option {number}: {replies:?}");
        rig.option(ClientOption::Go(ExportQuery::plain("disk")));
        assert!(rig.connection.agreement().is_some());
    }
}

// proves: B13
#[test]
fn an_option_that_is_too_long_is_skipped_and_refused() {
    let mut rig = Rig::fresh().greeted();
    let mut bytes = Vec::new();
    OptionHeader { number: option_number::GO, length: 100_000 }.encode(&mut bytes);
    rig.send(&bytes);
    for _ in 0..100 {
        rig.send(&[b'x'; 1000]);
    }
    assert!(rig.option_replies()[0].contains("error: TooBig"));
    rig.option(ClientOption::Go(ExportQuery::plain("disk")));
    assert!(rig.connection.agreement().is_some());
}

// proves: B13
#[test]
fn a_handshake_of_endless_options_is_cut_off() {
    let mut rig = Rig::fresh().greeted();
    for _ in 0..5000 {
        rig.option(ClientOption::StartTls);
        rig.output();
    }
    assert_eq!(rig.connection.end_reason(), Some(EndReason::TooManyOptions));
}

// proves: B13
#[test]
fn a_client_that_reads_no_replies_is_read_from_no_further() {
    let mut rig = Rig::fresh().greeted();
    for _ in 0..4000 {
        rig.option(ClientOption::List);
    }
    assert_eq!(rig.last_step, Step::Full);
    assert!(rig.connection.outbox().bytes() < 300_000, "bounded whatever the client sends");
    while rig.last_step == Step::Full {
        rig.output();
        rig.turn();
    }
    assert!(rig.input.is_empty(), "once it reads, it is served");
}

// proves: B13
#[test]
fn info_tells_the_export_and_leaves_it_closed() {
    let mut rig = Rig::fresh().greeted();
    rig.option(ClientOption::Info(ExportQuery::plain("disk")));
    let replies = rig.option_replies();
    assert_eq!(replies.len(), 3);
    assert!(replies[0].contains("Export { size_bytes: 1073741824"), "{replies:?}");
    assert_eq!(replies[1], "Info(BlockSize { minimum: 512, preferred: 4096, maximum: 33554432 })");
    assert_eq!(replies[2], "Ack");
    assert_eq!(rig.probes, 1);
    assert!(rig.connection.agreement().is_none());
}

// proves: B13
#[test]
fn go_tells_name_and_description_when_asked() {
    let mut rig = Rig::fresh().greeted();
    let mut data = Vec::new();
    data.put_u32(4);
    data.put(b"disk");
    data.put_u16(2);
    data.put_u16(1);
    data.put_u16(2);
    let mut bytes = Vec::new();
    OptionHeader { number: option_number::GO, length: data.len() as u32 }.encode(&mut bytes);
    bytes.put(&data);
    rig.send(&bytes);
    let replies = rig.option_replies();
    assert!(replies.contains(&"Info(Name(\"disk\"))".to_owned()), "{replies:?}");
    assert!(replies.contains(&"Info(Description(\"a disk on paper\"))".to_owned()), "{replies:?}");
}

// proves: B13
#[test]
fn transmission_flags_promise_what_the_export_can_do_and_no_more() {
    let writable =
        F::HAS_FLAGS | F::SEND_FLUSH | F::SEND_FUA | F::SEND_TRIM | F::SEND_WRITE_ZEROES | F::CAN_MULTI_CONN;
    let read_only = F::HAS_FLAGS | F::READ_ONLY | F::SEND_FLUSH | F::CAN_MULTI_CONN;
    for (structured, is_read_only, fast_zero, expected) in [
        (false, false, false, writable),
        (true, false, false, writable | F::SEND_DF),
        (false, false, true, writable | F::SEND_FAST_ZERO),
        (true, true, true, read_only | F::SEND_DF),
    ] {
        let export = blockdev_nbd::OpenedExport { read_only: is_read_only, fast_zero, ..export() };
        let rig = Rig::transmitting(structured, export);
        assert_eq!(rig.connection.agreement().unwrap().transmission_flags().0, expected);
    }
}

// proves: B13
#[test]
fn contexts_are_listed_by_name_by_namespace_and_all() {
    let base = query("base:");
    let other = query("qemu:dirty-bitmap:x");
    let queries = allocation_query();
    for (count, encoded, expected) in [(1, &queries, 1), (1, &base, 1), (0, &Vec::new(), 1), (1, &other, 0)] {
        let mut rig = Rig::fresh().greeted();
        rig.option(ClientOption::StructuredReply);
        rig.output();
        rig.option(ClientOption::ListMetaContext(MetaQuery::from_encoded("disk", count, encoded)));
        let replies = rig.option_replies();
        assert_eq!(replies.len(), expected + 1, "{replies:?}");
    }
}

// proves: B13
#[test]
fn a_context_counts_only_for_the_export_that_it_was_selected_for() {
    let queries = allocation_query();
    let wildcard = query("base:");
    let select = |name, queries| ClientOption::SetMetaContext(MetaQuery::from_encoded(name, 1, queries));
    for (selections, expected) in [
        (vec![select("disk", &queries)], true),
        (vec![select("", &queries)], false),
        (vec![select("disk", &wildcard)], false),
        (vec![select("disk", &queries), select("disk", &wildcard)], false),
        (vec![select("disk", &queries), select("nothing", &queries)], false),
    ] {
        let mut rig = Rig::fresh().greeted();
        rig.option(ClientOption::StructuredReply);
        for selection in &selections {
            rig.option(*selection);
        }
        rig.option(ClientOption::Go(ExportQuery::plain("disk")));
        let agreement = rig.connection.agreement().unwrap();
        assert_eq!(agreement.allocation_context, expected, "{selections:?}");
    }
}

// proves: B13
#[test]
fn a_handshake_survives_any_cut_of_its_bytes() {
    let mut bytes = flags_bytes(3);
    ClientOption::StructuredReply.encode(&mut bytes);
    ClientOption::List.encode(&mut bytes);
    ClientOption::Go(ExportQuery::plain("disk")).encode(&mut bytes);
    for cut in 1..bytes.len() {
        let mut rig = Rig::fresh();
        rig.send(&bytes[..cut]);
        rig.send(&bytes[cut..]);
        assert!(rig.connection.agreement().is_some_and(|agreement| agreement.structured), "cut at {cut}");
    }
}
