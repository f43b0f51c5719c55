//! Three nodes of the replicated log, as workers, and a client of one of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench_harness::Worker;

use super::client::{Client, VALUE_BYTES};
use super::contenders::{Cluster, Place};
use super::log_node::{self, LogNode};
use crate::role::{Role, SUB_COMMAND};
use crate::scratch::ScratchFolder;

/// Nodes of a cluster.
pub(crate) const NODES: u16 = 3;
/// How long a cluster may take to find a leader.
pub(crate) const START_WAIT_MAX: Duration = Duration::from_secs(20);
/// Between two looks for one.
pub(crate) const START_LOOK_EVERY: Duration = Duration::from_millis(20);

/// Three running nodes. Dropping it kills them and removes their folder.
pub(crate) struct LogCluster {
    workers: Vec<Option<Worker>>,
    client_ports: Vec<u16>,
    _folder: ScratchFolder,
}

/// Ports that nobody uses now.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port()));
    ports.collect()
}

impl LogCluster {
    /// Starts all nodes and returns when one leads.
    ///
    /// # Errors
    /// A node cannot start, or none leads in time.
    pub(crate) fn start(place: Place) -> Result<LogCluster> {
        let folder = ScratchFolder::create_in(&place.folder())?;
        let ports = free_ports(2 * usize::from(NODES))?;
        let (peer_ports, client_ports) = ports.split_at(usize::from(NODES));
        let mut workers = Vec::new();
        for node in 1..=NODES {
            let role = LogNode {
                node,
                peer_ports: peer_ports.to_vec(),
                client_port: client_ports[usize::from(node) - 1],
                folder: folder.path().join(format!("node{node}")),
            };
            workers.push(Some(Worker::start(SUB_COMMAND, &Role::LogNode(role))?));
        }
        for worker in workers.iter_mut().flatten() {
            let _ready: String = worker.hear()?;
        }
        let mut cluster = LogCluster { workers, client_ports: client_ports.to_vec(), _folder: folder };
        cluster.leader()?;
        Ok(cluster)
    }

    /// Process ids of the nodes.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.workers.iter().flatten().map(Worker::pid)
    }

    fn leader(&mut self) -> Result<usize> {
        let deadline = Instant::now() + START_WAIT_MAX;
        loop {
            for (place, worker) in self.workers.iter().enumerate() {
                if worker.is_some() && self.client(place)?.leads()? {
                    return Ok(place);
                }
            }
            if Instant::now() > deadline {
                bail!("no node of the log leads");
            }
            std::thread::sleep(START_LOOK_EVERY);
        }
    }

    fn client(&self, place: usize) -> Result<LogClient> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.client_ports[place]))?;
        stream.set_nodelay(true)?;
        Ok(LogClient { stream, out: Vec::new(), inbox: Vec::new(), next: 1 })
    }
}

impl Cluster for LogCluster {
    fn leaders_client(&mut self) -> Result<Box<dyn Client>> {
        let leader = self.leader()?;
        Ok(Box::new(self.client(leader)?))
    }

    fn kill_leader(&mut self) -> Result<Box<dyn Client>> {
        let leader = self.leader()?;
        let client = self.client((leader + 1) % self.workers.len())?;
        // Dropping a worker kills it with SIGKILL and waits for its end.
        self.workers[leader] = None;
        Ok(Box::new(client))
    }
}

/// Speaks with [`LogNode`].
struct LogClient {
    stream: TcpStream,
    out: Vec<u8>,
    inbox: Vec<u8>,
    next: u64,
}

impl LogClient {
    fn ask(&mut self, command: &[u8]) -> u64 {
        let number = self.next;
        self.next += 1;
        self.out.extend_from_slice(&(8 + command.len() as u32).to_le_bytes());
        self.out.extend_from_slice(&number.to_le_bytes());
        self.out.extend_from_slice(command);
        number
    }

    fn leads(&mut self) -> Result<bool> {
        self.ask(&[]);
        let answer = self.answer(START_WAIT_MAX)?.context("a node of the log does not answer")?;
        Ok(answer.1)
    }
}

impl Client for LogClient {
    fn put(&mut self) -> Result<u64> {
        Ok(self.ask(&[b'v'; VALUE_BYTES]))
    }

    fn answer(&mut self, wait: Duration) -> Result<Option<(u64, bool)>> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        let deadline = Instant::now() + wait;
        let mut bytes = [0; 4096];
        loop {
            if let Some((answer, rest)) = self.inbox.split_first_chunk::<{ log_node::ANSWER_BYTES }>() {
                let answer = log_node::answer_of(answer);
                self.inbox = rest.to_vec();
                return Ok(Some(answer));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut bytes) {
                Ok(0) => bail!("the node of the log is gone"),
                Ok(count) => self.inbox.extend_from_slice(&bytes[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
