//! The mapping row of a virtual disk: which nodes can reach it, and which one of them serves it now.

use crate::geometry::{BlockBytes, DiskId, Geometry, VOLUMES_MAX, VolumeId};
use transport_proto::identity::{Epoch, NodeId};

/// Nodes that may reach one virtual disk at the most: primary, secondary and two more (SPEC B6).
pub const CANDIDATES_MAX: usize = 4;

/// A node that has the disk attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// The disk as that node knows it.
    pub disk: DiskId,
    /// The node was found unable to reach the disk, and nobody has repaired that yet (SPEC B3).
    pub path_broken: bool,
}

/// One virtual disk as the configuration sees it at one configuration number (SPEC B6). All nodes hold the
/// same row at the same number; whoever holds a lower one knows by comparing that its view is stale.
///
/// A new number is given to every row at each change of membership, also to rows that did not change: raising
/// the gate of a volume is what shuts out the late requests of a node that left, as driver as well as master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The virtual disk.
    pub volume: VolumeId,
    /// Configuration number that this row belongs to. Above every number that was ever persisted on the disk:
    /// a master refuses to open at a number that another life has used (see `MasterAction::EpochSpent`).
    pub epoch: Epoch,
    /// Nodes that reach the disk in order of preference, `None` after the last.
    pub candidates: [Option<Candidate>; CANDIDATES_MAX],
    /// The one node that serves it at this number, see [`Mapping::choose_serving`]. `None` while there is
    /// none; then requests wait.
    pub serving: Option<NodeId>,
    /// Bytes of the whole virtual disk, a multiple of `block_bytes`.
    pub size_bytes: u64,
    /// Bytes of one block.
    pub block_bytes: BlockBytes,
    /// No writes, discards or zeroes.
    pub read_only: bool,
    /// Drivers hold new requests while this is set (SPEC C4).
    pub suspended: bool,
}

/// Why a row is no mapping. Whoever made the row is at fault; the row before it stays in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingFault {
    /// The volume's number is not below [`VOLUMES_MAX`].
    VolumeNumber {
        /// The number found.
        found: VolumeId,
    },
    /// The serving node is not a candidate.
    ServingIsNoCandidate {
        /// The node named as serving.
        found: NodeId,
    },
    /// The size is not a whole number of blocks.
    Size {
        /// The size found, bytes.
        found: u64,
    },
    /// A node stands twice among the candidates, or there is a gap in them.
    Candidates,
}

impl Mapping {
    /// Checks the row by itself.
    pub fn check(&self) -> Result<(), MappingFault> {
        if self.volume.0 as usize >= VOLUMES_MAX {
            return Err(MappingFault::VolumeNumber { found: self.volume });
        }
        if !self.block_bytes.divides(self.size_bytes) {
            return Err(MappingFault::Size { found: self.size_bytes });
        }
        for (index, candidate) in self.candidates.iter().enumerate() {
            let earlier = &self.candidates[..index];
            let gap = candidate.is_some() && earlier.iter().any(Option::is_none);
            let twice =
                candidate.is_some_and(|one| earlier.iter().flatten().any(|other| other.node == one.node));
            if gap || twice {
                return Err(MappingFault::Candidates);
            }
        }
        match self.serving {
            Some(node) if self.candidate(node).is_none() => {
                Err(MappingFault::ServingIsNoCandidate { found: node })
            }
            _ => Ok(()),
        }
    }

    /// The same volume as nobody reaches it any more.
    pub(crate) fn nowhere(&self) -> Mapping {
        Mapping { candidates: [None; CANDIDATES_MAX], serving: None, suspended: false, ..*self }
    }

    /// The entry of this node among the candidates.
    pub fn candidate(&self, node: NodeId) -> Option<Candidate> {
        self.candidates.iter().flatten().find(|candidate| candidate.node == node).copied()
    }

    /// Candidates whose path is not broken, dead or alive.
    pub fn usable_candidates(&self) -> usize {
        self.candidates.iter().flatten().filter(|candidate| !candidate.path_broken).count()
    }

    /// Whether another node than this one has a path that is not broken, dead or alive.
    pub fn usable_elsewhere(&self, node: NodeId) -> bool {
        self.candidates.iter().flatten().any(|candidate| candidate.node != node && !candidate.path_broken)
    }

    /// Picks the serving node: the first candidate that is live and not broken. When every path was found
    /// broken, one after the other, none is better than another: then the first that is live, which may reach
    /// the disk again by now, and whose errors are the clients' if it does not.
    pub fn choose_serving(&self, is_live: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let all_are_broken = self.usable_candidates() == 0;
        let usable =
            |candidate: &&Candidate| (all_are_broken || !candidate.path_broken) && is_live(candidate.node);
        self.candidates.iter().flatten().find(usable).map(|candidate| candidate.node)
    }

    /// Whether it lies on other virtual disks and not on a disk.
    #[inline]
    pub fn has_parts(&self) -> bool {
        self.candidates[0].is_some_and(|candidate| candidate.disk == DiskId::PARTS)
    }

    /// Size, blocks and whether it may be written.
    #[inline]
    pub fn geometry(&self) -> Geometry {
        Geometry { size_bytes: self.size_bytes, block_bytes: self.block_bytes, read_only: self.read_only }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(node: u16) -> Option<Candidate> {
        Some(Candidate { node: NodeId(node), disk: DiskId(7), path_broken: false })
    }

    fn row() -> Mapping {
        Mapping {
            volume: VolumeId(3),
            epoch: Epoch(5),
            candidates: [candidate(1), candidate(2), None, None],
            serving: Some(NodeId(1)),
            size_bytes: 1 << 20,
            block_bytes: BlockBytes::USUAL,
            read_only: false,
            suspended: false,
        }
    }

    // proves: B6
    #[test]
    fn the_first_live_candidate_with_a_sound_path_serves() {
        let mut row = row();
        assert_eq!(row.choose_serving(|_| true), Some(NodeId(1)));
        assert_eq!(row.choose_serving(|node| node != NodeId(1)), Some(NodeId(2)));
        row.candidates[0] = Some(Candidate { path_broken: true, ..candidate(1).expect("some") });
        assert_eq!(row.choose_serving(|_| true), Some(NodeId(2)));
        assert_eq!(row.choose_serving(|node| node != NodeId(2)), None);
        assert_eq!(row.usable_candidates(), 1);
    }

    // proves: B6
    #[test]
    fn a_malformed_row_is_refused_with_its_fault() {
        assert_eq!(row().check(), Ok(()));
        let far = Mapping { volume: VolumeId(VOLUMES_MAX as u32), ..row() };
        assert_eq!(far.check(), Err(MappingFault::VolumeNumber { found: far.volume }));
        let foreign = Mapping { serving: Some(NodeId(9)), ..row() };
        assert_eq!(foreign.check(), Err(MappingFault::ServingIsNoCandidate { found: NodeId(9) }));
        let odd = Mapping { size_bytes: 4097, ..row() };
        assert_eq!(odd.check(), Err(MappingFault::Size { found: 4097 }));
        let twice = Mapping { candidates: [candidate(1), candidate(1), None, None], ..row() };
        assert_eq!(twice.check(), Err(MappingFault::Candidates));
        let gap = Mapping { candidates: [candidate(1), None, candidate(2), None], ..row() };
        assert_eq!(gap.check(), Err(MappingFault::Candidates));
    }
}
