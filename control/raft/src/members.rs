//! Changing who votes and who learns, on the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode};
use tokio::time::Instant;
use transport_proto::identity::NodeId;

use crate::flavour::Membership;
use crate::handle::{NotDone, Outcome, Ticket};
use crate::network::node_id;
use crate::options::MEMBERS_MAX;
use crate::service::Service;

/// Entries that a node may lag behind and still begin to vote.
const LAG_MAX: u64 = 100;

type Refused = RaftError<u64, ClientWriteError<u64, EmptyNode>>;

impl Service {
    pub(crate) async fn set_members(
        self: Arc<Self>,
        ticket: Ticket,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) {
        let outcome = self.change_members(&voters, &learners).await.unwrap_or_else(|outcome| outcome);
        self.post.answer(ticket, outcome);
    }

    async fn change_members(
        &self,
        voters: &BTreeSet<NodeId>,
        learners: &BTreeSet<NodeId>,
    ) -> Result<Outcome, Outcome> {
        let wanted: BTreeSet<u64> = voters.union(learners).map(|node| u64::from(node.0)).collect();
        if voters.is_empty() || wanted.len() > MEMBERS_MAX {
            return Err(Outcome::NotDone(NotDone::NoSuchMembers { max: MEMBERS_MAX }));
        }
        let _one = self.changing.try_lock().map_err(|_| Outcome::NotDone(NotDone::ChangeUnderWay))?;
        self.settled().await?;
        let voters: BTreeSet<u64> = voters.iter().map(|node| u64::from(node.0)).collect();
        let mut index = self.applied_index();
        for node in &wanted {
            if self.members().get_node(node).is_none() {
                let added = self.raft.add_learner(*node, EmptyNode::new(), false).await;
                index = added.map_err(why_not)?.log_id.index;
            }
        }
        let before = self.members();
        if before.get_joint_config() != &vec![voters.clone()] {
            self.await_catching_up(&before, &voters).await?;
            let changed = self.raft.change_membership(voters.clone(), true).await;
            index = changed.map_err(why_not)?.log_id.index;
        }
        let spare: BTreeSet<u64> =
            self.members().nodes().map(|(node, _)| *node).filter(|node| !wanted.contains(node)).collect();
        if !spare.is_empty() {
            let removed = self.raft.change_membership(ChangeMembers::RemoveNodes(spare), true).await;
            index = removed.map_err(why_not)?.log_id.index;
        }
        Ok(Outcome::Done { index, answer: Vec::new() })
    }

    /// This node leads, and all it knows of is committed, durable here, and applied: openraft alone would
    /// begin the next change on an entry that this node's disk may not have yet.
    async fn settled(&self) -> Result<(), Outcome> {
        let not_leader = Outcome::NotDone(NotDone::NotLeader);
        if !self.leadership().leads {
            return Err(not_leader);
        }
        let at = self.barrier().await.ok_or(not_leader)?;
        let index = at.map_or(0, |at| at.index);
        let mut applied = self.applied.clone();
        let done = applied.wait_for(|applied| *applied >= index);
        match tokio::time::timeout(self.options.timing.request, done).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Outcome::NotDone(NotDone::NoLeader)),
        }
    }

    fn applied_index(&self) -> u64 {
        *self.applied.borrow()
    }

    fn members(&self) -> Membership {
        self.raft.metrics().borrow().membership_config.membership().clone()
    }

    /// A voter that lags would make the others wait for it.
    async fn await_catching_up(&self, before: &Membership, voters: &BTreeSet<u64>) -> Result<(), Outcome> {
        let already: BTreeSet<u64> = before.voter_ids().collect();
        let deadline = Instant::now() + self.catch_up_time();
        let mut metrics = self.raft.metrics();
        for node in voters.difference(&already).filter(|node| **node != u64::from(self.me().0)) {
            let near = metrics.wait_for(|now| {
                let matching = now.replication.as_ref().and_then(|nodes| *nodes.get(node)?);
                let last = now.last_log_index.unwrap_or(0);
                now.replication.is_none() || matching.is_some_and(|at| at.index + LAG_MAX >= last)
            });
            match tokio::time::timeout_at(deadline, near).await {
                Ok(Ok(now)) if now.replication.is_some() => {}
                Ok(_) => return Err(Outcome::NotDone(NotDone::NotLeader)),
                Err(_) => return Err(Outcome::NotDone(NotDone::Behind { node: node_id(*node) })),
            }
        }
        Ok(())
    }
}

fn why_not(refused: Refused) -> Outcome {
    match refused {
        RaftError::APIError(ClientWriteError::ChangeMembershipError(fault)) => match fault {
            ChangeMembershipError::InProgress(_) => Outcome::NotDone(NotDone::ChangeUnderWay),
            ChangeMembershipError::EmptyMembership(_) | ChangeMembershipError::LearnerNotFound(_) => {
                Outcome::NotDone(NotDone::NoSuchMembers { max: MEMBERS_MAX })
            }
        },
        // The change may have been in the log before this node ceased to lead.
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) | RaftError::Fatal(_) => Outcome::Unknown,
    }
}

/// The first voters as openraft takes them.
pub(crate) fn first_members(voters: &BTreeSet<NodeId>) -> BTreeMap<u64, EmptyNode> {
    voters.iter().map(|node| (u64::from(node.0), EmptyNode::new())).collect()
}
