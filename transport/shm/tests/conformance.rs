//! The shared-memory provider keeps the contract.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType};
use std::any::Any;
use std::sync::atomic::{AtomicU32, Ordering};
use transport_buf::SlabLayout;
use transport_provider::conformance::Fixture;
use transport_shm::ShmProvider;

/// Counts through all tests of this process; its id keeps other runs apart.
static ADDRESSES: AtomicU32 = AtomicU32::new(0);

struct Shm;

impl Fixture for Shm {
    type Provider = ShmProvider;

    fn provider(&self) -> ShmProvider {
        ShmProvider::new(SlabLayout { classes: [(4 << 10, 256), (64 << 10, 32), (1 << 20, 5), (0, 0)] })
    }

    fn address(&self) -> String {
        let number = ADDRESSES.fetch_add(1, Ordering::Relaxed);
        format!("netdisk-conformance-{}-{number}", std::process::id())
    }

    fn local(&self) -> String {
        String::new()
    }

    fn send_garbage(&self, address: &String, bytes: &[u8]) -> Box<dyn Any> {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(address.as_bytes()).unwrap())
            .unwrap();
        rustix::net::send(&socket, bytes, SendFlags::NOSIGNAL).unwrap();
        Box::new(socket)
    }
}

transport_provider::conformance_suite!(Shm);
