//! One NBD client behaves badly while others work: the daemon lives on, and the others see nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use fixtures_lab::{Asked, Cluster, ClusterPlan, Load, NbdClient, until};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a disk.
const FAR: u16 = 3;
const WORKERS: u64 = 2;
/// The load's blocks; the badly behaved use what lies behind.
const BLOCKS: std::ops::Range<u64> = 0..1024;
const BEHIND: u64 = 32 << 20;

/// Runs a load beside `misbehave`; afterwards all must be as if nothing had been.
fn beside_a_load(misbehave: impl FnOnce(&mut Cluster)) {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(200);
    misbehave(&mut cluster);
    load.goes_on(200);
    cluster.until_status(FAR, "only the load is connected, nothing is left over", |status| {
        status.nbd[0].connections == WORKERS as usize && status.nbd[0].quarantined == 0
    });
    load.finish().verify(&socket);
    let status = cluster.status(FAR).unwrap();
    assert_eq!((status.driver.failed, cluster.moves_since_start(FAR)), (0, 0));
}

/// Returns when the server has hung up.
fn until_hung_up(socket: &mut UnixStream) {
    let mut room = [0; 4096];
    until("the server hangs up", || match socket.read(&mut room) {
        Ok(0) | Err(_) => Some(()),
        Ok(_) => None,
    });
}

// proves: B13
#[test]
fn a_client_that_dies_in_the_middle_of_a_write_harms_nobody() {
    beside_a_load(|cluster| {
        for sent in [0, 1, 4096, 100_000] {
            let mut client = NbdClient::open(&cluster.nbd_socket(FAR), "vd0").unwrap();
            client.write(BEHIND, &[7; 128 << 10], false).unwrap();
            client.ask(Asked::Write, 0, BEHIND, 128 << 10).unwrap();
            client.socket().write_all(&vec![9; sent]).unwrap();
            drop(client);
            // The half write must not be seen as a whole one by whoever comes next.
            let mut client = NbdClient::open(&cluster.nbd_socket(FAR), "vd0").unwrap();
            let mut room = vec![0; 128 << 10];
            client.read(BEHIND, &mut room).unwrap();
            assert!(room.iter().all(|byte| *byte == 7), "a part of a write landed after {sent} bytes of it");
        }
    });
}

// proves: B5 B13
#[test]
fn a_client_that_reconnects_never_meets_late_writes_of_its_dead_connection() {
    beside_a_load(|cluster| {
        for round in 1..=50_u8 {
            let mut dying = NbdClient::open(&cluster.nbd_socket(FAR), "vd0").unwrap();
            for block in 0..16 {
                dying.ask(Asked::Write, 0, BEHIND + block * 4096, 4096).unwrap();
                dying.socket().write_all(&[round; 4096]).unwrap();
            }
            drop(dying);
            let mut next = NbdClient::open(&cluster.nbd_socket(FAR), "vd0").unwrap();
            next.write(BEHIND, &[200; 16 * 4096], false).unwrap();
            let mut room = vec![0; 16 * 4096];
            for _ in 0..8 {
                next.read(BEHIND, &mut room).unwrap();
                assert!(
                    room.iter().all(|byte| *byte == 200),
                    "round {round}: a dead connection's write landed late"
                );
            }
        }
    });
}

// proves: B13
#[test]
fn garbage_before_and_after_the_handshake_ends_that_connection_only() {
    beside_a_load(|cluster| {
        let path = cluster.nbd_socket(FAR);
        let noise: Vec<u8> = (0..4096_u32).map(|at| (at * 167 + 13) as u8).collect();
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &noise, &[0; 64], &[0xff; 64]] {
            let mut stranger = UnixStream::connect(&path).unwrap();
            // The server may hang up before all of it is sent.
            let _ = stranger.write_all(garbage);
            let _ = stranger.shutdown(Shutdown::Write);
            until_hung_up(&mut stranger);
            let mut client = NbdClient::open(&path, "vd0").unwrap();
            let _ = client.socket().write_all(garbage);
            let _ = client.socket().shutdown(Shutdown::Write);
            until_hung_up(client.socket());
        }
    });
}

// proves: B11 B13 T12
#[test]
fn requests_beyond_all_limits_are_refused() {
    beside_a_load(|cluster| {
        let mut client = NbdClient::open(&cluster.nbd_socket(FAR), "vd0").unwrap();
        let end = client.size_bytes();
        for (offset, length) in [(0, u32::MAX), (end, 4096), (u64::MAX - 4095, 4096), (end - 4096, 8192)] {
            let mut client = NbdClient::open(&cluster.nbd_socket(FAR), "vd0").unwrap();
            client.ask(Asked::Read, 0, offset, length).unwrap();
            let mut reply = [0; 16];
            // A refusal or a hang-up, both are fine; data would be wrong.
            if client.socket().read_exact(&mut reply).is_ok() {
                assert_ne!(reply[4..8], [0; 4], "{length} bytes at {offset} were read");
            }
        }
        client.write(BEHIND, &[1; 4096], true).unwrap();
        client.flush().unwrap();
    });
}

// proves: T2 T12 B13
#[test]
fn a_client_that_takes_no_answers_does_not_hold_up_the_others() {
    beside_a_load(|cluster| {
        let mut lazy = NbdClient::open(&cluster.nbd_socket(FAR), "vd0").unwrap();
        for request in 0..64 {
            lazy.ask(Asked::Read, 0, BEHIND + (request % 16) * (1 << 20), 1 << 20).unwrap();
        }
        cluster.until_status(FAR, "the lazy client's requests have come in", |status| {
            status.nbd[0].connections == 3
        });
        let mut other = NbdClient::open(&cluster.nbd_socket(FAR), "vd0").unwrap();
        let mut room = vec![0; 64 << 10];
        for round in 0..200_u64 {
            let offset = BEHIND + (round % 128) * (64 << 10);
            other.write(offset, &vec![round as u8; 64 << 10], false).unwrap();
            other.read(offset, &mut room).unwrap();
            assert!(room.iter().all(|byte| *byte == round as u8));
        }
    });
}

// proves: B13
#[test]
fn hundreds_of_connections_that_come_and_go_leave_nothing_open() {
    beside_a_load(|cluster| {
        let folder = format!("/proc/{}/fd", cluster.node(FAR).pid());
        let open = || std::fs::read_dir(&folder).unwrap().count();
        let before = open();
        for round in 0..300 {
            let mut client = NbdClient::open(&cluster.nbd_socket(FAR), "").unwrap();
            if round % 2 == 0 {
                client.ask(Asked::Disconnect, 0, 0, 0).unwrap();
            }
        }
        until("their descriptors are closed", || (open() <= before).then_some(()));
    });
}
