//! Clients that others wrote, against the server with a disk in memory: libnbd's tools, qemu's and fio.
//! A tool that is not installed is skipped, loudly.

#![allow(clippy::unwrap_used, reason = "a test fails where it finds the unexpected")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use blockdev_nbd::memory::{MemoryDisk, MemoryReactor, MemoryService, StopSwitch};
use blockdev_nbd::{ListenAddress, NbdConfig};
use support::client::{socket_path, unix_config};

const MIB: u64 = 1 << 20;

/// A server thread that ends with the test.
struct Server {
    switch: StopSwitch,
    thread: Option<JoinHandle<MemoryCounts>>,
    uri: String,
}

/// What the service counted.
struct MemoryCounts {
    flushes: u64,
    fua_operations: u64,
}

impl Server {
    fn start(config: NbdConfig, disks: Vec<MemoryDisk>, uri: impl FnOnce(&ListenAddress) -> String) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let spin = Duration::from_micros(50);
            let mut reactor = MemoryReactor::new(config, MemoryService::new(disks), spin).unwrap();
            let address = reactor.server.addresses().next().unwrap().clone();
            sender.send((reactor.stop_switch(), address)).unwrap();
            reactor.run().unwrap();
            let service = &reactor.service;
            MemoryCounts { flushes: service.flushes, fua_operations: service.fua_operations }
        });
        let (switch, address) = receiver.recv().unwrap();
        Self { switch, thread: Some(thread), uri: uri(&address) }
    }

    /// A server of one disk on a UNIX socket.
    fn on_unix(name: &str, disk: MemoryDisk) -> Self {
        let path = socket_path(name);
        let export = disk.name.clone();
        Self::start(unix_config(&path), vec![disk], |_| {
            format!("nbd+unix:///{export}?socket={}", path.display())
        })
    }

    fn stop(mut self) -> MemoryCounts {
        self.switch.stop().unwrap();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.switch.stop();
            let _ = thread.join();
        }
    }
}

fn is_installed(tool: &str) -> bool {
    let found = Command::new("which").arg(tool).output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: {tool} is not installed");
    }
    found
}

/// Runs a tool and gives what it said; a failure fails the test.
fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new("timeout").arg("120").arg(tool).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?} failed: {text} {errors}");
    text
}

/// A file of bytes that repeat nowhere near.
fn sample(name: &str, bytes: u64) -> PathBuf {
    let path = socket_path(name).with_extension("bin");
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let content: Vec<u8> = (0..bytes / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    fs::write(&path, content).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

// proves: B13
#[test]
fn nbdinfo_sees_the_exports_as_they_are() {
    if !is_installed("nbdinfo") {
        return;
    }
    let disk = MemoryDisk { block_bytes: 4096, ..MemoryDisk::new("disk", 64 * MIB) };
    let server = Server::on_unix("nbdinfo", disk);
    let info = run("nbdinfo", &[&server.uri]);
    for line in [
        "protocol: newstyle-fixed without TLS, using structured packets",
        "export-size: 67108864",
        "base:allocation",
        "can_df: true",
        "can_fast_zero: true",
        "can_flush: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "can_cache: false",
        "is_read_only: false",
        "block_size_minimum: 4096",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(info.contains(line), "no {line:?} in {info}");
    }
    let list = run("nbdinfo", &["--list", &server.uri]);
    assert!(list.contains("export=\"disk\"") && list.contains("a disk in memory"), "{list}");
    let map = run("nbdinfo", &["--map", &server.uri]);
    assert!(map.contains("hole,zero"), "{map}");
}

// proves: B13
#[test]
fn nbdcopy_takes_a_file_there_and_back() {
    if !is_installed("nbdcopy") {
        return;
    }
    let server = Server::on_unix("nbdcopy", MemoryDisk::new("disk", 24 * MIB));
    let (there, back) = (sample("there", 24 * MIB), socket_path("back").with_extension("bin"));
    run("nbdcopy", &["--flush", text(&there), &server.uri]);
    run("nbdcopy", &[&server.uri, text(&back)]);
    assert!(fs::read(&there).unwrap() == fs::read(&back).unwrap(), "the copy differs");
    fs::remove_file(there).unwrap();
    fs::remove_file(back).unwrap();
    assert!(server.stop().flushes > 0);
}

// proves: B13
#[test]
fn qemu_img_converts_over_tcp_and_compares_equal() {
    if !is_installed("qemu-img") {
        return;
    }
    let listen = vec![ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())];
    let config = NbdConfig { listen, ..NbdConfig::default() };
    let server = Server::start(config, vec![MemoryDisk::new("disk", 24 * MIB)], |address| match address {
        ListenAddress::Tcp(address) => format!("nbd://{address}/disk"),
        ListenAddress::Unix { .. } => unreachable!("the server listens on TCP"),
    });
    let image = sample("image", 24 * MIB);
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", text(&image), &server.uri]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&image), &server.uri]);
    fs::remove_file(image).unwrap();
}

// proves: B11 B13
#[test]
fn qemu_io_writes_with_fua_discards_and_zeroes() {
    if !is_installed("qemu-io") {
        return;
    }
    let server = Server::on_unix("qemuio", MemoryDisk::new("disk", 16 * MIB));
    let output = run(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-t",
            "none",
            "-c",
            "write -f -P 17 4096 65536",
            "-c",
            "read -P 17 4096 65536",
            "-c",
            "write -z 8192 4096",
            "-c",
            "read -P 0 8192 4096",
            "-c",
            "write -z -u 1M 1M",
            "-c",
            "discard 2M 1M",
            "-c",
            "read -P 0 1M 1M",
            "-c",
            "flush",
            &server.uri,
        ],
    );
    assert!(!output.contains("Pattern verification failed") && !output.contains("error"), "{output}");
    let counts = server.stop();
    assert!(counts.fua_operations >= 1 && counts.flushes >= 1);
}

// proves: B13
#[test]
fn qemu_io_is_refused_writes_to_a_read_only_export() {
    if !is_installed("qemu-io") {
        return;
    }
    let disk = MemoryDisk { read_only: true, ..MemoryDisk::new("disk", 16 * MIB) };
    let server = Server::on_unix("readonly", disk);
    run("qemu-io", &["-r", "-f", "raw", "-c", "read 0 4096", &server.uri]);
    let write =
        Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 4096", &server.uri]).output().unwrap();
    assert!(!write.status.success());
}

// proves: B11 B13
#[test]
fn fio_verifies_what_it_wrote_at_depth() {
    if !is_installed("fio") {
        return;
    }
    let server = Server::on_unix("fio", MemoryDisk::new("disk", 16 * MIB));
    let uri = format!("--uri={}", server.uri);
    let output = run(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            "--bsrange=4k-128k",
            "--iodepth=32",
            "--size=16M",
            "--io_size=32M",
            "--verify=crc32c",
            "--verify_backlog=64",
            "--verify_state_save=0",
            "--fsync=50",
            "--output-format=terse",
        ],
    );
    assert!(!output.contains("verify:"), "{output}");
    assert!(server.stop().flushes > 0);
}
