//! The endpoint: clients, core, and the loop that drives them.

use crate::client::Clients;
use crate::core::Core;
use crate::dispatch;
use crate::inbox::Inbox;
use crate::message::OutgoingPool;
use crate::plan::ProviderKind;
use crate::providers::{Providers, WAKER_TOKEN};
use crate::spin::{Idle, Spin, SpinSettings};
use crate::verbs::VerbsSeat;
use crate::verdicts::VerdictBoard;
use core::fmt;
use core::time::Duration;
use mio::event::Event;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;
use transport_buf::{RegionError, Slab, SlabLayout, SlotCopy};
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{ClientId, Epoch, Incarnation, NodeId};
use transport_proto::time::Time;
use transport_shm::ShmProvider;
use transport_tcp::{TcpOptions, TcpProvider};
use transport_verbs::VerbsOptions;
use transport_verbs::fabric::double::DoubleNetwork;

/// How an endpoint is made.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// This node.
    pub node: NodeId,
    /// This life of it.
    pub incarnation: Incarnation,
    /// Secret that all nodes share.
    pub key: ClusterKey,
    /// Clients to open at once.
    pub clients: Vec<ClientId>,
    /// How it waits.
    pub spin: SpinSettings,
    /// Cut of this node's own memory (messages to socket rails and striped ones are built in it).
    pub local_memory: SlabLayout,
    /// Cut of the memory that each shared memory rail grants to its peer.
    pub shm: SlabLayout,
    /// TCP rails.
    pub tcp: TcpOptions,
    /// Verbs rails.
    pub verbs: VerbsOptions,
    /// For tests: rails of kind verbs run on this network instead of on devices.
    pub simulated_verbs: Option<DoubleNetwork>,
}

impl EndpointConfig {
    /// A configuration with the defaults of everything that has one.
    pub fn new(node: NodeId, incarnation: Incarnation, key: ClusterKey) -> EndpointConfig {
        EndpointConfig {
            node,
            incarnation,
            key,
            clients: vec![
                ClientId::MEMBERSHIP,
                ClientId::BLOCK,
                ClientId::USER,
                ClientId::CONFIGURATION,
                ClientId::LEGS,
                ClientId::VOLUME_LEGS,
            ],
            spin: SpinSettings::default(),
            local_memory: SlabLayout::default(),
            shm: SlabLayout::default(),
            tcp: TcpOptions::default(),
            verbs: VerbsOptions::default(),
            simulated_verbs: None,
        }
    }
}

/// Why an endpoint could not start.
#[derive(Debug)]
pub enum StartError {
    /// No event queue, waker or descriptor to be had.
    System(io::Error),
    /// Not enough shared memory.
    Memory(RegionError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::System(_) => {
                write!(f, "cannot start the transport: raise the limit of open files (ulimit -n)")
            }
            StartError::Memory(_) => write!(f, "cannot start the transport: not enough shared memory"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::System(source) => Some(source),
            StartError::Memory(source) => Some(source),
        }
    }
}

/// The cluster transport interface of one node (doc alias: CTI). Driven by the thread that owns it.
///
/// The loop, by the owner or by [`Endpoint::run_once`]: [`Endpoint::poll`] for one round of work; when a
/// round was idle [`Endpoint::rest`], or, with more than one thing to arm, ask [`Endpoint::idle`] what to do;
/// before sleeping [`Endpoint::arm`], then [`Endpoint::sleep`]; whenever it does not sleep,
/// [`Endpoint::look`]. Other sources of events of the same thread (sockets of surfaces, disks) register with
/// [`Endpoint::registry`] under tokens from [`crate::FIRST_FREE_TOKEN`] on.
#[doc(alias = "CTI")]
pub struct Endpoint<C: Clients> {
    core: Core,
    clients: C,
    mio: mio::Poll,
    events: mio::Events,
    waker: Arc<mio::Waker>,
    inbox: Inbox,
    /// The frame of shared memory that is acted on.
    copy: SlotCopy,
    spin: Spin,
    /// Something was found since the clock was last read.
    busy: bool,
    started: Instant,
    /// Rounds since the event queue was last looked at, which was then.
    rounds: u32,
    looked: Time,
    turns: u32,
    /// Turns in a row in which a provider had nothing.
    silent: [u32; ProviderKind::COUNT],
}

/// Rounds of spinning between two looks at the operating system's event queue (0.3 µs each).
const ROUNDS_PER_LOOK: u32 = 512;
/// Longest time between two looks while rounds find work, as far as clock readings tell: callers and
/// handshakes on sockets must not wait for a pause in the traffic, which may never come.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// Turns of the loop between two readings of the clock (20 to 30 ns each) while nothing is found.
const TURNS_PER_CLOCK: u32 = 16;
/// Turns in a row after which a provider counts as silent.
const SILENT_TURNS: u32 = 256;
/// Longest sleep while leases are out: a lease dropped by another thread returns its credit by then.
const LEASE_SLEEP_MAX: Duration = Duration::from_millis(1);
/// Longest sleep at all.
const SLEEP_MAX: Duration = Duration::from_millis(500);

impl<C: Clients> Endpoint<C> {
    /// Makes an endpoint without peers.
    pub fn new(config: EndpointConfig, clients: C) -> Result<Endpoint<C>, StartError> {
        let mio = mio::Poll::new().map_err(StartError::System)?;
        let waker = Arc::new(mio::Waker::new(mio.registry(), WAKER_TOKEN).map_err(StartError::System)?);
        let verdicts = Arc::new(VerdictBoard::default());
        verdicts.set_waker(waker.clone());
        let local = Slab::create(config.local_memory).map_err(StartError::Memory)?;
        let mut providers = Providers {
            shm: ShmProvider::new(config.shm),
            tcp: TcpProvider::new(config.tcp).map_err(StartError::Memory)?,
            tcp_posted: false,
            verbs: VerbsSeat::new(config.verbs, config.simulated_verbs, local.region().clone()),
        };
        providers.attach(mio.registry()).map_err(StartError::System)?;
        let mut core = Core {
            node: config.node,
            incarnation: config.incarnation,
            epoch: Epoch(0),
            key: config.key,
            providers,
            peers: Vec::new(),
            peer_at: Vec::new(),
            owners: Default::default(),
            handshakes: HashMap::new(),
            clients: 0,
            notices: Vec::with_capacity(64),
            outgoing: OutgoingPool::default(),
            leased: false,
            now: Time(1),
            local,
            verdicts,
            rails_deadline: Time(0),
            faults: Default::default(),
            listeners: Vec::new(),
        };
        for client in config.clients {
            core.open_client(client);
        }
        Ok(Endpoint {
            core,
            clients,
            mio,
            events: mio::Events::with_capacity(256),
            waker,
            inbox: Inbox::default(),
            copy: SlotCopy::default(),
            spin: Spin::new(config.spin),
            busy: false,
            started: Instant::now(),
            rounds: 0,
            looked: Time(0),
            turns: TURNS_PER_CLOCK - 1,
            silent: [0; ProviderKind::COUNT],
        })
    }

    /// What call-backs see.
    pub fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    /// The clients.
    pub fn clients(&mut self) -> &mut C {
        &mut self.clients
    }

    /// Both at once.
    pub fn parts(&mut self) -> (&mut Core, &mut C) {
        (&mut self.core, &mut self.clients)
    }

    /// Where other event sources of this thread register.
    pub fn registry(&self) -> &mio::Registry {
        self.mio.registry()
    }

    /// Wakes the loop from another thread.
    pub fn waker(&self) -> Arc<mio::Waker> {
        self.waker.clone()
    }

    /// Where the connectivity monitor leaves its verdicts.
    pub fn verdicts(&self) -> Arc<VerdictBoard> {
        self.core.verdicts.clone()
    }

    /// Now, on the endpoint's clock (nanoseconds since it was made).
    #[inline]
    pub fn clock(&self) -> Time {
        Time(self.started.elapsed().as_nanos() as u64 + 1)
    }

    /// One round: takes what has arrived, calls the clients, sends what is due. Returns how much was found; 0
    /// = idle.
    ///
    /// Idle rounds are kept short, since a spinning core spends most of its time in them: the clock is read
    /// and the housekeeping done in every sixteenth, and a provider that has long been silent is asked in
    /// every sixteenth too.
    #[inline]
    pub fn poll(&mut self) -> usize {
        self.turns = self.turns.wrapping_add(1);
        let thorough = self.turns.is_multiple_of(TURNS_PER_CLOCK);
        if thorough {
            self.core.now = self.clock();
        }
        let mut found = self.poll_provider(ProviderKind::Shm, thorough);
        found += self.poll_provider(ProviderKind::Tcp, thorough);
        if self.core.providers.verbs.is_taken() {
            found += self.poll_provider(ProviderKind::Verbs, thorough);
        }
        if thorough {
            self.housekeeping();
        } else if found > 0 {
            self.aftermath();
        }
        self.core.providers.flush(thorough);
        self.busy |= found > 0;
        if thorough && core::mem::take(&mut self.busy) {
            // The clock stands still in between.
            self.spin.worked(self.core.now);
            if self.core.now.since(self.looked) >= LOOK_EVERY {
                self.rounds = ROUNDS_PER_LOOK;
            }
        }
        found
    }

    #[inline]
    fn poll_provider(&mut self, kind: ProviderKind, thorough: bool) -> usize {
        if self.silent[kind as usize] >= SILENT_TURNS && !thorough {
            return 0;
        }
        let mut found = self.core.providers.poll(kind, self.core.now, &mut self.inbox);
        if found > 0 {
            dispatch::reports(&mut self.core, &mut self.clients, kind, &mut self.inbox);
        }
        if kind == ProviderKind::Shm {
            found += dispatch::frames_of_shm(&mut self.core, &mut self.clients, &mut self.copy);
        }
        let silent = &mut self.silent[kind as usize];
        if found > 0 {
            *silent = 0;
        } else {
            *silent = silent.saturating_add(1);
        }
        found
    }

    #[inline]
    fn housekeeping(&mut self) {
        self.core.take_verdicts();
        self.core.tick_rails();
        self.core.collect_leases();
        self.core.mend_gaps();
        self.core.send_acks();
        self.core.pump_stalled();
        dispatch::notices(&mut self.core, &mut self.clients);
    }

    /// What cannot wait for the next thorough turn when something was found.
    #[inline]
    fn aftermath(&mut self) {
        if self.core.peers.iter().any(|peer| peer.stalled || peer.session.owes_at_once()) {
            self.core.send_acks();
            self.core.pump_stalled();
        }
        dispatch::notices(&mut self.core, &mut self.clients);
    }

    /// Something outside of the transport kept the thread busy: spin as after work of our own.
    #[inline]
    pub fn worked(&mut self) {
        self.spin.worked(self.core.now);
    }

    /// What to do after an idle round.
    #[inline]
    pub fn idle(&mut self) -> Idle {
        self.spin.idle(self.core.now)
    }

    /// Looks at the event queue without sleeping, now and then while spinning. To be called after each round
    /// that is not followed by a sleep, whether or not it found something. Foreign events go to `foreign`.
    #[inline]
    pub fn look(&mut self, foreign: impl FnMut(&mut Core, &mut C, &Event)) -> io::Result<()> {
        self.rounds += 1;
        if self.rounds < ROUNDS_PER_LOOK {
            return Ok(());
        }
        self.wait(Duration::ZERO, foreign)
    }

    /// Prepares to sleep; `false`: something is there, poll again, after a [`Endpoint::look`].
    pub fn arm(&mut self) -> bool {
        self.core.providers.arm()
    }

    /// Takes back [`Endpoint::arm`] without having slept.
    pub fn disarm(&mut self) {
        self.core.providers.disarm();
    }

    /// Sleeps until something happens, a deadline of the transport comes, or `at_most` has passed; then
    /// disarms.
    pub fn sleep(
        &mut self,
        at_most: Duration,
        foreign: impl FnMut(&mut Core, &mut C, &Event),
    ) -> io::Result<()> {
        let deadline = self.core.next_deadline().since(self.clock());
        let mut span = at_most.min(SLEEP_MAX).min(deadline);
        if self.core.lends() {
            span = span.min(LEASE_SLEEP_MAX);
        }
        let slept = self.wait(span, foreign);
        self.core.providers.disarm();
        slept
    }

    fn wait(&mut self, span: Duration, mut foreign: impl FnMut(&mut Core, &mut C, &Event)) -> io::Result<()> {
        (self.rounds, self.looked) = (0, self.core.now);
        match self.mio.poll(&mut self.events, Some(span)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        if span > Duration::ZERO || !self.events.is_empty() {
            // Time has passed, or something was announced: the next turn is a thorough one.
            self.turns = TURNS_PER_CLOCK - 1;
            self.silent = [0; ProviderKind::COUNT];
        }
        for event in &self.events {
            let ours = self.core.providers.event(
                event.token(),
                event.is_readable() || event.is_read_closed() || event.is_error(),
                event.is_writable(),
            );
            if !ours && event.token() != WAKER_TOKEN {
                foreign(&mut self.core, &mut self.clients, event);
            }
        }
        Ok(())
    }

    /// What a loop does after an idle round: spins, yields, or sleeps for at most `at_most` if `may_sleep`
    /// holds, which is asked only then. Foreign events go to `foreign`.
    #[inline]
    pub fn rest(
        &mut self,
        may_sleep: impl FnOnce(&mut C) -> bool,
        at_most: Duration,
        foreign: impl FnMut(&mut Core, &mut C, &Event),
    ) -> io::Result<()> {
        match self.idle() {
            // No pause instruction: it takes longer (some 140 cycles) than a turn, and a message would wait
            // for it.
            Idle::Spin => {}
            Idle::Yield => std::thread::yield_now(),
            Idle::Sleep if may_sleep(&mut self.clients) && self.arm() => {
                return self.sleep(at_most, foreign);
            }
            // What keeps the thread awake may be waiting for a socket: it is looked at all the same.
            Idle::Sleep => {}
        }
        self.look(foreign)
    }

    /// One turn of the loop for a program that has nothing else on this thread: a round of work, and if it
    /// was idle a [`Endpoint::rest`] of at most `at_most`.
    pub fn run_once(&mut self, at_most: Duration) -> io::Result<usize> {
        let found = self.poll();
        if found > 0 {
            self.look(|_, _, _| ())?;
        } else {
            self.rest(|_| true, at_most, |_, _, _| ())?;
        }
        Ok(found)
    }
}

impl Core {
    /// Posts what waits for a rail to have room.
    #[inline]
    fn pump_stalled(&mut self) {
        for at in 0..self.peers.len() {
            if self.peers[at].stalled {
                self.pump(at);
            }
        }
    }

    /// Asks again for messages that were dropped for want of memory, once their clients have given some back.
    #[inline]
    fn mend_gaps(&mut self) {
        for peer in self.peers.iter_mut().filter(|peer| peer.session.has_gaps()) {
            peer.session.mend_gaps(self.now, |client| self.providers.tcp.has_room_for(client.0));
        }
    }

    /// Sends the acknowledgements that are due by themselves.
    #[inline]
    pub(crate) fn send_acks(&mut self) {
        for peer in &mut self.peers {
            if !peer.session.owes() {
                continue;
            }
            while let Some((client, path, header)) = peer.session.due_acks(self.now) {
                let Some(wire) = peer.wires[path.index()] else { break };
                let posted =
                    self.providers.post(wire, &header, &[], &[], transport_provider::PayloadSlice::EMPTY);
                if posted.is_err() {
                    peer.stalled = true;
                    break;
                }
                peer.session.told(client);
            }
        }
    }

    /// When the transport next wants to be polled though nothing has arrived.
    pub(crate) fn next_deadline(&self) -> Time {
        if !self.notices.is_empty() {
            // Left by a call from outside of the round (a new configuration): the clients hear it in the
            // next.
            return self.now;
        }
        let acks = self.peers.iter().map(|peer| {
            // One that no rail takes now goes with the stalled: a deadline that has passed would keep the
            // thread awake.
            let may = peer.session.routes().any_up() && !peer.stalled;
            if may { peer.session.ack_deadline() } else { Time::NEVER }
        });
        let stalled = self.peers.iter().any(|peer| peer.stalled || peer.session.has_gaps());
        let retry = if stalled { self.now + Duration::from_millis(1) } else { Time::NEVER };
        acks.min().unwrap_or(Time::NEVER).min(self.rails_deadline).min(retry)
    }
}
