//! The library surface: two nodes in this process, a disk at one of them, requests from plain threads at
//! both.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use blockdev_engine::{IoError, VirtualDisk};
use control_node::config::Config;
use control_node::{EmbeddedNode, NodeOptions};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

fn config(port_base: u16) -> Config {
    let text = format!(
        r#"
[cluster]
name = "library-{}-{port_base}"
key = "a secret of at least sixteen bytes"
port_base = {port_base}
[[node]]
id = 1
[[node]]
id = 2
[[link]]
nodes = "all"
rails = [{{ kind = "shm" }}, {{ kind = "tcp" }}]
[[disk]]
name = "scratch"
kind = "memory"
nodes = [1]
[[virtual_disk]]
name = "vd0"
size = "16MiB"
disk = "scratch"
"#,
        std::process::id()
    );
    Config::parse(&PathBuf::from("library.toml"), &text).unwrap()
}

fn two_nodes(port_base: u16) -> [EmbeddedNode; 2] {
    let config = config(port_base);
    [1, 2].map(|id| {
        let state =
            std::env::temp_dir().join(format!("netdisk-library-{}-{port_base}-{id}", std::process::id()));
        EmbeddedNode::start(NodeOptions::new(config.clone(), id, state)).unwrap()
    })
}

/// The smallest executor: polls on this thread, parks in between.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = Box::pin(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn pattern(seed: u8) -> Arc<Vec<u8>> {
    Arc::new((0..8192).map(|at: usize| (at as u8).wrapping_mul(3).wrapping_add(seed)).collect())
}

fn exercise(disk: &VirtualDisk, seed: u8) {
    let offset = u64::from(seed) * 8192;
    disk.write(offset, pattern(seed)).wait().unwrap();
    let read = block_on(disk.read(offset, 8192)).unwrap().unwrap();
    assert_eq!(read.as_ref(), pattern(seed).as_slice());
    block_on(disk.flush()).unwrap();
}

// proves: B1 B13
#[test]
fn any_thread_reads_and_writes_a_virtual_disk_of_any_node_by_futures_or_by_waiting() {
    let nodes = two_nodes(27_400);
    let threads: Vec<_> = (0..6)
        .map(|seed| {
            let disk = nodes[usize::from(seed % 2)].open("vd0").unwrap();
            std::thread::spawn(move || (0..20).for_each(|_| exercise(&disk, seed)))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let disk = nodes[1].open("vd0").unwrap();
    assert!(matches!(disk.read(disk.size_bytes(), 4096).wait(), Err(IoError::Disk(_))));
    assert!(nodes[0].open("vd9").is_err());
}

// proves: B13
#[test]
fn a_stopped_node_fails_requests_instead_of_losing_them() {
    let [one, two] = two_nodes(27_600);
    let disk = two.open("vd0").unwrap();
    exercise(&disk, 1);
    two.stop().unwrap();
    assert_eq!(disk.read(0, 4096).wait().err(), Some(IoError::Stopped));
    drop(one);
}
