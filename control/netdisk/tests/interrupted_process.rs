//! A reconfiguration under load, and the leader of the log killed in each of its steps: it ends all the same,
//! with the old rows or with the new ones, the same on all nodes, and clients see a delay only.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use control_node::report::Status;
use control_proto::ccd::{CancelCause, Change, ReconfigurationId, Row, RowChange};
use control_proto::rows::VirtualDiskRow;
use fixtures_lab::{Cluster, ClusterPlan, Load};

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node whose clients are at work; it has no disk.
const FAR: u16 = 5;
const NODES: u16 = 5;
const WORKERS: u64 = 4;

fn cluster() -> Cluster {
    Cluster::start(NETDISK, ClusterPlan { nodes: NODES, nbd_nodes: vec![FAR], ..ClusterPlan::default() })
}

/// Makes a node that is not [`FAR`] lead the log, and says which.
fn leader_elsewhere(cluster: &mut Cluster) -> u16 {
    loop {
        let status = cluster.until_status(FAR, "somebody leads", |status| status.log.leader.is_some());
        match status.log.leader {
            Some(FAR) => {
                // The others elect one of them.
                cluster.node(FAR).pause();
                cluster.until_status(1, "another leads", |status| {
                    status.log.leader.is_some_and(|leader| leader != FAR)
                });
                cluster.node(FAR).resume();
                cluster.until_whole();
            }
            Some(leader) => return leader,
            None => {}
        }
    }
}

/// The other primary.
fn swapped(row: &VirtualDiskRow) -> VirtualDiskRow {
    let mut row = row.clone();
    row.candidates.reverse();
    row
}

/// Begins to change primary and secondary; held before its end if it is to be.
fn begin(cluster: &Cluster, row: &VirtualDiskRow, hold: bool) -> ReconfigurationId {
    let changes = vec![RowChange::Put(Row::VirtualDisk(row.clone()))];
    let began = cluster.ask_for(FAR, Change::Prepare { changes, deadline_ms: 60_000, hold }, false);
    ReconfigurationId(began["reconfiguration"].as_u64().unwrap_or_else(|| panic!("{began}")))
}

fn waits_for(cluster: &mut Cluster, what: &str, wished: impl Fn(&[u16]) -> bool) {
    cluster.until_status(FAR, what, |status: &Status| {
        status.reconfigurations.first().is_some_and(|one| wished(&one.waits_for))
    });
}

/// Nothing is under way any more; the rows are one of these, the same on all nodes that run; and the load
/// goes on.
#[track_caller]
fn has_ended(cluster: &mut Cluster, load: &Load, allowed: &[&VirtualDiskRow]) {
    cluster.until_status(FAR, "no reconfiguration is under way", |status| status.reconfigurations.is_empty());
    load.goes_on(300);
    let row = cluster.disk_row(FAR);
    assert!(allowed.contains(&&row), "{row:?}");
}

/// The killed node is back, and all have the same rows.
#[track_caller]
fn comes_back(cluster: &mut Cluster, killed: u16) {
    cluster.start_node(killed);
    cluster.until_whole();
    let row = cluster.disk_row(FAR);
    for id in cluster.ids() {
        assert_eq!(cluster.disk_row(id), row, "node {id}");
    }
}

// proves: C1 C4 C5
#[test]
fn a_reconfiguration_survives_the_death_of_the_leader_in_each_of_its_steps() {
    let mut cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, 0..2048);
    load.goes_on(300);

    // Prepared, and one member does not answer: the change waits for it.
    let leader = leader_elsewhere(&mut cluster);
    let before = cluster.disk_row(FAR);
    let after = swapped(&before);
    let mute = (3..FAR).find(|id| *id != leader).unwrap();
    cluster.node(mute).pause();
    let changes = vec![RowChange::Put(Row::VirtualDisk(after.clone()))];
    cluster.ask_for(FAR, Change::Prepare { changes, deadline_ms: 60_000, hold: false }, false);
    cluster.kill_node(leader);
    cluster.node(mute).resume();
    has_ended(&mut cluster, &load, &[&before, &after]);
    comes_back(&mut cluster, leader);

    // All stand still, and the word is awaited. It outlives the leader.
    let leader = leader_elsewhere(&mut cluster);
    let before = cluster.disk_row(FAR);
    let after = swapped(&before);
    let id = begin(&cluster, &after, true);
    waits_for(&mut cluster, "all stand still", <[u16]>::is_empty);
    cluster.kill_node(leader);
    let next = cluster.until_status(FAR, "another leads, and the dead one is out", |status| {
        status.log.leader.is_some_and(|now| now != leader) && !status.members.contains(&leader)
    });
    if next.reconfigurations.is_empty() {
        assert_eq!(cluster.disk_row(FAR), before, "it was given up, nobody said the word");
    } else {
        cluster.change(FAR, Change::Proceed { reconfiguration: id });
    }
    has_ended(&mut cluster, &load, &[&before, &after]);
    comes_back(&mut cluster, leader);

    // The word was said, and at the same moment the leader dies.
    let leader = leader_elsewhere(&mut cluster);
    let before = cluster.disk_row(FAR);
    let after = swapped(&before);
    let id = begin(&cluster, &after, true);
    waits_for(&mut cluster, "all stand still", <[u16]>::is_empty);
    cluster.change(FAR, Change::Proceed { reconfiguration: id });
    cluster.kill_node(leader);
    has_ended(&mut cluster, &load, &[&after]);
    comes_back(&mut cluster, leader);

    // It is given up, and at the same moment the leader dies.
    let leader = leader_elsewhere(&mut cluster);
    let before = cluster.disk_row(FAR);
    let id = begin(&cluster, &swapped(&before), true);
    waits_for(&mut cluster, "all stand still", <[u16]>::is_empty);
    let cancel = Change::Cancel { reconfiguration: id, why: CancelCause::Operator };
    assert_eq!(cluster.ask_for(FAR, cancel, false).get("error"), None);
    cluster.kill_node(leader);
    has_ended(&mut cluster, &load, &[&before]);
    comes_back(&mut cluster, leader);

    load.goes_on(300);
    load.finish().verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
}
