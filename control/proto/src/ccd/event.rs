//! What `watch` tells: each change of rows with its number and its cause, in order, from wherever one left
//! off, as long as it is kept; past that there is a [`Gap`], and one lists the rows again.

use super::members::MemberCause;
use super::mirror::MirrorChange;
use super::reconfiguration::{CancelCause, ReconfigurationId};
use super::row::{Row, RowKey};
use super::tombstone::DistressLevel;
use crate::pool::RegionId;
use crate::view::Member;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use blockdev_proto::geometry::VolumeId;
use blockdev_proto::reservation;
use core::fmt;
use transport_proto::identity::{Epoch, NodeId};

/// Events that are kept at the most.
pub const EVENTS_MAX: usize = 1024;
/// Encoded bytes of the commands whose events are kept, about.
pub const EVENT_BYTES_MAX: usize = 4 << 20;

/// Why rows changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody at this node asked for it.
    Asked(NodeId),
    /// A reconfiguration began, asked for at this node.
    Prepared(ReconfigurationId, NodeId),
    /// A member acknowledged, and others are still to.
    Acknowledged(ReconfigurationId, Member),
    /// All members have acknowledged; somebody must let it go on.
    Held(ReconfigurationId),
    /// All members have acknowledged, and the rows were changed.
    Committed(ReconfigurationId),
    /// A reconfiguration was given up; rows are as before.
    Cancelled(ReconfigurationId, CancelCause),
    /// Nodes came, left, failed; paths broke or were mended.
    Members(Vec<MemberCause>),
    /// A new leader takes care of the membership.
    Steward(NodeId),
    /// A disk was seen at this number.
    NumberSpent(Epoch),
    /// A node cried for help.
    Distress(Member, DistressLevel),
    /// A node may come back.
    Cleared(NodeId),
    /// An invitation was given or taken back.
    Invited,
    /// A node joined by an invitation.
    Joined(NodeId),
    /// A node left for good.
    Departed(NodeId),
    /// A node's command about reservations of a virtual disk.
    Reserved(VolumeId, NodeId, reservation::Command),
    /// The node that serves a mirror said this of it.
    Mirror(VolumeId, MirrorChange),
    /// The lender of a region has erased it.
    Erased(RegionId),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Asked(node) => write!(f, "asked for at node {}", node.0),
            Cause::Prepared(id, node) => {
                write!(f, "reconfiguration {} begins, asked for at node {}", id.0, node.0)
            }
            Cause::Acknowledged(id, member) => {
                write!(f, "node {} is ready for reconfiguration {}", member.node.0, id.0)
            }
            Cause::Held(id) => write!(f, "all nodes are ready for reconfiguration {}, it is held", id.0),
            Cause::Committed(id) => write!(f, "reconfiguration {} is done", id.0),
            Cause::Cancelled(id, why) => write!(f, "reconfiguration {} is given up: {why}", id.0),
            Cause::Members(causes) => {
                for (place, cause) in causes.iter().enumerate() {
                    write!(f, "{}{cause}", if place > 0 { "; " } else { "" })?;
                }
                if causes.is_empty() { write!(f, "the members agreed") } else { Ok(()) }
            }
            Cause::Steward(node) => write!(f, "node {} leads the cluster now", node.0),
            Cause::NumberSpent(number) => write!(f, "a disk was already used at number {}", number.0),
            Cause::Distress(member, level) => {
                write!(f, "node {} cried for help: it is {level}", member.node.0)
            }
            Cause::Cleared(node) => write!(f, "node {} was cleared", node.0),
            Cause::Invited => write!(f, "an invitation was given or taken back"),
            Cause::Departed(node) => write!(f, "node {} left for good", node.0),
            Cause::Reserved(volume, node, command) => {
                write!(f, "reservations of virtual disk {}: {command}, by node {}", volume.0, node.0)
            }
            Cause::Erased(region) => write!(f, "region {} is erased", region.0),
            Cause::Mirror(volume, change) => write!(f, "mirror {}: {change}", volume.0),
            Cause::Joined(node) => write!(f, "node {} joined by an invitation", node.0),
        }
    }
}

/// A row before and after. (Both absent never happens.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowEvent {
    /// Which row.
    pub key: RowKey,
    /// As it was.
    pub before: Option<Row>,
    /// As it is.
    pub after: Option<Row>,
}

/// What one command changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Log index of the command.
    pub index: u64,
    /// The configuration number after it.
    pub number: Epoch,
    /// Why.
    pub cause: Cause,
    /// What.
    pub changes: Vec<RowEvent>,
}

/// Events between what was asked for and what is kept are gone: list the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Everything after this index is kept.
    pub kept_after: u64,
}

/// The last events.
#[derive(Clone, Debug, Default)]
pub(super) struct Events {
    kept: VecDeque<(Arc<Event>, usize)>,
    bytes: usize,
    /// Everything after this index is kept.
    kept_after: u64,
}

impl Events {
    /// None before this index are known.
    pub(super) fn begin(index: u64) -> Events {
        Events { kept_after: index, ..Events::default() }
    }

    pub(super) fn add(&mut self, event: Arc<Event>, weight: usize) {
        self.bytes += weight;
        self.kept.push_back((event, weight));
        while self.kept.len() > EVENTS_MAX || (self.bytes > EVENT_BYTES_MAX && self.kept.len() > 1) {
            if let Some((gone, weight)) = self.kept.pop_front() {
                self.bytes -= weight;
                self.kept_after = gone.index;
            }
        }
    }

    pub(super) fn since(&self, index: u64) -> Result<impl Iterator<Item = &Arc<Event>>, Gap> {
        if index < self.kept_after {
            return Err(Gap { kept_after: self.kept_after });
        }
        Ok(self.kept.iter().map(|(event, _)| event).filter(move |event| event.index > index))
    }
}
