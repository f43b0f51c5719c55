//! What the endpoint is told about the cluster: peers, links and rails (from the configuration, SPEC T7).

use std::net::SocketAddr;
use transport_proto::identity::{NodeId, Path};
use transport_proto::route::Spread;

/// How a rail's end is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RailAddress {
    /// Shared memory of this host: an abstract socket name.
    Shm(String),
    /// A TCP address.
    Tcp(SocketAddr),
    /// A TCP address of an interface that an RDMA device stands behind.
    Verbs(SocketAddr),
}

/// Which provider carries a rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProviderKind {
    /// Shared memory.
    Shm,
    /// TCP.
    Tcp,
    /// RDMA verbs.
    Verbs,
}

impl ProviderKind {
    /// Kinds of providers.
    pub const COUNT: usize = 3;
}

impl RailAddress {
    /// The provider that speaks to this kind of address.
    pub fn kind(&self) -> ProviderKind {
        match self {
            RailAddress::Shm(_) => ProviderKind::Shm,
            RailAddress::Tcp(_) => ProviderKind::Tcp,
            RailAddress::Verbs(_) => ProviderKind::Verbs,
        }
    }
}

/// One rail to a peer. Both ends are of the same kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RailPlan {
    /// Link and rail number, the same on both nodes.
    pub path: Path,
    /// Where this node listens, and which address it dials from.
    pub local: RailAddress,
    /// Where the peer listens.
    pub remote: RailAddress,
    /// Whether the connectivity monitor watches it. A rail without monitor counts as up while it is
    /// connected.
    pub monitored: bool,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPlan {
    /// The peer.
    pub node: NodeId,
    /// How messages are spread over its links.
    pub spread: Spread,
    /// All rails of all links.
    pub rails: Vec<RailPlan>,
}
