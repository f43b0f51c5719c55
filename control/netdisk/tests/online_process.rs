//! The configuration changes while clients read and write, and they see nothing of it but a delay.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use control_proto::ccd::{CancelCause, Change, ReconfigurationId, Row, RowChange, RowKey};
use control_proto::rows::{NodeRow, PermissionRow, RailAddress, RailEnd, RailRow};
use fixtures_lab::{Cluster, ClusterPlan, Load, NbdClient, until};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use transport_proto::identity::{NodeId, RailId};

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a disk, with the NBD server.
const FAR: u16 = 3;
const WORKERS: u64 = 4;
const BLOCKS: Range<u64> = 0..2048;

fn cluster() -> Cluster {
    Cluster::start(NETDISK, ClusterPlan::default())
}

/// Changes things under a load that verifies what it reads; no request may fail.
#[track_caller]
fn under_load(change: impl FnOnce(&mut Cluster, &Load)) -> Cluster {
    let mut cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(300);
    change(&mut cluster, &load);
    load.goes_on(300);
    let ledger = load.finish();
    ledger.verify(&socket);
    let status = cluster.status(FAR).unwrap();
    assert_eq!(status.driver.failed, 0);
    println!("longest pause {:?} of {} requests", ledger.longest, ledger.requests);
    cluster
}

/// Primary and secondary change places; returns when that is done and has been used.
#[track_caller]
fn swap(cluster: &mut Cluster, load: &Load, asked_at: u16) -> u16 {
    let mut row = cluster.disk_row(asked_at);
    row.candidates.reverse();
    let primary = row.candidates[0].0.0;
    cluster.reconfigure(asked_at, vec![Row::VirtualDisk(row)]);
    cluster.until_status(primary, "serves", |status| status.virtual_disks[0].gate.starts_with("Open"));
    load.goes_on(300);
    primary
}

// proves: C4 C5 B6
#[test]
fn the_primary_moves_by_order_and_clients_see_a_delay_only() {
    under_load(|cluster, load| {
        for (round, asked_at) in [FAR, 1, 2, FAR].into_iter().enumerate() {
            let primary = swap(cluster, load, asked_at);
            assert_eq!(primary, if round % 2 == 0 { 2 } else { 1 });
            let status = cluster.status(FAR).unwrap();
            let told = status.failovers.last().unwrap();
            println!("move {round} to node {primary}: gap {:?} us", told.gap_us);
            assert_eq!((status.virtual_disks[0].serving, told.to), (Some(primary), primary));
        }
    });
}

// proves: C4 C5
#[test]
fn a_secondary_is_taken_out_and_put_back_and_a_held_change_waits_for_the_word_or_is_given_up() {
    under_load(|cluster, load| {
        let whole = cluster.disk_row(1);
        let mut alone = whole.clone();
        alone.candidates.truncate(1);
        cluster.reconfigure(FAR, vec![Row::VirtualDisk(alone.clone())]);
        load.goes_on(200);
        assert_eq!(cluster.disk_row(2).candidates.len(), 1);
        cluster.until_status(2, "has let the disk go", |status| status.disks.is_empty());
        // Held: everybody stands still until somebody says that the cable is moved.
        let changes = vec![RowChange::Put(Row::VirtualDisk(whole.clone()))];
        let held = Change::Prepare { changes: changes.clone(), deadline_ms: 60_000, hold: true };
        let began = cluster.ask_for(FAR, held, false);
        let id = ReconfigurationId(began["reconfiguration"].as_u64().expect("its number"));
        let stands = cluster.until_status(FAR, "all stand still", |status| {
            status.reconfigurations.first().is_some_and(|one| one.waits_for.is_empty())
        });
        assert!(stands.virtual_disks[0].suspended);
        let stood_at = load.progress().requests();
        let answer =
            cluster.ask_for(1, Change::Cancel { reconfiguration: id, why: CancelCause::Operator }, false);
        assert_eq!(answer.get("error"), None);
        load.goes_on(200);
        assert!(load.progress().requests() > stood_at);
        assert_eq!(cluster.disk_row(1), alone, "what was given up changed nothing");
        let held = Change::Prepare { changes, deadline_ms: 60_000, hold: true };
        let began = cluster.ask_for(FAR, held, false);
        let id = ReconfigurationId(began["reconfiguration"].as_u64().expect("its number"));
        cluster.until_status(1, "all stand still", |status| {
            status.reconfigurations.first().is_some_and(|one| one.waits_for.is_empty())
        });
        cluster.change(2, Change::Proceed { reconfiguration: id });
        load.goes_on(200);
        assert_eq!(cluster.disk_row(FAR).candidates, whole.candidates);
        cluster.until_status(2, "has the disk again", |status| status.disks.len() == 1);
    });
}

// proves: C5 B11
#[test]
fn a_disk_grows_and_is_renamed_while_it_is_used() {
    let cluster = under_load(|cluster, load| {
        let mut row = cluster.disk_row(1);
        let before = row.size_bytes;
        row.size_bytes = before / 2 * 3;
        let too_large = Change::Prepare {
            changes: vec![RowChange::Put(Row::VirtualDisk(row.clone()))],
            deadline_ms: 10_000,
            hold: false,
        };
        let refused = cluster.ask_for(FAR, too_large, true);
        assert!(refused["error"].is_string(), "the medium is not so large: {refused}");
        load.goes_on(200);
        assert_eq!(cluster.disk_row(1).size_bytes, before);
        row.size_bytes = before;
        row.name = "renamed".into();
        cluster.put(FAR, vec![Row::VirtualDisk(row.clone())]);
        load.goes_on(200);
        assert!(NbdClient::open(&cluster.nbd_socket(FAR), "renamed").is_ok());
        assert!(NbdClient::open(&cluster.nbd_socket(FAR), "vd0").is_err());
        row.name = "vd0".into();
        cluster.put(FAR, vec![Row::VirtualDisk(row)]);
    });
    drop(cluster);
    // A medium with room: 64 MiB formatted, 32 MiB used at first.
    let cluster = Cluster::prepare(NETDISK, ClusterPlan::default());
    let smaller = |text: &str| text.replace("size = 67108864", "size = 33554432");
    let text = std::fs::read_to_string(cluster.config()).unwrap();
    std::fs::write(cluster.config(), smaller(&text)).unwrap();
    let mut cluster = cluster;
    cluster.ids().for_each(|id| cluster.start_node(id));
    cluster.until_whole();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    let mut client = NbdClient::open(&socket, "vd0").unwrap();
    assert_eq!(client.size_bytes(), 32 << 20);
    assert!(client.write(40 << 20, &[5; 4096], false).is_err());
    let mut row = cluster.disk_row(1);
    row.size_bytes = 64 << 20;
    cluster.reconfigure(2, vec![Row::VirtualDisk(row)]);
    // Done at node 2; here a moment later.
    let mut client = until("a client of another node sees the new size", || {
        let client = NbdClient::open(&socket, "vd0").unwrap();
        (client.size_bytes() == 64 << 20).then_some(client)
    });
    client.write(40 << 20, &[5; 4096], false).unwrap();
    load.goes_on(300);
    load.finish().verify(&socket);
}

/// One more TCP rail for the nodes of a link, at ports that the link's numbers do not use.
fn more_rail(cluster: &Cluster, id: u8, link: u8, nodes: &[u16]) -> RailRow {
    let end = |node: &u16| {
        let port = cluster.rail_port(*node, link, id);
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        RailEnd { node: NodeId(*node), address: RailAddress::Tcp(at(port)), heartbeat: at(port + 1) }
    };
    RailRow { id: RailId(id), ends: nodes.iter().map(end).collect() }
}

// proves: T7 C5
#[test]
fn rails_are_added_and_taken_away_under_load_and_traffic_moves() {
    under_load(|cluster, load| {
        let before = cluster.link_row(1, 0);
        let mut wider = before.clone();
        wider.rails.push(more_rail(cluster, 2, before.id.0, &[1, 2, 3]));
        cluster.put(FAR, vec![Row::Link(wider.clone())]);
        for (id, peer) in [(1, 2), (2, 1), (FAR, 1), (1, FAR)] {
            cluster.until_rail(id, peer, (before.id.0, 2), "up");
        }
        load.goes_on(200);
        // Only the new one stays: what the others carried moves to it.
        let mut narrow = wider.clone();
        narrow.rails.drain(..2);
        cluster.put(2, vec![Row::Link(narrow)]);
        cluster.until_active(FAR, 1, (before.id.0, 2));
        load.goes_on(200);
        cluster.until_status(FAR, "the old rails are gone", |status| {
            status.peers.iter().all(|peer| peer.links.iter().all(|link| link.rails.len() != 3))
        });
        cluster.put(1, vec![Row::Link(before.clone())]);
        cluster.until_rail(FAR, 1, (before.id.0, 0), "up");
        load.goes_on(200);
        // A whole link goes and comes back.
        let second = cluster.link_row(1, 1);
        cluster.change(1, Change::Rows(vec![RowChange::Remove(RowKey::Link(second.number))]));
        cluster.until_status(FAR, "one link", |status| status.peers.iter().all(|peer| peer.links.len() == 1));
        load.goes_on(200);
        cluster.put(FAR, vec![Row::Link(second.clone())]);
        cluster.until_rail(FAR, 1, (second.id.0, 0), "up");
    });
}

// proves: C3 C5 T7
#[test]
fn a_node_joins_and_leaves_for_good_under_load() {
    under_load(|cluster, load| {
        let id = cluster.add_place();
        let node =
            NodeRow { id: NodeId(id), name: "delta".into(), host: Ipv4Addr::LOCALHOST.into(), voter: false };
        let mut rows = vec![Row::Node(node)];
        for link in 0..2 {
            let mut link = cluster.link_row(1, link);
            link.nodes.push(NodeId(id));
            let number = link.id.0;
            for rail in &mut link.rails {
                let end = match &rail.ends[0].address {
                    RailAddress::Shm(name) => {
                        let name = name.replacen("/1/", &format!("/{id}/"), 1);
                        let heartbeat = more_rail(cluster, rail.id.0, number, &[id]).ends[0].heartbeat;
                        RailEnd { node: NodeId(id), address: RailAddress::Shm(name), heartbeat }
                    }
                    _ => more_rail(cluster, rail.id.0, number, &[id]).ends.remove(0),
                };
                rail.ends.push(end);
            }
            rows.push(Row::Link(link));
        }
        let links: Vec<Row> = (0..2).map(|link| Row::Link(cluster.link_row(1, link))).collect();
        cluster.put(2, rows);
        cluster.lend_genesis(2, id);
        let mut command = Command::new(NETDISK);
        let (state, socket) = (cluster.state_folder(id), cluster.admin_socket(id));
        command.arg("node").arg("--state").arg(state).arg("--socket").arg(socket);
        cluster.start_node_by(id, command);
        assert_eq!(cluster.until_whole(), 1);
        let status = cluster.until_status(id, "learns", |status| status.log.role == "learner");
        assert_eq!(status.members, [1, 2, 3, 4]);
        load.goes_on(200);
        assert_eq!(cluster.disk_row(id), cluster.disk_row(1));
        cluster.stop_node(id);
        cluster.until_status(1, "it left", |status| status.members == [1, 2, 3]);
        let mut changes: Vec<RowChange> = links.into_iter().map(RowChange::Put).collect();
        changes.push(RowChange::Remove(RowKey::Node(NodeId(id))));
        cluster.change(FAR, Change::Rows(changes));
        cluster.until_status(1, "it is forgotten", |status| {
            status.log.learners.is_empty()
                && status.peers.iter().all(|peer| peer.links.len() == 2 || peer.node == 4)
        });
        cluster.remove_place();
        assert_eq!(cluster.until_whole(), 1);
    });
}

/// The other user of the tests below.
const STRANGER: u32 = 54_321;

/// Acts as the other user's client: run by the test below in a process of that user's.
#[test]
fn opens_a_disk_as_another_user() {
    let Ok(socket) = std::env::var("NETDISK_TEST_SOCKET") else { return };
    let writable = std::env::var("NETDISK_TEST_WRITES").is_ok();
    let mut client = NbdClient::open(Path::new(&socket), "vd0").unwrap();
    client.read(0, &mut [0; 4096]).unwrap();
    assert_eq!(client.write(0, &[1; 4096], false).is_ok(), writable);
}

fn may_open(cluster: &Cluster, id: u16, writes: bool) -> bool {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "opens_a_disk_as_another_user", "--nocapture"]).uid(STRANGER).gid(STRANGER);
    command.env("NETDISK_TEST_SOCKET", cluster.nbd_socket(id));
    if writes {
        command.env("NETDISK_TEST_WRITES", "yes");
    }
    command.output().is_ok_and(|output| output.status.success())
}

// proves: B8 C5
#[test]
fn permissions_change_live_and_hold_on_every_node_also_after_a_failure() {
    let plan = ClusterPlan { nbd_nodes: vec![2, 3], ..ClusterPlan::default() };
    let mut cluster = Cluster::start(NETDISK, plan);
    if std::fs::metadata(cluster.folder()).unwrap().uid() != 0 {
        return fixtures_lab::skipped("another user's process cannot be started here (it needs root)");
    }
    std::fs::set_permissions(cluster.folder(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let volume = cluster.disk_row(1).id;
    let load = Load::start(&cluster.nbd_socket(FAR), WORKERS, 1..512);
    let row = |mode, nodes: &[u16]| {
        let nodes = nodes.iter().map(|node| NodeId(*node)).collect();
        Row::Permission(PermissionRow { volume, owner: STRANGER, group: 0, mode, nodes })
    };
    let until_may = |cluster: &Cluster, id, writes, may: bool| {
        until(&format!("node {id}: the other user may open: {may}"), || {
            (may_open(cluster, id, writes) == may).then_some(())
        });
    };
    until_may(&cluster, FAR, true, false);
    cluster.put(1, vec![row(0o600, &[1, 2, 3])]);
    for id in [2, FAR] {
        until_may(&cluster, id, true, true);
        let socket = std::fs::metadata(cluster.nbd_socket(id)).unwrap();
        assert_eq!((socket.uid(), socket.permissions().mode() & 0o777), (STRANGER, 0o600));
    }
    cluster.put(2, vec![row(0o400, &[1, 2, 3])]);
    until_may(&cluster, FAR, false, true);
    assert!(!may_open(&cluster, FAR, true), "a reader may not write");
    cluster.put(2, vec![row(0o600, &[1, FAR])]);
    until_may(&cluster, 2, true, false);
    load.goes_on(200);
    cluster.kill_node(2);
    load.goes_on(200);
    cluster.start_node(2);
    cluster.until_whole();
    assert!(!may_open(&cluster, 2, true), "the row does not name this node");
    until_may(&cluster, FAR, true, true);
    load.finish().verify(&cluster.nbd_socket(FAR));
}

// proves: B7
#[test]
fn only_devices_that_are_open_are_set_up_again() {
    let mut cluster = cluster();
    let socket = cluster.nbd_socket(FAR);
    for id in cluster.ids() {
        assert!(!cluster.status(id).unwrap().virtual_disks[0].set_up, "nobody has it open on node {id}");
    }
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(200);
    swap(&mut cluster, &load, 1);
    let set_up = |cluster: &Cluster, id| cluster.status(id).unwrap().virtual_disks[0].set_up;
    assert_eq!([1, 2, FAR].map(|id| set_up(&cluster, id)), [false, false, true]);
    let ledger = load.finish();
    cluster.until_status(FAR, "nobody has it open any more", |status| {
        status.virtual_disks[0].open == 0 && !status.virtual_disks[0].set_up
    });
    let mut row = cluster.disk_row(1);
    row.candidates.reverse();
    cluster.reconfigure(2, vec![Row::VirtualDisk(row)]);
    assert!(!set_up(&cluster, FAR));
    ledger.verify(&socket);
}
