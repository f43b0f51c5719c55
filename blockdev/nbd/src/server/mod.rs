//! The NBD server: listeners and clients on a reactor that somebody else owns.
//!
//! Everything happens on the reactor's thread, in this order, round after round:
//! 1. [`NbdServer::handle_event`] for each event of the server's tokens;
//! 2. [`NbdServer::poll`], which reads, parses, submits and writes;
//! 3. [`NbdServer::complete`] for each completion of the service, then [`NbdServer::flush`].
//!
//! While the reactor spins it calls `poll` without asking the kernel for events: the sockets that were active
//! lately are read directly, which is what makes a request cheap (a wake-up of a halted core costs 40 µs). It
//! must still ask for events every few dozen rounds, for new clients and for those that hung up. Before it
//! sleeps it asks [`NbdServer::arm`]; after the service got anything done it polls again.

mod client;
mod config;
mod listener;
mod session;
mod stream;

pub use client::ClientIdentity;
pub use config::{ListenAddress, NbdConfig, StartRefusal};

use std::collections::VecDeque;
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;

use mio::event::Event;
use mio::{Interest, Registry, Token};

use crate::connection::{EndReason, split_tag};
use crate::quarantine::Quarantine;
use crate::{BlockCompletion, BlockService, VolumeHandle};
use listener::Listener;
use session::Session;
use stream::{Stream, hung_up};

/// Notices that wait for [`NbdServer::take_notice`]; the oldest go when there are more.
const NOTICES_MAX: usize = 64;

/// What the server has seen since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NbdCounters {
    /// Clients that were let in.
    pub connections_accepted: u64,
    /// Clients that were turned away because every place was taken.
    pub connections_refused: u64,
    /// Connections that ended, in whatever way.
    pub connections_ended: u64,
    /// Of those: the client sent what is not NBD, or broke the protocol.
    pub clients_at_fault: u64,
    /// Of those: the client went without a word.
    pub clients_hung_up: u64,
    /// Completions that came in.
    pub operations_completed: u64,
    /// Completions for clients that were gone.
    pub operations_orphaned: u64,
}

/// Something that an operator may want to know, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A connection ended other than by a polite word.
    ConnectionEnded {
        /// The client.
        peer: String,
        /// Why.
        reason: EndReason,
        /// Operations that the service still has.
        in_service: u32,
    },
    /// A client was turned away because every place was taken.
    ConnectionRefused {
        /// The client.
        peer: String,
    },
    /// The system did not hand over a client.
    AcceptFailed(ErrorKind),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectionEnded { peer, reason, in_service: 0 } => {
                write!(f, "NBD client on {peer}: {reason}")
            }
            Self::ConnectionEnded { peer, reason, in_service } => {
                write!(f, "NBD client on {peer}: {reason}; {in_service} operations still run")
            }
            Self::ConnectionRefused { peer } => write!(
                f,
                "NBD client on {peer} was turned away: every place is taken; raise the limit of connections"
            ),
            Self::AcceptFailed(kind) => write!(f, "an NBD client could not be accepted: {kind}"),
        }
    }
}

/// The NBD server of one reactor.
pub struct NbdServer<S: BlockService> {
    registry: Registry,
    /// First the listeners, then the sessions by place.
    tokens: Range<usize>,
    config: NbdConfig,
    listeners: Vec<Listener>,
    /// A listener announced clients.
    accept_ready: bool,
    sessions: Vec<Option<Session<S>>>,
    vacant: Vec<usize>,
    /// Places of the sessions that every poll looks at.
    active: Vec<usize>,
    is_active: Vec<bool>,
    quarantine: Quarantine,
    counters: NbdCounters,
    notices: VecDeque<Notice>,
    stopping: bool,
}

impl<S: BlockService> NbdServer<S> {
    /// Binds every listener. The server uses tokens of the range only: one per listener and one per
    /// connection, so the range also bounds the connections.
    pub fn new(registry: &Registry, tokens: Range<usize>, config: NbdConfig) -> Result<Self, StartRefusal> {
        let needed = config.listen.len() + 1;
        if tokens.len() < needed {
            return Err(StartRefusal::TooFewTokens { needed });
        }
        let mut listeners = Vec::with_capacity(config.listen.len());
        for address in &config.listen {
            let failed = |source| StartRefusal::System { address: address.clone(), action: "watch", source };
            let mut listener = Listener::bind(address)?;
            let token = Token(tokens.start + listeners.len());
            registry.register(listener.source(), token, Interest::READABLE).map_err(failed)?;
            listeners.push(listener);
        }
        let places = config.connections_max.min(tokens.len() - config.listen.len());
        let cloned = registry.try_clone();
        let registry = cloned.map_err(|source| StartRefusal::System {
            address: config.listen.first().cloned().unwrap_or(NO_ADDRESS),
            action: "watch",
            source,
        })?;
        Ok(Self {
            registry,
            tokens,
            config,
            listeners,
            accept_ready: true,
            sessions: (0..places).map(|_| None).collect(),
            vacant: (0..places).rev().collect(),
            active: Vec::with_capacity(places),
            is_active: vec![false; places],
            quarantine: Quarantine::default(),
            counters: NbdCounters::default(),
            notices: VecDeque::new(),
            stopping: false,
        })
    }

    /// Where clients connect, with the port that the system chose where 0 was asked for.
    pub fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.listeners.iter().map(|listener| &listener.address)
    }

    /// Notes an event. False if its token is not one of the server's.
    pub fn handle_event(&mut self, event: &Event) -> bool {
        let token = event.token().0;
        if !self.tokens.contains(&token) {
            return false;
        }
        let index = token - self.tokens.start;
        let Some(place) = index.checked_sub(self.config.listen.len()) else {
            self.accept_ready = true;
            return true;
        };
        if let Some(session) = self.sessions.get_mut(place).and_then(Option::as_mut) {
            if event.is_readable() || event.is_writable() {
                session.announced();
            }
            session.hung_up |= event.is_read_closed() || event.is_error();
            self.activate(place);
        }
        true
    }

    /// Reads, parses, submits and writes for every client that was active lately. True if anything moved.
    pub fn poll(&mut self, service: &mut S) -> bool {
        let mut moved = false;
        // Clients that hung up come first: their requests must be in the quarantine before a new connection,
        // which may be of the same client, gets anywhere.
        for index in (0..self.active.len()).rev() {
            let place = self.active[index];
            if self.session(place).is_some_and(|session| session.hung_up) {
                self.mourn(place, service);
                moved = true;
            }
        }
        if self.accept_ready {
            moved |= self.accept();
        }
        let mut index = 0;
        while index < self.active.len() {
            let place = self.active[index];
            moved |= self.turn(place, service);
            if self.stays_active(place) {
                index += 1;
            } else {
                self.active.swap_remove(index);
                self.is_active[place] = false;
            }
        }
        moved
    }

    /// A completion of the service. The reply leaves with the next [`NbdServer::flush`] or
    /// [`NbdServer::poll`].
    pub fn complete(&mut self, completion: BlockCompletion<S::ReadData>) {
        let (place, job, piece) = split_tag(completion.tag);
        let place = place as usize;
        let session = self.sessions.get_mut(place).and_then(Option::as_mut);
        let session = session.unwrap_or_else(|| panic!("a completion for place {place}, which is vacant"));
        self.counters.operations_completed += 1;
        if session.stream().is_none() {
            self.counters.operations_orphaned += 1;
        }
        session.complete(job, piece, completion, &mut self.quarantine);
        self.activate(place);
    }

    /// Writes the replies that wait, and nothing else: what a reactor calls right after the completions.
    pub fn flush(&mut self) -> bool {
        let mut moved = false;
        for &place in &self.active {
            if let Some(session) = self.sessions[place].as_mut() {
                moved |= session.flush();
            }
        }
        moved
    }

    /// May the reactor sleep until the next event or the service's next completion? False if there is work
    /// that no event will announce; then poll again.
    pub fn arm(&mut self) -> bool {
        if self.accept_ready {
            return false;
        }
        for index in 0..self.active.len() {
            let place = self.active[index];
            if self.session(place).is_some_and(Session::has_work) {
                return false;
            }
            self.watch(place);
        }
        true
    }

    /// Has the reactor told about room in the socket while replies wait, and only then: otherwise every reply
    /// that a client takes would be an event.
    fn watch(&mut self, place: usize) {
        let token = Token(self.tokens.start + self.config.listen.len() + place);
        let Some(session) = self.sessions[place].as_mut() else { return };
        let wanted = session.has_replies();
        if wanted == session.watches_writes {
            return;
        }
        let interest = if wanted { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let Some(stream) = session.stream_mut() else { return };
        if self.registry.reregister(stream.source(), token, interest).is_ok() {
            session.watches_writes = wanted;
        }
    }

    /// Takes no new clients, answers what is under way, refuses the rest with `ESHUTDOWN`, then hangs up.
    /// Poll on until [`NbdServer::connections`] is 0. The sockets' files are gone when this returns.
    pub fn stop(&mut self) {
        self.stopping = true;
        for mut listener in self.listeners.drain(..) {
            let _ = self.registry.deregister(listener.source());
        }
        for place in 0..self.sessions.len() {
            if let Some(session) = self.sessions[place].as_mut() {
                session.stop();
                self.activate(place);
            }
        }
    }

    /// The volume is to be closed, while others go on: what its clients have under way is answered, the rest
    /// refused with `ESHUTDOWN`, then they are hung up on.
    pub fn close_volume(&mut self, volume: VolumeHandle) {
        for place in 0..self.sessions.len() {
            if let Some(session) = self.sessions[place].as_mut().filter(|one| one.volume() == Some(volume)) {
                session.stop();
                self.activate(place);
            }
        }
    }

    /// Gives the UNIX sockets another mode and owner; clients that are connected stay.
    ///
    /// # Errors
    /// What the system said to the first that it refused.
    pub fn set_access(&mut self, mode: u32, owner: Option<(u32, u32)>) -> std::io::Result<()> {
        self.listeners.iter_mut().try_for_each(|listener| listener.set_access(mode, owner))
    }

    /// Connections that are there, dead ones included until the service is done with their requests.
    pub fn connections(&self) -> usize {
        self.sessions.len() - self.vacant.len()
    }

    /// Requests of dead connections that the service still has.
    pub fn quarantined_requests(&self) -> usize {
        self.quarantine.unsettled()
    }

    /// What the server has seen since it started.
    pub fn counters(&self) -> NbdCounters {
        self.counters
    }

    /// The oldest notice for the log.
    pub fn take_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    fn session(&self, place: usize) -> Option<&Session<S>> {
        self.sessions[place].as_ref()
    }

    fn activate(&mut self, place: usize) {
        if !self.is_active[place] {
            self.is_active[place] = true;
            self.active.push(place);
        }
    }

    fn stays_active(&mut self, place: usize) -> bool {
        let quiet_polls_max = self.config.quiet_polls_max;
        let Some(session) = self.sessions[place].as_mut() else { return false };
        session.quiet_polls = session.quiet_polls.saturating_add(1);
        session.waiting
            || session.has_work()
            || session.has_replies()
            || session.quiet_polls <= quiet_polls_max
    }

    fn turn(&mut self, place: usize, service: &mut S) -> bool {
        let Some(session) = self.sessions[place].as_mut() else { return false };
        let mut moved = session.turn(service, &mut self.quarantine);
        if session.is_arriving() {
            self.welcome(place, service);
        }
        let Some(session) = self.sessions[place].as_mut() else { return true };
        session.stop_if_answered();
        if session.is_ending() {
            moved |= self.settle(place, service);
        }
        moved
    }

    /// Transmission begins for this place. Its client may have had an earlier connection that is dead without
    /// our knowing, with writes unread in its socket: look now, for the events may come too late.
    fn welcome(&mut self, place: usize, service: &mut S) {
        let volume = self.session(place).and_then(Session::volume);
        let others: Vec<usize> = (0..self.sessions.len())
            .filter(|&other| other != place)
            .filter(|&other| self.session(other).is_some_and(|session| session.volume() == volume))
            .filter(|&other| self.session(other).is_some_and(|session| session.stream().is_some()))
            .collect();
        let streams = others.iter().filter_map(|&other| self.session(other)?.stream());
        let gone = hung_up(streams);
        for (&other, _) in others.iter().zip(&gone).filter(|(_, gone)| **gone) {
            self.mourn(other, service);
        }
        if let Some(session) = self.sessions[place].as_mut() {
            session.arrive(&self.quarantine);
        }
    }

    /// The client of this place hung up.
    fn mourn(&mut self, place: usize, service: &mut S) {
        if let Some(session) = self.sessions[place].as_mut() {
            session.hung_up = false;
            session.farewell();
            self.settle(place, service);
        }
    }

    /// Takes an ending connection as far towards its end as it can go now.
    fn settle(&mut self, place: usize, service: &mut S) -> bool {
        let Some(session) = self.sessions[place].as_mut() else { return false };
        let mut moved = false;
        if let Some(mut stream) = session.bury(&mut self.quarantine) {
            let _ = self.registry.deregister(stream.source());
            self.note_end(place);
            moved = true;
        }
        let Some(session) = self.sessions[place].as_mut() else { return moved };
        if session.is_settled() {
            if let Some(volume) = session.volume() {
                service.close(volume);
            }
            self.sessions[place] = None;
            self.vacant.push(place);
            moved = true;
        }
        moved
    }

    fn note_end(&mut self, place: usize) {
        let Some(session) = self.sessions[place].as_ref() else { return };
        let Some(reason) = session.end_reason() else { return };
        self.counters.connections_ended += 1;
        self.counters.clients_at_fault += u64::from(reason.is_client_fault());
        match reason {
            EndReason::Disconnected | EndReason::Aborted | EndReason::Stopping => return,
            EndReason::HungUp | EndReason::SocketFailed(_) => self.counters.clients_hung_up += 1,
            _ => {}
        }
        let (peer, in_service) = (session.peer.clone(), session.in_service());
        self.notify(Notice::ConnectionEnded { peer, reason, in_service });
    }

    fn notify(&mut self, notice: Notice) {
        if self.notices.len() == NOTICES_MAX {
            self.notices.pop_front();
        }
        self.notices.push_back(notice);
    }

    fn accept(&mut self) -> bool {
        self.accept_ready = false;
        let mut moved = false;
        for index in 0..self.listeners.len() {
            loop {
                match self.listeners[index].accept() {
                    Ok((stream, peer)) => self.admit(stream, peer),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => {
                        // Out of descriptors, or the client is gone already: the next event tries again.
                        self.notify(Notice::AcceptFailed(error.kind()));
                        break;
                    }
                }
                moved = true;
            }
        }
        moved
    }

    fn admit(&mut self, mut stream: Stream, peer: String) {
        if self.vacant.is_empty() {
            self.evict_idler();
        }
        let Some(place) = self.vacant.pop() else {
            self.counters.connections_refused += 1;
            self.notify(Notice::ConnectionRefused { peer });
            return;
        };
        let token = Token(self.tokens.start + self.config.listen.len() + place);
        if let Err(error) = self.registry.register(stream.source(), token, Interest::READABLE) {
            self.vacant.push(place);
            self.notify(Notice::AcceptFailed(error.kind()));
            return;
        }
        self.counters.connections_accepted += 1;
        let client = ClientIdentity::of(&stream);
        let session = Session::new(place as u32, (stream, client), peer, self.config.limits);
        self.sessions[place] = Some(session);
        self.activate(place);
    }

    /// Frees the place of the client that has been in its handshake for the longest time, if that is too
    /// long.
    fn evict_idler(&mut self) {
        let oldest = (0..self.sessions.len())
            .filter_map(|place| Some((place, self.session(place)?)))
            .filter(|(_, session)| session.is_in_handshake())
            .min_by_key(|(_, session)| session.accepted_at);
        let Some((place, session)) = oldest else { return };
        if session.accepted_at.elapsed() < self.config.handshake_timeout {
            return;
        }
        let Some(mut session) = self.sessions[place].take() else { return };
        session.drop_client(EndReason::HandshakeTooSlow);
        if let Some(mut stream) = session.bury(&mut self.quarantine) {
            let _ = self.registry.deregister(stream.source());
        }
        self.sessions[place] = Some(session);
        self.note_end(place);
        // A client in its handshake has no volume and nothing in the service.
        self.sessions[place] = None;
        self.vacant.push(place);
    }
}

/// Stands for no listener in an error about the reactor's registry.
pub(crate) const NO_ADDRESS: ListenAddress =
    ListenAddress::Tcp(std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0));
