//! The measuring process's endpoint, connected to a partner in a process of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use bench_harness::{CorePair, Pinned, Worker};
use transport_endpoint::{
    Clients, Completion, Core, Data, Delivery, Endpoint, Outcome, PeerEvent, SendRefusal, Tag,
};
use transport_proto::identity::{ClientId, NodeId};

use super::partner::{Ask, Partner};
use super::remote::Session;
use super::wiring::{Layout, PARTNER, STATION, Wiring};
use crate::role::Role;

/// Longest sleep of one turn of the loop.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// A partner that says nothing for this long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What the station has heard so far.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Answers delivered.
    pub(crate) answers: u64,
    /// First eight data bytes of the last answer, little-endian; zero-filled if it had fewer.
    pub(crate) last_answer: u64,
    /// First eight data bytes of each answer since they were last taken.
    pub(crate) tags: Vec<u64>,
    /// Whether answers' tags are kept; a measurement at depth 1 needs none.
    keeps_tags: bool,
    /// Messages that the partner's transport has acknowledged.
    pub(crate) delivered: u64,
    /// Messages whose outcome is unknown: the partner died.
    pub(crate) unknown: u64,
    /// The partner can be sent to.
    pub(crate) partner_up: bool,
}

impl Clients for Heard {
    fn deliver(&mut self, _core: &mut Core, delivery: Delivery<'_>) {
        self.answers += 1;
        let mut head = [0; 8];
        let length = delivery.data().len().min(head.len());
        head[..length].copy_from_slice(&delivery.data()[..length]);
        self.last_answer = u64::from_le_bytes(head);
        if self.keeps_tags {
            self.tags.push(self.last_answer);
        }
    }

    fn complete(&mut self, _core: &mut Core, completion: Completion) {
        match completion.outcome {
            Outcome::Delivered => self.delivered += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }

    fn peer(&mut self, _core: &mut Core, event: PeerEvent) {
        match event {
            PeerEvent::Up { .. } | PeerEvent::Restarted { .. } | PeerEvent::Reachable { .. } => {
                self.partner_up = true;
            }
            PeerEvent::Unreachable { .. } | PeerEvent::Gone { .. } => self.partner_up = false,
        }
    }

    fn writable(&mut self, _core: &mut Core, _node: NodeId, _client: ClientId) {}
}

/// Both endpoints, connected. Dropping it ends the worker.
pub(crate) struct Station {
    endpoint: Endpoint<Heard>,
    /// Whose messages go out, one after the other.
    senders: &'static [ClientId],
    sender: usize,
    _pinned: Pinned,
    _partner: Far,
}

/// What keeps the partner running.
enum Far {
    /// A process of ours.
    Worker { _process: Worker },
    /// A session with another machine.
    Remote { _session: Session },
}

impl Station {
    /// Starts the partner, connects, and ties this thread to its core.
    ///
    /// # Errors
    /// The partner cannot be started or reached.
    pub(crate) fn connect(layout: Layout, cores: CorePair) -> Result<Self> {
        let wiring = Wiring::choose(layout)?;
        // The station listens before the partner dials.
        let endpoint = wiring.endpoint(STATION, Heard::default())?;
        let partner = Partner { wiring: wiring.clone(), core: cores.worker };
        let mut worker = wiring.start_worker(&Role::NetdiskPartner(partner))?;
        let _ready: String = worker.hear()?;
        Self::with(endpoint, Far::Worker { _process: worker }, layout, cores)
    }

    /// The same with a partner on another machine, where somebody listens.
    ///
    /// # Errors
    /// Nobody listens there, or the two do not reach each other over the provider.
    pub(crate) fn connect_to(address: SocketAddr, layout: Layout, cores: CorePair) -> Result<Self> {
        let mut session = Session::open(address)?;
        let (station, partner) = session.addresses()?;
        let wiring = Wiring::between(layout, station, partner)?;
        let endpoint = wiring.endpoint(STATION, Heard::default())?;
        session.invite(wiring)?;
        Self::with(endpoint, Far::Remote { _session: session }, layout, cores)
    }

    fn with(endpoint: Endpoint<Heard>, partner: Far, layout: Layout, cores: CorePair) -> Result<Self> {
        let _pinned = Pinned::to(cores.ours)?;
        let senders = layout.senders();
        let mut station = Self { endpoint, senders, sender: 0, _pinned, _partner: partner };
        station.run_until(|heard| heard.partner_up)?;
        Ok(station)
    }

    fn next_sender(&mut self) -> ClientId {
        self.sender = (self.sender + 1) % self.senders.len();
        self.senders[self.sender]
    }

    /// What was heard so far.
    pub(crate) fn heard(&mut self) -> &Heard {
        self.endpoint.clients()
    }

    /// From now on the tags of answers are kept for [`Station::take_tags`].
    pub(crate) fn keep_tags(&mut self) {
        self.endpoint.clients().keeps_tags = true;
    }

    /// Hands over the tags of the answers since the last call, in order of arrival.
    pub(crate) fn take_tags(&mut self, each: &mut dyn FnMut(u64)) {
        self.endpoint.clients().tags.drain(..).for_each(each);
    }

    /// Drives the endpoint until `enough` holds.
    ///
    /// # Errors
    /// The partner died or has been silent for ten seconds.
    pub(crate) fn run_until(&mut self, enough: impl Fn(&Heard) -> bool) -> Result<()> {
        // By the endpoint's own clock, which its rounds have read at no further cost.
        let mut silent_at = self.endpoint.core().now() + SILENCE_MAX;
        while !enough(self.endpoint.clients()) {
            let found = self.endpoint.run_once(SLEEP_MAX)?;
            let now = self.endpoint.core().now();
            if found > 0 {
                silent_at = now + SILENCE_MAX;
            } else if now > silent_at {
                bail!("the partner has been silent for {} s", SILENCE_MAX.as_secs());
            }
        }
        ensure!(self.endpoint.clients().unknown == 0, "the partner died");
        Ok(())
    }

    /// Sends a message, waiting for credit if there is none.
    ///
    /// # Errors
    /// The message cannot be sent at all, or the partner died.
    pub(crate) fn send(&mut self, ask: Ask, data: Data<'_>, tag: Tag) -> Result<()> {
        let client = self.next_sender();
        self.send_of(client, ask, data, tag)
    }

    fn send_of(&mut self, client: ClientId, ask: Ask, mut data: Data<'_>, tag: Tag) -> Result<()> {
        loop {
            let sent = self.endpoint.core().send(PARTNER, client, &ask.control(), data, tag);
            data = match sent {
                Ok(()) => return Ok(()),
                Err((SendRefusal::NoCredit, data)) => data,
                Err((refusal, _)) => return Err(anyhow!("the message was refused: {refusal:?}")),
            };
            self.take_turn()?;
        }
    }

    /// Builds a message in the partner's memory (or this node's, where the provider cannot) and sends it.
    /// Waits for memory and credit.
    ///
    /// # Errors
    /// The message cannot be sent at all, or the partner died.
    pub(crate) fn build_and_send(&mut self, ask: Ask, source: &[u8], tag: Tag) -> Result<()> {
        let (started, client) = (Instant::now(), self.next_sender());
        let mut buffer = loop {
            match self.endpoint.core().reserve(PARTNER, client, source.len()) {
                Ok(buffer) => break buffer,
                Err(refusal) if started.elapsed() > SILENCE_MAX => bail!("no memory came free: {refusal:?}"),
                Err(_) => self.take_turn()?,
            }
        };
        buffer.as_mut().copy_from_slice(source);
        self.send_of(client, ask, Data::Reserved(buffer), tag)
    }

    /// Sends memory that the device can read where it is, whatever it holds. Waits for memory and credit.
    ///
    /// # Errors
    /// The message cannot be sent at all, or the partner died.
    pub(crate) fn send_in_place(&mut self, ask: Ask, bytes: usize, tag: Tag) -> Result<()> {
        let started = Instant::now();
        let buffer = loop {
            match self.endpoint.core().allocate(bytes) {
                Ok(buffer) => break buffer,
                Err(refusal) if started.elapsed() > SILENCE_MAX => bail!("no memory came free: {refusal:?}"),
                Err(_) => self.take_turn()?,
            }
        };
        self.send(ask, Data::Reserved(buffer), tag)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The partner died or has been silent for ten seconds.
    pub(crate) fn ask(&mut self, ask: Ask, data: &[u8]) -> Result<u64> {
        let wanted = self.heard().answers + 1;
        self.send(ask, Data::Copy(data), Tag::SILENT)?;
        self.run_until(|heard| heard.answers >= wanted)?;
        Ok(self.heard().last_answer)
    }

    /// One turn of the endpoint's loop.
    ///
    /// # Errors
    /// The event queue failed, or the partner died.
    pub(crate) fn take_turn(&mut self) -> Result<()> {
        self.endpoint.run_once(SLEEP_MAX)?;
        ensure!(self.endpoint.clients().unknown == 0, "the partner died");
        Ok(())
    }
}
