//! Opens the disks that the configuration gives to this node.

use blockdev_store::{AnyBacking, DiskFile, MemoryDisk, MemoryDiskRefusal, OpenMode, OpenRefusal, Ports};
use control_proto::rows::{ClusterRows, DiskKind, DiskRow, VirtualDiskRow};
use std::fmt;
use std::path::Path;
use transport_proto::identity::NodeId;

/// Why a disk of this node cannot be used.
#[derive(Debug)]
pub enum DiskStartRefusal {
    /// A file or device.
    Open(String, OpenRefusal),
    /// Memory.
    Memory(String, MemoryDiskRefusal),
}

impl fmt::Display for DiskStartRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskStartRefusal::Open(name, source) => write!(f, "disk {name}: {source}"),
            DiskStartRefusal::Memory(name, source) => write!(f, "disk {name}: {source}"),
        }
    }
}

impl std::error::Error for DiskStartRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DiskStartRefusal::Open(_, source) => std::error::Error::source(source),
            DiskStartRefusal::Memory(_, source) => std::error::Error::source(source),
        }
    }
}

/// The disk by which `node` reaches a virtual disk; `None` if it does not.
pub(crate) fn disk_of<'a>(
    rows: &'a ClusterRows,
    node: NodeId,
    volume: &VirtualDiskRow,
) -> Option<&'a DiskRow> {
    let here = volume.candidates.iter().find(|(candidate, _)| *candidate == node);
    here.and_then(|(_, disk)| rows.disk(*disk))
}

/// Opens the disk by which `node` reaches a virtual disk.
pub(crate) fn open_disk(
    rows: &ClusterRows,
    node: NodeId,
    volume: &VirtualDiskRow,
    row: &DiskRow,
) -> Result<AnyBacking, DiskStartRefusal> {
    let backing = match (row.kind, row.port(node)) {
        (DiskKind::Memory, _) | (_, None) => {
            let memory = MemoryDisk::new(volume.size_bytes, volume.block_bytes.get());
            AnyBacking::Memory(memory.map_err(|source| DiskStartRefusal::Memory(row.name.clone(), source))?)
        }
        (DiskKind::File | DiskKind::Raw, Some(port)) => {
            warn_of_machines(rows, row);
            let mode = OpenMode {
                ports: if row.ports.len() > 1 { Ports::Dual } else { Ports::Single },
                read_only: volume.read_only,
                expected_data_bytes: Some(volume.size_bytes),
                ..OpenMode::default()
            };
            let opened = DiskFile::open(Path::new(&port.path), &mode);
            let file = opened.map_err(|source| DiskStartRefusal::Open(row.name.clone(), source))?;
            AnyBacking::File(Box::new(file))
        }
    };
    tracing::info!(disk = row.name, volume = volume.name, access = backing.access(), "disk open");
    Ok(backing)
}

/// Ownership of a dual-ported disk is a lock of the kernel, and fences nobody on another machine.
fn warn_of_machines(rows: &ClusterRows, disk: &DiskRow) {
    let host = |node| rows.nodes.iter().find(|row| row.id == node).map(|row| row.host);
    if disk.ports.windows(2).any(|ports| host(ports[0].node) != host(ports[1].node)) {
        tracing::warn!(
            disk = disk.name,
            "its nodes have different hosts: a late write of a dead node is kept out only while all of \
             them run on \
             one kernel; on several machines name one node only"
        );
    }
}
