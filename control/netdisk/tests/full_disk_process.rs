//! The disk under a node's records is full: the node says so and gives up, the others go on at once, and with
//! room again it comes back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use control_proto::ccd::{Change, Row, RowChange};
use fixtures_lab::{Cluster, ClusterPlan, Load, Program, skipped};
use std::path::Path;

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// Votes, and has no disk.
const FULL: u16 = 3;
/// The node whose clients are at work.
const FAR: u16 = 4;
/// Rows that one change puts again; the log keeps them all.
const ROWS_PER_CHANGE: usize = 200;

/// A file system in memory with little room; it goes when this is dropped.
struct SmallDisk {
    mount: Program,
    at: String,
}

impl SmallDisk {
    /// `None`, said loudly, where this process may not mount one.
    #[track_caller]
    fn new(at: &Path) -> Option<SmallDisk> {
        let mount = Program::find("mount")?;
        std::fs::create_dir_all(at).unwrap();
        let disk = SmallDisk { mount, at: at.display().to_string() };
        // The log takes room by the mebibyte: the second one does not fit.
        let ran = disk.mount.run(&["-t", "tmpfs", "-o", "size=1536k", "tmpfs", &disk.at]);
        if ran.status.success() {
            return Some(disk);
        }
        skipped(&format!("no file system can be mounted here (it needs root): {}", ran.err.trim()));
        None
    }

    fn make_room(&self) {
        self.mount.succeed(&["-o", "remount,size=64m", &self.at]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Also under a node that still runs after a failure; if it was never mounted, there is nothing to do.
        if let Some(umount) = Program::find("umount") {
            let _ = umount.run(&["-l", &self.at]);
        }
    }
}

// proves: C1 D3 D4 D5
#[test]
fn a_node_whose_records_find_no_room_says_so_and_is_out_at_once() {
    // Nobody is missed by silence.
    let plan = ClusterPlan {
        nodes: 4,
        nbd_nodes: vec![FAR],
        suspect_ms: 60_000,
        lease_ms: 120_000,
        ..ClusterPlan::default()
    };
    let mut cluster = Cluster::prepare(NETDISK, plan);
    let Some(disk) = SmallDisk::new(&cluster.state_folder(FULL)) else { return };
    cluster.ids().for_each(|id| cluster.start_node(id));
    cluster.until_whole();
    let socket = cluster.nbd_socket(FAR);
    let load = Load::start(&socket, 2, 0..1024);
    load.goes_on(300);

    let mut changes = 0;
    let row = cluster.disk_row(FAR);
    while cluster.node(FULL).ended().is_none() {
        let mut row = row.clone();
        row.name = format!("vd{}", changes % 2);
        let put = RowChange::Put(Row::VirtualDisk(row));
        // Refused or lost while the node ends: there is always the next.
        cluster.ask_for(FAR, Change::Rows(vec![put; ROWS_PER_CHANGE]), true);
        changes += 1;
    }
    let status = cluster.end_of_node(FULL);
    assert_eq!(status.code(), Some(1), "{status} after {changes} changes\n{}", cluster.log(FULL));
    assert!(cluster.log(FULL).contains("No space left"), "{}", cluster.log(FULL));
    let left = cluster.until_status(FAR, "the others go on without it", |status| status.members == [1, 2, 4]);
    assert!(left.quorum && left.tombstones == [FULL], "{:?}", left.tombstones);
    assert!(cluster.log(FAR).contains("its own records cannot be kept"), "{}", cluster.log(FAR));
    load.goes_on(300);

    let refusal = cluster.refused_start(FULL);
    assert!(refusal.contains("netdisk node clear"), "{refusal}");
    disk.make_room();
    let folder = cluster.state_folder(FULL).display().to_string();
    cluster.netdisk(&["node", "clear", "--state", &folder]).expect_success();
    cluster.start_node(FULL);
    cluster.until_whole();
    assert_eq!(cluster.rows(FULL), cluster.rows(FAR), "it has all that was changed meanwhile");
    load.goes_on(300);
    load.finish().verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
}
