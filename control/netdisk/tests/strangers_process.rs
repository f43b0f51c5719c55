//! Things that are no members of the cluster talk to its ports: they are dropped, counted and logged once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use fixtures_lab::{Cluster, ClusterPlan, Load, until};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream, UdpSocket};
use std::time::Duration;

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a disk.
const FAR: u16 = 3;

fn noise(seed: u32, length: usize) -> Vec<u8> {
    (0..length as u32).map(|at| (at.wrapping_mul(167) ^ seed.wrapping_mul(31)) as u8).collect()
}

// proves: T1 T11
#[test]
fn garbage_at_the_ports_of_rails_is_dropped_and_the_cluster_works_on() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    let socket = cluster.nbd_socket(FAR);
    let before = cluster.status(1).unwrap().epoch;
    let load = Load::start(&socket, 2, 0..1024);
    load.goes_on(200);
    // Link 0 rail 1 and link 1 rail 0 are the tcp rails.
    let port = cluster.rail_port(1, 0, 1);
    let texts =
        [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 64], vec![0xff; 64], noise(1, 63), noise(2, 70_000)];
    for text in texts.iter().cycle().take(50) {
        let mut stranger = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stranger.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // The node may hang up before all of it is sent.
        let _ = stranger.write_all(text);
        let _ = stranger.shutdown(Shutdown::Write);
        let mut room = [0; 4096];
        until("the node hangs up", || match stranger.read(&mut room) {
            Ok(0) | Err(_) => Some(()),
            Ok(_) => None,
        });
    }
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for round in 0..1000 {
        udp.send_to(&noise(round, (round % 300) as usize), (Ipv4Addr::LOCALHOST, port + 1)).unwrap();
    }
    load.goes_on(500);
    assert_eq!(cluster.until_whole(), 1);
    load.finish().verify(&socket);
    let status = cluster.status(1).unwrap();
    // One of the five texts is less than a frame: who says too little to be wrong is only hung up on.
    assert!(status.handshakes_refused >= 40, "counted {} of 40", status.handshakes_refused);
    assert_eq!(status.epoch, before, "strangers changed the configuration");
    let lines = cluster.log(1).lines().filter(|line| line.contains("connection refused")).count();
    assert!((1..=5).contains(&lines), "{lines} lines about strangers in the log");
}

// proves: T6 T11
#[test]
fn a_node_with_another_key_stays_outside_and_the_rest_works() {
    let mut cluster = Cluster::prepare(NETDISK, ClusterPlan::default());
    cluster.configure_node(2, |text| text.replace("a secret of this test", "another secret of theirs"));
    cluster.ids().for_each(|id| cluster.start_node(id));
    for id in [1, FAR] {
        cluster.until_status(id, "two are in", |status| status.members == [1, 3]);
    }
    // The lower id is called and sees who calls: node 1 is called by node 2, and node 2 by node 3.
    for id in [1, 2] {
        cluster.until_status(id, "refuses", |status| status.handshakes_refused > 20);
    }
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, 2, 0..1024);
    load.goes_on(500);
    let outside = cluster.status(2).unwrap();
    assert!(!outside.quorum && outside.members.is_empty(), "{outside:?}");
    assert!(!outside.virtual_disks.iter().any(|disk| disk.gate.starts_with("Open")));
    for (id, other) in [(1, 2), (2, 3)] {
        let log = cluster.log(id);
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("connection refused")).collect();
        // Once for each of four rails, though there were dozens.
        assert!((1..=4).contains(&lines.len()), "{} lines in the log of node {id}: {lines:?}", lines.len());
        let told = format!("node {other} does not hold the cluster key");
        assert!(lines.iter().all(|line| line.contains(&told) && line.contains("key file")), "{lines:?}");
    }
    cluster.stop_node(2);
    cluster.configure_as_all(2);
    // It began as a node of another cluster: that is not undone behind anybody's back.
    let said = cluster.refused_start(2);
    assert!(said.contains("another key") && said.contains("--state"), "{said}");
    std::fs::remove_dir_all(cluster.state_folder(2)).unwrap();
    cluster.start_node(2);
    assert_eq!(cluster.until_whole(), 1);
    load.goes_on(200);
    load.finish().verify(&socket);
}
