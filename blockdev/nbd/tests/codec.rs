//! Properties of the codec: what was encoded parses back, and no bytes make a parser panic.

#![allow(clippy::unwrap_used, reason = "a test fails where it finds the unexpected")]

use blockdev_nbd::BlockErrno;
use blockdev_nbd::codec::{
    Chunk, ChunkHeader, ClientFlags, ClientOption, Command, CommandFlags, ExportQuery, Greeting,
    HandshakeFlags, MetaQuery, OptionError, OptionHeader, OptionReply, OptionReplyBody, Request, ServerInfo,
    SimpleReply, StatusExtent, TransmissionFlags, WireFault, option_number,
};
use proptest::prelude::*;

fn errno() -> impl Strategy<Value = BlockErrno> {
    (0..BlockErrno::ALL.len()).prop_map(|index| BlockErrno::ALL[index])
}

fn encoded_queries(queries: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for query in queries {
        bytes.extend_from_slice(&(query.len() as u32).to_be_bytes());
        bytes.extend_from_slice(query.as_bytes());
    }
    bytes
}

fn assert_option_survives(option: ClientOption<'_>) {
    let mut bytes = Vec::new();
    option.encode(&mut bytes);
    let header = OptionHeader::parse(&bytes).unwrap().unwrap();
    assert_eq!(header.number, option.number());
    assert_eq!(bytes.len(), OptionHeader::BYTES + header.length as usize);
    assert_eq!(ClientOption::parse(header.number, &bytes[OptionHeader::BYTES..]), Ok(option));
}

fn assert_reply_survives(option: u32, body: OptionReplyBody<'_>) {
    let reply = OptionReply { option, body };
    let mut bytes = Vec::new();
    reply.encode(&mut bytes);
    let length = bytes.len();
    assert_eq!(OptionReply::parse(&bytes[..length - 1]), Ok(None), "a reply that is one byte short");
    bytes.extend_from_slice(b"next");
    assert_eq!(OptionReply::parse(&bytes), Ok(Some((reply, length))));
}

fn assert_chunk_survives(chunk: Chunk<'_>, cookie: u64, flags: u16) {
    let mut bytes = Vec::new();
    chunk.encode(&mut bytes, cookie, flags);
    let (header, found, length) = Chunk::parse(&bytes).unwrap().unwrap();
    assert_eq!((header.cookie, header.flags, length), (cookie, flags, bytes.len()));
    assert_eq!(found, chunk);
    assert_eq!(Chunk::parse(&bytes[..length - 1]), Ok(None), "a chunk that is one byte short");
}

proptest! {
    // proves: B13
    #[test]
    fn every_option_survives_encoding(
        name in "\\PC{0,64}",
        queries in prop::collection::vec("[a-z:]{0,20}", 0..6),
        number in 100u32..,
        data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let encoded = encoded_queries(&queries);
        let meta = MetaQuery::from_encoded(&name, queries.len() as u32, &encoded);
        let names: Vec<&str> = queries.iter().map(String::as_str).collect();
        prop_assert_eq!(meta.queries().collect::<Vec<_>>(), names);
        for option in [
            ClientOption::ExportName(&name),
            ClientOption::Abort,
            ClientOption::List,
            ClientOption::StartTls,
            ClientOption::Info(ExportQuery::plain(&name)),
            ClientOption::Go(ExportQuery::plain(&name)),
            ClientOption::StructuredReply,
            ClientOption::ListMetaContext(meta),
            ClientOption::SetMetaContext(meta),
            ClientOption::Unknown { number, data: &data },
        ] {
            assert_option_survives(option);
        }
    }

    // proves: B13
    #[test]
    fn every_option_reply_survives_encoding(
        option: u32, text in "\\PC{0,64}", size: u64, flags: u16, id: u32, sizes: (u32, u32, u32),
        data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let flags = TransmissionFlags(flags);
        let (minimum, preferred, maximum) = sizes;
        for body in [
            OptionReplyBody::Ack,
            OptionReplyBody::Server { name: &text, description: "a disk" },
            OptionReplyBody::Info(ServerInfo::Export { size_bytes: size, flags }),
            OptionReplyBody::Info(ServerInfo::Name(&text)),
            OptionReplyBody::Info(ServerInfo::Description(&text)),
            OptionReplyBody::Info(ServerInfo::BlockSize { minimum, preferred, maximum }),
            OptionReplyBody::Info(ServerInfo::Other { kind: 77, data: &data }),
            OptionReplyBody::MetaContext { id, name: &text },
            OptionReplyBody::Other { kind: 99, data: &data },
        ] {
            assert_reply_survives(option, body);
        }
        for error in OptionError::ALL {
            assert_reply_survives(option, OptionReplyBody::Error { error, message: &text });
        }
    }

    // proves: B13
    #[test]
    fn every_request_survives_encoding(
        flags: u16, number in 0u16..12, cookie: u64, offset: u64, length: u32,
    ) {
        let command = match number {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::WriteZeroes,
            7 => Command::BlockStatus,
            other => Command::Unknown(other),
        };
        let request = Request { flags: CommandFlags(flags), command, cookie, offset, length };
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        prop_assert_eq!(bytes.len(), Request::BYTES);
        prop_assert_eq!(Request::parse(&bytes), Ok(Some(request)));
        prop_assert_eq!(Request::parse(&bytes[..Request::BYTES - 1]), Ok(None));
    }

    // proves: B11 B13
    #[test]
    fn every_reply_survives_encoding(
        error in prop::option::of(errno()), cookie: u64, flags: u16, offset: u64, length: u32,
        text in "\\PC{0,64}", data in prop::collection::vec(any::<u8>(), 1..64),
        extents in prop::collection::vec((any::<u32>(), 0u32..4), 0..8),
    ) {
        let reply = SimpleReply { error, cookie };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        prop_assert_eq!(SimpleReply::parse(&bytes), Ok(Some(reply)));
        prop_assert_eq!(SimpleReply::parse(&bytes[..SimpleReply::BYTES - 1]), Ok(None));

        let extents = extents.into_iter().map(|(length, flags)| StatusExtent { length, flags }).collect();
        for chunk in [
            Chunk::None,
            Chunk::OffsetData { offset, data: &data },
            Chunk::OffsetHole { offset, length },
            Chunk::BlockStatus { context: length, extents },
            Chunk::Error { error: error.unwrap_or(BlockErrno::Io), message: &text, offset: None },
            Chunk::Error { error: error.unwrap_or(BlockErrno::Io), message: &text, offset: Some(offset) },
            Chunk::Other { kind: 77, data: &data },
        ] {
            assert_chunk_survives(chunk, cookie, flags);
        }
    }

    // proves: B13
    #[test]
    fn no_bytes_make_a_parser_panic(number in 0u32..14, bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = Greeting::parse(&bytes);
        let _ = ClientFlags::parse(&bytes);
        let _ = OptionHeader::parse(&bytes);
        if let Ok(ClientOption::ListMetaContext(query) | ClientOption::SetMetaContext(query)) =
            ClientOption::parse(number, &bytes)
        {
            prop_assert_eq!(query.queries().count(), query.count() as usize);
        }
        let _ = OptionReply::parse(&bytes);
        let _ = Request::parse(&bytes);
        let _ = SimpleReply::parse(&bytes);
        let _ = Chunk::parse(&bytes);
    }

    // proves: B13
    #[test]
    fn a_damaged_message_parses_or_fails_but_never_panics(position in 0usize..256, value: u8) {
        let mut messages: Vec<Vec<u8>> = vec![Vec::new(); 3];
        OptionReply { option: 7, body: OptionReplyBody::Server { name: "disk", description: "one" } }
            .encode(&mut messages[0]);
        let error = Chunk::Error { error: BlockErrno::Io, message: "gone", offset: Some(1) };
        error.encode(&mut messages[1], 1, 1);
        let queries = encoded_queries(&["base:allocation".to_owned()]);
        ClientOption::SetMetaContext(MetaQuery::from_encoded("disk", 1, &queries)).encode(&mut messages[2]);
        for message in &mut messages {
            let position = position % message.len();
            message[position] = value;
        }
        let _ = OptionReply::parse(&messages[0]);
        let _ = Chunk::parse(&messages[1]);
        let _ = ClientOption::parse(option_number::SET_META_CONTEXT, &messages[2][OptionHeader::BYTES..]);
    }
}

// proves: B13
#[test]
fn an_oldstyle_greeting_is_refused() {
    let mut greeting = Vec::new();
    Greeting { flags: HandshakeFlags(3) }.encode(&mut greeting);
    assert_eq!(Greeting::parse(&greeting), Ok(Some(Greeting { flags: HandshakeFlags(3) })));
    greeting[8..16].copy_from_slice(&0x0000_4202_8186_1253u64.to_be_bytes());
    assert!(matches!(Greeting::parse(&greeting), Err(WireFault::Magic { .. })));
}

// proves: B13
#[test]
fn a_length_beyond_the_limit_is_a_fault_before_its_bytes_arrive() {
    let mut bytes = Vec::new();
    OptionHeader { number: 1, length: u32::MAX }.encode(&mut bytes);
    assert!(matches!(OptionHeader::parse(&bytes), Err(WireFault::Length { .. })));

    let mut bytes = Vec::new();
    Chunk::OffsetHole { offset: 0, length: 0 }.encode(&mut bytes, 1, 1);
    bytes[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(ChunkHeader::parse(&bytes), Err(WireFault::Length { .. })));
}

// proves: B11
#[test]
fn every_errno_has_its_own_number_and_unknown_numbers_are_invalid() {
    for (errno, number) in BlockErrno::ALL.into_iter().zip([1, 5, 12, 22, 28, 75, 95, 108]) {
        assert_eq!(errno.number(), number);
        assert_eq!(BlockErrno::from_number(number), errno);
    }
    assert_eq!(BlockErrno::from_number(4711), BlockErrno::Invalid);
}
