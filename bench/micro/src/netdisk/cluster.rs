//! A cluster of three nodes on this machine, joined by shared memory or TCP: a memory disk on the first, an
//! NBD server on the third, and the second only to vote.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench_harness::Worker;
use control_node::admin::{Request, ask};
use control_node::report::Status;

use super::cluster_node::ClusterNode;
use super::wiring::Carrier;
use crate::peers::{NbdServer, RunningNbdServer};
use crate::role::{Role, SUB_COMMAND};
use crate::scratch::ScratchFolder;

/// Nodes of the cluster.
const NODES: u16 = 3;
/// The node that clients connect to; it has no disk.
const NBD_NODE: u16 = 3;
/// Ports that the cluster may use, from its base on.
const PORTS: u16 = 64 * NODES;
/// Where the search for free ports begins: below the ports that the kernel hands out.
const PORT_BASE_MIN: u16 = 12_000;
const PORT_BASE_MAX: u16 = 30_000;
/// How long the nodes may take to agree on who is there and who serves the disk.
const START_WAIT_MAX: Duration = Duration::from_secs(30);
/// Between two looks at a node's status.
const START_LOOK_EVERY: Duration = Duration::from_millis(20);

/// Three running nodes. Dropping it kills them and removes their folder.
pub(crate) struct Cluster {
    workers: Vec<Worker>,
    folder: ScratchFolder,
}

impl Cluster {
    /// Starts all nodes and returns when each knows who serves the disk.
    ///
    /// # Errors
    /// A node cannot start, or they do not agree in time.
    pub(crate) fn start(carrier: Carrier, disk_bytes: u64) -> Result<Self> {
        let folder = ScratchFolder::create()?;
        let mut cluster = Self { workers: Vec::new(), folder };
        let config = cluster.path("cluster.toml");
        fs::write(cluster.path("cluster.key"), "bench-micro: a key for one turn on one machine\n")?;
        fs::write(&config, cluster.configuration(carrier, disk_bytes)?)?;
        for id in 1..=NODES {
            let state = cluster.path(&format!("node{id}"));
            let node = ClusterNode { config: config.clone(), id, state, socket: cluster.admin_socket(id) };
            cluster.workers.push(Worker::start(SUB_COMMAND, &Role::NetdiskNode(node))?);
        }
        for worker in &mut cluster.workers {
            let _ready: String = worker.hear()?;
        }
        (1..=NODES).try_for_each(|id| cluster.wait_until_served(id))?;
        Ok(cluster)
    }

    /// Process ids of the nodes.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.workers.iter().map(Worker::pid)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn admin_socket(&self, id: u16) -> PathBuf {
        self.path(&format!("node{id}.sock"))
    }

    fn nbd_socket(&self) -> PathBuf {
        self.path("nbd.sock")
    }

    fn configuration(&self, carrier: Carrier, disk_bytes: u64) -> Result<String> {
        let port_base = free_ports()?;
        let nodes: String = (1..=NODES).map(|id| format!("[[node]]\nid = {id}\n")).collect();
        let nbd = self.nbd_socket();
        Ok(format!(
            "[cluster]\nname = \"bench-micro\"\nkey_file = \"cluster.key\"\nport_base = {port_base}\n\
             {nodes}\
             [[link]]\nrails = [{{ kind = \"{}\" }}]\n\
             [[disk]]\nname = \"memory\"\nkind = \"memory\"\nnodes = [1]\n\
             [[virtual_disk]]\nname = \"vd\"\nsize = {disk_bytes}\ndisk = \"memory\"\n\
             [[nbd]]\nnode = {NBD_NODE}\nlisten = \"unix:{}\"\n",
            carrier.word(),
            nbd.display()
        ))
    }

    fn wait_until_served(&self, id: u16) -> Result<()> {
        let deadline = Instant::now() + START_WAIT_MAX;
        let socket = self.admin_socket(id);
        loop {
            let answer = ask(&socket, &Request::Status).with_context(|| format!("asking node {id}"))?;
            let status: Status = serde_json::from_value(answer).context("a node's status is not readable")?;
            let everyone = status.members.len() == usize::from(NODES);
            if everyone && status.virtual_disks.iter().all(|disk| disk.serving.is_some()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("node {id} knows nobody who serves the disk: {status:?}");
            }
            std::thread::sleep(START_LOOK_EVERY);
        }
    }
}

/// The base of a range of ports of which none is in use now.
fn free_ports() -> Result<u16> {
    let is_free = |port| {
        let address = (Ipv4Addr::LOCALHOST, port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    // Several benches on one machine begin their search at different places.
    let span = PORT_BASE_MAX - PORT_BASE_MIN;
    let first = (std::process::id() % u32::from(span)) as u16;
    let bases = (0..span / PORTS).map(|step| PORT_BASE_MIN + (first + step * PORTS) % span);
    let mut free = bases.filter(|base| (*base..*base + PORTS).all(is_free));
    free.next().with_context(|| format!("no {PORTS} ports in a row are free"))
}

/// The cluster as an NBD server for fio: the client's node reaches the disk over shared memory.
#[derive(Debug)]
pub(crate) struct ClusterWithNbd {
    /// What joins the nodes.
    pub(crate) carrier: Carrier,
    /// Bytes of the disk.
    pub(crate) disk_bytes: u64,
}

impl NbdServer for ClusterWithNbd {
    fn name(&self) -> String {
        format!("netdisk, node to node over {}", self.carrier.word())
    }

    fn start(&self) -> Result<Box<dyn RunningNbdServer>> {
        Ok(Box::new(Cluster::start(self.carrier, self.disk_bytes)?))
    }
}

impl RunningNbdServer for Cluster {
    fn uri(&self) -> String {
        format!("nbd+unix:///vd?socket={}", self.nbd_socket().display())
    }
}
