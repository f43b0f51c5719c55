//! The daemon of one node: starts everything in order, drives it all on one thread, stops it in order.
//!
//! Start: disks (a bad one stops the start before anything is promised) → transport → connectivity monitor →
//! membership → NBD servers → admin socket. Stop: NBD clients are answered and let go → the node leaves the
//! membership → disks are drained and given up as the last thing to happen.

use crate::admin::{Admin, AdminRefusal, Asked, Request, refusal};
use crate::config::{Config, ConfigFaults};
use crate::ctid::RailKeeper;
use crate::disks::DiskStartRefusal;
use crate::distress::{Distress, DistressRefusal, GivingUp, tombstone_file};
use crate::membership::{Decision, MembershipClient, Votes, VotesRefusal};
use crate::memory::{BudgetTooSmall, slab_layout};
use crate::monitor::{Monitor, MonitorRefusal};
use crate::ndd::{self, DiskFault, DiskKeeper};
use crate::report;
use crate::station::{NodeClients, Station};
use crate::surfaces::Surfaces;
use blockdev_engine::{BlockEngine, DiskRefusal, EngineEvent, Library};
use blockdev_nbd::ListenAddress;
use control_proto::ballot_membership::{Input, View};
use control_proto::distress::Reason;
use control_proto::rows::ClusterRows;
use control_proto::view::{BrokenPath, ClusterView, Member};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use transport_endpoint::{Endpoint, EndpointConfig, Idle, SpinSettings, StartError, VerbsOptions};
use transport_proto::identity::{Epoch, Incarnation, NodeId};

/// How a node is started.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The cluster.
    pub config: Config,
    /// Which of its nodes this process is.
    pub id: NodeId,
    /// Folder for what must survive a restart (votes).
    pub state: PathBuf,
    /// Admin socket; `None` for none.
    pub socket: Option<PathBuf>,
    /// How the reactor waits.
    pub spin: SpinSettings,
}

impl From<DiskFault> for NodeRefusal {
    fn from(fault: DiskFault) -> NodeRefusal {
        match fault {
            DiskFault::Open(refusal) => NodeRefusal::Disk(refusal),
            DiskFault::Attach(refusal) => NodeRefusal::Attach(refusal),
        }
    }
}

impl NodeOptions {
    /// A node without admin socket, with the defaults of all else.
    pub fn new(config: Config, id: u16, state: PathBuf) -> NodeOptions {
        NodeOptions { config, id: NodeId(id), state, socket: None, spin: SpinSettings::default() }
    }
}

/// Why a node did not start. Nothing is left running.
#[derive(Debug)]
pub enum NodeRefusal {
    /// The configuration does not fit this node.
    Config(ConfigFaults),
    /// The memory budget does not suffice.
    Memory(BudgetTooSmall),
    /// A disk cannot be used.
    Disk(DiskStartRefusal),
    /// A disk cannot be watched.
    Attach(DiskRefusal),
    /// Votes cannot be kept.
    Votes(VotesRefusal),
    /// The transport cannot run.
    Transport(StartError),
    /// A rail's address cannot be listened on.
    Rail(transport_endpoint::ListenRefusal),
    /// A rail's heartbeats cannot be watched.
    Monitor(MonitorRefusal),
    /// It said that it fails and was not cleared, or could not say so again.
    Distress(DistressRefusal),
    /// An NBD server cannot run.
    Nbd(blockdev_nbd::StartRefusal),
    /// No admin socket.
    Admin(AdminRefusal),
    /// The system refused something that it never refuses.
    System(io::Error),
}

macro_rules! from {
    ($($kind:ident: $source:ty),+ $(,)?) => {
        $(impl From<$source> for NodeRefusal {
            fn from(source: $source) -> NodeRefusal {
                NodeRefusal::$kind(source)
            }
        })+

        impl fmt::Display for NodeRefusal {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(NodeRefusal::$kind(source) => source.fmt(f),)+
                }
            }
        }

        impl std::error::Error for NodeRefusal {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                match self {
                    $(NodeRefusal::$kind(source) => source.source(),)+
                }
            }
        }
    };
}

from! {
    Config: ConfigFaults,
    Memory: BudgetTooSmall,
    Disk: DiskStartRefusal,
    Attach: DiskRefusal,
    Votes: VotesRefusal,
    Transport: StartError,
    Rail: transport_endpoint::ListenRefusal,
    Monitor: MonitorRefusal,
    Distress: DistressRefusal,
    Nbd: blockdev_nbd::StartRefusal,
    Admin: AdminRefusal,
    System: io::Error,
}

/// Why a running node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// It told the others that it fails, and stays out until an operator clears it.
    GaveUp(Reason),
}

/// A stopping node waits this long for its clients' last answers.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// And this long for the others' word that it has left; two nodes are no majority without each other.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(1);
/// Rounds of spinning between two looks at everything that is not data.
const ROUNDS_PER_CONTROL: u32 = 32;

/// A running node.
pub struct Node {
    pub(crate) station: Station,
    pub(crate) rows: Arc<ClusterRows>,
    pub(crate) surfaces: Surfaces,
    rails: RailKeeper,
    disks: DiskKeeper,
    pub(crate) monitor: Monitor,
    pub(crate) distress: Distress,
    pub(crate) giving_up: Option<GivingUp>,
    admin: Option<Admin>,
    pub(crate) view: Option<View>,
    pub(crate) has_quorum: bool,
    pub(crate) started: Instant,
    stop: Arc<AtomicBool>,
    stopping: Option<Instant>,
    leaving: Option<Instant>,
    rounds: u32,
}

/// A life of this node, later than every earlier one: nanoseconds since 1970, or the next number after `last`
/// where the clock was set back. Masters and members never hear an earlier life again.
fn new_life(last: Incarnation) -> Incarnation {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos());
    Incarnation(u64::try_from(nanos).unwrap_or(u64::MAX)).max(Incarnation(last.0.saturating_add(1)))
}

/// The latest life of this node that its last view knows; zero if none.
fn last_life(view: &View, node: NodeId) -> Incarnation {
    let known = view.members.iter().chain(&view.departed).filter(|member| member.node == node);
    known.map(|member| member.incarnation).max().unwrap_or(Incarnation(0))
}

impl Node {
    /// Starts the node; drive it with [`Node::run`].
    pub fn start(options: NodeOptions) -> Result<Node, NodeRefusal> {
        options.config.node(options.id)?;
        let rows = Arc::new(options.config.rows.clone());
        let layout = slab_layout(&rows, options.id)?;
        let state = &options.state;
        std::fs::create_dir_all(state).map_err(|error| VotesRefusal::System(state.clone(), error))?;
        let votes = Votes::load(state)?;
        let mark = tombstone_file(state).map_err(DistressRefusal::Tombstone)?;
        let life = new_life(last_life(&votes.1.view, options.id));
        let configured: Vec<NodeId> = rows.nodes.iter().map(|node| node.id).collect();
        let clients = NodeClients {
            engine: BlockEngine::new(options.id, life),
            membership: MembershipClient::new(options.id, life, &configured, rows.membership, votes),
        };
        let mut config = EndpointConfig::new(options.id, life, options.config.key.clone());
        config.spin = options.spin;
        (config.local_memory, config.shm) = (layout, layout);
        (config.tcp.receive, config.tcp.reserve) = (layout, layout);
        config.verbs = VerbsOptions::for_data_of(layout);
        let mut endpoint = Endpoint::new(config, clients)?;
        let registry = endpoint.registry().try_clone()?;
        let disks = DiskKeeper::start(&mut endpoint.clients().engine, registry, &rows, options.id)?;
        let rails = RailKeeper::start(endpoint.core(), &rows, options.id)?;
        let monitor = Monitor::start(&rows, options.id, life, &options.config.key, endpoint.verdicts())?;
        let me = Member { node: options.id, incarnation: life };
        let stop = Arc::new(AtomicBool::new(false));
        let woken = endpoint.waker();
        let wake = move || {
            // Without it the node looks within its longest sleep.
            let _ = woken.wake();
        };
        let distress = Distress::start(&rows, me, &options.config.key, endpoint.verdicts(), mark, wake)?;
        let (waker, alarm) = (endpoint.waker(), distress.alarm.clone());
        let admin = options.socket.as_deref().map(|path| Admin::open(path, waker, alarm)).transpose()?;
        let mut station = Station::new(endpoint, options.id, rows.clone());
        let surfaces = Surfaces::start(&mut station, &rows)?;
        tracing::info!(node = options.id.0, cluster = rows.name, "node started");
        let mut node = Node {
            station,
            rows,
            surfaces,
            rails,
            disks,
            monitor,
            distress,
            giving_up: None,
            admin,
            view: None,
            has_quorum: false,
            started: Instant::now(),
            stop,
            stopping: None,
            leaving: None,
            rounds: 0,
        };
        node.map_before_first_view();
        Ok(node)
    }

    /// Until the first view, every virtual disk is known and served by nobody: requests wait instead of
    /// failing.
    fn map_before_first_view(&mut self) {
        let nobody = ClusterView {
            epoch: Epoch(0),
            members: Vec::new(),
            broken: Vec::new(),
            rows: self.rows.clone(),
            formed: Epoch(0),
            volumes: Arc::default(),
        };
        let (core, clients) = self.station.endpoint.parts();
        nobody.mappings().for_each(|mapping| ndd::map(&mut clients.engine, core, &mapping));
    }

    /// Set to make the node stop; wake it by [`Node::waker`] afterwards.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Wakes the node's thread.
    pub fn waker(&self) -> Arc<mio::Waker> {
        self.station.endpoint.waker()
    }

    /// Opens virtual disks for other threads of this process.
    pub fn library(&self) -> Library {
        self.station.library.library()
    }

    /// Where the NBD servers listen.
    pub fn nbd_addresses(&self) -> Vec<ListenAddress> {
        self.surfaces.servers().flat_map(|server| server.addresses().cloned()).collect()
    }

    /// From now on the end of this process is told as the end of this node: panics and fatal signals at once,
    /// SIGTERM and SIGINT by a thread of their own, and they make the node stop. For a daemon; a program that
    /// has a node inside keeps its signals and panics to itself.
    pub fn speak_for_process(&self) -> io::Result<()> {
        self.distress.speak_for_process()
    }

    /// Drives the node until it is asked to stop, or gives up.
    pub fn run(mut self) -> io::Result<Ended> {
        let ended = self.drive();
        if ended.is_err() {
            self.distress.say(Reason::TransportFailing);
        }
        ended
    }

    fn drive(&mut self) -> io::Result<Ended> {
        loop {
            let found = self.round();
            self.rounds = self.rounds.wrapping_add(1);
            let control_is_due = found == 0 || self.rounds.is_multiple_of(ROUNDS_PER_CONTROL);
            if control_is_due && let Some(ended) = self.control() {
                return Ok(ended);
            }
            if found > 0 {
                self.station.endpoint.worked();
                self.look()?;
                continue;
            }
            match self.station.endpoint.idle() {
                Idle::Spin => {}
                Idle::Yield => std::thread::yield_now(),
                Idle::Sleep => {
                    self.sleep()?;
                    continue;
                }
            }
            self.look()?;
        }
    }

    /// One round of data: transport, disks, surfaces. Returns how much was found.
    #[inline]
    fn round(&mut self) -> usize {
        let mut found = self.station.endpoint.poll();
        let (core, clients) = self.station.endpoint.parts();
        found += clients.engine.poll(core);
        found += self.station.poll_library();
        found += self.hand_out();
        found += self.surfaces.poll(&mut self.station);
        found + self.hand_out()
    }

    /// Completions to the surfaces that wait for them.
    #[inline]
    fn hand_out(&mut self) -> usize {
        let mut count = 0;
        while let Some((server, completion)) = self.station.next_completion() {
            self.surfaces.complete(server, completion);
            count += 1;
        }
        if count > 0 {
            self.surfaces.flush();
        }
        count
    }

    fn look(&mut self) -> io::Result<()> {
        let surfaces = &mut self.surfaces;
        self.station.endpoint.look(|_, _, event| {
            surfaces.handle_event(event);
        })
    }

    fn sleep(&mut self) -> io::Result<()> {
        let armed = self.station.endpoint.arm()
            && self.station.endpoint.clients().engine.arm()
            && self.station.library.arm()
            && self.surfaces.arm();
        if !armed {
            self.station.endpoint.disarm();
            return Ok(());
        }
        let now = self.station.endpoint.clock();
        let clients = self.station.endpoint.clients();
        let deadline = clients.engine.next_deadline(now).min(clients.membership.machine().next_deadline());
        let ending = self.stopping.is_some() || self.giving_up.is_some();
        let at_most = if ending { Duration::from_millis(5) } else { deadline.since(now) };
        let surfaces = &mut self.surfaces;
        self.station.endpoint.sleep(at_most, |_, _, event| {
            surfaces.handle_event(event);
        })
    }

    // --- control ---

    /// Everything that is not data. `Some`: the node has ended.
    fn control(&mut self) -> Option<Ended> {
        let (core, clients) = self.station.endpoint.parts();
        clients.membership.tick(core);
        if let Some(epoch) = self.monitor.newer_epoch() {
            // Peers that refuse this life cannot tell it so otherwise.
            clients.membership.tell(core, Input::HeardOf(epoch));
        }
        if !self.monitor.is_alive() {
            self.give_up(Reason::TransportFailing);
        }
        while let Some(ending) = self.distress.next_ending() {
            self.on_ending(&ending);
        }
        let (_, clients) = self.station.endpoint.parts();
        self.monitor.set_disk_age(clients.engine.oldest_disk_age().as_millis() as u32);
        let mut news = VecDeque::new();
        while let Some(event) = clients.engine.next_event() {
            news.push_back(event);
        }
        for event in news {
            self.on_engine_event(event);
        }
        while let Some(decision) = self.station.endpoint.clients().membership.next_decision() {
            if let Some(ended) = self.on_decision(decision) {
                return Some(ended);
            }
        }
        self.tidy_up();
        while let Some(asked) = self.admin.as_ref().and_then(|admin| admin.desk.take()) {
            self.answer(&asked);
        }
        match self.distress.alarm.raised() {
            Some(Reason::PlannedStop) => self.stop.store(true, Ordering::Relaxed),
            Some(reason) => self.give_up(reason),
            None => {}
        }
        if self.giving_up.is_some() { self.give_up_step() } else { self.stop_step() }
    }

    fn on_engine_event(&mut self, event: EngineEvent) {
        let (core, clients) = self.station.endpoint.parts();
        match event {
            EngineEvent::PathBroken(report) => {
                tracing::warn!(node = report.node.0, disk = report.disk.0, "path to disk is broken");
                let path = BrokenPath { node: report.node, disk: report.disk };
                clients.membership.tell(core, Input::PathBroken(path));
            }
            EngineEvent::EpochSpent { persisted, .. } => {
                clients.membership.tell(core, Input::EpochSpent(persisted));
            }
            EngineEvent::GateOpened { volume, epoch } => {
                tracing::info!(volume = volume.0, epoch = epoch.0, "this node serves the virtual disk");
            }
            EngineEvent::GateClosed { volume, epoch } => {
                tracing::info!(volume = volume.0, epoch = epoch.0, "gate closed and drained");
            }
            // A newer view is on its way by the membership itself; suspension comes with online
            // reconfiguration.
            EngineEvent::FetchMapping { .. } | EngineEvent::Drained { .. } => {}
        }
    }

    fn on_decision(&mut self, decision: Decision) -> Option<Ended> {
        match decision {
            Decision::View(view) => self.apply(view),
            Decision::QuorumRegained => {
                tracing::info!("majority reachable");
                self.has_quorum = true;
                if self.giving_up.is_none() {
                    let (core, clients) = self.station.endpoint.parts();
                    clients.engine.unfence(core);
                }
            }
            Decision::QuorumLost => {
                tracing::warn!("no majority reachable: serving stops until there is one");
                self.has_quorum = false;
                let (core, clients) = self.station.endpoint.parts();
                clients.engine.fence(core);
            }
            Decision::Removed => self.rejoin(),
            // A node that gives up ends when it is drained.
            Decision::Left if self.giving_up.is_some() => {}
            Decision::Left => {
                tracing::info!("left the cluster");
                return Some(Ended::Stopped);
            }
            Decision::Failed => self.give_up(Reason::RecordsFailing),
        }
        None
    }

    /// The others have gone on without this node: it begins a new life and joins as a newcomer.
    fn rejoin(&mut self) {
        if self.leaving.is_some() || self.giving_up.is_some() {
            return;
        }
        let life = new_life(self.station.endpoint.core().incarnation());
        tracing::warn!(incarnation = life.0, "removed from the cluster: joining again in a new life");
        let (core, clients) = self.station.endpoint.parts();
        clients.engine.fence(core);
        core.reincarnate(life);
        self.monitor.reincarnate(life);
        self.distress.reincarnate(life);
        clients.membership.tell(core, Input::Reincarnate(life));
        if self.has_quorum {
            clients.engine.unfence(core);
        }
    }

    /// Acts on a new view: transport first (who may talk), then the disks' mappings.
    fn apply(&mut self, view: View) {
        let members: Vec<NodeId> = view.members.iter().map(|member| member.node).collect();
        let listed: Vec<u16> = members.iter().map(|node| node.0).collect();
        tracing::info!(epoch = view.epoch.0, members = ?listed, "new view");
        let cluster = ClusterView {
            epoch: view.epoch,
            members: view.members.clone(),
            broken: view.broken.clone(),
            rows: self.rows.clone(),
            formed: view.epoch,
            volumes: Arc::default(),
        };
        let (core, clients) = self.station.endpoint.parts();
        let departed: Vec<(NodeId, Incarnation)> =
            view.departed.iter().map(|gone| (gone.node, gone.incarnation)).collect();
        core.configure_lives(view.epoch, &members, &departed);
        clients.engine.members(&members);
        cluster.mappings().for_each(|mapping| ndd::map(&mut clients.engine, core, &mapping));
        self.monitor.configure(view.epoch);
        let endings = self.distress.configure(view.epoch, &view.members);
        self.view = Some(view);
        for ending in &endings {
            self.on_ending(ending);
        }
    }

    /// Acts on rows that changed, while everything runs: rails, then disks, then what surfaces serve. The
    /// mappings by these rows come after it.
    #[allow(dead_code, reason = "rows change once they come out of the replicated database")]
    pub(crate) fn follow_rows(&mut self, rows: Arc<ClusterRows>) {
        let before = std::mem::replace(&mut self.rows, rows.clone());
        self.station.rows = rows.clone();
        let (core, clients) = self.station.endpoint.parts();
        self.rails.follow(core, &self.monitor, &rows);
        self.distress.follow_rows(&rows);
        let news = self.disks.follow(&mut clients.engine, &rows);
        for volume in ndd::removed(&before, &rows) {
            tracing::info!(volume = volume.0, "the virtual disk is not configured any more");
            self.surfaces.close_volume(volume);
            clients.engine.remove(core, volume);
        }
        self.surfaces.follow(&mut self.station, &rows);
        self.tell_paths(news);
    }

    /// Tells the membership of paths that this node found broken or mended by itself.
    fn tell_paths(&mut self, news: Vec<(BrokenPath, bool)>) {
        let (core, clients) = self.station.endpoint.parts();
        for (path, broken) in news {
            let input = if broken { Input::PathBroken(path) } else { Input::PathMended(path) };
            clients.membership.tell(core, input);
        }
    }

    /// Tries again what could not be done when rows changed.
    fn tidy_up(&mut self) {
        self.surfaces.control(&mut self.station);
        self.station.close_idle();
        let rows = self.rows.clone();
        let (core, clients) = self.station.endpoint.parts();
        self.rails.control(core);
        let news = self.disks.control(&mut clients.engine, &rows);
        self.tell_paths(news);
    }

    /// The configuration number in force here.
    pub(crate) fn epoch(&self) -> Epoch {
        self.view.as_ref().map_or(Epoch(0), |view| view.epoch)
    }

    // --- admin ---

    fn answer(&mut self, asked: &Asked) {
        let answer = match asked.request {
            Request::Status => serde_json::to_string(&report::status(self))
                .unwrap_or_else(|fault| refusal(&fault.to_string())),
            Request::CutRail { link, rail } => self.mute(link, rail, true),
            Request::MendRail { link, rail } => self.mute(link, rail, false),
            Request::PowerFail => done(),
            Request::Stop => {
                self.stop.store(true, Ordering::Relaxed);
                done()
            }
        };
        // Whoever asked may have gone.
        let _ = asked.answer.try_send(answer);
    }

    fn mute(&mut self, link: u8, rail: u8, muted: bool) -> String {
        if self.monitor.mute(link, rail, muted) {
            tracing::warn!(link, rail, muted, "rail by order of the administrator");
            done()
        } else {
            refusal(&format!("this node has no rail {rail} in link {link}; see netdisk status"))
        }
    }

    // --- stop ---

    /// One step towards the end, once asked to stop.
    fn stop_step(&mut self) -> Option<Ended> {
        if !self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let since = *self.stopping.get_or_insert_with(|| {
            tracing::info!("stopping");
            self.distress.say(Reason::PlannedStop);
            self.surfaces.stop();
            Instant::now()
        });
        if self.surfaces.connections() > 0 && since.elapsed() < STOP_TIME_MAX {
            return None;
        }
        let Some(leaving) = self.leaving else {
            self.leaving = Some(Instant::now());
            let (core, clients) = self.station.endpoint.parts();
            clients.engine.fence(core);
            clients.membership.tell(core, Input::Leave);
            return None;
        };
        if self.is_drained() {
            self.distress.say_fenced(Reason::PlannedStop);
        }
        let lonely = self.rows.nodes.len() == 1 || !self.has_quorum;
        (lonely || leaving.elapsed() > LEAVE_TIME_MAX).then_some(Ended::Stopped)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.distress.say(Reason::Panic);
        }
    }
}

fn done() -> String {
    serde_json::json!({ "done": true }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_proto::view::Member;

    // proves: C3
    #[test]
    fn a_new_life_is_later_than_the_last_though_the_clock_was_set_back() {
        let life = |node, nanos| Member { node: NodeId(node), incarnation: Incarnation(nanos) };
        let future = 1 << 62;
        let view = View {
            members: vec![life(1, 7), life(2, 9)],
            departed: vec![life(3, future)],
            ..View::default()
        };
        assert_eq!(last_life(&view, NodeId(1)), Incarnation(7));
        assert!(new_life(last_life(&view, NodeId(1))) > Incarnation(7));
        assert_eq!(new_life(last_life(&view, NodeId(3))), Incarnation(future + 1));
        assert_eq!(last_life(&view, NodeId(4)), Incarnation(0));
    }
}
