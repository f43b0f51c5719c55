//! Stripes and concatenations of two nodes' disks, plain and of mirrors, used from a third node while the
//! node of a part is killed and brought back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use control_node::report::{Assembly, Status};
use fixtures_lab::{Cluster, ClusterPlan, Load, NbdClient, until};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a part.
const FAR: u16 = 3;
const WORKERS: u64 = 4;
/// 8 MiB of it are written.
const BLOCKS: Range<u64> = 0..2048;
const PART: u64 = 16 << 20;
const CHUNK: usize = 64 << 10;

fn done(cluster: &Cluster, words: &[&str]) -> String {
    let socket = cluster.admin_socket(FAR).display().to_string();
    cluster.netdisk(&[words, &["--socket", &socket]].concat()).expect_success().out
}

fn refused(cluster: &Cluster, words: &[&str]) -> String {
    let socket = cluster.admin_socket(FAR).display().to_string();
    let ran = cluster.netdisk(&[words, &["--socket", &socket]].concat());
    assert!(!ran.status.success(), "{}", ran.out);
    ran.err
}

fn image(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.folder().join(format!("{name}.img"))
}

/// A disk of one node.
fn make_disk(cluster: &Cluster, name: &str, node: u16) {
    let path = image(cluster, name);
    cluster.make_disk(&path, PART + (1 << 20));
    done(cluster, &["disk", "add", name, "--node", &format!("{node}:{}", path.display())]);
}

/// A virtual disk of its own name on such a disk.
fn make_part(cluster: &Cluster, name: &str, node: u16) {
    make_disk(cluster, name, node);
    done(cluster, &["vdisk", "create", name, "--disk", name, "--size", &PART.to_string()]);
}

/// Exports a volume at node 3; where.
fn export(cluster: &Cluster, name: &str) -> PathBuf {
    let socket = cluster.folder().join(format!("{name}.sock"));
    let listen = format!("unix:{}", socket.display());
    done(cluster, &["nbd", "set", "--node", "3", "--listen", &listen, "--exports", name]);
    until("the server listens", || socket.exists().then_some(()));
    socket
}

fn assembly<'s>(status: &'s Status, name: &str) -> &'s Assembly {
    status.assemblies.iter().find(|assembly| assembly.name == name).unwrap()
}

#[track_caller]
fn until_up(cluster: &mut Cluster, serving: u16, name: &str) {
    cluster.until_status(serving, "no part is missed", |status| {
        let assembly = assembly(status, name);
        assembly.here && assembly.parts.iter().all(|part| part.down.is_none())
    });
}

fn read(socket: &Path, offset: u64, length: usize) -> Result<Vec<u8>, String> {
    let mut client = NbdClient::open(socket, "").map_err(|fault| fault.to_string())?;
    let mut bytes = vec![0; length];
    client.read(offset, &mut bytes).map_err(|fault| fault.to_string())?;
    Ok(bytes)
}

fn content(path: &Path, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    std::fs::File::open(path).unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

// proves: B9 B4 B5
#[test]
fn a_stripe_waits_for_a_part_whose_node_is_away_and_goes_on_without_an_error() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    make_part(&cluster, "left", 1);
    make_part(&cluster, "right", 2);
    done(&cluster, &["volume", "create", "s", "--stripe", "left,right", "--chunk", "64K"]);
    let socket = export(&cluster, "s");
    until_up(&mut cluster, 1, "s");
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(500);

    // The node of the second part.
    cluster.kill_node(2);
    cluster.until_status(1, "requests wait for the part", |status| {
        let part = &assembly(status, "s").parts[1];
        part.down.is_some() && part.under_way == Some(WORKERS as u32)
    });
    let said = done(&cluster, &["volume", "status", "s"]);
    assert!(said.contains("WAITS") && said.contains("requests to right wait"), "{said}");
    assert!(said.contains("no node serves it, start node2"), "{said}");
    // What lies on the other part is at hand meanwhile.
    read(&socket, 0, CHUNK).unwrap();
    cluster.start_node(2);
    load.goes_on(500);
    until_up(&mut cluster, 1, "s");

    // The node that serves the stripe, with the first part.
    cluster.kill_node(1);
    cluster.until_status(2, "serves, and waits for the part", |status| {
        let assembly = assembly(status, "s");
        assembly.here && assembly.parts[0].down.is_some()
    });
    cluster.start_node(1);
    load.goes_on(500);
    let ledger = load.finish();
    ledger.verify(&socket);
    until_up(&mut cluster, 1, "s");
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
    let said = done(&cluster, &["volume", "status"]);
    assert!(said.contains("s: healthy: stripe of 2 parts in chunks of 64KiB, served by node1"), "{said}");

    // Chunk by chunk, the one and the other part.
    let whole = [read(&socket, 0, 1 << 20).unwrap(), read(&socket, 1 << 20, 1 << 20).unwrap()].concat();
    let halves = ["left", "right"].map(|name| content(&image(&cluster, name), 1 << 20));
    for (number, chunk) in whole.chunks(CHUNK).enumerate() {
        let at = number / 2 * CHUNK;
        assert!(chunk == &halves[number % 2][at..at + CHUNK], "chunk {number} lies elsewhere");
    }
}

// proves: B9 B10 B4 B5
#[test]
fn a_stripe_of_mirrors_goes_on_while_the_node_of_one_copy_of_each_is_away() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    for (name, node) in [("a1", 1), ("a2", 2), ("b2", 2), ("b1", 1)] {
        make_disk(&cluster, name, node);
    }
    done(&cluster, &["volume", "create", "a", "--on", "a1,a2", "--size", "8MiB"]);
    done(&cluster, &["volume", "create", "b", "--on", "b2,b1", "--size", "8MiB"]);
    done(&cluster, &["volume", "create", "s", "--stripe", "a,b"]);
    let again = refused(&cluster, &["volume", "create", "top", "--concat", "s"]);
    assert!(again.contains("3 volumes would lie on one another"), "{again}");
    let socket = export(&cluster, "s");
    let all_in_sync = |status: &Status| {
        let sound = |leg: &control_node::report::Leg| leg.state == "in sync";
        status.mirrors.len() == 2 && status.mirrors.iter().all(|mirror| mirror.legs.iter().all(sound))
    };
    cluster.until_status(FAR, "all copies are in sync", all_in_sync);
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(300);
    for node in [2, 1] {
        cluster.kill_node(node);
        load.goes_on(500);
        cluster.start_node(node);
        cluster.until_status(FAR, "all copies are in sync again", all_in_sync);
        load.goes_on(300);
    }
    let ledger = load.finish();
    ledger.verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
    let said = done(&cluster, &["volume", "status"]);
    assert!(
        said.contains("s: healthy") && said.contains("a: healthy") && said.contains("b: healthy"),
        "{said}"
    );
    let same = |one: &str, other: &str| {
        let content = |name: &str| content(&image(&cluster, name), 8 << 20);
        assert!(content(one) == content(other), "the copies {one} and {other} differ");
    };
    same("a1", "a2");
    same("b1", "b2");
}

// proves: B9 B11 C5
#[test]
fn a_concatenation_grows_under_load_and_the_error_of_a_part_is_its_clients_only() {
    let cluster = Cluster::start(NETDISK, ClusterPlan::default());
    for (name, node) in [("one", 1), ("two", 2)] {
        make_part(&cluster, name, node);
    }
    done(&cluster, &["volume", "create", "c", "--concat", "one", "--nodes", "3"]);
    let socket = export(&cluster, "c");
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(300);
    done(&cluster, &["volume", "attach", "c", "--of", "two"]);
    done(&cluster, &["vdisk", "grow", "c", "32MiB"]);
    load.goes_on(300);
    let ledger = load.finish();
    ledger.verify(&socket);
    // Across the seam.
    let mut client = NbdClient::open(&socket, "").unwrap();
    let bytes: Vec<u8> = (0..1 << 20).map(|index: u32| (index / 4096) as u8 ^ index as u8).collect();
    client.write(PART - (512 << 10), &bytes, true).unwrap();
    assert!(read(&socket, PART - (512 << 10), 1 << 20).unwrap() == bytes);
    assert!(content(&image(&cluster, "two"), 512 << 10) == bytes[512 << 10..]);
    let listen = format!("unix:{}", cluster.folder().join("part.sock").display());
    let part = refused(&cluster, &["nbd", "set", "--node", "3", "--listen", &listen, "--exports", "two"]);
    assert!(part.contains("part of a volume"), "{part}");

    // The medium of the second part is cut short under it.
    std::fs::File::options().write(true).open(image(&cluster, "two")).unwrap().set_len(4 << 20).unwrap();
    let fault = read(&socket, PART + (8 << 20), 4096).expect_err("it lies beyond the end");
    assert!(fault.contains('5'), "{fault}");
    read(&socket, 0, 4096).unwrap();
    let said = done(&cluster, &["volume", "status", "c"]);
    assert!(said.contains("FAILING") && said.contains("two failed its last request"), "{said}");
    assert_eq!(cluster.status(FAR).unwrap().assemblies.len(), 1);
}

// proves: B9 B10
#[test]
fn a_mirror_of_stripes_sets_a_stripe_aside_whose_part_is_away_and_copies_to_it_afterwards() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    for (name, node) in [("l1", 1), ("l2", 1), ("r1", 1), ("r2", 2)] {
        make_part(&cluster, name, node);
    }
    done(&cluster, &["volume", "create", "left", "--stripe", "l1,l2"]);
    // Served by a node that stays, while one of its parts goes.
    done(&cluster, &["volume", "create", "right", "--stripe", "r1,r2", "--nodes", "1"]);
    done(&cluster, &["volume", "create", "m", "--of", "left,right", "--size", "16MiB", "--nodes", "1"]);
    let socket = export(&cluster, "m");
    let stands = |state: &'static str| {
        move |status: &Status| {
            let mirror = status.mirrors.first().unwrap();
            mirror.here && mirror.legs.len() == 2 && mirror.legs[1].state == state
        }
    };
    cluster.until_status(1, "both stripes are in sync", stands("in sync"));
    let load = Load::start(&socket, WORKERS, BLOCKS);
    load.goes_on(300);
    cluster.kill_node(2);
    load.goes_on(500);
    cluster.until_status(1, "one stripe is stale", stands("stale"));
    cluster.start_node(2);
    cluster.until_status(1, "both stripes are in sync again", stands("in sync"));
    load.goes_on(300);
    let ledger = load.finish();
    ledger.verify(&socket);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
    for [one, other] in [["l1", "r1"], ["l2", "r2"]] {
        let same = content(&image(&cluster, one), 8 << 20) == content(&image(&cluster, other), 8 << 20);
        assert!(same, "{one} and {other} differ");
    }
}
