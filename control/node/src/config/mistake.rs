//! What can be wrong in a configuration file, where, and what to do about it.

use control_proto::ccd::RowKey;
use control_proto::rules::RowFault;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A place in the file. Lines and columns count from 1; line 0 means the file as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl Place {
    /// The place of a byte in a text.
    pub(super) fn of(text: &str, byte: usize) -> Place {
        let before = text.get(..byte.min(text.len())).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

/// A kind of row, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// `[[node]]`
    Node,
    /// `[[link]]`
    Link,
    /// A rail of a link.
    Rail,
    /// `[[disk]]`
    Disk,
    /// `[[virtual_disk]]`
    VirtualDisk,
    /// `[[permission]]`
    Permission,
    /// `[[nbd]]`
    Nbd,
    /// A candidate of a virtual disk.
    Candidate,
    /// `[[region]]`
    Region,
    /// `[[loan]]`
    Loan,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Row::Node => "node",
            Row::Link => "link",
            Row::Rail => "rail",
            Row::Disk => "disk",
            Row::VirtualDisk => "virtual disk",
            Row::Permission => "permission",
            Row::Nbd => "nbd server",
            Row::Candidate => "candidate",
            Row::Region => "region",
            Row::Loan => "lent volume",
        })
    }
}

/// One mistake. The text of each says what is wrong, then what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The file cannot be read.
    Unreadable {
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// No TOML, an unknown key, or a value of a wrong kind.
    Syntax {
        /// What the parser said.
        message: String,
    },
    /// This process is to be a node that the file does not have.
    NodeNotInFile {
        /// The id asked for.
        id: u16,
        /// The ids there are.
        known: String,
    },
    /// A rule that rows of whatever origin keep is broken.
    Rule {
        /// By which row.
        key: RowKey,
        /// Which one.
        fault: RowFault,
    },
    /// A mistake about the cluster's key.
    Key(KeyMistake),
    /// A mistake about names, numbers and references of rows.
    Row(RowMistake),
    /// A mistake about who is joined by what.
    Link(LinkMistake),
    /// A mistake about an address.
    Address(AddressMistake),
    /// A mistake about a disk or a virtual disk.
    Disk(DiskMistake),
    /// A mistake about a value.
    Setting(SettingMistake),
}

impl From<KeyMistake> for Mistake {
    fn from(mistake: KeyMistake) -> Mistake {
        Mistake::Key(mistake)
    }
}

impl From<RowMistake> for Mistake {
    fn from(mistake: RowMistake) -> Mistake {
        Mistake::Row(mistake)
    }
}

impl From<LinkMistake> for Mistake {
    fn from(mistake: LinkMistake) -> Mistake {
        Mistake::Link(mistake)
    }
}

impl From<AddressMistake> for Mistake {
    fn from(mistake: AddressMistake) -> Mistake {
        Mistake::Address(mistake)
    }
}

impl From<DiskMistake> for Mistake {
    fn from(mistake: DiskMistake) -> Mistake {
        Mistake::Disk(mistake)
    }
}

impl From<SettingMistake> for Mistake {
    fn from(mistake: SettingMistake) -> Mistake {
        Mistake::Setting(mistake)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mistake::Unreadable { kind } => {
                write!(f, "cannot read the configuration ({kind}): check the path")
            }
            Mistake::Syntax { message } => write!(f, "{message}"),
            Mistake::NodeNotInFile { id, known } => {
                write!(f, "node {id} is not in this configuration (it has {known}): add it, or correct --id")
            }
            Mistake::Rule { key, fault } => write!(f, "{key}: {fault}"),
            Mistake::Key(mistake) => mistake.fmt(f),
            Mistake::Row(mistake) => mistake.fmt(f),
            Mistake::Link(mistake) => mistake.fmt(f),
            Mistake::Address(mistake) => mistake.fmt(f),
            Mistake::Disk(mistake) => mistake.fmt(f),
            Mistake::Setting(mistake) => mistake.fmt(f),
        }
    }
}

/// A mistake about the cluster's key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts in Display below say what each means and what its fields are")]
pub enum KeyMistake {
    NoKey,
    TwoKeys,
    KeyUnreadable { path: PathBuf, kind: io::ErrorKind },
    KeyTooShort { bytes: usize, least: usize },
}

impl fmt::Display for KeyMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyMistake::NoKey => write!(
                f,
                "the cluster has no key: add key_file = \"cluster.key\" and make the file, the same on all \
                 nodes, with: head -c 32 /dev/urandom | base64 > cluster.key"
            ),
            KeyMistake::TwoKeys => write!(f, "both key and key_file are given: keep one"),
            KeyMistake::KeyUnreadable { path, kind } => write!(
                f,
                "cannot read key file {} ({kind}): copy it from another node, or let this user read it",
                path.display()
            ),
            KeyMistake::KeyTooShort { bytes, least } => {
                write!(f, "a key of {bytes} bytes can be guessed: use {least} bytes or more")
            }
        }
    }
}

/// A mistake about names, numbers and references of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts in Display below say what each means and what its fields are")]
pub enum RowMistake {
    BadName { name: String, bytes_max: usize },
    NodeZero,
    TooFew { row: Row },
    TooMany { row: Row, found: usize, most: usize },
    IdTooLarge { row: Row, found: u32, most: u32 },
    DuplicateId { row: Row, id: u32, first: Place },
    DuplicateName { row: Row, name: String, first: Place },
    Dangling { row: Row, reference: String },
    NodeTwice { node: String },
}

impl fmt::Display for RowMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowMistake::BadName { name, bytes_max } => write!(
                f,
                "{name:?} is no name: use 1 to {bytes_max} letters, digits, '-', '_' or '.', and not \
                 digits alone"
            ),
            RowMistake::NodeZero => write!(f, "0 is no node id: number nodes from 1"),
            RowMistake::TooFew { row } => write!(f, "there is no {row}: add one"),
            RowMistake::TooMany { row, found, most } => {
                write!(f, "{found} rows of {row} are over the limit of {most}: leave some out")
            }
            RowMistake::IdTooLarge { row, found, most } => {
                write!(f, "{row} id {found} is over the limit: choose one up to {most}")
            }
            RowMistake::DuplicateId { row, id, first } => {
                write!(f, "{row} {id} is already in line {}: give this one another id", first.line)
            }
            RowMistake::DuplicateName { row, name, first } => {
                write!(f, "{row} {name:?} is already in line {}: give this one another name", first.line)
            }
            RowMistake::Dangling { row, reference } => {
                write!(f, "there is no {row} {reference}: add it, or correct the reference")
            }
            RowMistake::NodeTwice { node } => write!(f, "{node} is named twice: name each node once"),
        }
    }
}

/// A mistake about who is joined by what.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts in Display below say what each means and what its fields are")]
pub enum LinkMistake {
    LinkOfOne,
    PairTwice { link: u8, a: String, b: String, first: Place },
    NotJoined { a: String, b: String },
    ShmAcrossHosts { a: String, b: String },
    VerbsNotBuilt,
}

impl fmt::Display for LinkMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkMistake::LinkOfOne => {
                write!(f, "a link joins two nodes or more: name them, or say nodes = \"all\"")
            }
            LinkMistake::PairTwice { link, a, b, first } => write!(
                f,
                "link {link} joins {a} and {b}, and so does the link of the same id in line {}: change \
                 one id",
                first.line
            ),
            LinkMistake::NotJoined { a, b } => {
                write!(f, "no link joins {a} and {b}: every two nodes need one, add them to a link")
            }
            LinkMistake::VerbsNotBuilt => write!(
                f,
                "this netdisk was built without verbs: build it with `--features verbs`, or use tcp"
            ),
            LinkMistake::ShmAcrossHosts { a, b } => write!(
                f,
                "a shm rail joins {a} and {b}, whose hosts differ: shared memory stays on one machine, \
                 use tcp"
            ),
        }
    }
}

/// A mistake about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts in Display below say what each means and what its fields are")]
pub enum AddressMistake {
    ShmWithAddresses,
    BadAddress { text: String },
    AddressOfStranger { node: String },
    AddressTaken { address: String, by: String, first: Place },
    PortTooLarge { node: String, port: u32 },
    BadListen { text: String },
}

impl fmt::Display for AddressMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressMistake::ShmWithAddresses => {
                write!(f, "a shm rail takes no addresses, its sockets are named by the cluster: remove them")
            }
            AddressMistake::BadAddress { text } => {
                write!(f, "{text:?} is no address: write an IP address, or IP:port ([IPv6]:port)")
            }
            AddressMistake::AddressOfStranger { node } => {
                write!(
                    f,
                    "an address is given for {node}, which is not in this link: add it to nodes or remove it"
                )
            }
            AddressMistake::AddressTaken { address, by, first } => write!(
                f,
                "{address} is used already by {by} in line {}: choose another port, or another port_base",
                first.line
            ),
            AddressMistake::PortTooLarge { node, port } => {
                write!(f, "the derived port {port} of node {node} is over 65535: give that node a port_base")
            }
            AddressMistake::BadListen { text } => {
                write!(f, "{text:?} is no place to listen: write unix:/path/of/socket or tcp:IP:port")
            }
        }
    }
}

/// A mistake about a disk or a virtual disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts in Display below say what each means and what its fields are")]
pub enum DiskMistake {
    PathMissing,
    PathOfMemory,
    PathsCount { paths: usize, nodes: usize },
    MemoryOnTwoNodes,
    SamePath { path: String, first: Place },
    DiskTaken { disk: String, by: String, first: Place },
    NoDisk,
    NoNodes,
    NodesOfDisk,
    ChunkOfNoStripe,
    TwoWays,
    NoPort { node: String, disk: String },
    OtherMedium { primary: String, other: String },
    SizeZero,
    SizeNotBlocks { size_bytes: u64, block_bytes: u32 },
    BadBlock { bytes: u32, least: u32, most: u32 },
}

impl fmt::Display for DiskMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskMistake::PathMissing => {
                write!(
                    f,
                    "the disk has no path: add path = \"…\", or kind = \"memory\" if it is to be memory"
                )
            }
            DiskMistake::PathOfMemory => {
                write!(f, "a memory disk has no path: remove it, or change the kind")
            }
            DiskMistake::PathsCount { paths, nodes } => {
                write!(f, "{paths} paths for {nodes} nodes: give one for each node, in their order")
            }
            DiskMistake::MemoryOnTwoNodes => {
                write!(f, "memory belongs to one node: name one, or use a file or device that both reach")
            }
            DiskMistake::SamePath { path, first } => write!(
                f,
                "{path} is also the disk in line {}: if both nodes reach one disk, declare it once \
                 with both nodes",
                first.line
            ),
            DiskMistake::DiskTaken { disk, by, first } => write!(
                f,
                "disk {disk} is already behind virtual disk {by} in line {}: give this one a disk of its own",
                first.line
            ),
            DiskMistake::NoDisk => {
                write!(
                    f,
                    "the virtual disk has no disk: add disk = \"…\", or primary = {{ node = …, disk = … }}"
                )
            }
            DiskMistake::NoNodes => {
                write!(f, "nobody could serve the volume: add nodes = [\"…\"], the primary first")
            }
            DiskMistake::NodesOfDisk => {
                write!(
                    f,
                    "nodes are for a mirror, concat or stripe: a disk or a primary says itself who serves"
                )
            }
            DiskMistake::ChunkOfNoStripe => write!(f, "chunk is for a stripe: leave it out"),
            DiskMistake::TwoWays => {
                write!(f, "disk, primary, mirror, concat, stripe: more than one is given, keep one way")
            }
            DiskMistake::NoPort { node, disk } => {
                write!(
                    f,
                    "{node} does not reach disk {disk}: add it to the disk's nodes, or name another node"
                )
            }
            DiskMistake::OtherMedium { primary, other } => write!(
                f,
                "primary has disk {primary}, but disk {other} is named too: they hold different bytes; \
                 all candidates must reach one dual-ported disk"
            ),
            DiskMistake::SizeZero => write!(f, "a disk of no bytes: give a size such as \"1GiB\""),
            DiskMistake::SizeNotBlocks { size_bytes, block_bytes } => write!(
                f,
                "{size_bytes} bytes are not a multiple of the block of {block_bytes} bytes: {} would be",
                size_bytes - size_bytes % u64::from(*block_bytes)
            ),
            DiskMistake::BadBlock { bytes, least, most } => {
                write!(f, "a block of {bytes} bytes: use a power of two from {least} to {most}")
            }
        }
    }
}

/// A mistake about a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts in Display below say what each means and what its fields are")]
pub enum SettingMistake {
    BadMode { mode: u32 },
    BudgetTooSmall { bytes: u64, least: u64 },
    TimeOutOfRange { key: &'static str, least: u64, most: u64 },
    SuspectTooLong,
}

impl fmt::Display for SettingMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingMistake::BadMode { mode } => {
                write!(f, "{mode:#o} is no file mode: use 0o000 to 0o777, with 0o in front")
            }
            SettingMistake::BudgetTooSmall { bytes, least } => {
                write!(f, "a memory budget of {bytes} bytes cannot work: give {least} or more")
            }
            SettingMistake::TimeOutOfRange { key, least, most } => {
                write!(f, "{key} must be {least} to {most}")
            }
            SettingMistake::SuspectTooLong => {
                write!(f, "suspect_ms must be below lease_ms: a node must be suspected before its lease ends")
            }
        }
    }
}

/// A mistake and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// Where.
    pub place: Place,
    /// What.
    pub mistake: Mistake,
}

/// Why a configuration cannot be used: all mistakes that were found, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFaults {
    /// The file.
    pub file: PathBuf,
    /// At least one.
    pub faults: Vec<ConfigFault>,
}

impl ConfigFaults {
    pub(super) fn one(file: &Path, place: Place, mistake: Mistake) -> ConfigFaults {
        ConfigFaults { file: file.to_path_buf(), faults: vec![ConfigFault { place, mistake }] }
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let newline = if index > 0 { "\n" } else { "" };
            write!(f, "{newline}{}", self.file.display())?;
            if fault.place.line > 0 {
                write!(f, ":{}:{}", fault.place.line, fault.place.column)?;
            }
            write!(f, ": {}", fault.mistake)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}
