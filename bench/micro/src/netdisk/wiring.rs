//! How the two endpoints of a scenario are wired: which provider, how many logical links, and how they wait.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench_harness::Worker;
use serde::{Deserialize, Serialize};
use transport_endpoint::{Clients, Endpoint, EndpointConfig, PeerPlan, RailAddress, RailPlan, SpinSettings};
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{
    ClientId, Epoch, Incarnation, LINKS_MAX, LinkId, NodeId, Path, RAILS_MAX, RailId,
};
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

/// Clients of the transport that are free for measurements: those that netdisk itself does not use.
const SENDERS: [ClientId; 3] = [ClientId::USER, ClientId(6), ClientId(7)];

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
    /// Logical links; more than one stripes large messages over all.
    pub(crate) links: u8,
    /// Redundant rails of each link; one of them carries, the others stand by.
    pub(crate) rails: u8,
    /// Clients that share each endpoint and take turns in sending.
    pub(crate) clients: u8,
    /// How both ends wait.
    pub(crate) waiting: Waiting,
}

impl Layout {
    /// One link of one rail, one client.
    pub(crate) fn one(carrier: Carrier, waiting: Waiting) -> Self {
        Self { carrier, links: 1, rails: 1, clients: 1, waiting }
    }

    /// Whose messages go out, one after the other.
    pub(crate) fn senders(self) -> &'static [ClientId] {
        &SENDERS[..usize::from(self.clients).clamp(1, SENDERS.len())]
    }

    /// Whether an endpoint can have so many.
    pub(crate) fn is_possible(self) -> bool {
        (1..=LINKS_MAX as u8).contains(&self.links)
            && (1..=RAILS_MAX as u8).contains(&self.rails)
            && (1..=SENDERS.len() as u8).contains(&self.clients)
    }

    fn paths(self) -> impl Iterator<Item = Path> {
        let of_link =
            move |link| (0..self.rails).map(move |rail| Path { link: LinkId(link), rail: RailId(rail) });
        (0..self.links).flat_map(of_link)
    }
}

/// One layout with addresses, as both ends are told it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wiring {
    layout: Layout,
    /// Where the station listens, per path: a socket name or a port.
    listening: Vec<String>,
    /// Where the partner dials from, per path.
    dialing: Vec<String>,
}

impl Wiring {
    /// Picks addresses of this machine, or of the laboratory, that are free now.
    ///
    /// # Errors
    /// No port of the loopback is free.
    pub(crate) fn choose(layout: Layout) -> Result<Self> {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        match layout.carrier {
            Carrier::Shm | Carrier::Tcp => Self::between(layout, local, local),
            Carrier::Verbs => Self::by(layout, |path, held| {
                let listening = free_port(lab_address(1, path.link.0)?, held)?;
                Ok((listening, SocketAddr::new(lab_address(2, path.link.0)?, 0).to_string()))
            }),
        }
    }

    /// The same between these addresses: of the station, which is this machine's, and of the partner.
    ///
    /// # Errors
    /// No port of the station's address is free.
    pub(crate) fn between(layout: Layout, station: IpAddr, partner: IpAddr) -> Result<Self> {
        let number = WIRINGS.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        Self::by(layout, |path, held| match layout.carrier {
            Carrier::Shm => {
                let name = format!("bench-micro-{pid}-{number}-{}-{}", path.link.0, path.rail.0);
                Ok((name.clone(), format!("{name}-dialer")))
            }
            Carrier::Tcp | Carrier::Verbs => {
                Ok((free_port(station, held)?, SocketAddr::new(partner, 0).to_string()))
            }
        })
    }

    fn by(
        layout: Layout,
        mut addresses: impl FnMut(Path, &mut Vec<TcpListener>) -> Result<(String, String)>,
    ) -> Result<Self> {
        // All ports are held until all are chosen, so that no two paths get the same.
        let mut held = Vec::new();
        let pairs = layout.paths().map(|path| addresses(path, &mut held)).collect::<Result<Vec<_>>>()?;
        let (listening, dialing) = pairs.into_iter().unzip();
        Ok(Self { layout, listening, dialing })
    }

    /// Whether a wiring that came from elsewhere is one that an endpoint can be built from.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(
            self.layout.is_possible(),
            "no endpoint has {} links of {} rails and {} clients",
            self.layout.links,
            self.layout.rails,
            self.layout.clients
        );
        let paths = self.layout.paths().count();
        ensure!(self.listening.len() == paths && self.dialing.len() == paths, "each path has two addresses");
        self.rails(PARTNER).map(drop)
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
        config.clients.extend(self.layout.senders().iter().filter(|sender| **sender != ClientId::USER));
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
        let address = |text: &String| -> Result<RailAddress> {
            let socket = || text.parse::<SocketAddr>().context("a wiring holds socket addresses");
            Ok(match self.layout.carrier {
                Carrier::Shm => RailAddress::Shm(text.clone()),
                Carrier::Tcp => RailAddress::Tcp(socket()?),
                Carrier::Verbs => RailAddress::Verbs(socket()?),
            })
        };
        let addresses = self.listening.iter().zip(&self.dialing);
        let rail = |(path, (listening, dialing))| -> Result<RailPlan> {
            let (listens, dials) = (address(listening)?, address(dialing)?);
            let (local, remote) = if node == STATION { (listens, dials) } else { (dials, listens) };
            Ok(RailPlan { path, local, remote, monitored: false })
        };
        self.layout.paths().zip(addresses).map(rail).collect()
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
