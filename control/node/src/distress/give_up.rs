//! A node that gives up all its duties: told at once, fenced, drained, told again, ended (SPEC D5).

use crate::consensus::Asker;
use crate::node::{Ended, Node};
use blockdev_proto::master::GatePhase;
use control_proto::ccd::{Change, DistressLevel, REASON_BYTES_MAX};
use control_proto::distress::{Ending, Level, Reason};
use control_proto::membership::Input;
use std::time::{Duration, Instant};

/// A node that gives up waits so long for its disks to finish what they have. A hung disk keeps its lock
/// until the process is gone, so an end without it fences no less.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Since when, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GivingUp {
    reason: Reason,
    since: Instant,
}

impl Node {
    /// Gives up, for good. The first reason counts.
    pub(crate) fn give_up(&mut self, reason: Reason) {
        if self.giving_up.is_some() {
            return;
        }
        self.distress.say(reason);
        tracing::error!(%reason, "this node gives up all its duties");
        self.giving_up = Some(GivingUp { reason, since: Instant::now() });
        let (core, clients) = self.station.endpoint.parts();
        clients.engine.fence(core);
        clients.membership.tell(core, Input::Leave);
    }

    /// One step towards the end, once this node gives up.
    pub(crate) fn give_up_step(&mut self) -> Option<Ended> {
        let GivingUp { reason, since } = self.giving_up?;
        if self.is_drained() {
            self.distress.say_fenced(reason);
        } else if since.elapsed() < DRAIN_TIME_MAX {
            return None;
        }
        Some(Ended::GaveUp(reason))
    }

    /// Whether nothing of this node can take effect on a disk any more.
    pub(crate) fn is_drained(&mut self) -> bool {
        let volumes: Vec<_> = self.rows.virtual_disks.iter().map(|row| row.id).collect();
        let status = self.station.endpoint.clients().engine.status(&volumes);
        let closed = |phase| matches!(phase, GatePhase::Closed | GatePhase::Resting);
        status.volumes.iter().all(|volume| closed(volume.gate))
            && status.disks.iter().all(|disk| disk.in_flight == 0)
    }

    /// A peer said its end: the membership acts on it, the fence of its disks is what it always is.
    pub(crate) fn on_ending(&mut self, ending: &Ending) {
        let Ending { member, level, reason, text, at_once } = ending;
        tracing::warn!(node = member.node.0, %level, %reason, text, at_once, "a peer says that it ends");
        let (core, clients) = self.station.endpoint.parts();
        if *at_once && let Some(consensus) = &clients.consensus {
            // Who takes over has to be agreed, which takes a leader (SPEC D4).
            consensus.ended(member.node);
        }
        // One that stops in good order may come back as it likes; of one that fails a tombstone stays.
        if reason.may_return() {
            let input = if *at_once { Input::Ended(*member) } else { Input::Ending(*member) };
            return clients.membership.tell(core, input);
        }
        let level = match level {
            Level::Dying => DistressLevel::Dying,
            Level::Fenced => DistressLevel::Fenced,
        };
        let mut reason = reason.to_string();
        reason.truncate(REASON_BYTES_MAX);
        let change = Change::Distress { member: *member, level, reason };
        if let Some(consensus) = clients.consensus.as_mut() {
            // Not taken: the others have heard it too.
            let _ = consensus.propose(Asker::Witness, Vec::new(), change);
        }
    }
}
