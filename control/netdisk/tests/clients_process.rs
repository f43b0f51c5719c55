//! Other people's NBD clients against the export of a node that holds no disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use fixtures_lab::{Cluster, ClusterPlan, NbdClient, NbdFault, Program};
use std::path::Path;

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// The node without a disk.
const FAR: u16 = 3;
const DISK_BYTES: u64 = 64 << 20;

fn cluster() -> Cluster {
    Cluster::start(NETDISK, ClusterPlan { disk_bytes: DISK_BYTES, ..ClusterPlan::default() })
}

/// A file of the disk's size that no compression or zero detection makes easy, with holes in it.
fn picture(path: &Path) {
    let mut state: u64 = 7;
    let mut bytes = vec![0_u8; DISK_BYTES as usize];
    for (number, chunk) in bytes.chunks_mut(8).enumerate() {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        // Every eighth MiB stays zero.
        if (number >> 17) % 8 != 3 {
            chunk.copy_from_slice(&(state >> 1).to_le_bytes());
        }
    }
    std::fs::write(path, bytes).unwrap();
}

fn sha256(path: &Path) -> String {
    let sum = Program::find("sha256sum").unwrap().succeed(&[path]);
    sum.out.split_whitespace().next().unwrap().to_owned()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

// proves: B1 B13
#[test]
fn nbdinfo_shows_size_and_abilities_of_a_disk_that_is_elsewhere() {
    let Some(nbdinfo) = Program::find("nbdinfo") else { return };
    let cluster = cluster();
    let told = nbdinfo.succeed(&["--json", &cluster.nbd_uri(FAR)]).out;
    let export: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(export["protocol"], "newstyle-fixed");
    assert_eq!(export["structured"], true);
    let export = &export["exports"][0];
    assert_eq!(export["export-size"], DISK_BYTES);
    for ability in ["can_fua", "can_flush", "can_trim", "can_zero", "can_multi_conn"] {
        assert_eq!(export[ability], true, "{ability} in {told}");
    }
    assert_eq!(export["is_read_only"], false);
    let list = nbdinfo.succeed(&["--list", "--json", &cluster.nbd_uri(FAR)]).out;
    assert!(list.contains("\"vd0\""), "{list}");
    let unknown = format!("nbd+unix:///nothing?socket={}", cluster.nbd_socket(FAR).display());
    nbdinfo.run(&[unknown]).expect_refusal();
}

// proves: B1 B11 B13
#[test]
fn nbdcopy_brings_back_what_it_took_there() {
    let Some(nbdcopy) = Program::find("nbdcopy") else { return };
    let cluster = cluster();
    let (there, back) = (cluster.folder().join("there"), cluster.folder().join("back"));
    picture(&there);
    let uri = cluster.nbd_uri(FAR);
    nbdcopy.succeed(&["--flush", &text(&there), &uri]);
    nbdcopy.succeed(&[&uri, &text(&back)]);
    assert_eq!(sha256(&there), sha256(&back));
    let status = cluster.status(FAR).unwrap();
    assert_eq!(status.driver.failed, 0);
    assert!(status.disks.is_empty(), "the node is to have no disk: {:?}", status.disks);
}

// proves: B1 B11 B13
#[test]
fn qemu_img_converts_there_and_back() {
    let Some(qemu_img) = Program::find("qemu-img") else { return };
    let cluster = cluster();
    let (there, back) = (cluster.folder().join("there"), cluster.folder().join("back"));
    picture(&there);
    let uri = cluster.nbd_uri(FAR);
    qemu_img.succeed(&["convert", "-n", "-f", "raw", "-O", "raw", &text(&there), &uri]);
    qemu_img.succeed(&["compare", "-f", "raw", "-F", "raw", &text(&there), &uri]);
    qemu_img.succeed(&["convert", "-f", "raw", "-O", "raw", &uri, &text(&back)]);
    assert_eq!(sha256(&there), sha256(&back));
}

// proves: B11 B13
#[test]
fn qemu_io_writes_with_fua_discards_and_zeroes() {
    let Some(qemu_io) = Program::find("qemu-io") else { return };
    let cluster = cluster();
    let uri = cluster.nbd_uri(FAR);
    let run = |orders: &[&str]| {
        let mut words = vec!["-f", "raw", "-d", "unmap", "-t", "none"];
        orders.iter().for_each(|order| words.extend(["-c", order]));
        words.push(&uri);
        let ran = qemu_io.succeed(&words);
        let said = ran.out + &ran.err;
        assert!(!said.contains("failed") && !said.contains("error"), "{orders:?}: {said}");
    };
    run(&["write -f -P 0xa5 0 1M", "read -P 0xa5 0 1M"]);
    // Not aligned to the block: what is around it must stay.
    run(&["write -P 0x11 512 1024", "read -P 0x11 512 1024", "read -P 0xa5 0 512", "read -P 0xa5 1536 64k"]);
    run(&["write -z -f 64k 64k", "read -P 0 64k 64k", "read -P 0xa5 128k 64k"]);
    run(&["write -z -u 256k 64k", "read -P 0 256k 64k"]);
    run(&["discard 512k 128k", "flush", "read -P 0xa5 768k 64k"]);
    run(&["write -P 0x77 67104768 4096", "read -P 0x77 67104768 4096"]);
}

// proves: B11 B13
#[test]
fn a_request_past_the_end_is_refused_with_its_errno_and_the_connection_goes_on() {
    let cluster = cluster();
    let mut client = NbdClient::open(&cluster.nbd_socket(FAR), "vd0").unwrap();
    let mut room = [0; 4096];
    let end = client.size_bytes();
    assert_eq!(end, DISK_BYTES);
    let read = client.read(end, &mut room);
    assert!(matches!(read, Err(NbdFault::Refused(22))), "EINVAL is due, but {read:?}");
    let write = client.write(end - 2048, &[1; 4096], false);
    assert!(matches!(write, Err(NbdFault::Refused(28))), "ENOSPC is due, but {write:?}");
    client.write(end - 4096, &[2; 4096], true).unwrap();
    client.read(end - 4096, &mut room).unwrap();
    assert_eq!(room, [2; 4096]);
}

// proves: B1 B11 B13
#[test]
fn fio_finds_every_checksum_that_it_wrote() {
    let Some(fio) = Program::find("fio") else { return };
    let cluster = cluster();
    let words =
        ["--rw=randwrite", "--bsrange=4k-256k", "--iodepth=16", "--size=48M", "--fsync=64", "--do_verify=1"];
    let ran = cluster.start_fio(&fio, FAR, &words).wait().expect_success();
    assert!(ran.out.contains("err= 0"), "{}", ran.out);
    assert_eq!(cluster.status(FAR).unwrap().driver.failed, 0);
}
