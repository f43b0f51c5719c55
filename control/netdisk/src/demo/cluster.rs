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
    /// Makes the disk and the cluster, as an administrator does: `cluster init` on A, a token and `join` for
    /// B and for C, and the rest of the configuration by `cluster import`. The nodes may still be on their
    /// way when this returns.
    pub(super) fn start(
        folders: &Folders,
        place: &Place,
        disk_bytes: u64,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Cluster> {
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
        let mut cluster = Cluster { nodes: Vec::new(), nbd };
        let [first, others @ ..] = NODES;
        cluster.begin(first, place, folders)?;
        cluster.wait_for(first, "it leads a cluster of its own", interrupt, |status| {
            status.quorum && status.log.role == "leader"
        })?;
        for node in others {
            cluster.join(first, node, place, folders)?;
        }
        // Voters too: else the first one's death would end it all.
        cluster.wait_for(first, "all are there and vote", interrupt, |status| {
            status.quorum && status.members.len() == NODES.len() && status.log.voters.len() == NODES.len()
        })?;
        cluster.equip(first, place, folders, &disk, disk_bytes)?;
        Ok(cluster)
    }

    fn begin(&mut self, node: NodeNumber, place: &Place, folders: &Folders) -> anyhow::Result<()> {
        let (name, letter) = (format!("demo-{}", std::process::id()), node.letter().to_string());
        let (state, port_base) = (state_path(node, folders), free_ports()?.to_string());
        let mut words = vec!["cluster", "init", &name, "--node", &letter, "--state", &state];
        words.extend(["--port-base", &port_base]);
        let own = place.first(node);
        words.extend(own.iter().map(String::as_str));
        netdisk(place, node, &words)?;
        self.nodes.push(NodeProcess::start(node, place, folders)?);
        Ok(())
    }

    fn join(
        &mut self,
        first: NodeNumber,
        node: NodeNumber,
        place: &Place,
        folders: &Folders,
    ) -> anyhow::Result<()> {
        let socket = self.admin_socket(first).display().to_string();
        let token = netdisk(place, first, &["cluster", "token", "--socket", &socket])?;
        let (letter, state) = (node.letter().to_string(), state_path(node, folders));
        let mut words = vec!["join", token.trim(), "--node", &letter, "--state", &state];
        let own = place.joining(node);
        words.extend(own.iter().map(String::as_str));
        netdisk(place, node, &words)?;
        self.nodes.push(NodeProcess::start(node, place, folders)?);
        Ok(())
    }

    /// Disk, virtual disk, NBD servers, and times for a machine that is busy with other things too.
    fn equip(
        &self,
        node: NodeNumber,
        place: &Place,
        folders: &Folders,
        disk: &Path,
        disk_bytes: u64,
    ) -> anyhow::Result<()> {
        let socket = self.admin_socket(node).display().to_string();
        let present = netdisk(place, node, &["cluster", "export", "--socket", &socket])?;
        let wanted = configuration(&present, disk, disk_bytes, &self.nbd)?;
        let file = folders.file("cluster.toml");
        std::fs::write(&file, wanted)?;
        netdisk(place, node, &["cluster", "import", &file.display().to_string(), "--socket", &socket])?;
        Ok(())
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
        self.nodes[node.index()] = NodeProcess::start(node, place, folders)?;
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
    fn start(node: NodeNumber, place: &Place, folders: &Folders) -> anyhow::Result<NodeProcess> {
        let name = state_folder(node);
        let log = folders.file(&format!("{name}.log"));
        let socket = folders.socket(&format!("{name}.sock"));
        let child = place
            .command(node)?
            .args(["node", "run", "--state"])
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

fn state_path(node: NodeNumber, folders: &Folders) -> String {
    folders.file(&state_folder(node)).display().to_string()
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

/// Runs this program on a node's host; what it prints.
fn netdisk(place: &Place, node: NodeNumber, words: &[&str]) -> anyhow::Result<String> {
    let ran = place.command(node)?.args(words).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&ran.stderr);
    let verb = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
    ensure!(ran.status.success(), "netdisk {verb} on {}: {}", node.letter(), said.trim());
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

/// The configuration as it is, with what the demo needs.
fn configuration(present: &str, disk: &Path, disk_bytes: u64, nbd: &[PathBuf; 3]) -> anyhow::Result<String> {
    let present: toml::Table = toml::from_str(present).context("the exported configuration")?;
    let [nbd_a, nbd_b, nbd_c] = nbd.each_ref().map(|path| path.display());
    let disk = disk.display();
    let more = format!(
        r#"
[cluster]
spread = "home"

# For a machine that is busy with other things too: a few late heartbeats do not yet make a rail dead.
[heartbeat]
missed = 5

[membership]
suspect_ms = 200
lease_ms = 600

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
    );
    let more: toml::Table = toml::from_str(&more).context("the demo's own part of the configuration")?;
    Ok(toml::to_string(&laid_over(present, more))?)
}

/// The values of `over`, and those of `base` that it does not have.
fn laid_over(mut base: toml::Table, over: toml::Table) -> toml::Table {
    for (key, value) in over {
        let value = match (base.remove(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => {
                toml::Value::Table(laid_over(below, above))
            }
            (_, value) => value,
        };
        base.insert(key, value);
    }
    base
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
