//! What `status` tells of the block path.

use crate::engine::BlockEngine;
use blockdev_proto::driver::DriverCounts;
use blockdev_proto::geometry::{DiskId, VolumeId};
use blockdev_proto::master::GatePhase;
use blockdev_proto::master::MasterCounts;
use blockdev_store::StoreCounters;
use core::time::Duration;
use transport_proto::identity::{Epoch, NodeId};

/// The engine at one moment.
#[derive(Clone, Debug)]
pub struct EngineStatus {
    /// The driver's counts.
    pub driver: DriverCounts,
    /// The master's counts.
    pub master: MasterCounts,
    /// Volumes that are mapped here.
    pub volumes: Vec<VolumeStatus>,
    /// Disks attached here.
    pub disks: Vec<DiskStatus>,
    /// Messages that were none of ours.
    pub wire_faults: u64,
}

/// One virtual disk as this node sees it.
#[derive(Clone, Debug)]
pub struct VolumeStatus {
    /// The virtual disk.
    pub volume: VolumeId,
    /// Number of the mapping in force here.
    pub epoch: Epoch,
    /// The node that serves it.
    pub serving: Option<NodeId>,
    /// This node's gate.
    pub gate: GatePhase,
    /// Whether this node's driver takes requests for it.
    pub set_up: bool,
    /// Whether drivers hold new requests.
    pub suspended: bool,
    /// Requests pending in this node's driver.
    pub pending: usize,
}

/// One disk.
#[derive(Clone, Debug)]
pub struct DiskStatus {
    /// The disk.
    pub disk: DiskId,
    /// The virtual disk that it backs.
    pub volume: VolumeId,
    /// How it is driven, and why so.
    pub access: String,
    /// The fencing number persisted with it.
    pub epoch: Epoch,
    /// Requests with the disk, and waiting for room in its queue.
    pub in_flight: usize,
    /// Age of the oldest of them.
    pub oldest: Option<Duration>,
    /// Counters.
    pub counters: StoreCounters,
}

impl BlockEngine {
    /// The engine at this moment; `volumes` are those that the configuration names.
    pub fn status(&self, volumes: &[VolumeId]) -> EngineStatus {
        let volume = |volume: &VolumeId| {
            let mapping = self.master.mapping_of(*volume)?;
            Some(VolumeStatus {
                volume: *volume,
                epoch: mapping.epoch,
                serving: mapping.serving,
                gate: self.master.gate(*volume),
                set_up: self.is_open(*volume),
                suspended: mapping.suspended,
                pending: self.driver.pending_of(*volume),
            })
        };
        let disks = self.disks.iter().map(|disk| DiskStatus {
            disk: disk.id,
            volume: disk.volume,
            access: disk.drive.access().to_owned(),
            epoch: Epoch(disk.drive.epoch()),
            in_flight: disk.drive.in_flight() + disk.waiting.len(),
            oldest: disk.drive.oldest_submitted_age(),
            counters: disk.drive.counters(),
        });
        EngineStatus {
            driver: self.driver.counts(),
            master: self.master.counts(),
            volumes: volumes.iter().filter_map(volume).collect(),
            disks: disks.collect(),
            wire_faults: self.wire_faults,
        }
    }
}
