//! From the document to the rows: nodes, key, permissions, servers, times. Links and disks have modules of
//! their own.

use super::addresses::{AddressUses, Transport};
use super::document::{
    Document, HeartbeatSection, MembershipSection, NbdSection, NodeSection, PermissionSection, Reference,
    Selection, Spanned, SpreadName,
};
use super::{
    AddressMistake, Config, ConfigFault, ConfigFaults, KeyMistake, Mistake, Place, Row, RowMistake,
    SettingMistake,
};
use crate::scheme::PORT_BASE_USUAL;
use blockdev_proto::geometry::VolumeId;
use control_proto::rows::{
    ClusterRows, MEMORY_BUDGET_BYTES_MIN, MEMORY_BUDGET_BYTES_USUAL, MembershipTimes, NAME_BYTES_MAX,
    NBD_SERVERS_MAX, NODES_MAX, NbdAddress, NbdRow, NodeRow, PermissionRow, VirtualDiskRow, VolumeRow,
    voters_usual,
};
use control_proto::rules;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use transport_proto::cluster_key::{ClusterKey, SECRET_BYTES_MIN};
use transport_proto::connectivity::Settings;
use transport_proto::identity::NodeId;
use transport_proto::route::Spread;

/// A node with what its addresses are derived from.
pub(super) struct NodeEntry {
    pub(super) row: NodeRow,
    pub(super) place: Place,
    /// First port of the node; `None`: by the cluster's rule.
    pub(super) port_base: Option<u16>,
}

/// One reading of a file. Mistakes are gathered; a part with a mistake is left out of the rows, which are
/// then not handed out.
pub(super) struct Check<'a> {
    file: &'a Path,
    text: &'a str,
    faults: Vec<ConfigFault>,
    pub(super) nodes: Vec<NodeEntry>,
    pub(super) uses: AddressUses,
}

impl<'a> Check<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Check<'a> {
        Check { file, text, faults: Vec::new(), nodes: Vec::new(), uses: AddressUses::default() }
    }

    /// Rows and key.
    pub(super) fn run(mut self, document: &Document) -> Result<Config, ConfigFaults> {
        let key = self.key(document);
        let file = self.file.to_path_buf();
        let rows = self.rows(document);
        match key {
            Some(key) if self.faults.is_empty() => Ok(Config { file, rows, key }),
            _ => Err(self.into_faults()),
        }
    }

    /// Rows alone; a key may be left out and is not looked at.
    pub(super) fn run_keyless(mut self, document: &Document) -> Result<ClusterRows, ConfigFaults> {
        let rows = self.rows(document);
        if self.faults.is_empty() { Ok(rows) } else { Err(self.into_faults()) }
    }

    fn into_faults(mut self) -> ConfigFaults {
        self.faults.sort_by_key(|fault| fault.place);
        ConfigFaults { file: self.file.to_path_buf(), faults: self.faults }
    }

    fn rows(&mut self, document: &Document) -> ClusterRows {
        let cluster = document.cluster.get_ref();
        let name = self.name(&cluster.name);
        self.read_nodes(&document.node, self.place(&document.cluster));
        let cluster_port_base = cluster.port_base.unwrap_or(PORT_BASE_USUAL);
        let links = self.read_links(&document.link, &name, cluster_port_base);
        let disks = self.read_disks(&document.disk);
        let virtual_disks = self.read_virtual_disks(&document.virtual_disk, &disks);
        let volumes = self.read_volumes(&document.virtual_disk, &virtual_disks);
        let permissions = self.read_permissions(&document.permission, &virtual_disks);
        let nbd = self.read_nbd(&document.nbd, &virtual_disks, &volumes);
        let mut regions = self.read_regions(&document.region, &disks);
        let loans = self.read_loans(&document.loan, &mut regions, &virtual_disks);
        let memory_budget_bytes = self.budget(document);
        let connectivity = self.heartbeat(&document.heartbeat);
        let membership = self.membership(&document.membership);
        let mut rows = ClusterRows {
            name,
            nodes: self.nodes.iter().map(|entry| entry.row.clone()).collect(),
            links,
            spread: spread(cluster.spread),
            disks,
            virtual_disks,
            volumes,
            permissions,
            nbd,
            regions,
            loans,
            memory_budget_bytes,
            connectivity,
            membership,
        };
        rows.sort();
        self.check_rules(&rows);
        rows
    }

    /// The rules that hold for rows of whatever origin. What was found wrong so far was found with its place
    /// in the file; what is found here is named by its row.
    fn check_rules(&mut self, rows: &ClusterRows) {
        if self.faults.is_empty() {
            for (key, fault) in rules::check_all(rows) {
                self.fault(Place::default(), Mistake::Rule { key, fault });
            }
        }
    }

    // --- tools of all modules ---

    pub(super) fn place<T>(&self, spanned: &Spanned<T>) -> Place {
        Place::of(self.text, spanned.span().start)
    }

    pub(super) fn fault(&mut self, place: Place, mistake: impl Into<Mistake>) {
        self.faults.push(ConfigFault { place, mistake: mistake.into() });
    }

    pub(super) fn fault_at<T>(&mut self, spanned: &Spanned<T>, mistake: impl Into<Mistake>) {
        let place = self.place(spanned);
        self.fault(place, mistake);
    }

    pub(super) fn limit(&mut self, row: Row, found: usize, most: usize, place: Place) {
        if found > most {
            self.fault(place, RowMistake::TooMany { row, found, most });
        }
    }

    /// The name, checked for its letters; a bad one is kept so that the reading can go on.
    pub(super) fn name(&mut self, name: &Spanned<String>) -> String {
        let text = name.get_ref();
        if !rules::is_name(text) {
            self.fault_at(name, RowMistake::BadName { name: text.clone(), bytes_max: NAME_BYTES_MAX });
        }
        text.clone()
    }

    /// An absolute path, read from the file's folder, without `.` and `..`.
    pub(super) fn absolute(&self, path: &str) -> PathBuf {
        let joined = self.file.parent().unwrap_or(Path::new("/")).join(path);
        let mut plain = PathBuf::new();
        for part in joined.components() {
            match part {
                std::path::Component::ParentDir => {
                    plain.pop();
                }
                std::path::Component::CurDir => {}
                part => plain.push(part),
            }
        }
        plain
    }

    pub(super) fn node_entry(&self, reference: &Reference) -> Option<&NodeEntry> {
        self.nodes.iter().find(|entry| match reference {
            Reference::Id(id) => u32::from(entry.row.id.0) == *id,
            Reference::Name(name) => entry.row.name == *name,
        })
    }

    /// The node that is meant; a reference to none is a mistake.
    pub(super) fn node(&mut self, reference: &Spanned<Reference>) -> Option<NodeId> {
        let node = self.node_entry(reference.get_ref()).map(|entry| entry.row.id);
        if node.is_none() {
            let dangling =
                RowMistake::Dangling { row: Row::Node, reference: reference.get_ref().to_string() };
            self.fault_at(reference, dangling);
        }
        node
    }

    pub(super) fn node_name(&self, id: NodeId) -> String {
        let entry = self.nodes.iter().find(|entry| entry.row.id == id);
        entry.map_or_else(|| id.to_string(), |entry| entry.row.name.clone())
    }

    pub(super) fn selected_nodes(&mut self, selection: &Selection) -> Vec<NodeId> {
        match selection {
            Selection::All => self.nodes.iter().map(|entry| entry.row.id).collect(),
            Selection::Some(list) => {
                let mut nodes = Vec::new();
                for reference in list {
                    let Some(node) = self.node(reference) else { continue };
                    if nodes.contains(&node) {
                        let node = self.node_name(node);
                        self.fault_at(reference, RowMistake::NodeTwice { node });
                    } else {
                        nodes.push(node);
                    }
                }
                nodes
            }
        }
    }

    // --- sections ---

    fn key(&mut self, document: &Document) -> Option<ClusterKey> {
        let cluster = document.cluster.get_ref();
        let (place, secret) = match (&cluster.key, &cluster.key_file) {
            (None, None) => {
                self.fault_at(&document.cluster, KeyMistake::NoKey);
                return None;
            }
            (Some(_), Some(key_file)) => {
                self.fault_at(key_file, KeyMistake::TwoKeys);
                return None;
            }
            (Some(key), None) => (self.place(key), key.get_ref().as_bytes().to_vec()),
            (None, Some(key_file)) => {
                let path = self.absolute(key_file.get_ref());
                match std::fs::read(&path) {
                    Ok(bytes) => (self.place(key_file), bytes.trim_ascii().to_vec()),
                    Err(fault) => {
                        self.fault_at(key_file, KeyMistake::KeyUnreadable { path, kind: fault.kind() });
                        return None;
                    }
                }
            }
        };
        if secret.len() < SECRET_BYTES_MIN {
            self.fault(place, KeyMistake::KeyTooShort { bytes: secret.len(), least: SECRET_BYTES_MIN });
            return None;
        }
        Some(ClusterKey::derive(cluster.name.get_ref(), &secret))
    }

    fn read_nodes(&mut self, sections: &[Spanned<NodeSection>], cluster: Place) {
        if sections.is_empty() {
            self.fault(cluster, RowMistake::TooFew { row: Row::Node });
        }
        self.limit(Row::Node, sections.len(), NODES_MAX, cluster);
        for section in sections {
            let node = section.get_ref();
            let id = NodeId(*node.id.get_ref());
            let name = match &node.name {
                Some(name) => self.name(name),
                None => format!("node{}", id.0),
            };
            let place = node.name.as_ref().map_or(self.place(section), |name| self.place(name));
            if id.0 == 0 {
                self.fault_at(&node.id, RowMistake::NodeZero);
            }
            if let Some(first) = self.nodes.iter().find(|entry| entry.row.id == id).map(|entry| entry.place) {
                self.fault_at(
                    &node.id,
                    RowMistake::DuplicateId { row: Row::Node, id: u32::from(id.0), first },
                );
                continue;
            }
            if let Some(first) = self.nodes.iter().find(|e| e.row.name == name).map(|entry| entry.place) {
                self.fault(place, RowMistake::DuplicateName { row: Row::Node, name, first });
                continue;
            }
            let host = node.host.as_ref().map(|host| match host.get_ref().parse::<IpAddr>() {
                Ok(address) => address,
                Err(_) => {
                    self.fault_at(host, AddressMistake::BadAddress { text: host.get_ref().clone() });
                    IpAddr::V4(Ipv4Addr::LOCALHOST)
                }
            });
            let host = host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
            self.nodes.push(NodeEntry {
                row: NodeRow { id, name, host, voter: false },
                place,
                port_base: node.port_base,
            });
        }
        self.nodes.sort_by_key(|entry| entry.row.id);
        let ids: Vec<NodeId> = self.nodes.iter().map(|entry| entry.row.id).collect();
        let written = sections.iter().filter(|section| section.get_ref().voter == Some(true));
        let written: Vec<NodeId> = written.map(|section| NodeId(*section.get_ref().id.get_ref())).collect();
        let voters = if written.is_empty() { voters_usual(&ids) } else { written };
        self.nodes.iter_mut().for_each(|entry| entry.row.voter = voters.contains(&entry.row.id));
    }

    /// The virtual disk that is meant; a reference to none is a mistake.
    pub(super) fn virtual_disk(
        &mut self,
        reference: &Spanned<Reference>,
        rows: &[VirtualDiskRow],
    ) -> Option<VolumeId> {
        let row = rows.iter().find(|row| match reference.get_ref() {
            Reference::Id(id) => row.id.0 == *id,
            Reference::Name(name) => row.name == *name,
        });
        if row.is_none() {
            let reference_text = reference.get_ref().to_string();
            self.fault_at(
                reference,
                RowMistake::Dangling { row: Row::VirtualDisk, reference: reference_text },
            );
        }
        row.map(|row| row.id)
    }

    fn read_permissions(
        &mut self,
        sections: &[Spanned<PermissionSection>],
        disks: &[VirtualDiskRow],
    ) -> Vec<PermissionRow> {
        let mut rows: Vec<(PermissionRow, Place)> = Vec::new();
        for section in sections {
            let permission = section.get_ref();
            let nodes = self.selected_nodes(&permission.nodes);
            let mode = *permission.mode.get_ref();
            if mode > 0o777 {
                self.fault_at(&permission.mode, SettingMistake::BadMode { mode });
            }
            let Some(volume) = self.virtual_disk(&permission.virtual_disk, disks) else { continue };
            if let Some((row, first)) = rows.iter().find(|(row, _)| row.volume == volume) {
                let twice = RowMistake::DuplicateId { row: Row::Permission, id: row.volume.0, first: *first };
                self.fault_at(&permission.virtual_disk, twice);
                continue;
            }
            let (owner, group) = (permission.owner, permission.group);
            let row = PermissionRow { volume, owner, group, mode: mode as u16, nodes };
            rows.push((row, self.place(&permission.virtual_disk)));
        }
        rows.into_iter().map(|(row, _)| row).collect()
    }

    fn read_nbd(
        &mut self,
        sections: &[Spanned<NbdSection>],
        disks: &[VirtualDiskRow],
        volumes: &[VolumeRow],
    ) -> Vec<NbdRow> {
        let first = sections.first().map_or(Place::default(), |section| self.place(section));
        self.limit(Row::Nbd, sections.len(), NBD_SERVERS_MAX, first);
        let mut rows = Vec::new();
        for section in sections {
            let nbd = section.get_ref();
            let exports = match &nbd.exports {
                // What others lie on is nobody else's.
                Selection::All => disks
                    .iter()
                    .map(|disk| disk.id)
                    .filter(|id| volumes.iter().all(|row| row.parts().all(|part| part != *id)))
                    .collect(),
                Selection::Some(list) => {
                    list.iter().filter_map(|reference| self.virtual_disk(reference, disks)).collect()
                }
            };
            let node = self.node(&nbd.node);
            let listen = self.nbd_address(&nbd.listen);
            let (Some(node), Some(listen)) = (node, listen) else { continue };
            let place = self.place(&nbd.listen);
            let by = format!("the nbd server of {}", self.node_name(node));
            let taken = match &listen {
                NbdAddress::Tcp(address) => self.uses.claim(Transport::Tcp, *address, by, place),
                NbdAddress::Unix(path) => self.uses.claim_path(node, path, by, place),
            };
            if let Err(taken) = taken {
                self.fault(place, taken);
            }
            rows.push(NbdRow { node, listen, exports });
        }
        rows
    }

    fn nbd_address(&mut self, listen: &Spanned<String>) -> Option<NbdAddress> {
        let text = listen.get_ref();
        // The kernel takes socket paths of 107 bytes at the most.
        let unix = text.strip_prefix("unix:").map(|path| self.absolute(path).to_string_lossy().into_owned());
        let unix = unix.filter(|path| path.len() <= 107 && !text.ends_with(':')).map(NbdAddress::Unix);
        let tcp = text.strip_prefix("tcp:").and_then(|address| address.parse().ok()).map(NbdAddress::Tcp);
        let address = unix.or(tcp);
        if address.is_none() {
            self.fault_at(listen, AddressMistake::BadListen { text: text.clone() });
        }
        address
    }

    fn budget(&mut self, document: &Document) -> u64 {
        let Some(budget) = &document.memory.budget else { return MEMORY_BUDGET_BYTES_USUAL };
        let bytes = budget.get_ref().0;
        if bytes < MEMORY_BUDGET_BYTES_MIN {
            self.fault_at(budget, SettingMistake::BudgetTooSmall { bytes, least: MEMORY_BUDGET_BYTES_MIN });
        }
        bytes
    }

    fn heartbeat(&mut self, section: &HeartbeatSection) -> Settings {
        let usual = Settings::default();
        let period = self.within(&section.period_ms, "period_ms", 1, 10_000);
        let missed = self.within(&section.missed, "missed", 1, 100);
        let heard = self.within(&section.heard, "heard", 1, 100);
        Settings {
            period: period.map_or(usual.period, Duration::from_millis),
            missed_down: missed.map_or(usual.missed_down, |rounds| rounds as u32),
            heard_up: heard.map_or(usual.heard_up, |count| count as u32),
            sticky: section.sticky.unwrap_or(usual.sticky),
            ..usual
        }
    }

    fn membership(&mut self, section: &MembershipSection) -> MembershipTimes {
        let usual = MembershipTimes::default();
        let suspect = self.within(&section.suspect_ms, "suspect_ms", 20, 600_000);
        let lease = self.within(&section.lease_ms, "lease_ms", 40, 1_200_000);
        let hung_disk = self.within(&section.hung_disk_ms, "hung_disk_ms", 100, 3_600_000);
        let times = MembershipTimes {
            suspect: suspect.map_or(usual.suspect, Duration::from_millis),
            lease: lease.map_or(usual.lease, Duration::from_millis),
            hung_disk: hung_disk.map_or(usual.hung_disk, Duration::from_millis),
        };
        if times.suspect >= times.lease {
            let place = section.suspect_ms.as_ref().or(section.lease_ms.as_ref()).map(|key| self.place(key));
            self.fault(place.unwrap_or_default(), SettingMistake::SuspectTooLong);
        }
        times
    }

    fn within<T: Copy + Into<u64>>(
        &mut self,
        value: &Option<Spanned<T>>,
        key: &'static str,
        least: u64,
        most: u64,
    ) -> Option<u64> {
        let value = value.as_ref()?;
        let number: u64 = (*value.get_ref()).into();
        if !(least..=most).contains(&number) {
            self.fault_at(value, SettingMistake::TimeOutOfRange { key, least, most });
            return None;
        }
        Some(number)
    }
}

fn spread(name: SpreadName) -> Spread {
    match name {
        SpreadName::Single => Spread::Single,
        SpreadName::Home => Spread::Home,
        SpreadName::RoundRobin => Spread::RoundRobin,
        SpreadName::LeastInFlight => Spread::LeastInFlight,
        SpreadName::LowestLatency => Spread::LowestLatency,
        SpreadName::Stripe => Spread::Stripe,
    }
}
