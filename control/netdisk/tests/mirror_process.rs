//! A mirror of two nodes' disks, used from a third node while the node of one copy, then of the other, is
//! killed and brought back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use control_node::report::{Mirror, Status};
use fixtures_lab::{Cluster, ClusterPlan, Load, until};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a copy.
const FAR: u16 = 3;
const WORKERS: u64 = 4;
/// 8 MiB of it are written.
const BLOCKS: Range<u64> = 0..2048;
const SIZE: u64 = 64 << 20;

fn done(cluster: &Cluster, words: &[&str]) -> String {
    let socket = cluster.admin_socket(FAR).display().to_string();
    cluster.netdisk(&[words, &["--socket", &socket]].concat()).expect_success().out
}

fn image(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.folder().join(format!("{name}.img"))
}

/// Three nodes, a mirror `m` on the disks of nodes 1 and 2, and where node 3 serves it.
fn mirrored() -> (Cluster, PathBuf) {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    for (name, node) in [("left", 1), ("right", 2)] {
        let path = image(&cluster, name);
        cluster.make_disk(&path, SIZE + (1 << 20));
        done(&cluster, &["disk", "add", name, "--node", &format!("{node}:{}", path.display())]);
    }
    done(&cluster, &["volume", "create", "m", "--on", "left,right", "--size", "64MiB"]);
    let socket = cluster.folder().join("mirror.sock");
    let listen = format!("unix:{}", socket.display());
    done(&cluster, &["nbd", "set", "--node", "3", "--listen", &listen, "--exports", "m"]);
    until("the server listens", || socket.exists().then_some(()));
    until_healthy(&mut cluster, 1);
    // What was copied is marked until it is known to be on stable storage.
    cluster.until_status(1, "nothing is marked any more", |status| mirror(status).marked_bytes == 0);
    (cluster, socket)
}

fn mirror(status: &Status) -> &Mirror {
    status.mirrors.first().unwrap()
}

/// Waits until both copies are in sync, as the node that serves the mirror sees it; how it stands then.
#[track_caller]
fn until_healthy(cluster: &mut Cluster, serving: u16) -> Mirror {
    let status = cluster.until_status(serving, "both copies are in sync", |status| {
        let mirror = mirror(status);
        mirror.here && mirror.legs.iter().all(|leg| leg.state == "in sync" && leg.reachable == Some(true))
    });
    mirror(&status).clone()
}

fn content(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    std::fs::File::open(path).unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

// proves: B9 B10 B4 B5
#[test]
fn the_node_of_each_copy_is_killed_and_comes_back_and_only_what_changed_is_copied() {
    let (mut cluster, socket) = mirrored();
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(500);
    // The node of the second copy.
    cluster.kill_node(2);
    load.goes_on(500);
    cluster.until_status(1, "one copy is stale", |status| mirror(status).legs[1].state == "stale");
    let said = done(&cluster, &["volume", "status", "m"]);
    assert!(said.contains("degraded") && said.contains("no node served it"), "{said}");
    cluster.start_node(2);
    let healed = until_healthy(&mut cluster, 1);
    // At first everything was copied once; after the outage what was written is an eighth of it.
    let after_outage = healed.copied_bytes.saturating_sub(SIZE);
    assert!(after_outage > 0 && after_outage < SIZE / 2, "{} bytes copied", healed.copied_bytes);
    load.goes_on(500);
    // The node that serves the mirror, with the first copy.
    cluster.kill_node(1);
    load.goes_on(500);
    cluster.until_status(2, "one copy is stale", |status| mirror(status).legs[0].state == "stale");
    cluster.start_node(1);
    until_healthy(&mut cluster, 1);
    load.goes_on(500);
    let ledger = load.finish();
    ledger.verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
    let said = done(&cluster, &["volume", "status"]);
    assert!(said.contains("m: healthy: 2 of 2 copies in sync"), "{said}");
    assert!(content(&image(&cluster, "left")) == content(&image(&cluster, "right")), "the copies differ");
}

// proves: B9 B10 C5
#[test]
fn copies_are_added_failed_and_taken_out_under_load_and_parts_are_nobody_elses() {
    let (mut cluster, socket) = mirrored();
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(300);
    let spare = image(&cluster, "spare");
    cluster.make_disk(&spare, SIZE + (1 << 20));
    done(&cluster, &["disk", "add", "spare", "--node", &format!("3:{}", spare.display())]);
    done(&cluster, &["volume", "attach", "m", "--on", "spare"]);
    assert_eq!(until_healthy(&mut cluster, 1).legs.len(), 3);
    load.goes_on(300);
    done(&cluster, &["volume", "fail", "m", "--leg", "m.2"]);
    load.goes_on(300);
    assert_eq!(until_healthy(&mut cluster, 1).legs.len(), 3);
    done(&cluster, &["volume", "detach", "m", "--leg", "m.1"]);
    load.goes_on(300);
    assert_eq!(until_healthy(&mut cluster, 1).legs.len(), 2);
    let admin = cluster.admin_socket(FAR).display().to_string();
    let refused = |words: &[&str]| {
        let ran = cluster.netdisk(&[words, &["--socket", &admin]].concat());
        assert!(!ran.status.success(), "{}", ran.out);
        ran.err
    };
    let listen = format!("unix:{}", cluster.folder().join("part.sock").display());
    let export = refused(&["nbd", "set", "--node", "3", "--listen", &listen, "--exports", "m.2"]);
    assert!(export.contains("part of a volume"), "{export}");
    assert!(refused(&["vdisk", "remove", "m.2"]).contains("still used"));
    assert!(refused(&["vdisk", "grow", "m", "65MiB"]).contains("keeps its size"));
    let ledger = load.finish();
    ledger.verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
    assert!(content(&spare) == content(&image(&cluster, "right")), "the copies differ");
}
