//! Who may come in, and how a client is let go whose disk is taken away (SPEC B8).

#![allow(clippy::unwrap_used, reason = "a test fails where it finds the unexpected")]

mod support;

use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use blockdev_nbd::connection::ConnectionLimits;
use blockdev_nbd::memory::{MemoryDisk, MemoryReactor, MemoryService};
use blockdev_nbd::{ClientIdentity, ListenAddress, NbdConfig, VolumeHandle};
use support::client::{Client, DISK, reactor, settle, socket_path, unix_config};

// proves: B8
#[test]
fn the_service_is_told_which_user_and_groups_ask_and_may_refuse_them() {
    let (mut reactor, path) = reactor("peer", ConnectionLimits::default());
    let owner = std::fs::metadata(&path).unwrap();
    let _client = Client::open(&mut reactor, &path);
    let told = reactor.service.last_client.clone().unwrap();
    let ClientIdentity::Local { user, group, groups } = &told else { panic!("{told:?}") };
    assert_eq!((*user, *group), (owner.uid(), owner.gid()));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
    let own: Vec<u32> = line.split_whitespace().map(|group| group.parse().unwrap()).collect();
    assert_eq!(groups, &own);

    reactor.service.barred = Some(told);
    let mut barred = Client::dial(&path);
    settle(&mut reactor);
    barred.send_handshake();
    settle(&mut reactor);
    barred.receive();
    let words = String::from_utf8_lossy(&barred.received).into_owned();
    assert!(words.contains("may not be opened"), "{words}");
}

// proves: B8
#[test]
fn a_client_on_the_network_is_a_stranger() {
    let listen = vec![ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())];
    let service = MemoryService::new(vec![MemoryDisk::new("disk", 1 << 20)]);
    let config = NbdConfig { listen, ..NbdConfig::default() };
    let mut reactor = MemoryReactor::new(config, service, Duration::ZERO).unwrap();
    let Some(ListenAddress::Tcp(address)) = reactor.server.addresses().next().cloned() else { panic!() };
    let socket = TcpStream::connect(address).unwrap();
    settle(&mut reactor);
    let mut bytes = Vec::new();
    blockdev_nbd::codec::ClientFlags(3).encode(&mut bytes);
    let export = blockdev_nbd::codec::ExportQuery::plain("disk");
    blockdev_nbd::codec::ClientOption::Go(export).encode(&mut bytes);
    std::io::Write::write_all(&mut &socket, &bytes).unwrap();
    while reactor.service.last_client.is_none() {
        reactor.harvest(Some(Duration::from_secs(30))).unwrap();
        reactor.round();
    }
    assert_eq!(reactor.service.last_client, Some(ClientIdentity::Remote));
}

// proves: B8 C5
#[test]
fn the_socket_gets_another_mode_while_its_clients_stay() {
    let (mut reactor, path) = reactor("mode", ConnectionLimits::default());
    let mut client = Client::open(&mut reactor, &path);
    for mode in [0o666, 0o660, 0o600] {
        reactor.server.set_access(mode, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
    }
    client.write(1, 0, &[7; 512]);
    settle(&mut reactor);
    assert_eq!(client.acknowledged(), Some(1));
}

// proves: C5 B13
#[test]
fn clients_of_a_disk_that_is_taken_away_get_their_answers_and_are_hung_up_on_others_stay() {
    let path = socket_path("two");
    let disks = vec![MemoryDisk::new("disk", 1 << 20), MemoryDisk::new("other", 1 << 20)];
    let service = MemoryService::new(disks);
    let mut reactor = MemoryReactor::new(unix_config(&path), service, Duration::ZERO).unwrap();
    let mut client = Client::open(&mut reactor, &path);
    reactor.service.hold();
    client.write(1, 0, &[7; 512]);
    settle(&mut reactor);
    reactor.server.close_volume(VolumeHandle(DISK.0 + 1));
    settle(&mut reactor);
    assert_eq!(reactor.server.connections(), 1, "it has another disk open");
    reactor.server.close_volume(DISK);
    settle(&mut reactor);
    assert_eq!(reactor.server.connections(), 1, "its answer is owed");
    reactor.service.flow();
    settle(&mut reactor);
    assert_eq!(client.acknowledged(), Some(1));
    assert!(!client.receive(), "hung up");
    assert_eq!(reactor.server.connections(), 0);
}
