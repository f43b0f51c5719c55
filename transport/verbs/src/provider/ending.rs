//! From the first sign of an end to `lost`, and what devices say of themselves.

use super::{DRAIN_TIME_MAX, VerbsProvider};
use crate::connection::Phase;
use crate::fabric::{CompletionFault, DeviceEvent, DeviceId, Fabric, FabricFault};
use crate::fault::ProtocolFault;
use crate::lane::LaneEnd;
use crate::mutant::{self, Mutant};
use transport_provider::bits::{bits, bits_of};
use transport_provider::{RailFault, Sink};

impl<F: Fabric> VerbsProvider<F> {
    /// A queue failed, or what came by it breaks the protocol.
    #[cold]
    pub(super) fn lane_ended(&mut self, slot: usize, end: LaneEnd) {
        let Some(connection) = self.slots[slot].connection.as_deref() else { return };
        let rail = connection.rail;
        match end {
            LaneEnd::Protocol(fault) => return self.protocol_fault(slot, fault),
            LaneEnd::Completion(fault) => {
                match fault {
                    CompletionFault::RetryExceeded => self.statistics.retries_exceeded += 1,
                    CompletionFault::ReceiverNotReady => self.statistics.receiver_not_ready += 1,
                    CompletionFault::RemoteAccess | CompletionFault::LocalProtection => {
                        self.statistics.access_faults += 1;
                    }
                    CompletionFault::Flushed | CompletionFault::Other(_) => (),
                }
                tracing::info!(%rail, ?fault, "verbs queue failed");
            }
            LaneEnd::Fabric(fault) => {
                self.statistics.queue_overruns += u64::from(fault == FabricFault::Exhausted);
                tracing::info!(%rail, ?fault, "verbs device refuses a queue's requests");
            }
        }
        self.end(slot, RailFault::Broken);
    }

    #[cold]
    pub(super) fn protocol_fault(&mut self, slot: usize, fault: ProtocolFault) {
        let Some(connection) = self.slots[slot].connection.as_deref() else { return };
        let rail = connection.rail;
        self.statistics.protocol_faults += 1;
        self.statistics.last_fault = Some((rail, fault));
        tracing::warn!(%rail, %fault, "peer on verbs broke the protocol, connection dropped");
        self.end(slot, RailFault::Protocol);
    }

    /// Begins the end of a connection. The first end counts, but that the reactor closed it counts more.
    pub(super) fn end(&mut self, slot: usize, fault: RailFault) {
        let Some(connection) = self.slots[slot].connection.as_deref_mut() else { return };
        if let Phase::Draining { fault: first, .. } = &mut connection.phase {
            if fault == RailFault::Closed {
                *first = fault;
            }
            return;
        }
        connection.phase = Phase::Draining { fault, deadline: self.now + DRAIN_TIME_MAX };
        self.open &= !(1 << slot);
        self.unflushed &= !(1 << slot);
        self.waiting &= !(1 << slot);
        self.attention &= !(1 << slot);
        self.connecting &= !(1 << slot);
        self.draining |= 1 << slot;
        // The peer hears of it at once.
        let _gone_already = connection.channel.stream.shutdown(std::net::Shutdown::Both);
        if let Some(lane) = &mut connection.lane
            && !is_left_unrevoked(fault)
        {
            lane.begin_drain(&mut self.fabric);
        }
    }

    /// Takes what an ending connection's queue gives back; reports the end when that is all.
    pub(super) fn drain(&mut self, slot: usize, sink: &mut impl Sink) -> usize {
        let Some(connection) = self.slots[slot].connection.as_deref_mut() else { return 0 };
        let Phase::Draining { fault, deadline } = connection.phase else { return 0 };
        let mut reports = 0;
        if let Some(lane) = &mut connection.lane {
            let connects = connection.connecting && !connection.ready;
            if connects && self.fabric.connected(lane.queue).is_none() {
                // The background still has it; the kernel bounds how long.
                return 0;
            }
            let deliver = lane.is_open() && matches!(fault, RailFault::PeerClosed | RailFault::Broken);
            reports += lane.drain(&mut self.fabric, connection.id, deliver, &mut self.statistics, sink);
            if !lane.is_drained() && !is_left_unrevoked(fault) {
                if self.now < deadline {
                    return reports;
                }
                self.statistics.drains_cut_short += 1;
            }
        }
        reports + self.finish(slot, fault, sink)
    }

    /// Destroys the queue, then frees its memory, then reports the end: in this order, so that no late access
    /// meets memory that has another use.
    fn finish(&mut self, slot: usize, fault: RailFault, sink: &mut impl Sink) -> usize {
        let Some(mut connection) = self.slots[slot].connection.take() else { return 0 };
        self.draining &= !(1 << slot);
        if let Some(lane) = connection.lane.take() {
            if !is_left_unrevoked(fault) {
                self.fabric.destroy(lane.queue);
            }
            self.pool.give_back(&mut self.fabric, lane.memory);
        }
        // Closing the socket ends the watch all the same.
        let _ = self.registry().deregister(&mut connection.channel.stream);
        sink.lost(connection.id, fault);
        self.close_gone_devices();
        1
    }

    fn users(&self, device: DeviceId) -> u64 {
        bits_of(|slot| {
            let lane = self.slots[slot].connection.as_deref().and_then(|open| open.lane.as_ref());
            lane.is_some_and(|lane| lane.device == device)
        })
    }

    /// Takes in what devices say of themselves.
    #[cold]
    pub(super) fn hear_devices(&mut self) {
        while let Some((device, event)) = self.devices.next(&mut self.fabric) {
            let name = self.fabric.name(device);
            match event {
                DeviceEvent::Other => continue,
                DeviceEvent::PortUp => {
                    tracing::info!(device = name, "RDMA port is up");
                    continue;
                }
                DeviceEvent::PortDown => tracing::warn!(device = name, "RDMA port went down"),
                DeviceEvent::AddressesChanged => tracing::info!(device = name, "RDMA addresses changed"),
                DeviceEvent::Gone => {
                    self.statistics.devices_gone += 1;
                    tracing::warn!(device = name, "RDMA device is gone; it is used again when it returns");
                }
            }
            for slot in bits(self.users(device)) {
                if event != DeviceEvent::AddressesChanged || !self.keeps_its_address(slot) {
                    self.statistics.device_losses += 1;
                    self.end(slot, RailFault::Broken);
                }
            }
        }
        self.close_gone_devices();
    }

    /// Whether a connection's address is still where it was when its queue was made.
    fn keeps_its_address(&mut self, slot: usize) -> bool {
        let Some(connection) = self.slots[slot].connection.as_deref() else { return true };
        let Some((address, port)) = connection.port else { return true };
        self.fabric.port(address).is_ok_and(|now| {
            (now.device, now.number, now.gid_index) == (port.device, port.number, port.gid_index)
        })
    }

    /// Closes devices that are gone, once no queue is left on them.
    fn close_gone_devices(&mut self) {
        let gone: Vec<DeviceId> = self.devices.gone().collect();
        for device in gone {
            if self.users(device) == 0 {
                self.pool.forget(&mut self.fabric, device);
                self.sources.forget(&mut self.fabric, device);
                let registry = self.registry.as_ref().expect("`attach` comes before anything else");
                self.devices.forget(registry, device);
                self.fabric.close(device);
            }
        }
    }
}

/// A rule that tests break: the queue of a peer that is gone is left as it is.
fn is_left_unrevoked(fault: RailFault) -> bool {
    mutant::is_broken(Mutant::EarlyReuse) && fault == RailFault::PeerClosed
}
