//! A node inside a program: the library surface for applications that want the cluster's disks without a
//! daemon.

use crate::node::{Ended, Node};
use crate::options::{NodeOptions, NodeRefusal};
use blockdev_engine::{Library, OpenRefusal, VirtualDisk};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

/// A node of the cluster that runs on a thread of this process. Stops when dropped.
///
/// ```no_run
/// use control_node::{EmbeddedNode, NodeOptions, config::Config};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::load("cluster.toml".as_ref())?;
/// let node = EmbeddedNode::start(NodeOptions::new(config, 3, "/var/lib/app/netdisk".into()))?;
/// let disk = node.open("vd0")?;
/// disk.write(0, std::sync::Arc::new(vec![7; 4096])).wait()?;
/// let bytes = disk.read(0, 4096).wait()?;
/// # Ok(())
/// # }
/// ```
pub struct EmbeddedNode {
    library: Library,
    stop: Arc<AtomicBool>,
    waker: Arc<mio::Waker>,
    thread: Option<JoinHandle<io::Result<Ended>>>,
}

impl EmbeddedNode {
    /// Starts the node on a thread of its own.
    pub fn start(options: NodeOptions) -> Result<EmbeddedNode, NodeRefusal> {
        let (tell, told) = sync_channel(1);
        let thread = std::thread::Builder::new().name("netdisk-node".into()).spawn(move || {
            let node = match Node::start(options) {
                Ok(node) => node,
                Err(refusal) => {
                    // Whoever waits for the word gave up only if its own thread is gone.
                    let _ = tell.send(Err(refusal));
                    return Ok(Ended::Stopped);
                }
            };
            let _ = tell.send(Ok((node.library(), node.stop_flag(), node.waker())));
            node.run()
        })?;
        let started =
            told.recv().map_err(|_| io::Error::other("the node's thread ended before it started"))?;
        let (library, stop, waker) = started?;
        Ok(EmbeddedNode { library, stop, waker, thread: Some(thread) })
    }

    /// Opens a virtual disk by name, if its permissions let this process. Requests wait until a node serves
    /// it.
    pub fn open(&self, name: &str) -> Result<VirtualDisk, OpenRefusal> {
        self.library.open(name)
    }

    /// Stops the node and waits for its end.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake()?;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended.map(|_| ()),
            Some(Err(_)) => Err(io::Error::other("the node's thread panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for EmbeddedNode {
    fn drop(&mut self) {
        if self.thread.is_some()
            && let Err(error) = self.end()
        {
            tracing::error!("the node did not stop in order: {error}");
        }
    }
}
