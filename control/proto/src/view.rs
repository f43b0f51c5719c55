//! What a node acts on at one configuration number: the rows, who is a member, and which paths to disks are
//! broken.

use crate::ccd::VolumeState;
use crate::rows::{ClusterRows, VirtualDiskRow};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use blockdev_proto::geometry::{DiskId, VolumeId};
use blockdev_proto::mapping::{CANDIDATES_MAX, Candidate, Mapping};
use transport_proto::identity::{Epoch, Incarnation, NodeId};

/// A node in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The life.
    pub incarnation: Incarnation,
}

/// A disk that a node should reach and does not (SPEC B3). It stays broken until it is reported mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokenPath {
    /// The node.
    pub node: NodeId,
    /// The disk.
    pub disk: DiskId,
}

/// The cluster at one configuration number. Equal on all nodes that hold the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// The configuration number.
    pub epoch: Epoch,
    /// Members by rising id.
    pub members: Vec<Member>,
    /// Broken paths, in order.
    pub broken: Vec<BrokenPath>,
    /// The configuration.
    pub rows: Arc<ClusterRows>,
    /// The number of the last change of members: every mapping is of this one or a higher one.
    pub formed: Epoch,
    /// What came about with virtual disks beside their rows.
    pub volumes: Arc<BTreeMap<VolumeId, VolumeState>>,
}

impl ClusterView {
    /// Whether a node is a member.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.incarnation(node).is_some()
    }

    /// The life in which a node is a member.
    pub fn incarnation(&self, node: NodeId) -> Option<Incarnation> {
        self.members.iter().find(|member| member.node == node).map(|member| member.incarnation)
    }

    /// The node that serves a virtual disk: the first candidate that is a member and whose path is not
    /// broken. `None` while there is none, and for a virtual disk that does not exist.
    pub fn serving(&self, volume: VolumeId) -> Option<NodeId> {
        self.mapping(volume).and_then(|mapping| mapping.serving)
    }

    /// The mapping row of a virtual disk at this number; `None` if there is no such virtual disk.
    pub fn mapping(&self, volume: VolumeId) -> Option<Mapping> {
        self.rows.virtual_disk(volume).map(|row| self.mapping_of(row))
    }

    fn mapping_of(&self, row: &VirtualDiskRow) -> Mapping {
        let state = self.volumes.get(&row.id).copied().unwrap_or_default();
        let mut candidates = [None; CANDIDATES_MAX];
        for (slot, &(node, disk)) in candidates.iter_mut().zip(&row.candidates) {
            let path_broken = self.broken.contains(&BrokenPath { node, disk });
            *slot = Some(Candidate { node, disk, path_broken });
        }
        let mut mapping = Mapping {
            volume: row.id,
            epoch: state.changed.max(self.formed),
            candidates,
            serving: None,
            size_bytes: row.size_bytes,
            block_bytes: row.block_bytes,
            read_only: row.read_only,
            suspended: state.suspended_by.is_some(),
        };
        mapping.serving = mapping.choose_serving(|node| self.is_member(node));
        mapping
    }

    /// The mapping rows of all virtual disks.
    pub fn mappings(&self) -> impl Iterator<Item = Mapping> + '_ {
        self.rows.virtual_disks.iter().map(|row| self.mapping_of(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::LostQuorum;
    use alloc::string::String;
    use alloc::vec;
    use blockdev_proto::geometry::BlockBytes;

    fn view(members: &[u16], broken: &[u16]) -> ClusterView {
        let virtual_disk = VirtualDiskRow {
            id: VolumeId(3),
            name: String::from("vd"),
            candidates: vec![(NodeId(1), DiskId(9)), (NodeId(2), DiskId(9))],
            size_bytes: 1 << 20,
            block_bytes: BlockBytes::USUAL,
            read_only: false,
            on_lost_quorum: LostQuorum::Suspend,
        };
        let rows = ClusterRows { virtual_disks: vec![virtual_disk], ..ClusterRows::empty("north") };
        let member = |&node: &u16| Member { node: NodeId(node), incarnation: Incarnation(5) };
        let path = |&node: &u16| BrokenPath { node: NodeId(node), disk: DiskId(9) };
        ClusterView {
            epoch: Epoch(4),
            members: members.iter().map(member).collect(),
            broken: broken.iter().map(path).collect(),
            rows: Arc::new(rows),
            formed: Epoch(4),
            volumes: Arc::default(),
        }
    }

    // proves: B6
    #[test]
    fn the_first_live_candidate_with_a_sound_path_serves() {
        let cases: [(&[u16], &[u16], Option<u16>); 7] = [
            (&[1, 2, 3], &[], Some(1)),
            (&[2, 3], &[], Some(2)),
            (&[1, 2, 3], &[1], Some(2)),
            (&[1, 3], &[1], None),
            (&[3], &[], None),
            // Both failed at some time: the first may be well again, and nothing else will tell.
            (&[1, 2], &[1, 2], Some(1)),
            (&[2, 3], &[1, 2], Some(2)),
        ];
        for (members, broken, serving) in cases {
            let view = view(members, broken);
            assert_eq!(
                view.serving(VolumeId(3)),
                serving.map(NodeId),
                "members {members:?}, broken {broken:?}"
            );
            let mapping = view.mapping(VolumeId(3)).expect("a configured virtual disk");
            assert_eq!(mapping.check(), Ok(()));
            assert_eq!(mapping.epoch, Epoch(4));
        }
        assert_eq!(view(&[1], &[]).serving(VolumeId(4)), None);
    }
}
