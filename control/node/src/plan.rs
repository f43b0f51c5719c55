//! From the configuration's rows to what the transport is told: one plan per peer.

use control_proto::rows::{ClusterRows, RailAddress as RowAddress};
use transport_endpoint::{PeerPlan, RailAddress, RailPlan};
use transport_proto::identity::NodeId;

/// The plans of all peers of `node`.
pub fn peer_plans(rows: &ClusterRows, node: NodeId) -> Vec<PeerPlan> {
    let mut plans: Vec<PeerPlan> = Vec::new();
    for rail in rows.rails_of(node) {
        let plan = RailPlan {
            path: rail.path,
            local: address(&rail.local.address),
            remote: address(&rail.remote.address),
            monitored: true,
        };
        match plans.iter_mut().find(|known| known.node == rail.peer) {
            Some(known) => known.rails.push(plan),
            None => plans.push(PeerPlan { node: rail.peer, spread: rows.spread, rails: vec![plan] }),
        }
    }
    plans
}

fn address(row: &RowAddress) -> RailAddress {
    match row {
        RowAddress::Shm(name) => RailAddress::Shm(name.clone()),
        RowAddress::Tcp(address) => RailAddress::Tcp(*address),
        RowAddress::Verbs(address) => RailAddress::Verbs(*address),
    }
}
