//! Real devices, through `rdma-sys`. The one place of this crate with `unsafe`.
//!
//! `tables.rs` finds devices, `device.rs` opens them, `queue.rs` makes and drives queues, `background.rs`
//! connects them where waiting does no harm.

#![allow(unsafe_code, reason = "calls into libibverbs; each is argued where it stands")]

mod background;
mod device;
mod queue;
mod tables;

use crate::fabric::{
    Completion, DeviceEvent, DeviceId, Fabric, FabricFault, Memory, Mtu, Port, PortRefusal, QueueDepth,
    QueueEnd, QueueId, ReceiveRequest, SendRequest, gid_of,
};
use background::Background;
use device::Device;
use queue::Queue;
use rdma_sys::{ibv_access_flags, ibv_dereg_mr, ibv_fork_init, ibv_mr, ibv_reg_mr};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;
use tables::Tables;
use transport_buf::Region;

/// A registration and what it keeps alive.
struct Registration {
    device: DeviceId,
    pointer: NonNull<ibv_mr>,
    _region: Arc<Region>,
}

/// The RDMA devices of this machine, as one thread of this process uses them.
pub struct RdmaFabric {
    devices: Vec<Option<Device>>,
    /// Devices opened so far; each gets a number of its own.
    opened: u32,
    queues: Vec<Option<Queue>>,
    registrations: Vec<Option<Registration>>,
    background: Background,
    tables: Tables,
}

// SAFETY: the pointers inside are to objects of libibverbs, which may be used from any thread, and only
// through `&mut self` or, in the background, by a thread that `Background` waits for.
unsafe impl Send for RdmaFabric {}

impl RdmaFabric {
    /// Prepares libibverbs. No device is opened yet, and none needs to be there.
    pub fn new() -> io::Result<RdmaFabric> {
        // SAFETY: takes nothing; must come before memory is registered, and nothing was through this type.
        // All memory that is registered is a shared mapping, which a child may inherit without harm; this
        // protects what the library itself maps.
        let refused = unsafe { ibv_fork_init() };
        if refused != 0 {
            tracing::debug!(refused, "libibverbs does not protect its memory from children of this process");
        }
        Ok(RdmaFabric {
            devices: Vec::new(),
            opened: 0,
            queues: Vec::new(),
            registrations: Vec::new(),
            background: Background::new()?,
            tables: Tables::new(),
        })
    }

    fn device(&self, id: DeviceId) -> Option<&Device> {
        self.devices.iter().flatten().find(|device| device.id == id)
    }

    fn known(&self, id: DeviceId) -> &Device {
        self.device(id).expect("a device is closed only after everything on it is gone")
    }

    fn queue(&mut self, id: QueueId) -> &mut Queue {
        self.queues[id.0 as usize].as_mut().expect("a queue is not used after it was destroyed")
    }

    /// Opens `name`, unless it is open and sound.
    fn open(&mut self, name: &str) -> io::Result<DeviceId> {
        if let Some(device) =
            self.devices.iter().flatten().find(|known| known.name == name && !known.is_gone())
        {
            return Ok(device.id);
        }
        self.opened += 1;
        let id = DeviceId(self.opened);
        let device = Device::open(name, id)?;
        match self.devices.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(device),
            None => self.devices.push(Some(device)),
        }
        Ok(id)
    }
}

impl Fabric for RdmaFabric {
    fn port(&mut self, address: IpAddr) -> Result<Port, PortRefusal> {
        let gid = gid_of(address);
        let Some(place) = self.tables.find(&gid, Instant::now()) else {
            return Err(PortRefusal::NoDevice { address, devices: self.tables.devices() });
        };
        let refused = |source| PortRefusal::Device { device: place.device.clone(), source };
        let device = self.open(&place.device).map_err(refused)?;
        let attributes = self.known(device).query_port(place.port).map_err(refused)?;
        if !attributes.is_active {
            return Err(PortRefusal::PortDown { device: place.device });
        }
        let mtu = Mtu::from_number(attributes.active_mtu).unwrap_or(Mtu::LEAST);
        Ok(Port { device, number: place.port, gid_index: place.index, gid, mtu })
    }

    fn lockable_bytes(&self) -> Option<u64> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        limit.filter(|_| !device::may_lock_any())
    }

    fn name(&self, device: DeviceId) -> String {
        self.device(device).map_or_else(String::new, |device| device.name.clone())
    }

    fn completions(&self, device: DeviceId) -> BorrowedFd<'_> {
        self.known(device).completions()
    }

    fn events(&self, device: DeviceId) -> BorrowedFd<'_> {
        self.known(device).events()
    }

    fn transitions(&self) -> BorrowedFd<'_> {
        self.background.bell()
    }

    fn register(
        &mut self,
        device: DeviceId,
        region: &Arc<Region>,
        remote_write: bool,
    ) -> Result<Memory, FabricFault> {
        let remote = if remote_write { ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0 } else { 0 };
        let access = ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0 | remote;
        let domain = self.known(device).domain();
        let (address, length) = (region.pointer(0), region.len());
        // SAFETY: the protection domain is open (as long as its device); the range is a mapping that `region`
        // keeps alive until the registration is ended, and that this process shares with others anyway, so
        // that it is read and written as memory that somebody else may write.
        let pointer = unsafe { ibv_reg_mr(domain, address.cast(), length, access as libc::c_int) };
        let pointer = NonNull::new(pointer).ok_or_else(|| fault_of(&io::Error::last_os_error()))?;
        // SAFETY: the library has just made it and does not change it.
        let registered = unsafe { pointer.as_ref() };
        let (local_key, remote_key) = (registered.lkey, registered.rkey);
        let registration = Registration { device, pointer, _region: region.clone() };
        let id = match self.registrations.iter().position(Option::is_none) {
            Some(place) => {
                self.registrations[place] = Some(registration);
                place
            }
            None => {
                self.registrations.push(Some(registration));
                self.registrations.len() - 1
            }
        };
        Ok(Memory { id: id as u32, local_key, remote_key, address: address as u64 })
    }

    fn deregister(&mut self, device: DeviceId, memory: Memory) {
        if let Some(registration) = self.registrations[memory.id as usize].take() {
            debug_assert_eq!(registration.device, device);
            // SAFETY: made by `register`, taken out of the table so that this happens once.
            let refused = unsafe { ibv_dereg_mr(registration.pointer.as_ptr()) };
            if refused != 0 {
                // The device may still use it: the region must not go. Better lost than written to.
                tracing::warn!(refused, "RDMA device keeps a registration; its memory is kept too");
                core::mem::forget(registration);
            }
        }
    }

    fn create(&mut self, port: &Port, depth: QueueDepth) -> Result<QueueId, FabricFault> {
        let queue = Queue::create(self.known(port.device), port, depth)?;
        let place = match self.queues.iter().position(Option::is_none) {
            Some(place) => {
                self.queues[place] = Some(queue);
                place
            }
            None => {
                self.queues.push(Some(queue));
                self.queues.len() - 1
            }
        };
        Ok(QueueId(place as u32))
    }

    fn number(&self, queue: QueueId) -> u32 {
        self.queues[queue.0 as usize].as_ref().map_or(0, Queue::number)
    }

    fn inline_bytes_max(&self, queue: QueueId) -> usize {
        self.queues[queue.0 as usize].as_ref().map_or(0, |queue| queue.inline_bytes_max)
    }

    fn connect(&mut self, queue: QueueId, packet_sequence: u32, peer: &QueueEnd, mtu: Mtu) {
        let queue = self.queues[queue.0 as usize].as_mut().expect("connected before it is destroyed");
        queue.transition =
            Some(self.background.connect(queue.pair(), queue.steps(packet_sequence, peer, mtu)));
    }

    fn connected(&mut self, queue: QueueId) -> Option<Result<(), FabricFault>> {
        self.background.silence();
        self.queue(queue).transition.as_ref()?.outcome()
    }

    fn post_receives(&mut self, queue: QueueId, requests: &[ReceiveRequest]) -> Result<(), FabricFault> {
        self.queue(queue).post_receives(requests)
    }

    #[inline]
    fn post_sends(&mut self, queue: QueueId, requests: &[SendRequest]) -> Result<(), FabricFault> {
        self.queue(queue).post_sends(requests)
    }

    #[inline]
    fn poll(&mut self, queue: QueueId, out: &mut [Completion]) -> usize {
        self.queue(queue).poll(out)
    }

    fn arm(&mut self, queue: QueueId) -> Result<(), FabricFault> {
        self.queue(queue).arm()
    }

    fn take_bells(&mut self, device: DeviceId) {
        if let Some(device) = self.device(device) {
            device.take_bells();
        }
    }

    fn is_present(&self, device: DeviceId) -> bool {
        self.device(device).is_some_and(Device::is_present)
    }

    fn next_event(&mut self, device: DeviceId) -> Option<DeviceEvent> {
        self.device(device)?.next_event()
    }

    fn fail(&mut self, queue: QueueId) {
        self.queue(queue).fail();
    }

    fn destroy(&mut self, queue: QueueId) {
        if let Some(queue) = self.queues[queue.0 as usize].take() {
            queue.destroy();
        }
    }

    fn close(&mut self, device: DeviceId) {
        for place in &mut self.devices {
            if let Some(device) = place.take_if(|known| known.id == device) {
                device.close();
            }
        }
    }
}

impl Drop for RdmaFabric {
    fn drop(&mut self) {
        // Bottom last: queues, registrations, devices.
        for queue in self.queues.drain(..).flatten() {
            queue.destroy();
        }
        for id in 0..self.registrations.len() {
            if let Some(device) = self.registrations[id].as_ref().map(|registration| registration.device) {
                let memory = Memory { id: id as u32, local_key: 0, remote_key: 0, address: 0 };
                self.deregister(device, memory);
            }
        }
        for device in self.devices.drain(..).flatten() {
            device.close();
        }
    }
}

/// What an error of the library means for whoever asked.
fn fault_of(error: &io::Error) -> FabricFault {
    match error.raw_os_error() {
        Some(libc::ENOMEM | libc::ENOSPC | libc::EAGAIN | libc::EPERM) => FabricFault::Exhausted,
        _ => FabricFault::Device,
    }
}

/// The same for calls that return the number.
fn fault_of_number(number: libc::c_int) -> FabricFault {
    fault_of(&io::Error::from_raw_os_error(number.abs()))
}
