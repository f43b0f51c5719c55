//! Addresses by rule: a node's ports begin at its base, and each rail of each link has two of them, one for
//! data (TCP) and one for heartbeats (UDP). What is not said otherwise, in a file or by a command, is as
//! here.
//!
//! | port | protocol | what listens |
//! |---|---|---|
//! | base + 2 p | TCP | the rail of path p |
//! | base + 2 p + 1 | UDP | its heartbeats |
//! | base + 1 | TCP | the join port |

use control_proto::rows::{ClusterRows, RailAddress, RailEnd};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use transport_proto::identity::{NodeId, Path};

/// First port of node 1, unless somebody says otherwise.
pub const PORT_BASE_USUAL: u16 = 7400;
/// Ports of one node: data and heartbeats of each path.
pub const PORTS_PER_NODE: u32 = 2 * Path::COUNT_MAX as u32;

/// The kind of a rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RailKind {
    /// Shared memory.
    Shm,
    /// TCP.
    Tcp,
    /// RDMA verbs.
    Verbs,
}

impl RailKind {
    /// The kind of an address.
    pub fn of(address: &RailAddress) -> RailKind {
        match address {
            RailAddress::Shm(_) => RailKind::Shm,
            RailAddress::Tcp(_) => RailKind::Tcp,
            RailAddress::Verbs(_) => RailKind::Verbs,
        }
    }
}

impl fmt::Display for RailKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RailKind::Shm => "shm",
            RailKind::Tcp => "tcp",
            RailKind::Verbs => "verbs",
        })
    }
}

impl FromStr for RailKind {
    type Err = String;

    fn from_str(text: &str) -> Result<RailKind, String> {
        let all = [RailKind::Shm, RailKind::Tcp, RailKind::Verbs];
        let known = all.into_iter().find(|kind| kind.to_string() == text);
        known.ok_or_else(|| format!("{text:?} is no kind of rail: write tcp, shm or verbs"))
    }
}

/// Lets a rail end at another address than its node's host, with the port and the heartbeats by rule if they
/// are not given. Shared memory has none.
pub fn move_end(end: &mut RailEnd, ip: IpAddr, port: Option<u16>, heartbeat: Option<SocketAddr>) {
    let by_rule = match end.address {
        RailAddress::Tcp(address) | RailAddress::Verbs(address) => address.port(),
        RailAddress::Shm(_) => return,
    };
    let address = SocketAddr::new(ip, port.unwrap_or(by_rule));
    end.address = match end.address {
        RailAddress::Verbs(_) => RailAddress::Verbs(address),
        _ => RailAddress::Tcp(address),
    };
    // Port 65535 has none after it; the rules of rows find what is left wrong.
    end.heartbeat = heartbeat.unwrap_or(SocketAddr::new(ip, address.port().saturating_add(1)));
}

/// First port of a node by the cluster's base; `None` past the last port there is.
pub fn port_base(cluster_base: u16, node: NodeId) -> Option<u16> {
    let base = u32::from(cluster_base) + PORTS_PER_NODE * u32::from(node.0).saturating_sub(1);
    u16::try_from(base + PORTS_PER_NODE - 1).ok()?;
    Some(base as u16)
}

/// The data port of a path, by the node's base.
pub fn data_port(base: u16, path: Path) -> Option<u16> {
    base.checked_add(2 * path.index() as u16).filter(|port| *port < u16::MAX)
}

/// The name of a node's end of a shared-memory rail.
pub fn shm_name(cluster: &str, node: NodeId, path: Path) -> String {
    format!("netdisk/{cluster}/{}/{}.{}", node.0, path.link.0, path.rail.0)
}

/// One node's end of a rail, by its host and its base.
pub fn rail_end(
    cluster: &str,
    node: NodeId,
    host: IpAddr,
    base: u16,
    path: Path,
    kind: RailKind,
) -> Option<RailEnd> {
    let port = data_port(base, path)?;
    let address = match kind {
        RailKind::Shm => RailAddress::Shm(shm_name(cluster, node, path)),
        RailKind::Tcp => RailAddress::Tcp(SocketAddr::new(host, port)),
        RailKind::Verbs => RailAddress::Verbs(SocketAddr::new(host, port)),
    };
    Some(RailEnd { node, address, heartbeat: SocketAddr::new(host, port + 1) })
}

/// The base that a node's rails follow, all that do; by the heartbeats, which every rail has.
fn base_of(rows: &ClusterRows, node: NodeId) -> Option<u16> {
    let rails = rows.links.iter().flat_map(|link| link.rails.iter().map(move |rail| (link.id, rail)));
    let mut bases = rails.filter_map(|(link, rail)| {
        let path = Path { link, rail: rail.id };
        rail.end(node)?.heartbeat.port().checked_sub(2 * path.index() as u16 + 1)
    });
    bases.next()
}

/// The base of a node: as its rails have it, or as the rails of the other nodes make it likely.
pub fn base_for(rows: &ClusterRows, node: NodeId) -> Option<u16> {
    if let Some(base) = base_of(rows, node) {
        return Some(base);
    }
    let cluster = rows.nodes.iter().find_map(|other| {
        let own = u32::from(base_of(rows, other.id)?);
        let cluster = own.checked_sub(PORTS_PER_NODE * u32::from(other.id.0).saturating_sub(1))?;
        u16::try_from(cluster).ok()
    });
    port_base(cluster.unwrap_or(PORT_BASE_USUAL), node)
}

/// Where machines that want to join knock at a node: TCP, by the number of its first heartbeat port, which
/// only UDP uses.
pub fn join_address(rows: &ClusterRows, node: NodeId) -> Option<SocketAddr> {
    let rails = rows.links.iter().flat_map(|link| link.rails.iter().map(move |rail| (link.id, rail)));
    let ends = rails
        .filter_map(|(link, rail)| Some((Path { link, rail: rail.id }.index(), rail.end(node)?.heartbeat)));
    if let Some((_, heartbeat)) = ends.min_by_key(|(index, _)| *index) {
        return Some(heartbeat);
    }
    let host = rows.node(node)?.host;
    Some(SocketAddr::new(host, base_for(rows, node)? + 1))
}
