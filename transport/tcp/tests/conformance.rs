//! The TCP provider keeps the contract.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::any::Any;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use transport_buf::SlabLayout;
use transport_provider::conformance::Fixture;
use transport_tcp::{TcpOptions, TcpProvider};

const SMALL: SlabLayout =
    SlabLayout { classes: [(4 << 10, 64), (64 << 10, 32), (256 << 10, 8), (1 << 20, 4)] };

struct Tcp {
    host: &'static str,
    data_checksum: bool,
}

impl Fixture for Tcp {
    type Provider = TcpProvider;

    fn provider(&self) -> TcpProvider {
        let data_checksum = self.data_checksum;
        let options = TcpOptions { receive: SMALL, reserve: SMALL, data_checksum, ..TcpOptions::default() };
        TcpProvider::new(options).unwrap()
    }

    /// A port that was free a moment ago; the kernel hands out others before it comes back to it.
    fn address(&self) -> SocketAddr {
        TcpListener::bind((self.host, 0)).unwrap().local_addr().unwrap()
    }

    fn local(&self) -> SocketAddr {
        SocketAddr::new(self.host.parse().unwrap(), 0)
    }

    fn send_garbage(&self, address: &SocketAddr, bytes: &[u8]) -> Box<dyn Any> {
        let mut stranger = TcpStream::connect(address).unwrap();
        stranger.set_nonblocking(true).unwrap();
        // What the provider does not want to hear it need not read to the end.
        let _ = stranger.write(bytes).unwrap();
        Box::new(stranger)
    }
}

mod ipv4 {
    transport_provider::conformance_suite!(super::Tcp { host: "127.0.0.1", data_checksum: false });
}

mod ipv6_with_data_checksum {
    transport_provider::conformance_suite!(super::Tcp { host: "::1", data_checksum: true });
}
