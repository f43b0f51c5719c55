//! The whole database as bytes, and back.
//!
//! Shape: magic, format, then sections, each with a number, a version and a length, then a CRC-32C over all
//! of it. A section is a table or one of the few lists that are none. A new table is a new section and a
//! changed row a new version of its section, neither a new format: a release that does not know a section
//! says which, one that knows an older version reads it.

use super::database::{Database, VolumeState};
use super::event::Events;
use super::format::FormatRow;
use super::members::MembershipRow;
use super::reconfiguration::Reconfiguration;
use super::reservation::ReservationRow;
use super::row::{RowKey, SettingsRow, Table};
use super::session::{Session, Sessions};
use super::token::TokenRow;
use super::tombstone::Tombstone;
use crate::codec::{CodeFault, Coded, Reader, Writer, coded};
use crate::pool::{LoanRow, RegionRow};
use crate::protocol_rules::ProtocolRules;
use crate::rows::{
    ClusterRows, DiskRow, LinkRow, LostQuorum, NbdRow, NodeRow, PermissionRow, VirtualDiskRow, VolumeRow,
};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use blockdev_proto::checksum::crc32c;
use blockdev_proto::geometry::VolumeId;
use core::fmt;
use transport_proto::identity::Epoch;

/// Version of the frame around the sections.
pub const SNAPSHOT_FORMAT: u16 = 1;
const MAGIC: &[u8; 8] = b"ndccdsnp";

/// Sections that are no tables.
const SECTION_POSITION: u16 = 100;
const SECTION_REVISIONS: u16 = 101;
const SECTION_VOLUMES: u16 = 102;
const SECTION_SESSIONS: u16 = 103;

/// Why bytes are no snapshot that this release can use. The file they came from is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotFault {
    /// Not netdisk's.
    Foreign,
    /// Of another format.
    Format {
        /// The format found.
        found: u16,
    },
    /// The checksum does not fit.
    Damaged,
    /// A section that this release does not know.
    Section {
        /// Its number.
        found: u16,
    },
    /// A section of a version that this release does not know.
    Version {
        /// Its number.
        section: u16,
        /// The version found.
        found: u16,
    },
    /// What is in a section cannot be read, although the checksum fits.
    Content {
        /// Its number.
        section: u16,
        /// Why not.
        fault: CodeFault,
    },
}

impl fmt::Display for SnapshotFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotFault::Foreign => {
                write!(f, "this is no snapshot of netdisk's database: check the path, nothing was changed")
            }
            SnapshotFault::Format { found } => write!(
                f,
                "a snapshot of format {found}, this release reads {SNAPSHOT_FORMAT}: run the release that \
                 wrote it, or a newer one"
            ),
            SnapshotFault::Damaged => write!(
                f,
                "the snapshot is damaged: let the node get one from the others (start it with an empty \
                 state folder and join)"
            ),
            SnapshotFault::Section { found } => write!(
                f,
                "the snapshot has a table ({found}) that this release does not know: run the release that \
                 wrote it, or a newer one"
            ),
            SnapshotFault::Version { section, found } => write!(
                f,
                "table {section} of the snapshot is of version {found}, which this release does not know: \
                 run the release that wrote it, or a newer one"
            ),
            SnapshotFault::Content { section, fault } => {
                write!(f, "table {section} of the snapshot: {fault}")
            }
        }
    }
}

impl core::error::Error for SnapshotFault {}

/// Where the database stands.
struct Position {
    index: u64,
    base: u64,
    number: Epoch,
}

coded! {
    struct Position { index, base, number }
    struct VolumeState { changed, suspended_by }
}

impl Table {
    fn section(self) -> u16 {
        u16::from(self.to_bytes()[0])
    }
}

impl<R: ProtocolRules> Database<R> {
    /// The database as bytes; equal databases have equal ones.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(MAGIC);
        SNAPSHOT_FORMAT.put(&mut out);
        let position = Position { index: self.index, base: self.base, number: self.number };
        section(&mut out, SECTION_POSITION, 1, |out| position.put(out));
        for table in Table::ALL {
            section(&mut out, table.section(), table.version(), |out| self.put_table(table, out));
        }
        section(&mut out, SECTION_REVISIONS, 1, |out| put_pairs(&self.revisions, out));
        section(&mut out, SECTION_VOLUMES, 1, |out| put_pairs(&self.volumes, out));
        section(&mut out, SECTION_SESSIONS, 1, |out| put_list(self.sessions.0.values(), out));
        crc32c(&out.0).put(&mut out);
        out.0
    }

    fn put_table(&self, table: Table, out: &mut Writer) {
        let rows = &*self.rows;
        match table {
            Table::Nodes => rows.nodes.put(out),
            Table::Links => rows.links.put(out),
            Table::Disks => rows.disks.put(out),
            Table::VirtualDisks => rows.virtual_disks.put(out),
            Table::Permissions => rows.permissions.put(out),
            Table::Nbd => rows.nbd.put(out),
            Table::Settings => rows.settings().put(out),
            Table::Formats => put_list(self.formats.values(), out),
            Table::Membership => self.membership.put(out),
            Table::Reconfigurations => put_list(self.reconfigurations.values(), out),
            Table::Tombstones => put_list(self.tombstones.values(), out),
            Table::Tokens => put_list(self.tokens.values(), out),
            Table::Volumes => rows.volumes.put(out),
            Table::Reservations => put_list(self.reservations.values(), out),
            Table::Regions => rows.regions.put(out),
            Table::Loans => rows.loans.put(out),
        }
    }

    /// Reads what [`Database::snapshot`] wrote, also by an older release. Never panics, whatever the bytes.
    pub fn restore(bytes: &[u8]) -> Result<Database<R>, SnapshotFault> {
        let content = bytes.strip_prefix(MAGIC).ok_or(SnapshotFault::Foreign)?;
        let (format, _) = content.split_first_chunk::<2>().ok_or(SnapshotFault::Damaged)?;
        let found = u16::from_le_bytes(*format);
        if found != SNAPSHOT_FORMAT {
            return Err(SnapshotFault::Format { found });
        }
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(SnapshotFault::Damaged)?;
        if crc32c(body) != u32::from_le_bytes(*sum) {
            return Err(SnapshotFault::Damaged);
        }
        let mut from = Reader(body.get(MAGIC.len() + 2..).ok_or(SnapshotFault::Damaged)?);
        let mut database = Database::of_rows(ClusterRows::empty(""));
        while !from.0.is_empty() {
            let head = |fault| SnapshotFault::Content { section: 0, fault };
            let number = u16::take(&mut from).map_err(head)?;
            let version = u16::take(&mut from).map_err(head)?;
            let length = u32::take(&mut from).map_err(head)? as usize;
            let content = from.take(length).map_err(head)?;
            database.read_section(number, version, content)?;
        }
        database.events = Events::begin(database.index);
        Ok(database)
    }

    fn read_section(&mut self, number: u16, version: u16, bytes: &[u8]) -> Result<(), SnapshotFault> {
        let table = Table::ALL.into_iter().find(|table| table.section() == number);
        let latest = match (table, number) {
            (Some(table), _) => table.version(),
            (None, SECTION_POSITION..=SECTION_SESSIONS) => 1,
            (None, found) => return Err(SnapshotFault::Section { found }),
        };
        if version == 0 || version > latest {
            return Err(SnapshotFault::Version { section: number, found: version });
        }
        let mut from = Reader(bytes);
        let read = match table {
            Some(table) => self.take_table(table, version, &mut from),
            None => self.take_list(number, &mut from),
        };
        read.and_then(|()| from.end()).map_err(|fault| SnapshotFault::Content { section: number, fault })
    }

    fn take_list(&mut self, number: u16, from: &mut Reader<'_>) -> Result<(), CodeFault> {
        match number {
            SECTION_POSITION => {
                let position = Position::take(from)?;
                (self.index, self.base, self.number) = (position.index, position.base, position.number);
            }
            SECTION_REVISIONS => self.revisions = Vec::<(RowKey, u64)>::take(from)?.into_iter().collect(),
            SECTION_VOLUMES => {
                let states: BTreeMap<_, _> =
                    Vec::<(VolumeId, VolumeState)>::take(from)?.into_iter().collect();
                self.volumes = Arc::new(states);
            }
            _ => {
                let sessions = Vec::<Session>::take(from)?;
                self.sessions = Sessions(sessions.into_iter().map(|one| (one.node, one)).collect());
            }
        }
        Ok(())
    }

    fn take_table(&mut self, table: Table, version: u16, from: &mut Reader<'_>) -> Result<(), CodeFault> {
        let rows = Arc::make_mut(&mut self.rows);
        match table {
            Table::Nodes if version == 1 => {
                rows.nodes = Vec::<NodeRowV1>::take(from)?.into_iter().map(NodeRowV1::now).collect();
                // They all had a say before there were voters.
                let ids: Vec<_> = rows.nodes.iter().map(|row| row.id).collect();
                let voters = crate::rows::voters_usual(&ids);
                rows.nodes.iter_mut().for_each(|row| row.voter = voters.contains(&row.id));
            }
            Table::Nodes => rows.nodes = Vec::<NodeRow>::take(from)?,
            Table::Links => rows.links = Vec::<LinkRow>::take(from)?,
            Table::Disks => rows.disks = Vec::<DiskRow>::take(from)?,
            Table::VirtualDisks if version == 1 => {
                let old = Vec::<VirtualDiskRowV1>::take(from)?;
                rows.virtual_disks = old.into_iter().map(VirtualDiskRowV1::now).collect();
            }
            Table::VirtualDisks => rows.virtual_disks = Vec::<VirtualDiskRow>::take(from)?,
            Table::Volumes => rows.volumes = Vec::<VolumeRow>::take(from)?,
            Table::Reservations => {
                let list = Vec::<ReservationRow>::take(from)?;
                self.reservations = list.into_iter().map(|row| (row.volume, row)).collect();
            }
            Table::Regions => rows.regions = Vec::<RegionRow>::take(from)?,
            Table::Loans => rows.loans = Vec::<LoanRow>::take(from)?,
            Table::Permissions => rows.permissions = Vec::<PermissionRow>::take(from)?,
            Table::Nbd => rows.nbd = Vec::<NbdRow>::take(from)?,
            Table::Settings => {
                let settings = SettingsRow::take(from)?;
                rows.put(super::row::Row::Settings(settings));
            }
            Table::Formats => {
                let formats = Vec::<FormatRow>::take(from)?;
                // What an older release said of versions is what it wrote; this one writes its own.
                let now = |row: FormatRow| FormatRow { version: row.table.version(), ..row };
                self.formats.extend(formats.into_iter().map(|row| (row.table, now(row))));
            }
            Table::Membership => self.membership = MembershipRow::take(from)?,
            Table::Reconfigurations => {
                let list = Vec::<Reconfiguration>::take(from)?;
                self.reconfigurations = list.into_iter().map(|row| (row.id, row)).collect();
            }
            Table::Tombstones => {
                let list = Vec::<Tombstone>::take(from)?;
                self.tombstones = list.into_iter().map(|row| (row.member.node, row)).collect();
            }
            Table::Tokens => {
                let list = Vec::<TokenRow>::take(from)?;
                self.tokens = list.into_iter().map(|row| (row.hash, row)).collect();
            }
        }
        // Look-ups rely on the order.
        Arc::make_mut(&mut self.rows).sort();
        Ok(())
    }
}

fn section(out: &mut Writer, number: u16, version: u16, content: impl FnOnce(&mut Writer)) {
    number.put(out);
    version.put(out);
    let place = out.0.len();
    0u32.put(out);
    content(out);
    let length = (out.0.len() - place - 4) as u32;
    out.0[place..place + 4].copy_from_slice(&length.to_le_bytes());
}

fn put_list<'a, T: Coded + 'a>(rows: impl ExactSizeIterator<Item = &'a T>, out: &mut Writer) {
    (rows.len() as u32).put(out);
    rows.for_each(|row| row.put(out));
}

fn put_pairs<K: Coded, V: Coded>(pairs: &BTreeMap<K, V>, out: &mut Writer) {
    (pairs.len() as u32).put(out);
    for (key, value) in pairs {
        key.put(out);
        value.put(out);
    }
}

/// A node before there were voters.
pub(super) struct NodeRowV1 {
    pub(super) id: transport_proto::identity::NodeId,
    pub(super) name: alloc::string::String,
    pub(super) host: core::net::IpAddr,
}

impl NodeRowV1 {
    fn now(self) -> NodeRow {
        NodeRow { id: self.id, name: self.name, host: self.host, voter: false }
    }
}

/// A virtual disk before it had a policy for lost quorum: requests waited.
pub(super) struct VirtualDiskRowV1 {
    pub(super) id: VolumeId,
    pub(super) name: alloc::string::String,
    pub(super) candidates: Vec<(transport_proto::identity::NodeId, blockdev_proto::geometry::DiskId)>,
    pub(super) size_bytes: u64,
    pub(super) block_bytes: blockdev_proto::geometry::BlockBytes,
    pub(super) read_only: bool,
}

impl VirtualDiskRowV1 {
    fn now(self) -> VirtualDiskRow {
        VirtualDiskRow {
            id: self.id,
            name: self.name,
            candidates: self.candidates,
            size_bytes: self.size_bytes,
            block_bytes: self.block_bytes,
            read_only: self.read_only,
            on_lost_quorum: LostQuorum::Suspend,
        }
    }
}

coded! {
    struct NodeRowV1 { id, name, host }
    struct VirtualDiskRowV1 { id, name, candidates, size_bytes, block_bytes, read_only }
}
