//! The endpoint as a client's call-back sees it: send, reserve, look at peers. Everything here runs on the
//! reactor's thread and returns at once.

use crate::client::{Completion, Outcome, PeerEvent, Tag};
use crate::lifecycle::Handshaking;
use crate::message::{Body, Data, Outgoing, OutgoingId, OutgoingPool, SendBuffer};
use crate::peer::Peer;
use crate::plan::ProviderKind;
use crate::providers::{Providers, Wire};
use crate::verdicts::VerdictBoard;
use std::collections::HashMap;
use std::sync::Arc;
use transport_buf::Slab;
use transport_buf::ledger::LeaseLedger;
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{CLIENTS_MAX, ClientId, Epoch, Incarnation, NodeId, Sequence};
use transport_proto::session::{SendRefusal, Transmission};
use transport_proto::time::Time;
use transport_proto::wire::{CONTROL_BYTES_MAX, DATA_BYTES_MAX, FRAGMENT_EXTENSION_BYTES, FragmentExtension};
use transport_provider::{INLINE_BYTES_MAX, Payload, PayloadSlice, PostRefusal};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U16, U32};

/// Who owns a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody: being closed.
    Nobody,
    /// A rail of a peer: positions in `peers` and `rails`.
    Rail { peer: usize, rail: usize },
    /// Handshaking as listener; the peer is not known yet.
    Stranger,
}

/// A place in the table of owners.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The connection that the rest is about; a later one may have its slot.
    pub(crate) wire: Option<Wire>,
    pub(crate) owner: Owner,
    /// Its other end has proved to be the peer: only such a connection's frames are the peer's words.
    pub(crate) proven: bool,
}

/// What the clients are to be told, in order, once nothing of the endpoint is borrowed.
#[derive(Debug)]
pub(crate) enum Notice {
    Complete(Completion),
    Peer(PeerEvent),
    Writable(NodeId, ClientId),
}

/// The endpoint without its clients and its sleep.
pub struct Core {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: Epoch,
    pub(crate) key: ClusterKey,
    pub(crate) providers: Providers,
    pub(crate) peers: Vec<Peer>,
    /// Position in `peers` by node id; `u16::MAX` = none.
    pub(crate) peer_at: Vec<u16>,
    /// Owner by provider and connection slot.
    pub(crate) owners: [Vec<Place>; ProviderKind::COUNT],
    pub(crate) handshakes: HashMap<Wire, Handshaking>,
    pub(crate) clients: u32,
    pub(crate) notices: Vec<Notice>,
    /// What the sessions keep until it is acknowledged.
    pub(crate) outgoing: OutgoingPool,
    /// The delivery under way was turned into a lease.
    pub(crate) leased: bool,
    pub(crate) now: Time,
    pub(crate) local: Slab,
    pub(crate) verdicts: Arc<VerdictBoard>,
    pub(crate) rails_deadline: Time,
    pub(crate) faults: crate::lifecycle::HandshakeFaults,
    pub(crate) listeners: Vec<crate::lifecycle::Listener>,
}

impl Core {
    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// This node's life.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The time of this round of the reactor, nanoseconds since the endpoint was made.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The configuration number in force.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    #[inline]
    pub(crate) fn position(&self, node: NodeId) -> Option<usize> {
        match self.peer_at.get(usize::from(node.0)) {
            Some(&at) if at != u16::MAX => Some(usize::from(at)),
            _ => None,
        }
    }

    /// The present life of a peer, once one was met.
    pub fn peer_incarnation(&self, node: NodeId) -> Option<Incarnation> {
        self.peers[self.position(node)?].session.peer_incarnation()
    }

    /// Whether a rail to the peer is up.
    pub fn is_reachable(&self, node: NodeId) -> bool {
        self.position(node).is_some_and(|at| self.peers[at].reachable)
    }

    /// Whether a message to this node would be taken now; a refusal for want of credit is followed by the
    /// client's *writable* call-back.
    pub fn may_send(&mut self, to: NodeId, client: ClientId) -> Result<(), SendRefusal> {
        let at = self.position(to).ok_or(SendRefusal::NoPeer)?;
        self.peers[at].session.may_send(client)
    }

    /// Sends a message: `control` (at most [`CONTROL_BYTES_MAX`] bytes) and `data` (at most
    /// [`DATA_BYTES_MAX`]) to `client` on node `to`. The completion bears `tag`; until then the data's memory
    /// stays lent. A refusal gives the data back and leaves no trace.
    pub fn send<'d>(
        &mut self,
        to: NodeId,
        client: ClientId,
        control: &[u8],
        data: Data<'d>,
        tag: Tag,
    ) -> Result<(), (SendRefusal, Data<'d>)> {
        let Some(at) = self.position(to) else { return Err((SendRefusal::NoPeer, data)) };
        // Small ones have a way of their own, on which nothing has to be dropped.
        match data {
            Data::Copy(bytes) if control.len() + bytes.len() <= INLINE_BYTES_MAX => {
                match self.send_small(at, client, control, bytes, tag) {
                    Ok(()) => Ok(()),
                    Err(refusal) => Err((refusal, Data::Copy(bytes))),
                }
            }
            data => self.send_any(at, client, control, data, tag),
        }
    }

    /// Sends a message that fits into a frame's slot.
    #[inline]
    fn send_small(
        &mut self,
        at: usize,
        client: ClientId,
        control: &[u8],
        bytes: &[u8],
        tag: Tag,
    ) -> Result<(), SendRefusal> {
        if control.len() > CONTROL_BYTES_MAX {
            return Err(SendRefusal::TooLarge);
        }
        let session = &mut self.peers[at].session;
        session.may_send(client)?;
        let outgoing = self.outgoing.keep(control, Body::Inline(bytes), tag);
        let (sequence, _) = session.send(client, outgoing, control.len(), bytes.len());
        self.post(at, client, sequence, 0);
        Ok(())
    }

    fn send_any<'d>(
        &mut self,
        at: usize,
        client: ClientId,
        control: &[u8],
        data: Data<'d>,
        tag: Tag,
    ) -> Result<(), (SendRefusal, Data<'d>)> {
        let data_length = data.len();
        if control.len() > CONTROL_BYTES_MAX || data_length > DATA_BYTES_MAX {
            return Err((SendRefusal::TooLarge, data));
        }
        if let Err(refusal) = self.peers[at].session.may_send(client) {
            return Err((refusal, data));
        }
        let queues = self.must_queue(at, client);
        let outgoing = self.keep(at, client, control, data, tag, queues);
        let session = &mut self.peers[at].session;
        let (sequence, fragments) = session.send(client, outgoing, control.len(), data_length);
        if !queues {
            for fragment in 0..fragments {
                self.post(at, client, sequence, fragment);
            }
        }
        Ok(())
    }

    /// Whether a message of this client waits that needs memory of the peer, so that later ones must neither
    /// overtake it nor hold such memory; see [`Peer::needy`]. They go when it has gone.
    #[inline]
    fn must_queue(&mut self, at: usize, client: ClientId) -> bool {
        let peer = &mut self.peers[at];
        let bit = 1 << client.0;
        if peer.needy & bit == 0 {
            return false;
        }
        let waits = peer.session.peek(client).is_some_and(|stream| stream.send.unposted() > 0);
        if !waits {
            peer.needy &= !bit;
        }
        waits
    }

    /// Keeps a message in the pool. One that `queues` gives up the place that was reserved for it.
    fn keep(
        &mut self,
        at: usize,
        client: ClientId,
        control: &[u8],
        data: Data<'_>,
        tag: Tag,
        queues: bool,
    ) -> OutgoingId {
        let body = match data {
            Data::Reserved(buffer) if queues && buffer.placed.is_some() => {
                Body::Payload(Payload::Caller(Arc::new(buffer.as_ref().to_vec())), None)
            }
            Data::Empty => Body::Inline(&[]),
            Data::Copy(bytes) => match self.reserve_at(at, client, bytes.len()) {
                Ok(mut buffer) => {
                    buffer.as_mut().copy_from_slice(bytes);
                    reserved(buffer)
                }
                // No chunk is free: the heap bridges the gap, bounded by the window.
                Err(_) => Body::Payload(Payload::Caller(Arc::new(bytes.to_vec())), None),
            },
            Data::Reserved(buffer) => reserved(buffer),
            Data::Shared(chunk) => Body::Payload(Payload::Shared(chunk), None),
            Data::Caller(bytes) => Body::Payload(Payload::Caller(bytes), None),
        };
        self.outgoing.keep(control, body, tag)
    }

    /// Memory to build `length` bytes of data in: where the provider can, the very memory in which the peer
    /// will find them. Not bound to be sent; dropping it gives it back.
    pub fn reserve(
        &mut self,
        to: NodeId,
        client: ClientId,
        length: usize,
    ) -> Result<SendBuffer, PostRefusal> {
        let at = self.position(to).ok_or(PostRefusal::NotConnected)?;
        self.reserve_at(at, client, length)
    }

    fn reserve_at(&mut self, at: usize, client: ClientId, length: usize) -> Result<SendBuffer, PostRefusal> {
        if self.must_queue(at, client) {
            return self.allocate(length);
        }
        let peer = &mut self.peers[at];
        let routes = peer.session.routes_mut();
        if routes.fragments(length) == 1
            && let Some(path) = routes.choose(client, 0, 1)
            && let Some(wire) = peer.wires[path.index()]
            && wire.kind == ProviderKind::Shm
        {
            let chunk = self.providers.reserve(wire, client, length)?;
            return Ok(SendBuffer { chunk, placed: Some(path) });
        }
        self.allocate(length)
    }

    /// Memory of this node, for data that goes to more than one place or nowhere yet.
    pub fn allocate(&mut self, length: usize) -> Result<SendBuffer, PostRefusal> {
        match self.local.allocate(length) {
            Ok(chunk) => Ok(SendBuffer { chunk, placed: None }),
            Err(transport_buf::SlabRefusal::Exhausted) => Err(PostRefusal::NoMemory),
            Err(transport_buf::SlabRefusal::TooLarge { .. }) => Err(PostRefusal::TooLarge),
        }
    }

    /// Posts one fragment of a kept message if a rail will take it; otherwise it stays kept and is posted
    /// later.
    #[inline]
    pub(crate) fn post(&mut self, at: usize, client: ClientId, sequence: Sequence, fragment: u8) -> bool {
        let Core { peers, outgoing, providers, .. } = self;
        let Peer { session, wires, stalled, needy, .. } = &mut peers[at];
        let prefer = |message: &OutgoingId| message.placed;
        let post = |frame: Transmission<'_, OutgoingId>| {
            let message = outgoing.get(*frame.message);
            let Some(wire) = wires[frame.path.index()] else { return false };
            let posted = match (frame.fragment, &message.payload) {
                (None, Payload::Empty) => {
                    let data = PayloadSlice::EMPTY;
                    providers.post(wire, frame.header, message.control(), message.inline(), data)
                }
                (None, payload) => {
                    let data = PayloadSlice { payload, range: frame.range };
                    providers.post(wire, frame.header, message.control(), &[], data)
                }
                (Some(_), _) => post_fragment(providers, wire, &frame, message),
            };
            // Full, no memory, or a rail whose end is not reported yet: each is followed by another attempt.
            if posted.is_err() {
                *stalled = true;
                let has_its_place =
                    matches!(message.payload, Payload::Placed(_)) && frame.message.placed == Some(frame.path);
                if wire.kind == ProviderKind::Shm
                    && !matches!(message.payload, Payload::Empty)
                    && !has_its_place
                {
                    *needy |= 1 << client.0;
                }
            }
            posted.is_ok()
        };
        session.transmit(client, (sequence, fragment), prefer, post) == Some(true)
    }

    /// Posts what no rail has taken yet, as far as rails take it now: a fragment of each client in turn, and
    /// another client first each time, so that none lives on what the others leave (SPEC T2).
    pub(crate) fn pump(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        peer.stalled = false;
        peer.first = (peer.first + 1) % CLIENTS_MAX as u32;
        let first = peer.first;
        let mut from = [(Sequence(0), 0); CLIENTS_MAX];
        let mut waiting = self.clients.rotate_right(first);
        while waiting != 0 {
            let mut bits = waiting;
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                let client = ((bit + first) % u32::BITS) as usize;
                let id = ClientId(client as u16);
                match self.peers[at].session.next_unposted(id, from[client]) {
                    Some((sequence, fragment)) if self.post(at, id, sequence, fragment) => {
                        from[client] = (sequence, fragment);
                    }
                    _ => waiting &= !(1 << bit),
                }
            }
        }
    }

    /// Opens a client: from now on messages for it are taken. Registered clients stay for the endpoint's
    /// life.
    pub fn open_client(&mut self, client: ClientId) {
        assert!(usize::from(client.0) < CLIENTS_MAX, "no such client number");
        self.clients |= 1 << client.0;
        self.providers.share_among(self.clients);
        for at in 0..self.peers.len() {
            if self.peers[at].session.open(client) {
                self.restart_rails(at, |_| true);
            }
        }
    }

    /// Enters a lease for the message that is being delivered. There is an entry per credit, so one is free;
    /// if a new life of the peer has begun meanwhile, the lease counts against nobody.
    pub(crate) fn enter_lease(
        &mut self,
        (at, life): (usize, Option<Incarnation>),
        client: ClientId,
    ) -> Option<(Arc<LeaseLedger>, u16)> {
        let peer = &mut self.peers[at];
        if peer.session.peer_incarnation() != life {
            return None;
        }
        let ledger = &peer.ledgers[usize::from(client.0)];
        let hint = peer.session.counters().messages_delivered as usize;
        let entry = ledger.enter(self.now.0, hint)?;
        self.leased = true;
        peer.lending |= 1 << client.0;
        Some((ledger.clone(), entry))
    }

    /// Tells sessions what has been given back since the last round.
    #[inline]
    pub(crate) fn collect_leases(&mut self) {
        for peer in &mut self.peers {
            let mut bits = peer.lending;
            while bits != 0 {
                let client = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let released = peer.ledgers[client].released();
                let fresh = released.wrapping_sub(peer.told[client]);
                if fresh > 0 {
                    peer.told[client] = released;
                    peer.session.release(self.now, ClientId(client as u16), fresh);
                    let held = peer
                        .session
                        .peek(ClientId(client as u16))
                        .map_or(0, |stream| stream.receive.leased());
                    if held == 0 {
                        peer.lending &= !(1 << client);
                    }
                }
            }
        }
    }

    /// Whether any client holds a lease.
    pub(crate) fn lends(&self) -> bool {
        self.peers.iter().any(|peer| peer.lending != 0)
    }

    pub(crate) fn notice_unknown(&mut self, to: NodeId, client: ClientId, tag: Tag) {
        if tag != Tag::SILENT {
            let completion = Completion { client, to, tag, outcome: Outcome::Unknown };
            self.notices.push(Notice::Complete(completion));
        }
    }
}

/// A buffer that the caller has filled, as it is kept.
fn reserved(buffer: SendBuffer) -> Body<'static> {
    match buffer.placed {
        Some(path) => Body::Payload(Payload::Placed(buffer.chunk.place()), Some(path)),
        None => Body::Payload(Payload::Shared(buffer.chunk.share()), None),
    }
}

/// Posts one fragment of a striped message.
fn post_fragment(
    providers: &mut Providers,
    wire: Wire,
    frame: &Transmission<'_, OutgoingId>,
    message: &Outgoing,
) -> Result<(), PostRefusal> {
    let (index, count) = frame.fragment.unwrap_or((0, 1));
    let extension = FragmentExtension {
        index: U16::new(u16::from(index)),
        count: U16::new(u16::from(count)),
        offset: U32::new(frame.range.start as u32),
        message_length: U32::new(message.payload.len() as u32),
        reserved: U32::ZERO,
    };
    let mut control = [0; FRAGMENT_EXTENSION_BYTES + CONTROL_BYTES_MAX];
    control[..FRAGMENT_EXTENSION_BYTES].copy_from_slice(extension.as_bytes());
    let length = usize::from(frame.header.control_length.get());
    control[FRAGMENT_EXTENSION_BYTES..length]
        .copy_from_slice(&message.control()[..length - FRAGMENT_EXTENSION_BYTES]);
    let data = PayloadSlice { payload: &message.payload, range: frame.range.clone() };
    providers.post(wire, frame.header, &control[..length], &[], data)
}
