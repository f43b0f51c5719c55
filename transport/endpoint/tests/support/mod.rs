//! Two or more endpoints of one process, pumped by turns.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use transport_endpoint::simulated_verbs::{DoubleNetwork, Weather};
use transport_endpoint::{
    Clients, Completion, Core, Delivery, Endpoint, EndpointConfig, Lease, PeerEvent, PeerPlan, ProviderKind,
    RailAddress, RailPlan, SpinSettings,
};
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{ClientId, Incarnation, LinkId, NodeId, Path, RailId};
use transport_proto::route::Spread;

/// Gives up on a condition after this; long, since the machine may be busy, and never waited for when all is
/// well.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client that notes all that it hears.
#[derive(Default)]
pub(crate) struct Ear {
    pub(crate) messages: Vec<(NodeId, ClientId, Vec<u8>, Vec<u8>)>,
    pub(crate) completions: Vec<Completion>,
    pub(crate) events: Vec<PeerEvent>,
    pub(crate) writable: Vec<(NodeId, ClientId)>,
    /// Keep the data of this client's messages instead of releasing it.
    pub(crate) keep: Option<ClientId>,
    pub(crate) leases: Vec<Lease>,
    /// What the call-back of a delivery does first, once.
    pub(crate) first: Option<fn(&mut Core)>,
}

impl Clients for Ear {
    fn deliver(&mut self, core: &mut Core, delivery: Delivery<'_>) {
        if let Some(first) = self.first.take() {
            first(core);
        }
        let data = delivery.data().to_vec();
        self.messages.push((delivery.from, delivery.client, delivery.control.to_vec(), data));
        if self.keep == Some(delivery.client) {
            let lease = delivery.lease(core);
            self.leases.push(lease);
        }
    }

    fn complete(&mut self, _core: &mut Core, completion: Completion) {
        self.completions.push(completion);
    }

    fn peer(&mut self, _core: &mut Core, event: PeerEvent) {
        self.events.push(event);
    }

    fn writable(&mut self, _core: &mut Core, node: NodeId, client: ClientId) {
        self.writable.push((node, client));
    }
}

pub(crate) fn key() -> ClusterKey {
    ClusterKey::derive("test", b"a secret of sixteen bytes or more")
}

/// Rails of a pair of nodes: a kind per rail, per link.
pub(crate) fn plan(links: &[&[ProviderKind]]) -> HashMap<Path, (RailAddress, RailAddress)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut rails = HashMap::new();
    for (link, kinds) in links.iter().enumerate() {
        for (rail, kind) in kinds.iter().enumerate() {
            let path = Path { link: LinkId(link as u8), rail: RailId(rail as u8) };
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let address = |node: u32| match kind {
                ProviderKind::Shm => {
                    RailAddress::Shm(format!("netdisk-test-{}-{number}-{node}", std::process::id()))
                }
                ProviderKind::Tcp => RailAddress::Tcp(free_port()),
                // Each end has an address, and so a simulated device, of its own.
                ProviderKind::Verbs => {
                    RailAddress::Verbs(free_port_at(Ipv4Addr::new(127, 0, number as u8 + 1, node as u8)))
                }
            };
            rails.insert(path, (address(1), address(2)));
        }
    }
    rails
}

pub(crate) fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn free_port_at(host: Ipv4Addr) -> SocketAddr {
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

std::thread_local! {
    /// Cables and simulated devices of this test.
    pub(crate) static NETWORK: DoubleNetwork = DoubleNetwork::new(11, Weather::FAIR);
}

/// Nodes 1 and 2.
pub(crate) struct Pair {
    pub(crate) nodes: [Endpoint<Ear>; 2],
    pub(crate) rails: HashMap<Path, (RailAddress, RailAddress)>,
    pub(crate) spread: Spread,
}

pub(crate) fn endpoint(node: u16, incarnation: u64) -> Endpoint<Ear> {
    let mut config = EndpointConfig::new(NodeId(node), Incarnation(incarnation), key());
    config.spin = SpinSettings::default();
    config.simulated_verbs = Some(NETWORK.with(Clone::clone));
    Endpoint::new(config, Ear::default()).unwrap()
}

impl Pair {
    /// Connected, with this many links of these rails.
    pub(crate) fn connected(links: &[&[ProviderKind]], spread: Spread) -> Pair {
        let mut pair = Pair { nodes: [endpoint(1, 100), endpoint(2, 200)], rails: plan(links), spread };
        pair.configure();
        let rails = pair.rails.len();
        pair.until("all rails are up", |pair| pair.rails_up() == 2 * rails);
        pair
    }

    pub(crate) fn peer_plan(&self, of: usize) -> PeerPlan {
        let mut rails: Vec<RailPlan> = self
            .rails
            .iter()
            .map(|(path, (one, two))| {
                let (local, remote) = if of == 0 { (one, two) } else { (two, one) };
                RailPlan { path: *path, local: local.clone(), remote: remote.clone(), monitored: false }
            })
            .collect();
        rails.sort_by_key(|rail| rail.path);
        PeerPlan { node: NodeId(2 - of as u16), spread: self.spread, rails }
    }

    /// Tells both endpoints the rails as they are in `self.rails` now.
    pub(crate) fn configure(&mut self) {
        for of in [0, 1] {
            let plan = self.peer_plan(of);
            self.nodes[of].core().set_peer(&plan).unwrap();
        }
    }

    pub(crate) fn rails_up(&mut self) -> usize {
        let up = |node: &mut Endpoint<Ear>| {
            let status = node.core().status();
            let rails = status.peers.iter().flat_map(|peer| peer.links.iter().flat_map(|link| &link.rails));
            rails.filter(|rail| rail.state == transport_proto::rail::RailState::Up).count()
        };
        self.nodes.iter_mut().map(up).sum()
    }

    pub(crate) fn turn(&mut self) {
        for node in &mut self.nodes {
            node.poll();
            // A look at the sockets each turn: these tests are about behaviour, not speed.
            node.sleep(Duration::ZERO, |_, _, _| ()).unwrap();
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Pair) -> bool) {
        let started = Instant::now();
        while !done(self) {
            assert!(started.elapsed() < PATIENCE, "waited too long until {what}");
            self.turn();
        }
    }

    pub(crate) fn messages(&mut self, node: usize) -> &mut Vec<(NodeId, ClientId, Vec<u8>, Vec<u8>)> {
        &mut self.nodes[node].clients().messages
    }
}
