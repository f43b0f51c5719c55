//! Mistakes and mishaps at the start of a node: it does not start, names the place and says what to do; nodes
//! that run already live on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use fixtures_lab::{Cluster, ClusterPlan, Folder, Load, Program, until};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a disk, with the NBD server.
const FAR: u16 = 3;

fn prepared() -> Cluster {
    Cluster::prepare(NETDISK, ClusterPlan::default())
}

/// Node 1's refusal under a configuration with these lines more.
fn refusal_of(more: &str) -> String {
    let plan = ClusterPlan { more: more.into(), ..ClusterPlan::default() };
    let cluster = Cluster::prepare(NETDISK, plan);
    let said = cluster.refused_start(1);
    let file = cluster.config().display().to_string();
    assert!(said.contains(&format!("{file}:")), "no place in the file: {said}");
    said
}

#[track_caller]
fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    says(&refusal_of("[heartbeat]\nperiod_ns = 3\n"), &["unknown field `period_ns`", "period_ms"]);
}

#[test]
fn a_duplicate_node_is_named_with_the_line_of_the_first() {
    says(&refusal_of("[[node]]\nid = 1\n"), &["node 1 is already in line", "another id"]);
}

#[test]
fn a_port_used_twice_is_named_with_its_user() {
    let cluster = prepared();
    let port = cluster.rail_port(1, 0, 1);
    cluster
        .configure_node(1, |text| format!("{text}\n[[nbd]]\nnode = 1\nlisten = \"tcp:127.0.0.1:{port}\"\n"));
    says(&cluster.refused_start(1), &[&port.to_string(), "is used already by", "another port"]);
}

#[test]
fn one_file_as_two_disks_is_refused() {
    let cluster = prepared();
    cluster.configure_node(1, |text| {
        let path = cluster.image().display().to_string();
        format!(
            "{text}\n[[disk]]\nname = \"again\"\nnodes = [1]\npath = \"{path}\"\n\n\
             [[virtual_disk]]\nname = \"vd1\"\nsize = \"1MiB\"\ndisk = \"again\"\n"
        )
    });
    says(&cluster.refused_start(1), &["is also the disk in line", "declare it once"]);
}

#[test]
fn a_configuration_that_is_not_there_and_a_node_that_is_not_in_it_are_refused() {
    let cluster = prepared();
    let config = cluster.config().display().to_string();
    let state = cluster.folder().join("state").display().to_string();
    let said =
        cluster.netdisk(&["node", "--config", &config, "--id", "9", "--state", &state]).expect_refusal();
    says(&said, &["node 9 is not in this configuration", "1, 2, 3", "--id"]);
    let said = cluster.netdisk(&["node", "--config", "/nowhere/c.toml", "--id", "1"]).expect_refusal();
    says(&said, &["/nowhere/c.toml", "cannot read the configuration", "check the path"]);
}

// proves: B1
#[test]
fn a_disk_that_is_missing_too_short_or_foreign_is_named_with_the_remedy() {
    let cluster = prepared();
    let image = cluster.image();
    let path = image.display().to_string();
    std::fs::remove_file(&image).unwrap();
    says(&cluster.refused_start(1), &["there is no disk at", &path, "netdisk disk create"]);
    std::fs::write(&image, b"short").unwrap();
    says(&cluster.refused_start(1), &[&path, "5 bytes", "netdisk disk create --force"]);
    std::fs::File::create(&image).unwrap().set_len(80 << 20).unwrap();
    says(&cluster.refused_start(1), &[&path, "is not a netdisk disk", "format it"]);
    // Of netdisk, but smaller than the virtual disk.
    std::fs::remove_file(&image).unwrap();
    cluster.make_disk(&image, 1 << 20);
    says(&cluster.refused_start(1), &[&path]);
    // Cut after it was formatted.
    std::fs::remove_file(&image).unwrap();
    cluster.make_disk(&image, 64 << 20);
    std::fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(30 << 20).unwrap();
    says(&cluster.refused_start(1), &[&path, "netdisk disk create --force"]);
    let folder = cluster.folder().display().to_string();
    cluster.configure_node(1, |text| text.replace(&path, &folder));
    says(&cluster.refused_start(1), &[&folder, "neither a file nor a block device"]);
}

/// A file system of its own in a folder; taken away when dropped.
struct Mount {
    folder: Folder,
    umount: Program,
}

impl Mount {
    fn new() -> Option<Mount> {
        let (mount, umount) = (Program::find("mount")?, Program::find("umount")?);
        let folder = Folder::new();
        let path = folder.path().display().to_string();
        if !mount.run(&["-t", "tmpfs", "-o", "size=128m", "netdisk-lab", &path]).status.success() {
            fixtures_lab::skipped("no file system can be mounted here (it needs root)");
            return None;
        }
        Some(Mount { folder, umount })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.umount.run(&[self.path()]);
    }
}

#[test]
fn a_disk_on_a_read_only_file_system_is_named_with_the_remedy() {
    let Some(mount) = Mount::new() else { return };
    let cluster = prepared();
    let image = mount.path().join("shelf.img");
    cluster.make_disk(&image, 64 << 20);
    let (old, new) = (cluster.image().display().to_string(), image.display().to_string());
    cluster.configure_node(1, |text| text.replace(&old, &new));
    let path = mount.path().display().to_string();
    Program::find("mount").unwrap().succeed(&["-o", "remount,ro", &path]);
    says(&cluster.refused_start(1), &[&new, "read-only file system", "remount it writable"]);
}

#[test]
fn ports_and_sockets_in_use_are_named_with_the_remedy_and_free_ones_are_taken() {
    let mut cluster = prepared();
    let port = cluster.rail_port(1, 0, 1);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    says(&cluster.refused_start(1), &[&format!("127.0.0.1:{port}"), "in use"]);
    drop(taken);
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, port + 1)).unwrap();
    says(&cluster.refused_start(1), &[&format!("127.0.0.1:{}", port + 1), "in use"]);
    drop(taken);
    let taken = UnixListener::bind(cluster.nbd_socket(FAR)).unwrap();
    let path = cluster.nbd_socket(FAR).display().to_string();
    says(&cluster.refused_start(FAR), &[&path, "in use"]);
    assert!(cluster.nbd_socket(FAR).exists(), "the socket of a live process was removed");
    // Its file stays behind, as after a kill: stale, so it is replaced.
    drop(taken);
    let admin = UnixListener::bind(cluster.admin_socket(FAR)).unwrap();
    let path = cluster.admin_socket(FAR).display().to_string();
    says(&cluster.refused_start(FAR), &[&path, "in use"]);
    assert!(cluster.admin_socket(FAR).exists(), "the socket of a live process was removed");
    drop(admin);
    cluster.ids().for_each(|id| cluster.start_node(id));
    cluster.until_whole();
}

// proves: B13
#[test]
fn a_file_that_is_no_socket_is_never_replaced_by_one() {
    let cluster = prepared();
    let precious: [PathBuf; 2] = [cluster.admin_socket(FAR), cluster.nbd_socket(FAR)];
    for path in precious {
        std::fs::write(&path, b"precious").unwrap();
        says(&cluster.refused_start(FAR), &[&path.display().to_string()]);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious", "{} was overwritten", path.display());
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_state_folder_that_cannot_be_used_and_a_damaged_genesis_are_named_with_the_remedy() {
    let cluster = prepared();
    let state = cluster.folder().join("state1");
    std::fs::write(&state, b"a file").unwrap();
    says(&cluster.refused_start(1), &[&state.display().to_string(), "--state"]);
    std::fs::remove_file(&state).unwrap();
    std::fs::create_dir(&state).unwrap();
    let path = state.join("genesis");
    std::fs::write(&path, b"ndgenes\0\x01\0 and then nonsense").unwrap();
    says(&cluster.refused_start(1), &["genesis", "damaged", "put a copy of it back", "netdisk join"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"ndgenes\0\x01\0 and then nonsense", "it was overwritten");
    std::fs::write(&path, b"somebody's notes").unwrap();
    says(&cluster.refused_start(1), &["genesis", "not a file of netdisk", "another folder"]);
}

// proves: C1
#[test]
fn a_log_that_is_damaged_or_anothers_is_refused_and_left_alone() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    cluster.ids().for_each(|id| cluster.stop_node(id));
    let of = |id: u16| cluster.folder().join(format!("state{id}"));
    let log = |id: u16| {
        let files = std::fs::read_dir(of(id).join("raft")).unwrap();
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
        files.pop().unwrap()
    };
    let (path, sound) = (log(1), std::fs::read(log(1)).unwrap());
    let mut damaged = sound.clone();
    damaged[..512].fill(0xee);
    std::fs::write(&path, &damaged).unwrap();
    says(&cluster.refused_start(1), &[&path.display().to_string()]);
    assert!(std::fs::read(&path).unwrap() == damaged, "it was overwritten");
    std::fs::write(&path, &sound).unwrap();
    // A state folder of another node.
    std::fs::rename(of(2), of(9)).unwrap();
    std::fs::rename(of(1), of(2)).unwrap();
    says(&cluster.refused_start(2), &["is of node 1, not of node 2", "--state"]);
    std::fs::rename(of(2), of(1)).unwrap();
    std::fs::rename(of(9), of(2)).unwrap();
    cluster.ids().for_each(|id| cluster.start_node(id));
    cluster.until_whole();
}

#[test]
fn a_configuration_that_was_edited_after_the_start_is_not_read_and_the_node_says_so() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    cluster.stop_node(2);
    cluster.configure_node(2, |text| text.replace("name = \"vd0\"", "name = \"vd7\""));
    cluster.start_node(2);
    cluster.until_whole();
    assert_eq!(cluster.status(2).unwrap().virtual_disks[0].name, "vd0");
    assert!(cluster.log(2).contains("is not read any more"), "{}", cluster.log(2));
}

// proves: B5
#[test]
fn a_second_process_of_a_running_node_is_refused_and_the_first_works_on() {
    let mut cluster = Cluster::start(NETDISK, ClusterPlan::default());
    let socket = cluster.nbd_socket(FAR);
    let before = cluster.status(1).unwrap().epoch;
    let load = Load::start(&socket, 2, 0..512);
    for id in cluster.ids() {
        says(&cluster.refused_start(id), &["in use"]);
    }
    load.goes_on(200);
    assert_eq!(cluster.until_whole(), 1);
    assert_eq!(cluster.status(1).unwrap().epoch, before, "the refused ones disturbed the cluster");
    load.finish().verify(&socket);
    until("sockets are still there", || cluster.admin_socket(1).exists().then_some(()));
}
