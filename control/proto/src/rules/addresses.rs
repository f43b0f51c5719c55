//! Who uses which address, so that no two rails, monitors or servers claim one.

use super::RowFault;
use crate::ccd::RowKey;
use crate::rows::{ClusterRows, LinkRow, NbdAddress, NbdRow, RailAddress};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use transport_proto::identity::{NodeId, Path};

/// Port spaces that do not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Transport {
    Tcp,
    Udp,
}

/// What for somebody uses an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Rail(Path),
    Heartbeat(Path),
    Nbd,
}

#[derive(Clone, Debug)]
struct Use {
    transport: Transport,
    address: SocketAddr,
    node: NodeId,
    purpose: Purpose,
}

impl Use {
    fn by(&self, rows: &ClusterRows) -> String {
        let name = rows.node_name(self.node);
        match self.purpose {
            Purpose::Rail(path) => format!("{name}, {path}"),
            Purpose::Heartbeat(path) => format!("the heartbeats of {name}, {path}"),
            Purpose::Nbd => format!("the nbd server of {name}"),
        }
    }

    /// Port 0 is any free one and never taken.
    fn clashes(&self, host: IpAddr) -> bool {
        let mine = self.address.ip();
        mine == host || mine.is_unspecified() || host.is_unspecified()
    }
}

fn uses_of_link(row: &LinkRow) -> impl Iterator<Item = Use> + '_ {
    let ends = row.rails.iter().flat_map(|rail| rail.ends.iter().map(move |end| (rail.id, end)));
    ends.flat_map(|(rail, end)| {
        let path = Path { link: row.id, rail };
        let heartbeat = Use {
            transport: Transport::Udp,
            address: end.heartbeat,
            node: end.node,
            purpose: Purpose::Heartbeat(path),
        };
        let data = match end.address {
            RailAddress::Tcp(address) | RailAddress::Verbs(address) => {
                Some(Use { transport: Transport::Tcp, address, node: end.node, purpose: Purpose::Rail(path) })
            }
            RailAddress::Shm(_) => None,
        };
        data.into_iter().chain([heartbeat])
    })
}

fn use_of_nbd(row: &NbdRow) -> Option<Use> {
    let NbdAddress::Tcp(address) = row.listen else { return None };
    Some(Use { transport: Transport::Tcp, address, node: row.node, purpose: Purpose::Nbd })
}

/// Uses by port space and port.
#[derive(Default)]
struct Uses(BTreeMap<(Transport, u16), Vec<(Use, RowKey)>>);

impl Uses {
    fn add(&mut self, one: Use, key: RowKey) {
        self.0.entry((one.transport, one.address.port())).or_default().push((one, key));
    }

    /// All uses in these rows but those of one row.
    fn besides(rows: &ClusterRows, left_out: &RowKey) -> Uses {
        let mut uses = Uses::default();
        for row in rows.links.iter().filter(|row| RowKey::Link(row.number) != *left_out) {
            uses_of_link(row).for_each(|one| uses.add(one, RowKey::Link(row.number)));
        }
        for row in &rows.nbd {
            let key = RowKey::Nbd { node: row.node, listen: row.listen.clone() };
            if let Some(one) = use_of_nbd(row).filter(|_| key != *left_out) {
                uses.add(one, key);
            }
        }
        uses
    }

    fn check(&self, rows: &ClusterRows, one: &Use, out: &mut Vec<RowFault>) {
        let (port, host) = (one.address.port(), one.address.ip());
        let same_port = self.0.get(&(one.transport, port)).filter(|_| port != 0);
        let clash = same_port.and_then(|uses| uses.iter().find(|(other, _)| other.clashes(host)));
        if let Some((other, key)) = clash {
            let space = if one.transport == Transport::Tcp { "TCP" } else { "UDP" };
            let address = format!("{space} {}", one.address);
            out.push(RowFault::AddressTaken { address, by: other.by(rows), other: key.clone() });
        }
    }
}

pub(super) fn check_link(rows: &ClusterRows, row: &LinkRow, out: &mut Vec<RowFault>) {
    let key = RowKey::Link(row.number);
    let mut uses = Uses::besides(rows, &key);
    for one in uses_of_link(row) {
        uses.check(rows, &one, out);
        uses.add(one, key.clone());
    }
}

pub(super) fn check_nbd(rows: &ClusterRows, row: &NbdRow, out: &mut Vec<RowFault>) {
    let key = RowKey::Nbd { node: row.node, listen: row.listen.clone() };
    match &row.listen {
        NbdAddress::Tcp(_) => {
            if let Some(one) = use_of_nbd(row) {
                Uses::besides(rows, &key).check(rows, &one, out);
            }
        }
        NbdAddress::Unix(path) => {
            let same = |other: &&NbdRow| {
                other.node != row.node
                    && other.listen == row.listen
                    && super::links::on_one_machine(rows, other.node, row.node)
            };
            if let Some(other) = rows.nbd.iter().find(same) {
                let by = format!("the nbd server of {}", rows.node_name(other.node));
                let key = RowKey::Nbd { node: other.node, listen: other.listen.clone() };
                out.push(RowFault::AddressTaken { address: path.to_string(), by, other: key });
            }
        }
    }
}
