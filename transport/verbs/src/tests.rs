//! The provider on simulated devices: traps of verbs one by one, schedules of faults from seeds, and the
//! mutants that show that all this would notice.

mod course;
mod mutants;
mod traps;

use crate::fabric::double::{DoubleFabric, DoubleNetwork};
use crate::{VerbsOptions, VerbsProvider};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use transport_buf::SlabLayout;
use transport_provider::conformance::{Link, Side, rail};
use transport_provider::{ConnectionId, Provider, RailFault};

type DoubleSide = Side<VerbsProvider<DoubleFabric>>;

/// Chunks are few, so that memory runs out often.
const OPTIONS: VerbsOptions = VerbsOptions {
    receive: SlabLayout { classes: [(8 << 10, 48), (68 << 10, 8), (1028 << 10, 2), (0, 0)] },
    reserve: SlabLayout { classes: [(4 << 10, 48), (64 << 10, 8), (1 << 20, 2), (0, 0)] },
};

const LEFT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const RIGHT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// Two ends with a device each.
struct Ends {
    network: DoubleNetwork,
    left: DoubleSide,
    right: DoubleSide,
    address: SocketAddr,
}

impl Ends {
    fn new(network: &DoubleNetwork) -> Ends {
        let provider = || VerbsProvider::new(network.fabric(), OPTIONS).unwrap();
        let (left, mut right) = (Side::new(provider()), Side::new(provider()));
        // A port that was free a moment ago; the kernel hands out others before it comes back to it.
        let address = TcpListener::bind((RIGHT, 0)).unwrap().local_addr().unwrap();
        right.provider.listen(rail(0), &address).unwrap();
        Ends { network: network.clone(), left, right, address }
    }

    fn turn(&mut self) -> usize {
        self.left.turn() + self.right.turn()
    }

    /// Turns until `done`, a bounded number of times.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Ends) -> bool) {
        for _ in 0..2_000_000 {
            if done(self) {
                return;
            }
            if self.turn() == 0 {
                std::thread::yield_now();
            }
        }
        panic!("waited in vain: {what}");
    }

    fn dial(&mut self) -> ConnectionId {
        self.left.dial(rail(0), &SocketAddr::new(LEFT, 0), &self.address)
    }

    fn connect(&mut self) -> Link {
        let left = self.dial();
        self.until("the side channel opens", |ends| {
            ends.left.heard.connected.contains(&left) && !ends.right.heard.accepted.is_empty()
        });
        let (_, right) = self.right.heard.accepted.pop_front().unwrap();
        self.left.heard.connected.clear();
        Link { left, right }
    }

    fn establish(&mut self) -> Link {
        let link = self.connect();
        self.left.establish(link.left);
        self.right.establish(link.right);
        self.until("both ends are established", |ends| {
            ends.left.heard.established.contains(&link.left)
                && ends.right.heard.established.contains(&link.right)
        });
        self.left.heard.established.clear();
        self.right.heard.established.clear();
        link
    }

    /// Waits until both ends of `link` are lost; how.
    fn lost(&mut self, link: Link) -> (RailFault, RailFault) {
        self.until("both ends are lost", |ends| {
            !ends.left.heard.lost.is_empty() && !ends.right.heard.lost.is_empty()
        });
        let left = self.left.heard.lost.pop_front().unwrap();
        let right = self.right.heard.lost.pop_front().unwrap();
        assert_eq!((left.0, right.0), (link.left, link.right));
        (left.1, right.1)
    }

    /// What must never happen, whatever the weather.
    fn check(&self) {
        let counters = self.network.counters();
        assert_eq!(counters.receiver_not_ready, 0, "a receiver was found not ready");
        assert_eq!(counters.access_faults, 0, "memory was named that was not to be touched");
        assert_eq!(counters.overruns, 0, "a full queue was posted on");
        assert_eq!(counters.packets_too_large, 0, "packets are larger than a port carries");
        assert_eq!(counters.packet_numbers_reused, 0, "a queue began with an old packet number");
        assert_eq!(counters.stale_places, 0, "an old place of an address was used");
        for side in [&self.left, &self.right] {
            let statistics = side.provider.statistics();
            assert_eq!(statistics.receiver_not_ready, 0);
            assert_eq!(statistics.access_faults, 0);
            assert_eq!(statistics.queue_overruns, 0);
            assert_eq!(statistics.protocol_faults, 0, "{:?}", statistics.last_fault);
        }
    }
}
