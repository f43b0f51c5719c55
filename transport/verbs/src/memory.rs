//! Memory and its registrations: what a connection grants to its peer, and what is sent from.
//!
//! Registering pins pages and takes long, so a connection's memory is kept for the next one. That is safe
//! because it comes back here only after its queue was destroyed: a late write of the old peer names a queue
//! that no longer is (SPEC T11). Memory of which a chunk is still held waits until it is not.
//!
//! Registrations are found by region, never by address: whoever registers holds the region, so an address
//! cannot come to mean other memory behind the device's back, and no `malloc` needs to be watched.

use crate::fabric::{DeviceId, Fabric, FabricFault, Memory};
use crate::lane::{RECEIVE_DEPTH, SEND_DEPTH, SLOT_BYTES};
use std::sync::{Arc, Weak};
use transport_buf::{Region, SlabLayout, slab};

/// Bytes of a connection's send and receive slots.
pub(crate) const RINGS_BYTES: usize = (SEND_DEPTH + RECEIVE_DEPTH) as usize * SLOT_BYTES;
/// Memory of ended connections that is kept registered for the next ones, per provider.
const IDLE_MAX: usize = 4;

/// What one connection receives into and sends small frames from.
#[derive(Debug)]
pub(crate) struct ConnectionMemory {
    pub(crate) device: DeviceId,
    pub(crate) layout: SlabLayout,
    /// Granted to the peer.
    pub(crate) slab: Arc<Region>,
    pub(crate) slab_memory: Memory,
    /// Send slots, then receive slots.
    pub(crate) rings: Arc<Region>,
    pub(crate) rings_memory: Memory,
}

impl ConnectionMemory {
    fn bytes(&self) -> usize {
        self.slab.len() + self.rings.len()
    }

    /// Whether a client still holds a chunk of it.
    fn is_lent(&self) -> bool {
        // This handle, and the fabric's while it is registered.
        Arc::strong_count(&self.slab) > 2
    }
}

/// Memory of connections that are no more.
pub(crate) struct MemoryPool {
    layout: SlabLayout,
    idle: Vec<ConnectionMemory>,
    /// Regions that live only as long as a chunk of them is held.
    let_go: Vec<Weak<Region>>,
}

impl MemoryPool {
    pub(crate) fn new(layout: SlabLayout) -> MemoryPool {
        MemoryPool { layout, idle: Vec::new(), let_go: Vec::new() }
    }

    /// Bytes that one connection takes.
    pub(crate) fn connection_bytes(&self) -> usize {
        self.layout.region_bytes() + RINGS_BYTES
    }

    /// Memory for a new connection, registered with `device`, no chunk of it in use.
    pub(crate) fn take(
        &mut self,
        fabric: &mut impl Fabric,
        device: DeviceId,
    ) -> Result<ConnectionMemory, FabricFault> {
        let fits = |memory: &ConnectionMemory| memory.device == device && !memory.is_lent();
        if let Some(place) = self.idle.iter().position(fits) {
            let memory = self.idle.swap_remove(place);
            slab::take_returns(&memory.slab, &memory.layout, |_, _| ());
            return Ok(memory);
        }
        let make = |bytes| Region::create(bytes).map(Arc::new).map_err(|_| FabricFault::Exhausted);
        let (slab, rings) = (make(self.layout.region_bytes())?, make(RINGS_BYTES)?);
        let slab_memory = fabric.register(device, &slab, true)?;
        match fabric.register(device, &rings, false) {
            Ok(rings_memory) => {
                Ok(ConnectionMemory { device, layout: self.layout, slab, slab_memory, rings, rings_memory })
            }
            Err(fault) => {
                fabric.deregister(device, slab_memory);
                Err(fault)
            }
        }
    }

    /// Takes back the memory of a connection whose queue was destroyed.
    pub(crate) fn give_back(&mut self, fabric: &mut impl Fabric, memory: ConnectionMemory) {
        self.idle.push(memory);
        if self.idle.len() > IDLE_MAX {
            // The one lent out is the one that cannot be used soon.
            let place = self.idle.iter().position(ConnectionMemory::is_lent).unwrap_or(0);
            let memory = self.idle.swap_remove(place);
            self.let_go(fabric, memory);
        }
    }

    /// Forgets a device that is to be closed.
    pub(crate) fn forget(&mut self, fabric: &mut impl Fabric, device: DeviceId) {
        for memory in self.idle.extract_if(.., |memory| memory.device == device).collect::<Vec<_>>() {
            self.let_go(fabric, memory);
        }
    }

    fn let_go(&mut self, fabric: &mut impl Fabric, memory: ConnectionMemory) {
        fabric.deregister(memory.device, memory.rings_memory);
        fabric.deregister(memory.device, memory.slab_memory);
        self.let_go.retain(|region| region.strong_count() > 0);
        self.let_go.push(Arc::downgrade(&memory.slab));
    }

    /// Bytes of all that is kept or still held.
    pub(crate) fn bytes(&self) -> usize {
        let idle: usize = self.idle.iter().map(ConnectionMemory::bytes).sum();
        idle + self.let_go.iter().filter_map(Weak::upgrade).map(|region| region.len()).sum::<usize>()
    }
}

/// Memory of this node that data may be sent from without a copy, and its registration with each open
/// device. The first is the provider's own.
pub(crate) struct Sources {
    regions: Vec<Arc<Region>>,
    devices: Vec<(DeviceId, Vec<Memory>)>,
}

impl Sources {
    pub(crate) fn new(own: Arc<Region>) -> Sources {
        Sources { regions: vec![own], devices: Vec::new() }
    }

    /// Adds memory of the caller; registered with each device when the next connection is set up on it.
    pub(crate) fn add(&mut self, region: &Arc<Region>) {
        if !self.regions.iter().any(|known| Arc::ptr_eq(known, region)) {
            self.regions.push(region.clone());
        }
    }

    /// Registers what is not registered with `device` yet.
    pub(crate) fn register(&mut self, fabric: &mut impl Fabric, device: DeviceId) -> Result<(), FabricFault> {
        let place = match self.devices.iter().position(|(known, _)| *known == device) {
            Some(place) => place,
            None => {
                self.devices.push((device, Vec::new()));
                self.devices.len() - 1
            }
        };
        let memories = &mut self.devices[place].1;
        for region in &self.regions[memories.len()..] {
            memories.push(fabric.register(device, region, false)?);
        }
        Ok(())
    }

    /// Ends all registrations with a device that is to be closed.
    pub(crate) fn forget(&mut self, fabric: &mut impl Fabric, device: DeviceId) {
        for (_, memories) in self.devices.extract_if(.., |(known, _)| *known == device) {
            memories.into_iter().for_each(|memory| fabric.deregister(device, memory));
        }
    }

    /// The registration of `region` with `device`, if there is one.
    #[inline]
    pub(crate) fn find(&self, device: DeviceId, region: &Arc<Region>) -> Option<Memory> {
        let place = self.regions.iter().position(|known| Arc::ptr_eq(known, region))?;
        let (_, memories) = self.devices.iter().find(|(known, _)| *known == device)?;
        memories.get(place).copied()
    }

    /// Bytes of all regions that must be locked, once per open device.
    pub(crate) fn bytes(&self) -> usize {
        self.regions.iter().map(|region| region.len()).sum()
    }
}
