//! The transport in line with the rows (SPEC T7): peers, links and rails are set up, changed and dropped
//! while traffic runs.

use crate::monitor::Monitor;
use crate::plan::peer_plans;
use control_proto::rows::ClusterRows;
use std::time::{Duration, Instant};
use transport_endpoint::{Core, ListenRefusal, PeerPlan};
use transport_proto::identity::NodeId;

/// A rail whose address was taken is tried again after this time.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// What the transport was told last.
#[doc(alias = "CTID")]
pub(crate) struct RailKeeper {
    node: NodeId,
    plans: Vec<PeerPlan>,
    /// Some address could not be listened on: all are told again then.
    again_at: Option<Instant>,
}

impl RailKeeper {
    /// Sets everything up for the first time. An address that somebody else uses is a refusal; one that
    /// cannot be used otherwise is tried again.
    pub(crate) fn start(
        core: &mut Core,
        rows: &ClusterRows,
        node: NodeId,
    ) -> Result<RailKeeper, ListenRefusal> {
        let plans = peer_plans(rows, node);
        let mut again_at = None;
        for plan in &plans {
            match core.set_peer(plan) {
                Ok(()) => {}
                // Somebody lives there: most likely this very node, started twice.
                Err(refusal @ ListenRefusal::InUse { .. }) => return Err(refusal),
                // One rail that cannot be used does not keep the node from its others.
                Err(refusal) => {
                    tracing::error!(peer = plan.node.0, "{refusal}; trying again");
                    again_at = Some(Instant::now() + LISTEN_AGAIN);
                }
            }
        }
        Ok(RailKeeper { node, plans, again_at })
    }

    /// Brings transport and monitor in line with rows that changed. What did not change is not touched.
    pub(crate) fn follow(&mut self, core: &mut Core, monitor: &Monitor, rows: &ClusterRows) {
        let plans = peer_plans(rows, self.node);
        if plans == self.plans {
            return;
        }
        let before = std::mem::replace(&mut self.plans, plans);
        for gone in before.iter().filter(|old| self.plan(old.node).is_none()) {
            tracing::info!(peer = gone.node.0, "no rail leads to the node any more");
            core.remove_peer(gone.node);
        }
        // The monitor first: what it says of a rail is kept until the rail is there.
        monitor.set_rails(rows, self.node);
        self.tell(core, |plan| !before.contains(plan));
    }

    fn plan(&self, node: NodeId) -> Option<&PeerPlan> {
        self.plans.iter().find(|plan| plan.node == node)
    }

    fn tell(&mut self, core: &mut Core, which: impl Fn(&PeerPlan) -> bool) {
        let was_refused = self.again_at.take().is_some();
        for plan in self.plans.iter().filter(|plan| which(plan)) {
            tracing::info!(peer = plan.node.0, rails = plan.rails.len(), "rails to the node are set up");
            if let Err(refusal) = core.set_peer(plan) {
                if !was_refused {
                    tracing::error!(peer = plan.node.0, "{refusal}; trying again");
                }
                self.again_at = Some(Instant::now() + LISTEN_AGAIN);
            }
        }
    }

    /// Tries again what could not be done.
    pub(crate) fn control(&mut self, core: &mut Core) {
        if self.again_at.is_some_and(|at| Instant::now() >= at) {
            self.tell(core, |_| true);
        }
    }
}
