//! The provider: the table of connections, the listeners, and what is looked at when.
//!
//! `poll` looks at lists that are empty when nothing happens: ends to report, callers, sockets that `mio` called
//! readable, sockets that were active a moment ago (read directly, without asking `mio`: a spinning reactor hears an
//! answer one system call after it arrived), and connections that wait for memory.
//!
//! `mio` is edge-triggered. A connection is `readable` from the event on until a read finds nothing, and as long as
//! one is, `arm` refuses to sleep; what arrives after such a read raises a new event, also when a direct read takes
//! it first (then the event is stale and costs one more read).

use crate::connection::{CONNECTION_BYTES, Connection, End, Phase, Refused, Stall};
use crate::fault::{TcpFaultReport, TcpFaults};
use crate::options::TcpOptions;
use crate::socket::{self, Dial};
use crate::writer::{COPIED_BYTES_MAX, Held};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use transport_buf::{Chunk, RegionError, Slab, SlabRefusal};
use transport_proto::time::Time;
use transport_proto::wire::{DATA_BYTES_MAX, FrameHeader};
use transport_provider::{
    ConnectionId, DialRefusal, INLINE_BYTES_MAX, ListenRefusal, Payload, PayloadSlice, PostRefusal, Provider,
    RailFault, RailName, Sink,
};

/// Open connections at the most.
pub const CONNECTIONS_MAX: usize = 256;
/// Rails that are listened for at the most.
pub const LISTENERS_MAX: usize = 128;
/// Tokens that the provider needs: one a connection, one a listener.
pub const TOKENS: usize = CONNECTIONS_MAX + LISTENERS_MAX;

/// How long after its last frame a socket is still read directly.
const HOT: Duration = Duration::from_micros(200);
/// Sockets that are read directly at the most: each costs a system call a poll.
const HOT_MAX: usize = 4;
/// Callers taken from one listener in one poll at the most.
const ACCEPTS_MAX: usize = 16;

struct Listener {
    rail: RailName,
    socket: TcpListener,
    /// `mio` said readable and no accept has found nothing since.
    readable: bool,
    /// The system refused a caller for want of something; tried again at each poll, but no reason to stay awake.
    failing: bool,
}

/// The TCP provider. See the module's documentation for its way of working, [`Provider`] for its contract.
pub struct TcpProvider {
    options: TcpOptions,
    registry: Option<Registry>,
    first_token: usize,
    receive: Slab,
    reserve: Slab,
    connections: Vec<Option<Box<Connection>>>,
    /// Times that each slot was used.
    reuses: Vec<u16>,
    listeners: Vec<Option<Listener>>,
    /// The reading of the last poll.
    now: Time,
    /// Slots that `mio` called readable.
    readable: Vec<u16>,
    /// The same list while it is worked on.
    readable_now: Vec<u16>,
    /// Slots that were active a moment ago.
    hot: Vec<u16>,
    /// Slots with something to flush.
    dirty: Vec<u16>,
    /// Slots that wait for receive memory.
    starved: Vec<u16>,
    /// Slots whose caller was refused.
    refused: Vec<u16>,
    /// Slots to report as established.
    establishing: Vec<u16>,
    /// Slots whose dial may be decided.
    dialing: Vec<u16>,
    /// Connections that are gone already and wait to be reported.
    ended: VecDeque<(ConnectionId, RailFault)>,
    faults: TcpFaults,
}

impl TcpProvider {
    /// A provider with the memory that `options` ask for.
    pub fn new(options: TcpOptions) -> Result<TcpProvider, RegionError> {
        options.check();
        let list = || Vec::with_capacity(CONNECTIONS_MAX);
        Ok(TcpProvider {
            receive: Slab::create(options.receive)?,
            reserve: Slab::create(options.reserve)?,
            options,
            registry: None,
            first_token: 0,
            connections: (0..CONNECTIONS_MAX).map(|_| None).collect(),
            reuses: vec![0; CONNECTIONS_MAX],
            listeners: (0..LISTENERS_MAX).map(|_| None).collect(),
            now: Time::default(),
            readable: list(),
            readable_now: list(),
            hot: Vec::with_capacity(HOT_MAX),
            dirty: list(),
            starved: list(),
            refused: list(),
            establishing: list(),
            dialing: list(),
            ended: VecDeque::with_capacity(CONNECTIONS_MAX),
            faults: TcpFaults::default(),
        })
    }

    /// What peers did wrong so far.
    pub fn faults(&self) -> &TcpFaults {
        &self.faults
    }

    /// The address on which `rail` is listened for, with the port that the kernel chose if it was 0.
    pub fn listening(&self, rail: RailName) -> Option<SocketAddr> {
        let listener = self.listeners.iter().flatten().find(|listener| listener.rail == rail)?;
        listener.socket.local_addr().ok()
    }

    fn registry(&self) -> &Registry {
        self.registry.as_ref().expect("`attach` comes first")
    }

    /// The connection with this id, if it still is.
    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let slot = self.connections.get_mut(id.slot())?;
        slot.as_deref_mut().filter(|connection| connection.id == id)
    }

    fn is_payload_welcome(&mut self, id: ConnectionId) -> bool {
        self.connection(id).is_some_and(|connection| connection.phase == Phase::Established)
    }

    /// Puts a socket into the table. `None`: the table is full or the kernel refuses to watch it.
    fn admit(
        &mut self,
        rail: RailName,
        mut stream: TcpStream,
        peer: SocketAddr,
        phase: Phase,
    ) -> Option<u16> {
        let slot = self.connections.iter().position(Option::is_none)?;
        let token = Token(self.first_token + slot);
        self.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE).ok()?;
        self.reuses[slot] = self.reuses[slot].wrapping_add(1);
        let id = ConnectionId::new(slot as u16, self.reuses[slot]);
        let connection = Connection::new(id, rail, stream, peer, phase, &self.options);
        self.connections[slot] = Some(Box::new(connection));
        Some(slot as u16)
    }

    /// Takes a connection out of the table and closes its socket. Chunks of it that the receiver holds stay valid.
    fn remove(&mut self, slot: u16) -> Option<Box<Connection>> {
        let mut connection = self.connections[usize::from(slot)].take()?;
        // Closing the socket ends the watch all the same.
        let _ = self.registry().deregister(&mut connection.stream);
        let lists = [
            &mut self.readable,
            &mut self.hot,
            &mut self.dirty,
            &mut self.starved,
            &mut self.refused,
            &mut self.establishing,
            &mut self.dialing,
        ];
        for list in lists {
            list.retain(|listed| *listed != slot);
        }
        Some(connection)
    }

    /// Ends a connection from inside `poll`.
    fn end(&mut self, slot: u16, end: End, sink: &mut impl Sink) {
        let Some(connection) = self.remove(slot) else { return };
        let fault = match end {
            End::Rail(fault) => {
                self.faults.torn += u64::from(connection.reader.is_inside_frame());
                fault
            }
            End::Protocol(fault) => {
                self.faults.protocol += 1;
                let (rail, peer) = (connection.rail, connection.peer);
                self.faults.last = Some(TcpFaultReport { rail, peer, fault });
                RailFault::Protocol
            }
        };
        sink.lost(connection.id, fault);
    }

    fn mark_readable(&mut self, slot: u16) {
        let Some(connection) = self.connections[usize::from(slot)].as_deref_mut() else { return };
        connection.readable = true;
        if !core::mem::replace(&mut connection.listed, true) {
            self.readable.push(slot);
        }
    }

    /// The socket carries a frame: it is read directly for a while. The longest idle one makes room.
    fn mark_hot(&mut self, slot: u16) {
        let now = self.now;
        let Some(connection) = self.connections[usize::from(slot)].as_deref_mut() else { return };
        connection.active = now;
        if core::mem::replace(&mut connection.hot, true) {
            return;
        }
        if self.hot.len() == HOT_MAX {
            let coldest = self.hot.remove(0);
            self.connections[usize::from(coldest)].as_deref_mut().expect("removal unlists").hot = false;
        }
        self.hot.push(slot);
    }

    fn mark_dirty(&mut self, slot: u16) {
        let Some(connection) = self.connections[usize::from(slot)].as_deref_mut() else { return };
        if !core::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(slot);
        }
    }

    fn note_refused(&mut self, id: ConnectionId, refused: Refused) {
        let Some(connection) = self.connection(id) else { return };
        if core::mem::replace(&mut connection.refused, refused) == Refused::No {
            self.refused.push(id.slot() as u16);
        }
    }

    fn accept_callers(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        for index in 0..LISTENERS_MAX {
            let Some(listener) = &self.listeners[index] else { continue };
            if !listener.readable && !listener.failing {
                continue;
            }
            for _ in 0..ACCEPTS_MAX {
                let Some(listener) = &mut self.listeners[index] else { break };
                match listener.socket.accept() {
                    Ok((stream, peer)) => {
                        let rail = listener.rail;
                        reports += self.take_caller(rail, stream, peer, sink);
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {
                        (listener.readable, listener.failing) = (false, false);
                        break;
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => (),
                    Err(_) => {
                        (listener.readable, listener.failing) = (false, true);
                        break;
                    }
                }
            }
        }
        reports
    }

    fn take_caller(
        &mut self,
        rail: RailName,
        stream: TcpStream,
        peer: SocketAddr,
        sink: &mut impl Sink,
    ) -> usize {
        let tuned = socket::tune(&stream, self.options.kernel_send_bytes).is_ok();
        match self.admit(rail, stream, peer, Phase::Open).filter(|_| tuned) {
            Some(slot) => {
                let id = self.connections[usize::from(slot)].as_deref().expect("just admitted").id;
                sink.accepted(rail, id);
                self.mark_readable(slot);
                1
            }
            None => {
                self.faults.turned_away += 1;
                0
            }
        }
    }

    fn decide_dials(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        while let Some(slot) = self.dialing.pop() {
            let Some(connection) = self.connections[usize::from(slot)].as_deref_mut() else { continue };
            match socket::dialed(&connection.stream) {
                None => continue,
                Some(true) => {
                    connection.phase = Phase::Open;
                    connection.blocked = false;
                    sink.connected(connection.id);
                    self.mark_readable(slot);
                }
                Some(false) => self.end(slot, End::Rail(RailFault::Refused), sink),
            }
            reports += 1;
        }
        reports
    }

    fn report_established(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        while let Some(slot) = self.establishing.pop() {
            let Some(connection) = self.connections[usize::from(slot)].as_deref() else { continue };
            sink.established(connection.id);
            reports += 1;
            self.mark_readable(slot);
        }
        reports
    }

    /// Reads one connection. Returns the number of reports.
    fn serve(&mut self, slot: u16, sink: &mut impl Sink) -> usize {
        let Some(connection) = self.connections[usize::from(slot)].as_deref_mut() else { return 0 };
        if connection.phase == Phase::Dialing {
            return 0;
        }
        let stall_before = connection.stall;
        let (reports, end) = connection.serve(&mut self.receive, sink);
        let stall = connection.stall;
        if let Some(end) = end {
            self.end(slot, end, sink);
            return reports + 1;
        }
        if stall == Stall::Memory && stall_before != Stall::Memory {
            self.faults.starved += 1;
            self.starved.push(slot);
        } else if stall != Stall::Memory && stall_before == Stall::Memory {
            self.starved.retain(|starved| *starved != slot);
        }
        if reports > 0 {
            self.mark_hot(slot);
        }
        reports
    }

    fn serve_readable(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        core::mem::swap(&mut self.readable, &mut self.readable_now);
        for index in 0..self.readable_now.len() {
            let slot = self.readable_now[index];
            if let Some(connection) = self.connections[usize::from(slot)].as_deref_mut() {
                connection.listed = false;
            }
            reports += self.serve(slot, sink);
            if self.connections[usize::from(slot)].as_deref().is_some_and(|connection| connection.readable) {
                self.mark_readable(slot);
            }
        }
        self.readable_now.clear();
        reports
    }

    fn serve_hot(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        let mut index = 0;
        while let Some(&slot) = self.hot.get(index) {
            let connection = self.connections[usize::from(slot)].as_deref_mut().expect("removal unlists");
            if self.now.since(connection.active) > HOT {
                connection.hot = false;
                self.hot.swap_remove(index);
            } else if connection.listed || connection.stall != Stall::None {
                index += 1;
            } else {
                reports += self.serve(slot, sink);
                // A connection that ended is off the list, and another one stands in its place.
                index += usize::from(self.hot.get(index) == Some(&slot));
            }
        }
        reports
    }

    fn serve_starved(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        for index in (0..self.starved.len()).rev() {
            let Some(&slot) = self.starved.get(index) else { continue };
            reports += self.serve(slot, sink);
            if self.connections[usize::from(slot)].as_deref().is_some_and(|connection| connection.readable) {
                self.mark_readable(slot);
            }
        }
        // Whoever waited longest is first next time.
        if self.starved.len() > 1 {
            self.starved.rotate_left(1);
        }
        reports
    }

    fn report_room(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        for index in (0..self.refused.len()).rev() {
            let slot = self.refused[index];
            let connection = self.connections[usize::from(slot)].as_deref_mut().expect("removal unlists");
            if has_room_again(connection, &mut self.reserve) {
                connection.refused = Refused::No;
                sink.writable(connection.id);
                self.refused.swap_remove(index);
                reports += 1;
            }
        }
        reports
    }

    /// The data of a post as the queue may hold them. `Err`: no chunk for a copy.
    fn hold(&mut self, data: &PayloadSlice<'_>) -> Result<(Held, core::ops::Range<usize>), PostRefusal> {
        match data.payload {
            Payload::Placed(_) => {
                let mut chunk = self.reserve.allocate(data.len()).map_err(post_refusal)?;
                data.copy_to(chunk.as_mut());
                Ok((Held::Copy(chunk), 0..data.len()))
            }
            payload => Ok((Held::Payload(payload.clone()), data.range.clone())),
        }
    }
}

fn has_room_again(connection: &Connection, reserve: &mut Slab) -> bool {
    match connection.refused {
        Refused::No => false,
        Refused::Full => connection.writer.is_half_empty(),
        Refused::NoMemory(bytes) => reserve.allocate(bytes).is_ok(),
    }
}

fn post_refusal(refusal: SlabRefusal) -> PostRefusal {
    match refusal {
        SlabRefusal::Exhausted => PostRefusal::NoMemory,
        SlabRefusal::TooLarge { .. } => PostRefusal::TooLarge,
    }
}

impl Provider for TcpProvider {
    type Address = SocketAddr;
    const RESERVES_AT_PEER: bool = false;

    fn attach(&mut self, registry: Registry, tokens: core::ops::Range<usize>) {
        assert!(tokens.len() >= TOKENS, "the tcp provider needs {TOKENS} tokens");
        self.registry = Some(registry);
        self.first_token = tokens.start;
    }

    fn listen(&mut self, rail: RailName, address: &SocketAddr) -> Result<(), ListenRefusal> {
        let refusal = |source: std::io::Error| match source.kind() {
            ErrorKind::AddrInUse => ListenRefusal::InUse { address: address.to_string() },
            _ => ListenRefusal::Os { address: address.to_string(), source },
        };
        let Some(index) = self.listeners.iter().position(Option::is_none) else {
            return Err(refusal(std::io::Error::from(ErrorKind::QuotaExceeded)));
        };
        let mut socket = socket::listen(address).map_err(refusal)?;
        let token = Token(self.first_token + CONNECTIONS_MAX + index);
        self.registry().register(&mut socket, token, Interest::READABLE).map_err(refusal)?;
        self.listeners[index] = Some(Listener { rail, socket, readable: true, failing: false });
        Ok(())
    }

    fn unlisten(&mut self, rail: RailName) {
        for index in 0..LISTENERS_MAX {
            if let Some(mut listener) = self.listeners[index].take_if(|listener| listener.rail == rail) {
                // Closing the socket ends the watch all the same.
                let _ = self.registry().deregister(&mut listener.socket);
            }
        }
    }

    fn dial(
        &mut self,
        now: Time,
        rail: RailName,
        local: &SocketAddr,
        address: &SocketAddr,
    ) -> Result<ConnectionId, DialRefusal> {
        self.now = self.now.max(now);
        if self.connections.iter().all(Option::is_some) {
            return Err(DialRefusal::TooMany);
        }
        match socket::dial(local, address, self.options.kernel_send_bytes).map_err(DialRefusal::Os)? {
            Dial::Begun(stream) => {
                let slot = self.admit(rail, stream, *address, Phase::Dialing).ok_or(DialRefusal::TooMany)?;
                Ok(self.connections[usize::from(slot)].as_deref().expect("just admitted").id)
            }
            Dial::Refused => {
                let slot = self.connections.iter().position(Option::is_none).expect("one is free");
                self.reuses[slot] = self.reuses[slot].wrapping_add(1);
                let id = ConnectionId::new(slot as u16, self.reuses[slot]);
                self.ended.push_back((id, RailFault::Refused));
                Ok(id)
            }
        }
    }

    fn establish(&mut self, connection: ConnectionId) {
        let Some(open) = self.connection(connection) else { return };
        if open.phase == Phase::Open {
            open.phase = Phase::Established;
            self.establishing.push(connection.slot() as u16);
        }
    }

    fn reserve(&mut self, connection: ConnectionId, length: usize) -> Result<Chunk, PostRefusal> {
        if !self.is_payload_welcome(connection) {
            return Err(PostRefusal::NotConnected);
        }
        let reserved = self.reserve.allocate(length).map_err(post_refusal);
        if matches!(reserved, Err(PostRefusal::NoMemory)) {
            self.note_refused(connection, Refused::NoMemory(length));
        }
        reserved
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
        assert!(usize::from(header.control_length.get()) == control.len());
        assert!(header.data_length.get() as usize == inline.len() + data.len());
        let slot = connection.slot() as u16;
        let copied = data.len() <= COPIED_BYTES_MAX;
        let (beside, by_reference) = if copied { (inline.len() + data.len(), 0) } else { (0, data.len()) };
        let Some(open) = self.connection(connection).filter(|open| open.phase != Phase::Dialing) else {
            return Err(PostRefusal::NotConnected);
        };
        if !data.is_empty() && open.phase != Phase::Established {
            return Err(PostRefusal::NotConnected);
        }
        if data.len() > DATA_BYTES_MAX {
            return Err(PostRefusal::TooLarge);
        }
        if !open.writer.has_room(control.len() + beside, by_reference) {
            self.note_refused(connection, Refused::Full);
            return Err(PostRefusal::Full);
        }
        let data_checksum = self.options.data_checksum;
        if copied {
            let mut small = [0; COPIED_BYTES_MAX];
            let open = self.connection(connection).expect("it is open");
            let bytes = if data.is_empty() {
                inline
            } else {
                data.copy_to(&mut small[..data.len()]);
                &small[..data.len()]
            };
            open.writer.push_copied(header, control, bytes, data_checksum);
        } else {
            let held = self.hold(&data);
            if held.as_ref().err() == Some(&PostRefusal::NoMemory) {
                self.note_refused(connection, Refused::NoMemory(data.len()));
            }
            let (held, range) = held?;
            let open = self.connection(connection).expect("it is open");
            open.writer.push_held(header, control, held, range, data_checksum);
        }
        self.mark_dirty(slot);
        Ok(())
    }

    fn flush(&mut self) {
        while let Some(slot) = self.dirty.pop() {
            let Some(connection) = self.connections[usize::from(slot)].as_deref_mut() else { continue };
            connection.dirty = false;
            connection.flush();
            let failed = connection.write_fault.is_some();
            // An answer is likely soon.
            self.mark_hot(slot);
            if failed {
                self.mark_readable(slot);
            }
        }
    }

    fn poll(&mut self, now: Time, sink: &mut impl Sink) -> usize {
        self.now = self.now.max(now);
        let mut reports = 0;
        while let Some((id, fault)) = self.ended.pop_front() {
            sink.lost(id, fault);
            reports += 1;
        }
        reports += self.accept_callers(sink);
        reports += self.decide_dials(sink);
        reports += self.report_established(sink);
        reports += self.serve_readable(sink);
        reports += self.serve_hot(sink);
        reports += self.serve_starved(sink);
        reports += self.report_room(sink);
        reports
    }

    fn arm(&mut self) -> bool {
        self.flush();
        let (receive, reserve) = (&mut self.receive, &mut self.reserve);
        let connections = &self.connections;
        let at = |slot: &u16| connections[usize::from(*slot)].as_deref();
        let idle = self.ended.is_empty()
            && self.dialing.is_empty()
            && self.establishing.is_empty()
            && self.readable.is_empty()
            && !self.listeners.iter().flatten().any(|listener| listener.readable);
        idle && !self.refused.iter().filter_map(at).any(|open| has_room_again(open, reserve))
            && !self.starved.iter().filter_map(at).any(|open| open.reader.is_memory_there(receive))
    }

    fn disarm(&mut self) {}

    fn event(&mut self, token: Token, readable: bool, writable: bool) {
        let number = token.0 - self.first_token;
        if number >= CONNECTIONS_MAX {
            if let Some(Some(listener)) = self.listeners.get_mut(number - CONNECTIONS_MAX) {
                listener.readable |= readable;
            }
            return;
        }
        let slot = number as u16;
        let Some(connection) = self.connections[number].as_deref_mut() else { return };
        if connection.phase == Phase::Dialing {
            if !self.dialing.contains(&slot) {
                self.dialing.push(slot);
            }
            return;
        }
        if writable && core::mem::take(&mut connection.blocked) && !connection.writer.is_empty() {
            self.mark_dirty(slot);
            self.flush();
        }
        if readable {
            self.mark_readable(slot);
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        let Some(open) = self.connection(connection) else { return };
        // A last word (an orderly end) leaves if the kernel takes it at once.
        open.flush();
        self.remove(connection.slot() as u16);
        self.ended.push_back((connection, RailFault::Closed));
    }

    fn memory_bytes(&self) -> usize {
        let open = self.connections.iter().flatten().count();
        self.receive.region().len() + self.reserve.region().len() + open * CONNECTION_BYTES
    }
}
