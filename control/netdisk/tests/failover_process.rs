//! The node that serves the disk is killed, paused and brought back while clients of another node use it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use fixtures_lab::{Cluster, ClusterPlan, Load, NbdClient, Program};
use std::ops::Range;
use std::time::Duration;

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a disk.
const FAR: u16 = 3;
const WORKERS: u64 = 4;
const BLOCKS: Range<u64> = 0..2048;

fn cluster() -> Cluster {
    Cluster::start(NETDISK, ClusterPlan::default())
}

fn other(node: u16) -> u16 {
    3 - node
}

// proves: B2 B4 B5 T10
#[test]
fn fio_sees_no_error_when_the_primary_is_killed() {
    let Some(fio) = Program::find("fio") else { return };
    let mut cluster = cluster();
    let words = ["--rw=randrw", "--bs=4k", "--iodepth=16", "--size=32M", "--io_size=256M", "--time_based=0"];
    let verify = ["--verify_backlog=256", "--verify_async=0"];
    let mut running = cluster.start_fio(&fio, FAR, &[&words[..], &verify[..]].concat());
    cluster.until_status(FAR, "fio is at work", |status| status.driver.completed > 2000);
    let before = cluster.status(FAR).unwrap();
    assert_eq!(before.virtual_disks[0].serving, Some(1));
    assert!(!running.has_ended(), "fio ended before the kill: {}", running.printed());
    cluster.kill_node(1);
    let ran = running.wait().expect_success();
    assert!(ran.out.contains("err= 0"), "{}", ran.out);
    let status = cluster.status(FAR).unwrap();
    assert_eq!(status.driver.failed, 0);
    let told = status.failovers.last().expect("a failover in the status");
    assert_eq!((told.from, told.to), (Some(1), 2), "{told:?}");
    assert!(told.gap_us.is_some_and(|gap| gap > 0), "{told:?}");
    let socket = cluster.admin_socket(FAR).display().to_string();
    let text = cluster.netdisk(&["status", "--socket", &socket]).expect_success().out;
    assert!(text.contains("failover of vd0") && text.contains("1 -> 2, gap "), "{text}");
}

// proves: B2 B4 B5
#[test]
fn nothing_acknowledged_is_lost_when_both_disk_nodes_are_killed_in_turn_and_come_back() {
    let mut cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    for victim in [1, 2, 1, 2, 1] {
        load.goes_on(500);
        cluster.kill_node(victim);
        load.goes_on(500);
        assert_eq!(cluster.until_whole(), other(victim));
        cluster.start_node(victim);
        // Back at the primary, under load.
        assert_eq!(cluster.until_whole(), 1);
    }
    load.goes_on(500);
    let ledger = load.finish();
    assert!(ledger.blocks() > 500);
    ledger.verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
}

// proves: B4 B5 T11
#[test]
fn a_paused_primary_delays_clients_and_cannot_overwrite_afterwards() {
    let mut cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(1000);
    cluster.node(1).pause();
    // The others go on without it, and node 2 is to serve, but the lock of the disk is node 1's while it
    // could still write: nobody may serve.
    cluster.until_status(2, "node 1 is out", |status| status.members == [2, 3]);
    let waiting = cluster
        .until_status(2, "wants the disk", |status| status.virtual_disks[0].gate.starts_with("Taking"));
    assert!(waiting.virtual_disks[0].serving == Some(2));
    let before = load.progress().requests();
    // Looked at again and again for longer than any lease: it must not open.
    for _ in 0..100 {
        let status = cluster.status(2).unwrap();
        assert!(!status.virtual_disks[0].gate.starts_with("Open"), "{:?}", status.virtual_disks[0]);
        // SLEEP: what must not happen has no event; looked for longer than suspicion and lease together.
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(load.progress().requests(), before, "answered while nobody may serve");
    cluster.node(1).resume();
    load.goes_on(1000);
    cluster.until_whole();
    load.goes_on(500);
    let ledger = load.finish();
    assert!(ledger.longest > Duration::from_secs(1), "no request waited for the paused node: {ledger:?}");
    ledger.verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
    assert!(cluster.log(1).contains("joining again in a new life"), "node 1 went on in its old life");
}

// proves: B4
#[test]
fn a_paused_client_node_comes_back_and_its_clients_go_on() {
    let mut cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(500);
    cluster.node(FAR).pause();
    cluster.until_status(1, "node 3 is out", |status| status.members == [1, 2]);
    cluster.node(FAR).resume();
    load.goes_on(500);
    cluster.until_whole();
    load.finish().verify(&socket);
}

// proves: B4
#[test]
fn a_secondary_that_dies_is_not_noticed_by_clients() {
    let mut cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(500);
    cluster.kill_node(2);
    cluster.until_status(FAR, "node 2 is out", |status| status.members == [1, 3]);
    load.goes_on(500);
    cluster.start_node(2);
    assert_eq!(cluster.until_whole(), 1);
    load.goes_on(500);
    load.finish().verify(&socket);
    assert_eq!(cluster.moves_since_start(FAR), 0);
}

// proves: B4
#[test]
fn a_primary_that_is_stopped_in_order_hands_over_and_clients_see_no_error() {
    let mut cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(500);
    cluster.stop_node(1);
    load.goes_on(500);
    cluster.start_node(1);
    cluster.until_whole();
    load.goes_on(500);
    load.finish().verify(&socket);
    assert!(cluster.log(1).contains("stopped"));
}

/// What all tests here lean on: the ledger sees one wrong block.
#[test]
#[should_panic(expected = "1 blocks are wrong")]
fn a_block_changed_behind_the_back_of_the_load_is_found() {
    let cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(500);
    let ledger = load.finish();
    let block = ledger.first_block().unwrap();
    let mut intruder = NbdClient::open(&socket, "vd0").unwrap();
    intruder.write(block * 4096, &[0xaa; 4096], false).unwrap();
    ledger.verify(&socket);
}
