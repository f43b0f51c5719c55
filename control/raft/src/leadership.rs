//! Follows openraft's metrics: who leads, what is published, when a snapshot is due, whether raft has
//! stopped.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Raft, RaftMetrics, ServerState};
use tokio::sync::watch;
use transport_proto::identity::NodeId;

use crate::flavour::Flavour;
use crate::handle::RaftState;
use crate::log_store::LogStore;
use crate::network::node_id;
use crate::options::RaftOptions;
use crate::post::Post;

type Metrics = RaftMetrics<u64, openraft::EmptyNode>;

/// Who leads, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) leader: Option<NodeId>,
    /// This node leads, and a majority answered it within its lease.
    pub(crate) leads: bool,
    pub(crate) term: u64,
}

/// Follows one node's metrics until raft stops.
pub(crate) struct Follow {
    pub(crate) raft: Raft<Flavour>,
    pub(crate) options: RaftOptions,
    pub(crate) post: Arc<Post>,
    pub(crate) log: LogStore,
    pub(crate) leadership: watch::Sender<Leadership>,
    /// Bytes ever appended, as of the last snapshot that size called for.
    pub(crate) snapshot_at_bytes: u64,
    /// Up to where a purge was asked for because of size.
    pub(crate) purge_asked: u64,
}

impl Follow {
    pub(crate) async fn run(mut self) {
        let mut metrics = self.raft.metrics();
        loop {
            let now = metrics.borrow_and_update().clone();
            self.publish(&now);
            self.retire(&now);
            if let Err(fault) = &now.running_state {
                return self.post.stop_for_good(fault.to_string());
            }
            self.compact(&now).await;
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    fn publish(&self, now: &Metrics) {
        let state = state_of(now, self.options.timing.election_max);
        let leadership = Leadership { leader: state.leader, leads: state.leads, term: state.term };
        self.leadership.send_if_modified(|known| {
            let changed = *known != leadership;
            if changed {
                tracing::info!(leader = ?leadership.leader, term = leadership.term, "raft leader");
                *known = leadership;
            }
            changed
        });
        self.post.publish(state);
    }

    /// A leader that votes no more would lead on, as a learner. It falls silent until the voters have one of
    /// their own.
    fn retire(&self, now: &Metrics) {
        self.raft.runtime_config().heartbeat(!is_retiring(now));
    }

    /// openraft counts entries; memory is counted in bytes.
    async fn compact(&mut self, now: &Metrics) {
        let limit = self.options.compaction.bytes;
        let appended = self.log.appended_bytes();
        if appended.saturating_sub(self.snapshot_at_bytes) > limit as u64 && now.last_applied.is_some() {
            self.snapshot_at_bytes = appended;
            let _ = self.raft.trigger().snapshot().await;
        }
        let snapshot = now.snapshot.map_or(0, |snapshot| snapshot.index);
        if self.log.entries_bytes() > limit && snapshot > self.purge_asked {
            self.purge_asked = snapshot;
            let _ = self.raft.trigger().purge_log(snapshot).await;
        }
    }
}

fn is_retiring(now: &Metrics) -> bool {
    now.state == ServerState::Leader && !now.membership_config.voter_ids().any(|voter| voter == now.id)
}

fn state_of(now: &Metrics, lease: Duration) -> RaftState {
    let answered = |millis: u64| Duration::from_millis(millis) <= lease;
    let is_leader = now.state == ServerState::Leader;
    let alone = now.membership_config.voter_ids().count() == 1;
    let leads = is_leader && !is_retiring(now) && (alone || now.millis_since_quorum_ack.is_none_or(answered));
    let members = now.membership_config.membership();
    RaftState {
        leader: now.current_leader.filter(|_| leads || !is_leader).map(node_id),
        leads,
        term: now.current_term,
        voters: members.voter_ids().map(node_id).collect(),
        learners: members.learner_ids().map(node_id).collect(),
        changing: members.get_joint_config().len() > 1,
        applied: now.last_applied.map_or(0, |last| last.index),
        last: now.last_log_index.unwrap_or(0),
        snapshot: now.snapshot.map_or(0, |last| last.index),
    }
}
