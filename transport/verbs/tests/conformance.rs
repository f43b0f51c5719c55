//! The verbs provider keeps the contract, on simulated devices in fair and in rough weather.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::any::Any;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use transport_buf::SlabLayout;
use transport_provider::conformance::Fixture;
use transport_verbs::fabric::double::{DoubleFabric, DoubleNetwork, Weather};
use transport_verbs::{VerbsOptions, VerbsProvider};

/// One network for all providers of a test, which makes sure that each of its rules held.
struct Double {
    network: DoubleNetwork,
}

impl Double {
    fn new(seed: u64, weather: Weather) -> Double {
        Double { network: DoubleNetwork::new(seed, weather) }
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        let counters = self.network.counters();
        if !std::thread::panicking() {
            assert_eq!(counters.receiver_not_ready, 0, "a receiver was found not ready");
            assert_eq!(counters.access_faults, 0, "memory was named that was not to be touched");
            assert_eq!(counters.overruns, 0, "a full queue was posted on");
        }
    }
}

impl Fixture for Double {
    type Provider = VerbsProvider<DoubleFabric>;

    fn provider(&self) -> Self::Provider {
        let receive =
            SlabLayout { classes: [(8 << 10, 64), (68 << 10, 16), (260 << 10, 4), (1028 << 10, 4)] };
        let reserve = SlabLayout { classes: [(4 << 10, 64), (64 << 10, 32), (256 << 10, 8), (1 << 20, 4)] };
        VerbsProvider::new(self.network.fabric(), VerbsOptions { receive, reserve }).unwrap()
    }

    /// A port that was free a moment ago; the kernel hands out others before it comes back to it.
    fn address(&self) -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn local(&self) -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn send_garbage(&self, address: &SocketAddr, bytes: &[u8]) -> Box<dyn Any> {
        let mut stranger = TcpStream::connect(address).unwrap();
        stranger.set_nonblocking(true).unwrap();
        // What the provider does not want to hear it need not read to the end.
        let _ = stranger.write(bytes).unwrap();
        Box::new(stranger)
    }
}

mod fair {
    use super::{Double, Weather};
    transport_provider::conformance_suite!(Double::new(1, Weather::FAIR));
}

mod rough {
    use super::{Double, Weather};
    // Delays stay within what a fair share may take in the suite; what is late may come very late.
    const WEATHER: Weather = Weather { delay_steps_max: 6, ..Weather::ROUGH };
    transport_provider::conformance_suite!(Double::new(7, WEATHER));
}
