//! The thread of the connectivity monitor: one UDP socket per rail of this node, heartbeats each way with
//! every peer, verdicts to the reactor. A thread of its own, so that a busy reactor is not taken for a dead
//! rail.

use crate::notices::is_notice;
use crate::verdicts::{Verdict, VerdictBoard};
use core::fmt;
use core::time::Duration;
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;
use transport_proto::cluster_key::ClusterKey;
use transport_proto::connectivity::{
    Connectivity, Heartbeat, NOTICE_BYTES_MAX, Output, PeerReport, RailReport, Settings,
    Verdict as RailVerdict,
};
use transport_proto::identity::{Epoch, Incarnation, NodeId, Path};
use transport_proto::time::Time;
use zerocopy::FromBytes;

/// An address that cannot be bound is tried again after this time.
const BIND_AGAIN: Duration = Duration::from_secs(1);

/// A rail to be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchedRail {
    /// The node at the other end.
    pub peer: NodeId,
    /// Link and rail.
    pub path: Path,
    /// Where this node sends from and listens. Rails to several peers may share it.
    pub local: SocketAddr,
    /// Where the peer listens.
    pub remote: SocketAddr,
}

/// Why the monitor did not start.
#[derive(Debug)]
pub enum MonitorRefusal {
    /// A heartbeat address cannot be bound.
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No event queue or thread to be had.
    System(io::Error),
}

impl MonitorRefusal {
    fn is_in_use(&self) -> bool {
        matches!(self, MonitorRefusal::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

impl fmt::Display for MonitorRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MonitorRefusal::Bind { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "heartbeat address {address} is in use: is this node running already?")
            }
            MonitorRefusal::Bind { address, .. } => {
                write!(f, "cannot bind heartbeat address {address}: does this machine own it?")
            }
            MonitorRefusal::System(_) => write!(f, "cannot start the connectivity monitor"),
        }
    }
}

impl std::error::Error for MonitorRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            MonitorRefusal::Bind { source, .. } | MonitorRefusal::System(source) => Some(source),
        }
    }
}

/// What others tell the thread.
#[derive(Debug, Default)]
struct Orders {
    stop: bool,
    epoch: Epoch,
    disk_age_ms: u32,
    incarnation: Option<Incarnation>,
    muted: Vec<Path>,
    /// How to watch from now on, if that changed.
    settings: Option<Settings>,
    /// Rails to be watched from now on, if they changed.
    rails: Option<Vec<WatchedRail>>,
}

/// What the thread tells others.
#[derive(Clone, Debug)]
pub struct MonitorReport {
    /// The peer.
    pub peer: NodeId,
    /// What is known of it.
    pub summary: PeerReport,
    /// What is known of each rail to it.
    pub rails: Vec<RailReport>,
}

/// The running monitor; its thread ends when this is dropped.
pub struct MonitorThread {
    orders: Arc<Mutex<Orders>>,
    reports: Arc<Mutex<Vec<MonitorReport>>>,
    heard_epoch: Arc<AtomicU64>,
    waker: Arc<Waker>,
    paths: Mutex<Vec<Path>>,
    thread: Option<JoinHandle<()>>,
}

impl MonitorThread {
    /// Binds every rail's heartbeat address and starts the thread.
    pub fn start(
        key: &ClusterKey,
        settings: Settings,
        (node, incarnation): (NodeId, Incarnation),
        rails: &[WatchedRail],
        board: Arc<VerdictBoard>,
    ) -> Result<MonitorThread, MonitorRefusal> {
        let poll = Poll::new().map_err(MonitorRefusal::System)?;
        let waker = Waker::new(poll.registry(), Token(usize::MAX)).map_err(MonitorRefusal::System)?;
        let (orders, reports) =
            (Arc::<Mutex<Orders>>::default(), Arc::<Mutex<Vec<MonitorReport>>>::default());
        let heard_epoch = Arc::<AtomicU64>::default();
        let started = Instant::now();
        let mut watch = Watch {
            key: key.clone(),
            settings,
            node,
            incarnation,
            started,
            poll,
            next_token: 0,
            sockets: Vec::new(),
            rails: Vec::new(),
            peers: Vec::new(),
            board,
            orders: orders.clone(),
            reports: reports.clone(),
            heard_epoch: heard_epoch.clone(),
            muted: Vec::new(),
            outputs: Vec::new(),
            unbound: None,
        };
        match watch.watch(rails) {
            // One rail that cannot be used does not keep the node from its others. An address in use is
            // another matter: most likely this very node, started twice.
            Err(refusal @ MonitorRefusal::Bind { .. }) if !refusal.is_in_use() => {
                tracing::error!("{refusal}; trying again");
                watch.unbound = Some(watch.now() + BIND_AGAIN);
            }
            bound => bound?,
        }
        let thread = std::thread::Builder::new()
            .name("netdisk-ccm".into())
            .spawn(move || watch.run())
            .map_err(MonitorRefusal::System)?;
        let paths = Mutex::new(rails.iter().map(|rail| rail.path).collect());
        Ok(MonitorThread {
            orders,
            reports,
            heard_epoch,
            waker: Arc::new(waker),
            paths,
            thread: Some(thread),
        })
    }

    /// What heartbeats tell from now on.
    pub fn announce(&self, epoch: Epoch, disk_age_ms: u32) {
        let mut orders = self.orders.lock();
        (orders.epoch, orders.disk_age_ms) = (epoch, disk_age_ms);
    }

    /// This node lives a new life from now on.
    pub fn reincarnate(&self, incarnation: Incarnation) {
        self.orders.lock().incarnation = Some(incarnation);
        self.wake();
    }

    /// Watches by these settings from now on. For as long as not all nodes do, each judges by its own.
    pub fn set_settings(&self, settings: Settings) {
        self.orders.lock().settings = Some(settings);
        self.wake();
    }

    /// Watches these rails from now on: those that stay are not disturbed, those that go are reported down
    /// first. A heartbeat address that cannot be bound is told in the log and tried again and again.
    pub fn set_rails(&self, rails: &[WatchedRail]) {
        *self.paths.lock() = rails.iter().map(|rail| rail.path).collect();
        self.orders.lock().rails = Some(rails.to_vec());
        self.wake();
    }

    /// Drops a rail's heartbeats in both directions, as a pulled cable would, or no longer. `false`: no such
    /// rail.
    pub fn mute(&self, path: Path, muted: bool) -> bool {
        let mut orders = self.orders.lock();
        orders.muted.retain(|known| *known != path);
        if muted {
            orders.muted.push(path);
        }
        drop(orders);
        self.wake();
        self.paths.lock().contains(&path)
    }

    /// What is known of all peers, as of the last round.
    pub fn reports(&self) -> Vec<MonitorReport> {
        self.reports.lock().clone()
    }

    /// The highest configuration number that any peer's heartbeats have told of.
    pub fn heard_epoch(&self) -> Epoch {
        // A number by itself: nothing else is published with it.
        Epoch(self.heard_epoch.load(Ordering::Relaxed))
    }

    /// Whether the monitor still watches; its thread ends by itself only when the system fails it.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn wake(&self) {
        // Without it the thread looks at its next round.
        let _ = self.waker.wake();
    }
}

impl Drop for MonitorThread {
    fn drop(&mut self) {
        self.orders.lock().stop = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

struct RailSocket {
    token: Token,
    path: Path,
    local: SocketAddr,
    socket: UdpSocket,
}

/// The thread's own state.
struct Watch {
    key: ClusterKey,
    settings: Settings,
    node: NodeId,
    incarnation: Incarnation,
    started: Instant,
    poll: Poll,
    next_token: usize,
    sockets: Vec<RailSocket>,
    rails: Vec<WatchedRail>,
    peers: Vec<Connectivity>,
    board: Arc<VerdictBoard>,
    orders: Arc<Mutex<Orders>>,
    reports: Arc<Mutex<Vec<MonitorReport>>>,
    heard_epoch: Arc<AtomicU64>,
    muted: Vec<Path>,
    outputs: Vec<Output>,
    /// When to try again to bind what could not be bound.
    unbound: Option<Time>,
}

impl Watch {
    fn now(&self) -> Time {
        Time(self.started.elapsed().as_nanos() as u64 + 1)
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(64);
        loop {
            let next = self.peers.iter().map(Connectivity::next_deadline).min().unwrap_or(Time::NEVER);
            let span = next.since(self.now()).min(Duration::from_millis(500));
            if let Err(error) = self.poll.poll(&mut events, Some(span))
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!("the connectivity monitor cannot wait for heartbeats: {error}");
                return;
            }
            if self.take_orders() {
                return;
            }
            // Readiness is told once for what arrived, and each socket is read until it is empty.
            for event in &events {
                let place = self.sockets.iter().position(|socket| socket.token == event.token());
                if let Some(place) = place {
                    self.read(place);
                }
            }
            let now = self.now();
            for place in 0..self.peers.len() {
                if self.peers[place].next_deadline() <= now {
                    self.peers[place].tick(now, &mut self.outputs);
                    self.carry_out(place);
                    self.report(place);
                }
            }
        }
    }

    /// `true`: stop.
    fn take_orders(&mut self) -> bool {
        let orders_of = self.orders.clone();
        let mut orders = orders_of.lock();
        if let Some(settings) = orders.settings.take() {
            self.settings = settings;
            self.peers.iter_mut().for_each(|peer| peer.set_settings(settings));
        }
        let rails = orders.rails.take().or_else(|| {
            let due = self.unbound.is_some_and(|at| self.now() >= at);
            due.then(|| self.rails.clone())
        });
        if let Some(rails) = rails {
            let bound = self.watch(&rails);
            if let (Err(refusal), None) = (&bound, self.unbound) {
                tracing::error!("{refusal}; trying again");
            }
            self.unbound = bound.is_err().then(|| self.now() + BIND_AGAIN);
        }
        self.muted.clone_from(&orders.muted);
        for peer in &mut self.peers {
            peer.announce(orders.epoch, orders.disk_age_ms);
        }
        if let Some(incarnation) = orders.incarnation.take() {
            let now = self.now();
            self.incarnation = incarnation;
            for place in 0..self.peers.len() {
                let peer = self.peers[place].peer();
                let mut fresh =
                    Connectivity::new(&self.key, self.settings, self.node, incarnation, peer, now);
                for rail in self.rails.iter().filter(|rail| rail.peer == peer) {
                    fresh.add_rail(now, rail.path);
                    self.board.post(verdict(peer, rail.path, false, Duration::ZERO));
                }
                self.peers[place] = fresh;
            }
        }
        orders.stop
    }

    /// Brings sockets and machines in line with these rails. The first address that cannot be bound is
    /// reported; all others are served.
    fn watch(&mut self, rails: &[WatchedRail]) -> Result<(), MonitorRefusal> {
        let (now, board) = (self.now(), self.board.clone());
        self.rails = rails.to_vec();
        self.sockets
            .retain(|socket| rails.iter().any(|rail| (rail.path, rail.local) == (socket.path, socket.local)));
        for place in 0..self.peers.len() {
            let peer = self.peers[place].peer();
            let gone: Vec<Path> = self.peers[place].rails().map(|rail| rail.path).collect();
            for path in gone.into_iter().filter(|path| !watches(rails, peer, *path)) {
                self.peers[place].remove_rail(path, &mut self.outputs);
                self.carry_out(place);
                board.forget(peer, path);
            }
        }
        self.peers.retain(|peer| rails.iter().any(|rail| rail.peer == peer.peer()));
        self.reports.lock().retain(|report| rails.iter().any(|rail| rail.peer == report.peer));
        let mut refused = Ok(());
        for rail in rails {
            let place = self.peers.iter().position(|peer| peer.peer() == rail.peer).unwrap_or_else(|| {
                let (node, life) = (self.node, self.incarnation);
                let machine = Connectivity::new(&self.key, self.settings, node, life, rail.peer, now);
                self.peers.push(machine);
                self.peers.len() - 1
            });
            self.peers[place].add_rail(now, rail.path);
            let known = |socket: &RailSocket| (socket.path, socket.local) == (rail.path, rail.local);
            if !self.sockets.iter().any(known) {
                refused = refused.and(self.bind(rail));
            }
        }
        refused
    }

    fn bind(&mut self, rail: &WatchedRail) -> Result<(), MonitorRefusal> {
        let bound = UdpSocket::bind(rail.local);
        let mut socket = bound.map_err(|source| MonitorRefusal::Bind { address: rail.local, source })?;
        let token = Token(self.next_token);
        self.next_token += 1;
        let registered = self.poll.registry().register(&mut socket, token, Interest::READABLE);
        registered.map_err(MonitorRefusal::System)?;
        self.sockets.push(RailSocket { token, path: rail.path, local: rail.local, socket });
        Ok(())
    }

    fn read(&mut self, place: usize) {
        let path = self.sockets[place].path;
        // One byte more than the longest that is good, so that a longer one shows.
        let mut buffer = [0; NOTICE_BYTES_MAX + 1];
        // Until the socket is empty; a flood is cut off at the number that honest peers could have sent.
        for _ in 0..256 {
            let length = match self.sockets[place].socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A peer that is not there yet answers our heartbeats with "port unreachable".
                Err(_) => continue,
            };
            if self.muted.contains(&path) {
                continue;
            }
            let bytes = &buffer[..length];
            if is_notice(bytes) {
                self.board.leave_notice(bytes);
                continue;
            }
            let Ok((heartbeat, _)) = Heartbeat::read_from_prefix(bytes) else { continue };
            let source = NodeId(heartbeat.source.get());
            let Some(peer) = self.peers.iter().position(|peer| peer.peer() == source) else { continue };
            let now = self.now();
            // A bad heartbeat changes nothing; the machine counts it against its rail.
            let _ = self.peers[peer].handle_heartbeat(now, path, bytes, &mut self.outputs);
            self.carry_out(peer);
        }
    }

    fn carry_out(&mut self, place: usize) {
        let peer = self.peers[place].peer();
        let mut outputs = core::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Send { path, datagram } => self.send(peer, path, &datagram),
                Output::Verdict { path, verdict: RailVerdict::Up { round_trip } } => {
                    self.board.post(verdict(peer, path, true, round_trip));
                }
                Output::Verdict { path, verdict: RailVerdict::Down { .. } } => {
                    self.board.post(verdict(peer, path, false, Duration::ZERO));
                }
                Output::Active { .. } | Output::PeerLife { .. } => {}
            }
        }
        self.outputs = outputs;
    }

    fn send(&self, peer: NodeId, path: Path, datagram: &[u8]) {
        if self.muted.contains(&path) {
            return;
        }
        let Some(rail) = self.rails.iter().find(|rail| rail.peer == peer && rail.path == path) else {
            return;
        };
        let at = self.sockets.iter().find(|socket| socket.path == path && socket.local == rail.local);
        if let Some(socket) = at {
            // A heartbeat that does not leave is a heartbeat that is missed.
            let _ = socket.socket.send_to(datagram, rail.remote);
        }
    }

    fn report(&self, place: usize) {
        let machine = &self.peers[place];
        let report = MonitorReport {
            peer: machine.peer(),
            summary: machine.peer_report(),
            rails: machine.rails().collect(),
        };
        self.heard_epoch.fetch_max(report.summary.epoch.0, Ordering::Relaxed);
        let mut reports = self.reports.lock();
        match reports.iter_mut().find(|known| known.peer == report.peer) {
            Some(known) => *known = report,
            None => reports.push(report),
        }
    }
}

fn watches(rails: &[WatchedRail], peer: NodeId, path: Path) -> bool {
    rails.iter().any(|rail| (rail.peer, rail.path) == (peer, path))
}

fn verdict(peer: NodeId, path: Path, up: bool, round_trip: Duration) -> Verdict {
    Verdict { peer, path, up, round_trip }
}
