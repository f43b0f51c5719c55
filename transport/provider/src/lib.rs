//! The contract between the transport's reactor and a provider (shared memory, TCP, verbs).
//!
//! A provider moves *frames* over *connections*. A connection is one rail's path to one peer, in one
//! generation. It starts unauthenticated: only frames without payload can be posted on it (the handshake).
//! When the reactor has authenticated the peer it calls [`Provider::establish`]; the provider then sets up
//! what bulk data needs (shared memory, queue pairs) and reports [`Sink::established`].
//!
//! What a provider guarantees on one connection: frames arrive at most once, whole and unchanged, in the
//! order they were posted, until [`Sink::lost`]; after that, nothing of this connection arrives any more.
//! *Posted* means *left*, never *delivered*: delivery is the business of the session above, which keeps each
//! message until the peer acknowledges it.
//!
//! The calling order of the reactor, all on one thread: [`Provider::poll`] while there is work or the spin
//! budget lasts; [`Provider::post`] from anywhere, also inside call-backs' aftermath; [`Provider::flush`] at
//! the end of each round; [`Provider::arm`] before it sleeps in `mio`; [`Provider::event`] for each readiness
//! event of a token in the provider's range after it wakes.

#![forbid(unsafe_code)]

pub mod bits;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod listeners;
#[cfg(feature = "conformance")]
pub mod loopback;
mod payload;
mod rail;
pub mod socket;

pub use payload::{Incoming, InlineBytes, Payload, PayloadSlice};
pub use rail::{ConnectionId, DialRefusal, ListenRefusal, PostRefusal, RailFault, RailName};

use mio::{Registry, Token};
use transport_buf::Chunk;
use transport_proto::time::Time;
use transport_proto::wire::FrameHeader;

/// Control part plus data part that travel inside a frame's slot, without a chunk of their own, bytes.
/// Shared memory: a 256-byte slot less the 64-byte header. Larger data parts go through a chunk.
pub const INLINE_BYTES_MAX: usize = 192;

/// What the reactor hears from a provider. Call-backs may not re-enter the provider; the reactor notes what
/// to do and does it after `poll` returns or through its own queue.
pub trait Sink {
    /// A peer dialed `rail`'s address here. Unauthenticated.
    fn accepted(&mut self, rail: RailName, connection: ConnectionId);
    /// A connection that this side dialed is open. Unauthenticated.
    fn connected(&mut self, connection: ConnectionId);
    /// After [`Provider::establish`] on both sides: payload may be posted now.
    fn established(&mut self, connection: ConnectionId);
    /// A frame arrived. `header` is checked by [`FrameHeader::check`] and, where the provider has a wire, by
    /// its checksum. `control` is a private copy, safe to check and then use.
    fn frame(&mut self, connection: ConnectionId, header: &FrameHeader, control: &[u8], data: Incoming<'_>);
    /// A frame arrived whose data found no memory for long: they were taken off the stream and dropped, so
    /// that what follows is not kept waiting. `header` is checked. Only from a provider that was told to
    /// share its memory among clients; the session has such a message sent again.
    fn shed(&mut self, connection: ConnectionId, header: &FrameHeader) {
        let _ = (connection, header);
    }
    /// A post that was refused with [`PostRefusal::Full`] or [`PostRefusal::NoMemory`] may succeed now.
    fn writable(&mut self, connection: ConnectionId);
    /// The connection is dead, whatever it carried is lost or has arrived, nothing more comes from it. Its id
    /// is free for reuse after this. Also the answer to [`Provider::close`], once no late access to memory is
    /// possible.
    fn lost(&mut self, connection: ConnectionId, fault: RailFault);
}

/// A transport provider. One instance per endpoint, driven by one thread, never blocking.
pub trait Provider {
    /// How a rail of this provider is reached: a socket address, a name in the host.
    type Address: Clone;

    /// Whether [`Provider::reserve`] gives memory of the receiver. If so, such a chunk is posted as
    /// [`Payload::Placed`] and its peer returns it; if not, it is this node's own and is posted as
    /// [`Payload::Shared`]. (Placing a chunk that no peer owns would lose it.)
    const RESERVES_AT_PEER: bool;

    /// Registry and token range, once, before anything else. `tokens.start..tokens.end` are the provider's
    /// own.
    fn attach(&mut self, registry: Registry, tokens: core::ops::Range<usize>);

    /// Waits for peers at `address`. What comes in is reported with `rail` by [`Sink::accepted`].
    fn listen(&mut self, rail: RailName, address: &Self::Address) -> Result<(), ListenRefusal>;

    /// Stops waiting for peers on `rail`; open connections stay.
    fn unlisten(&mut self, rail: RailName);

    /// Opens a connection to a peer's `address`, from `local` where the provider binds one (a rail is one
    /// device). Ends in [`Sink::connected`] or [`Sink::lost`].
    fn dial(
        &mut self,
        now: Time,
        rail: RailName,
        local: &Self::Address,
        address: &Self::Address,
    ) -> Result<ConnectionId, DialRefusal>;

    /// The reactor has authenticated the peer at the other end: set up what payload needs.
    fn establish(&mut self, connection: ConnectionId);

    /// Memory for `length` bytes of data that will be posted on `connection`: where the provider can, it is
    /// the very memory in which the receiver will find them (the granted slab), so that building the message
    /// is sending it.
    fn reserve(&mut self, connection: ConnectionId, length: usize) -> Result<Chunk, PostRefusal>;

    /// Sends a frame. `header` is complete but for `rail_stamp` and `crc32c`, which are the provider's.
    /// `control` plus `inline` are at most [`INLINE_BYTES_MAX`] bytes; `inline` is empty unless `data` is
    /// empty. A refusal leaves no trace. A payload is read or held until it has left; the caller keeps its
    /// own handle for replay.
    fn post(
        &mut self,
        connection: ConnectionId,
        header: &FrameHeader,
        control: &[u8],
        inline: &[u8],
        data: PayloadSlice<'_>,
    ) -> Result<(), PostRefusal>;

    /// Sends what `post` gathered (doorbell, `writev`). Cheap when there is nothing.
    fn flush(&mut self);

    /// Looks for what has arrived, without sleeping, and reports it. Returns the number of reports; 0 means
    /// idle.
    fn poll(&mut self, now: Time, sink: &mut impl Sink) -> usize;

    /// Prepares to sleep: from now on something new makes a registered token ready. `false`: something is
    /// there already, poll again instead of sleeping. Receive memory that is returned *after* this is no
    /// event: whoever releases a lease on another thread wakes the reactor (it owes the peer credit anyway),
    /// which polls.
    fn arm(&mut self) -> bool;

    /// The thread woke, or gave up the thought of sleeping: wake-ups are no longer needed until the next
    /// `arm`.
    fn disarm(&mut self);

    /// A token of the provider's range became ready.
    fn event(&mut self, token: Token, readable: bool, writable: bool);

    /// Ends a connection and revokes what was granted over it. [`Sink::lost`] follows from `poll`.
    fn close(&mut self, connection: ConnectionId);

    /// Bytes of memory that the provider holds for connections and pools.
    fn memory_bytes(&self) -> usize;
}
