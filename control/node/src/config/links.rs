//! Links and rails: who is joined, and by which addresses. What is not written is derived: a node's ports
//! begin at its base, and each rail of each link has two of them, one for data (TCP) and one for heartbeats
//! (UDP).

use super::check::Check;
use super::document::{LinkSection, RailKind, RailSection, Reference, Spanned};
use super::{AddressMistake, LinkMistake, Place, Row, RowMistake};
use crate::scheme::{PORTS_PER_NODE, shm_name};
use control_proto::rows::{LinkNumber, LinkRow, RailAddress, RailEnd, RailRow};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use transport_proto::identity::{LINKS_MAX, LinkId, NodeId, Path, RAILS_MAX, RailId};

/// What the addresses of a link's rails are made of.
struct Naming<'a> {
    cluster: &'a str,
    port_base: u16,
    link: LinkId,
}

impl Check<'_> {
    pub(super) fn read_links(
        &mut self,
        sections: &[Spanned<LinkSection>],
        cluster: &str,
        port_base: u16,
    ) -> Vec<LinkRow> {
        let mut rows: Vec<(LinkRow, Place)> = Vec::new();
        for (position, section) in sections.iter().enumerate() {
            let link = section.get_ref();
            let id = link.id.as_ref().map_or(position as u32, |id| *id.get_ref());
            let place = link.id.as_ref().map_or(self.place(section), |id| self.place(id));
            if id as usize >= LINKS_MAX {
                let most = LINKS_MAX as u32 - 1;
                self.fault(place, RowMistake::IdTooLarge { row: Row::Link, found: id, most });
                continue;
            }
            let id = LinkId(id as u8);
            let nodes = self.selected_nodes(&link.nodes);
            // The links of a cluster's first node wait for the second.
            if nodes.len() < 2 && self.nodes.len() > 1 {
                self.fault(place, LinkMistake::LinkOfOne);
            }
            self.check_pairs(&rows, id, &nodes, place);
            let naming = Naming { cluster, port_base, link: id };
            let rails = self.read_rails(&link.rails, &nodes, &naming);
            let number = self.link_number(link, position, &rows);
            rows.push((LinkRow { number, id, nodes, rails }, place));
        }
        let rows: Vec<LinkRow> = rows.into_iter().map(|(row, _)| row).collect();
        self.check_joined(&rows);
        rows
    }

    /// The number of a link's row.
    fn link_number(&mut self, link: &LinkSection, position: usize, rows: &[(LinkRow, Place)]) -> LinkNumber {
        let number = LinkNumber(link.number.as_ref().map_or(position as u32, |number| *number.get_ref()));
        if let Some((_, first)) = rows.iter().find(|(row, _)| row.number == number) {
            let place = link.number.as_ref().map_or(*first, |number| self.place(number));
            self.fault(place, RowMistake::DuplicateId { row: Row::Link, id: number.0, first: *first });
        }
        number
    }

    /// No two links of one number may join the same two nodes.
    fn check_pairs(&mut self, rows: &[(LinkRow, Place)], id: LinkId, nodes: &[NodeId], place: Place) {
        for (other, first) in rows.iter().filter(|(row, _)| row.id == id) {
            let mut common = nodes.iter().filter(|node| other.nodes.contains(node));
            if let (Some(a), Some(b)) = (common.next(), common.next()) {
                let (a, b) = (self.node_name(*a), self.node_name(*b));
                self.fault(place, LinkMistake::PairTwice { link: id.0, a, b, first: *first });
            }
        }
    }

    /// Every two nodes must be joined.
    fn check_joined(&mut self, rows: &[LinkRow]) {
        let nodes: Vec<(NodeId, Place)> =
            self.nodes.iter().map(|entry| (entry.row.id, entry.place)).collect();
        for (index, &(a, _)) in nodes.iter().enumerate() {
            for &(b, place) in &nodes[index + 1..] {
                if !rows.iter().any(|link| link.nodes.contains(&a) && link.nodes.contains(&b)) {
                    let (a, b) = (self.node_name(a), self.node_name(b));
                    self.fault(place, LinkMistake::NotJoined { a, b });
                }
            }
        }
    }

    fn read_rails(
        &mut self,
        sections: &Spanned<Vec<Spanned<RailSection>>>,
        nodes: &[NodeId],
        naming: &Naming<'_>,
    ) -> Vec<RailRow> {
        let place = self.place(sections);
        let sections = sections.get_ref();
        if sections.is_empty() {
            self.fault(place, RowMistake::TooFew { row: Row::Rail });
        }
        self.limit(Row::Rail, sections.len(), RAILS_MAX, place);
        let mut rails = Vec::new();
        for (position, section) in sections.iter().take(RAILS_MAX).enumerate() {
            let rail = section.get_ref();
            let place = self.place(section);
            let id = RailId(rail.id.as_ref().map_or(position as u8, |id| *id.get_ref()));
            if usize::from(id.0) >= RAILS_MAX {
                let (found, most) = (u32::from(id.0), RAILS_MAX as u32 - 1);
                self.fault(place, RowMistake::IdTooLarge { row: Row::Rail, found, most });
                continue;
            }
            if rails.iter().any(|other: &RailRow| other.id == id) {
                let id = u32::from(id.0);
                self.fault(
                    place,
                    RowMistake::DuplicateId { row: Row::Rail, id, first: self.place(&sections[0]) },
                );
                continue;
            }
            if rail.kind == RailKind::Shm {
                self.check_one_host(nodes, place);
                if !rail.addresses.is_empty() {
                    self.fault(place, AddressMistake::ShmWithAddresses);
                }
            }
            if rail.kind == RailKind::Verbs && !transport_endpoint::HAS_VERBS {
                self.fault(place, LinkMistake::VerbsNotBuilt);
            }
            self.check_strangers(&rail.addresses, nodes);
            self.check_strangers(&rail.heartbeats, nodes);
            let ends =
                nodes.iter().filter_map(|&node| self.rail_end(rail, node, naming, id, place)).collect();
            rails.push(RailRow { id, ends });
        }
        rails
    }

    fn check_one_host(&mut self, nodes: &[NodeId], place: Place) {
        let host = |node: NodeId| self.nodes.iter().find(|e| e.row.id == node).map(|e| e.row.host);
        let one_host = |a: Option<IpAddr>, b: Option<IpAddr>| {
            a == b || a.zip(b).is_some_and(|(a, b)| a.is_loopback() && b.is_loopback())
        };
        let other = nodes.iter().find(|node| !one_host(host(nodes[0]), host(**node)));
        if let Some(&other) = other {
            let (a, b) = (self.node_name(nodes[0]), self.node_name(other));
            self.fault(place, LinkMistake::ShmAcrossHosts { a, b });
        }
    }

    /// An address for a node that is not at this rail is a slip.
    fn check_strangers(&mut self, addresses: &BTreeMap<String, Spanned<String>>, nodes: &[NodeId]) {
        for (key, address) in addresses {
            let node = self.node_entry(&reference(key)).map(|entry| entry.row.id);
            if !node.is_some_and(|node| nodes.contains(&node)) {
                self.fault_at(address, AddressMistake::AddressOfStranger { node: key.clone() });
            }
        }
    }

    fn rail_end(
        &mut self,
        rail: &RailSection,
        node: NodeId,
        naming: &Naming<'_>,
        id: RailId,
        place: Place,
    ) -> Option<RailEnd> {
        let entry = self.nodes.iter().find(|entry| entry.row.id == node)?;
        let (name, host) = (entry.row.name.clone(), entry.row.host);
        let path = Path { link: naming.link, rail: id };
        let by_rule = u32::from(naming.port_base) + PORTS_PER_NODE * u32::from(node.0).saturating_sub(1);
        let base = entry.port_base.map_or(by_rule, u32::from);
        let port = base + 2 * path.index() as u32;
        let Ok(port) = u16::try_from(port + 1).map(|heartbeat_port| heartbeat_port - 1) else {
            self.fault(place, AddressMistake::PortTooLarge { node: name, port });
            return None;
        };
        let written = self.written(&rail.addresses, node, port)?;
        let data = written.unwrap_or(SocketAddr::new(host, port));
        let heartbeat = self.written(&rail.heartbeats, node, port + 1)?;
        let heartbeat = heartbeat.unwrap_or(SocketAddr::new(data.ip(), port + 1));
        let address = match rail.kind {
            RailKind::Tcp => RailAddress::Tcp(data),
            RailKind::Verbs => RailAddress::Verbs(data),
            RailKind::Shm => RailAddress::Shm(shm_name(naming.cluster, node, path)),
        };
        if let Err(taken) = self.uses.claim_rail(&address, heartbeat, &format!("{name}, {path}"), place) {
            self.fault(place, taken);
        }
        Some(RailEnd { node, address, heartbeat })
    }

    /// The address written for a node, with `port` if it has none: `None` if it is no address, `Some(None)`
    /// if there is nothing written.
    fn written(
        &mut self,
        addresses: &BTreeMap<String, Spanned<String>>,
        node: NodeId,
        port: u16,
    ) -> Option<Option<SocketAddr>> {
        let is_meant = |key: &str| self.node_entry(&reference(key)).is_some_and(|entry| entry.row.id == node);
        let Some(text) = addresses.iter().find(|(key, _)| is_meant(key)).map(|(_, text)| text) else {
            return Some(None);
        };
        let whole = text.get_ref().parse::<SocketAddr>().ok();
        let bare = text.get_ref().parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        let address = whole.or(bare);
        if address.is_none() {
            self.fault_at(text, AddressMistake::BadAddress { text: text.get_ref().clone() });
        }
        address.map(Some)
    }
}

/// A key of a table of addresses: a node's id or its name.
fn reference(key: &str) -> Reference {
    key.parse().map_or_else(|_| Reference::Name(key.to_owned()), Reference::Id)
}
