//! What a driver knows of one volume: its mapping, whether its master is ready, and what waits.

use super::DriverLimits;
use crate::errno::BlockErrno;
use crate::mapping::Mapping;
use crate::overlap::OverlapTable;
use crate::pending::HeldQueue;
use crate::wire::PathBroken;
use core::time::Duration;
use transport_proto::identity::Epoch;
use transport_proto::time::Time;

/// How the driver stands with the node that serves the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attachment {
    /// Not asked.
    Detached,
    /// Asked to tell when the gate is open; asked again at this time.
    Asked { again_at: Time },
    /// The gate is open at our mapping's number: requests may go.
    Open,
    /// No use asking before a newer mapping comes; what was wrong is reported again at this time.
    Barred { again_at: Time, cause: BarCause },
}

/// Why only a newer mapping helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BarCause {
    /// The serving node cannot reach the disk.
    PathBroken(PathBroken),
    /// A master has a higher number than we.
    NewerMapping(Epoch),
}

/// One volume in a driver.
pub(super) struct VolumeView {
    pub(super) mapping: Mapping,
    pub(super) attachment: Attachment,
    /// Held by [`super::Driver::suspend`], beside what the mapping says.
    pub(super) suspended: bool,
    /// Requests fail with this at once, by [`super::Driver::fail`].
    pub(super) failing: Option<BlockErrno>,
    /// `Drained` is to be told once nothing is under way.
    pub(super) drain_owed: bool,
    /// Pending requests.
    pub(super) pending: usize,
    /// Of those, sent or in Limbo.
    pub(super) under_way: usize,
    /// Of those, in Limbo.
    pub(super) limbo: usize,
    pub(super) held: HeldQueue,
    pub(super) overlap: OverlapTable,
    /// Nothing is sent before this time; zero when nothing was busy.
    pub(super) busy_until: Time,
    busy_wait: Duration,
}

impl VolumeView {
    pub(super) fn new(mapping: &Mapping) -> VolumeView {
        VolumeView {
            mapping: *mapping,
            attachment: Attachment::Detached,
            suspended: false,
            failing: None,
            drain_owed: mapping.suspended,
            pending: 0,
            under_way: 0,
            limbo: 0,
            held: HeldQueue::default(),
            overlap: OverlapTable::default(),
            busy_until: Time(0),
            busy_wait: Duration::ZERO,
        }
    }

    /// New requests are held, by command or by the mapping.
    #[inline]
    pub(super) fn is_suspended(&self) -> bool {
        self.suspended || self.mapping.suspended
    }

    /// Something waits that only an open gate lets go.
    #[inline]
    pub(super) fn wants_gate(&self) -> bool {
        self.limbo > 0 || !self.held.is_empty()
    }

    /// The master was busy: wait, each time twice as long. Several busy answers to one batch count once.
    pub(super) fn back_off(&mut self, now: Time, limits: &DriverLimits) {
        if now < self.busy_until {
            return;
        }
        self.busy_wait = (self.busy_wait * 2).clamp(limits.busy_wait_min, limits.busy_wait_max);
        self.busy_until = now + self.busy_wait;
    }

    /// The master is not busy any more.
    #[inline]
    pub(super) fn forget_busy(&mut self) {
        self.busy_until = Time(0);
        self.busy_wait = Duration::ZERO;
    }
}
