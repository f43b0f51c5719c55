//! Voters die: a minority of them costs nothing, a majority stops everything that is not safe without it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use control_proto::ccd::{Change, Row, RowChange};
use control_proto::rows::{LostQuorum, PermissionRow};
use fixtures_lab::{Cluster, ClusterPlan, Load, NbdClient, until};
use transport_proto::identity::NodeId;

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a disk, with the NBD server.
const FAR: u16 = 3;

fn cluster() -> Cluster {
    Cluster::start(NETDISK, ClusterPlan::default())
}

fn permission(cluster: &Cluster, mode: u16) -> Row {
    let volume = cluster.disk_row(FAR).id;
    Row::Permission(PermissionRow { volume, owner: 0, group: 0, mode, nodes: vec![NodeId(1), NodeId(FAR)] })
}

fn mode(cluster: &Cluster, id: u16) -> Option<u16> {
    cluster.rows(id).permissions.first().map(|row| row.mode)
}

// proves: C1 C3
#[test]
fn a_minority_of_dead_voters_loses_nothing_and_blocks_nothing() {
    let mut cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, 4, 0..1024);
    let mut number = cluster.status(FAR).unwrap().epoch;
    for round in 0..4_u16 {
        load.goes_on(200);
        let status = cluster.until_status(FAR, "somebody leads", |status| status.log.leader.is_some());
        // The leader in every other round; never the node whose clients are at work.
        let leader = status.log.leader.unwrap();
        let victim = if leader != FAR && round % 2 == 0 { leader } else { 1 + round % 2 };
        cluster.put(FAR, vec![permission(&cluster, 0o600 + round)]);
        cluster.kill_node(victim);
        let answer = until("a change is taken by those who are left", || {
            let change = Change::Rows(vec![RowChange::Put(permission(&cluster, 0o640 + round))]);
            let answer = cluster.ask_for(FAR, change, true);
            answer.get("error").is_none().then_some(answer)
        });
        assert!(answer["index"].as_u64().unwrap() > 0);
        load.goes_on(200);
        cluster.start_node(victim);
        cluster.until_whole();
        assert_eq!(mode(&cluster, victim), Some(0o640 + round), "acknowledged, and lost at node {victim}");
        let now = cluster.status(FAR).unwrap().epoch;
        assert!(now > number, "numbers rise: {now} after {number}");
        number = now;
    }
    load.goes_on(200);
    load.finish().verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
    // All at once, without a word.
    cluster.ids().for_each(|id| cluster.kill_node(id));
    cluster.ids().for_each(|id| cluster.start_node(id));
    cluster.until_whole();
    for id in cluster.ids() {
        assert_eq!(mode(&cluster, id), Some(0o643));
    }
}

// proves: C1
#[test]
fn a_fresh_look_at_any_node_has_all_that_another_was_told_is_done() {
    let cluster = cluster();
    for round in 0..60_u16 {
        let (asked, looked) = (1 + round % 3, 1 + (round + 1) % 3);
        cluster.put(asked, vec![permission(&cluster, 0o600 + round)]);
        let seen = cluster.fresh_database(looked).rows().permissions.first().map(|row| row.mode);
        assert_eq!(seen, Some(0o600 + round), "done at node {asked}, looked at node {looked}");
    }
}

// proves: C6
#[test]
fn without_a_majority_requests_wait_or_fail_as_the_virtual_disk_says() {
    let mut cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, 2, 0..512);
    load.goes_on(200);
    let lose = |cluster: &mut Cluster| {
        [1, 2].into_iter().for_each(|id| cluster.kill_node(id));
        cluster.until_status(FAR, "no majority", |status| !status.quorum);
    };
    let regain = |cluster: &mut Cluster| {
        [1, 2].into_iter().for_each(|id| cluster.start_node(id));
        cluster.until_whole();
    };
    lose(&mut cluster);
    let stood_at = load.progress().requests();
    let change = Change::Rows(vec![RowChange::Put(permission(&cluster, 0o644))]);
    let refused = cluster.ask_for(FAR, change, false);
    assert!(refused["error"].as_str().is_some_and(|why| why.contains("majority")), "{refused}");
    // Looking is possible, with a word that it may be old.
    let admin = cluster.admin_socket(FAR).display().to_string();
    let looked = cluster.netdisk(&["vdisk", "list", "--socket", &admin]).expect_success();
    assert!(looked.out.contains("vd0") && looked.err.contains("no majority answers"), "{looked:?}");
    assert_eq!(load.progress().requests(), stood_at, "answered without a majority");
    regain(&mut cluster);
    load.goes_on(200);
    let ledger = load.finish();
    ledger.verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0, "waiting is no failure");
    // The other policy, live, while a client is connected.
    let mut client = NbdClient::open(&socket, "vd0").unwrap();
    client.read(0, &mut [0; 4096]).unwrap();
    let mut row = cluster.disk_row(FAR);
    row.on_lost_quorum = LostQuorum::Fail;
    let answer = cluster.ask_for(1, Change::Rows(vec![RowChange::Put(Row::VirtualDisk(row.clone()))]), true);
    if answer.get("error").is_some() {
        cluster.reconfigure(1, vec![Row::VirtualDisk(row)]);
    }
    client.read(0, &mut [0; 4096]).unwrap();
    lose(&mut cluster);
    until("requests fail", || client.read(0, &mut [0; 4096]).is_err().then_some(()));
    assert!(client.write(4096 * 600, &[1; 4096], false).is_err());
    regain(&mut cluster);
    until("requests are answered again", || client.read(0, &mut [0; 4096]).is_ok().then_some(()));
    client.write(4096 * 600, &[1; 4096], false).unwrap();
    ledger.verify(&socket);
}
