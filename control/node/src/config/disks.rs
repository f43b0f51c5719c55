//! Disks and virtual disks: what the bytes lie on, and who serves them in which order.

use super::check::Check;
use super::document::{
    CandidateSection, DiskKindName, DiskSection, LostQuorumName, Reference, Selection, Spanned,
    VirtualDiskSection,
};
use super::{DiskMistake, Place, Row, RowMistake};
use blockdev_proto::assembly::CHUNK_BYTES_USUAL;
use blockdev_proto::geometry::{BlockBytes, DiskId, VOLUMES_MAX, VolumeId};
use blockdev_proto::mapping::CANDIDATES_MAX;
use blockdev_proto::mirror::LegState;
use control_proto::rows::{
    DISKS_MAX, DiskKind, DiskPort, DiskRow, LegRow, LostQuorum, MirrorShape, Shape, StaleReason, StripeShape,
    VirtualDiskRow, VolumeRow,
};
use std::net::IpAddr;
use transport_proto::identity::NodeId;

impl VirtualDiskSection {
    /// The lists of what it lies on; one, if it is well made and has no disk.
    fn parts(&self) -> impl Iterator<Item = &Spanned<Vec<Spanned<Reference>>>> {
        [&self.mirror, &self.concat, &self.stripe].into_iter().flatten()
    }
}

fn new_mirror(name: &str, id: VolumeId, parts: &[VolumeId]) -> MirrorShape {
    let leg = |(place, volume): (usize, &VolumeId)| LegRow {
        volume: *volume,
        identity: place as u64 + 1,
        state: if place == 0 { LegState::InSync } else { LegState::Stale },
        why: StaleReason::New,
    };
    // The same on each node that is founded by the same file.
    let instance = u64::from(crc32c::crc32c(name.as_bytes())) << 32 | u64::from(id.0);
    MirrorShape { instance, fresh: true, legs: parts.iter().enumerate().map(leg).collect() }
}

impl Check<'_> {
    pub(super) fn read_disks(&mut self, sections: &[Spanned<DiskSection>]) -> Vec<DiskRow> {
        let first = sections.first().map_or(Place::default(), |section| self.place(section));
        self.limit(Row::Disk, sections.len(), DISKS_MAX, first);
        let mut rows: Vec<(DiskRow, Place)> = Vec::new();
        for (position, section) in sections.iter().enumerate() {
            let disk = section.get_ref();
            let id = DiskId(disk.id.as_ref().map_or(position as u32 + 1, |id| *id.get_ref()));
            let name = match &disk.name {
                Some(name) => self.name(name),
                None => format!("disk{}", id.0),
            };
            let place = disk.name.as_ref().map_or(self.place(section), |name| self.place(name));
            let nodes = match disk.nodes.get_ref() {
                // "All" would make every new node a port of the disk by surprise.
                Selection::All => {
                    self.fault_at(
                        &disk.nodes,
                        RowMistake::TooMany { row: Row::Node, found: self.nodes.len(), most: CANDIDATES_MAX },
                    );
                    Vec::new()
                }
                some => self.selected_nodes(some),
            };
            self.limit(Row::Node, nodes.len(), CANDIDATES_MAX, place);
            if nodes.is_empty() {
                self.fault_at(&disk.nodes, RowMistake::TooFew { row: Row::Node });
            }
            if let Some((_, first)) = rows.iter().find(|(row, _)| row.id == id) {
                let first = *first;
                self.fault(place, RowMistake::DuplicateId { row: Row::Disk, id: id.0, first });
                continue;
            }
            if let Some((_, first)) = rows.iter().find(|(row, _)| row.name == name) {
                let first = *first;
                self.fault(place, RowMistake::DuplicateName { row: Row::Disk, name, first });
                continue;
            }
            let kind = match disk.kind {
                DiskKindName::File => DiskKind::File,
                DiskKindName::Raw => DiskKind::Raw,
                DiskKindName::Memory => DiskKind::Memory,
            };
            let Some(ports) = self.ports(disk, &nodes, place) else { continue };
            self.check_overlap(&rows, &ports, place);
            rows.push((DiskRow { id, name, kind, ports }, place));
        }
        let mut rows: Vec<DiskRow> = rows.into_iter().map(|(row, _)| row).collect();
        rows.sort_by_key(|row| row.id);
        rows
    }

    fn ports(&mut self, disk: &DiskSection, nodes: &[NodeId], place: Place) -> Option<Vec<DiskPort>> {
        let port = |(&node, path): (&NodeId, String)| DiskPort { node, path };
        if disk.kind == DiskKindName::Memory {
            if disk.path.is_some() || disk.paths.is_some() {
                self.fault(place, DiskMistake::PathOfMemory);
            }
            if nodes.len() > 1 {
                self.fault_at(&disk.nodes, DiskMistake::MemoryOnTwoNodes);
            }
            return Some(nodes.iter().map(|&node| DiskPort { node, path: String::new() }).collect());
        }
        match (&disk.path, &disk.paths) {
            (Some(path), None) if !path.get_ref().is_empty() => {
                let path = self.absolute(path.get_ref()).to_string_lossy().into_owned();
                Some(nodes.iter().zip(std::iter::repeat(path)).map(port).collect())
            }
            (None, Some(paths)) if paths.get_ref().len() == nodes.len() => {
                let absolute = |path: &String| self.absolute(path).to_string_lossy().into_owned();
                Some(nodes.iter().zip(paths.get_ref().iter().map(absolute)).map(port).collect())
            }
            (None, Some(paths)) => {
                let counts = DiskMistake::PathsCount { paths: paths.get_ref().len(), nodes: nodes.len() };
                self.fault_at(paths, counts);
                None
            }
            (Some(_), Some(paths)) => {
                self.fault_at(paths, DiskMistake::TwoWays);
                None
            }
            _ => {
                self.fault(place, DiskMistake::PathMissing);
                None
            }
        }
    }

    /// One file or device must not be two disks. Equal paths on different machines are different things.
    fn check_overlap(&mut self, rows: &[(DiskRow, Place)], ports: &[DiskPort], place: Place) {
        let host = |node: NodeId| self.nodes.iter().find(|e| e.row.id == node).map(|e| e.row.host);
        let same_machine = |a: NodeId, b: NodeId| {
            let (a, b) = (host(a), host(b));
            a == b || [a, b].iter().all(|host| host.is_some_and(|host: IpAddr| host.is_loopback()))
        };
        let clash = rows.iter().find_map(|(row, first)| {
            let meets = |port: &&DiskPort| {
                row.ports.iter().any(|other| {
                    !port.path.is_empty() && other.path == port.path && same_machine(other.node, port.node)
                })
            };
            ports.iter().find(meets).map(|port| (port.path.clone(), *first))
        });
        if let Some((path, first)) = clash {
            self.fault(place, DiskMistake::SamePath { path, first });
        }
    }

    pub(super) fn read_virtual_disks(
        &mut self,
        sections: &[Spanned<VirtualDiskSection>],
        disks: &[DiskRow],
    ) -> Vec<VirtualDiskRow> {
        let first = sections.first().map_or(Place::default(), |section| self.place(section));
        self.limit(Row::VirtualDisk, sections.len(), VOLUMES_MAX, first);
        let mut rows: Vec<(VirtualDiskRow, Place)> = Vec::new();
        for (position, section) in sections.iter().enumerate() {
            let virtual_disk = section.get_ref();
            let id = VolumeId(virtual_disk.id.as_ref().map_or(position as u32, |id| *id.get_ref()));
            let name = self.name(&virtual_disk.name);
            let place = self.place(&virtual_disk.name);
            if id.0 as usize >= VOLUMES_MAX {
                let most = VOLUMES_MAX as u32 - 1;
                self.fault(place, RowMistake::IdTooLarge { row: Row::VirtualDisk, found: id.0, most });
            }
            if let Some((_, first)) = rows.iter().find(|(row, _)| row.id == id) {
                let first = *first;
                self.fault(place, RowMistake::DuplicateId { row: Row::VirtualDisk, id: id.0, first });
                continue;
            }
            if let Some((_, first)) = rows.iter().find(|(row, _)| row.name == name) {
                let first = *first;
                self.fault(place, RowMistake::DuplicateName { row: Row::VirtualDisk, name, first });
                continue;
            }
            let block_bytes = self.block_bytes(virtual_disk);
            let size_bytes = virtual_disk.size.get_ref().0;
            if size_bytes == 0 {
                self.fault_at(&virtual_disk.size, DiskMistake::SizeZero);
            } else if !block_bytes.divides(size_bytes) {
                let odd = DiskMistake::SizeNotBlocks { size_bytes, block_bytes: block_bytes.get() };
                self.fault_at(&virtual_disk.size, odd);
            }
            let candidates = self.candidates(virtual_disk, disks, place);
            self.check_disk_free(&rows, &candidates, disks, place);
            let read_only = virtual_disk.read_only;
            let on_lost_quorum = match virtual_disk.on_lost_quorum {
                LostQuorumName::Suspend => LostQuorum::Suspend,
                LostQuorumName::Fail => LostQuorum::Fail,
            };
            let row =
                VirtualDiskRow { id, name, candidates, size_bytes, block_bytes, read_only, on_lost_quorum };
            rows.push((row, place));
        }
        let mut rows: Vec<VirtualDiskRow> = rows.into_iter().map(|(row, _)| row).collect();
        rows.sort_by_key(|row| row.id);
        rows
    }

    fn block_bytes(&mut self, virtual_disk: &VirtualDiskSection) -> BlockBytes {
        let Some(written) = &virtual_disk.block_size else { return BlockBytes::USUAL };
        let bytes = u32::try_from(written.get_ref().0).unwrap_or(u32::MAX);
        BlockBytes::new(bytes).unwrap_or_else(|| {
            let (least, most) = (BlockBytes::MIN.get(), BlockBytes::MAX.get());
            self.fault_at(written, DiskMistake::BadBlock { bytes, least, most });
            BlockBytes::USUAL
        })
    }

    fn disk_row<'d>(&mut self, reference: &Spanned<Reference>, disks: &'d [DiskRow]) -> Option<&'d DiskRow> {
        let row = disks.iter().find(|row| match reference.get_ref() {
            Reference::Id(id) => row.id.0 == *id,
            Reference::Name(name) => row.name == *name,
        });
        if row.is_none() {
            let reference_text = reference.get_ref().to_string();
            self.fault_at(reference, RowMistake::Dangling { row: Row::Disk, reference: reference_text });
        }
        row
    }

    /// Who serves the virtual disk: by a disk alone, its nodes in their order; else as written.
    fn candidates(
        &mut self,
        virtual_disk: &VirtualDiskSection,
        disks: &[DiskRow],
        place: Place,
    ) -> Vec<(NodeId, DiskId)> {
        if virtual_disk.chunk.is_some() && virtual_disk.stripe.is_none() {
            self.fault(place, DiskMistake::ChunkOfNoStripe);
        }
        let mut parts = virtual_disk.parts();
        if let Some(first) = parts.next() {
            if let Some(second) = parts.next() {
                self.fault_at(second, DiskMistake::TwoWays);
            }
            return self.volume_candidates(virtual_disk, first);
        }
        if let Some(nodes) = &virtual_disk.nodes {
            self.fault_at(nodes, DiskMistake::NodesOfDisk);
        }
        let written: Vec<&Spanned<CandidateSection>> =
            virtual_disk.primary.iter().chain(&virtual_disk.secondary).chain(&virtual_disk.others).collect();
        match (&virtual_disk.disk, virtual_disk.primary.is_some()) {
            (Some(disk), _) if !written.is_empty() => {
                self.fault_at(disk, DiskMistake::TwoWays);
                Vec::new()
            }
            (Some(disk), _) => {
                let row = self.disk_row(disk, disks);
                row.map_or(Vec::new(), |row| row.ports.iter().map(|port| (port.node, row.id)).collect())
            }
            (None, true) => {
                self.limit(Row::Candidate, written.len(), CANDIDATES_MAX, place);
                self.written_candidates(&written, disks)
            }
            (None, false) => {
                self.fault(place, DiskMistake::NoDisk);
                Vec::new()
            }
        }
    }

    /// Who serves a volume on others: the nodes that it names, each of which reaches the parts as every node
    /// does.
    fn volume_candidates(
        &mut self,
        virtual_disk: &VirtualDiskSection,
        parts: &Spanned<Vec<Spanned<Reference>>>,
    ) -> Vec<(NodeId, DiskId)> {
        if virtual_disk.disk.is_some() || virtual_disk.primary.is_some() {
            self.fault_at(parts, DiskMistake::TwoWays);
        }
        let Some(nodes) = &virtual_disk.nodes else {
            self.fault_at(parts, DiskMistake::NoNodes);
            return Vec::new();
        };
        let nodes = self.selected_nodes(nodes.get_ref());
        nodes.into_iter().map(|node| (node, DiskId::PARTS)).collect()
    }

    /// What the virtual disks that have no disk lie on. A new mirror is copied from the first leg.
    pub(super) fn read_volumes(
        &mut self,
        sections: &[Spanned<VirtualDiskSection>],
        disks: &[VirtualDiskRow],
    ) -> Vec<VolumeRow> {
        let mut rows = Vec::new();
        for section in sections {
            let virtual_disk = section.get_ref();
            let Some(parts) = virtual_disk.parts().next() else { continue };
            let name = virtual_disk.name.get_ref();
            let Some(whole) = disks.iter().find(|row| row.name == *name) else { continue };
            let parts: Vec<VolumeId> =
                parts.get_ref().iter().filter_map(|part| self.virtual_disk(part, disks)).collect();
            let shape = if virtual_disk.mirror.is_some() {
                Shape::Mirror(new_mirror(name, whole.id, &parts))
            } else if virtual_disk.concat.is_some() {
                Shape::Concatenation(parts)
            } else {
                let chunk = virtual_disk.chunk.as_ref().map(|chunk| chunk.get_ref().0);
                let chunk_bytes =
                    chunk.map_or(CHUNK_BYTES_USUAL, |bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
                Shape::Stripe(StripeShape { chunk_bytes, parts })
            };
            rows.push(VolumeRow { volume: whole.id, shape });
        }
        rows
    }

    fn written_candidates(
        &mut self,
        written: &[&Spanned<CandidateSection>],
        disks: &[DiskRow],
    ) -> Vec<(NodeId, DiskId)> {
        let mut candidates: Vec<(NodeId, DiskId)> = Vec::new();
        for section in written {
            let candidate = section.get_ref();
            let node = self.node(&candidate.node);
            let row = self.disk_row(&candidate.disk, disks);
            let (Some(node), Some(row)) = (node, row) else { continue };
            let name = self.node_name(node);
            let primary = candidates.first().and_then(|(_, id)| disks.iter().find(|disk| disk.id == *id));
            if candidates.iter().any(|(other, _)| *other == node) {
                self.fault_at(&candidate.node, RowMistake::NodeTwice { node: name });
            } else if row.port(node).is_none() {
                self.fault_at(&candidate.node, DiskMistake::NoPort { node: name, disk: row.name.clone() });
            } else if let Some(primary) = primary.filter(|primary| primary.id != row.id) {
                let other =
                    DiskMistake::OtherMedium { primary: primary.name.clone(), other: row.name.clone() };
                self.fault_at(&candidate.disk, other);
            } else {
                candidates.push((node, row.id));
            }
        }
        candidates
    }

    /// A disk holds the bytes of one virtual disk.
    fn check_disk_free(
        &mut self,
        rows: &[(VirtualDiskRow, Place)],
        candidates: &[(NodeId, DiskId)],
        disks: &[DiskRow],
        place: Place,
    ) {
        let Some(&(_, disk)) = candidates.first().filter(|(_, disk)| *disk != DiskId::PARTS) else { return };
        let taken = rows.iter().find(|(row, _)| row.candidates.iter().any(|(_, other)| *other == disk));
        if let Some((row, first)) = taken {
            let name = disks.iter().find(|row| row.id == disk).map_or(String::new(), |row| row.name.clone());
            self.fault(place, DiskMistake::DiskTaken { disk: name, by: row.name.clone(), first: *first });
        }
    }
}
