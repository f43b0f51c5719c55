//! Real cables, really pulled: nodes in network namespaces that can no longer reach each other, but all of
//! which still reach the disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use fixtures_lab::{Cluster, ClusterPlan, Load, RailKind};

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a disk.
const FAR: u16 = 3;
const WORKERS: u64 = 2;

/// Three networks: two rails of one link, one of another. NBD on the primary too.
fn plan() -> ClusterPlan {
    ClusterPlan {
        links: vec![vec![RailKind::Tcp, RailKind::Tcp], vec![RailKind::Tcp]],
        nbd_nodes: vec![1, 3],
        ..ClusterPlan::default()
    }
}

const NETWORKS: usize = 3;

fn pull_all(cluster: &Cluster, node: u16) {
    (0..NETWORKS).for_each(|rail| cluster.networks().pull(node, rail));
}

fn plug_all(cluster: &Cluster, node: u16) {
    (0..NETWORKS).for_each(|rail| cluster.networks().plug(node, rail));
}

// proves: B4 B5 C6 T11
#[test]
fn a_primary_cut_off_from_all_stops_serving_and_its_clients_writes_land_only_after_it_is_back() {
    let Some(mut cluster) = Cluster::start_in_namespaces(NETDISK, plan()) else { return };
    let (near_socket, far_socket) = (cluster.nbd_socket(1), cluster.nbd_socket(FAR));
    let far = Load::start(&far_socket, WORKERS, 0..1024);
    let near = Load::start(&near_socket, WORKERS, 1024..2048);
    far.goes_on(500);
    near.goes_on(500);
    pull_all(&cluster, 1);
    cluster.until_status(1, "no majority, gate closed", |status| {
        !status.quorum && status.virtual_disks[0].gate.starts_with("Closed")
    });
    let stood_at = near.progress().requests();
    cluster.until_status(2, "serves", |status| status.virtual_disks[0].gate.starts_with("Open"));
    far.goes_on(1000);
    assert_eq!(near.progress().requests(), stood_at, "a node without a majority answered its clients");
    let alone = cluster.status(1).unwrap();
    assert!(!alone.virtual_disks[0].gate.starts_with("Open"), "{:?}", alone.virtual_disks);
    plug_all(&cluster, 1);
    near.goes_on(500);
    cluster.until_whole();
    far.goes_on(500);
    let (near, far) = (near.finish(), far.finish());
    for socket in [&near_socket, &far_socket] {
        near.verify(socket);
        far.verify(socket);
    }
    for id in [1, FAR] {
        assert_eq!(cluster.status(id).unwrap().driver.failed, 0, "node {id}");
    }
    assert!(cluster.log(1).contains("joining again in a new life"), "node 1 went on in its old life");
}

// proves: B4 C6
#[test]
fn nobody_serves_while_all_are_cut_off_and_all_goes_on_when_the_cables_are_back() {
    let Some(mut cluster) = Cluster::start_in_namespaces(NETDISK, plan()) else { return };
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, 0..1024);
    load.goes_on(500);
    cluster.ids().for_each(|id| pull_all(&cluster, id));
    for id in cluster.ids() {
        cluster.until_status(id, "no majority, gate closed", |status| {
            !status.quorum && status.virtual_disks[0].gate.starts_with("Closed")
        });
    }
    let stood_at = load.progress().requests();
    cluster.ids().for_each(|id| plug_all(&cluster, id));
    load.goes_on(500);
    assert!(load.progress().requests() > stood_at);
    cluster.until_whole();
    load.finish().verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
}

// proves: B4 B5
#[test]
fn a_client_node_cut_off_alone_delays_its_clients_only() {
    let Some(mut cluster) = Cluster::start_in_namespaces(NETDISK, plan()) else { return };
    let (near_socket, far_socket) = (cluster.nbd_socket(1), cluster.nbd_socket(FAR));
    let far = Load::start(&far_socket, WORKERS, 0..1024);
    let near = Load::start(&near_socket, WORKERS, 1024..2048);
    far.goes_on(300);
    pull_all(&cluster, FAR);
    cluster.until_status(1, "node 3 is out", |status| status.members == [1, 2]);
    let stood_at = far.progress().requests();
    near.goes_on(1000);
    assert_eq!(far.progress().requests(), stood_at, "answered without a way to the disk");
    plug_all(&cluster, FAR);
    far.goes_on(300);
    assert_eq!(cluster.until_whole(), 1, "the disk need not have moved");
    near.finish().verify(&far_socket);
    far.finish().verify(&near_socket);
}

// proves: T5 T6
#[test]
fn pulling_the_cables_of_one_node_one_after_the_other_moves_traffic_and_loses_nothing() {
    let Some(mut cluster) = Cluster::start_in_namespaces(NETDISK, plan()) else { return };
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, 0..1024);
    let rails: [(u8, u8); NETWORKS] = [(0, 0), (0, 1), (1, 0)];
    for round in 0..2 {
        for (network, path) in rails.into_iter().enumerate() {
            load.goes_on(200);
            cluster.networks().pull(1, network);
            cluster.until_rail(FAR, 1, path, "down");
            cluster.until_rail(1, FAR, path, "down");
            load.goes_on(200);
            cluster.networks().plug(1, network);
            cluster.until_rail(FAR, 1, path, "up");
            cluster.until_rail(1, FAR, path, "up");
        }
        let status = cluster.status(FAR).unwrap();
        assert_eq!((status.driver.failed, cluster.moves_since_start(FAR)), (0, 0), "round {round}");
    }
    // Carrying again after mending: with the other rail of its link gone, it is this one.
    cluster.networks().pull(1, 1);
    cluster.until_active(FAR, 1, (0, 0));
    load.goes_on(200);
    cluster.networks().plug(1, 1);
    cluster.networks().pull(1, 0);
    cluster.until_active(FAR, 1, (0, 1));
    load.goes_on(200);
    load.finish().verify(&socket);
}
