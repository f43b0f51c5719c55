//! The daemon of one node: drives everything on one thread, and stops it in order. (`start.rs` starts it.)
//!
//! Stop: NBD clients are answered and let go → the node leaves the membership → disks are drained and given
//! up as the last thing to happen.

use crate::admin::Admin;
use crate::arrival::Arrival;
use crate::consensus::{Asker, Consensus};
use crate::ctid::RailKeeper;
use crate::desk::Desk;
use crate::distress::{Distress, GivingUp};
use crate::genesis::Genesis;
use crate::join::Door;
use crate::lease::{LeaseWatch, boot_time};
use crate::leaving::{Depart, Farewell};
use crate::membership::Decision;
use crate::monitor::Monitor;
use crate::ndd::DiskKeeper;
use crate::pool::Eraser;
use crate::reconfigure::Reconfigurations;
use crate::replica::Replica;
use crate::station::Station;
use crate::surfaces::Surfaces;
use blockdev_engine::{EngineEvent, Library};
use blockdev_nbd::ListenAddress;
use blockdev_proto::geometry::VolumeId;
use control_proto::ccd::Change;
use control_proto::distress::Reason;
use control_proto::membership::Input;
use control_proto::rows::ClusterRows;
use control_proto::view::BrokenPath;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use transport_endpoint::Idle;
use transport_proto::identity::{Epoch, NodeId};
use transport_proto::time::Time;

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
/// And this long for the word that it has left; without a majority nobody can give it.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(1);
/// Rounds of spinning between two looks at everything that is not data.
const ROUNDS_PER_CONTROL: u32 = 32;

/// A running node.
pub struct Node {
    pub(crate) genesis: Genesis,
    pub(crate) station: Station,
    pub(crate) replica: Replica,
    pub(crate) rows: Arc<ClusterRows>,
    pub(crate) surfaces: Surfaces,
    pub(crate) rails: RailKeeper,
    pub(crate) disks: DiskKeeper,
    pub(crate) monitor: Monitor,
    pub(crate) distress: Distress,
    pub(crate) lease: LeaseWatch,
    pub(crate) giving_up: Option<GivingUp>,
    admin: Option<Admin>,
    /// Where machines that want to join knock; closed when dropped.
    pub(crate) door: Option<Door>,
    /// This node joined and has not arrived yet.
    pub(crate) arrival: Option<Arrival>,
    /// Another node has gone for good, and is to hear it.
    pub(crate) farewell: Option<Farewell>,
    /// It goes for good when it stops.
    pub(crate) departing: bool,
    /// What the log says of its departure.
    pub(crate) depart: Depart,
    /// Its state.
    pub(crate) folder: PathBuf,
    pub(crate) desk: Desk,
    pub(crate) reconfigurations: Reconfigurations,
    /// Erases the regions that it lends to the pool.
    pub(crate) eraser: Eraser,
    pub(crate) has_quorum: bool,
    /// Its own row is in entries of the log that it does not have yet.
    pub(crate) joining: bool,
    /// It has had a quorum in this process.
    pub(crate) was_in: bool,
    /// Virtual disks whose requests fail for want of a quorum.
    pub(crate) failing: BTreeSet<VolumeId>,
    pub(crate) started: Instant,
    pub(crate) stop: Arc<AtomicBool>,
    stopping: Option<Instant>,
    leaving: Option<Instant>,
    /// The members go on without it, as it asked.
    has_left: bool,
    rounds: u32,
}

/// Those who keep a part of the node in line with the rows, or watch over it.
pub(crate) struct Keepers {
    pub(crate) surfaces: Surfaces,
    pub(crate) rails: RailKeeper,
    pub(crate) disks: DiskKeeper,
    pub(crate) monitor: Monitor,
    pub(crate) distress: Distress,
    pub(crate) lease: LeaseWatch,
}

impl Node {
    pub(crate) fn of_parts(
        genesis: Genesis,
        replica: Replica,
        station: Station,
        keepers: Keepers,
        admin: Option<Admin>,
        folder: PathBuf,
    ) -> Node {
        let reconfigurations = Reconfigurations::new(genesis.node);
        Node {
            joining: replica.database().rows().node(genesis.node).is_none(),
            genesis,
            rows: station.rows.clone(),
            station,
            replica,
            surfaces: keepers.surfaces,
            rails: keepers.rails,
            disks: keepers.disks,
            monitor: keepers.monitor,
            distress: keepers.distress,
            lease: keepers.lease,
            giving_up: None,
            admin,
            door: None,
            arrival: None,
            farewell: None,
            departing: false,
            depart: Depart::NotAsked,
            folder,
            desk: Desk::default(),
            reconfigurations,
            eraser: Eraser::default(),
            has_quorum: false,
            was_in: false,
            failing: BTreeSet::new(),
            started: Instant::now(),
            stop: Arc::new(AtomicBool::new(false)),
            stopping: None,
            leaving: None,
            has_left: false,
            rounds: 0,
        }
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
                self.distress.await_doom();
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
            && !self.replica.has_steps()
            && self.surfaces.arm();
        if !armed {
            self.station.endpoint.disarm();
            // Whoever keeps the thread awake may wait for what a socket has to say.
            return self.look();
        }
        let now = self.station.endpoint.clock();
        let clients = self.station.endpoint.clients();
        let deadline = clients.engine.next_deadline(now).min(clients.membership.machine().next_deadline());
        let log = clients.consensus.as_ref().map_or(Time::NEVER, |log| log.next_due(now));
        let mut at_most = deadline.min(log).min(self.reconfigurations.next_deadline()).since(now);
        if self.stopping.is_some() || self.giving_up.is_some() {
            at_most = at_most.min(Duration::from_millis(5));
        }
        let surfaces = &mut self.surfaces;
        self.station.endpoint.sleep(at_most, |_, _, event| {
            surfaces.handle_event(event);
        })
    }

    // --- control ---

    /// Everything that is not data. `Some`: the node has ended.
    fn control(&mut self) -> Option<Ended> {
        self.take_news();
        self.follow_log();
        self.watch_over_members();
        let mut news = VecDeque::new();
        while let Some(event) = self.station.endpoint.clients().engine.next_event() {
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
        self.keep_lease();
        self.reconfigure();
        self.arrive();
        self.erase_regions();
        self.tidy_up();
        while let Some(asked) = self.admin.as_ref().and_then(|admin| admin.desk.take()) {
            self.answer(asked);
        }
        self.settle_asked();
        match self.distress.alarm.raised() {
            Some(Reason::PlannedStop) => self.stop.store(true, Ordering::Relaxed),
            Some(reason) => self.give_up(reason),
            None => {}
        }
        if self.distress.is_doomed() {
            self.give_up(Reason::Panic);
        }
        if self.giving_up.is_some() { self.give_up_step() } else { self.stop_step() }
    }

    /// News of the log: leader, answers, its end.
    fn follow_log(&mut self) {
        let (core, clients) = self.station.endpoint.parts();
        let Some(consensus) = clients.consensus.as_mut() else { return };
        if !consensus.take_due(core.now()) {
            return;
        }
        consensus.poll(core);
        if let Some(fatal) = consensus.fatal() {
            if self.giving_up.is_none() {
                tracing::error!("the log of the configuration has stopped: {fatal}");
            }
            return self.give_up(Reason::RecordsFailing);
        }
        if consensus.control(core.now()) {
            let (leader, term) = (consensus.state().leader, consensus.state().term);
            clients.membership.tell(core, Input::Leader { leader, term });
        }
        while let Some((number, result)) = consensus.next_read() {
            self.desk.read(number, result);
        }
        while let Some(at) = consensus.next_confirmed() {
            clients.membership.tell(core, Input::Confirmed { at });
        }
        let (voters, others): (Vec<_>, Vec<_>) = self.rows.nodes.iter().partition(|row| row.voter);
        let ids = |rows: Vec<&control_proto::rows::NodeRow>| rows.into_iter().map(|row| row.id).collect();
        consensus.reconcile(core.now(), ids(voters), ids(others));
        self.take_finished();
    }

    /// Answers of the log to what this node proposed.
    fn take_finished(&mut self) {
        loop {
            let (core, clients) = self.station.endpoint.parts();
            let Some(finished) = clients.consensus.as_mut().and_then(Consensus::next_finished) else {
                return;
            };
            match finished.asker {
                Asker::Members => clients.membership.tell(core, Input::MembersAnswered),
                Asker::Raise => clients.membership.tell(core, Input::RaiseAnswered),
                Asker::Steward => clients.membership.tell(core, Input::StewardAnswered),
                Asker::Admin(number) => self.desk.finished(number, finished.result),
                Asker::Departure => self.departure_answered(&finished.result),
                Asker::Participant => self.reconfigurations.answered(core.now()),
                Asker::Overseer | Asker::Arrival | Asker::Witness | Asker::Mirror(_) | Asker::Region(_) => {}
            }
        }
    }

    fn watch_over_members(&mut self) {
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
        let (core, clients) = self.station.endpoint.parts();
        let log_age = clients.consensus.as_ref().map_or(Duration::ZERO, Consensus::disk_age);
        let age = clients.engine.oldest_disk_age().max(log_age);
        // In steps: what is young is nobody's concern, and each change is told.
        let age = Duration::from_millis(age.as_millis() as u64 / 100 * 100);
        if self.monitor.set_disk_age(age.as_millis() as u32) {
            clients.membership.tell(core, Input::OldestIo(age));
        }
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
            EngineEvent::Mirror { volume, generation, proposal } => {
                self.speak_for_mirror(volume, generation, proposal);
            }
            EngineEvent::GateClosed { volume, epoch } => {
                tracing::info!(volume = volume.0, epoch = epoch.0, "gate closed and drained");
            }
            EngineEvent::Settled(settled) => self.desk.in_force(&settled),
            // A newer mapping is on its way by the log itself; who stands still is asked in each round.
            EngineEvent::FetchMapping { .. } | EngineEvent::Drained { .. } => {}
        }
    }

    fn on_decision(&mut self, decision: Decision) -> Option<Ended> {
        match decision {
            Decision::Propose(change) => self.propose_for_membership(change),
            Decision::Confirm(at) => {
                let clients = self.station.endpoint.clients();
                clients.consensus.as_mut()?.confirm(at);
            }
            Decision::QuorumRegained => {
                tracing::info!("lease held: majority reachable");
                (self.has_quorum, self.was_in) = (true, true);
                self.keep_lease();
                if self.giving_up.is_none() {
                    let (core, clients) = self.station.endpoint.parts();
                    clients.engine.unfence(core);
                }
                self.obey_policies();
            }
            Decision::QuorumLost => {
                tracing::warn!("lease over, no majority reachable: serving stops until there is one");
                self.has_quorum = false;
                let (core, clients) = self.station.endpoint.parts();
                clients.engine.fence(core);
                self.obey_policies();
            }
            Decision::Removed => self.rejoin(),
            // A node that gives up ends when it is drained.
            Decision::Left if self.giving_up.is_some() => {}
            Decision::Left => {
                tracing::info!("left the cluster");
                self.has_left = true;
            }
        }
        None
    }

    fn propose_for_membership(&mut self, change: Change) {
        let (core, clients) = self.station.endpoint.parts();
        let (asker, answered) = match change {
            Change::RaiseEpoch { .. } => (Asker::Raise, Input::RaiseAnswered),
            Change::Steward(_) => (Asker::Steward, Input::StewardAnswered),
            _ => (Asker::Members, Input::MembersAnswered),
        };
        let taken = match clients.consensus.as_mut() {
            Some(consensus) => consensus.propose(asker, Vec::new(), change).is_ok(),
            None => false,
        };
        if !taken {
            clients.membership.tell(core, answered);
        }
    }

    /// Tells the watch how long the lease lasts, and closes gates that the watch has shut.
    fn keep_lease(&mut self) {
        // Read first: what is left of the lease is then never taken for more than it is.
        let boot = boot_time();
        let now = self.station.endpoint.clock();
        let (core, clients) = self.station.endpoint.parts();
        let left = clients.membership.machine().lease_until().since(now);
        if self.has_quorum && !left.is_zero() {
            self.lease.renew(boot + left);
        }
        if self.lease.has_run_out() {
            if self.has_quorum {
                // The reactor was late: what follows is decided by the membership in its next step.
                clients.engine.fence(core);
                clients.membership.tell(core, Input::Tick);
            }
            if clients.engine.executing() == 0 {
                self.lease.closed();
            }
        }
    }

    /// Takes part in reconfigurations, and watches over their deadlines.
    fn reconfigure(&mut self) {
        let database = self.replica.database();
        let (core, clients) = self.station.endpoint.parts();
        let now = core.now();
        let Some(consensus) = clients.consensus.as_mut() else { return };
        let (engine, disks, rows) = (&clients.engine, &self.disks, &self.rows);
        let cannot = |row: &control_proto::ccd::Reconfiguration| disks.cannot(engine, rows, row);
        self.reconfigurations.take_part(now, database, engine, consensus, cannot);
        self.reconfigurations.oversee(now, consensus);
    }

    /// The configuration number in force here.
    pub(crate) fn epoch(&self) -> Epoch {
        self.replica.database().number()
    }

    /// Members at that number.
    pub(crate) fn members(&self) -> impl Iterator<Item = NodeId> {
        self.replica.database().membership().members.iter().map(|member| member.node)
    }

    // --- stop ---

    /// Whether the node has said that it leaves.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.is_some() || self.giving_up.is_some()
    }

    /// One step towards the end, once asked to stop.
    fn stop_step(&mut self) -> Option<Ended> {
        if !self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let since = *self.stopping.get_or_insert_with(|| {
            tracing::info!("stopping");
            if !self.departing {
                self.distress.say(Reason::PlannedStop);
            }
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
            if !self.departing {
                clients.membership.tell(core, Input::Leave);
            }
            return None;
        };
        if self.departing {
            return self.depart_step(leaving);
        }
        let drained = self.is_drained();
        if drained {
            // Also when it has left already: as leader of the log it may be the only one to know.
            self.distress.say_fenced(Reason::PlannedStop);
        }
        let lonely = self.members().count() <= 1 || !self.has_quorum;
        let ends = lonely || (self.has_left && drained) || leaving.elapsed() > LEAVE_TIME_MAX;
        ends.then_some(Ended::Stopped)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.distress.say(Reason::Panic);
        }
    }
}
