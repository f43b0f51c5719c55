//! Nodes that hear and are not heard, and clusters in two parts: the larger part goes on, and what the
//! smaller one did not get answered lands nowhere.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use control_proto::ccd::{Change, Row, RowChange};
use control_proto::rows::PermissionRow;
use fixtures_lab::{Cluster, ClusterPlan, Load, RailKind};
use transport_proto::identity::NodeId;

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
const WORKERS: u64 = 2;

/// Two networks, a link each. NBD on the first and the last node.
fn plan(nodes: u16, disk_nodes: Vec<u16>) -> ClusterPlan {
    ClusterPlan {
        nodes,
        disk_nodes,
        links: vec![vec![RailKind::Tcp], vec![RailKind::Tcp]],
        nbd_nodes: vec![1, nodes],
        ..ClusterPlan::default()
    }
}

/// A load at the first node, which serves, and one at the last, which has no disk.
struct Loads {
    near: Load,
    far: Load,
    last: u16,
}

impl Loads {
    fn start(cluster: &Cluster, last: u16) -> Loads {
        let near = Load::start(&cluster.nbd_socket(1), WORKERS, 1024..2048);
        let far = Load::start(&cluster.nbd_socket(last), WORKERS, 0..1024);
        near.goes_on(300);
        far.goes_on(300);
        Loads { near, far, last }
    }

    /// All is as it was, and every block holds what was acknowledged last, seen from both ends.
    #[track_caller]
    fn finish(self, cluster: &mut Cluster) {
        self.near.goes_on(300);
        self.far.goes_on(300);
        cluster.until_whole();
        for ledger in [self.near.finish(), self.far.finish()] {
            [1, self.last].into_iter().for_each(|id| ledger.verify(&cluster.nbd_socket(id)));
        }
        for id in [1, self.last] {
            assert_eq!(cluster.status(id).unwrap().driver.failed, 0, "node {id}");
        }
    }
}

fn stands_closed(cluster: &mut Cluster, id: u16) {
    cluster.until_status(id, "no majority, gate closed", |status| {
        !status.quorum && status.virtual_disks[0].gate.starts_with("Closed")
    });
}

fn serves(cluster: &mut Cluster, id: u16) {
    cluster.until_status(id, "serves", |status| status.virtual_disks[0].gate.starts_with("Open"));
}

// proves: B4 B5 C3 C6
#[test]
fn a_primary_that_hears_all_and_is_heard_by_nobody_gives_way() {
    let Some(mut cluster) = Cluster::start_in_namespaces(NETDISK, plan(3, vec![1, 2])) else { return };
    let loads = Loads::start(&cluster, 3);
    [2, 3].into_iter().for_each(|other| cluster.networks().mute(1, other));
    stands_closed(&mut cluster, 1);
    let stood_at = loads.near.progress().requests();
    serves(&mut cluster, 2);
    loads.far.goes_on(500);
    assert_eq!(loads.near.progress().requests(), stood_at, "answered without a majority");
    [2, 3].into_iter().for_each(|other| cluster.networks().unmute(1, other));
    loads.finish(&mut cluster);
}

// proves: B4 B5 C3 C6
#[test]
fn a_primary_that_is_heard_by_all_and_hears_nobody_gives_way() {
    let Some(mut cluster) = Cluster::start_in_namespaces(NETDISK, plan(3, vec![1, 2])) else { return };
    let loads = Loads::start(&cluster, 3);
    [2, 3].into_iter().for_each(|other| cluster.networks().mute(other, 1));
    stands_closed(&mut cluster, 1);
    let stood_at = loads.near.progress().requests();
    serves(&mut cluster, 2);
    loads.far.goes_on(500);
    assert_eq!(loads.near.progress().requests(), stood_at, "answered without a majority");
    [2, 3].into_iter().for_each(|other| cluster.networks().unmute(other, 1));
    loads.finish(&mut cluster);
}

// proves: B4 C3
#[test]
fn two_nodes_that_lose_each_other_and_reach_a_third_leave_clients_a_way() {
    let Some(mut cluster) = Cluster::start_in_namespaces(NETDISK, plan(3, vec![1, 2])) else { return };
    let loads = Loads::start(&cluster, 3);
    cluster.networks().mute(1, 2);
    for id in [1, 2] {
        cluster.until_rail(id, 3 - id, (0, 0), "down");
        cluster.until_rail(id, 3 - id, (1, 0), "down");
    }
    loads.far.goes_on(1000);
    cluster.networks().unmute(1, 2);
    loads.finish(&mut cluster);
}

fn permission(cluster: &Cluster, id: u16, mode: u16) -> Change {
    let volume = cluster.disk_row(id).id;
    let nodes = (1..=5).map(NodeId).collect();
    let row = PermissionRow { volume, owner: 0, group: 0, mode, nodes };
    Change::Rows(vec![RowChange::Put(Row::Permission(row))])
}

// proves: B4 B5 C1 C3 C6
#[test]
fn of_five_nodes_in_two_parts_the_larger_goes_on_and_the_smaller_changes_nothing() {
    let Some(mut cluster) = Cluster::start_in_namespaces(NETDISK, plan(5, vec![1, 4])) else { return };
    let loads = Loads::start(&cluster, 5);
    let (few, many) = ([1, 2], [3, 4, 5]);
    cluster.networks().part(&few, &many);
    few.into_iter().for_each(|id| stands_closed(&mut cluster, id));
    let stood_at = loads.near.progress().requests();
    serves(&mut cluster, 4);
    loads.far.goes_on(500);
    cluster.change(5, permission(&cluster, 5, 0o640));
    let refused = cluster.ask_for(2, permission(&cluster, 2, 0o604), false);
    assert!(refused["error"].as_str().is_some_and(|why| why.contains("majority")), "{refused}");
    assert_eq!(loads.near.progress().requests(), stood_at, "answered without a majority");
    // And once more with the one that serves now in the smaller part.
    cluster.networks().rejoin(&few, &many);
    loads.near.goes_on(300);
    cluster.until_whole();
    let (few, many) = ([4, 3], [1, 2, 5]);
    cluster.networks().part(&few, &many);
    few.into_iter().for_each(|id| stands_closed(&mut cluster, id));
    serves(&mut cluster, 1);
    loads.near.goes_on(300);
    loads.far.goes_on(300);
    cluster.networks().rejoin(&few, &many);
    loads.finish(&mut cluster);
    for id in cluster.ids() {
        assert_eq!(cluster.rows(id).permissions[0].mode, 0o640, "node {id}");
    }
}
