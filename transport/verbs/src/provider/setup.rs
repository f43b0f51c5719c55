//! From a caller or a dial to a lane that carries frames.

use super::{DEVICE_TOKENS, VerbsProvider};
use crate::connection::{Connection, Phase};
use crate::fabric::{Fabric, FabricFault, Port, PortRefusal, QueueEnd};
use crate::grant::Grant;
use crate::lane::{DEPTH, Lane, RECEIVE_DEPTH};
use crate::mutant::{self, Mutant};
use core::fmt;
use mio::net::TcpStream;
use mio::{Interest, Token};
use std::io;
use std::net::{IpAddr, SocketAddr};
use transport_provider::{ConnectionId, ListenRefusal, RailFault, RailName, Sink, socket};
use zerocopy::IntoBytes;

/// The process may lock too little memory for verbs rails.
#[derive(Debug)]
struct LockedMemory {
    needed: u64,
    limit: u64,
}

impl fmt::Display for LockedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a verbs rail registers {} MiB of memory, but this process may lock only {} KiB: raise the limit \
             (`ulimit -l unlimited`, or LimitMEMLOCK=infinity in its unit), or use a tcp rail",
            self.needed.div_ceil(1 << 20),
            self.limit >> 10
        )
    }
}

impl std::error::Error for LockedMemory {}

/// Why a queue could not be made.
#[derive(Debug)]
enum SetupRefusal {
    Port(PortRefusal),
    Fabric(FabricFault),
    Random,
    Address,
}

impl fmt::Display for SetupRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetupRefusal::Port(refusal) => write!(f, "{refusal}"),
            SetupRefusal::Fabric(FabricFault::Exhausted) => write!(
                f,
                "the device or the kernel has no memory left for a connection: raise `ulimit -l` or free \
                 memory"
            ),
            SetupRefusal::Fabric(FabricFault::Device) => write!(f, "the device refuses to make a queue"),
            SetupRefusal::Random => write!(f, "the system has no randomness to give"),
            SetupRefusal::Address => write!(f, "the side channel has no local address any more"),
        }
    }
}

impl<F: Fabric> VerbsProvider<F> {
    /// Before the first rail: whether this process may lock what a connection needs. A device that is missing
    /// is only told: it may come, and the node's other rails must not wait for it.
    pub(super) fn check_memory(&mut self, rail: RailName, address: &SocketAddr) -> Result<(), ListenRefusal> {
        let refused = |source| ListenRefusal::Os { address: address.to_string(), source };
        self.check_lockable().map_err(refused)?;
        if !address.ip().is_unspecified()
            && let Err(error) = self.check_port(rail, address.ip())
        {
            self.complain(rail, &error);
        }
        Ok(())
    }

    fn check_lockable(&self) -> io::Result<()> {
        let needed = (self.sources.bytes() + self.pool.connection_bytes()) as u64;
        match self.fabric.lockable_bytes() {
            Some(limit) if limit < needed => Err(io::Error::other(LockedMemory { needed, limit })),
            _ => Ok(()),
        }
    }

    /// Whether there is a device for `address` at this moment.
    pub(super) fn check_port(&mut self, rail: RailName, address: IpAddr) -> io::Result<()> {
        self.check_lockable()?;
        match self.port(address) {
            Ok(_) => Ok(()),
            Err(refusal) => {
                self.complain(rail, &refusal);
                Err(io::Error::other(refusal))
            }
        }
    }

    /// The port that has `address` now, its device watched.
    fn port(&mut self, address: IpAddr) -> Result<Port, PortRefusal> {
        let port = self.fabric.port(address)?;
        let first_token = self.first_token + DEVICE_TOKENS;
        let registry = self.registry.as_ref().expect("`attach` comes before anything else");
        if !self.devices.watch(&self.fabric, registry, first_token, port.device) {
            let device = self.fabric.name(port.device);
            return Err(PortRefusal::PortDown { device });
        }
        Ok(port)
    }

    /// Says why a rail does not come up, once per reason.
    fn complain(&mut self, rail: RailName, reason: &impl fmt::Display) {
        let reason = reason.to_string();
        if self.complaints.get(&rail) != Some(&reason) {
            tracing::warn!(%rail, "verbs rail cannot come up: {reason}");
            self.complaints.insert(rail, reason);
        }
    }

    pub(super) fn admit(
        &mut self,
        slot: usize,
        rail: RailName,
        mut stream: TcpStream,
        phase: Phase,
    ) -> io::Result<ConnectionId> {
        let watch = Interest::READABLE | Interest::WRITABLE;
        self.registry().register(&mut stream, Token(self.first_token + slot), watch)?;
        let id = self.name(slot);
        self.slots[slot].connection = Some(Box::new(Connection::new(id, rail, stream, phase)));
        self.attention |= 1 << slot;
        Ok(id)
    }

    pub(super) fn accept_callers(&mut self, sink: &mut impl Sink) -> usize {
        let mut callers = Vec::new();
        self.listeners.accept(|caller| callers.push(caller));
        let mut reports = 0;
        for (rail, stream, _) in callers {
            let tuned = socket::tune(&stream, None).is_ok();
            let slot = self.free_slot().filter(|_| tuned);
            match slot.map(|slot| self.admit(slot, rail, stream, Phase::Open)) {
                Some(Ok(id)) => {
                    sink.accepted(rail, id);
                    reports += 1;
                }
                _ => self.statistics.turned_away += 1,
            }
        }
        reports
    }

    /// Everything about a connection but its queue.
    pub(super) fn attend(&mut self, slot: usize, sink: &mut impl Sink) -> usize {
        let Some(connection) = self.slots[slot].connection.as_deref_mut() else { return 0 };
        let mut reports = 0;
        match connection.phase {
            Phase::Draining { .. } => return 0,
            Phase::Dialing => match socket::dialed(&connection.channel.stream) {
                None => return 0,
                Some(false) => {
                    self.end(slot, RailFault::Refused);
                    return 0;
                }
                Some(true) => {
                    connection.phase = Phase::Open;
                    sink.connected(connection.id);
                    reports += 1;
                }
            },
            _ => (),
        }
        let (heard, result) = connection.hear(sink);
        reports += heard;
        if let Err(fault) = result {
            self.protocol_fault(slot, fault);
            return reports;
        }
        if connection.channel.ended {
            self.end(slot, RailFault::PeerClosed);
            return reports;
        }
        reports += self.advance(slot, sink);
        let Some(connection) = self.slots[slot].connection.as_deref_mut() else { return reports };
        let may = connection.phase == Phase::Established
            || connection.phase == Phase::Open && connection.channel.has_room();
        if connection.refused && may {
            connection.refused = false;
            sink.writable(connection.id);
            reports += 1;
        }
        reports
    }

    /// Makes the queue of a connection whose peer is authenticated, and sends the grant.
    pub(super) fn set_up(&mut self, slot: usize) {
        self.attention |= 1 << slot;
        match self.make_lane(slot) {
            Ok(()) => (),
            Err(refusal) => {
                let Some(connection) = self.slots[slot].connection.as_deref() else { return };
                let rail = connection.rail;
                self.statistics.setups_failed += 1;
                self.complain(rail, &refusal);
                let memory = matches!(refusal, SetupRefusal::Fabric(FabricFault::Exhausted));
                self.end(slot, if memory { RailFault::NoMemory } else { RailFault::Broken });
            }
        }
    }

    fn make_lane(&mut self, slot: usize) -> Result<(), SetupRefusal> {
        let connection = self.slots[slot].connection.as_deref();
        let address = connection.and_then(Connection::local_address).ok_or(SetupRefusal::Address)?;
        let port = self.port(address).map_err(SetupRefusal::Port)?;
        let packet_sequence = packet_sequence().ok_or(SetupRefusal::Random)?;
        let fabric = &mut self.fabric;
        self.sources.register(fabric, port.device).map_err(SetupRefusal::Fabric)?;
        let memory = self.pool.take(fabric, port.device).map_err(SetupRefusal::Fabric)?;
        let queue = match fabric.create(&port, DEPTH) {
            Ok(queue) => queue,
            Err(fault) => {
                self.pool.give_back(fabric, memory);
                return Err(SetupRefusal::Fabric(fault));
            }
        };
        let lane = match Lane::new(fabric, queue, memory) {
            Ok(lane) => lane,
            Err((fault, memory)) => {
                fabric.destroy(queue);
                self.pool.give_back(fabric, memory);
                return Err(SetupRefusal::Fabric(fault));
            }
        };
        let grant = Grant {
            end: QueueEnd { number: fabric.number(queue), packet_sequence, gid: port.gid },
            mtu: port.mtu,
            receive_depth: RECEIVE_DEPTH,
            slab_key: lane.memory.slab_memory.remote_key,
            slab_address: lane.memory.slab_memory.address,
            layout: lane.memory.layout,
        };
        let Some(connection) = self.slots[slot].connection.as_deref_mut() else { return Ok(()) };
        connection.lane = Some(lane);
        connection.packet_sequence = packet_sequence;
        connection.port = Some((address, port));
        connection.channel.send_record(grant.encode().as_bytes());
        Ok(())
    }

    /// Goes on with what `establish` began, as far as it goes now.
    pub(super) fn advance(&mut self, slot: usize, sink: &mut impl Sink) -> usize {
        let Some(connection) = self.slots[slot].connection.as_deref_mut() else { return 0 };
        if connection.phase != Phase::Establishing {
            return 0;
        }
        let (Some(lane), Some(grant)) = (&mut connection.lane, &connection.grant) else { return 0 };
        let Some((_, port)) = &connection.port else { return 0 };
        if !core::mem::replace(&mut connection.connecting, true) {
            let mtu = grant.mtu.min(port.mtu);
            self.fabric.connect(lane.queue, connection.packet_sequence, &grant.end, mtu);
            self.connecting |= 1 << slot;
        }
        if !connection.ready {
            match self.fabric.connected(lane.queue) {
                None => return 0,
                Some(Ok(())) => {
                    self.connecting &= !(1 << slot);
                    connection.ready = true;
                    connection.channel.send_ready();
                }
                Some(Err(_)) => {
                    let rail = connection.rail;
                    self.statistics.setups_failed += 1;
                    self.complain(rail, &"the queue cannot reach its peer (no answer at its address)");
                    self.end(slot, RailFault::Broken);
                    return 0;
                }
            }
        }
        if !connection.peer_ready {
            return 0;
        }
        lane.open(grant);
        lane.share_among(self.clients);
        connection.phase = Phase::Established;
        self.open |= 1 << slot;
        self.complaints.remove(&connection.rail);
        sink.established(connection.id);
        1
    }
}

/// A fresh number of the first packet: a late packet for an earlier queue of the same number does not fit.
fn packet_sequence() -> Option<u32> {
    if mutant::is_broken(Mutant::StalePacketSequence) {
        return Some(1);
    }
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes[..3]).ok()?;
    Some(u32::from_le_bytes(bytes))
}
