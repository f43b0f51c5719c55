//! What a node costs while nothing is asked of it, and what it leaves behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use fixtures_lab::{Cluster, ClusterPlan, Load};
use std::time::Duration;

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a disk.
const FAR: u16 = 3;
/// Long enough that one heartbeat more or less does not count.
const WATCHED: Duration = Duration::from_secs(4);
/// Heartbeats that a node of the plan sends and takes in a second; little else may wake it.
const HEARTBEATS_PER_S: u64 = 1600;
/// One part in so many of a core is the most: a loop that spins needs all of it. How much it is on a quiet
/// machine is measured by `bench-micro`, as a figure; here other tests and a slow machine make it grow.
const SHARE: u32 = 8;

// proves: T12
#[test]
fn an_idle_node_hardly_uses_a_core_and_stays_within_its_memory() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, 4, 0..1024);
    load.goes_on(2000);
    load.finish();
    cluster.until_status(FAR, "nobody is connected", |status| status.nbd[0].connections == 0);
    let account = |cluster: &mut Cluster, id| {
        let node = cluster.node(id);
        (node.processor_time(), node.times_scheduled())
    };
    let before: Vec<(Duration, u64)> = cluster.ids().map(|id| account(&mut cluster, id)).collect();
    // SLEEP: what is measured is how little happens while time passes.
    std::thread::sleep(WATCHED);
    for (id, before) in cluster.ids().zip(before) {
        let now = account(&mut cluster, id);
        let (used, woke) = (now.0 - before.0, now.1 - before.1);
        println!("node {id}: {used:?} of {WATCHED:?}, woke {woke} times");
        assert!(used < WATCHED / SHARE, "node {id} used {used:?} of {WATCHED:?} while idle");
        // A timer of a millisecond would add a thousand a second.
        let most = HEARTBEATS_PER_S * WATCHED.as_secs() * 3 / 2;
        assert!(
            woke < most,
            "node {id} woke {woke} times in {WATCHED:?}, its heartbeats explain {most} at most"
        );
        let memory = cluster.status(id).unwrap().memory;
        assert!(memory.resident_bytes > 0 && memory.transport_bytes > 0);
        assert!(memory.resident_bytes <= memory.budget_bytes, "node {id}: {memory:?}");
        let socket = cluster.admin_socket(id).display().to_string();
        let text = cluster.netdisk(&["status", "--socket", &socket]).expect_success().out;
        assert!(text.contains("MiB resident") && text.contains("256 MiB budget"), "{text}");
    }
}

// proves: B13
#[test]
fn a_stopped_node_ends_well_and_leaves_no_socket_behind() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    let idle = fixtures_lab::NbdClient::open(&cluster.nbd_socket(FAR), "vd0").unwrap();
    assert!(cluster.nbd_socket(FAR).exists() && cluster.admin_socket(FAR).exists());
    for id in cluster.ids() {
        cluster.stop_node(id);
        assert!(!cluster.admin_socket(id).exists(), "the admin socket of node {id} is left behind");
        assert!(cluster.log(id).contains("stopped"));
    }
    assert!(!cluster.nbd_socket(FAR).exists(), "the NBD socket is left behind");
    drop(idle);
    cluster.ids().for_each(|id| cluster.start_node(id));
    cluster.until_whole();
}

// proves: C3
#[test]
fn status_of_a_node_that_does_not_run_says_what_to_do() {
    let cluster = Cluster::prepare(NETDISK, ClusterPlan::default());
    let socket = cluster.admin_socket(1).display().to_string();
    let said = cluster.netdisk(&["status", "--socket", &socket]).expect_refusal();
    assert!(said.contains(&socket) && said.contains("is it running"), "{said}");
}
