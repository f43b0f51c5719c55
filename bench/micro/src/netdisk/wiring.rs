//! How the two endpoints of a scenario are wired: which provider, how many logical links, and how they wait.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use transport_endpoint::{Clients, Endpoint, EndpointConfig, PeerPlan, RailAddress, RailPlan, SpinSettings};
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{Epoch, Incarnation, LinkId, NodeId, Path, RailId};
use transport_proto::route::Spread;

/// The measuring process; the lower id, so it listens and the partner dials.
pub(crate) const STATION: NodeId = NodeId(1);
/// The worker process.
pub(crate) const PARTNER: NodeId = NodeId(2);

/// Both of them.
pub(crate) const MEMBERS: [NodeId; 2] = [STATION, PARTNER];
/// The only configuration there is.
pub(crate) const FIRST_EPOCH: Epoch = Epoch(1);

/// Numbers the wirings of this process, so that no two share an address.
static WIRINGS: AtomicU32 = AtomicU32::new(0);

/// Which provider carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Carrier {
    /// Shared memory of this machine.
    Shm,
    /// TCP on the loopback.
    Tcp,
}

impl Carrier {
    /// The word that tables use.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
        }
    }
}

/// How both endpoints wait when a round found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Waiting {
    /// Both have a core of their own and never sleep.
    Spinning,
    /// As a node waits: spin while work comes fast, yield, then sleep.
    Adaptive,
    /// Sleep at once, as a program that only has epoll.
    Sleeping,
}

impl Waiting {
    fn settings(self) -> SpinSettings {
        let default = SpinSettings::default();
        match self {
            Self::Spinning => SpinSettings { yielding: false, forever: true, ..default },
            Self::Adaptive => default,
            Self::Sleeping => SpinSettings { spin_max: Duration::ZERO, ..default },
        }
    }
}

/// What a scenario asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// The provider of every rail.
    pub(crate) carrier: Carrier,
    /// Logical links, of one rail each; more than one stripes large messages over all.
    pub(crate) links: u8,
    /// How both ends wait.
    pub(crate) waiting: Waiting,
}

/// One layout with addresses, as both ends are told it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wiring {
    layout: Layout,
    /// Where the station listens, per link: a socket name or a port.
    addresses: Vec<String>,
}

impl Wiring {
    /// Picks addresses that are free now.
    ///
    /// # Errors
    /// No port of the loopback is free.
    pub(crate) fn choose(layout: Layout) -> Result<Self> {
        let number = WIRINGS.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        // All ports are held until all are chosen, so that no two links get the same.
        let mut held = Vec::new();
        let mut address = |link| -> Result<String> {
            match layout.carrier {
                Carrier::Shm => Ok(format!("bench-micro-{pid}-{number}-{link}")),
                Carrier::Tcp => {
                    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
                    let address = port.local_addr()?.to_string();
                    held.push(port);
                    Ok(address)
                }
            }
        };
        let addresses = (0..layout.links).map(&mut address).collect::<Result<Vec<_>>>()?;
        Ok(Self { layout, addresses })
    }

    /// Makes this process's endpoint and tells it the way to the other.
    ///
    /// # Errors
    /// No memory or descriptors, or an address is taken.
    pub(crate) fn endpoint<C: Clients>(&self, node: NodeId, clients: C) -> Result<Endpoint<C>> {
        let key = ClusterKey::derive("bench-micro", b"two processes of one bench");
        // Each run is a first life: the other end never met this node before.
        let mut config = EndpointConfig::new(node, Incarnation(1), key);
        config.spin = self.layout.waiting.settings();
        let mut endpoint = Endpoint::new(config, clients).context("the endpoint cannot start")?;
        let peer = if node == STATION { PARTNER } else { STATION };
        let rails = self.rails(node)?;
        let spread = if self.layout.links > 1 { Spread::Stripe } else { Spread::Single };
        let plan = PeerPlan { node: peer, spread, rails };
        endpoint.core().set_peer(&plan).map_err(|refusal| anyhow::anyhow!("cannot listen: {refusal:?}"))?;
        endpoint.core().configure(FIRST_EPOCH, &MEMBERS);
        Ok(endpoint)
    }

    fn rails(&self, node: NodeId) -> Result<Vec<RailPlan>> {
        let rail = |(link, listening): (usize, &String)| -> Result<RailPlan> {
            let (listens, dials) = match self.layout.carrier {
                Carrier::Shm => {
                    (RailAddress::Shm(listening.clone()), RailAddress::Shm(format!("{listening}-dialer")))
                }
                Carrier::Tcp => {
                    let listening: SocketAddr =
                        listening.parse().context("a wiring holds socket addresses")?;
                    let dialing = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                    (RailAddress::Tcp(listening), RailAddress::Tcp(dialing))
                }
            };
            let (local, remote) = if node == STATION { (listens, dials) } else { (dials, listens) };
            let path = Path { link: LinkId(link as u8), rail: RailId(0) };
            Ok(RailPlan { path, local, remote, monitored: false })
        };
        self.addresses.iter().enumerate().map(rail).collect()
    }
}
