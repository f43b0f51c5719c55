//! What `status` tells of the transport.

use crate::core::Core;
use crate::plan::ProviderKind;
use core::time::Duration;
use transport_proto::identity::{CLIENTS_MAX, ClientId, Incarnation, LinkId, NodeId, Path};
use transport_proto::rail::RailState;
use transport_proto::session::SessionCounters;
use transport_verbs::Statistics as VerbsStatistics;

/// The endpoint at one moment.
#[derive(Clone, Debug)]
pub struct TransportStatus {
    /// Bytes of memory held for connections and pools.
    pub memory_bytes: usize,
    /// Connections refused because the other end could not prove who it is.
    pub handshakes_refused: u64,
    /// What the verbs rails have counted, once there was one.
    pub verbs: Option<VerbsStatistics>,
    /// Peers, in the order of configuration.
    pub peers: Vec<PeerStatus>,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// Its life, once one was met.
    pub incarnation: Option<Incarnation>,
    /// Whether the configuration counts it as a member.
    pub member: bool,
    /// Whether a rail is up.
    pub reachable: bool,
    /// What has happened since its life began.
    pub counters: SessionCounters,
    /// Leases that clients hold, and the age of the oldest.
    pub leases: (usize, Option<Duration>),
    /// Links.
    pub links: Vec<LinkStatus>,
}

/// One logical link.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// The link.
    pub link: LinkId,
    /// Rails.
    pub rails: Vec<RailStatus>,
}

/// One rail.
#[derive(Clone, Debug)]
pub struct RailStatus {
    /// The rail.
    pub path: Path,
    /// What carries it.
    pub kind: ProviderKind,
    /// Where it stands.
    pub state: RailState,
    /// Whether it carries its link's data now.
    pub active: bool,
    /// Whether the peer can call here, or need not. `false`: the local address could not be listened on.
    pub open_to_calls: bool,
    /// Connections it has had.
    pub connections: u64,
    /// Frames on their way.
    pub in_flight: u32,
}

impl Core {
    /// The transport at this moment.
    pub fn status(&self) -> TransportStatus {
        TransportStatus {
            memory_bytes: self.providers.memory_bytes() + self.local.region().len(),
            handshakes_refused: self.faults.count,
            verbs: self.providers.verbs.statistics(),
            peers: (0..self.peers.len()).map(|at| self.peer_status(at)).collect(),
        }
    }

    fn peer_status(&self, at: usize) -> PeerStatus {
        let peer = &self.peers[at];
        let routes = peer.session.routes();
        let mut links: Vec<LinkStatus> = Vec::new();
        for (place, end) in peer.rails.iter().enumerate().filter(|(_, end)| !end.retired) {
            let path = end.plan.path;
            let rail = RailStatus {
                path,
                kind: end.plan.local.kind(),
                state: end.machine.state(),
                active: routes.active(path.link) == Some(path.rail),
                open_to_calls: self.is_open_to_calls(at, place),
                connections: end.connections,
                in_flight: routes.in_flight(path),
            };
            match links.iter_mut().find(|link| link.link == path.link) {
                Some(link) => link.rails.push(rail),
                None => links.push(LinkStatus { link: path.link, rails: vec![rail] }),
            }
        }
        PeerStatus {
            node: peer.node,
            incarnation: peer.session.peer_incarnation(),
            member: peer.session.is_member(),
            reachable: peer.reachable,
            counters: *peer.session.counters(),
            leases: self.leases_of(at),
            links,
        }
    }

    fn leases_of(&self, at: usize) -> (usize, Option<Duration>) {
        let mut leases = (0, None);
        for client in 0..CLIENTS_MAX as u16 {
            let (held, since) = self.peers[at].ledgers[usize::from(ClientId(client).0)].held();
            leases.0 += held;
            let age = since.map(|since| Duration::from_nanos(self.now.0.saturating_sub(since)));
            leases.1 = leases.1.max(age);
        }
        leases
    }
}
