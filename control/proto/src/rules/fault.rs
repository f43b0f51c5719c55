//! What can be wrong with a row. The text of each says what is wrong, then what to do.

use super::pool::PoolFault;
use crate::ccd::{RowKey, Table};
use crate::codec::coded;
use crate::rows::{
    LinkNumber, MEMORY_BUDGET_BYTES_MIN, NAME_BYTES_MAX, PATH_BYTES_MAX, SOCKET_PATH_BYTES_MAX,
};
use alloc::string::String;
use blockdev_proto::assembly::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, PARTS_MAX};
use blockdev_proto::geometry::{BlockBytes, VOLUMES_MAX};
use blockdev_proto::lanes::STOREYS_MAX;
use blockdev_proto::mapping::CANDIDATES_MAX;
use blockdev_proto::mirror::{LEGS_MAX, RECORD_BYTES};
use core::fmt;
use transport_proto::identity::{LINKS_MAX, RAILS_MAX};

/// A time or count of the settings, and its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as in the configuration file")]
pub enum SettingKey {
    PeriodMs,
    Missed,
    Heard,
    SuspectMs,
    LeaseMs,
    HungDiskMs,
}

impl SettingKey {
    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            SettingKey::PeriodMs => "period_ms",
            SettingKey::Missed => "missed",
            SettingKey::Heard => "heard",
            SettingKey::SuspectMs => "suspect_ms",
            SettingKey::LeaseMs => "lease_ms",
            SettingKey::HungDiskMs => "hung_disk_ms",
        }
    }

    /// Least and most, both allowed.
    pub const fn range(self) -> (u64, u64) {
        match self {
            SettingKey::PeriodMs => (1, 10_000),
            SettingKey::Missed | SettingKey::Heard => (1, 100),
            SettingKey::SuspectMs => (20, 60_000),
            SettingKey::LeaseMs => (40, 120_000),
            SettingKey::HungDiskMs => (100, 3_600_000),
        }
    }
}

/// One thing that is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts in Display below say what each means and what its fields are")]
pub enum RowFault {
    // Names, numbers, references.
    BadName { name: String },
    NodeZero,
    NoVoter,
    TooManyVoters { found: usize, most: usize },
    TooMany { table: Table, found: usize, most: usize },
    TooManyCandidates { found: usize },
    VolumeIdTooLarge { id: u32 },
    DuplicateName { table: Table, name: String, other: RowKey },
    Dangling { table: Table, reference: String },
    NodeTwice { node: String },
    // Links.
    LinkIdTooLarge { id: u8 },
    LinkOfOne,
    NoRail,
    TooManyRails { found: usize },
    RailTwice { rail: u8 },
    RailIdTooLarge { rail: u8 },
    RailEnds { rail: u8 },
    RailKinds { rail: u8 },
    PairTwice { link: u8, a: String, b: String, other: LinkNumber },
    NotJoined { a: String, b: String },
    ShmAcrossHosts { a: String, b: String },
    AddressTaken { address: String, by: String, other: RowKey },
    // Disks.
    NoPort,
    PathMissing,
    PathOfMemory,
    MemoryOnTwoNodes,
    SamePath { path: String, other: RowKey },
    NoCandidate,
    DiskTaken { disk: String, by: String, other: RowKey },
    NotReached { node: String, disk: String },
    OtherMedium { primary: String, other: String },
    SizeZero,
    SizeNotBlocks { size_bytes: u64, block_bytes: u32 },
    // Volumes.
    HasDisk { name: String },
    NoParts { name: String },
    PartTwice { part: String },
    PartOfItself { part: String },
    TooHigh { name: String, storeys: usize },
    PartTaken { part: String, by: String, other: RowKey },
    PartExported { part: String, at: String },
    TooManyLegs { found: usize },
    LegsInSync { found: usize },
    BlockTooLarge { block_bytes: u32 },
    LegTooSmall { part: String, size_bytes: u64, needed_bytes: u64 },
    LegBlock { part: String, block_bytes: u32 },
    LegReadOnly { part: String },
    PartCount { found: usize },
    BadChunk { chunk_bytes: u32 },
    PartTooSmall { part: String },
    PartsTooSmall { size_bytes: u64, capacity_bytes: u64 },
    // The pool.
    Pool(PoolFault),
    // Values.
    BadMode { mode: u32 },
    BadSocketPath { path: String },
    BudgetTooSmall { bytes: u64 },
    OutOfRange { key: SettingKey },
    SuspectTooLong,
}

impl fmt::Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowFault::BadName { .. }
            | RowFault::NodeZero
            | RowFault::NoVoter
            | RowFault::TooManyVoters { .. }
            | RowFault::TooMany { .. }
            | RowFault::TooManyCandidates { .. }
            | RowFault::VolumeIdTooLarge { .. }
            | RowFault::DuplicateName { .. }
            | RowFault::Dangling { .. }
            | RowFault::NodeTwice { .. } => self.fmt_name(f),
            RowFault::LinkIdTooLarge { .. }
            | RowFault::LinkOfOne
            | RowFault::NoRail
            | RowFault::TooManyRails { .. }
            | RowFault::RailTwice { .. }
            | RowFault::RailIdTooLarge { .. }
            | RowFault::RailEnds { .. }
            | RowFault::RailKinds { .. }
            | RowFault::PairTwice { .. }
            | RowFault::NotJoined { .. }
            | RowFault::ShmAcrossHosts { .. }
            | RowFault::AddressTaken { .. } => self.fmt_link(f),
            RowFault::HasDisk { .. }
            | RowFault::NoParts { .. }
            | RowFault::PartTwice { .. }
            | RowFault::PartOfItself { .. }
            | RowFault::TooHigh { .. }
            | RowFault::PartTaken { .. }
            | RowFault::PartExported { .. }
            | RowFault::TooManyLegs { .. }
            | RowFault::LegsInSync { .. }
            | RowFault::BlockTooLarge { .. }
            | RowFault::LegTooSmall { .. }
            | RowFault::LegBlock { .. }
            | RowFault::LegReadOnly { .. }
            | RowFault::PartCount { .. }
            | RowFault::BadChunk { .. }
            | RowFault::PartTooSmall { .. }
            | RowFault::PartsTooSmall { .. } => self.fmt_volume(f),
            RowFault::Pool(fault) => fault.fmt(f),
            _ => self.fmt_disk_or_value(f),
        }
    }
}

impl RowFault {
    fn fmt_name(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowFault::BadName { name } => write!(
                f,
                "{name:?} is no name: use 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.', and not \
                 digits alone"
            ),
            RowFault::NodeZero => write!(f, "0 is no node id: number nodes from 1"),
            RowFault::NoVoter => {
                write!(f, "no node votes: let one, three or five nodes be voters (voter = true)")
            }
            RowFault::TooManyVoters { found, most } => {
                write!(f, "{found} nodes vote, {most} may: three or five are enough, let the others learn")
            }
            RowFault::TooMany { table, found, most } => {
                write!(f, "{found} rows of {table} are over the limit of {most}: leave some out")
            }
            RowFault::TooManyCandidates { found } => {
                write!(f, "{found} rows of candidate are over the limit of {CANDIDATES_MAX}: leave some out")
            }
            RowFault::VolumeIdTooLarge { id } => {
                let most = VOLUMES_MAX - 1;
                write!(f, "virtual disk id {id} is over the limit: choose one up to {most}")
            }
            RowFault::DuplicateName { table, name, other } => {
                write!(f, "{table} {name:?} is already {other}: give this one another name")
            }
            RowFault::Dangling { table, reference } => {
                write!(f, "there is no {table} {reference}: add it, or correct the reference")
            }
            RowFault::NodeTwice { node } => write!(f, "{node} is named twice: name each node once"),
            _ => Ok(()),
        }
    }

    fn fmt_link(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowFault::LinkIdTooLarge { id } => {
                write!(f, "link id {id} is over the limit: choose one up to {}", LINKS_MAX - 1)
            }
            RowFault::LinkOfOne => {
                write!(f, "a link joins two nodes or more: name them, or say nodes = \"all\"")
            }
            RowFault::NoRail => write!(f, "there is no rail: add one"),
            RowFault::TooManyRails { found } => {
                write!(f, "{found} rows of rail are over the limit of {RAILS_MAX}: leave some out")
            }
            RowFault::RailTwice { rail } => {
                write!(f, "rail {rail} is there twice: give one of them another number")
            }
            RowFault::RailIdTooLarge { rail } => {
                write!(f, "rail id {rail} is over the limit: choose one up to {}", RAILS_MAX - 1)
            }
            RowFault::RailEnds { rail } => {
                write!(f, "rail {rail} needs one end for each node of its link, and none besides: name them")
            }
            RowFault::RailKinds { rail } => {
                write!(f, "rail {rail} has ends of two kinds: use shm for all or tcp for all")
            }
            RowFault::PairTwice { link, a, b, other } => write!(
                f,
                "link {link} joins {a} and {b}, and so does the link of the same id in row {}: change one id",
                other.0
            ),
            RowFault::NotJoined { a, b } => {
                write!(f, "no link joins {a} and {b}: every two nodes need one, add them to a link")
            }
            RowFault::ShmAcrossHosts { a, b } => write!(
                f,
                "a shm rail joins {a} and {b}, whose hosts differ: shared memory stays on one machine, \
                 use tcp"
            ),
            RowFault::AddressTaken { address, by, .. } => {
                write!(f, "{address} is used already by {by}: choose another port, or another port_base")
            }
            _ => Ok(()),
        }
    }

    fn fmt_volume(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowFault::HasDisk { name } => {
                write!(f, "{name} has a disk of its own: a volume lies on other virtual disks only")
            }
            RowFault::NoParts { name } => write!(
                f,
                "{name} has no disk and lies on no parts either: name a disk, or make it with netdisk volume"
            ),
            RowFault::PartTwice { part } => write!(f, "{part} is named twice: a part serves once"),
            RowFault::PartOfItself { part } => {
                write!(f, "by way of {part} the volume would lie on itself: leave {part} out")
            }
            RowFault::TooHigh { name, storeys } => write!(
                f,
                "with {name} {storeys} volumes would lie on one another, and {STOREYS_MAX} is the limit: \
                 name virtual disks that lie on disks"
            ),
            RowFault::PartTaken { part, by, .. } => {
                write!(f, "{part} is already a part of {by}: take another one")
            }
            RowFault::PartExported { part, at } => {
                write!(f, "{part} is a part of a volume, so {at} cannot export it: export the volume instead")
            }
            RowFault::TooManyLegs { found } => {
                write!(f, "{found} legs are over the limit of {LEGS_MAX}: leave some out")
            }
            RowFault::LegsInSync { found } => write!(
                f,
                "{found} legs are in sync: a mirror has at least one, and a new one exactly one to copy from"
            ),
            RowFault::BlockTooLarge { block_bytes } => write!(
                f,
                "a block of {block_bytes} bytes is too large for a mirror: use {RECORD_BYTES} or less"
            ),
            RowFault::LegTooSmall { part, size_bytes, needed_bytes } => write!(
                f,
                "{part} has {size_bytes} bytes, a leg needs {needed_bytes} (data and map): grow it, or make \
                 the mirror smaller"
            ),
            RowFault::LegBlock { part, block_bytes } => write!(
                f,
                "{part} has blocks of {block_bytes} bytes, larger than the volume's: use a larger block \
                 for the volume"
            ),
            RowFault::LegReadOnly { part } => write!(f, "{part} is read only: a part is written"),
            RowFault::PartCount { found } => {
                write!(f, "{found} parts: a concatenation has 1 to {PARTS_MAX}, a stripe 2 to {PARTS_MAX}")
            }
            RowFault::BadChunk { chunk_bytes } => write!(
                f,
                "a chunk of {chunk_bytes} bytes will not do: use a power of two from {CHUNK_BYTES_MIN} to \
                 {CHUNK_BYTES_MAX}, not less than a block"
            ),
            RowFault::PartTooSmall { part } => {
                write!(f, "{part} has no room for one block or chunk: take a larger one")
            }
            RowFault::PartsTooSmall { size_bytes, capacity_bytes } => write!(
                f,
                "{size_bytes} bytes do not fit, the parts have {capacity_bytes} in whole blocks and chunks: \
                 take larger parts, or make the volume smaller"
            ),
            _ => Ok(()),
        }
    }

    fn fmt_disk_or_value(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowFault::NoPort => write!(f, "no node reaches the disk: name one"),
            RowFault::PathMissing => write!(
                f,
                "the disk has no absolute path of {PATH_BYTES_MAX} bytes or less: add one, or let it be \
                 memory (kind = \"memory\")"
            ),
            RowFault::PathOfMemory => write!(f, "a memory disk has no path: remove it, or change the kind"),
            RowFault::MemoryOnTwoNodes => {
                write!(f, "memory belongs to one node: name one, or use a file or device that both reach")
            }
            RowFault::SamePath { path, other } => write!(
                f,
                "{path} is also {other}: if both nodes reach one disk, declare it once with both nodes"
            ),
            RowFault::NoCandidate => write!(f, "nobody could serve the virtual disk: name a node and a disk"),
            RowFault::DiskTaken { disk, by, .. } => {
                write!(f, "disk {disk} is already behind virtual disk {by}: give this one a disk of its own")
            }
            RowFault::NotReached { node, disk } => write!(
                f,
                "{node} does not reach disk {disk}: add it to the disk's nodes, or name another node"
            ),
            RowFault::OtherMedium { primary, other } => write!(
                f,
                "primary has disk {primary}, but disk {other} is named too: they hold different bytes; all \
                 candidates must reach one dual-ported disk"
            ),
            RowFault::SizeZero => write!(f, "a disk of no bytes: give a size such as \"1GiB\""),
            RowFault::SizeNotBlocks { size_bytes, block_bytes } => {
                let fits = BlockBytes::new(*block_bytes).map_or(0, |block| u64::from(block.get()));
                let down = size_bytes - size_bytes.checked_rem(fits).unwrap_or(0);
                write!(
                    f,
                    "{size_bytes} bytes are not a multiple of the block of {block_bytes} bytes: \
                     {down} would be"
                )
            }
            RowFault::BadMode { mode } => {
                write!(f, "{mode:#o} is no file mode: use 0o000 to 0o777, with 0o in front")
            }
            RowFault::BadSocketPath { path } => write!(
                f,
                "{path:?} is no place for a socket: use an absolute path of {SOCKET_PATH_BYTES_MAX} bytes or \
                 less"
            ),
            RowFault::BudgetTooSmall { bytes } => write!(
                f,
                "a memory budget of {bytes} bytes cannot work: give {MEMORY_BUDGET_BYTES_MIN} or more"
            ),
            RowFault::OutOfRange { key } => {
                let (least, most) = key.range();
                write!(f, "{} must be {least} to {most}", key.name())
            }
            RowFault::SuspectTooLong => {
                write!(f, "suspect_ms must be below lease_ms: a node must be suspected before its lease ends")
            }
            _ => Ok(()),
        }
    }
}

coded! {
    enum SettingKey { 1 = PeriodMs, 2 = Missed, 3 = Heard, 4 = SuspectMs, 5 = LeaseMs, 6 = HungDiskMs }
    enum RowFault {
        1 = BadName { name }, 2 = NodeZero, 3 = NoVoter, 4 = TooManyVoters { found, most },
        5 = TooMany { table, found, most }, 6 = TooManyCandidates { found },
        7 = VolumeIdTooLarge { id }, 8 = DuplicateName { table, name, other },
        9 = Dangling { table, reference }, 10 = NodeTwice { node }, 20 = LinkIdTooLarge { id },
        21 = LinkOfOne, 22 = NoRail, 23 = TooManyRails { found }, 24 = RailTwice { rail },
        25 = RailIdTooLarge { rail }, 26 = RailEnds { rail }, 27 = RailKinds { rail },
        28 = PairTwice { link, a, b, other }, 29 = NotJoined { a, b }, 30 = ShmAcrossHosts { a, b },
        31 = AddressTaken { address, by, other }, 40 = NoPort, 41 = PathMissing, 42 = PathOfMemory,
        43 = MemoryOnTwoNodes, 44 = SamePath { path, other }, 45 = NoCandidate,
        46 = DiskTaken { disk, by, other }, 47 = NotReached { node, disk },
        48 = OtherMedium { primary, other }, 49 = SizeZero,
        50 = SizeNotBlocks { size_bytes, block_bytes }, 70 = HasDisk { name }, 71 = NoParts { name },
        72 = PartTwice { part }, 73 = PartOfItself { part }, 74 = PartTaken { part, by, other },
        75 = PartExported { part, at }, 76 = TooManyLegs { found }, 77 = LegsInSync { found },
        78 = BlockTooLarge { block_bytes }, 79 = LegTooSmall { part, size_bytes, needed_bytes },
        80 = LegBlock { part, block_bytes }, 81 = LegReadOnly { part }, 82 = TooHigh { name, storeys },
        83 = PartCount { found }, 84 = BadChunk { chunk_bytes }, 85 = PartTooSmall { part },
        86 = PartsTooSmall { size_bytes, capacity_bytes }, 60 = BadMode { mode },
        61 = BadSocketPath { path }, 62 = BudgetTooSmall { bytes }, 63 = OutOfRange { key },
        64 = SuspectTooLong, 100 = Pool(fault)
    }
}
