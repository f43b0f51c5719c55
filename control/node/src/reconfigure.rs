//! This node in reconfigurations (SPEC C4): the machines of [`control_proto::reconfiguration`], as a member
//! that stands still and says so, and as the leader that gives up what takes too long. Both go by the log
//! alone: nobody resumes but by its word.
//!
//! That a virtual disk stands still is told to the engine with its mapping; what the participant says of it
//! is what this node waits for.

use crate::consensus::{Asker, Consensus};
use blockdev_engine::BlockEngine;
use blockdev_proto::geometry::VolumeId;
use control_proto::ccd::{CancelCause, Change, Database, Reconfiguration};
use control_proto::reconfiguration::{DeadlineWatch, Input, Live, Output, Participant};
use control_proto::view::Member;
use std::collections::BTreeSet;
use transport_proto::identity::{Incarnation, NodeId};
use transport_proto::time::Time;

/// This node's part in the reconfigurations under way.
pub(crate) struct Reconfigurations {
    participant: Participant,
    deadlines: DeadlineWatch,
    /// What is under way, as of the last news of the log.
    live: Vec<Live>,
    /// Virtual disks that are to stand still and do not yet.
    draining: BTreeSet<VolumeId>,
    outputs: Vec<Output>,
}

impl Reconfigurations {
    pub(crate) fn new(node: NodeId) -> Reconfigurations {
        // The log's first news tell which life it is.
        let unborn = Member { node, incarnation: Incarnation(0) };
        Reconfigurations {
            participant: Participant::new(unborn),
            deadlines: DeadlineWatch::new(),
            live: Vec::new(),
            draining: BTreeSet::new(),
            outputs: Vec::new(),
        }
    }

    /// The log has gone on, for this life of the node.
    pub(crate) fn note(&mut self, now: Time, me: Member, database: &Database) {
        let live = database.live_for(me);
        if live.is_empty() && self.live.is_empty() {
            return;
        }
        self.live.clone_from(&live);
        self.participant.handle(now, Input::Applied { me, live }, &mut self.outputs);
    }

    /// What became of proposals is known: the log will show it.
    pub(crate) fn answered(&mut self, now: Time) {
        for row in &self.live {
            self.participant.handle(now, Input::AckAnswered(row.id), &mut self.outputs);
        }
    }

    /// Says that this node stands still, for each reconfiguration that waits for it and for which that is so.
    /// `cannot` tells why a change would be impossible here.
    pub(crate) fn take_part(
        &mut self,
        now: Time,
        database: &Database,
        engine: &BlockEngine,
        consensus: &mut Consensus,
        mut cannot: impl FnMut(&Reconfiguration) -> Option<String>,
    ) {
        if self.live.is_empty() && self.outputs.is_empty() {
            return;
        }
        let still = self.draining.iter().copied().filter(|volume| engine.stands_still(*volume));
        for volume in still.collect::<Vec<_>>() {
            self.draining.remove(&volume);
            self.participant.handle(now, Input::Drained(volume), &mut self.outputs);
        }
        if now >= self.participant.next_deadline() {
            self.participant.handle(now, Input::Tick, &mut self.outputs);
        }
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Suspend(volume) => _ = self.draining.insert(volume),
                Output::Resume(volume) => _ = self.draining.remove(&volume),
                // The engine holds no copy of a mapping that stands still.
                Output::Invalidate(_) => {}
                Output::Propose(change) => {
                    let change = unless_impossible(change, database, &mut cannot);
                    // Not taken: the participant proposes it again.
                    let _ = consensus.propose(Asker::Participant, Vec::new(), change);
                }
            }
        }
    }

    /// As leader: gives up what takes longer than it may, by this node's clock from when it saw it first.
    pub(crate) fn oversee(&mut self, now: Time, consensus: &mut Consensus) {
        if !consensus.leads() {
            self.deadlines = DeadlineWatch::new();
            return;
        }
        let mut changes = Vec::new();
        self.deadlines.watch(now, &self.live, &mut changes);
        for change in changes {
            // Not taken: the watch proposes it again.
            let _ = consensus.propose(Asker::Overseer, Vec::new(), change);
        }
    }

    /// When there is something to do by time alone.
    pub(crate) fn next_deadline(&self) -> Time {
        self.participant.next_deadline().min(self.deadlines.next_deadline())
    }
}

/// An acknowledgement, or the word that gives the change up where it could not be carried out here.
fn unless_impossible(
    change: Change,
    database: &Database,
    cannot: &mut impl FnMut(&Reconfiguration) -> Option<String>,
) -> Change {
    let Change::Ack { reconfiguration, .. } = change else { return change };
    match database.reconfiguration(reconfiguration).and_then(cannot) {
        None => {
            tracing::info!(reconfiguration = reconfiguration.0, "this node stands still for it");
            change
        }
        Some(why) => {
            tracing::error!(reconfiguration = reconfiguration.0, "given up, it cannot be done here: {why}");
            Change::Cancel { reconfiguration, why: CancelCause::Unfit }
        }
    }
}
