//! A node that goes for good: it has stopped serving; now its row, its ends and its membership go in one
//! entry of the log, and its state folder is of no use any more.

use crate::consensus::Asker;
use crate::departure::departure;
use crate::node::{Ended, Node};
use control_proto::ccd::{Answer, Change};
use control_raft::NotDone;
use std::time::{Duration, Instant};
use transport_proto::identity::NodeId;

/// The log may take so long to say that the node is gone.
const DEPART_TIME_MAX: Duration = Duration::from_secs(15);

/// A node that has gone is spoken to for so long: it waits for the word that it may go.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the log says of this node's departure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depart {
    /// Nothing under way.
    NotAsked,
    /// Proposed, and no answer yet.
    Asked,
    /// It has gone.
    Done,
}

/// A node that has gone and is to hear so. Its gates were closed and drained before it asked, so there is
/// nothing of it to be fenced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Farewell {
    node: NodeId,
    until: Instant,
}

impl Farewell {
    pub(crate) fn to(node: NodeId) -> Farewell {
        Farewell { node, until: Instant::now() + FAREWELL }
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

impl Node {
    /// One step towards the end for good. `Some`: it is over.
    pub(crate) fn depart_step(&mut self, since: Instant) -> Option<Ended> {
        let me = self.me();
        let database = self.replica.database();
        if self.depart == Depart::Done || database.rows().node(me.node).is_none() {
            tracing::info!("left the cluster for good");
            if let Err(fault) = self.genesis.retire(&self.folder) {
                tracing::warn!("the state folder still looks like a node's: {fault}");
            }
            return Some(Ended::Stopped);
        }
        if since.elapsed() > DEPART_TIME_MAX {
            tracing::error!(
                "the cluster did not let this node go in time; it stops, and may be started again"
            );
            return Some(Ended::Stopped);
        }
        // Drained first: what it still carries out would not be known to those who go on.
        let clients = self.station.endpoint.clients();
        if clients.engine.executing() > 0 || self.depart == Depart::Asked {
            return None;
        }
        match departure(database, me.node) {
            Ok(departure) => {
                let change = Change::Depart { member: me, changes: departure.rest };
                // What is not taken is proposed again in the next step.
                let consensus = clients.consensus.as_mut()?;
                if consensus.propose(Asker::Departure, Vec::new(), change).is_ok() {
                    self.depart = Depart::Asked;
                }
                None
            }
            Err(refusal) => {
                tracing::error!("this node cannot leave: {refusal}; it stops, and may be started again");
                Some(Ended::Stopped)
            }
        }
    }

    /// The log's word about the departure.
    pub(crate) fn departure_answered(&mut self, result: &Result<Answer, NotDone>) {
        self.depart = match result {
            Ok(Answer { result: Ok(_), .. }) => Depart::Done,
            Ok(Answer { result: Err(refusal), .. }) => {
                tracing::warn!("leaving is refused: {refusal}; trying again");
                Depart::NotAsked
            }
            Err(_) => Depart::NotAsked,
        };
    }
}
