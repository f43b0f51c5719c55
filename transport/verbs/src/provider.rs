//! The provider: tables of listeners and connections, and the order in which they are served.

use crate::connection::{Connection, Phase};
use crate::devices::{DEVICES_MAX, Devices, TOKENS_PER_DEVICE};
use crate::fabric::Fabric;
use crate::fault::Statistics;
use crate::lane::Outfit;
use crate::memory::{MemoryPool, RINGS_BYTES, Sources};
use crate::options::VerbsOptions;
use core::ops::Range;
use core::time::Duration;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use transport_buf::{Chunk, Region, RegionError, Slab, SlabRefusal};
use transport_proto::time::Time;
use transport_proto::wire::{DATA_BYTES_MAX, FrameHeader};
use transport_provider::bits::bits;
use transport_provider::listeners::Listeners;
use transport_provider::socket::{self, Dial};
use transport_provider::{
    ConnectionId, DialRefusal, INLINE_BYTES_MAX, ListenRefusal, PayloadSlice, PostRefusal, Provider,
    RailFault, RailName, Sink,
};

mod ending;
mod setup;

/// Connections of one provider at the most: one bit each in a word.
pub const CONNECTIONS_MAX: usize = u64::BITS as usize;
/// Addresses that one provider listens on at the most.
pub const LISTENERS_MAX: usize = 64;
/// First token of the devices, counted from the provider's first.
const DEVICE_TOKENS: usize = CONNECTIONS_MAX + LISTENERS_MAX;
/// Token of the background's bell.
const TRANSITIONS_TOKEN: usize = DEVICE_TOKENS + DEVICES_MAX * TOKENS_PER_DEVICE;
/// Tokens that a provider needs.
pub const TOKENS_MAX: usize = TRANSITIONS_TOKEN + 1;
/// Between two looks whether the devices are still there.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a failed queue may take to give everything back before it is destroyed all the same.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Slot {
    /// Tells the connections of this slot apart.
    reuse: u16,
    connection: Option<Box<Connection>>,
}

/// A transport provider over RDMA devices.
///
/// Owned and driven by one thread; chunks that it handed out may be dropped on any. Every connection costs
/// this side a slab and its slots (by default 18 MiB), registered with its device.
pub struct VerbsProvider<F: Fabric> {
    fabric: F,
    registry: Option<Registry>,
    first_token: usize,
    listeners: Listeners,
    slots: Vec<Slot>,
    devices: Devices,
    pool: MemoryPool,
    reserve: Slab,
    sources: Sources,
    /// Connections whose queue is looked at in every poll.
    open: u64,
    /// Connections on which something was posted since the last flush.
    unflushed: u64,
    /// Connections whose caller was refused and waits.
    waiting: u64,
    /// Connections with something to do beside their queue.
    attention: u64,
    /// Connections whose queue is being connected in the background.
    connecting: u64,
    /// Connections that drain.
    draining: u64,
    /// Dials that ended before they began. Their slots are not used again until that is reported.
    stillborn: VecDeque<ConnectionId>,
    /// The reading of the last poll.
    now: Time,
    /// When to look next whether the devices are still there.
    next_look: Time,
    /// Why a rail last failed to be set up; each reason is logged once.
    complaints: HashMap<RailName, String>,
    statistics: Statistics,
    /// Clients among whom a peer's memory is shared, one bit each; 0: it is not.
    clients: u32,
}

impl<F: Fabric> VerbsProvider<F> {
    /// A provider with the memory that `options` ask for. Devices are opened, and memory is registered, when
    /// a rail needs it.
    pub fn new(fabric: F, options: VerbsOptions) -> Result<VerbsProvider<F>, RegionError> {
        options.check();
        let reserve = Slab::create(options.reserve)?;
        Ok(VerbsProvider {
            fabric,
            registry: None,
            first_token: 0,
            listeners: Listeners::new(LISTENERS_MAX),
            slots: (0..CONNECTIONS_MAX).map(|_| Slot::default()).collect(),
            devices: Devices::default(),
            pool: MemoryPool::new(options.receive),
            sources: Sources::new(reserve.region().clone()),
            reserve,
            open: 0,
            unflushed: 0,
            waiting: 0,
            attention: 0,
            connecting: 0,
            draining: 0,
            stillborn: VecDeque::new(),
            now: Time::default(),
            next_look: Time::default(),
            complaints: HashMap::new(),
            statistics: Statistics::default(),
            clients: 0,
        })
    }

    /// What was counted.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// From now on what a client's messages take of a peer's memory leaves the others their reserve, one bit
    /// a client (SPEC T2). A frame names its client.
    pub fn share_among(&mut self, clients: u32) {
        self.clients = clients;
        let lanes = self.slots.iter_mut().filter_map(|slot| slot.connection.as_mut()?.lane.as_mut());
        lanes.for_each(|lane| lane.share_among(clients));
    }

    /// The fabric, for tests that break it.
    pub fn fabric(&mut self) -> &mut F {
        &mut self.fabric
    }

    /// Lets data of this region go out without a copy, from the next connection on. The region is held, and
    /// stays registered, as long as the provider and the device live.
    pub fn register(&mut self, region: &Arc<Region>) {
        self.sources.add(region);
    }

    fn registry(&self) -> &Registry {
        self.registry.as_ref().expect("`attach` comes before anything else")
    }

    fn name(&mut self, slot: usize) -> ConnectionId {
        let reuse = self.slots[slot].reuse.wrapping_add(1);
        self.slots[slot].reuse = reuse;
        ConnectionId::new(slot as u16, reuse)
    }

    fn free_slot(&self) -> Option<usize> {
        let free = |slot: &usize| {
            self.slots[*slot].connection.is_none() && !self.stillborn.iter().any(|id| id.slot() == *slot)
        };
        (0..CONNECTIONS_MAX).find(free)
    }

    #[inline]
    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(id.slot())?.connection.as_deref_mut()?;
        (connection.id == id).then_some(connection)
    }

    fn post_on_lane(
        &mut self,
        slot: usize,
        header: &FrameHeader,
        control: &[u8],
        inline: &[u8],
        data: &PayloadSlice<'_>,
    ) -> Result<(), PostRefusal> {
        let mut outfit =
            Outfit { sources: &self.sources, reserve: &mut self.reserve, statistics: &mut self.statistics };
        let lane = self.slots[slot].connection.as_deref_mut().and_then(|open| open.lane.as_mut());
        let Some(lane) = lane else { return Err(PostRefusal::NotConnected) };
        let outcome = lane.post(header, control, inline, data, &mut outfit);
        // A refusal may owe the peer a word: that this side waits for its memory.
        self.unflushed |= 1 << slot;
        if outcome.is_err() {
            self.waiting |= 1 << slot;
        }
        outcome
    }

    fn flush_lane(&mut self, slot: usize, sleepy: bool) {
        let Some(connection) = self.slots[slot].connection.as_deref_mut() else { return };
        if connection.phase != Phase::Established {
            return;
        }
        let Some(lane) = &mut connection.lane else { return };
        if let Err(end) = lane.flush(&mut self.fabric, sleepy, &mut self.statistics) {
            self.lane_ended(slot, end);
        }
    }

    /// Receives on every open lane, and sends what is owed for it.
    #[inline]
    fn serve_lanes(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        for slot in bits(self.open) {
            let Some(connection) = self.slots[slot].connection.as_deref_mut() else { continue };
            let Some(lane) = &mut connection.lane else { continue };
            let (count, result) = lane.receive(&mut self.fabric, connection.id, &mut self.statistics, sink);
            reports += count;
            match result {
                Ok(()) if lane.owes() => self.unflushed |= 1 << slot,
                Ok(()) => (),
                Err(end) => self.lane_ended(slot, end),
            }
        }
        reports
    }

    fn report_writable(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        let reserve = self.reserve.has_returns();
        for slot in bits(self.waiting) {
            let Some(connection) = self.slots[slot].connection.as_deref_mut() else { continue };
            let Some(lane) = &mut connection.lane else { continue };
            if connection.phase == Phase::Established && lane.is_writable(reserve) {
                lane.waits = Default::default();
                self.waiting &= !(1 << slot);
                sink.writable(connection.id);
                reports += 1;
            }
        }
        reports
    }

    /// What must happen outside the queues; rare.
    #[cold]
    fn attend_all(&mut self, sink: &mut impl Sink) -> usize {
        let mut reports = 0;
        while let Some(id) = self.stillborn.pop_front() {
            sink.lost(id, RailFault::Refused);
            reports += 1;
        }
        if self.devices.call {
            self.hear_devices();
        }
        for slot in bits(core::mem::take(&mut self.attention)) {
            reports += self.attend(slot, sink);
        }
        for slot in bits(self.draining) {
            reports += self.drain(slot, sink);
        }
        reports
    }

    fn is_calm(&self) -> bool {
        self.attention | self.draining == 0 && self.stillborn.is_empty() && !self.devices.call
    }
}

impl<F: Fabric> Provider for VerbsProvider<F> {
    type Address = SocketAddr;

    const RESERVES_AT_PEER: bool = false;

    fn attach(&mut self, registry: Registry, tokens: Range<usize>) {
        assert!(tokens.len() >= TOKENS_MAX, "a verbs provider needs {TOKENS_MAX} tokens");
        self.first_token = tokens.start;
        let descriptor = self.fabric.transitions().as_raw_fd();
        let token = Token(self.first_token + TRANSITIONS_TOKEN);
        let watched = registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE);
        watched.expect("a fresh descriptor can be watched");
        self.registry = Some(registry);
    }

    fn listen(&mut self, rail: RailName, address: &SocketAddr) -> Result<(), ListenRefusal> {
        self.check_memory(rail, address)?;
        let first_token = self.first_token + CONNECTIONS_MAX;
        let registry = self.registry.as_ref().expect("`attach` comes before anything else");
        self.listeners.add(registry, first_token, rail, address)
    }

    fn unlisten(&mut self, rail: RailName) {
        let registry = self.registry.as_ref().expect("`attach` comes before anything else");
        self.listeners.remove(registry, rail);
    }

    fn dial(
        &mut self,
        now: Time,
        rail: RailName,
        local: &SocketAddr,
        address: &SocketAddr,
    ) -> Result<ConnectionId, DialRefusal> {
        self.now = self.now.max(now);
        let slot = self.free_slot().ok_or(DialRefusal::TooMany)?;
        if !local.ip().is_unspecified() {
            self.check_port(rail, local.ip()).map_err(DialRefusal::Os)?;
        }
        match socket::dial(local, address, None).map_err(DialRefusal::Os)? {
            Dial::Begun(stream) => self.admit(slot, rail, stream, Phase::Dialing).map_err(DialRefusal::Os),
            Dial::Refused => {
                let id = self.name(slot);
                self.stillborn.push_back(id);
                Ok(id)
            }
        }
    }

    fn establish(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection(id) else { return };
        if connection.phase == Phase::Open {
            connection.phase = Phase::Establishing;
            self.set_up(id.slot());
        }
    }

    fn reserve(&mut self, id: ConnectionId, length: usize) -> Result<Chunk, PostRefusal> {
        let Some(connection) = self.connection(id) else { return Err(PostRefusal::NotConnected) };
        if connection.phase != Phase::Established {
            return Err(PostRefusal::NotConnected);
        }
        self.reserve.allocate(length).map_err(|refusal| match refusal {
            SlabRefusal::TooLarge { .. } => PostRefusal::TooLarge,
            SlabRefusal::Exhausted => {
                if let Some(lane) = self.connection(id).and_then(|open| open.lane.as_mut()) {
                    lane.waits.reserve = true;
                }
                self.waiting |= 1 << id.slot();
                PostRefusal::NoMemory
            }
        })
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
        assert!(control.len() + inline.len() <= INLINE_BYTES_MAX, "frame larger than its slot");
        debug_assert_eq!(control.len(), usize::from(header.control_length.get()));
        debug_assert_eq!(inline.len() + data.len(), header.data_length.get() as usize);
        match connection.phase {
            Phase::Dialing | Phase::Draining { .. } => Err(PostRefusal::NotConnected),
            _ if data.len() > DATA_BYTES_MAX => Err(PostRefusal::TooLarge),
            Phase::Established => self.post_on_lane(id.slot(), header, control, inline, &data),
            _ if !data.is_empty() => Err(PostRefusal::NotConnected),
            Phase::Open => {
                let outcome = connection.channel.send_frame(header, control, inline);
                connection.refused |= outcome.is_err();
                outcome
            }
            Phase::Establishing => {
                // A frame by the side channel must not be overtaken by one by the queue.
                connection.refused = true;
                Err(PostRefusal::Full)
            }
        }
    }

    #[inline]
    fn flush(&mut self) {
        for slot in bits(core::mem::take(&mut self.unflushed)) {
            self.flush_lane(slot, false);
        }
    }

    #[inline]
    fn poll(&mut self, now: Time, sink: &mut impl Sink) -> usize {
        self.now = self.now.max(now);
        if self.now >= self.next_look {
            self.next_look = self.now + LOOK_EVERY;
            self.devices.look(&self.fabric);
        }
        let mut reports = self.accept_callers(sink);
        for slot in bits(self.connecting) {
            reports += self.advance(slot, sink);
        }
        if !self.is_calm() {
            reports += self.attend_all(sink);
        }
        reports += self.serve_lanes(sink);
        if self.waiting != 0 {
            reports += self.report_writable(sink);
        }
        self.flush();
        reports
    }

    fn arm(&mut self) -> bool {
        if !self.is_calm() || self.listeners.is_expectant() {
            return false;
        }
        for slot in bits(self.open) {
            self.flush_lane(slot, true);
        }
        for slot in bits(self.open | self.connecting) {
            let Some(connection) = self.slots[slot].connection.as_deref_mut() else { continue };
            let Some(lane) = &mut connection.lane else { continue };
            if !lane.arm(&mut self.fabric) {
                return false;
            }
        }
        let reserve = self.waiting != 0 && self.reserve.has_returns();
        let waits = |slot: usize| self.slots[slot].connection.as_deref().and_then(|open| open.lane.as_ref());
        self.is_calm() && !bits(self.waiting).filter_map(waits).any(|lane| lane.is_writable(reserve))
    }

    fn disarm(&mut self) {}

    fn event(&mut self, token: Token, _readable: bool, writable: bool) {
        let Some(number) = token.0.checked_sub(self.first_token) else { return };
        if number == TRANSITIONS_TOKEN {
            self.attention |= self.connecting;
        } else if number >= DEVICE_TOKENS {
            self.devices.event(&mut self.fabric, number - DEVICE_TOKENS);
        } else if number >= CONNECTIONS_MAX {
            self.listeners.mark_readable(number - CONNECTIONS_MAX);
        } else if let Some(connection) = &mut self.slots[number].connection {
            connection.channel.readable = true;
            if writable && connection.phase != Phase::Dialing {
                connection.channel.flush();
            }
            self.attention |= 1 << number;
        }
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection(id) else { return };
        if !matches!(connection.phase, Phase::Draining { .. }) {
            // A last word (an orderly end) leaves first.
            self.flush_lane(id.slot(), false);
        }
        self.end(id.slot(), RailFault::Closed);
    }

    fn memory_bytes(&self) -> usize {
        let lanes = self.slots.iter().filter_map(|slot| slot.connection.as_ref()?.lane.as_ref());
        let lanes: usize = lanes.map(|lane| lane.memory.slab.len() + RINGS_BYTES).sum();
        self.reserve.region().len() + lanes + self.pool.bytes()
    }
}

impl<F: Fabric> Drop for VerbsProvider<F> {
    fn drop(&mut self) {
        for slot in 0..CONNECTIONS_MAX {
            if let Some(connection) = self.slots[slot].connection.take()
                && let Some(lane) = connection.lane
            {
                self.fabric.destroy(lane.queue);
            }
        }
    }
}
