//! Disks and mappings in line with the rows: disks are opened and let go while requests run, and the engine
//! gets the mapping of each virtual disk that changed.

use crate::disks::{DiskStartRefusal, disk_of, open_disk};
use blockdev_engine::{BlockEngine, DiskRefusal};
use blockdev_proto::geometry::{DiskId, VolumeId};
use blockdev_proto::mapping::Mapping;
use control_proto::ccd::{Reconfiguration, Row, RowChange};
use control_proto::rows::{ClusterRows, VirtualDiskRow};
use control_proto::view::BrokenPath;
use std::time::{Duration, Instant};
use transport_endpoint::{Core, FIRST_FREE_TOKEN};
use transport_proto::identity::NodeId;

/// A disk that could not be opened, or let go, is tried again after this time.
const AGAIN: Duration = Duration::from_millis(500);

/// Why a disk cannot be used at the start.
#[derive(Debug)]
pub(crate) enum DiskFault {
    Open(DiskStartRefusal),
    Attach(DiskRefusal),
}

/// The disks of this node.
#[doc(alias = "NDD")]
pub(crate) struct DiskKeeper {
    node: NodeId,
    registry: mio::Registry,
    next_token: usize,
    attached: Vec<DiskId>,
    /// Disks that could not be opened, and were reported as broken paths.
    missing: Vec<DiskId>,
    /// Disks that are not needed any more and still busy.
    leaving: Vec<DiskId>,
    again_at: Option<Instant>,
}

impl DiskKeeper {
    /// Attaches every disk of this node; one that cannot be used is a refusal.
    pub(crate) fn start(
        engine: &mut BlockEngine,
        registry: mio::Registry,
        rows: &ClusterRows,
        node: NodeId,
    ) -> Result<DiskKeeper, DiskFault> {
        let mut keeper = DiskKeeper {
            node,
            registry,
            next_token: FIRST_FREE_TOKEN,
            attached: Vec::new(),
            missing: Vec::new(),
            leaving: Vec::new(),
            again_at: None,
        };
        for volume in &rows.virtual_disks {
            keeper.attach(engine, rows, volume)?;
        }
        Ok(keeper)
    }

    fn attach(
        &mut self,
        engine: &mut BlockEngine,
        rows: &ClusterRows,
        volume: &VirtualDiskRow,
    ) -> Result<(), DiskFault> {
        let Some(row) = disk_of(rows, self.node, volume) else { return Ok(()) };
        self.leaving.retain(|disk| *disk != row.id);
        if self.attached.contains(&row.id) {
            match engine.volume_on(row.id) {
                Some(other) if other != volume.id => {}
                _ => return Ok(()),
            }
            // It backed another virtual disk until a moment ago.
            if !engine.detach_disk(&self.registry, row.id) {
                return Err(DiskFault::Attach(DiskRefusal::Known { disk: row.id }));
            }
            self.attached.retain(|disk| *disk != row.id);
        }
        let backing = open_disk(rows, self.node, volume, row).map_err(DiskFault::Open)?;
        // Numbers of tokens go round; no node has so many disks at once.
        let token = mio::Token(self.next_token);
        let last = FIRST_FREE_TOKEN + crate::surfaces::DISK_TOKENS - 1;
        self.next_token = if self.next_token < last { self.next_token + 1 } else { FIRST_FREE_TOKEN };
        engine.attach_disk(&self.registry, token, row.id, volume.id, backing).map_err(DiskFault::Attach)?;
        self.attached.push(row.id);
        Ok(())
    }

    /// Brings disks in line with rows that changed. Comes before the mappings by those rows. Tells which
    /// paths broke or were mended by it.
    pub(crate) fn follow(&mut self, engine: &mut BlockEngine, rows: &ClusterRows) -> Vec<(BrokenPath, bool)> {
        let mut news = Vec::new();
        let was_missing = std::mem::take(&mut self.missing);
        for volume in &rows.virtual_disks {
            let Some(row) = disk_of(rows, self.node, volume) else { continue };
            let path = BrokenPath { node: self.node, disk: row.id };
            match self.attach(engine, rows, volume) {
                Ok(()) => {
                    if was_missing.contains(&row.id) {
                        news.push((path, false));
                    }
                    if let Err(refusal) = engine.grow_disk(row.id, volume.size_bytes) {
                        tracing::error!(disk = row.name, volume = volume.name, "{refusal}");
                    }
                }
                Err(fault) => {
                    if !was_missing.contains(&row.id) {
                        tracing::error!("{fault}; trying again");
                        news.push((path, true));
                    }
                    self.missing.push(row.id);
                }
            }
        }
        let needed: Vec<DiskId> = rows
            .virtual_disks
            .iter()
            .filter_map(|volume| disk_of(rows, self.node, volume).map(|row| row.id))
            .collect();
        self.leaving = self.attached.iter().copied().filter(|disk| !needed.contains(disk)).collect();
        let unfinished = !self.missing.is_empty() || !self.leaving.is_empty();
        self.again_at = unfinished.then(|| Instant::now() + AGAIN);
        news
    }

    /// Tries again what could not be done.
    pub(crate) fn control(
        &mut self,
        engine: &mut BlockEngine,
        rows: &ClusterRows,
    ) -> Vec<(BrokenPath, bool)> {
        if self.again_at.is_none_or(|at| Instant::now() < at) {
            return Vec::new();
        }
        self.let_go(engine);
        self.follow(engine, rows)
    }

    /// Why a reconfiguration cannot be done here, as far as that can be told before.
    pub(crate) fn cannot(
        &self,
        engine: &BlockEngine,
        rows: &ClusterRows,
        change: &Reconfiguration,
    ) -> Option<String> {
        let mut after = rows.clone();
        let wanted = change.changes.iter().filter_map(|change| match change {
            RowChange::Put(row) => Some(row),
            RowChange::Remove(_) => None,
        });
        for row in wanted.clone().filter(|row| matches!(row, Row::Disk(_) | Row::VirtualDisk(_))) {
            after.put(row.clone());
        }
        for row in wanted {
            let Row::VirtualDisk(volume) = row else { continue };
            let Some(disk) = disk_of(&after, self.node, volume) else { continue };
            let room = engine.room_of(disk.id);
            if let Some(bytes) = room.filter(|bytes| *bytes < volume.size_bytes) {
                return Some(format!("disk {} holds {bytes} bytes only", disk.name));
            }
            // One that is held is not there yet: somebody is about to plug it in.
            if room.is_none()
                && !change.hold
                && let Err(refusal) = open_disk(&after, self.node, volume, disk)
            {
                return Some(refusal.to_string());
            }
        }
        None
    }

    /// Lets go of disks that are not needed any more; comes after the mappings.
    pub(crate) fn let_go(&mut self, engine: &mut BlockEngine) {
        let registry = &self.registry;
        let gone: Vec<DiskId> =
            self.leaving.iter().copied().filter(|disk| engine.detach_disk(registry, *disk)).collect();
        self.attached.retain(|disk| !gone.contains(disk));
        self.leaving.retain(|disk| !gone.contains(disk));
        for disk in gone {
            tracing::info!(disk = disk.0, "disk let go");
        }
    }
}

/// Gives the engine a mapping.
pub(crate) fn map(engine: &mut BlockEngine, core: &mut Core, mapping: &Mapping) {
    if let Err(fault) = engine.mapping(core, mapping) {
        tracing::error!(volume = mapping.volume.0, ?fault, "the configuration gave no usable mapping");
    }
}

/// Virtual disks of the old rows that the new ones do not have.
pub(crate) fn removed(before: &ClusterRows, after: &ClusterRows) -> Vec<VolumeId> {
    let gone = before.virtual_disks.iter().filter(|row| after.virtual_disk(row.id).is_none());
    gone.map(|row| row.id).collect()
}

impl std::fmt::Display for DiskFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DiskFault::Open(refusal) => refusal.fmt(f),
            DiskFault::Attach(refusal) => refusal.fmt(f),
        }
    }
}
