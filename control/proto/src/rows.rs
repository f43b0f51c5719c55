//! Rows of the cluster configuration (SPEC C2). Whoever makes them has checked them by the rules of
//! [`crate::rules`]: ids are unique, references resolve, limits hold.

use crate::pool::{LoanRow, RegionRow};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use blockdev_proto::assembly::{Arrangement, ArrangementFault, PARTS_MAX};
use blockdev_proto::geometry::{BlockBytes, DiskId, VOLUMES_MAX, VolumeId};
use blockdev_proto::lanes::STOREYS_MAX;
use blockdev_proto::mirror::LegState;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use transport_proto::connectivity;
use transport_proto::identity::{LinkId, NodeId, Path, RailId};
use transport_proto::route::Spread;

/// Nodes of one cluster at the most.
pub const NODES_MAX: usize = 128;
/// Bytes of a name at the most. Names consist of ASCII letters, digits and `-`, `_`, `.`.
pub const NAME_BYTES_MAX: usize = 40;
/// Links of one cluster at the most.
pub const CLUSTER_LINKS_MAX: usize = 1024;
/// Disks of one cluster at the most.
pub const DISKS_MAX: usize = VOLUMES_MAX;
/// NBD servers of one cluster at the most.
pub const NBD_SERVERS_MAX: usize = 1024;
/// Bytes of a path at the most.
pub const PATH_BYTES_MAX: usize = 1024;
/// Bytes of the path of a UNIX socket at the most; the kernel takes no more.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Number, for ever.
    pub id: NodeId,
    /// Name for people.
    pub name: String,
    /// The machine's address, from which addresses of rails are derived.
    pub host: IpAddr,
    /// Whether it votes on the configuration. Three or five do, see [`voters_usual`].
    pub voter: bool,
}

/// Which of these nodes vote, unless somebody says otherwise: the first five, three or one of them by id.
pub fn voters_usual(nodes: &[NodeId]) -> Vec<NodeId> {
    let mut voters = nodes.to_vec();
    voters.sort();
    voters.dedup();
    voters.truncate(match voters.len() {
        0..3 => 1,
        3..5 => 3,
        _ => 5,
    });
    voters
}

/// How one end of a rail is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RailAddress {
    /// Shared memory of this host: the name of an abstract socket.
    Shm(String),
    /// A TCP address.
    Tcp(SocketAddr),
    /// A TCP address of an interface that an RDMA device stands behind.
    Verbs(SocketAddr),
}

/// One node's end of a rail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RailEnd {
    /// The node.
    pub node: NodeId,
    /// Where it listens for this rail, and from where it dials.
    pub address: RailAddress,
    /// Where its connectivity monitor sends and receives heartbeats of this rail, UDP.
    pub heartbeat: SocketAddr,
}

/// A rail. All ends are of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RailRow {
    /// Number inside its link.
    pub id: RailId,
    /// One end for each node of the link, in the order of the link's nodes.
    pub ends: Vec<RailEnd>,
}

impl RailRow {
    /// The end at `node`.
    pub fn end(&self, node: NodeId) -> Option<&RailEnd> {
        self.ends.iter().find(|end| end.node == node)
    }
}

/// Number of a row of links, cluster-unique. ([`LinkId`] is what frames carry, and unique between two nodes
/// only.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkNumber(pub u32);

/// A logical link between any two of its nodes. Two links of one number never join the same two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRow {
    /// Number of this row.
    pub number: LinkNumber,
    /// Number between each pair of its nodes.
    pub id: LinkId,
    /// Nodes that it joins, two or more, each with each.
    pub nodes: Vec<NodeId>,
    /// Its redundant rails.
    pub rails: Vec<RailRow>,
}

/// What a disk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskKind {
    /// A file in a file system.
    File,
    /// A whole block device.
    Raw,
    /// Memory of one node's process; gone when it ends.
    Memory,
}

/// A node that reaches a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPort {
    /// The node.
    pub node: NodeId,
    /// File or device on that node, absolute; empty for memory.
    pub path: String,
}

/// A disk. With two ports or more it is one medium that several nodes open (dual-ported).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRow {
    /// Number, cluster-unique.
    pub id: DiskId,
    /// Name for people.
    pub name: String,
    /// What it is made of.
    pub kind: DiskKind,
    /// Nodes that reach it.
    pub ports: Vec<DiskPort>,
}

impl DiskRow {
    /// The port at `node`.
    pub fn port(&self, node: NodeId) -> Option<&DiskPort> {
        self.ports.iter().find(|port| port.node == node)
    }
}

/// A virtual disk (SPEC B6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualDiskRow {
    /// Number, cluster-unique.
    pub id: VolumeId,
    /// Name by which clients open it.
    pub name: String,
    /// Primary first, then secondary and more: who serves it, from which disk.
    pub candidates: Vec<(NodeId, DiskId)>,
    /// Bytes that clients see; a multiple of the block.
    pub size_bytes: u64,
    /// Block that clients see.
    pub block_bytes: BlockBytes,
    /// No writes at all.
    pub read_only: bool,
    /// What its clients meet while there is no quorum (SPEC C6).
    pub on_lost_quorum: LostQuorum,
}

/// Why a leg of a mirror is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StaleReason {
    /// It was never copied to.
    New,
    /// No node served it.
    Unreachable,
    /// It failed a request.
    Failed,
    /// Its content was gone, or not the mirror's.
    Lost,
    /// An operator took it out.
    Operator,
}

/// A leg of a mirror: a virtual disk that holds a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegRow {
    /// The virtual disk. Nobody else uses it.
    pub volume: VolumeId,
    /// Chosen when the leg was added, and never again for another.
    pub identity: u64,
    /// Whether it has everything. Changed by the node that serves the mirror, never by hand.
    pub state: LegState,
    /// Why it is stale, or was last.
    pub why: StaleReason,
}

/// Copies of the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorShape {
    /// Chosen when the mirror was made, and never again for another.
    pub instance: u64,
    /// Nothing was written through it yet.
    pub fresh: bool,
    /// The copies.
    pub legs: Vec<LegRow>,
}

/// The bytes of several virtual disks in turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripeShape {
    /// Bytes of one turn.
    pub chunk_bytes: u32,
    /// The virtual disks. Nobody else uses them.
    pub parts: Vec<VolumeId>,
}

/// How a volume lies on other virtual disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each of them holds all of it.
    Mirror(MirrorShape),
    /// Each holds some of it, one after the other. Nobody else uses them, and they keep their sizes, except
    /// the last.
    Concatenation(Vec<VolumeId>),
    /// Each holds some of it, in turns.
    Stripe(StripeShape),
}

/// What a virtual disk lies on, if not on a disk: other virtual disks (SPEC B9). Its candidates name
/// [`DiskId::PARTS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRow {
    /// The virtual disk.
    pub volume: VolumeId,
    /// How it lies on others.
    pub shape: Shape,
}

impl VolumeRow {
    /// The virtual disks that it lies on.
    pub fn parts(&self) -> impl Iterator<Item = VolumeId> + '_ {
        let (mirror, others) = match &self.shape {
            Shape::Mirror(mirror) => (Some(mirror), &[][..]),
            Shape::Concatenation(parts) => (None, &parts[..]),
            Shape::Stripe(stripe) => (None, &stripe.parts[..]),
        };
        let legs = mirror.into_iter().flat_map(|mirror| mirror.legs.iter().map(|leg| leg.volume));
        legs.chain(others.iter().copied())
    }

    /// Its legs, if it is a mirror.
    pub fn mirror(&self) -> Option<&MirrorShape> {
        match &self.shape {
            Shape::Mirror(mirror) => Some(mirror),
            Shape::Concatenation(_) | Shape::Stripe(_) => None,
        }
    }
}

/// What clients of a virtual disk meet on a node without quorum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LostQuorum {
    /// Requests wait until there is a quorum again.
    #[default]
    Suspend,
    /// Requests fail at once.
    Fail,
}

/// Who may open a virtual disk (SPEC B8). A virtual disk without a row is its node's root's alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionRow {
    /// The virtual disk.
    pub volume: VolumeId,
    /// Owner, as a number, since names differ from machine to machine.
    pub owner: u32,
    /// Group, as a number.
    pub group: u32,
    /// Permission bits, `0..=0o777`.
    pub mode: u16,
    /// Nodes on which it may be opened.
    pub nodes: Vec<NodeId>,
}

/// Where an NBD server listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NbdAddress {
    /// A UNIX socket, absolute path.
    Unix(String),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// An NBD server on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdRow {
    /// The node.
    pub node: NodeId,
    /// Where it listens.
    pub listen: NbdAddress,
    /// Virtual disks that it exports, by their names.
    pub exports: Vec<VolumeId>,
}

/// How long the membership waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembershipTimes {
    /// A node that cannot be reached on any rail for so long is proposed for removal.
    pub suspect: Duration,
    /// A node that was granted no lease for so long closes its gates.
    pub lease: Duration,
    /// A node whose oldest disk I/O is older is proposed for removal.
    pub hung_disk: Duration,
}

impl Default for MembershipTimes {
    fn default() -> MembershipTimes {
        MembershipTimes {
            suspect: Duration::from_millis(500),
            lease: Duration::from_millis(1500),
            hung_disk: Duration::from_secs(30),
        }
    }
}

/// Least memory with which a node can carry the largest message each way to each peer, bytes.
pub const MEMORY_BUDGET_BYTES_MIN: u64 = 16 << 20;
/// Memory that a node may use, unless somebody says otherwise, bytes.
pub const MEMORY_BUDGET_BYTES_USUAL: u64 = 256 << 20;

/// Everything that is configured, at one configuration number. Every list is in the order of its keys, see
/// [`ClusterRows::sort`]: look-ups rely on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRows {
    /// Name of the cluster.
    pub name: String,
    /// Nodes by rising id.
    pub nodes: Vec<NodeRow>,
    /// Links by rising number.
    pub links: Vec<LinkRow>,
    /// How messages to one peer are spread over its links.
    pub spread: Spread,
    /// Disks by rising id.
    pub disks: Vec<DiskRow>,
    /// Virtual disks by rising id.
    pub virtual_disks: Vec<VirtualDiskRow>,
    /// Virtual disks that lie on others, by rising virtual disk.
    pub volumes: Vec<VolumeRow>,
    /// Permissions by rising virtual disk, one row for each at the most.
    pub permissions: Vec<PermissionRow>,
    /// NBD servers by node and address.
    pub nbd: Vec<NbdRow>,
    /// Spare storage by rising number.
    pub regions: Vec<RegionRow>,
    /// Volumes lent on it by rising number.
    pub loans: Vec<LoanRow>,
    /// Memory that one node may use for transport and I/O, bytes.
    pub memory_budget_bytes: u64,
    /// How rails are watched.
    pub connectivity: connectivity::Settings,
    /// How members are watched.
    pub membership: MembershipTimes,
}

/// A rail between this node and a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RailBetween<'a> {
    /// The node at the other end.
    pub peer: NodeId,
    /// Link and rail.
    pub path: Path,
    /// This node's end.
    pub local: &'a RailEnd,
    /// The peer's end.
    pub remote: &'a RailEnd,
}

fn found<T>(rows: &[T], place: Result<usize, usize>) -> Option<&T> {
    place.ok().and_then(|place| rows.get(place))
}

impl ClusterRows {
    /// No rows at all, usual settings.
    pub fn empty(name: &str) -> ClusterRows {
        ClusterRows {
            name: String::from(name),
            nodes: Vec::new(),
            links: Vec::new(),
            spread: Spread::default(),
            disks: Vec::new(),
            virtual_disks: Vec::new(),
            volumes: Vec::new(),
            permissions: Vec::new(),
            nbd: Vec::new(),
            regions: Vec::new(),
            loans: Vec::new(),
            memory_budget_bytes: MEMORY_BUDGET_BYTES_USUAL,
            connectivity: connectivity::Settings::default(),
            membership: MembershipTimes::default(),
        }
    }

    /// Puts every list in the order of its keys. Equal keys are left to [`crate::rules`].
    pub fn sort(&mut self) {
        self.nodes.sort_by_key(|row| row.id);
        self.links.sort_by_key(|row| row.number);
        self.disks.sort_by_key(|row| row.id);
        self.virtual_disks.sort_by_key(|row| row.id);
        self.volumes.sort_by_key(|row| row.volume);
        self.permissions.sort_by_key(|row| row.volume);
        self.regions.sort_by_key(|row| row.id);
        self.loans.sort_by_key(|row| row.id);
        self.nbd.sort_by(|a, b| (a.node, &a.listen).cmp(&(b.node, &b.listen)));
    }

    /// The row of a node.
    pub fn node(&self, id: NodeId) -> Option<&NodeRow> {
        found(&self.nodes, self.nodes.binary_search_by_key(&id, |row| row.id))
    }

    /// The name of a node for people.
    pub fn node_name(&self, id: NodeId) -> String {
        self.node(id).map_or_else(|| id.to_string(), |row| row.name.clone())
    }

    /// The row of a link.
    pub fn link(&self, number: LinkNumber) -> Option<&LinkRow> {
        found(&self.links, self.links.binary_search_by_key(&number, |row| row.number))
    }

    /// The row of a disk.
    pub fn disk(&self, id: DiskId) -> Option<&DiskRow> {
        found(&self.disks, self.disks.binary_search_by_key(&id, |row| row.id))
    }

    /// The row of a virtual disk.
    pub fn virtual_disk(&self, id: VolumeId) -> Option<&VirtualDiskRow> {
        found(&self.virtual_disks, self.virtual_disks.binary_search_by_key(&id, |row| row.id))
    }

    /// The row of the virtual disk with this name.
    pub fn virtual_disk_named(&self, name: &str) -> Option<&VirtualDiskRow> {
        self.virtual_disks.iter().find(|row| row.name == name)
    }

    /// What a virtual disk lies on, if it lies on others.
    pub fn volume(&self, volume: VolumeId) -> Option<&VolumeRow> {
        found(&self.volumes, self.volumes.binary_search_by_key(&volume, |row| row.volume))
    }

    /// The volume that lies on this virtual disk.
    pub fn whole_of(&self, part: VolumeId) -> Option<&VolumeRow> {
        self.volumes.iter().find(|row| row.parts().any(|one| one == part))
    }

    /// How many volumes lie on one another from this one down to virtual disks that lie on a disk, for which
    /// it is 0. Counts no further than one beyond what there may be.
    pub fn storeys(&self, volume: VolumeId) -> usize {
        self.storeys_within(volume, STOREYS_MAX + 1)
    }

    fn storeys_within(&self, volume: VolumeId, most: usize) -> usize {
        let Some(row) = self.volume(volume).filter(|_| most > 0) else { return 0 };
        1 + row.parts().take(PARTS_MAX).map(|part| self.storeys_within(part, most - 1)).max().unwrap_or(0)
    }

    /// Where the bytes of a concatenation or stripe lie, by the sizes of its parts. `None`: it is a mirror,
    /// or its own row or that of a part is not there.
    pub fn arrangement(&self, row: &VolumeRow) -> Option<Result<Arrangement, ArrangementFault>> {
        let block = self.virtual_disk(row.volume)?.block_bytes;
        let sizes: Option<Vec<u64>> =
            row.parts().map(|part| self.virtual_disk(part).map(|below| below.size_bytes)).collect();
        match &row.shape {
            Shape::Mirror(_) => None,
            Shape::Concatenation(_) => Some(Arrangement::concatenation(&sizes?, block)),
            Shape::Stripe(stripe) => Some(Arrangement::stripe(&sizes?, stripe.chunk_bytes, block)),
        }
    }

    /// The permission row of a virtual disk.
    pub fn permission(&self, volume: VolumeId) -> Option<&PermissionRow> {
        found(&self.permissions, self.permissions.binary_search_by_key(&volume, |row| row.volume))
    }

    /// The NBD server of a node at an address.
    pub fn nbd_server(&self, node: NodeId, listen: &NbdAddress) -> Option<&NbdRow> {
        let place = self.nbd.binary_search_by(|row| (row.node, &row.listen).cmp(&(node, listen)));
        found(&self.nbd, place)
    }

    /// Every rail from `node` to every peer, by link and rail.
    pub fn rails_of(&self, node: NodeId) -> impl Iterator<Item = RailBetween<'_>> {
        let rails = self.links.iter().flat_map(|link| link.rails.iter().map(move |rail| (link.id, rail)));
        rails.flat_map(move |(link, rail)| {
            let local = rail.end(node);
            let path = Path { link, rail: rail.id };
            let peers = rail.ends.iter().filter(move |end| end.node != node);
            peers.filter_map(move |remote| {
                local.map(|local| RailBetween { peer: remote.node, path, local, remote })
            })
        })
    }
}
