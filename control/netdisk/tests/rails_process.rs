//! Rails and links are cut under load on one machine: shared memory gives over to TCP and back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use fixtures_lab::{Cluster, ClusterPlan, Load, RailKind};

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a disk.
const FAR: u16 = 3;
const WORKERS: u64 = 4;

/// One link, so that its active rail is where the load is.
fn one_link() -> ClusterPlan {
    ClusterPlan { links: vec![vec![RailKind::Shm, RailKind::Tcp]], ..ClusterPlan::default() }
}

/// Messages that reached a peer over all rails.
fn sent(cluster: &Cluster, to: u16) -> u64 {
    let status = cluster.status(FAR).unwrap();
    status.peers.iter().find(|peer| peer.node == to).unwrap().messages_sent
}

// proves: T6 T8 T10
#[test]
fn load_moves_from_shared_memory_to_tcp_and_back_without_loss() {
    let mut cluster = Cluster::start(NETDISK, one_link());
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, 0..2048);
    for _ in 0..3 {
        for (cut, left) in [((0, 0), (0, 1)), ((0, 1), (0, 0))] {
            load.goes_on(500);
            cluster.cut_rail(FAR, cut.0, cut.1);
            for (here, there) in [(FAR, 1), (1, FAR)] {
                assert!(!cluster.until_rail(here, there, cut, "down"), "a dead rail carries data");
                cluster.until_active(here, there, left);
            }
            let before = sent(&cluster, 1);
            load.goes_on(500);
            assert!(
                sent(&cluster, 1) >= before + 500,
                "the load went elsewhere than over the rail that is left"
            );
            cluster.mend_rail(FAR, cut.0, cut.1);
            cluster.until_rail(FAR, 1, cut, "up");
            cluster.until_rail(1, FAR, cut, "up");
        }
    }
    load.finish().verify(&socket);
    let status = cluster.status(FAR).unwrap();
    assert_eq!((status.driver.failed, cluster.moves_since_start(FAR)), (0, 0));
    let peer = status.peers.iter().find(|peer| peer.node == 1).unwrap();
    assert!(peer.rails_lost >= 6, "{peer:?}");
}

// proves: T5 T6
#[test]
fn a_whole_link_cut_under_load_is_carried_by_the_other() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, 0..2048);
    for link in [0, 1, 0, 1] {
        load.goes_on(500);
        for rail in [0, 1] {
            cluster.cut_rail(FAR, link, rail);
        }
        for rail in [0, 1] {
            cluster.until_rail(FAR, 1, (link, rail), "down");
        }
        load.goes_on(500);
        for rail in [0, 1] {
            cluster.mend_rail(FAR, link, rail);
        }
        for rail in [0, 1] {
            cluster.until_rail(FAR, 1, (link, rail), "up");
        }
    }
    load.finish().verify(&socket);
    let status = cluster.status(FAR).unwrap();
    assert_eq!((status.driver.failed, cluster.moves_since_start(FAR)), (0, 0));
    assert_eq!(status.members, [1, 2, 3]);
}

// proves: B4 T6
#[test]
fn a_rail_cut_at_the_serving_node_while_the_primary_dies_still_loses_nothing() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, 0..2048);
    load.goes_on(500);
    cluster.cut_rail(2, 0, 0);
    cluster.cut_rail(2, 1, 0);
    cluster.kill_node(1);
    load.goes_on(500);
    cluster.mend_rail(2, 0, 0);
    cluster.mend_rail(2, 1, 0);
    cluster.start_node(1);
    cluster.until_whole();
    load.goes_on(500);
    load.finish().verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
}

// proves: T6
#[test]
fn a_rail_that_does_not_exist_cannot_be_cut() {
    let cluster = Cluster::start(NETDISK, ClusterPlan::default());
    let socket = cluster.admin_socket(FAR).display().to_string();
    let said =
        cluster.netdisk(&["rail", "cut", "--socket", &socket, "--link", "5", "--rail", "0"]).expect_refusal();
    assert!(said.contains("no rail 0 in link 5") && said.contains("netdisk status"), "{said}");
    cluster.netdisk(&["rail", "cut", "--socket", &socket, "--link", "0", "--rail", "0"]).expect_success();
    cluster.netdisk(&["rail", "mend", "--socket", &socket, "--link", "0", "--rail", "0"]).expect_success();
}
