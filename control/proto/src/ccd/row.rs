//! Any row of the database, its key, and a change of it.

use super::format::FormatRow;
use super::members::MembershipRow;
use super::reconfiguration::{Reconfiguration, ReconfigurationId};
use super::reservation::ReservationRow;
use super::token::{TokenHash, TokenRow};
use super::tombstone::Tombstone;
use crate::codec::coded;
use crate::pool::{LoanId, LoanRow, RegionId, RegionRow};
use crate::rows::{
    ClusterRows, DiskKind, DiskPort, DiskRow, LegRow, LinkNumber, LinkRow, LostQuorum, MembershipTimes,
    MirrorShape, NbdAddress, NbdRow, NodeRow, PermissionRow, RailAddress, RailEnd, RailRow, Shape,
    StaleReason, StripeShape, VirtualDiskRow, VolumeRow,
};
use crate::view::{BrokenPath, Member};
use alloc::string::String;
use alloc::vec::Vec;
use blockdev_proto::geometry::{DiskId, VolumeId};
use blockdev_proto::mirror::LegState;
use core::fmt;
use transport_proto::connectivity;
use transport_proto::identity::NodeId;
use transport_proto::route::Spread;

/// The tables. Their numbers are for ever: snapshots name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Nodes.
    Nodes,
    /// Logical links with their rails.
    Links,
    /// Disks and who reaches them.
    Disks,
    /// Virtual disks.
    VirtualDisks,
    /// Who may open a virtual disk.
    Permissions,
    /// NBD servers.
    Nbd,
    /// Settings of the cluster as a whole; one row.
    Settings,
    /// How each table is changed.
    Formats,
    /// Who is a member; one row.
    Membership,
    /// Changes that wait for the acknowledgement of members, and the last ones that did.
    Reconfigurations,
    /// Nodes that gave up and stay out.
    Tombstones,
    /// Invitations to join.
    Tokens,
    /// Virtual disks that lie on others.
    Volumes,
    /// Who is registered with, and who holds, which virtual disk.
    Reservations,
    /// Spare storage that nodes lend.
    Regions,
    /// Volumes that are lent on it.
    Loans,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 16] = [
        Table::Nodes,
        Table::Links,
        Table::Disks,
        Table::VirtualDisks,
        Table::Permissions,
        Table::Nbd,
        Table::Settings,
        Table::Formats,
        Table::Membership,
        Table::Reconfigurations,
        Table::Tombstones,
        Table::Tokens,
        Table::Volumes,
        Table::Reservations,
        Table::Regions,
        Table::Loans,
    ];

    /// What one of its rows is called.
    pub const fn row_name(self) -> &'static str {
        match self {
            Table::Nodes => "node",
            Table::Links => "link",
            Table::Disks => "disk",
            Table::VirtualDisks => "virtual disk",
            Table::Permissions => "permission",
            Table::Nbd => "nbd server",
            Table::Settings => "settings",
            Table::Formats => "format",
            Table::Membership => "membership",
            Table::Reconfigurations => "reconfiguration",
            Table::Tombstones => "tombstone",
            Table::Tokens => "token",
            Table::Volumes => "volume",
            Table::Reservations => "reservation",
            Table::Regions => "region",
            Table::Loans => "lent volume",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row_name())
    }
}

/// Settings of the cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsRow {
    /// Name of the cluster; given once, since its keys are derived from it.
    pub name: String,
    /// How messages to one peer are spread over its links.
    pub spread: Spread,
    /// Memory that one node may use for transport and I/O, bytes.
    pub memory_budget_bytes: u64,
    /// How rails are watched.
    pub connectivity: connectivity::Settings,
    /// How members are watched.
    pub membership: MembershipTimes,
}

/// What tells a row from the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// A node.
    Node(NodeId),
    /// A link.
    Link(LinkNumber),
    /// A disk.
    Disk(DiskId),
    /// A virtual disk.
    VirtualDisk(VolumeId),
    /// The permission of a virtual disk.
    Permission(VolumeId),
    /// An NBD server.
    Nbd {
        /// Its node.
        node: NodeId,
        /// Where it listens.
        listen: NbdAddress,
    },
    /// The settings.
    Settings,
    /// The format of a table.
    Format(Table),
    /// The membership.
    Membership,
    /// A reconfiguration.
    Reconfiguration(ReconfigurationId),
    /// The tombstone of a node.
    Tombstone(NodeId),
    /// An invitation.
    Token(TokenHash),
    /// What a virtual disk lies on.
    Volume(VolumeId),
    /// The reservations of a virtual disk.
    Reservation(VolumeId),
    /// Spare storage.
    Region(RegionId),
    /// A volume that is lent.
    Loan(LoanId),
}

impl RowKey {
    /// The table that such a row is in.
    pub fn table(&self) -> Table {
        match self {
            RowKey::Node(_) => Table::Nodes,
            RowKey::Link(_) => Table::Links,
            RowKey::Disk(_) => Table::Disks,
            RowKey::VirtualDisk(_) => Table::VirtualDisks,
            RowKey::Permission(_) => Table::Permissions,
            RowKey::Nbd { .. } => Table::Nbd,
            RowKey::Settings => Table::Settings,
            RowKey::Format(_) => Table::Formats,
            RowKey::Membership => Table::Membership,
            RowKey::Reconfiguration(_) => Table::Reconfigurations,
            RowKey::Tombstone(_) => Table::Tombstones,
            RowKey::Token(_) => Table::Tokens,
            RowKey::Volume(_) => Table::Volumes,
            RowKey::Reservation(_) => Table::Reservations,
            RowKey::Region(_) => Table::Regions,
            RowKey::Loan(_) => Table::Loans,
        }
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowKey::Node(id) => write!(f, "node {}", id.0),
            RowKey::Link(number) => write!(f, "link {}", number.0),
            RowKey::Disk(id) => write!(f, "disk {}", id.0),
            RowKey::VirtualDisk(id) => write!(f, "virtual disk {}", id.0),
            RowKey::Permission(id) => write!(f, "the permission of virtual disk {}", id.0),
            RowKey::Nbd { node, listen } => write!(f, "the nbd server of node {} at {listen}", node.0),
            RowKey::Settings => f.write_str("the settings"),
            RowKey::Format(table) => write!(f, "the format of table {table}"),
            RowKey::Membership => f.write_str("the membership"),
            RowKey::Reconfiguration(id) => write!(f, "reconfiguration {}", id.0),
            RowKey::Tombstone(node) => write!(f, "the tombstone of node {}", node.0),
            RowKey::Token(hash) => write!(f, "token {hash}"),
            RowKey::Volume(id) => write!(f, "volume {}", id.0),
            RowKey::Reservation(id) => write!(f, "the reservations of virtual disk {}", id.0),
            RowKey::Region(id) => write!(f, "region {}", id.0),
            RowKey::Loan(id) => write!(f, "lent volume {}", id.0),
        }
    }
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NbdAddress::Unix(path) => write!(f, "unix:{path}"),
            NbdAddress::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// A row of any table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named after what it holds")]
pub enum Row {
    Node(NodeRow),
    Link(LinkRow),
    Disk(DiskRow),
    VirtualDisk(VirtualDiskRow),
    Permission(PermissionRow),
    Nbd(NbdRow),
    Settings(SettingsRow),
    Format(FormatRow),
    Membership(MembershipRow),
    Reconfiguration(Reconfiguration),
    Tombstone(Tombstone),
    Token(TokenRow),
    Volume(VolumeRow),
    Reservation(ReservationRow),
    Region(RegionRow),
    Loan(LoanRow),
}

impl Row {
    /// Its key.
    pub fn key(&self) -> RowKey {
        match self {
            Row::Node(row) => RowKey::Node(row.id),
            Row::Link(row) => RowKey::Link(row.number),
            Row::Disk(row) => RowKey::Disk(row.id),
            Row::VirtualDisk(row) => RowKey::VirtualDisk(row.id),
            Row::Permission(row) => RowKey::Permission(row.volume),
            Row::Nbd(row) => RowKey::Nbd { node: row.node, listen: row.listen.clone() },
            Row::Settings(_) => RowKey::Settings,
            Row::Format(row) => RowKey::Format(row.table),
            Row::Membership(_) => RowKey::Membership,
            Row::Reconfiguration(row) => RowKey::Reconfiguration(row.id),
            Row::Tombstone(row) => RowKey::Tombstone(row.member.node),
            Row::Token(row) => RowKey::Token(row.hash),
            Row::Volume(row) => RowKey::Volume(row.volume),
            Row::Reservation(row) => RowKey::Reservation(row.volume),
            Row::Region(row) => RowKey::Region(row.id),
            Row::Loan(row) => RowKey::Loan(row.id),
        }
    }
}

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// The row is to be there like this, whether or not it was there before.
    Put(Row),
    /// The row is to be gone.
    Remove(RowKey),
}

impl RowChange {
    /// Which row.
    pub fn key(&self) -> RowKey {
        match self {
            RowChange::Put(row) => row.key(),
            RowChange::Remove(key) => key.clone(),
        }
    }
}

/// Puts a row into a list that is sorted by `key`; the row that was in its place comes back.
fn put_sorted<T, K: Ord>(list: &mut Vec<T>, row: T, key: impl Fn(&T) -> K) -> Option<T> {
    let wanted = key(&row);
    match list.binary_search_by(|other| key(other).cmp(&wanted)) {
        Ok(place) => Some(core::mem::replace(&mut list[place], row)),
        Err(place) => {
            list.insert(place, row);
            None
        }
    }
}

fn remove_sorted<T, K: Ord>(list: &mut Vec<T>, wanted: &K, key: impl Fn(&T) -> K) -> Option<T> {
    let place = list.binary_search_by(|other| key(other).cmp(wanted)).ok()?;
    Some(list.remove(place))
}

impl ClusterRows {
    /// The settings as a row.
    pub fn settings(&self) -> SettingsRow {
        SettingsRow {
            name: self.name.clone(),
            spread: self.spread,
            memory_budget_bytes: self.memory_budget_bytes,
            connectivity: self.connectivity,
            membership: self.membership,
        }
    }

    /// A configured row; `None` also for rows that are not configured but come about.
    pub fn row(&self, key: &RowKey) -> Option<Row> {
        match key {
            RowKey::Node(id) => self.node(*id).cloned().map(Row::Node),
            RowKey::Link(number) => self.link(*number).cloned().map(Row::Link),
            RowKey::Disk(id) => self.disk(*id).cloned().map(Row::Disk),
            RowKey::VirtualDisk(id) => self.virtual_disk(*id).cloned().map(Row::VirtualDisk),
            RowKey::Volume(id) => self.volume(*id).cloned().map(Row::Volume),
            RowKey::Region(id) => self.region(*id).cloned().map(Row::Region),
            RowKey::Loan(id) => self.loan(*id).cloned().map(Row::Loan),
            RowKey::Permission(id) => self.permission(*id).cloned().map(Row::Permission),
            RowKey::Nbd { node, listen } => self.nbd_server(*node, listen).cloned().map(Row::Nbd),
            RowKey::Settings => Some(Row::Settings(self.settings())),
            _ => None,
        }
    }

    /// Every configured row, table by table, the settings first.
    pub fn all_rows(&self) -> impl Iterator<Item = Row> + '_ {
        core::iter::once(Row::Settings(self.settings()))
            .chain(self.nodes.iter().cloned().map(Row::Node))
            .chain(self.links.iter().cloned().map(Row::Link))
            .chain(self.disks.iter().cloned().map(Row::Disk))
            .chain(self.virtual_disks.iter().cloned().map(Row::VirtualDisk))
            .chain(self.volumes.iter().cloned().map(Row::Volume))
            .chain(self.permissions.iter().cloned().map(Row::Permission))
            .chain(self.nbd.iter().cloned().map(Row::Nbd))
            .chain(self.regions.iter().cloned().map(Row::Region))
            .chain(self.loans.iter().cloned().map(Row::Loan))
    }

    /// Puts a configured row into its place, unchecked. The row that was there comes back.
    ///
    /// # Panics
    /// If the row is of a table that is not configured.
    pub fn put(&mut self, row: Row) -> Option<Row> {
        match row {
            Row::Node(row) => put_sorted(&mut self.nodes, row, |row| row.id).map(Row::Node),
            Row::Link(row) => put_sorted(&mut self.links, row, |row| row.number).map(Row::Link),
            Row::Disk(row) => put_sorted(&mut self.disks, row, |row| row.id).map(Row::Disk),
            Row::VirtualDisk(row) => {
                put_sorted(&mut self.virtual_disks, row, |row| row.id).map(Row::VirtualDisk)
            }
            Row::Volume(row) => put_sorted(&mut self.volumes, row, |row| row.volume).map(Row::Volume),
            Row::Region(row) => put_sorted(&mut self.regions, row, |row| row.id).map(Row::Region),
            Row::Loan(row) => put_sorted(&mut self.loans, row, |row| row.id).map(Row::Loan),
            Row::Permission(row) => {
                put_sorted(&mut self.permissions, row, |row| row.volume).map(Row::Permission)
            }
            Row::Nbd(row) => {
                put_sorted(&mut self.nbd, row, |row| (row.node, row.listen.clone())).map(Row::Nbd)
            }
            Row::Settings(row) => {
                let before = self.settings();
                (self.name, self.spread) = (row.name, row.spread);
                self.memory_budget_bytes = row.memory_budget_bytes;
                (self.connectivity, self.membership) = (row.connectivity, row.membership);
                Some(Row::Settings(before))
            }
            row => panic!("{} is not configured by hand", row.key()),
        }
    }

    /// Takes a configured row out, unchecked. The settings always stay.
    pub fn remove(&mut self, key: &RowKey) -> Option<Row> {
        match key {
            RowKey::Node(id) => remove_sorted(&mut self.nodes, id, |row| row.id).map(Row::Node),
            RowKey::Link(number) => remove_sorted(&mut self.links, number, |row| row.number).map(Row::Link),
            RowKey::Disk(id) => remove_sorted(&mut self.disks, id, |row| row.id).map(Row::Disk),
            RowKey::VirtualDisk(id) => {
                remove_sorted(&mut self.virtual_disks, id, |row| row.id).map(Row::VirtualDisk)
            }
            RowKey::Volume(id) => remove_sorted(&mut self.volumes, id, |row| row.volume).map(Row::Volume),
            RowKey::Region(id) => remove_sorted(&mut self.regions, id, |row| row.id).map(Row::Region),
            RowKey::Loan(id) => remove_sorted(&mut self.loans, id, |row| row.id).map(Row::Loan),
            RowKey::Permission(id) => {
                remove_sorted(&mut self.permissions, id, |row| row.volume).map(Row::Permission)
            }
            RowKey::Nbd { node, listen } => {
                let place = self.nbd.binary_search_by(|row| (row.node, &row.listen).cmp(&(*node, listen)));
                place.ok().map(|place| Row::Nbd(self.nbd.remove(place)))
            }
            _ => None,
        }
    }
}

coded! {
    struct NodeRow { id, name, host, voter }
    struct RailEnd { node, address, heartbeat }
    struct RailRow { id, ends }
    struct LinkRow { number, id, nodes, rails }
    struct DiskPort { node, path }
    struct DiskRow { id, name, kind, ports }
    struct VirtualDiskRow { id, name, candidates, size_bytes, block_bytes, read_only, on_lost_quorum }
    struct PermissionRow { volume, owner, group, mode, nodes }
    struct VolumeRow { volume, shape }
    struct MirrorShape { instance, fresh, legs }
    struct StripeShape { chunk_bytes, parts }
    struct LegRow { volume, identity, state, why }
    struct NbdRow { node, listen, exports }
    struct SettingsRow { name, spread, memory_budget_bytes, connectivity, membership }
    struct MembershipTimes { suspect, lease, hung_disk }
    struct Member { node, incarnation }
    struct BrokenPath { node, disk }
}

use connectivity::Settings as ConnectivitySettings;
coded! {
    struct ConnectivitySettings {
        period, missed_down, heard_up, forget_rounds, hold_first, hold_max, calm, sticky
    }
}

coded! {
    newtype LinkNumber
}

coded! {
    enum RailAddress { 1 = Shm(name), 2 = Tcp(address), 3 = Verbs(address) }
    enum NbdAddress { 1 = Unix(path), 2 = Tcp(address) }
    enum DiskKind { 1 = File, 2 = Raw, 3 = Memory }
    enum LostQuorum { 1 = Suspend, 2 = Fail }
    enum LegState { 1 = InSync, 2 = Stale }
    enum StaleReason { 1 = New, 2 = Unreachable, 3 = Failed, 4 = Lost, 5 = Operator }
    enum Shape { 1 = Mirror(shape), 2 = Concatenation(parts), 3 = Stripe(shape) }
    enum Spread {
        1 = Single, 2 = Home, 3 = RoundRobin, 4 = LeastInFlight, 5 = LowestLatency, 6 = Stripe
    }
    enum Table {
        1 = Nodes, 2 = Links, 3 = Disks, 4 = VirtualDisks, 5 = Permissions, 6 = Nbd, 7 = Settings,
        8 = Formats, 9 = Membership, 10 = Reconfigurations, 11 = Tombstones, 12 = Tokens,
        13 = Volumes, 14 = Reservations, 20 = Regions, 21 = Loans
    }
    enum RowKey {
        1 = Node(id), 2 = Link(number), 3 = Disk(id), 4 = VirtualDisk(id), 5 = Permission(id),
        6 = Nbd { node, listen }, 7 = Settings, 8 = Format(table), 9 = Membership,
        10 = Reconfiguration(id), 11 = Tombstone(node), 12 = Token(hash), 13 = Volume(id),
        14 = Reservation(id), 20 = Region(id), 21 = Loan(id)
    }
    enum Row {
        1 = Node(row), 2 = Link(row), 3 = Disk(row), 4 = VirtualDisk(row), 5 = Permission(row),
        6 = Nbd(row), 7 = Settings(row), 8 = Format(row), 9 = Membership(row),
        10 = Reconfiguration(row), 11 = Tombstone(row), 12 = Token(row), 13 = Volume(row),
        14 = Reservation(row), 20 = Region(row), 21 = Loan(row)
    }
    enum RowChange { 1 = Put(row), 2 = Remove(key) }
}
