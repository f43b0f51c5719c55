//! The pool on three nodes with real bytes: disks are lent, volumes borrowed, mounted, used, given back, and
//! what the next borrower finds is zero; two who want the same region; a lender that is killed while it
//! erases.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use control_node::report::Status;
use fixtures_lab::{Cluster, ClusterPlan, Load, NbdClient, Program, until};
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
const MIB: usize = 1 << 20;

fn ask(program: &Program, socket: &Path, words: &[&str]) -> Result<String, String> {
    let socket = socket.display().to_string();
    let ran = program.run(&[words, &["--socket", &socket]].concat());
    match ran.status.success() {
        true => Ok(ran.out),
        false => Err(ran.err),
    }
}

#[track_caller]
fn done(cluster: &Cluster, words: &[&str]) -> String {
    ask(&cluster.program(), &cluster.admin_socket(3), words).unwrap()
}

#[track_caller]
fn refused(cluster: &Cluster, words: &[&str]) -> String {
    ask(&cluster.program(), &cluster.admin_socket(3), words).expect_err("it was not refused")
}

fn image(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.folder().join(format!("{name}.img"))
}

/// A disk with somebody's bytes on it becomes a region of a node.
fn lend(cluster: &Cluster, name: &str, node: u16, mib: usize, form: &str) {
    let path = image(cluster, name);
    cluster.make_disk(&path, (mib * MIB) as u64);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0xee; MIB], 0).unwrap();
    file.write_all_at(&vec![0xee; MIB], ((mib - 1) * MIB) as u64).unwrap();
    let (path, size) = (path.display().to_string(), format!("{mib}MiB"));
    let node = node.to_string();
    let words = ["pool", "add", name, "--node", &node, "--path", &path, "--size", &size, "--form", form];
    done(cluster, &words);
}

fn table(cluster: &Cluster) -> Vec<Value> {
    serde_json::from_str(&done(cluster, &["pool", "table", "--json"])).unwrap()
}

fn states(cluster: &Cluster) -> Vec<String> {
    table(cluster).iter().map(|line| line["state"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn until_free(cluster: &Cluster) {
    until("all regions are free", || states(cluster).iter().all(|state| state == "free").then_some(()));
}

fn bytes_at(path: &Path, offset: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, offset as u64).unwrap();
    bytes
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn mount(cluster: &Cluster, name: &str) -> PathBuf {
    let socket = cluster.folder().join(format!("{name}.sock"));
    let listen = format!("unix:{}", socket.display());
    let said = done(cluster, &["pool", "mount", name, "--listen", &listen]);
    assert!(said.contains(&listen), "{said}");
    until("the borrower's server listens", || socket.exists().then_some(()));
    socket
}

#[track_caller]
fn read(socket: &Path, offset: usize, length: usize) -> Vec<u8> {
    let mut client = NbdClient::open(socket, "").unwrap();
    let mut bytes = vec![0; length];
    for (number, chunk) in bytes.chunks_mut(MIB).enumerate() {
        client.read((offset + number * MIB) as u64, chunk).unwrap();
    }
    bytes
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 4096) as u8 ^ index as u8 | 1).collect()
}

fn in_sync(status: &Status) -> bool {
    let sound = |mirror: &control_node::report::Mirror| mirror.legs.iter().all(|leg| leg.state == "in sync");
    !status.mirrors.is_empty() && status.mirrors.iter().all(sound)
}

// proves: M1 M2 M3 M4 M5 M8 M9
#[test]
fn a_mirrored_volume_goes_from_borrower_to_borrower_and_nothing_of_the_first_is_left() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    for node in 1..=3 {
        lend(&cluster, &format!("r{node}"), node, 16, "mirrored");
    }
    until_free(&cluster);
    for name in ["r1", "r2", "r3"] {
        assert!(is_zero(&bytes_at(&image(&cluster, name), 0, 16 * MIB)), "{name} is free and not zero");
    }
    let words = ["pool", "allocate", "v", "--borrower", "3", "--size", "8MiB", "--form", "mirrored"];
    done(&cluster, &words);
    assert!(refused(&cluster, &words).contains("v is lent already"));
    assert!(!done(&cluster, &["vdisk", "list"]).contains(" v "), "no path before it is mounted");
    let on_region = refused(&cluster, &["vdisk", "create", "mine", "--disk", "r1", "--size", "1MiB"]);
    assert!(on_region.contains("belongs to the pool"), "{on_region}");

    // Access, by the borrower alone.
    let socket = mount(&cluster, "v");
    cluster.until_status(3, "both copies are in sync", in_sync);
    let wrote = pattern(2 * MIB);
    let mut client = NbdClient::open(&socket, "").unwrap();
    client.write(0, &wrote[..MIB], true).unwrap();
    client.write(7 * MIB as u64, &wrote[MIB..], true).unwrap();
    drop(client);
    assert!(read(&socket, 0, MIB) == wrote[..MIB]);
    let other = cluster.folder().join("other.sock");
    let listen = format!("unix:{}", other.display());
    done(&cluster, &["nbd", "set", "--node", "2", "--listen", &listen, "--exports", "v"]);
    until("the other server listens", || other.exists().then_some(()));
    NbdClient::open(&other, "v").expect_err("it is lent to node 3");
    let lent = table(&cluster).into_iter().filter(|line| line["volume"] == "v").collect::<Vec<_>>();
    assert_eq!(lent.len(), 2, "{lent:?}");
    assert!(lent.iter().all(|line| line["mounted"] == true && line["borrower"] == "node3"), "{lent:?}");
    assert!(refused(&cluster, &["pool", "release", "v"]).contains("unmount it first"));

    // The path goes, the bytes stay.
    done(&cluster, &["pool", "unmount", "v"]);
    until("nothing listens", || (!socket.exists() && !other.exists()).then_some(()));
    assert!(!done(&cluster, &["vdisk", "list"]).contains("v.1"));
    let socket = mount(&cluster, "v");
    assert!(read(&socket, 0, MIB) == wrote[..MIB] && read(&socket, 7 * MIB, MIB) == wrote[MIB..]);
    done(&cluster, &["pool", "unmount", "v"]);
    done(&cluster, &["pool", "release", "v"]);
    until_free(&cluster);
    for name in ["r1", "r2", "r3"] {
        assert!(is_zero(&bytes_at(&image(&cluster, name), 0, 16 * MIB)), "{name} was freed and is not zero");
    }

    // The next borrower.
    let next =
        ["pool", "allocate", "w", "--borrower", "1", "--size", "8MiB", "--form", "mirrored", "--avoid", "3"];
    done(&cluster, &next);
    let socket = mount(&cluster, "w");
    assert!(is_zero(&read(&socket, 0, 8 * MIB)), "it reads what another wrote");
}

// proves: M4 M8 B10
#[test]
fn a_copy_is_moved_off_a_node_while_its_borrower_writes() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    for node in 1..=3 {
        lend(&cluster, &format!("r{node}"), node, 16, "mirrored");
    }
    until_free(&cluster);
    let words = ["pool", "allocate", "v", "--borrower", "3", "--size", "8MiB", "--form", "mirrored"];
    done(&cluster, &[&words[..], &["--avoid", "3"]].concat());
    let socket = mount(&cluster, "v");
    cluster.until_status(3, "both copies are in sync", in_sync);
    let load = Load::start(&socket, 4, 0..2048);
    load.goes_on(300);
    // Served by node 1, which is the one that goes.
    let said = done(&cluster, &["pool", "evacuate", "r1"]);
    assert!(said.contains("v lies elsewhere now"), "{said}");
    load.goes_on(300);
    let ledger = load.finish();
    until("r1 is erased", || (table(&cluster)[0]["state"] == "free").then_some(()));
    assert!(is_zero(&bytes_at(&image(&cluster, "r1"), 0, 16 * MIB)));
    cluster.kill_node(1);
    ledger.verify(&socket);
    let both = ["r2", "r3"].map(|name| bytes_at(&image(&cluster, name), 0, 8 * MIB));
    assert!(both[0] == both[1] && !is_zero(&both[0]), "the copies differ");
    assert_eq!(cluster.status(3).unwrap().driver.failed, 0);
}

// proves: M5
#[test]
fn of_two_who_want_the_last_region_exactly_one_gets_it() {
    let cluster = Cluster::start(NETDISK, ClusterPlan::default());
    lend(&cluster, "only", 1, 4, "single");
    for _ in 0..3 {
        until_free(&cluster);
        let programs = [(cluster.program(), "a", 1), (cluster.program(), "b", 2)];
        let sockets = [cluster.admin_socket(1), cluster.admin_socket(2)];
        let results: Vec<Result<String, String>> = std::thread::scope(|scope| {
            let ask = |((program, name, node), socket): ((Program, &'static str, u16), PathBuf)| {
                scope.spawn(move || {
                    let node = node.to_string();
                    let words = ["pool", "allocate", name, "--borrower", &node, "--size", "4MiB"];
                    ask(&program, &socket, &words)
                })
            };
            let asked: Vec<_> = programs.into_iter().zip(sockets).map(ask).collect();
            asked.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let won = results.iter().position(Result::is_ok).expect("one gets it");
        let lost = results[1 - won].as_ref().expect_err("both got it");
        assert!(lost.contains("does not suffice"), "{lost}");
        let winner = ["a", "b"][won];
        assert_eq!(table(&cluster)[0]["volume"], winner);
        done(&cluster, &["pool", "release", winner]);
    }
}

// proves: M8 M4
#[test]
fn a_lender_that_is_killed_while_it_erases_goes_on_when_it_is_back() {
    const SIZE: usize = 512;
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    lend(&cluster, "big", 1, SIZE, "single");
    until_free(&cluster);
    let size = format!("{SIZE}MiB");
    done(&cluster, &["pool", "allocate", "v", "--borrower", "2", "--size", &size]);
    let socket = mount(&cluster, "v");
    let mut client = NbdClient::open(&socket, "").unwrap();
    for at in [0, SIZE - 1] {
        client.write((at * MIB) as u64, &pattern(MIB), true).unwrap();
    }
    drop(client);
    done(&cluster, &["pool", "unmount", "v"]);
    done(&cluster, &["pool", "release", "v"]);
    let path = image(&cluster, "big");
    until("the erase has begun", || is_zero(&bytes_at(&path, 0, MIB)).then_some(()));
    cluster.kill_node(1);
    assert!(bytes_at(&path, (SIZE - 1) * MIB, MIB) == pattern(MIB), "it was not in the midst of it");

    // Nobody gets what is not erased.
    let words = ["pool", "allocate", "w", "--borrower", "3", "--size", &size];
    assert!(refused(&cluster, &words).contains("being erased"));
    assert_eq!(states(&cluster), ["erasing"]);
    cluster.start_node(1);
    until_free(&cluster);
    for at in 0..SIZE {
        assert!(is_zero(&bytes_at(&path, at * MIB, MIB)), "MiB {at} is free and not zero");
    }
    done(&cluster, &words);
    let socket = mount(&cluster, "w");
    for at in [0, SIZE - 1] {
        assert!(is_zero(&read(&socket, at * MIB, MIB)), "MiB {at} is not zero for the next borrower");
    }
}

/// The commands of a section of the crate's README.
fn commands_of(section: &str) -> String {
    let text = include_str!("../README.md");
    let after = text.split(&format!("\n## {section}\n")).nth(1).unwrap();
    let block = after.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    // The cluster of the test calls its nodes otherwise.
    block.replace("alpha", "node1").replace("beta", "node2").replace("gamma", "node3")
}

// proves: M9 M4
#[test]
fn the_quick_start_of_the_pool_works_as_it_is_written() {
    let cluster = Cluster::start(NETDISK, ClusterPlan::default());
    let folder = Path::new(NETDISK).parent().unwrap().display().to_string();
    let script = format!(
        "set -eu\ncd {}\nexport PATH={folder}:$PATH NETDISK_SOCKET={}\n{}",
        cluster.folder().display(),
        cluster.admin_socket(3).display(),
        commands_of("The pool")
    );
    let ran = Program::at("/bin/sh").run(&["-c", &script]).expect_success();
    assert!(ran.out.contains("node3") && ran.out.contains("scratch is given back"), "{}", ran.out);
    let left: Vec<Value> = table(&cluster);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!((&left[0]["region"], &left[0]["state"]), (&Value::from("b"), &Value::from("free")));
}
