//! What the provider needs of RDMA devices, and nothing more: two things fulfil it, real verbs (`rdma`, with
//! the feature of that name) and a simulated reliable connection in plain memory (`double`).
//!
//! A *queue* is a reliable connection's queue pair with one completion queue of its own, so a flood on one
//! connection delays no other and nothing of a dead connection is left in a queue that lives on.

pub mod double;
#[cfg(feature = "rdma")]
pub mod rdma;

use core::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use transport_buf::Region;

/// An open device of this process. A device that vanished and returned has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId(pub u32);

/// A queue of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueId(pub u32);

/// A port's address on the fabric. For RoCEv2 an IP address, IPv4 as mapped into IPv6.
pub type Gid = [u8; 16];

/// The GID that a rail's address has on a RoCEv2 device.
pub fn gid_of(address: IpAddr) -> Gid {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A device's port as found for a rail's address at this moment. Not to be kept: the place of an address in
/// the device's table changes when interfaces go down and up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The device, open.
    pub device: DeviceId,
    /// Number of the port on the device.
    pub number: u8,
    /// Place of `gid` in the port's table, now.
    pub gid_index: u8,
    /// The address.
    pub gid: Gid,
    /// Largest packet that the port carries.
    pub mtu: Mtu,
}

/// Packet size of a path, in the numbering of the wire: 1 is 256 bytes, 5 is 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtu(u8);

impl Mtu {
    /// What every port carries.
    pub const LEAST: Mtu = Mtu(1);

    /// From its number; `None` if there is no such size.
    pub fn from_number(number: u8) -> Option<Mtu> {
        (1..=5).contains(&number).then_some(Mtu(number))
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Bytes.
    pub fn bytes(self) -> usize {
        128 << self.0
    }
}

/// One end of a queue, as the other end must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueEnd {
    /// Number of the queue pair, 24 bits.
    pub number: u32,
    /// Number of the first packet that it sends, 24 bits, drawn anew for each queue.
    pub packet_sequence: u32,
    /// Address of its port.
    pub gid: Gid,
}

/// How deep a queue is, and what fits into a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueDepth {
    /// Sends under way at the most.
    pub sends: u32,
    /// Receives posted at the most.
    pub receives: u32,
}

/// Memory registered with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Which registration it is, for [`Fabric::deregister`].
    pub id: u32,
    /// The key for requests of this side.
    pub local_key: u32,
    /// The key that a peer needs to write into it.
    pub remote_key: u32,
    /// Address of the region's first byte as requests name it.
    pub address: u64,
}

impl Memory {
    /// A part of it.
    pub fn part(&self, offset: usize, length: usize) -> Part {
        Part { key: self.local_key, address: self.address + offset as u64, length: length as u32 }
    }
}

/// A stretch of registered memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Local key of the registration.
    pub key: u32,
    /// Address of the first byte.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// What a send does at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fills the peer's next receive.
    Send,
    /// Stores into granted memory, then completes the peer's next receive with `immediate`, its memory
    /// untouched.
    Write {
        /// Where the first byte goes.
        address: u64,
        /// Remote key of the peer's registration.
        key: u32,
        /// Told to the peer.
        immediate: u32,
    },
}

/// One send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendRequest {
    /// Comes back in its completion.
    pub id: u64,
    /// What it does.
    pub operation: Operation,
    /// What is sent, one after the other; an empty part is left out.
    pub parts: [Part; 2],
    /// Copied when posted rather than read by the device later.
    pub inline: bool,
    /// Completes also when it succeeds. A failure always completes.
    pub signalled: bool,
}

/// One receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveRequest {
    /// Comes back in its completion.
    pub id: u64,
    /// Where a send goes.
    pub part: Part,
}

/// What came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The request's.
    pub id: u64,
    /// How it went.
    pub result: Result<Completed, CompletionFault>,
}

/// A success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// This send and all before it have arrived.
    Sent,
    /// A send of the peer filled this receive.
    Received {
        /// Bytes of it.
        bytes: u32,
    },
    /// A write of the peer is in its place.
    Written {
        /// Bytes of it.
        bytes: u32,
        /// What it said.
        immediate: u32,
    },
}

/// A failure, by what is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionFault {
    /// The peer or the path is gone: fail over.
    RetryExceeded,
    /// The peer had no receive posted for all the retries: fail over, and a bug of this provider.
    ReceiverNotReady,
    /// Taken back unfinished because the queue failed before.
    Flushed,
    /// The peer's device refused the memory: a bug of this provider, or a peer that revoked its grant.
    RemoteAccess,
    /// This side's device refused the memory or the request: a bug of this provider.
    LocalProtection,
    /// Any other, by its number in the verbs interface.
    Other(u32),
}

/// What a device says by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// The port carries nothing any more.
    PortDown,
    /// The port carries again.
    PortUp,
    /// Addresses came or went.
    AddressesChanged,
    /// The device is gone or broken for good; it is to be closed.
    Gone,
    /// Of no interest here.
    Other,
}

/// Why a rail's address has no usable device. Nothing happened; it may have one later.
#[derive(Debug)]
pub enum PortRefusal {
    /// No device has the address.
    NoDevice {
        /// The rail's address.
        address: IpAddr,
        /// Names of the devices there are.
        devices: Vec<String>,
    },
    /// The device's port does not carry.
    PortDown {
        /// The device.
        device: String,
    },
    /// The device could not be opened or asked.
    Device {
        /// The device.
        device: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl fmt::Display for PortRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortRefusal::NoDevice { address, devices } if devices.is_empty() => write!(
                f,
                "no RDMA device on this machine, so none for rail address {address}: load its driver, or \
                 make a soft one (`rdma link add rxe0 type rxe netdev …`), or use a tcp rail"
            ),
            PortRefusal::NoDevice { address, devices } => write!(
                f,
                "no RDMA device has rail address {address} (there are: {}): compare `rdma link` and `ip \
                 addr`, or change the rail",
                devices.join(", ")
            ),
            PortRefusal::PortDown { device } => {
                write!(f, "port of RDMA device {device} is down: check its cable or interface")
            }
            PortRefusal::Device { device, .. } => {
                write!(f, "RDMA device {device} cannot be opened: may this user open /dev/infiniband?")
            }
        }
    }
}

impl std::error::Error for PortRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PortRefusal::Device { source, .. } => Some(source),
            PortRefusal::NoDevice { .. } | PortRefusal::PortDown { .. } => None,
        }
    }
}

/// A call that the device refused; the connection that needed it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FabricFault {
    /// Too much memory or too many resources are asked for.
    Exhausted,
    /// The device is gone or in error.
    Device,
}

/// RDMA devices of one process. Driven by one thread, never blocking; whatever may take long (resolving the
/// neighbour of an address can take a second) goes on by itself and rings [`Fabric::transitions`].
pub trait Fabric {
    /// The port that has `address` now; opens its device if it is not open.
    fn port(&mut self, address: IpAddr) -> Result<Port, PortRefusal>;

    /// Bytes of memory that this process may register; `None` where nothing limits it.
    fn lockable_bytes(&self) -> Option<u64>;

    /// The device's name, for people.
    fn name(&self, device: DeviceId) -> String;

    /// Readable when a completion arrived at an armed queue of `device`.
    fn completions(&self, device: DeviceId) -> BorrowedFd<'_>;

    /// Readable when `device` has something to say by itself.
    fn events(&self, device: DeviceId) -> BorrowedFd<'_>;

    /// Readable when [`Fabric::connected`] may have changed its answer.
    fn transitions(&self) -> BorrowedFd<'_>;

    /// Registers a region, for a peer to write into if `remote_write`. The fabric holds the region until it
    /// is deregistered, so its address cannot come to mean other memory.
    fn register(
        &mut self,
        device: DeviceId,
        region: &Arc<Region>,
        remote_write: bool,
    ) -> Result<Memory, FabricFault>;

    /// Ends a registration: from now on the device touches none of it. No queue may still use it.
    fn deregister(&mut self, device: DeviceId, memory: Memory);

    /// Makes a queue on `port`. Receives may be posted; nothing arrives before it is connected.
    fn create(&mut self, port: &Port, depth: QueueDepth) -> Result<QueueId, FabricFault>;

    /// Number of the queue pair, 24 bits.
    fn number(&self, queue: QueueId) -> u32;

    /// Bytes that an inline send of `queue` may have.
    fn inline_bytes_max(&self, queue: QueueId) -> usize;

    /// Begins to connect `queue` to its peer; [`Fabric::connected`] tells the end.
    fn connect(&mut self, queue: QueueId, packet_sequence: u32, peer: &QueueEnd, mtu: Mtu);

    /// Whether connecting has ended, and how.
    fn connected(&mut self, queue: QueueId) -> Option<Result<(), FabricFault>>;

    /// Posts receives.
    fn post_receives(&mut self, queue: QueueId, requests: &[ReceiveRequest]) -> Result<(), FabricFault>;

    /// Posts sends with one doorbell.
    fn post_sends(&mut self, queue: QueueId, requests: &[SendRequest]) -> Result<(), FabricFault>;

    /// Takes completions, oldest first; returns how many.
    fn poll(&mut self, queue: QueueId, out: &mut [Completion]) -> usize;

    /// The next completion of `queue` makes [`Fabric::completions`] readable, once. One that is there already
    /// may not: poll after this.
    fn arm(&mut self, queue: QueueId) -> Result<(), FabricFault>;

    /// Takes back the bell of [`Fabric::completions`] after it rang.
    fn take_bells(&mut self, device: DeviceId);

    /// Whether the system still has `device`. Some drivers keep a device that was removed until its users let
    /// go of it, and tell them nothing.
    fn is_present(&self, device: DeviceId) -> bool;

    /// The next thing that `device` has to say.
    fn next_event(&mut self, device: DeviceId) -> Option<DeviceEvent>;

    /// Moves `queue` to error: every request under way completes, as flushed or as it went.
    fn fail(&mut self, queue: QueueId);

    /// Ends `queue`. After this nothing that was sent to or by it touches memory any more.
    fn destroy(&mut self, queue: QueueId);

    /// Closes a device that has no queues and no registrations any more.
    fn close(&mut self, device: DeviceId);
}
