//! The connectivity monitor of one node, set up from the configuration's rows.

use control_proto::rows::ClusterRows;
use std::sync::Arc;
use transport_endpoint::{MonitorReport, MonitorThread, VerdictBoard, WatchedRail};
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{Epoch, Incarnation, LinkId, NodeId, Path, RailId};

pub use transport_endpoint::MonitorRefusal;

/// The running monitor.
pub(crate) struct Monitor {
    thread: MonitorThread,
    epoch: Epoch,
    disk_age_ms: u32,
}

impl Monitor {
    pub(crate) fn start(
        rows: &ClusterRows,
        node: NodeId,
        incarnation: Incarnation,
        key: &ClusterKey,
        board: Arc<VerdictBoard>,
    ) -> Result<Monitor, MonitorRefusal> {
        let rails = watched(rows, node);
        let thread = MonitorThread::start(key, rows.connectivity, (node, incarnation), &rails, board)?;
        Ok(Monitor { thread, epoch: Epoch(0), disk_age_ms: 0 })
    }

    /// Watches the rails of these rows from now on.
    pub(crate) fn set_rails(&self, rows: &ClusterRows, node: NodeId) {
        self.thread.set_rails(&watched(rows, node));
    }

    /// Watches as these rows say from now on.
    pub(crate) fn set_settings(&self, rows: &ClusterRows) {
        self.thread.set_settings(rows.connectivity);
    }

    /// Heartbeats bear this configuration number from now on.
    pub(crate) fn configure(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.thread.announce(self.epoch, self.disk_age_ms);
    }

    /// Heartbeats tell that the oldest disk request is this old. `true`: it was another before.
    pub(crate) fn set_disk_age(&mut self, disk_age_ms: u32) -> bool {
        let has_changed = self.disk_age_ms != disk_age_ms;
        if has_changed {
            self.disk_age_ms = disk_age_ms;
            self.thread.announce(self.epoch, self.disk_age_ms);
        }
        has_changed
    }

    pub(crate) fn reincarnate(&self, incarnation: Incarnation) {
        self.thread.reincarnate(incarnation);
    }

    /// Whether heartbeats are still sent and heard.
    pub(crate) fn is_alive(&self) -> bool {
        self.thread.is_alive()
    }

    /// `false`: no such rail.
    pub(crate) fn mute(&self, link: u8, rail: u8, muted: bool) -> bool {
        self.thread.mute(Path { link: LinkId(link), rail: RailId(rail) }, muted)
    }

    /// The highest configuration number that peers told of, if it is above this node's own.
    pub(crate) fn newer_epoch(&self) -> Option<Epoch> {
        Some(self.thread.heard_epoch()).filter(|heard| *heard > self.epoch)
    }

    pub(crate) fn reports(&self) -> Vec<MonitorReport> {
        self.thread.reports()
    }
}

fn watched(rows: &ClusterRows, node: NodeId) -> Vec<WatchedRail> {
    let rail = |rail: control_proto::rows::RailBetween<'_>| WatchedRail {
        peer: rail.peer,
        path: rail.path,
        local: rail.local.heartbeat,
        remote: rail.remote.heartbeat,
    };
    rows.rails_of(node).map(rail).collect()
}
