//! The server on real sockets: clients that die, that flood, that send garbage; addresses that are taken.

#![allow(clippy::unwrap_used, reason = "a test fails where it finds the unexpected")]

mod support;

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use blockdev_nbd::codec::Command;
use blockdev_nbd::connection::{ConnectionLimits, EndReason};
use blockdev_nbd::memory::{MemoryDisk, MemoryReactor, MemoryService};
use blockdev_nbd::{BlockErrno, ListenAddress, NbdConfig, Notice, StartRefusal};
use support::client::{Client, DISK, reactor, settle, socket_path, unix_config};

fn service() -> MemoryService {
    MemoryService::new(vec![MemoryDisk::new("disk", 16 << 20)])
}

// proves: B11 B13
#[test]
fn what_one_client_writes_another_reads() {
    let (mut reactor, path) = reactor("plain", ConnectionLimits::default());
    let mut writer = Client::open(&mut reactor, &path);
    let mut reader = Client::open(&mut reactor, &path);
    let payload: Vec<u8> = (0..40_960u32).map(|position| (position / 7) as u8).collect();
    writer.write(1, 512, &payload);
    settle(&mut reactor);
    assert_eq!(writer.acknowledged(), Some(1));
    reader.request(Command::Read, 2, 512, 40_960);
    settle(&mut reactor);
    assert_eq!(reader.data(), Some((2, payload)));
}

// proves: T2 B13
#[test]
fn a_client_that_takes_no_replies_does_not_keep_the_memory_that_others_need() {
    let (mut reactor, path) = reactor("stopped", ConnectionLimits::default());
    let mut stopped = Client::open(&mut reactor, &path);
    stopped.write(0, 0, &[0x5a; 64 << 10]);
    settle(&mut reactor);
    assert_eq!(stopped.acknowledged(), Some(0));
    for cookie in 1..=100 {
        stopped.request(Command::Read, cookie, 0, 64 << 10);
    }
    settle(&mut reactor);
    assert!(reactor.service.lent() > 0, "more than a socket holds, or this proves nothing");
    let started = Instant::now();
    while reactor.service.lent() > 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "{} leases are kept", reactor.service.lent());
        settle(&mut reactor);
    }
    for cookie in 1..=100 {
        settle(&mut reactor);
        stopped.receive();
        settle(&mut reactor);
        assert_eq!(stopped.data(), Some((cookie, vec![0x5a; 64 << 10])), "what waited is whole");
    }
}

// proves: B5
#[test]
fn a_reconnecting_client_does_not_meet_the_late_writes_of_its_dead_connection() {
    let (mut reactor, path) = reactor("late", ConnectionLimits::default());
    reactor.service.hold();
    let mut dying = Client::open(&mut reactor, &path);
    dying.write(1, 0, &[0xaa; 512]);
    dying.write(2, 4096, &[0xaa; 512]);
    settle(&mut reactor);
    assert_eq!(reactor.service.pending().len(), 2);
    drop(dying);

    let mut again = Client::open(&mut reactor, &path);
    again.write(1, 0, &[0xbb; 512]);
    again.request(Command::Read, 2, 1 << 20, 512);
    settle(&mut reactor);
    assert_eq!(reactor.service.pending().len(), 2, "nothing of the new connection while the old one drains");
    assert_eq!(reactor.server.quarantined_requests(), 2);

    let completion = reactor.service.release(1).unwrap();
    reactor.server.complete(completion);
    settle(&mut reactor);
    assert_eq!(reactor.service.pending().len(), 1, "the last old write is still under way");
    let completion = reactor.service.release(0).unwrap();
    reactor.server.complete(completion);
    settle(&mut reactor);
    assert_eq!(reactor.service.pending().len(), 2, "now the new connection's write and read");

    reactor.service.flow();
    settle(&mut reactor);
    assert_eq!(again.acknowledged(), Some(1));
    assert_eq!(reactor.service.peek(DISK, 0, 512), [0xbb; 512]);
    assert_eq!((reactor.server.connections(), reactor.server.quarantined_requests()), (1, 0));
}

// proves: B5
#[test]
fn writes_that_a_dead_client_left_unread_in_its_socket_never_reach_the_disk() {
    let limits = ConnectionLimits { requests_max: 2, ..ConnectionLimits::default() };
    let (mut reactor, path) = reactor("unread", limits);
    reactor.service.hold();
    let mut dying = Client::open(&mut reactor, &path);
    let mut again = Client::dial(&path);
    settle(&mut reactor);
    for cookie in 0..6 {
        dying.write(cookie, cookie * 512, &[0xaa; 512]);
    }
    settle(&mut reactor);
    assert_eq!(reactor.service.pending().len(), 2, "the limit; the rest waits in the socket");

    // The old socket closes and the new one gets going, and the reactor is told of neither by an event.
    drop(dying);
    again.send_handshake();
    again.write(9, 0, &[0xbb; 512]);
    while reactor.round() {}
    assert_eq!(reactor.server.quarantined_requests(), 2, "the server has looked for itself");
    for _ in 0..2 {
        let completion = reactor.service.release(0).unwrap();
        reactor.server.complete(completion);
    }
    reactor.service.flow();
    settle(&mut reactor);
    assert_eq!(reactor.service.peek(DISK, 0, 512), [0xbb; 512]);
    assert_eq!(reactor.service.peek(DISK, 512, 512), [0xaa; 512]);
    assert_eq!(reactor.service.peek(DISK, 1024, 2048), [0; 2048], "what was not read stays unwritten");
}

// proves: B5
#[test]
fn another_connection_of_the_same_client_waits_only_where_a_dead_write_may_land() {
    let (mut reactor, path) = reactor("resident", ConnectionLimits::default());
    let mut resident = Client::open(&mut reactor, &path);
    let mut dying = Client::open(&mut reactor, &path);
    reactor.service.hold();
    dying.write(1, 0, &[0xaa; 1024]);
    settle(&mut reactor);
    drop(dying);
    settle(&mut reactor);
    resident.request(Command::Read, 1, 8192, 512);
    resident.write(2, 512, &[0xbb; 512]);
    settle(&mut reactor);
    assert_eq!(reactor.service.pending().len(), 2, "the dead write and the read elsewhere");
    reactor.service.flow();
    settle(&mut reactor);
    settle(&mut reactor);
    assert_eq!(resident.data().map(|(cookie, _)| cookie), Some(1));
    assert_eq!(resident.acknowledged(), Some(2));
    assert_eq!(reactor.service.peek(DISK, 512, 512), [0xbb; 512]);
}

// proves: B13
#[test]
fn a_client_that_dies_in_the_middle_of_a_write_leaves_the_disk_and_the_others_alone() {
    let (mut reactor, path) = reactor("midwrite", ConnectionLimits::default());
    let mut other = Client::open(&mut reactor, &path);
    let mut dying = Client::open(&mut reactor, &path);
    dying.request(Command::Write, 1, 0, 3 << 20);
    for _ in 0..25 {
        dying.send(&[0xaa; 100_000]);
        settle(&mut reactor);
    }
    drop(dying);
    settle(&mut reactor);
    assert_eq!(reactor.service.peek(DISK, 0, 3 << 20), vec![0; 3 << 20]);
    assert_eq!(reactor.service.lent(), 0, "its buffers are back");
    assert_eq!((reactor.server.connections(), reactor.service.openings(DISK)), (1, 1));
    assert_eq!(reactor.server.counters().clients_hung_up, 1);
    assert!(matches!(
        reactor.server.take_notice(),
        Some(Notice::ConnectionEnded { reason: EndReason::HungUp, .. })
    ));
    other.write(5, 0, &[1; 512]);
    settle(&mut reactor);
    assert_eq!(other.acknowledged(), Some(5));
}

// proves: B13
#[test]
fn garbage_costs_the_client_its_connection_and_nobody_else_anything() {
    let (mut reactor, path) = reactor("garbage", ConnectionLimits::default());
    let mut other = Client::open(&mut reactor, &path);
    let mut in_handshake = Client::dial(&path);
    settle(&mut reactor);
    in_handshake.send(b"\0\0\0\x03GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut in_transmission = Client::open(&mut reactor, &path);
    in_transmission.send(&[0x55; 4096]);
    settle(&mut reactor);
    assert!(!in_handshake.receive() && !in_transmission.receive(), "both are hung up on");
    assert_eq!(reactor.server.counters().clients_at_fault, 2);
    let notice = reactor.server.take_notice().unwrap().to_string();
    assert!(notice.contains("is not NBD") && notice.contains(&path.display().to_string()), "{notice}");
    other.request(Command::Read, 5, 0, 512);
    settle(&mut reactor);
    assert!(other.data().is_some());
}

// proves: T12 B13
#[test]
fn a_client_that_reads_no_replies_holds_bounded_memory_and_loses_nothing() {
    let limits = ConnectionLimits { requests_max: 64, bytes_max: 1 << 20 };
    let (mut reactor, path) = reactor("deaf", limits);
    let mut client = Client::open(&mut reactor, &path);
    for cookie in 0..200 {
        client.request(Command::Read, cookie, 0, 65_536);
        settle(&mut reactor);
        assert!(reactor.service.lent() <= 17, "1 MiB of 64 KiB reads, and what is half written");
    }
    let mut cookies = Vec::new();
    while cookies.len() < 200 {
        let (cookie, data) = client.data().unwrap_or_else(|| panic!("{} replies came", cookies.len()));
        assert_eq!(data.len(), 65_536);
        cookies.push(cookie);
        settle(&mut reactor);
    }
    assert_eq!(cookies, (0..200).collect::<Vec<_>>());
    assert_eq!(reactor.service.lent(), 0);
}

// proves: T12
#[test]
fn a_service_short_of_memory_delays_requests_and_drops_none() {
    let (mut reactor, path) = reactor("short", ConnectionLimits::default());
    reactor.service.limit_buffers(2);
    reactor.service.limit_queue(1);
    let mut clients = [Client::open(&mut reactor, &path), Client::open(&mut reactor, &path)];
    for round in 0..8u64 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.write(round, (round * 2 + number as u64) * 4096, &[number as u8 + 1; 4096]);
        }
    }
    settle(&mut reactor);
    for (number, client) in clients.iter_mut().enumerate() {
        let cookies: Vec<u64> = std::iter::from_fn(|| client.acknowledged()).collect();
        assert_eq!(cookies, (0..8).collect::<Vec<_>>());
        assert_eq!(reactor.service.peek(DISK, number as u64 * 4096, 4096), [number as u8 + 1; 4096]);
    }
}

// proves: B13
#[test]
fn a_large_write_and_read_pass_whole() {
    let (mut reactor, path) = reactor("large", ConnectionLimits::default());
    let mut client = Client::open(&mut reactor, &path);
    let payload: Vec<u8> = (0..5u32 << 20).map(|position| (position / 511) as u8).collect();
    client.request(Command::Write, 1, 1 << 20, payload.len() as u32);
    for part in payload.chunks(50_000) {
        client.send(part);
        settle(&mut reactor);
    }
    assert_eq!(client.acknowledged(), Some(1));
    assert_eq!(reactor.service.peek(DISK, 1 << 20, payload.len()), payload);
    client.request(Command::Read, 2, 1 << 20, payload.len() as u32);
    let mut bytes = Vec::new();
    while bytes.len() < payload.len() {
        settle(&mut reactor);
        while let Some((2, data)) = client.data() {
            bytes.extend(data);
        }
    }
    assert_eq!(bytes, payload);
}

// proves: T12 B13
#[test]
fn a_write_and_a_simple_read_larger_than_the_services_memory_still_pass() {
    let path = socket_path("scarce");
    let disk = MemoryDisk { max_transfer_bytes: 64 << 10, ..MemoryDisk::new("disk", 16 << 20) };
    let mut reactor =
        MemoryReactor::new(unix_config(&path), MemoryService::new(vec![disk]), Duration::ZERO).unwrap();
    reactor.service.limit_buffers(4);
    let mut client = Client::dial(&path);
    settle(&mut reactor);
    client.send_simple_handshake();
    settle(&mut reactor);
    client.receive();
    client.received.clear();

    let payload: Vec<u8> = (0..1u32 << 20).map(|position| (position / 511) as u8).collect();
    client.request(Command::Write, 1, 0, payload.len() as u32);
    for part in payload.chunks(50_000) {
        client.send(part);
        settle(&mut reactor);
    }
    assert_eq!(client.acknowledged(), Some(1));
    client.request(Command::Read, 2, 0, payload.len() as u32);
    for _ in 0..100 {
        settle(&mut reactor);
        client.receive();
    }
    assert_eq!(client.acknowledged(), Some(2));
    assert!(client.received == payload, "{} bytes came", client.received.len());
    assert_eq!(reactor.service.lent(), 0);
}

// proves: B13
#[test]
fn clients_beyond_the_limit_are_turned_away_and_a_free_place_is_used_again() {
    let path = socket_path("full");
    let config = NbdConfig { connections_max: 2, ..unix_config(&path) };
    let mut reactor = MemoryReactor::new(config, service(), Duration::ZERO).unwrap();
    let first = Client::open(&mut reactor, &path);
    let _second = Client::open(&mut reactor, &path);
    let mut third = Client::dial(&path);
    settle(&mut reactor);
    assert!(!third.receive());
    assert_eq!(reactor.server.counters().connections_refused, 1);
    drop(first);
    settle(&mut reactor);
    let _fourth = Client::open(&mut reactor, &path);
    assert_eq!(reactor.server.connections(), 2);
}

// proves: B13
#[test]
fn a_client_that_dawdles_in_its_handshake_yields_its_place() {
    let path = socket_path("dawdle");
    let config = NbdConfig { connections_max: 1, handshake_timeout: Duration::ZERO, ..unix_config(&path) };
    let mut reactor = MemoryReactor::new(config, service(), Duration::ZERO).unwrap();
    let mut dawdler = Client::dial(&path);
    settle(&mut reactor);
    let _client = Client::open(&mut reactor, &path);
    dawdler.receive();
    assert!(!dawdler.receive());
    assert_eq!(reactor.server.connections(), 1);
}

// proves: B13
#[test]
fn a_clean_stop_answers_what_is_under_way_and_removes_the_socket() {
    let (mut reactor, path) = reactor("stop", ConnectionLimits::default());
    reactor.service.hold();
    let mut client = Client::open(&mut reactor, &path);
    client.write(1, 0, &[3; 512]);
    settle(&mut reactor);
    reactor.server.stop();
    settle(&mut reactor);
    assert!(!path.exists());
    assert_eq!(reactor.server.connections(), 1);
    reactor.service.flow();
    settle(&mut reactor);
    assert_eq!(client.acknowledged(), Some(1));
    assert_eq!((reactor.server.connections(), reactor.service.openings(DISK)), (0, 0));
}

// proves: B11
#[test]
fn an_operation_that_fails_reaches_the_client_as_its_errno() {
    let (mut reactor, path) = reactor("errno", ConnectionLimits::default());
    reactor.service.hold();
    let mut client = Client::open(&mut reactor, &path);
    client.request(Command::Flush, 7, 0, 0);
    settle(&mut reactor);
    let completion = reactor.service.fail(0, BlockErrno::NoSpace).unwrap();
    reactor.server.complete(completion);
    settle(&mut reactor);
    client.receive();
    let (header, chunk, _) = blockdev_nbd::codec::Chunk::parse(&client.received).unwrap().unwrap();
    assert_eq!(header.cookie, 7);
    assert!(format!("{chunk:?}").contains("NoSpace"), "{chunk:?}");
}

// proves: B8 B13
#[test]
fn the_socket_has_the_mode_that_was_asked_for() {
    let path = socket_path("mode");
    let listen = vec![ListenAddress::Unix { path: path.clone(), mode: 0o620, owner: None }];
    let config = NbdConfig { listen, ..NbdConfig::default() };
    let _reactor = MemoryReactor::new(config, service(), Duration::ZERO).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
}

// proves: B13
#[test]
fn a_stale_socket_is_replaced_a_live_one_is_respected() {
    let path = socket_path("stale");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "left behind, as by a killed process");
    let mut reactor = MemoryReactor::new(unix_config(&path), service(), Duration::ZERO).unwrap();
    let refusal = MemoryReactor::new(unix_config(&path), service(), Duration::ZERO).err().unwrap();
    assert!(matches!(refusal, StartRefusal::InUse(_)));
    assert!(refusal.to_string().contains("in use by a live process"), "{refusal}");
    Client::open(&mut reactor, &path);
    drop(reactor);
    assert!(!path.exists());
}

// proves: B13
#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    let path = socket_path("file");
    fs::write(&path, "precious").unwrap();
    let refusal = MemoryReactor::new(unix_config(&path), service(), Duration::ZERO).err().unwrap();
    assert!(matches!(refusal, StartRefusal::NotASocket(_)));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
}

// proves: B13
#[test]
fn a_port_in_use_is_said_so() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = vec![ListenAddress::Tcp(taken.local_addr().unwrap())];
    let config = NbdConfig { listen, ..NbdConfig::default() };
    let refusal = MemoryReactor::new(config, service(), Duration::ZERO).err().unwrap();
    assert!(refusal.to_string().contains("in use by a live process"), "{refusal}");
    assert!(refusal.to_string().contains(&taken.local_addr().unwrap().to_string()), "{refusal}");
}

// proves: B13
#[test]
fn a_port_of_the_systems_choice_is_told_and_greets() {
    let listen = vec![ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())];
    let config = NbdConfig { listen, ..NbdConfig::default() };
    let mut reactor = MemoryReactor::new(config, service(), Duration::ZERO).unwrap();
    let Some(ListenAddress::Tcp(address)) = reactor.server.addresses().next().cloned() else {
        panic!("no address");
    };
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    while reactor.server.connections() == 0 {
        settle(&mut reactor);
    }
    settle(&mut reactor);
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting[..8], *b"NBDMAGIC");
}
