//! The three nodes of the demo: processes of this very program, which never outlive it.

use super::folder::Folders;
use super::interrupt::Interrupt;
use super::place::Place;
use crate::table::disk::uuid;
use anyhow::{Context, bail, ensure};
use blockdev_store::{NewDisk, create};
use control_node::admin::{Request, ask};
use control_node::report::Status;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Nodes A, B and C.
pub(super) const NODES: [NodeNumber; 3] = [NodeNumber(1), NodeNumber(2), NodeNumber(3)];
/// The node that clients connect to; it reaches no disk.
pub(super) const C: NodeNumber = NodeNumber(3);
/// The virtual disk.
pub(super) const EXPORT: &str = "vd0";
/// Rails between two nodes.
const RAILS: usize = 4;

/// Ports of one node, as the configuration derives them.
const PORTS_PER_NODE: u16 = 64;
const PORTS: u16 = PORTS_PER_NODE * NODES.len() as u16;
/// Where the search for free ports begins: below the ports that the kernel hands out.
const PORT_BASE_MIN: u16 = 12_000;
const PORT_BASE_MAX: u16 = 30_000;
/// Between two looks at a node.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the cluster may take to do what it is waited for, on a slow and busy machine.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(120);
/// Lines of a node's log that a failure shows.
const TAIL_LINES: usize = 12;

/// A node by its number in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeNumber(pub(super) u16);

impl NodeNumber {
    /// A, B or C.
    pub(super) fn letter(self) -> char {
        char::from(b'A' - 1 + self.0 as u8)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0) - 1
    }

    /// The other node that reaches the disk.
    pub(super) fn twin(self) -> NodeNumber {
        NodeNumber(3 - self.0)
    }
}

/// One node: running, or reaped.
struct NodeProcess {
    child: Child,
    log: PathBuf,
    socket: PathBuf,
    ended: Option<ExitStatus>,
}

/// The nodes. Dropping it kills what still runs and reaps it.
pub(super) struct Cluster {
    nodes: Vec<NodeProcess>,
    nbd: [PathBuf; 3],
    config: PathBuf,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.ended.is_none()) {
            // Both fail only if the process is gone, which is what they are for.
            let _ = node.child.kill();
            let _ = node.child.wait();
        }
    }
}

impl Cluster {
    /// Makes the disk and starts the nodes; they may still be on their way when this returns.
    pub(super) fn start(folders: &Folders, place: &Place, disk_bytes: u64) -> anyhow::Result<Cluster> {
        let disk = folders.file("shelf.img");
        let new = NewDisk {
            data_bytes: Some(disk_bytes),
            block_bytes: 4096,
            uuid: uuid()?,
            sparse: true,
            force: true,
        };
        create(&disk, &new).context("cannot make the demo's disk")?;
        let nbd = NODES.map(|node| folders.socket(&format!("nbd-{}.sock", node.letter())));
        let config = folders.file("cluster.toml");
        std::fs::write(&config, configuration(place, &disk, disk_bytes, &nbd)?)?;
        let mut cluster = Cluster { nodes: Vec::new(), nbd, config: config.clone() };
        for node in NODES {
            cluster.nodes.push(NodeProcess::start(node, place, folders, &config)?);
        }
        Ok(cluster)
    }

    /// Where a node serves NBD.
    pub(super) fn nbd_socket(&self, node: NodeNumber) -> &Path {
        &self.nbd[node.index()]
    }

    /// What a node tells; an error when it has ended. `None`: it does not answer yet.
    pub(super) fn status(&mut self, node: NodeNumber) -> anyhow::Result<Option<Status>> {
        self.check()?;
        match ask(&self.nodes[node.index()].socket, &Request::Status) {
            Ok(answer) if answer.get("error").is_some() => Ok(None),
            Ok(answer) => {
                Ok(Some(serde_json::from_value(answer).context("a node's status is not readable")?))
            }
            Err(_) => Ok(None),
        }
    }

    /// Cuts a rail at a node.
    pub(super) fn cut_rail(&self, node: NodeNumber, link: u8, rail: u8) -> anyhow::Result<()> {
        let socket = &self.nodes[node.index()].socket;
        crate::daemon::request(socket, &Request::CutRail { link, rail })?;
        Ok(())
    }

    /// Waits for a node to be in a state.
    pub(super) fn wait_for(
        &mut self,
        node: NodeNumber,
        what: &str,
        interrupt: &Interrupt,
        condition: impl Fn(&Status) -> bool,
    ) -> anyhow::Result<Status> {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            interrupt.check()?;
            let status = self.status(node)?;
            let seen = match status {
                Some(status) if condition(&status) => return Ok(status),
                Some(status) => control_node::report::text(&status),
                None => "no answer by its admin socket".to_owned(),
            };
            if Instant::now() > deadline {
                let (letter, limit) = (node.letter(), WAIT_MAX.as_secs());
                bail!("node {letter} did not get so far within {limit} s: {what}. It tells:\n{seen}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Kills a node as a power cut would, and returns when it is dead.
    pub(super) fn kill(&mut self, node: NodeNumber) -> anyhow::Result<()> {
        let process = &mut self.nodes[node.index()];
        process.child.kill().context("cannot kill a node")?;
        process.ended = Some(process.child.wait()?);
        Ok(())
    }

    /// Sends a node a signal.
    pub(super) fn signal(&self, node: NodeNumber, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.nodes[node.index()].child.id() as i32).context("a process has an id")?;
        kill_process(pid, signal).context("cannot signal a node")
    }

    /// Waits for the end of a node that is to end.
    pub(super) fn await_end(&mut self, node: NodeNumber, interrupt: &Interrupt) -> anyhow::Result<()> {
        let deadline = Instant::now() + WAIT_MAX;
        let process = &mut self.nodes[node.index()];
        while process.ended.is_none() {
            interrupt.check()?;
            process.ended = process.child.try_wait()?;
            if process.ended.is_none() {
                ensure!(Instant::now() < deadline, "node {} does not end", node.letter());
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    /// Starts a node that has ended, in its place.
    pub(super) fn restart(
        &mut self,
        node: NodeNumber,
        place: &Place,
        folders: &Folders,
    ) -> anyhow::Result<()> {
        ensure!(self.nodes[node.index()].ended.is_some(), "node {} runs", node.letter());
        self.nodes[node.index()] = NodeProcess::start(node, place, folders, &self.config)?;
        Ok(())
    }

    /// The admin socket of a node.
    pub(super) fn admin_socket(&self, node: NodeNumber) -> &Path {
        &self.nodes[node.index()].socket
    }

    /// Asks all nodes that run to stop, by SIGTERM, and waits for them. Complaints about those that end
    /// badly.
    pub(super) fn stop(&mut self, interrupt: &Interrupt) -> anyhow::Result<Vec<String>> {
        let mut complaints = Vec::new();
        for process in self.nodes.iter().filter(|process| process.ended.is_none()) {
            let pid = Pid::from_raw(process.child.id() as i32).context("a process has an id")?;
            kill_process(pid, Signal::TERM).context("cannot signal a node")?;
        }
        let deadline = Instant::now() + WAIT_MAX;
        for (process, node) in self.nodes.iter_mut().zip(NODES) {
            while process.ended.is_none() {
                interrupt.check()?;
                process.ended = process.child.try_wait()?;
                match process.ended {
                    Some(status) if !status.success() => {
                        complaints.push(format!("node {} stopped with {status}", node.letter()));
                    }
                    Some(_) => {}
                    None if Instant::now() > deadline => {
                        complaints.push(format!("node {} did not stop", node.letter()));
                        break;
                    }
                    None => std::thread::sleep(LOOK_EVERY),
                }
            }
        }
        Ok(complaints)
    }

    /// An error if a node has ended that should run.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for (process, node) in self.nodes.iter_mut().zip(NODES) {
            if process.ended.is_none() {
                process.ended = process.child.try_wait()?;
                if let Some(status) = process.ended {
                    bail!("node {} ended by itself with {status}", node.letter());
                }
            }
        }
        Ok(())
    }

    /// The ends of the nodes' logs, for a person who looks for a cause.
    pub(super) fn logs(&self) -> String {
        let mut text = String::new();
        for (process, node) in self.nodes.iter().zip(NODES) {
            let log = std::fs::read_to_string(&process.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            text.push_str(&format!("--- the end of node {}'s log ---\n{}\n", node.letter(), tail.join("\n")));
        }
        text
    }
}

impl NodeProcess {
    fn start(
        node: NodeNumber,
        place: &Place,
        folders: &Folders,
        config: &Path,
    ) -> anyhow::Result<NodeProcess> {
        let name = state_folder(node);
        let log = folders.file(&format!("{name}.log"));
        let socket = folders.socket(&format!("{name}.sock"));
        let child = place
            .command(node)?
            .arg("node")
            .arg("--config")
            .arg(config)
            .args(["--id", &node.0.to_string()])
            .arg("--state")
            .arg(folders.file(&name))
            .arg("--socket")
            .arg(&socket)
            .args(["--with-parent", &std::process::id().to_string()])
            // A Ctrl-C at the terminal is for the demo, which ends its nodes itself.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Of a node that is started again, all lives.
            .stderr(File::options().create(true).append(true).open(&log)?)
            .spawn()
            .with_context(|| format!("cannot start node {}", node.letter()))?;
        Ok(NodeProcess { child, log, socket, ended: None })
    }
}

/// Name of a node's state folder.
pub(super) fn state_folder(node: NodeNumber) -> String {
    format!("node-{}", node.letter())
}

/// All rails of a node to its peers that are up, and all that there are.
pub(super) fn rails_up(status: &Status) -> (usize, usize) {
    let rails = || status.peers.iter().flat_map(|peer| &peer.links).flat_map(|link| &link.rails);
    (rails().filter(|rail| rail.state == "up").count(), rails().count())
}

/// Who serves the virtual disk, as a node sees it.
pub(super) fn serving(status: &Status) -> Option<NodeNumber> {
    status.virtual_disks.first().and_then(|disk| disk.serving).map(NodeNumber)
}

/// Whether a node is ready for the demo: everybody is there, all rails are up, the disk is served.
pub(super) fn is_ready(status: &Status) -> bool {
    let (up, _) = rails_up(status);
    let served_here = serving(status) == Some(NodeNumber(status.node));
    let gate_is_right = !served_here || status.virtual_disks.iter().all(|disk| disk.gate.starts_with("Open"));
    status.quorum
        && status.members.len() == NODES.len()
        && up == RAILS * (NODES.len() - 1)
        && serving(status).is_some()
        && gate_is_right
}

fn configuration(place: &Place, disk: &Path, disk_bytes: u64, nbd: &[PathBuf; 3]) -> anyhow::Result<String> {
    let port_base = free_ports()?;
    let key = format!("{:032x}{:032x}", uuid()?.0, uuid()?.0);
    let pid = std::process::id();
    let [nbd_a, nbd_b, nbd_c] = nbd.each_ref().map(|path| path.display());
    let (disk, rows) = (disk.display(), place.rows());
    Ok(format!(
        r#"# Written by `netdisk demo`: A is node 1, B is node 2, C is node 3.
[cluster]
name = "demo-{pid}"
key = "{key}"
port_base = {port_base}

# For a machine that is busy with other things too: a few late heartbeats do not yet make a rail dead.
[heartbeat]
missed = 5

[membership]
suspect_ms = 200

{rows}
[[disk]]
name = "shelf"
nodes = ["A", "B"]
path = "{disk}"

[[virtual_disk]]
name = "{EXPORT}"
size = {disk_bytes}
primary = {{ node = "A", disk = "shelf" }}
secondary = {{ node = "B", disk = "shelf" }}

[[nbd]]
node = "A"
listen = "unix:{nbd_a}"
[[nbd]]
node = "B"
listen = "unix:{nbd_b}"
[[nbd]]
node = "C"
listen = "unix:{nbd_c}"
"#
    ))
}

/// The base of a range of ports of which none is in use now.
fn free_ports() -> anyhow::Result<u16> {
    let is_free = |port| {
        let address = (Ipv4Addr::LOCALHOST, port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    let ranges = (PORT_BASE_MAX - PORT_BASE_MIN) / PORTS;
    // Demos that start at the same time have neighbouring process ids, and so begin in different ranges.
    let first = (std::process::id() % u32::from(ranges)) as u16;
    let bases = (0..ranges).map(|step| PORT_BASE_MIN + (first + step) % ranges * PORTS);
    let mut free = bases.filter(|base| (*base..*base + PORTS).all(is_free));
    free.next().with_context(|| format!("no {PORTS} ports in a row are free on 127.0.0.1"))
}
