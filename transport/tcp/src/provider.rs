//! The provider: what is looked at when.
//!
//! `poll` looks at lists that are empty when nothing happens: ends to report, callers, sockets that `mio`
//! called readable, sockets that were active a moment ago (read directly, without asking `mio`: a spinning
//! reactor hears an answer one system call after it arrived), and connections that wait for memory.
//!
//! `mio` is edge-triggered. A connection is `readable` from the event on until a read finds nothing, and as
//! long as one is, `arm` refuses to sleep; what arrives after such a read raises a new event, also when a
//! direct read takes it first (then the event is stale and costs one more read).

use crate::connection::{CONNECTION_BYTES, Connection, End, Phase, Pool, Refused, Stall};
use crate::fault::{TcpFaultReport, TcpFaults};
use crate::options::TcpOptions;
use crate::table::{Slot, Table};
use crate::writer::{COPIED_BYTES_MAX, Held};
use mio::{Registry, Token};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use transport_buf::{Chunk, Region, RegionError, Slab, SlabRefusal};
use transport_proto::time::Time;
use transport_proto::wire::{DATA_BYTES_MAX, FrameHeader};
use transport_provider::listeners::Listeners;
use transport_provider::socket::{self, Dial};
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

/// The TCP provider. See the module's documentation for its way of working, [`Provider`] for its contract.
pub struct TcpProvider {
    options: TcpOptions,
    registry: Option<Registry>,
    first_token: usize,
    receive: Slab,
    reserve: Slab,
    table: Table,
    listeners: Listeners,
    /// The reading of the last poll.
    now: Time,
    /// The readable while they are worked on; kept for its memory.
    readable_now: Vec<Slot>,
    faults: TcpFaults,
    /// Bit per client whose data parts are dropped, since it holds all the memory that it may hold.
    shedding: u32,
    shared: bool,
}

impl TcpProvider {
    /// A provider with the memory that `options` ask for.
    pub fn new(options: TcpOptions) -> Result<TcpProvider, RegionError> {
        options.check();
        Ok(TcpProvider {
            receive: Slab::create(options.receive)?,
            reserve: Slab::create(options.reserve)?,
            options,
            registry: None,
            first_token: 0,
            table: Table::new(),
            listeners: Listeners::new(LISTENERS_MAX),
            now: Time::default(),
            readable_now: Vec::with_capacity(CONNECTIONS_MAX),
            faults: TcpFaults::default(),
            shedding: 0,
            shared: false,
        })
    }

    /// The memory for what comes in is shared among these clients (one bit each), so that one whose leases
    /// are held long leaves the others theirs (SPEC T2). Since a connection carries the frames of all, data
    /// parts of a client that has had no memory for a while are dropped ([`Sink::shed`]) until
    /// [`TcpProvider::has_room_for`] says that it has given enough back.
    pub fn share_among(&mut self, clients: u32) {
        self.receive.share_among(clients);
        self.shared = true;
    }

    /// Whether what was dropped of this client may come again: it has given back half of what it may hold.
    pub fn has_room_for(&mut self, client: u16) -> bool {
        let room = self.receive.is_half_empty(client);
        if room {
            self.shedding &= !(1 << client);
        }
        room
    }

    /// The memory for what comes in.
    pub fn receive_region(&self) -> &Arc<Region> {
        self.receive.region()
    }

    /// What peers did wrong so far.
    pub fn faults(&self) -> &TcpFaults {
        &self.faults
    }

    /// The address on which `rail` is listened for, with the port that the kernel chose if it was 0.
    pub fn listening(&self, rail: RailName) -> Option<SocketAddr> {
        self.listeners.address(rail)
    }

    /// Takes a connection out of the table and closes its socket. Chunks of it that the receiver holds stay
    /// valid.
    fn remove(&mut self, slot: Slot) -> Option<Box<Connection>> {
        let mut connection = self.table.remove(slot)?;
        // Closing the socket ends the watch all the same.
        let _ = registry(&self.registry).deregister(&mut connection.stream);
        Some(connection)
    }

    /// Ends a connection from inside `poll`.
    fn end(&mut self, slot: Slot, end: End, sink: &mut impl Sink) {
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

    fn accept_callers(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        let (registry, options) = (registry(&self.registry), &self.options);
        let (table, faults, first_token) = (&mut self.table, &mut self.faults, self.first_token);
        self.listeners.accept(|(rail, stream, peer)| {
            let tuned = socket::tune(&stream, options.kernel_send_bytes).is_ok();
            let admit = || table.admit(registry, first_token, (rail, stream, peer), Phase::Open, options);
            match tuned.then(admit).flatten() {
                Some(id) => {
                    sink.accepted(rail, id);
                    table.mark_readable(id.slot() as Slot);
                    reports += 1;
                }
                None => faults.turned_away += 1,
            }
        });
        reports
    }

    fn decide_dials(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        while let Some(slot) = self.table.dialing.pop() {
            let Some(connection) = self.table.at(slot) else { continue };
            match socket::dialed(&connection.stream) {
                None => continue,
                Some(true) => {
                    connection.phase = Phase::Open;
                    connection.blocked = false;
                    sink.connected(connection.id);
                    self.table.mark_readable(slot);
                }
                Some(false) => self.end(slot, End::Rail(RailFault::Refused), sink),
            }
            reports += 1;
        }
        reports
    }

    fn report_established(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        while let Some(slot) = self.table.establishing.pop() {
            let Some(connection) = self.table.at(slot) else { continue };
            sink.established(connection.id);
            reports += 1;
            self.table.mark_readable(slot);
        }
        reports
    }

    /// Reads one connection. Returns the number of reports.
    fn serve(&mut self, slot: Slot, sink: &mut impl Sink) -> usize {
        let Some(connection) = self.table.at(slot) else { return 0 };
        if connection.phase == Phase::Dialing {
            return 0;
        }
        let stall_before = connection.stall;
        let (slab, shedding) = (&mut self.receive, &mut self.shedding);
        let mut pool = Pool { slab, shedding, shared: self.shared, shed: 0, now: self.now };
        let (reports, end) = connection.serve(&mut pool, sink);
        self.faults.shed += pool.shed;
        let stall = connection.stall;
        if let Some(end) = end {
            self.end(slot, end, sink);
            return reports + 1;
        }
        if stall == Stall::Memory && stall_before != Stall::Memory {
            self.faults.starved += 1;
            self.table.starved.push(slot);
        } else if stall != Stall::Memory && stall_before == Stall::Memory {
            self.table.starved.retain(|starved| *starved != slot);
        }
        if reports > 0 {
            self.table.mark_hot(slot, self.now);
        }
        reports
    }

    fn serve_readable(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        core::mem::swap(&mut self.table.readable, &mut self.readable_now);
        for index in 0..self.readable_now.len() {
            let slot = self.readable_now[index];
            if let Some(connection) = self.table.at(slot) {
                connection.listed = false;
            }
            reports += self.serve(slot, sink);
            self.table.relist(slot);
        }
        self.readable_now.clear();
        reports
    }

    fn serve_hot(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        let mut index = 0;
        while let Some(&slot) = self.table.hot.get(index) {
            let connection = self.table.look(slot).expect("removal unlists");
            if self.now.since(connection.active) > HOT {
                self.table.cool(index);
            } else if connection.listed || connection.stall != Stall::None {
                index += 1;
            } else {
                reports += self.serve(slot, sink);
                // If the connection ended, it is off the list and another one stands in its place.
                index += usize::from(self.table.hot.get(index) == Some(&slot));
            }
        }
        reports
    }

    fn serve_starved(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        let mut index = 0;
        while let Some(&slot) = self.table.starved.get(index) {
            reports += self.serve(slot, sink);
            self.table.relist(slot);
            index += usize::from(self.table.starved.get(index) == Some(&slot));
        }
        // Memory that returns goes to another one first next time.
        if index > 1 {
            self.table.starved.rotate_left(1);
        }
        reports
    }

    fn report_room(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        for index in (0..self.table.refused.len()).rev() {
            let slot = self.table.refused[index];
            let connection = self.table.at(slot).expect("removal unlists");
            if has_room_again(connection, &mut self.reserve) {
                connection.refused = Refused::No;
                sink.writable(connection.id);
                self.table.refused.swap_remove(index);
                reports += 1;
            }
        }
        reports
    }

    /// The data of a post as the queue may hold them. Memory of another provider's peer is copied: its owner
    /// may reuse it at any time.
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

    /// The connection that a post goes to, if it may.
    fn writer_for(&mut self, id: ConnectionId, data_length: usize) -> Result<&mut Connection, PostRefusal> {
        let open = self.table.get(id).filter(|open| open.phase != Phase::Dialing);
        let open = open.ok_or(PostRefusal::NotConnected)?;
        if data_length > 0 && open.phase != Phase::Established {
            return Err(PostRefusal::NotConnected);
        }
        if data_length > DATA_BYTES_MAX { Err(PostRefusal::TooLarge) } else { Ok(open) }
    }
}

fn registry(attached: &Option<Registry>) -> &Registry {
    attached.as_ref().expect("`attach` comes first")
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
        let first_token = self.first_token + CONNECTIONS_MAX;
        self.listeners.add(registry(&self.registry), first_token, rail, address)
    }

    fn unlisten(&mut self, rail: RailName) {
        self.listeners.remove(registry(&self.registry), rail);
    }

    fn dial(
        &mut self,
        _now: Time,
        rail: RailName,
        local: &SocketAddr,
        address: &SocketAddr,
    ) -> Result<ConnectionId, DialRefusal> {
        match socket::dial(local, address, self.options.kernel_send_bytes).map_err(DialRefusal::Os)? {
            Dial::Begun(stream) => {
                let whom = (rail, stream, *address);
                let registry = registry(&self.registry);
                let id = self.table.admit(registry, self.first_token, whom, Phase::Dialing, &self.options);
                id.ok_or(DialRefusal::TooMany)
            }
            Dial::Refused => {
                let id = self.table.stillborn().ok_or(DialRefusal::TooMany)?;
                self.table.ended.push_back((id, RailFault::Refused));
                Ok(id)
            }
        }
    }

    fn establish(&mut self, connection: ConnectionId) {
        let Some(open) = self.table.get(connection) else { return };
        if open.phase == Phase::Open {
            open.phase = Phase::Established;
            self.table.establishing.push(connection.slot() as Slot);
        }
    }

    fn reserve(&mut self, connection: ConnectionId, length: usize) -> Result<Chunk, PostRefusal> {
        if self.table.get(connection).is_none_or(|open| open.phase != Phase::Established) {
            return Err(PostRefusal::NotConnected);
        }
        let reserved = self.reserve.allocate(length).map_err(post_refusal);
        if matches!(reserved, Err(PostRefusal::NoMemory)) {
            self.table.note_refused(connection, Refused::NoMemory(length));
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
        assert!(inline.is_empty() || data.is_empty() && control.len() + inline.len() <= INLINE_BYTES_MAX);
        assert!(usize::from(header.control_length.get()) == control.len());
        assert!(header.data_length.get() as usize == inline.len() + data.len());
        let data_checksum = self.options.data_checksum;
        let copied = data.len() <= COPIED_BYTES_MAX;
        let (beside, held) = if copied { (inline.len() + data.len(), 0) } else { (0, data.len()) };
        let open = self.writer_for(connection, data.len())?;
        if !open.writer.has_room(control.len() + beside, held) {
            self.table.note_refused(connection, Refused::Full);
            return Err(PostRefusal::Full);
        }
        if data.is_empty() {
            open.writer.push_copied(header, control, inline, data_checksum);
        } else if copied {
            let mut small = [0; COPIED_BYTES_MAX];
            let small = &mut small[..data.len()];
            data.copy_to(small);
            open.writer.push_copied(header, control, small, data_checksum);
        } else {
            let (held, range) = self.hold(&data).inspect_err(|refusal| {
                if *refusal == PostRefusal::NoMemory {
                    self.table.note_refused(connection, Refused::NoMemory(data.len()));
                }
            })?;
            let open = self.writer_for(connection, data.len())?;
            open.writer.push_held(header, control, held, range, data_checksum);
        }
        self.table.mark_dirty(connection.slot() as Slot);
        Ok(())
    }

    fn flush(&mut self) {
        while let Some(slot) = self.table.dirty.pop() {
            let Some(connection) = self.table.at(slot) else { continue };
            connection.dirty = false;
            connection.flush();
            let failed = connection.write_fault.is_some();
            // An answer is likely soon.
            self.table.mark_hot(slot, self.now);
            if failed {
                self.table.mark_readable(slot);
            }
        }
    }

    fn poll(&mut self, now: Time, sink: &mut impl Sink) -> usize {
        self.now = self.now.max(now);
        let mut reports = 0;
        while let Some((id, fault)) = self.table.ended.pop_front() {
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
        let table = &self.table;
        let idle = table.ended.is_empty()
            && table.dialing.is_empty()
            && table.establishing.is_empty()
            && table.readable.is_empty()
            && !self.listeners.is_expectant();
        let (receive, reserve) = (&mut self.receive, &mut self.reserve);
        let look = |slot: &Slot| table.look(*slot);
        idle && !table.refused.iter().filter_map(look).any(|open| has_room_again(open, reserve))
            && !table.starved.iter().filter_map(look).any(|open| open.reader.is_memory_there(receive))
    }

    fn disarm(&mut self) {}

    fn event(&mut self, token: Token, readable: bool, writable: bool) {
        let number = token.0 - self.first_token;
        if number >= CONNECTIONS_MAX {
            self.listeners.mark_readable(number - CONNECTIONS_MAX);
            return;
        }
        let slot = number as Slot;
        let Some(connection) = self.table.at(slot) else { return };
        if connection.phase == Phase::Dialing {
            self.table.mark_dialing(slot);
            return;
        }
        if writable && core::mem::take(&mut connection.blocked) && !connection.writer.is_empty() {
            self.table.mark_dirty(slot);
            self.flush();
        }
        if readable {
            self.table.mark_readable(slot);
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        let Some(open) = self.table.get(connection) else { return };
        // A last word (an orderly end) leaves if the kernel takes it at once.
        open.flush();
        self.remove(connection.slot() as Slot);
        self.table.ended.push_back((connection, RailFault::Closed));
    }

    fn memory_bytes(&self) -> usize {
        let connections = self.table.count() * CONNECTION_BYTES;
        self.receive.region().len() + self.reserve.region().len() + connections
    }
}
