//! Everything that lives between this incarnation of a node and one incarnation of a peer: each client's
//! ordered traffic, its credits, the acknowledgements that are due, and the paths that are up.
//!
//! The reactor calls, by role:
//! - sending: [`Session::send`] keeps a message, then [`Session::transmit`] has its frames posted, and later
//!   those that [`Session::next_unposted`] names;
//! - receiving: [`Session::receive`]; a message that is next in order is delivered at once (the short way),
//!   any other goes through the receive window of its [`Stream`];
//! - in between: [`Session::path_up`], [`Session::path_down`], [`Session::due_acks`], [`Session::reset`].
//!
//! A message is known by a handle of the reactor's choosing: `M` on its way out, `H` while it waits on its
//! way in.

mod gap;

use self::gap::Gap;
use crate::identity::{CLIENTS_MAX, ClientId, Epoch, Incarnation, NodeId, Path, Sequence};
use crate::route::{Routes, Spread, fragment_range};
use crate::time::Time;
use crate::window::{ReceiveWindow, Retained, SendWindow, WINDOW};
use crate::wire::{FLAG_REPLAY, FRAGMENT_EXTENSION_BYTES, FrameFields, FrameHeader, FrameType};
use alloc::boxed::Box;
use core::time::Duration;

/// Messages after which an acknowledgement goes out by itself.
const ACK_MESSAGES: u32 = 8;
/// Time after which it does.
pub const ACK_DELAY: Duration = Duration::from_micros(25);

/// Why a message was not taken. Nothing happened, the caller still owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendRefusal {
    /// The peer has granted no more; the client's *writable* call-back follows.
    NoCredit,
    /// The configuration knows no such node, or it is not a member.
    NoPeer,
    /// No incarnation of the peer has been met yet; *peer up* follows when one is.
    NotConnected,
    /// Control or data part over the limit of the wire.
    TooLarge,
    /// No such client is registered here.
    NoClient,
}

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameDrop {
    /// It is for another node, or from an incarnation that is not the peer's present one.
    Foreign,
    /// Its sender is no longer a member and has not learnt it yet (SPEC T11).
    Fenced,
    /// It names a client that nobody registered here.
    NoClient,
    /// It acknowledges or uses what was never sent or granted.
    Overrun,
}

/// What a frame that was taken in means for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The client was refused for want of credit and may send again now.
    pub writable: bool,
    /// The frame bears the whole message that is next in order. It counts as received: deliver it at once.
    pub next: bool,
}

/// What has happened, for `status`. All count since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounters {
    /// Messages sent.
    pub messages_sent: u64,
    /// Bytes of data parts sent.
    pub bytes_sent: u64,
    /// Messages delivered.
    pub messages_delivered: u64,
    /// Bytes of data parts delivered.
    pub bytes_delivered: u64,
    /// Messages sent again because the rail that carried them died.
    pub messages_replayed: u64,
    /// Messages that came again and were dropped.
    pub duplicates_dropped: u64,
    /// Frames dropped because their sender is no longer a member.
    pub frames_fenced: u64,
    /// Frames dropped for any other [`FrameDrop`] reason.
    pub frames_dropped: u64,
    /// Rails lost.
    pub rails_lost: u64,
}

/// One client's traffic with the peer.
#[derive(Debug)]
pub struct Stream<M, H> {
    /// Outgoing.
    pub send: SendWindow<M>,
    /// Incoming.
    pub receive: ReceiveWindow<H>,
    /// A send was refused for want of credit since the last *writable* call-back.
    pub starved: bool,
    /// Messages received since the last acknowledgement left.
    unacked: u32,
    /// When an acknowledgement must leave by itself.
    ack_due: Time,
    /// The credit that the peer was last told.
    credit_told: u64,
    /// The peer is to be asked to send again.
    asks_replay: bool,
    /// Messages were dropped for want of memory.
    gap: Option<Gap>,
}

impl<M, H> Default for Stream<M, H> {
    fn default() -> Self {
        Stream {
            send: SendWindow::default(),
            receive: ReceiveWindow::default(),
            starved: false,
            unacked: 0,
            ack_due: Time::NEVER,
            credit_told: WINDOW as u64,
            asks_replay: false,
            gap: None,
        }
    }
}

impl<M, H> Stream<M, H> {
    /// Notes messages that must be acknowledged.
    #[inline]
    fn owe(&mut self, now: Time, messages: u32) {
        self.unacked += messages;
        if self.ack_due == Time::NEVER {
            self.ack_due = now + ACK_DELAY;
        }
    }

    /// What a frame of this client says besides its message: what has been received so far.
    #[inline]
    fn fields(&self, client: ClientId) -> FrameFields {
        FrameFields {
            frame_type: FrameType::Data,
            flags: if self.asks_replay { FLAG_REPLAY } else { 0 },
            path: Path::default(),
            client,
            control_length: 0,
            sequence: Sequence(0),
            ack: self.receive.received() as u32,
            credit: self.receive.credit() as u32,
            data_length: 0,
        }
    }

    /// The peer is being told what has been received and granted.
    #[inline]
    fn told(&mut self) {
        self.unacked = 0;
        self.ack_due = Time::NEVER;
        self.credit_told = self.receive.credit();
        self.asks_replay = false;
    }
}

/// A frame that is to be posted.
#[derive(Debug)]
pub struct Transmission<'a, M> {
    /// Where.
    pub path: Path,
    /// The header, complete but for what the provider fills in.
    pub header: &'a FrameHeader,
    /// The message it carries.
    pub message: &'a M,
    /// Bytes of the data part that go.
    pub range: core::ops::Range<usize>,
    /// Fragment number and count; `None` for a whole message.
    pub fragment: Option<(u8, u8)>,
}

/// The session with one peer.
#[derive(Debug)]
pub struct Session<M, H> {
    /// Who speaks to whom: what every frame of the session says alike, as a header to begin with.
    names: FrameHeader,
    peer_incarnation: Option<Incarnation>,
    member: bool,
    /// Frames of the peer's present life were dropped because it was no member.
    dropped_frames: bool,
    /// The peer was asked to send again. Asked anew whenever a path is lost, which may have carried the
    /// question.
    asks_replay: bool,
    routes: Routes,
    /// Bit per client that is not open here and for which messages of the peer's present life were dropped.
    unopened: u32,
    streams: [Option<Box<Stream<M, H>>>; CLIENTS_MAX],
    /// Bit per client whose peer is owed an acknowledgement or credit.
    owing: u32,
    /// Bit per client of which messages were dropped for want of memory.
    gaps: u32,
    counters: SessionCounters,
}

impl<M, H> Session<M, H> {
    /// A session that has not met its peer yet.
    pub fn new(local: NodeId, local_incarnation: Incarnation, peer: NodeId, spread: Spread) -> Session<M, H> {
        let mut names = FrameHeader::new(FrameType::Data);
        names.source.set(local.0);
        names.destination.set(peer.0);
        names.incarnation.set(local_incarnation.0);
        Session {
            names,
            peer_incarnation: None,
            member: true,
            dropped_frames: false,
            asks_replay: false,
            routes: Routes::new(spread),
            unopened: 0,
            streams: core::array::from_fn(|_| None),
            owing: 0,
            gaps: 0,
            counters: SessionCounters::default(),
        }
    }

    /// The node at the other end.
    pub fn peer(&self) -> NodeId {
        self.names.destination()
    }

    /// Its life, once one was met.
    pub fn peer_incarnation(&self) -> Option<Incarnation> {
        self.peer_incarnation
    }

    /// What has happened.
    pub fn counters(&self) -> &SessionCounters {
        &self.counters
    }

    /// The paths.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// The paths, to change their policy or measurements.
    pub fn routes_mut(&mut self) -> &mut Routes {
        &mut self.routes
    }

    /// Opens a client's traffic; a client that is open stays as it is. `true`: messages for it were dropped
    /// before, and those after them would wait for ever: the caller starts the peer's rails over, and they
    /// are sent again.
    pub fn open(&mut self, client: ClientId) -> bool {
        let Some(place) = self.streams.get_mut(usize::from(client.0)) else { return false };
        place.get_or_insert_default();
        let dropped = self.unopened & (1 << client.0) != 0;
        self.unopened &= !(1 << client.0);
        dropped
    }

    /// One client's traffic, if open.
    #[inline]
    pub fn stream(&mut self, client: ClientId) -> Option<&mut Stream<M, H>> {
        self.streams.get_mut(usize::from(client.0))?.as_deref_mut()
    }

    /// One client's traffic, to look at.
    #[inline]
    pub fn peek(&self, client: ClientId) -> Option<&Stream<M, H>> {
        self.streams.get(usize::from(client.0))?.as_deref()
    }

    /// The configuration changed: its number, and whether the peer is a member. Frames of a peer that is none
    /// are dropped from now on, whatever rail brings them.
    ///
    /// When a peer becomes a member after frames of its present life were dropped (it knew of its membership
    /// first), each side would count messages as under way that the other has dropped, and those after them
    /// would wait for ever. So the peer is asked to send again, and what it has not acknowledged is sent
    /// again. `true`: it waits to be posted.
    pub fn configure(&mut self, epoch: Epoch, member: bool) -> bool {
        let joins = member && !self.member && self.dropped_frames;
        self.names.epoch.set(epoch.0);
        self.member = member;
        if !joins {
            return false;
        }
        self.asks_replay = true;
        let mut messages = 0;
        for client in 0..CLIENTS_MAX as u16 {
            messages += self.replay(ClientId(client));
            self.ask_replay(Time(0), ClientId(client));
        }
        messages > 0
    }

    /// Tells the peer with the next frame of this client that what it has under way has to be sent again.
    fn ask_replay(&mut self, due: Time, client: ClientId) {
        if let Some(stream) = self.stream(client) {
            stream.asks_replay = true;
            stream.ack_due = due;
            stream.unacked = stream.unacked.max(1);
            self.owing |= 1 << client.0;
        }
    }

    /// The peer has dropped messages of this client ([`FLAG_REPLAY`]): whatever is not acknowledged waits to
    /// be posted again. Returns how many messages that are.
    pub fn replay(&mut self, client: ClientId) -> u32 {
        let Some(stream) = self.streams.get_mut(usize::from(client.0)).and_then(|place| place.as_deref_mut())
        else {
            return 0;
        };
        let mut messages = 0;
        for path in (0..Path::COUNT_MAX).filter_map(Path::from_index) {
            let before = stream.send.unposted();
            messages += stream.send.abandon(path);
            for _ in before..stream.send.unposted() {
                self.routes.done(path);
            }
        }
        self.counters.messages_replayed += u64::from(messages);
        messages
    }

    /// Whether the peer is a member.
    pub fn is_member(&self) -> bool {
        self.member
    }

    // --- sending ---

    /// Whether a message of this client would be taken now.
    #[inline]
    pub fn may_send(&mut self, client: ClientId) -> Result<(), SendRefusal> {
        if !self.member && !client.makes_members() {
            return Err(SendRefusal::NoPeer);
        }
        if self.peer_incarnation.is_none() {
            return Err(SendRefusal::NotConnected);
        }
        let Some(stream) = self.stream(client) else { return Err(SendRefusal::NoClient) };
        if stream.send.is_open() {
            return Ok(());
        }
        stream.starved = true;
        Err(SendRefusal::NoCredit)
    }

    /// Keeps a message; [`Session::may_send`] came just before. [`Session::transmit`] has it
    /// posted, in that many fragments.
    #[inline(always)]
    pub fn send(
        &mut self,
        client: ClientId,
        message: M,
        control_length: usize,
        data_length: usize,
    ) -> (Sequence, u8) {
        let fragments = self.routes.fragments(data_length);
        self.counters.messages_sent += 1;
        self.counters.bytes_sent += data_length as u64;
        let Some(stream) = self.stream(client) else { unreachable!("may_send was asked first") };
        (stream.send.retain(message, control_length as u16, data_length as u32, fragments), fragments)
    }

    /// Whether any client has fragments that no rail has taken while a path is up.
    #[inline]
    pub fn has_unposted(&self) -> bool {
        self.routes.any_up() && self.streams.iter().flatten().any(|stream| stream.send.unposted() > 0)
    }

    /// The first fragment of a client, at or after `from`, that no rail has taken.
    pub fn next_unposted(&self, client: ClientId, from: (Sequence, u8)) -> Option<(Sequence, u8)> {
        self.peek(client)?.send.next_unposted(from)
    }

    /// Has a fragment of a kept message posted: `post` gets the frame and says whether a provider took it.
    /// `None`: there is nothing to post, since no path is up or the message is complete by now.
    /// `prefer`: the path to whose peer memory the message was built, taken if it is up and the message is
    /// whole.
    #[inline]
    pub fn transmit(
        &mut self,
        client: ClientId,
        (sequence, fragment): (Sequence, u8),
        prefer: impl FnOnce(&M) -> Option<Path>,
        post: impl FnOnce(Transmission<'_, M>) -> bool,
    ) -> Option<bool> {
        let stream = self.streams.get_mut(usize::from(client.0))?.as_deref_mut()?;
        let mut fields = stream.fields(client);
        let (kept, unposted) = stream.send.get_mut(sequence)?;
        let whole = kept.fragments == 1;
        fields.path = match prefer(&kept.message) {
            Some(path) if whole && self.routes.is_up(path) => path,
            _ => self.routes.choose(client, fragment, kept.fragments)?,
        };
        fields.sequence = sequence;
        fields.control_length = kept.control_length;
        if kept.replayed {
            fields.flags |= crate::wire::FLAG_REPLAYED;
        }
        let (mut range, mut place) = (0..kept.data_length as usize, None);
        if !whole {
            range = fragment_range(kept.data_length as usize, fragment, kept.fragments);
            place = Some((fragment, kept.fragments));
            fields.frame_type = FrameType::Fragment;
            // The control part goes with the first fragment only.
            let control = if fragment == 0 { kept.control_length } else { 0 };
            fields.control_length = control + FRAGMENT_EXTENSION_BYTES as u16;
        }
        fields.data_length = range.len() as u32;
        let (path, header) = (fields.path, self.names.with(&fields));
        let message = &kept.message;
        let posted = post(Transmission { path, header: &header, message, range, fragment: place });
        if posted {
            kept.posted(fragment, path, unposted);
            stream.told();
            self.routes.took(path);
            self.owing &= !(1 << client.0);
        }
        Some(posted)
    }

    // --- receiving ---

    /// Takes in a frame if it may be looked at: it is for this node, from the peer's present life, from a
    /// member (what makes members may come from a node that wants to become one), for a client that is there.
    /// Its acknowledgement and credit count at once and yield each message that is complete.
    #[inline]
    pub fn receive(
        &mut self,
        now: Time,
        header: &FrameHeader,
        mut complete: impl FnMut(Retained<M>),
    ) -> Result<Receipt, FrameDrop> {
        let client = header.client();
        let ours = header.destination == self.names.source
            && header.source == self.names.destination
            && Some(header.incarnation()) == self.peer_incarnation;
        if !ours || (!self.member && !client.makes_members()) {
            return Err(self.drop_frame(ours));
        }
        let place = self.streams.get_mut(usize::from(client.0)).and_then(|place| place.as_deref_mut());
        let Some(stream) = place else { return Err(self.drop_unopened(client)) };
        let routes = &mut self.routes;
        let honest = stream.send.acknowledge(header.ack.get(), header.credit.get(), |kept| {
            kept.carriers().for_each(|path| routes.done(path));
            complete(kept);
        });
        if !honest {
            self.counters.frames_dropped += 1;
            return Err(FrameDrop::Overrun);
        }
        let writable = stream.starved && stream.send.is_open();
        stream.starved &= !writable;
        let next =
            header.frame_type == FrameType::Data as u8 && stream.receive.accept_next(header.sequence());
        if next {
            stream.owe(now, 1);
            self.owing |= 1 << client.0;
        }
        Ok(Receipt { writable, next })
    }

    #[cold]
    fn drop_frame(&mut self, ours: bool) -> FrameDrop {
        if !ours {
            self.counters.frames_dropped += 1;
            return FrameDrop::Foreign;
        }
        self.counters.frames_fenced += 1;
        self.dropped_frames = true;
        FrameDrop::Fenced
    }

    #[cold]
    fn drop_unopened(&mut self, client: ClientId) -> FrameDrop {
        self.counters.frames_dropped += 1;
        self.unopened |= 1u32.checked_shl(client.0.into()).unwrap_or(0);
        FrameDrop::NoClient
    }

    /// Notes `messages` received that must be acknowledged (0: a duplicate, whose sender missed the first
    /// one).
    #[inline]
    pub fn owe(&mut self, now: Time, client: ClientId, messages: u32) {
        let Some(stream) = self.stream(client) else { return };
        stream.owe(now, messages.max(1));
        self.owing |= 1 << client.0;
        if messages == 0 {
            self.counters.duplicates_dropped += 1;
        }
    }

    /// Counts a delivery.
    #[inline]
    pub fn count_delivery(&mut self, data_length: usize) {
        self.counters.messages_delivered += 1;
        self.counters.bytes_delivered += data_length as u64;
    }

    /// The client is done with `count` messages: their credit goes back to the peer. It travels with the next
    /// frame; one of its own is due when the peer may be waiting for it.
    #[inline]
    pub fn release(&mut self, now: Time, client: ClientId, count: u32) {
        let Some(stream) = self.stream(client) else { return };
        stream.receive.release(count);
        let credit = stream.receive.credit();
        let told_ahead = stream.credit_told.saturating_sub(stream.receive.received());
        if told_ahead < WINDOW as u64 / 2 && credit > stream.credit_told {
            stream.unacked = stream.unacked.max(if told_ahead == 0 { ACK_MESSAGES } else { 1 });
            stream.owe(now, 0);
            self.owing |= 1 << client.0;
        }
    }

    // --- acknowledgements ---

    /// Whether any client owes the peer an acknowledgement.
    #[inline]
    pub fn owes(&self) -> bool {
        self.owing != 0
    }

    /// Whether one is due by the number of messages alone, before its time.
    #[inline]
    pub fn owes_at_once(&self) -> bool {
        let mut bits = self.owing;
        while bits != 0 {
            let client = ClientId(bits.trailing_zeros() as u16);
            bits &= bits - 1;
            if self.peek(client).is_some_and(|stream| stream.unacked >= ACK_MESSAGES) {
                return true;
            }
        }
        false
    }

    /// When the next acknowledgement must leave by itself.
    pub fn ack_deadline(&self) -> Time {
        if self.owing == 0 {
            return Time::NEVER;
        }
        self.streams.iter().flatten().map(|stream| stream.ack_due).min().unwrap_or(Time::NEVER)
    }

    /// The next acknowledgement frame that must leave now, and by which path. Call until `None`, and
    /// [`Session::told`] for each that a provider took.
    pub fn due_acks(&mut self, now: Time) -> Option<(ClientId, Path, FrameHeader)> {
        let mut bits = self.owing;
        while bits != 0 {
            let client = ClientId(bits.trailing_zeros() as u16);
            bits &= bits - 1;
            let Some(stream) = self.streams.get(usize::from(client.0)).and_then(|place| place.as_deref())
            else {
                continue;
            };
            if stream.unacked >= ACK_MESSAGES || stream.ack_due <= now {
                let path = self.routes.choose(client, 0, 1)?;
                let fields = FrameFields { frame_type: FrameType::Ack, path, ..stream.fields(client) };
                let header = self.names.with(&fields);
                return Some((client, path, header));
            }
        }
        None
    }

    /// The peer is being told what this client has received and granted.
    #[inline]
    pub fn told(&mut self, client: ClientId) {
        self.owing &= !(1 << client.0);
        if let Some(stream) = self.stream(client) {
            stream.told();
        }
    }

    // --- paths and lives ---

    /// A path carries payload from now on. Whatever acknowledgement or credit was lost with another rail is
    /// told again, so that both sides know where they stand before anything is sent again.
    pub fn path_up(&mut self, now: Time, path: Path) {
        self.routes.set_up(path, true);
        for client in 0..CLIENTS_MAX as u16 {
            if let Some(stream) = self.stream(ClientId(client)) {
                stream.ack_due = now;
                stream.unacked = stream.unacked.max(1);
                self.owing |= 1 << client;
            }
        }
    }

    /// A path is lost; what it carried and is not acknowledged waits to be posted on another. Returns how
    /// many messages that are.
    pub fn path_down(&mut self, now: Time, path: Path) -> u32 {
        if !self.routes.is_up(path) {
            return 0;
        }
        self.routes.set_up(path, false);
        let asks_replay = self.asks_replay;
        let mut messages = 0;
        for client in 0..CLIENTS_MAX as u16 {
            if let Some(stream) = self.stream(ClientId(client)) {
                messages += stream.send.abandon(path);
                stream.asks_replay |= asks_replay;
                stream.ack_due = now;
                stream.unacked = stream.unacked.max(1);
                self.owing |= 1 << client;
            }
        }
        self.counters.messages_replayed += u64::from(messages);
        self.counters.rails_lost += 1;
        messages
    }

    /// The peer was met in this life. `true`: it is the same as before, or the first. `false`: it is a new
    /// life, the caller must [`Session::reset`] first (and tell every client that outcomes are unknown).
    pub fn meet(&mut self, incarnation: Incarnation) -> bool {
        match self.peer_incarnation {
            None => {
                self.peer_incarnation = Some(incarnation);
                true
            }
            Some(known) => known == incarnation,
        }
    }

    /// Ends the session with the present life of the peer: the outcome of everything not acknowledged is
    /// unknown, what waits on its way in is dropped. All paths are down afterwards.
    pub fn reset(&mut self, local_incarnation: Incarnation, mut unknown: impl FnMut(ClientId, Retained<M>)) {
        for (client, stream) in self.streams.iter_mut().enumerate() {
            if let Some(stream) = stream {
                stream.send.abort(|kept| unknown(ClientId(client as u16), kept));
                **stream = Stream::default();
            }
        }
        for index in 0..Path::COUNT_MAX {
            if let Some(path) = Path::from_index(index) {
                self.routes.set_up(path, false);
            }
        }
        self.peer_incarnation = None;
        self.names.incarnation.set(local_incarnation.0);
        self.dropped_frames = false;
        self.asks_replay = false;
        self.unopened = 0;
        self.owing = 0;
        self.gaps = 0;
    }
}
