//! Three nodes of etcd on loopback, with its default settings.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::client::Client;
use super::contenders::{Cluster, Place};
use super::grpc::EtcdClient;
use super::log_cluster::{NODES, START_LOOK_EVERY, START_WAIT_MAX, free_ports};
use crate::scratch::ScratchFolder;

/// Three running nodes. Dropping it kills them and removes their folder.
pub(crate) struct EtcdCluster {
    nodes: Vec<Option<Node>>,
    _folder: ScratchFolder,
}

struct Node {
    process: Child,
    client_port: u16,
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail only if the process is gone already, which is what they are for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl EtcdCluster {
    /// Starts all nodes and returns when one leads.
    ///
    /// # Errors
    /// A node cannot start, or none leads in time.
    pub(crate) fn start(place: Place) -> Result<EtcdCluster> {
        let folder = ScratchFolder::create_in(&place.folder())?;
        let ports = free_ports(2 * usize::from(NODES))?;
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let (peers, clients) = ports.split_at(usize::from(NODES));
        let members: Vec<String> =
            (1..).zip(peers).map(|(node, port)| format!("n{node}={}", url(port))).collect();
        let mut nodes = Vec::new();
        for (node, (peer, client)) in (1..).zip(peers.iter().zip(clients)) {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "etcd", "--log-level", "error"]);
            command.args(["--name", &format!("n{node}"), "--initial-cluster-state", "new"]);
            command.arg("--data-dir").arg(folder.path().join(format!("n{node}")));
            command.args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)]);
            command.args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)]);
            command.args(["--initial-cluster", &members.join(",")]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let process = command.spawn().context("etcd cannot be started")?;
            nodes.push(Some(Node { process, client_port: *client }));
        }
        let mut cluster = EtcdCluster { nodes, _folder: folder };
        cluster.leader()?;
        Ok(cluster)
    }

    fn leader(&mut self) -> Result<usize> {
        let deadline = Instant::now() + START_WAIT_MAX;
        loop {
            for (place, node) in self.nodes.iter().enumerate() {
                let Some(node) = node else { continue };
                // A node that does not listen yet, or does not know, is asked again.
                let asked = EtcdClient::connect(node.client_port);
                let status = asked.and_then(|mut client| client.status(START_LOOK_EVERY * 10));
                if let Ok(Some((me, leader))) = status
                    && me == leader
                {
                    return Ok(place);
                }
            }
            if Instant::now() > deadline {
                bail!("no node of etcd leads");
            }
            std::thread::sleep(START_LOOK_EVERY);
        }
    }

    fn client(&self, place: usize) -> Result<Box<dyn Client>> {
        let node = self.nodes[place].as_ref().context("the node is gone")?;
        Ok(Box::new(EtcdClient::connect(node.client_port)?))
    }
}

impl Cluster for EtcdCluster {
    fn leaders_client(&mut self) -> Result<Box<dyn Client>> {
        let leader = self.leader()?;
        self.client(leader)
    }

    fn kill_leader(&mut self) -> Result<Box<dyn Client>> {
        let leader = self.leader()?;
        let client = self.client((leader + 1) % self.nodes.len())?;
        self.nodes[leader] = None;
        Ok(client)
    }
}
