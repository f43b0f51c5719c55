//! What the endpoint holds of one peer: the session, its rails, and the ledgers of leases.

use crate::message::{OutgoingId, Waiting};
use crate::plan::{PeerPlan, RailPlan};
use crate::providers::Wire;
use std::sync::Arc;
use transport_buf::ledger::LeaseLedger;
use transport_proto::identity::{CLIENTS_MAX, Incarnation, NodeId, Path, RailGeneration};
use transport_proto::rail::Rail;
use transport_proto::session::Session;
use transport_proto::time::Time;

/// One rail.
#[derive(Debug)]
pub(crate) struct RailEnd {
    pub(crate) plan: RailPlan,
    pub(crate) machine: Rail,
    pub(crate) wire: Option<Wire>,
    /// Chunks of its memory are withheld from the peer until it connects anew.
    pub(crate) withheld: bool,
    pub(crate) generation: RailGeneration,
    /// Removed by the configuration; forgotten as soon as its connection is gone.
    pub(crate) retired: bool,
    /// Connections that this rail has had, for `status`.
    pub(crate) connections: u64,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) session: Session<OutgoingId, Waiting>,
    pub(crate) rails: Vec<RailEnd>,
    /// Wire per path that carries payload, for the hot path.
    pub(crate) wires: [Option<Wire>; Path::COUNT_MAX],
    pub(crate) ledgers: [Arc<LeaseLedger>; CLIENTS_MAX],
    /// Releases that the session has been told of, per client.
    pub(crate) told: [u32; CLIENTS_MAX],
    /// Bit per client with leases on loan.
    pub(crate) lending: u32,
    /// Some frame waits for a provider to have room.
    pub(crate) stalled: bool,
    /// Bit per client of which a message may wait that needs memory of the peer before it can go. Later ones
    /// of that client must not hold such memory meanwhile: the peer keeps them until the first has come, so
    /// it would wait for ever.
    pub(crate) needy: u32,
    /// The client that was first served when something was last posted late.
    pub(crate) first: u32,
    pub(crate) reachable: bool,
    /// The latest life that the configuration dropped; it and all before it stay out.
    pub(crate) dead: Incarnation,
    /// Latest life ever met.
    pub(crate) latest: Incarnation,
}

impl Peer {
    pub(crate) fn new(now: Time, local: NodeId, incarnation: Incarnation, plan: &PeerPlan) -> Peer {
        let mut peer = Peer {
            node: plan.node,
            session: Session::new(local, incarnation, plan.node, plan.spread),
            rails: Vec::new(),
            wires: [None; Path::COUNT_MAX],
            ledgers: core::array::from_fn(|_| Arc::default()),
            told: [0; CLIENTS_MAX],
            lending: 0,
            stalled: false,
            needy: 0,
            first: 0,
            reachable: false,
            dead: Incarnation(0),
            latest: Incarnation(0),
        };
        for rail in &plan.rails {
            peer.add_rail(now, local, rail.clone());
        }
        peer
    }

    pub(crate) fn add_rail(&mut self, now: Time, local: NodeId, plan: RailPlan) {
        let machine = Rail::new(now, local > self.node, plan.monitored);
        let end = RailEnd {
            plan,
            machine,
            wire: None,
            withheld: false,
            generation: RailGeneration(0),
            retired: false,
            connections: 0,
        };
        // Positions are names (connections refer to them), so a retired rail's place is used again, never
        // closed up.
        match self.rails.iter_mut().find(|end| end.retired && end.wire.is_none()) {
            Some(place) => *place = end,
            None => self.rails.push(end),
        }
    }

    pub(crate) fn rail(&mut self, path: Path) -> Option<usize> {
        self.rails.iter().position(|rail| rail.plan.path == path && !rail.retired)
    }

    /// The earliest life that may connect.
    pub(crate) fn life_min(&self) -> Incarnation {
        self.latest.max(Incarnation(self.dead.0 + u64::from(self.dead.0 > 0)))
    }
}
