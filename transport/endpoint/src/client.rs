//! What a client of the transport sees: messages delivered by call-back, completions, peer events (SPEC T2,
//! T3).

use crate::core::Core;
use crate::lease::{Lease, LeasedBytes};
use transport_buf::Chunk;
use transport_proto::identity::{ClientId, Incarnation, NodeId};
use transport_provider::{Incoming, InlineBytes};

/// A client's own name for a message that it sends; comes back in its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub u64);

impl Tag {
    /// No completion is wanted (an aborted session still reports none).
    pub const SILENT: Tag = Tag(u64::MAX);
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer's transport has it; its client's up-call has happened or will, exactly once.
    Delivered,
    /// The peer's life ended, or the peer was dropped, before it acknowledged: it may have been delivered or
    /// not.
    Unknown,
}

/// A message is complete; its memory is the caller's again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Client that sent it.
    pub client: ClientId,
    /// Node it went to.
    pub to: NodeId,
    /// The client's name for it.
    pub tag: Tag,
    /// What became of it.
    pub outcome: Outcome,
}

/// What has become of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// A life of the peer was met for the first time; messages can be sent.
    Up {
        /// The peer.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// The peer began a new life. The outcome of everything sent to the old one is unknown and was reported
    /// so.
    Restarted {
        /// The peer.
        node: NodeId,
        /// Its new life.
        incarnation: Incarnation,
    },
    /// No rail to the peer is up. Messages are kept; they go when one returns.
    Unreachable {
        /// The peer.
        node: NodeId,
    },
    /// A rail is up again, to the same life of the peer.
    Reachable {
        /// The peer.
        node: NodeId,
    },
    /// The configuration dropped the peer. Outcomes were reported as unknown.
    Gone {
        /// The peer.
        node: NodeId,
    },
}

/// The clients of one endpoint, as one value: the endpoint is generic over it, so a call-back is a plain
/// call. A program with one client implements it for that client; one with several matches on
/// [`Delivery::client`], or uses [`crate::Demux`] to register them while running.
///
/// Call-backs run on the reactor's thread and must return soon. They may send, reserve and look at the
/// endpoint through `core`.
pub trait Clients {
    /// A message arrived. Dropping `delivery` releases it, [`Delivery::lease`] keeps it.
    fn deliver(&mut self, core: &mut Core, delivery: Delivery<'_>);
    /// A message that was sent with a tag is complete.
    fn complete(&mut self, core: &mut Core, completion: Completion);
    /// A peer came, went, or began a new life.
    fn peer(&mut self, core: &mut Core, event: PeerEvent);
    /// After a refusal for want of credit: the client may send to `node` again.
    fn writable(&mut self, core: &mut Core, node: NodeId, client: ClientId);
}

/// Data of a message that is being delivered.
#[derive(Debug)]
pub(crate) enum Arrived<'a> {
    /// Valid during the call-back.
    Borrowed(&'a [u8]),
    /// In the chunk in which the provider put it.
    Chunk(Chunk),
    /// Put together from the fragments of a striped message.
    Assembled(Vec<u8>),
}

impl<'a> From<Incoming<'a>> for Arrived<'a> {
    #[inline]
    fn from(data: Incoming<'a>) -> Arrived<'a> {
        match data {
            Incoming::Empty => Arrived::Borrowed(&[]),
            Incoming::Inline(bytes) => Arrived::Borrowed(bytes),
            Incoming::Chunk(chunk) => Arrived::Chunk(chunk),
        }
    }
}

impl AsRef<[u8]> for Arrived<'_> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        match self {
            Arrived::Borrowed(bytes) => bytes,
            Arrived::Chunk(chunk) => chunk.as_ref(),
            Arrived::Assembled(bytes) => bytes,
        }
    }
}

impl Arrived<'_> {
    /// To be kept beyond the call-back.
    pub(crate) fn keep(self) -> LeasedBytes {
        match self {
            Arrived::Borrowed([]) => LeasedBytes::Empty,
            Arrived::Borrowed(bytes) => LeasedBytes::Inline(InlineBytes::new(bytes)),
            Arrived::Chunk(chunk) => LeasedBytes::Chunk(chunk),
            Arrived::Assembled(bytes) => LeasedBytes::Assembled(bytes),
        }
    }
}

/// A message as its client sees it.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// Sender.
    pub from: NodeId,
    /// Client that it is for.
    pub client: ClientId,
    /// Control part, a private copy.
    pub control: &'a [u8],
    data: Arrived<'a>,
    /// Position of the sender among the endpoint's peers, and its life.
    sender: (usize, Option<Incarnation>),
}

impl<'a> Delivery<'a> {
    #[inline]
    pub(crate) fn new(
        sender: (usize, Option<Incarnation>),
        (from, client): (NodeId, ClientId),
        control: &'a [u8],
        data: Arrived<'a>,
    ) -> Delivery<'a> {
        Delivery { from, client, control, data, sender }
    }

    /// Data part.
    #[inline]
    pub fn data(&self) -> &[u8] {
        self.data.as_ref()
    }

    /// Keeps the data beyond the call-back. The credit of the message is spent until the lease is dropped.
    pub fn lease(self, core: &mut Core) -> Lease {
        Lease::new(self.data.keep(), core.enter_lease(self.sender, self.client))
    }
}
