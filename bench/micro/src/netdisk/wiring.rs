//! How the two endpoints of a scenario are wired: which provider, how many logical links, and how they wait.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bench_harness::Worker;
use serde::{Deserialize, Serialize};
use transport_endpoint::{Clients, Endpoint, EndpointConfig, PeerPlan, RailAddress, RailPlan, SpinSettings};
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{Epoch, Incarnation, LinkId, NodeId, Path, RailId};
use transport_proto::route::Spread;

use crate::role::{Role, SUB_COMMAND};

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
    /// RDMA verbs in the laboratory: the station on host h1, the partner on h2, one of the lab's rails per
    /// link.
    Verbs,
}

impl Carrier {
    /// The word that tables use.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
            Self::Verbs => "verbs",
        }
    }
}

/// How both endpoints wait when a round found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Waiting {
    /// Both have a core of their own and never sleep.
    Spinning,
    /// Both never sleep, but give their core away between two looks, to whoever carries the messages:
    /// soft-RoCE is threads of the kernel, and the laboratory has two cores.
    Yielding,
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
            Self::Yielding => SpinSettings { forever: true, ..default },
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
        let mut address = |link: u8| -> Result<String> {
            match layout.carrier {
                Carrier::Shm => Ok(format!("bench-micro-{pid}-{number}-{link}")),
                Carrier::Tcp => free_port(IpAddr::V4(Ipv4Addr::LOCALHOST), &mut held),
                Carrier::Verbs => free_port(lab_address(1, link)?, &mut held),
            }
        };
        let addresses = (0..layout.links).map(&mut address).collect::<Result<Vec<_>>>()?;
        Ok(Self { layout, addresses })
    }

    /// Starts the worker process where the other end of these addresses is.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start_worker(&self, role: &Role) -> Result<Worker> {
        match self.layout.carrier {
            Carrier::Shm | Carrier::Tcp => Worker::start(SUB_COMMAND, role),
            Carrier::Verbs => Worker::start_behind(&["on", "h2"], SUB_COMMAND, role),
        }
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
                Carrier::Verbs => {
                    let listening: SocketAddr =
                        listening.parse().context("a wiring holds socket addresses")?;
                    let dialing = SocketAddr::new(lab_address(2, link as u8)?, 0);
                    (RailAddress::Verbs(listening), RailAddress::Verbs(dialing))
                }
            };
            let (local, remote) = if node == STATION { (listens, dials) } else { (dials, listens) };
            let path = Path { link: LinkId(link as u8), rail: RailId(0) };
            Ok(RailPlan { path, local, remote, monitored: false })
        };
        self.addresses.iter().enumerate().map(rail).collect()
    }
}

/// A port that is free now, and held until `held` goes.
fn free_port(address: IpAddr, held: &mut Vec<TcpListener>) -> Result<String> {
    let port = TcpListener::bind((address, 0)).with_context(|| format!("no port of {address} is free"))?;
    let address = port.local_addr()?.to_string();
    held.push(port);
    Ok(address)
}

/// Address of a host of the laboratory on the rail of a link.
fn lab_address(host: u8, link: u8) -> Result<IpAddr> {
    let name = format!("LAB_H{host}_RAIL{}_ADDR", link + 1);
    let text = std::env::var(&name)
        .with_context(|| format!("{name} is not set: verbs are measured inside `netdisk lab`"))?;
    text.parse().with_context(|| format!("{name} is no address: {text}"))
}
