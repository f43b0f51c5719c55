//! A provider inside one process, for tests of the layers above: the contract in its plainest form.
//!
//! Providers of one [`LoopbackNetwork`] reach each other by number. Everything crosses one lock, so it is
//! neither fast nor a model of speed; but it keeps every rule of the contract, copies data into chunks of the
//! receiver, refuses when a lane is full, and lets a test cut what it likes with [`LoopbackNetwork::cut`].

use crate::{
    ConnectionId, DialRefusal, INLINE_BYTES_MAX, Incoming, ListenRefusal, PayloadSlice, PostRefusal,
    Provider, RailFault, RailName, Sink,
};
use mio::{Registry, Token, Waker};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use transport_buf::{Chunk, Slab, SlabLayout, SlabRefusal};
use transport_proto::time::Time;
use transport_proto::wire::{DATA_BYTES_MAX, FrameHeader};

/// Frames under way on one connection in one direction at the most.
pub const LANE_FRAMES_MAX: usize = 256;
/// Data bytes under way on one connection in one direction at the most (always at least one frame).
pub const LANE_BYTES_MAX: usize = 4 << 20;
/// Frames that one `poll` takes from one connection at the most.
const POLL_FRAMES_MAX: usize = 32;
/// Open connections of one provider at the most.
const CONNECTIONS_MAX: usize = 256;
/// Receive memory and, once more, memory for reservations.
const LAYOUT: SlabLayout =
    SlabLayout { classes: [(4 << 10, 64), (64 << 10, 32), (256 << 10, 8), (1 << 20, 4)] };

/// What crosses from one provider to another on one connection.
enum Item {
    /// The listener took the call: its provider and connection.
    Answered(Far),
    /// The other side has called `establish`.
    Ready,
    Frame {
        header: FrameHeader,
        control: Vec<u8>,
        data: Vec<u8>,
    },
    /// There is room again for what was refused.
    Room,
    Ended(RailFault),
}

/// The other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Far {
    provider: usize,
    connection: ConnectionId,
}

#[derive(Default)]
struct Lane {
    items: VecDeque<Item>,
    frames: usize,
    bytes: usize,
    /// The sender was refused and waits for room.
    awaited: bool,
}

/// What waits for one provider.
#[derive(Default)]
struct Inbox {
    calls: VecDeque<(RailName, u16, Far)>,
    lanes: BTreeMap<u32, Lane>,
    waker: Option<Arc<Waker>>,
    armed: bool,
}

impl Inbox {
    fn put(&mut self, connection: ConnectionId, item: Item) {
        let Some(lane) = self.lanes.get_mut(&connection.0) else { return };
        if let Item::Frame { data, .. } = &item {
            lane.frames += 1;
            lane.bytes += data.len();
        }
        lane.items.push_back(item);
        self.wake();
    }

    fn wake(&mut self) {
        if core::mem::take(&mut self.armed) {
            let waker = self.waker.as_ref().expect("armed after attach");
            waker.wake().expect("an eventfd takes a wake-up");
        }
    }
}

impl Lane {
    /// Drops what waits before the connection's end. `false`: there is no end yet, nothing was dropped.
    fn skip_to_end(&mut self) -> bool {
        let end = self.items.iter().position(|item| matches!(item, Item::Ended(_)));
        end.map(|end| self.items.drain(..end)).is_some()
    }
}

#[derive(Default)]
struct Hub {
    listeners: BTreeMap<u16, (usize, RailName)>,
    inboxes: Vec<Inbox>,
    /// Open connections by the address that was dialed, both ends.
    open: Vec<(u16, Far, Far)>,
}

/// What providers of one test share. Cloning yields the same network.
#[derive(Clone, Default)]
pub struct LoopbackNetwork(Arc<Mutex<Hub>>);

impl LoopbackNetwork {
    /// A new member of this network.
    pub fn provider(&self) -> LoopbackProvider {
        let mut hub = self.hub();
        hub.inboxes.push(Inbox::default());
        let member = hub.inboxes.len() - 1;
        drop(hub);
        let slab = || Slab::create(LAYOUT).expect("memory for a loopback provider");
        let (network, connections) = (self.clone(), BTreeMap::new());
        let (receive, reserve, slots) = (slab(), slab(), vec![0; CONNECTIONS_MAX]);
        LoopbackProvider { network, member, connections, slots, receive, reserve, turn: 0 }
    }

    /// Breaks every open connection that was dialed to `address`: both ends hear `lost` as
    /// [`RailFault::Broken`].
    pub fn cut(&self, address: u16) {
        self.end(RailFault::Broken, |dialed, _, _| dialed == address);
    }

    /// A call to `address` by nobody of this network, who then breaks the protocol.
    pub fn intrude(&self, address: u16) {
        let mut hub = self.hub();
        hub.inboxes.push(Inbox::default());
        let stranger = Far { provider: hub.inboxes.len() - 1, connection: ConnectionId(0) };
        hub.inboxes[stranger.provider].lanes.insert(0, Lane::default());
        hub.inboxes[stranger.provider].put(stranger.connection, Item::Ended(RailFault::Protocol));
        if let Some(&(member, rail)) = hub.listeners.get(&address) {
            let inbox = &mut hub.inboxes[member];
            inbox.calls.push_back((rail, address, stranger));
            inbox.wake();
        }
    }

    fn end(&self, fault: RailFault, which: impl Fn(u16, Far, Far) -> bool) {
        let mut hub = self.hub();
        let open = core::mem::take(&mut hub.open);
        let (ended, open): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|&(address, from, to)| which(address, from, to));
        hub.open = open;
        for (_, from, to) in ended {
            for end in [from, to] {
                hub.inboxes[end.provider].put(end.connection, Item::Ended(fault));
            }
        }
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Connection {
    far: Option<Far>,
    staged: VecDeque<(FrameHeader, Vec<u8>, Vec<u8>)>,
    staged_bytes: usize,
    establish_called: bool,
    peer_ready: bool,
    established: bool,
    closing: bool,
}

impl Connection {
    fn new(far: Option<Far>) -> Connection {
        let staged = VecDeque::new();
        let (staged_bytes, establish_called, peer_ready, established, closing) =
            (0, false, false, false, false);
        Connection { far, staged, staged_bytes, establish_called, peer_ready, established, closing }
    }
}

/// A member of a [`LoopbackNetwork`].
pub struct LoopbackProvider {
    network: LoopbackNetwork,
    member: usize,
    connections: BTreeMap<u32, Connection>,
    /// Times that each slot was used.
    slots: Vec<u16>,
    receive: Slab,
    reserve: Slab,
    /// Where the next poll begins, so that no connection is always first.
    turn: usize,
}

impl LoopbackProvider {
    fn open(&mut self, far: Option<Far>) -> Option<ConnectionId> {
        let taken = |slot: usize| self.connections.keys().any(|id| ConnectionId(*id).slot() == slot);
        let slot = (0..CONNECTIONS_MAX).find(|slot| !taken(*slot))?;
        self.slots[slot] = self.slots[slot].wrapping_add(1);
        let id = ConnectionId::new(slot as u16, self.slots[slot]);
        self.connections.insert(id.0, Connection::new(far));
        self.network.hub().inboxes[self.member].lanes.insert(id.0, Lane::default());
        Some(id)
    }

    fn answer_calls(&mut self, sink: &mut impl Sink) -> usize {
        let calls = core::mem::take(&mut self.network.hub().inboxes[self.member].calls);
        let mut reports = 0;
        for (rail, address, from) in calls {
            let Some(id) = self.open(Some(from)) else { continue };
            let here = Far { provider: self.member, connection: id };
            let mut hub = self.network.hub();
            let broken = !hub.inboxes[from.provider].lanes.contains_key(&from.connection.0);
            let intruder = !broken && from.connection == ConnectionId(0);
            if broken || intruder {
                let fault = if intruder { RailFault::Protocol } else { RailFault::PeerClosed };
                hub.inboxes[self.member].put(id, Item::Ended(fault));
            } else {
                hub.inboxes[from.provider].put(from.connection, Item::Answered(here));
                hub.open.push((address, from, here));
            }
            drop(hub);
            sink.accepted(rail, id);
            reports += 1;
        }
        reports
    }

    /// Takes what is deliverable from one lane. Returns the number of reports.
    fn deliver(&mut self, id: ConnectionId, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        for _ in 0..POLL_FRAMES_MAX {
            let Some(connection) = self.connections.get_mut(&id.0) else { break };
            let mut hub = self.network.hub();
            let Some(lane) = hub.inboxes[self.member].lanes.get_mut(&id.0) else { break };
            let chunk = match lane.items.front() {
                None => break,
                Some(Item::Frame { control, data, .. }) if control.len() + data.len() > INLINE_BYTES_MAX => {
                    if !connection.established {
                        break;
                    }
                    match self.receive.allocate(data.len()) {
                        Ok(chunk) => Some(chunk),
                        // Memory for the rest may never come: an end that waits behind it is heard at once.
                        Err(_) if lane.skip_to_end() => None,
                        Err(_) => break,
                    }
                }
                Some(_) => None,
            };
            let item = lane.items.pop_front().expect("it has a front");
            if let Item::Frame { data, .. } = &item {
                lane.frames -= 1;
                lane.bytes -= data.len();
                let roomy = lane.frames <= LANE_FRAMES_MAX / 2 && lane.bytes <= LANE_BYTES_MAX / 2;
                if roomy
                    && core::mem::take(&mut lane.awaited)
                    && let Some(far) = connection.far
                {
                    hub.inboxes[far.provider].put(far.connection, Item::Room);
                }
            }
            drop(hub);
            reports += self.report(id, item, chunk, sink);
        }
        reports
    }

    fn report(&mut self, id: ConnectionId, item: Item, chunk: Option<Chunk>, sink: &mut impl Sink) -> usize {
        let connection = self.connections.get_mut(&id.0).expect("the caller has looked it up");
        match item {
            Item::Ended(fault) => {
                self.connections.remove(&id.0);
                self.network.hub().inboxes[self.member].lanes.remove(&id.0);
                sink.lost(id, fault);
            }
            Item::Answered(far) => {
                connection.far = Some(far);
                sink.connected(id);
            }
            Item::Ready => {
                connection.peer_ready = true;
                return self.report_established(id, sink);
            }
            Item::Room => sink.writable(id),
            Item::Frame { header, control, data } => match chunk {
                None if data.is_empty() => sink.frame(id, &header, &control, Incoming::Empty),
                None => sink.frame(id, &header, &control, Incoming::Inline(&data)),
                Some(mut chunk) => {
                    chunk.as_mut().copy_from_slice(&data);
                    sink.frame(id, &header, &control, Incoming::Chunk(chunk));
                }
            },
        }
        1
    }

    fn report_established(&mut self, id: ConnectionId, sink: &mut impl Sink) -> usize {
        let Some(connection) = self.connections.get_mut(&id.0) else { return 0 };
        if connection.established || !connection.establish_called || !connection.peer_ready {
            return 0;
        }
        connection.established = true;
        sink.established(id);
        1
    }

    fn openness(&self, id: ConnectionId, payload: bool) -> Result<&Connection, PostRefusal> {
        match self.connections.get(&id.0) {
            Some(open) if open.far.is_some() && !open.closing && (open.established || !payload) => Ok(open),
            _ => Err(PostRefusal::NotConnected),
        }
    }

    /// Whether `poll` would have something to report.
    fn is_anything_deliverable(&mut self) -> bool {
        let hub = self.network.hub();
        let inbox = &hub.inboxes[self.member];
        let receive = &mut self.receive;
        !inbox.calls.is_empty()
            || inbox.lanes.iter().any(|(id, lane)| match (lane.items.front(), self.connections.get(id)) {
                (Some(Item::Frame { control, data, .. }), Some(connection)) => {
                    let small = control.len() + data.len() <= INLINE_BYTES_MAX;
                    let ended = lane.items.iter().any(|item| matches!(item, Item::Ended(_)));
                    small || connection.established && (ended || receive.allocate(data.len()).is_ok())
                }
                (item, _) => item.is_some(),
            })
    }
}

impl Provider for LoopbackProvider {
    type Address = u16;
    const RESERVES_AT_PEER: bool = false;

    fn attach(&mut self, registry: Registry, tokens: core::ops::Range<usize>) {
        let waker = Waker::new(&registry, Token(tokens.start)).expect("an eventfd can be made");
        self.network.hub().inboxes[self.member].waker = Some(Arc::new(waker));
    }

    fn listen(&mut self, rail: RailName, address: &u16) -> Result<(), ListenRefusal> {
        let mut hub = self.network.hub();
        if hub.listeners.contains_key(address) {
            return Err(ListenRefusal::InUse { address: address.to_string() });
        }
        hub.listeners.insert(*address, (self.member, rail));
        Ok(())
    }

    fn unlisten(&mut self, rail: RailName) {
        let member = self.member;
        self.network.hub().listeners.retain(|_, listener| *listener != (member, rail));
    }

    fn dial(
        &mut self,
        _now: Time,
        _rail: RailName,
        _local: &u16,
        address: &u16,
    ) -> Result<ConnectionId, DialRefusal> {
        let id = self.open(None).ok_or(DialRefusal::TooMany)?;
        let here = Far { provider: self.member, connection: id };
        let mut hub = self.network.hub();
        match hub.listeners.get(address).copied() {
            Some((member, rail)) => {
                let inbox = &mut hub.inboxes[member];
                inbox.calls.push_back((rail, *address, here));
                inbox.wake();
            }
            None => hub.inboxes[self.member].put(id, Item::Ended(RailFault::Refused)),
        }
        Ok(id)
    }

    fn establish(&mut self, connection: ConnectionId) {
        let Some(open) = self.connections.get_mut(&connection.0) else { return };
        open.establish_called = true;
        let far = open.far;
        let mut hub = self.network.hub();
        if let Some(far) = far {
            hub.inboxes[far.provider].put(far.connection, Item::Ready);
        }
        hub.inboxes[self.member].wake();
    }

    fn reserve(&mut self, connection: ConnectionId, length: usize) -> Result<Chunk, PostRefusal> {
        self.openness(connection, true)?;
        self.reserve.allocate(length).map_err(|refusal| match refusal {
            SlabRefusal::Exhausted => PostRefusal::NoMemory,
            SlabRefusal::TooLarge { .. } => PostRefusal::TooLarge,
        })
    }

    fn post(
        &mut self,
        connection: ConnectionId,
        header: &FrameHeader,
        control: &[u8],
        inline: &[u8],
        data: PayloadSlice<'_>,
    ) -> Result<(), PostRefusal> {
        assert!(inline.is_empty() || data.is_empty());
        assert!(inline.is_empty() || control.len() + inline.len() <= INLINE_BYTES_MAX);
        let far = self.openness(connection, !data.is_empty())?.far.expect("an open connection has a far end");
        if data.len() > DATA_BYTES_MAX {
            return Err(PostRefusal::TooLarge);
        }
        let open = self.connections.get_mut(&connection.0).expect("it is open");
        if let Some(lane) = self.network.hub().inboxes[far.provider].lanes.get_mut(&far.connection.0) {
            let frames = lane.frames + open.staged.len();
            let bytes = lane.bytes + open.staged_bytes;
            if frames >= LANE_FRAMES_MAX || bytes > 0 && bytes + data.len() > LANE_BYTES_MAX {
                lane.awaited = true;
                return Err(PostRefusal::Full);
            }
        }
        let mut bytes = inline.to_vec();
        if !data.is_empty() {
            bytes.resize(data.len(), 0);
            data.copy_to(&mut bytes);
        }
        open.staged_bytes += bytes.len();
        open.staged.push_back((*header, control.to_vec(), bytes));
        Ok(())
    }

    fn flush(&mut self) {
        let mut hub = self.network.hub();
        for connection in self.connections.values_mut().filter(|connection| !connection.staged.is_empty()) {
            connection.staged_bytes = 0;
            let far = connection.far.expect("only an open connection takes posts");
            for (header, control, data) in connection.staged.drain(..) {
                hub.inboxes[far.provider].put(far.connection, Item::Frame { header, control, data });
            }
        }
    }

    fn poll(&mut self, _now: Time, sink: &mut impl Sink) -> usize {
        let mut reports = self.answer_calls(sink);
        let ids: Vec<u32> = self.connections.keys().copied().collect();
        self.turn = self.turn.wrapping_add(1);
        for index in 0..ids.len() {
            let id = ConnectionId(ids[(index + self.turn) % ids.len()]);
            reports += self.deliver(id, sink);
            reports += self.report_established(id, sink);
        }
        reports
    }

    fn arm(&mut self) -> bool {
        self.network.hub().inboxes[self.member].armed = true;
        let unreported = |open: &Connection| open.establish_called && open.peer_ready && !open.established;
        !self.connections.values().any(unreported) && !self.is_anything_deliverable()
    }

    fn disarm(&mut self) {
        self.network.hub().inboxes[self.member].armed = false;
    }

    fn event(&mut self, _token: Token, _readable: bool, _writable: bool) {}

    fn close(&mut self, connection: ConnectionId) {
        let Some(open) = self.connections.get_mut(&connection.0) else { return };
        if core::mem::replace(&mut open.closing, true) {
            return;
        }
        let here = Far { provider: self.member, connection };
        let far = open.far;
        open.staged.clear();
        let mut hub = self.network.hub();
        hub.open.retain(|&(_, from, to)| from != here && to != here);
        if let Some(lane) = hub.inboxes[self.member].lanes.get_mut(&connection.0) {
            lane.items.clear();
        }
        hub.inboxes[self.member].put(connection, Item::Ended(RailFault::Closed));
        if let Some(far) = far {
            hub.inboxes[far.provider].put(far.connection, Item::Ended(RailFault::PeerClosed));
        }
    }

    fn memory_bytes(&self) -> usize {
        self.receive.region().len() + self.reserve.region().len()
    }
}

impl Drop for LoopbackProvider {
    fn drop(&mut self) {
        let member = self.member;
        let mut hub = self.network.hub();
        hub.listeners.retain(|_, listener| listener.0 != member);
        hub.inboxes[member] = Inbox::default();
        drop(hub);
        self.network
            .end(RailFault::PeerClosed, |_, from, to| from.provider == member || to.provider == member);
    }
}
