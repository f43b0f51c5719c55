//! The worker as a node of the replicated log: its reactor joins nodes and clients by TCP.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use bench_harness::tell_parent;
use control_raft::{
    ClusterStamp, Handle, Machine, Outcome, RaftOptions, RestoreFault, Running, Ticket, start,
};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use serde::{Deserialize, Serialize};
use transport_proto::identity::{Incarnation, NodeId};

/// Between two attempts to reach a node that is not there.
const DIAL_EVERY: Duration = Duration::from_millis(50);
/// Bytes of an answer to a client: number of the request, whether it was done.
pub(crate) const ANSWER_BYTES: usize = 9;
const FRAME_BYTES_MAX: usize = 2 << 20;

const WAKER: Token = Token(0);
const PEERS: Token = Token(1);
const CLIENTS: Token = Token(2);
const FIRST: usize = 3;

/// The worker's end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogNode {
    /// This node, counted from 1.
    pub(crate) node: u16,
    /// Where each node listens to the others.
    pub(crate) peer_ports: Vec<u16>,
    /// Where this node listens to clients.
    pub(crate) client_port: u16,
    /// Folder of its log.
    pub(crate) folder: PathBuf,
}

/// Number of the request, and whether it was done.
pub(crate) fn answer_of(bytes: &[u8; ANSWER_BYTES]) -> (u64, bool) {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    (u64::from_le_bytes(number), bytes[8] == 1)
}

/// Keeps the last value, as a store with one key would.
#[derive(Default)]
struct Value(Vec<u8>);

impl Machine for Value {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Vec<u8> {
        self.0.clear();
        self.0.extend_from_slice(command);
        Vec::new()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn restore(&mut self, _index: u64, bytes: &[u8]) -> Result<(), RestoreFault> {
        self.0 = bytes.to_vec();
        Ok(())
    }
}

enum End {
    /// Somebody who sends us messages.
    PeerIn,
    /// Where our messages to a node go.
    PeerOut(NodeId),
    Client,
}

struct Connection {
    stream: TcpStream,
    end: End,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// An outgoing connection that stands.
    stands: bool,
}

struct Reactor {
    node: NodeId,
    peer_ports: BTreeMap<NodeId, u16>,
    life: Incarnation,
    poll: Poll,
    peers: TcpListener,
    clients: TcpListener,
    connections: BTreeMap<Token, Connection>,
    outgoing: BTreeMap<NodeId, Token>,
    dial_at: Instant,
    next_token: usize,
    /// Which client asked, and under which number.
    tickets: BTreeMap<Ticket, (Token, u64)>,
    next_ticket: u64,
    running: Running,
}

impl LogNode {
    /// Runs the node until the parent ends it.
    ///
    /// # Errors
    /// It cannot start, or its log has stopped.
    pub(crate) fn serve(self) -> Result<()> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let node = NodeId(self.node);
        let all: BTreeMap<NodeId, u16> = (1..).map(NodeId).zip(self.peer_ports.iter().copied()).collect();
        let mut peers = TcpListener::bind(local(all[&node]))?;
        let mut clients = TcpListener::bind(local(self.client_port))?;
        poll.registry().register(&mut peers, PEERS, Interest::READABLE)?;
        poll.registry().register(&mut clients, CLIENTS, Interest::READABLE)?;
        let voters: BTreeSet<NodeId> = all.keys().copied().collect();
        let stamp = ClusterStamp { cluster: 1, genesis: [0; 32] };
        let options = RaftOptions::new(node, stamp, self.folder, voters);
        let running = start(options, Value::default(), move || {
            // Fails only when the reactor is gone.
            let _ = waker.wake();
        })?;
        tell_parent(&"ready")?;
        let life = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        let mut reactor = Reactor {
            node,
            peer_ports: all,
            life: Incarnation(life),
            poll,
            peers,
            clients,
            connections: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            dial_at: Instant::now(),
            next_token: FIRST,
            tickets: BTreeMap::new(),
            next_ticket: 0,
            running,
        };
        reactor.run()
    }
}

impl Reactor {
    fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(64);
        loop {
            let missing = self.outgoing.len() + 1 < self.peer_ports.len();
            if missing && Instant::now() >= self.dial_at {
                self.dial()?;
            }
            self.poll.poll(&mut events, missing.then_some(DIAL_EVERY))?;
            for event in &events {
                match event.token() {
                    WAKER => {}
                    PEERS | CLIENTS => self.accept(event.token())?,
                    token => self.serve(token),
                }
            }
            self.take_outputs()?;
        }
    }

    fn add(&mut self, mut stream: TcpStream, end: End) -> Result<Token> {
        let token = Token(self.next_token);
        self.next_token += 1;
        let _ = stream.set_nodelay(true);
        self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let connection = Connection { stream, end, inbox: Vec::new(), outbox: Vec::new(), stands: false };
        self.connections.insert(token, connection);
        Ok(token)
    }

    fn dial(&mut self) -> Result<()> {
        for (node, port) in self.peer_ports.clone() {
            if node != self.node && !self.outgoing.contains_key(&node) {
                let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
                let token = self.add(stream, End::PeerOut(node))?;
                self.outgoing.insert(node, token);
            }
        }
        self.dial_at = Instant::now() + DIAL_EVERY;
        Ok(())
    }

    fn accept(&mut self, token: Token) -> Result<()> {
        loop {
            let (listener, end) = match token {
                PEERS => (&self.peers, End::PeerIn),
                _ => (&self.clients, End::Client),
            };
            match listener.accept() {
                Ok((stream, _)) => self.add(stream, end)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
        }
    }

    fn serve(&mut self, token: Token) {
        let Some(mut connection) = self.connections.remove(&token) else { return };
        if let End::PeerOut(node) = connection.end
            && !connection.stands
            && connection.stream.peer_addr().is_ok()
        {
            connection.stands = true;
            let _ = connection.stream.set_nodelay(true);
            self.handle().peer_reachable(node);
        }
        if connection.read().is_ok() && self.take_frames(token, &mut connection) && connection.write().is_ok()
        {
            self.connections.insert(token, connection);
        } else if let End::PeerOut(node) = connection.end {
            self.outgoing.remove(&node);
            self.dial_at = Instant::now() + DIAL_EVERY;
            self.handle().peer_unreachable(node);
        }
    }

    fn handle(&self) -> &Handle {
        &self.running.handle
    }

    fn take_frames(&mut self, token: Token, connection: &mut Connection) -> bool {
        let inbox = std::mem::take(&mut connection.inbox);
        let mut rest = inbox.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > FRAME_BYTES_MAX {
                return false;
            }
            let Some((frame, after)) = after.split_at_checked(length) else { break };
            let fits = match connection.end {
                End::Client => self.client_asks(token, frame, &mut connection.outbox),
                End::PeerIn | End::PeerOut(_) => self.peer_says(frame),
            };
            if fits.is_none() {
                return false;
            }
            rest = after;
        }
        connection.inbox = rest.to_vec();
        true
    }

    fn peer_says(&mut self, frame: &[u8]) -> Option<()> {
        let (head, rest) = frame.split_first_chunk::<12>()?;
        let from = NodeId(u16::from_le_bytes([head[0], head[1]]));
        let control = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let life = Incarnation(u64::from_le_bytes(head[4..].try_into().ok()?));
        let (control, data) = rest.split_at_checked(control)?;
        self.handle().receive(from, life, control, data);
        Some(())
    }

    /// An empty command asks whether this node leads.
    fn client_asks(&mut self, token: Token, frame: &[u8], outbox: &mut Vec<u8>) -> Option<()> {
        let (number, command) = frame.split_first_chunk::<8>()?;
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let at_once = if command.is_empty() {
            Some(self.handle().state().leads)
        } else {
            self.handle().propose(ticket, command.to_vec()).is_err().then_some(false)
        };
        match at_once {
            Some(done) => put_answer(outbox, u64::from_le_bytes(*number), done),
            None => {
                self.tickets.insert(ticket, (token, u64::from_le_bytes(*number)));
            }
        }
        Some(())
    }

    fn take_outputs(&mut self) -> Result<()> {
        let mut touched = BTreeSet::new();
        while let Some(message) = self.running.outputs.next_message() {
            let Some(token) = self.outgoing.get(&message.to) else { continue };
            let Some(connection) = self.connections.get_mut(token) else { continue };
            let length = 12 + message.control.len() + message.data.len();
            let out = &mut connection.outbox;
            out.extend_from_slice(&(length as u32).to_le_bytes());
            out.extend_from_slice(&self.node.0.to_le_bytes());
            out.extend_from_slice(&(message.control.len() as u16).to_le_bytes());
            out.extend_from_slice(&self.life.0.to_le_bytes());
            out.extend_from_slice(&message.control);
            out.extend_from_slice(&message.data);
            touched.insert(*token);
        }
        while let Some(answer) = self.running.outputs.next_answer() {
            let Some((token, number)) = self.tickets.remove(&answer.ticket) else { continue };
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            put_answer(&mut connection.outbox, number, matches!(answer.outcome, Outcome::Done { .. }));
            touched.insert(token);
        }
        if let Some(fatal) = self.running.outputs.fatal() {
            bail!(fatal);
        }
        for token in touched {
            if let Some(connection) = self.connections.get_mut(&token) {
                // A broken connection is found out by the event that comes of it.
                let _ = connection.write();
            }
        }
        Ok(())
    }
}

fn put_answer(outbox: &mut Vec<u8>, number: u64, done: bool) {
    outbox.extend_from_slice(&number.to_le_bytes());
    outbox.push(u8::from(done));
}

impl Connection {
    fn read(&mut self) -> std::io::Result<()> {
        let mut bytes = [0; 64 << 10];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.inbox.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&mut self) -> std::io::Result<()> {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(count) => {
                    self.outbox.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
