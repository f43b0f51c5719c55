//! A simulated reliable connection, for tests: no RDMA, no kernel, nothing unsafe, and all that makes verbs
//! treacherous, drawn from a seed.
//!
//! [`Weather`] says how rough it is. Work on different queues overtakes each other, completions lag, a failed
//! queue's requests come back flushed, a send that finds no receive fails its queue, a cut path fails it by
//! retries. What was on its way when the sender's queue died may still *land*, unless the receiver destroyed
//! its queue or its packet number does not fit. Numbers of queues are used again at once. Ports go down,
//! devices vanish and return with another identity.
//!
//! Time is a count of steps: every look at a queue is one. A fabric that is about to sleep ([`Fabric::arm`])
//! first lets everything under way come to its end, since nobody would move it afterwards.

mod network;
mod queue;

use crate::fabric::{
    Completion, DeviceEvent, DeviceId, Fabric, FabricFault, Memory, Mtu, Port, PortRefusal, QueueDepth,
    QueueEnd, QueueId, ReceiveRequest, SendRequest, gid_of,
};
use network::{Network, Owner};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use transport_buf::Region;

pub use network::{Counters, Weather};

/// The network that doubles share: cables, devices, and the seed.
#[derive(Clone)]
pub struct DoubleNetwork {
    network: Arc<Mutex<Network>>,
}

impl DoubleNetwork {
    /// A network in which every address that is asked for has a device of its own.
    pub fn new(seed: u64, weather: Weather) -> DoubleNetwork {
        DoubleNetwork { network: Arc::new(Mutex::new(Network::new(seed, weather))) }
    }

    fn lock(&self) -> MutexGuard<'_, Network> {
        // A test that panicked elsewhere has failed already; what it left is still looked at.
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fabric of one process on this network.
    pub fn fabric(&self) -> DoubleFabric {
        DoubleFabric::new(self.clone())
    }

    /// Cuts or mends the path between two addresses: packets are lost, nobody is told.
    pub fn set_cut(&self, one: IpAddr, other: IpAddr, cut: bool) {
        self.lock().set_cut(gid_of(one), gid_of(other), cut);
    }

    /// Takes the port of an address down or up: its device says so.
    pub fn set_port(&self, address: IpAddr, up: bool) {
        self.lock().set_port(gid_of(address), up);
    }

    /// Moves an address to another place in its device's table.
    pub fn move_address(&self, address: IpAddr) {
        self.lock().move_address(gid_of(address));
    }

    /// Takes the device of an address away, with everything on it, or gives one back.
    pub fn set_present(&self, address: IpAddr, present: bool) {
        self.lock().set_present(gid_of(address), present);
    }

    /// What a process may register from now on, bytes.
    pub fn limit_memory(&self, bytes: Option<u64>) {
        self.lock().lockable = bytes;
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }
}

impl core::fmt::Debug for DoubleNetwork {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "DoubleNetwork({:?})", self.counters())
    }
}

/// What wakes one process: a bell per device and kind, one for transitions.
struct Bells {
    completions: OwnedFd,
    events: OwnedFd,
    device: usize,
}

/// Simulated devices of one process.
pub struct DoubleFabric {
    network: DoubleNetwork,
    owner: Owner,
    bells: HashMap<DeviceId, Bells>,
    transitions: OwnedFd,
}

fn bell() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("the system gives an event counter")
}

fn silence(bell: &OwnedFd) {
    // There may be nothing to read, which is as good.
    let _ = rustix::io::read(bell, &mut [0; 8]);
}

impl DoubleFabric {
    fn new(network: DoubleNetwork) -> DoubleFabric {
        let transitions = bell();
        let copy = transitions.try_clone().expect("a descriptor can be copied");
        let owner = network.lock().join(copy);
        DoubleFabric { network, owner, bells: HashMap::new(), transitions }
    }
}

impl Drop for DoubleFabric {
    fn drop(&mut self) {
        self.network.lock().leave(self.owner);
    }
}

impl Fabric for DoubleFabric {
    fn port(&mut self, address: IpAddr) -> Result<Port, PortRefusal> {
        let mut network = self.network.lock();
        let Some(found) = network.find(gid_of(address)) else {
            return Err(PortRefusal::NoDevice { address, devices: network.names() });
        };
        if !found.up {
            return Err(PortRefusal::PortDown { device: found.name });
        }
        let device = found.id;
        if !self.bells.contains_key(&device) {
            let bells = Bells { completions: bell(), events: bell(), device: found.place };
            let copy = |bell: &OwnedFd| bell.try_clone().expect("a descriptor can be copied");
            network.open(self.owner, found.place, copy(&bells.completions), copy(&bells.events));
            self.bells.insert(device, bells);
        }
        let mtu = Mtu::from_number(found.mtu).expect("the network has only sizes that there are");
        Ok(Port { device, number: 1, gid_index: found.gid_index, gid: gid_of(address), mtu })
    }

    fn lockable_bytes(&self) -> Option<u64> {
        self.network.lock().lockable
    }

    fn name(&self, device: DeviceId) -> String {
        format!("double{}", self.bells.get(&device).map_or(0, |bells| bells.device))
    }

    fn completions(&self, device: DeviceId) -> BorrowedFd<'_> {
        self.bells[&device].completions.as_fd()
    }

    fn events(&self, device: DeviceId) -> BorrowedFd<'_> {
        self.bells[&device].events.as_fd()
    }

    fn transitions(&self) -> BorrowedFd<'_> {
        self.transitions.as_fd()
    }

    fn register(
        &mut self,
        device: DeviceId,
        region: &Arc<Region>,
        remote_write: bool,
    ) -> Result<Memory, FabricFault> {
        self.network.lock().register(self.owner, device, region, remote_write)
    }

    fn deregister(&mut self, _device: DeviceId, memory: Memory) {
        self.network.lock().deregister(memory);
    }

    fn create(&mut self, port: &Port, depth: QueueDepth) -> Result<QueueId, FabricFault> {
        self.network.lock().create(self.owner, port, depth)
    }

    fn number(&self, queue: QueueId) -> u32 {
        self.network.lock().number(queue)
    }

    fn inline_bytes_max(&self, _queue: QueueId) -> usize {
        self.network.lock().weather.inline_bytes_max
    }

    fn connect(&mut self, queue: QueueId, packet_sequence: u32, peer: &QueueEnd, mtu: Mtu) {
        self.network.lock().connect(queue, packet_sequence, peer, mtu);
    }

    fn connected(&mut self, queue: QueueId) -> Option<Result<(), FabricFault>> {
        let mut network = self.network.lock();
        network.step();
        silence(&self.transitions);
        network.connected(queue)
    }

    fn post_receives(&mut self, queue: QueueId, requests: &[ReceiveRequest]) -> Result<(), FabricFault> {
        self.network.lock().post_receives(queue, requests)
    }

    fn post_sends(&mut self, queue: QueueId, requests: &[SendRequest]) -> Result<(), FabricFault> {
        self.network.lock().post_sends(queue, requests)
    }

    fn poll(&mut self, queue: QueueId, out: &mut [Completion]) -> usize {
        let mut network = self.network.lock();
        network.step();
        network.take_completions(queue, out)
    }

    fn arm(&mut self, queue: QueueId) -> Result<(), FabricFault> {
        let mut network = self.network.lock();
        network.settle();
        network.arm(queue)
    }

    fn take_bells(&mut self, device: DeviceId) {
        if let Some(bells) = self.bells.get(&device) {
            silence(&bells.completions);
        }
    }

    fn is_present(&self, device: DeviceId) -> bool {
        self.network.lock().is_present(device)
    }

    fn next_event(&mut self, device: DeviceId) -> Option<DeviceEvent> {
        if let Some(bells) = self.bells.get(&device) {
            silence(&bells.events);
        }
        self.network.lock().next_event(self.owner, device)
    }

    fn fail(&mut self, queue: QueueId) {
        self.network.lock().fail(queue);
    }

    fn destroy(&mut self, queue: QueueId) {
        self.network.lock().destroy(queue);
    }

    fn close(&mut self, device: DeviceId) {
        self.bells.remove(&device);
        self.network.lock().close(self.owner, device);
    }
}
