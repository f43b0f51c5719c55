//! Who and what a frame names: nodes and their incarnations, clients, links, rails, configuration numbers.

use core::fmt;

/// A node of the cluster, as numbered by the cluster configuration. `1..=u16::MAX`; 0 is never a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// One life of a node: chosen when its process starts, larger than that of every earlier life.
/// Unit: nanoseconds since the Unix epoch at start-up, so that lives order themselves without stored state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A client of the transport inside a node, the same number on every node (SPEC T2). `0..CLIENTS_MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u16);

impl ClientId {
    /// Membership and configuration traffic; small and never blocked by bulk.
    pub const MEMBERSHIP: ClientId = ClientId(0);
    /// Block requests from drivers to masters, and their answers.
    pub const BLOCK: ClientId = ClientId(1);
    /// Free for measurements and for programs that use the transport alone.
    pub const USER: ClientId = ClientId(2);
    /// The replicated log of the configuration.
    pub const CONFIGURATION: ClientId = ClientId(3);
    /// Block requests to virtual disks that others lie on: what these do waits for no other block request, so
    /// they have credits that no other block request can use up.
    pub const LEGS: ClientId = ClientId(4);
    /// Block requests to virtual disks that lie on others and that others lie on: what these do waits for
    /// requests of [`ClientId::LEGS`] only.
    pub const VOLUME_LEGS: ClientId = ClientId(5);

    /// Whether it speaks also with nodes that are no members (yet): what it carries is what makes members.
    #[inline]
    pub const fn makes_members(self) -> bool {
        matches!(self, ClientId::MEMBERSHIP | ClientId::CONFIGURATION)
    }
}

/// Clients that one endpoint can serve; the size of per-peer tables that are indexed by [`ClientId`].
pub const CLIENTS_MAX: usize = 8;

/// A logical link to a peer (SPEC T5). `0..LINKS_MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u8);

/// Logical links between two nodes at the most.
pub const LINKS_MAX: usize = 8;

/// A physical path inside a logical link (SPEC T6). `0..RAILS_MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RailId(pub u8);

/// Rails of one logical link at the most.
pub const RAILS_MAX: usize = 4;

/// A rail of one peer: the path by which a frame travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// Logical link that the rail belongs to.
    pub link: LinkId,
    /// The rail inside that link.
    pub rail: RailId,
}

impl Path {
    /// Paths between two nodes at the most.
    pub const COUNT_MAX: usize = LINKS_MAX * RAILS_MAX;

    /// A dense number, `0..Path::COUNT_MAX`, for tables.
    #[inline]
    pub const fn index(self) -> usize {
        self.link.0 as usize * RAILS_MAX + self.rail.0 as usize
    }

    /// The path with this dense number; `None` past [`Path::COUNT_MAX`].
    #[inline]
    pub const fn from_index(index: usize) -> Option<Path> {
        if index < Path::COUNT_MAX {
            Some(Path { link: LinkId((index / RAILS_MAX) as u8), rail: RailId((index % RAILS_MAX) as u8) })
        } else {
            None
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {} rail {}", self.link.0, self.rail.0)
    }
}

/// The n-th connection of one rail. Rises by one with each reconnection, so that what an earlier one left
/// behind can be told from what this one brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RailGeneration(pub u16);

/// A configuration number (SPEC C3): which members, links and mappings hold. Only ever rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Position of a message in the ordered traffic of one client between two incarnations; the first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The message after this one.
    #[inline]
    pub const fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }
}
