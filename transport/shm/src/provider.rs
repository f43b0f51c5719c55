//! The provider: tables of listeners and connections, and the order in which they are served.

use crate::connection::{Connection, Ending, Step};
use crate::fault::ProtocolFault;
use crate::lane::{Lane, LaneRefusal, POLL_BUDGET, Taken};
use crate::socket;
use core::ops::Range;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Weak;
use transport_buf::ring::{before_bells, before_sleep};
use transport_buf::ring_region::RING_REGION_BYTES;
use transport_buf::{Chunk, Region, SlabLayout, SlotCopy};
use transport_proto::time::Time;
use transport_proto::wire::{DATA_BYTES_MAX, FrameHeader};
use transport_provider::bits::{bits, bits_of};
use transport_provider::{
    ConnectionId, DialRefusal, INLINE_BYTES_MAX, ListenRefusal, PayloadSlice, PostRefusal, Provider,
    RailFault, RailName, Sink,
};

/// Connections of one provider at the most: one bit each in a word.
pub const CONNECTIONS_MAX: usize = u64::BITS as usize;
/// Addresses that one provider listens on at the most.
pub const LISTENERS_MAX: usize = u64::BITS as usize;
/// Tokens of a connection: socket, bell, process.
const TOKENS_PER_CONNECTION: usize = 3;
/// Tokens that a provider needs.
pub const TOKENS_MAX: usize = CONNECTIONS_MAX * TOKENS_PER_CONNECTION + LISTENERS_MAX;
/// Peers that are accepted from one listener in one poll.
const ACCEPT_BUDGET: usize = 16;

/// What the provider has counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Connections that ended by a breach of protocol.
    pub protocol_faults: u64,
    /// The last of these.
    pub last_fault: Option<ProtocolFault>,
    /// Peers turned away because every connection was taken or the process is out of descriptors.
    pub turned_away: u64,
    /// Bells rung for peers that slept.
    pub bells_rung: u64,
}

struct Listener {
    rail: RailName,
    socket: OwnedFd,
}

#[derive(Default)]
struct Slot {
    /// Tells the connections of this slot apart.
    reuse: u16,
    connection: Option<Box<Connection>>,
}

/// A transport provider over shared memory.
///
/// Owned and driven by one thread; chunks that it handed out may be dropped on any. Every connection costs
/// this side one ring (260 KiB) and one slab (by default 18 MiB) of memory that is allocated when it is
/// established.
pub struct ShmProvider {
    layout: SlabLayout,
    registry: Option<Registry>,
    tokens: Range<usize>,
    listeners: [Option<Listener>; LISTENERS_MAX],
    slots: Vec<Slot>,
    /// Connections whose ring is looked at in every poll.
    open: u64,
    /// Connections on which something was posted since the last flush.
    unflushed: u64,
    /// Connections whose caller was refused and waits.
    waiting: u64,
    /// Connections with something to do beside the ring.
    attention: u64,
    /// Listeners at which a peer may wait.
    calling: u64,
    armed: bool,
    /// Slabs of dead connections; they live as long as a chunk of them is held.
    retired: Vec<Weak<Region>>,
    statistics: Statistics,
    /// Where [`Provider::poll`] puts the frame that it reports.
    copy: SlotCopy,
    /// Bit per client among whom each peer's memory is shared; none: it is not.
    clients: u32,
}

impl ShmProvider {
    /// A provider that grants each peer a slab of this layout. Panics if the layout cannot be used.
    pub fn new(layout: SlabLayout) -> ShmProvider {
        assert!(layout.is_valid(), "layout cannot be used");
        ShmProvider {
            layout,
            registry: None,
            tokens: 0..0,
            listeners: [const { None }; LISTENERS_MAX],
            slots: (0..CONNECTIONS_MAX).map(|_| Slot::default()).collect(),
            open: 0,
            unflushed: 0,
            waiting: 0,
            attention: 0,
            calling: 0,
            armed: false,
            retired: Vec::new(),
            statistics: Statistics::default(),
            copy: SlotCopy::default(),
            clients: 0,
        }
    }

    /// Each peer's memory is shared among these clients (one bit each), so that one whose leases are held
    /// long leaves the others theirs (SPEC T2).
    pub fn share_among(&mut self, clients: u32) {
        self.clients = clients;
        let lanes = self.slots.iter_mut().filter_map(|slot| slot.connection.as_mut()?.lane.as_mut());
        lanes.for_each(|lane| lane.share_among(clients));
    }

    /// As [`Provider::reserve`], within the client's share.
    pub fn reserve_for(
        &mut self,
        id: ConnectionId,
        client: u16,
        length: usize,
    ) -> Result<Chunk, PostRefusal> {
        let Some(connection) = self.connection(id) else { return Err(PostRefusal::NotConnected) };
        if !connection.is_open() {
            return Err(PostRefusal::NotConnected);
        }
        let Some(lane) = &mut connection.lane else { return Err(PostRefusal::NotConnected) };
        if length > DATA_BYTES_MAX {
            return Err(PostRefusal::TooLarge);
        }
        let chunk = lane.reserve(client, length);
        if lane.waits() {
            self.waiting |= 1 << id.slot();
        }
        chunk
    }

    /// The shorter way of a frame to a reactor that acts on each at once and posts meanwhile, in place of
    /// [`Provider::poll`]: this for all but frames; then for each of [`ShmProvider::connections`]
    /// [`ShmProvider::take`] until it has no more or the budget of a batch is spent, and
    /// [`ShmProvider::batch_done`].
    #[inline]
    pub fn poll_beside(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        if self.attention | self.calling != 0 {
            reports += self.attend_all(sink);
        }
        if self.waiting != 0 {
            reports += self.report_writable(sink);
        }
        reports
    }

    /// Slots of the connections that may have frames, one bit each.
    #[inline]
    pub fn connections(&self) -> u64 {
        self.open
    }

    /// Takes the next frame of the connection in this slot out of its ring. `None`: no frame, or no
    /// connection any more.
    #[inline]
    pub fn take(&mut self, slot: usize, copy: &mut SlotCopy) -> Option<(ConnectionId, Taken)> {
        if self.open & (1 << slot) == 0 {
            return None;
        }
        let connection = self.slots[slot].connection.as_deref_mut()?;
        match connection.lane.as_mut()?.take(copy) {
            Ok(taken) => Some((connection.id, taken?)),
            Err(fault) => {
                self.fault(slot, fault);
                None
            }
        }
    }

    /// Ends a batch of `count` frames of one connection: their slots go back to the peer.
    #[inline]
    pub fn batch_done(&mut self, slot: usize, count: usize) {
        let Some(connection) = self.slots[slot].connection.as_deref_mut() else { return };
        if connection.ending.is_some() {
            connection.drained += count;
        }
        if let Some(lane) = &mut connection.lane {
            lane.batch_done(count);
        }
    }

    /// What was counted.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    fn register(&self, descriptor: BorrowedFd<'_>, token: usize, interest: Interest) -> std::io::Result<()> {
        let registry = self.registry.as_ref().expect("`attach` comes before anything else");
        registry.register(&mut SourceFd(&descriptor.as_raw_fd()), Token(self.tokens.start + token), interest)
    }

    fn deregister(&self, descriptor: BorrowedFd<'_>) {
        let registry = self.registry.as_ref().expect("`attach` comes before anything else");
        // It was registered or it was not: afterwards it is not.
        let _was_not = registry.deregister(&mut SourceFd(&descriptor.as_raw_fd()));
    }

    fn free_slot(&self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.connection.is_none())
    }

    /// Takes a connection into the table: its socket and its peer's process are watched.
    fn admit(
        &mut self,
        slot: usize,
        rail: RailName,
        socket: OwnedFd,
        connecting: bool,
    ) -> std::io::Result<ConnectionId> {
        let token = slot * TOKENS_PER_CONNECTION;
        self.register(socket.as_fd(), token, Interest::READABLE | Interest::WRITABLE)?;
        let id = ConnectionId::new(slot as u16, self.slots[slot].reuse);
        let connection = Connection::new(id, rail, socket, connecting);
        self.slots[slot].connection = Some(Box::new(connection));
        self.attention |= 1 << slot;
        Ok(id)
    }

    /// Watches the process at the other end. Where that cannot be had, the end of the socket must do.
    fn watch_process(&mut self, slot: usize) {
        let Some(connection) = &self.slots[slot].connection else { return };
        let Some(process) = socket::peer_process(&connection.socket) else { return };
        if self.register(process.as_fd(), slot * TOKENS_PER_CONNECTION + 2, Interest::READABLE).is_ok()
            && let Some(connection) = &mut self.slots[slot].connection
        {
            connection.process = Some(process);
        }
    }

    #[inline]
    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(id.slot())?.connection.as_deref_mut()?;
        (connection.id == id).then_some(connection)
    }

    #[inline]
    fn lane(&mut self, slot: usize) -> Option<&mut Lane> {
        self.slots[slot].connection.as_deref_mut()?.lane.as_mut()
    }

    fn accept(&mut self, index: usize, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        for _ in 0..ACCEPT_BUDGET {
            let Some(listener) = &self.listeners[index] else { return reports };
            let rail = listener.rail;
            match socket::accept(&listener.socket) {
                Ok(None) => return reports,
                Ok(Some(socket)) => match self.free_slot() {
                    Some(slot) => {
                        if let Ok(id) = self.admit(slot, rail, socket, false) {
                            self.watch_process(slot);
                            sink.accepted(rail, id);
                            reports += 1;
                        } else {
                            self.statistics.turned_away += 1;
                        }
                    }
                    // Closing the socket tells the peer at once.
                    None => self.statistics.turned_away += 1,
                },
                Err(Errno::CONNABORTED | Errno::INTR) => (),
                // Out of descriptors: the peer stays in the backlog; it is looked for when one is free again.
                Err(_) => {
                    self.statistics.turned_away += 1;
                    return reports;
                }
            }
        }
        self.calling |= 1 << index;
        reports
    }

    /// Everything about a connection but its ring.
    fn attend(&mut self, slot: usize, sink: &mut impl Sink) -> usize {
        let Some(connection) = &mut self.slots[slot].connection else { return 0 };
        let id = connection.id;
        if matches!(connection.ending, Some(Ending::Now(_))) {
            return self.lose(slot, sink);
        }
        let mut reports = 0;
        if core::mem::take(&mut connection.connecting) {
            sink.connected(id);
            reports += 1;
        }
        let (greetings, result) = connection.read_socket(sink);
        reports += greetings;
        match result.and_then(|()| connection.advance()) {
            Ok(Step::Done) => (),
            Ok(Step::Established) => reports += self.opened(slot, sink),
            Err(fault) => self.fault(slot, fault),
        }
        let Some(connection) = &mut self.slots[slot].connection else { return reports };
        if connection.is_open() && connection.take_socket_wait() {
            sink.writable(id);
            reports += 1;
        }
        match connection.ending {
            None => reports,
            Some(Ending::Now(_)) => reports + self.lose(slot, sink),
            Some(Ending::Drained(_)) => {
                let left = connection.lane.as_ref().is_some_and(Lane::has_frame);
                if left && connection.drained < Lane::FRAMES_MAX {
                    self.attention |= 1 << slot;
                    return reports;
                }
                reports + self.lose(slot, sink)
            }
        }
    }

    /// The lane has just opened.
    fn opened(&mut self, slot: usize, sink: &mut impl Sink) -> usize {
        let clients = self.clients;
        if clients != 0
            && let Some(lane) = self.lane(slot)
        {
            lane.share_among(clients);
        }
        let Some(connection) = &self.slots[slot].connection else { return 0 };
        let Some(lane) = &connection.lane else { return 0 };
        let id = connection.id;
        if self.register(lane.bell().as_fd(), slot * TOKENS_PER_CONNECTION + 1, Interest::READABLE).is_err() {
            if let Some(connection) = &mut self.slots[slot].connection {
                connection.end(Ending::Now(RailFault::NoMemory));
            }
            return 0;
        }
        self.open |= 1 << slot;
        sink.established(id);
        1
    }

    #[cold]
    fn fault(&mut self, slot: usize, fault: ProtocolFault) {
        self.statistics.protocol_faults += 1;
        self.statistics.last_fault = Some(fault);
        self.open &= !(1 << slot);
        self.attention |= 1 << slot;
        if let Some(connection) = &mut self.slots[slot].connection {
            connection.ending = Some(Ending::Now(RailFault::Protocol));
            let rail = connection.rail;
            tracing::warn!(%rail, %fault, "peer on shared memory broke the protocol, connection dropped");
        }
    }

    /// Reports the end of a connection and frees its slot.
    fn lose(&mut self, slot: usize, sink: &mut impl Sink) -> usize {
        let Some(connection) = self.slots[slot].connection.take() else { return 0 };
        let (Some(Ending::Now(fault)) | Some(Ending::Drained(fault))) = connection.ending else { return 0 };
        let bit = !(1 << slot);
        self.open &= bit;
        self.unflushed &= bit;
        self.waiting &= bit;
        self.attention &= bit;
        self.slots[slot].reuse = self.slots[slot].reuse.wrapping_add(1);
        self.deregister(connection.socket.as_fd());
        if let Some(process) = &connection.process {
            self.deregister(process.as_fd());
        }
        if let Some(lane) = &connection.lane {
            // The peer holds the bell too, so closing our descriptor alone would leave it registered.
            self.deregister(lane.bell().as_fd());
        }
        socket::shut_down(&connection.socket);
        self.retired.retain(|region| region.strong_count() > 0);
        if let Some(region) = connection.own_slab() {
            self.retired.push(std::sync::Arc::downgrade(region));
        }
        let id = connection.id;
        drop(connection);
        // A descriptor is free again: who could not be accepted for want of one is looked for.
        self.calling |= self.listening();
        sink.lost(id, fault);
        1
    }

    fn listening(&self) -> u64 {
        bits_of(|index| self.listeners[index].is_some())
    }

    fn report_writable(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        for slot in bits(self.waiting) {
            let Some(connection) = &mut self.slots[slot].connection else { continue };
            let id = connection.id;
            let open = connection.is_open();
            let Some(lane) = &mut connection.lane else { continue };
            if open && lane.is_writable() {
                lane.stop_waiting();
                self.waiting &= !(1 << slot);
                sink.writable(id);
                reports += 1;
            }
        }
        reports
    }

    fn peer_process_ended(&mut self, slot: usize) {
        if let Some(connection) = &mut self.slots[slot].connection {
            connection.end(Ending::Drained(RailFault::PeerClosed));
            self.attention |= 1 << slot;
        }
    }

    /// What must happen outside the rings; rare.
    #[cold]
    fn attend_all(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        for index in bits(core::mem::take(&mut self.calling)) {
            reports += self.accept(index, sink);
        }
        for slot in bits(core::mem::take(&mut self.attention)) {
            reports += self.attend(slot, sink);
        }
        reports
    }

    /// A lane did not take a frame.
    #[cold]
    fn post_refused(&mut self, slot: usize, refusal: LaneRefusal) -> PostRefusal {
        match refusal {
            LaneRefusal::Post(refusal) => {
                if self.lane(slot).is_some_and(|lane| lane.waits()) {
                    self.waiting |= 1 << slot;
                }
                refusal
            }
            LaneRefusal::Fault(fault) => {
                self.fault(slot, fault);
                PostRefusal::NotConnected
            }
        }
    }

    /// Posts on a connection that is still greeting.
    #[cold]
    fn post_greeting(
        &mut self,
        id: ConnectionId,
        header: &FrameHeader,
        control: &[u8],
        inline: &[u8],
    ) -> Result<(), PostRefusal> {
        let Some(connection) = self.connection(id) else { return Err(PostRefusal::NotConnected) };
        let outcome = connection.post_greeting(header, control, inline);
        if outcome == Err(PostRefusal::Full) {
            self.attention |= 1 << id.slot();
        }
        outcome
    }
}

impl Provider for ShmProvider {
    type Address = String;

    const RESERVES_AT_PEER: bool = true;

    fn attach(&mut self, registry: Registry, tokens: Range<usize>) {
        assert!(tokens.len() >= TOKENS_MAX, "a shared-memory provider needs {TOKENS_MAX} tokens");
        self.registry = Some(registry);
        self.tokens = tokens;
    }

    fn listen(&mut self, rail: RailName, address: &String) -> Result<(), ListenRefusal> {
        let refusal = |source: std::io::Error| ListenRefusal::Os { address: address.clone(), source };
        let Some(index) = self.listeners.iter().position(Option::is_none) else {
            return Err(refusal(Errno::MFILE.into()));
        };
        let socket = socket::listen(address)?;
        let token = CONNECTIONS_MAX * TOKENS_PER_CONNECTION + index;
        self.register(socket.as_fd(), token, Interest::READABLE).map_err(refusal)?;
        self.listeners[index] = Some(Listener { rail, socket });
        self.calling |= 1 << index;
        Ok(())
    }

    fn unlisten(&mut self, rail: RailName) {
        for index in bits(self.listening()) {
            if self.listeners[index].as_ref().is_some_and(|listener| listener.rail == rail)
                && let Some(listener) = self.listeners[index].take()
            {
                self.deregister(listener.socket.as_fd());
            }
        }
    }

    fn dial(
        &mut self,
        _now: Time,
        rail: RailName,
        _local: &String,
        address: &String,
    ) -> Result<ConnectionId, DialRefusal> {
        let slot = self.free_slot().ok_or(DialRefusal::TooMany)?;
        let socket = socket::dialing().map_err(|errno| DialRefusal::Os(errno.into()))?;
        let outcome = socket::connect(&socket, address);
        if let Err(Errno::NAMETOOLONG | Errno::INVAL) = outcome {
            return Err(DialRefusal::Os(Errno::NAMETOOLONG.into()));
        }
        let id = self.admit(slot, rail, socket, outcome.is_ok()).map_err(DialRefusal::Os)?;
        match outcome {
            Ok(()) => self.watch_process(slot),
            Err(_) => {
                if let Some(connection) = &mut self.slots[slot].connection {
                    connection.end(Ending::Now(RailFault::Refused));
                }
            }
        }
        Ok(id)
    }

    fn establish(&mut self, id: ConnectionId) {
        let layout = self.layout;
        let Some(connection) = self.connection(id) else { return };
        if !connection.is_open() {
            return;
        }
        if let Err(error) = connection.establish(layout) {
            let rail = connection.rail;
            let source = std::error::Error::source(&error);
            tracing::warn!(%rail, %error, ?source, "no memory for a connection");
            connection.end(Ending::Now(RailFault::NoMemory));
        }
        self.attention |= 1 << id.slot();
    }

    fn reserve(&mut self, id: ConnectionId, length: usize) -> Result<Chunk, PostRefusal> {
        self.reserve_for(id, 0, length)
    }

    #[inline]
    fn post(
        &mut self,
        id: ConnectionId,
        header: &FrameHeader,
        control: &[u8],
        inline: &[u8],
        data: PayloadSlice<'_>,
    ) -> Result<(), PostRefusal> {
        let Some(connection) = self.connection(id) else { return Err(PostRefusal::NotConnected) };
        if !connection.is_open() {
            return Err(PostRefusal::NotConnected);
        }
        assert!(control.len() + inline.len() <= INLINE_BYTES_MAX, "frame larger than its slot");
        debug_assert_eq!(control.len(), usize::from(header.control_length.get()));
        debug_assert_eq!(inline.len() + data.len(), header.data_length.get() as usize);
        if data.len() > DATA_BYTES_MAX {
            return Err(PostRefusal::TooLarge);
        }
        match &mut connection.lane {
            Some(lane) => match lane.post(header, control, inline, &data) {
                Ok(()) => {
                    self.unflushed |= 1 << id.slot();
                    Ok(())
                }
                Err(refusal) => Err(self.post_refused(id.slot(), refusal)),
            },
            None if data.is_empty() => self.post_greeting(id, header, control, inline),
            None => Err(PostRefusal::NotConnected),
        }
    }

    #[inline]
    fn flush(&mut self) {
        if self.unflushed == 0 {
            return;
        }
        before_bells();
        for slot in bits(core::mem::take(&mut self.unflushed)) {
            let rung = self.lane(slot).is_some_and(|lane| lane.wake_peer_if_armed());
            self.statistics.bells_rung += u64::from(rung);
        }
    }

    #[inline]
    fn poll(&mut self, _now: Time, sink: &mut impl Sink) -> usize {
        let mut reports = self.poll_beside(sink);
        let mut copy = core::mem::take(&mut self.copy);
        for slot in bits(self.open) {
            let mut count = 0;
            while count < POLL_BUDGET
                && let Some((connection, taken)) = self.take(slot, &mut copy)
            {
                let (header, control, data) = taken.split(&copy);
                sink.frame(connection, header, control, data);
                count += 1;
            }
            self.batch_done(slot, count);
            reports += count;
        }
        self.copy = copy;
        reports
    }

    fn arm(&mut self) -> bool {
        if self.attention | self.calling != 0 {
            return false;
        }
        self.armed = true;
        for slot in bits(self.open) {
            if let Some(lane) = self.lane(slot) {
                lane.arm();
            }
        }
        before_sleep();
        let mut may_sleep = true;
        for slot in bits(self.open) {
            if let Some(lane) = self.lane(slot) {
                may_sleep &= lane.may_sleep();
            }
        }
        if !may_sleep {
            self.disarm();
        }
        may_sleep
    }

    fn disarm(&mut self) {
        if !core::mem::take(&mut self.armed) {
            return;
        }
        for slot in bits(self.open) {
            if let Some(lane) = self.lane(slot) {
                lane.disarm();
            }
        }
    }

    fn event(&mut self, token: Token, _readable: bool, _writable: bool) {
        let Some(number) = token.0.checked_sub(self.tokens.start) else { return };
        let slot = number / TOKENS_PER_CONNECTION;
        if slot >= CONNECTIONS_MAX {
            let listener = number - CONNECTIONS_MAX * TOKENS_PER_CONNECTION;
            if listener < LISTENERS_MAX {
                self.calling |= 1 << listener;
            }
            return;
        }
        match number % TOKENS_PER_CONNECTION {
            0 => self.attention |= 1 << slot,
            // The bell: the next poll looks at every ring anyway.
            1 => (),
            _ => self.peer_process_ended(slot),
        }
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection(id) else { return };
        socket::shut_down(&connection.socket);
        connection.ending = Some(Ending::Now(RailFault::Closed));
        self.open &= !(1 << id.slot());
        self.attention |= 1 << id.slot();
    }

    fn memory_bytes(&self) -> usize {
        let live = self.slots.iter().filter_map(|slot| slot.connection.as_ref()?.own_slab());
        let live: usize = live.map(|slab| slab.len() + RING_REGION_BYTES).sum();
        live + self.retired.iter().filter_map(Weak::upgrade).map(|region| region.len()).sum::<usize>()
    }
}

impl Drop for ShmProvider {
    fn drop(&mut self) {
        // Everything else leaves the poll with its descriptor; a bell has a second one, at the peer.
        for slot in self.slots.iter() {
            if let Some(lane) = slot.connection.as_ref().and_then(|connection| connection.lane.as_ref()) {
                self.deregister(lane.bell().as_fd());
            }
        }
    }
}
