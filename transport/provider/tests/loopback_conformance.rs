//! The loopback provider keeps the contract, and the suite itself can be passed.

use std::any::Any;
use std::sync::atomic::{AtomicU16, Ordering};
use transport_provider::conformance::Fixture;
use transport_provider::loopback::{LoopbackNetwork, LoopbackProvider};

#[derive(Default)]
struct Loopback {
    network: LoopbackNetwork,
    addresses: AtomicU16,
}

impl Fixture for Loopback {
    type Provider = LoopbackProvider;

    fn provider(&self) -> LoopbackProvider {
        self.network.provider()
    }

    fn address(&self) -> u16 {
        self.addresses.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn local(&self) -> u16 {
        0
    }

    fn send_garbage(&self, address: &u16, _bytes: &[u8]) -> Box<dyn Any> {
        self.network.intrude(*address);
        Box::new(())
    }
}

transport_provider::conformance_suite!(Loopback::default());
