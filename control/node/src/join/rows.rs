//! From what a newcomer wants to the rows that make it a node: its number, its row, and its end of every link
//! that can reach it. Whoever decides checks them again by the rules of all rows.

use super::request::{JoinRequest, RailAddressAsked};
use crate::scheme::{RailKind, base_for, move_end, rail_end};
use control_proto::ccd::{Row, RowChange};
use control_proto::rows::{ClusterRows, LinkRow, NodeRow, RailAddress, RailEnd};
use std::fmt;
use std::net::IpAddr;
use transport_proto::identity::{NodeId, Path};

/// Why no rows can be made of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewcomerRefusal {
    /// The number is taken.
    IdTaken {
        /// The number.
        id: u16,
        /// By whom.
        name: String,
    },
    /// The name is taken.
    NameTaken {
        /// The name.
        name: String,
    },
    /// All numbers are given.
    NoId,
    /// The node's ports would be past the last one.
    NoPorts {
        /// Its number.
        id: u16,
    },
    /// It names a rail that the cluster does not have.
    NoSuchRail {
        /// Link.
        link: u8,
        /// Rail.
        rail: u8,
    },
    /// It names an address for shared memory.
    AddressOfShm {
        /// Link.
        link: u8,
        /// Rail.
        rail: u8,
    },
    /// No link can reach it.
    Unreachable {
        /// Its address.
        host: IpAddr,
    },
}

impl fmt::Display for NewcomerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NewcomerRefusal::IdTaken { id, name } => {
                write!(f, "node {id} is {name}: leave --id out, or choose another")
            }
            NewcomerRefusal::NameTaken { name } => write!(
                f,
                "there is a node {name} already: choose another --node, or remove that one first \
                 (netdisk node remove {name})"
            ),
            NewcomerRefusal::NoId => write!(f, "all node numbers are given: name a free one with --id"),
            NewcomerRefusal::NoPorts { id } => {
                write!(f, "the ports of node {id} would be past the last one: choose them with --port-base")
            }
            NewcomerRefusal::NoSuchRail { link, rail } => write!(
                f,
                "the cluster has no link {link} rail {rail}: see `netdisk rail list` on one of its nodes"
            ),
            NewcomerRefusal::AddressOfShm { link, rail } => {
                write!(f, "link {link} rail {rail} is shared memory and has no address: leave it out")
            }
            NewcomerRefusal::Unreachable { host } => write!(
                f,
                "no link of the cluster can reach {host}: all of them have a rail of shared memory, which \
                 stays on one machine; add a link of tcp rails first (netdisk link add --rail tcp)"
            ),
        }
    }
}

impl std::error::Error for NewcomerRefusal {}

/// The newcomer's number and the changes that make it a node. `given` are the numbers that were ever given,
/// to nodes that are gone too.
pub fn newcomer(
    rows: &ClusterRows,
    given: impl Iterator<Item = NodeId>,
    meant: Option<NodeId>,
    request: &JoinRequest,
) -> Result<(NodeId, Vec<RowChange>), NewcomerRefusal> {
    let id = choose_id(rows, given, request.id.map(NodeId).or(meant))?;
    if rows.nodes.iter().any(|row| row.name == request.name) {
        return Err(NewcomerRefusal::NameTaken { name: request.name.clone() });
    }
    let row = NodeRow { id, name: request.name.clone(), host: request.host, voter: false };
    let mut changes = vec![RowChange::Put(Row::Node(row))];
    for asked in &request.rails {
        check_asked(rows, asked)?;
    }
    let base =
        request.port_base.or_else(|| base_for(rows, id)).ok_or(NewcomerRefusal::NoPorts { id: id.0 })?;
    for link in rows.links.iter().filter(|link| reaches(rows, link, request.host)) {
        let mut link = link.clone();
        link.nodes.push(id);
        for rail in &mut link.rails {
            let path = Path { link: link.id, rail: rail.id };
            let kind = rail.ends.first().map_or(RailKind::Tcp, |end| RailKind::of(&end.address));
            let end = rail_end(&rows.name, id, request.host, base, path, kind);
            let mut end = end.ok_or(NewcomerRefusal::NoPorts { id: id.0 })?;
            let asked =
                request.rails.iter().find(|asked| asked.link == path.link.0 && asked.rail == path.rail.0);
            if let Some(asked) = asked {
                move_end(&mut end, asked.ip, asked.port, asked.heartbeat);
            }
            rail.ends.push(end);
        }
        changes.push(RowChange::Put(Row::Link(link)));
    }
    let joined = |other: &NodeRow| {
        changes
            .iter()
            .any(|change| matches!(change, RowChange::Put(Row::Link(link)) if link.nodes.contains(&other.id)))
    };
    if rows.nodes.iter().all(joined) {
        Ok((id, changes))
    } else {
        Err(NewcomerRefusal::Unreachable { host: request.host })
    }
}

fn choose_id(
    rows: &ClusterRows,
    given: impl Iterator<Item = NodeId>,
    wanted: Option<NodeId>,
) -> Result<NodeId, NewcomerRefusal> {
    if let Some(id) = wanted {
        return match rows.node(id) {
            Some(taken) => Err(NewcomerRefusal::IdTaken { id: id.0, name: taken.name.clone() }),
            None => Ok(id),
        };
    }
    let last = given.chain(rows.nodes.iter().map(|row| row.id)).max().map_or(0, |id| id.0);
    last.checked_add(1).map(NodeId).ok_or(NewcomerRefusal::NoId)
}

fn check_asked(rows: &ClusterRows, asked: &RailAddressAsked) -> Result<(), NewcomerRefusal> {
    let (link, rail) = (asked.link, asked.rail);
    let links = rows.links.iter().filter(|row| row.id.0 == link);
    let mut rails = links.flat_map(|row| row.rails.iter()).filter(|row| row.id.0 == rail);
    match rails.next().and_then(|row| row.ends.first()) {
        None => Err(NewcomerRefusal::NoSuchRail { link, rail }),
        Some(RailEnd { address: RailAddress::Shm(_), .. }) => {
            Err(NewcomerRefusal::AddressOfShm { link, rail })
        }
        Some(_) => Ok(()),
    }
}

/// Whether all rails of a link can end at this host.
fn reaches(rows: &ClusterRows, link: &LinkRow, host: IpAddr) -> bool {
    let shm = link.rails.iter().flat_map(|rail| &rail.ends);
    let shm = shm.filter(|end| matches!(end.address, RailAddress::Shm(_)));
    let mut hosts = shm.filter_map(|end| rows.node(end.node)).map(|row| row.host);
    hosts.all(|other| other == host || (other.is_loopback() && host.is_loopback()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::config::Config;
    use control_proto::rules::check_all;
    use std::path::Path as File;

    fn rows(links: &str, hosts: [&str; 2]) -> ClusterRows {
        let text = format!(
            "[cluster]\nname = \"north\"\nkey = \"0123456789abcdef\"\nport_base = 9000\n\
             [[node]]\nid = 1\nname = \"alpha\"\nhost = \"{}\"\n\
             [[node]]\nid = 2\nname = \"beta\"\nhost = \"{}\"\n{links}",
            hosts[0], hosts[1]
        );
        Config::parse(File::new("/c.toml"), &text).unwrap().rows
    }

    fn request(host: &str) -> JoinRequest {
        JoinRequest {
            nonce: [0; 16],
            release: "1".into(),
            name: "gamma".into(),
            host: host.parse().unwrap(),
            id: None,
            port_base: None,
            rails: Vec::new(),
            dry_run: false,
        }
    }

    /// The rows with the newcomer, checked.
    fn joined(rows: &ClusterRows, request: &JoinRequest) -> Result<ClusterRows, NewcomerRefusal> {
        let (_, changes) = newcomer(rows, std::iter::empty(), None, request)?;
        let mut rows = rows.clone();
        for change in changes {
            let RowChange::Put(row) = change else { panic!("only puts") };
            rows.put(row);
        }
        assert_eq!(check_all(&rows), Vec::new());
        Ok(rows)
    }

    const TCP: &str = "[[link]]\nrails = [{ kind = \"tcp\" }, { kind = \"tcp\" }]\n";
    const MIXED: &str = "[[link]]\nrails = [{ kind = \"shm\" }, { kind = \"tcp\" }]\n";

    // proves: C5
    #[test]
    fn a_newcomer_gets_an_end_on_every_link_by_the_clusters_port_scheme() {
        let rows = rows(TCP, ["10.0.0.1", "10.0.0.2"]);
        let after = joined(&rows, &request("10.0.0.3")).unwrap();
        assert_eq!(after.node(NodeId(3)).unwrap().name, "gamma");
        let end = after.links[0].rails[1].end(NodeId(3)).unwrap();
        // The third node's 64 ports begin at 9128; path 1 has the second two of them.
        assert_eq!(end.address, RailAddress::Tcp("10.0.0.3:9130".parse().unwrap()));
        assert_eq!(end.heartbeat, "10.0.0.3:9131".parse().unwrap());
    }

    #[test]
    fn rails_may_end_elsewhere() {
        let rows = rows(TCP, ["10.0.0.1", "10.0.0.2"]);
        let mut wish = request("10.0.0.3");
        let ip = "10.1.0.3".parse().unwrap();
        wish.rails.push(RailAddressAsked { link: 0, rail: 1, ip, port: Some(7001), heartbeat: None });
        wish.port_base = Some(5000);
        let after = joined(&rows, &wish).unwrap();
        let end = |rail: usize| after.links[0].rails[rail].end(NodeId(3)).unwrap().clone();
        assert_eq!(end(0).address, RailAddress::Tcp("10.0.0.3:5000".parse().unwrap()));
        assert_eq!(end(1).address, RailAddress::Tcp("10.1.0.3:7001".parse().unwrap()));
        assert_eq!(end(1).heartbeat, "10.1.0.3:7002".parse().unwrap());
        wish.rails[0].rail = 7;
        assert_eq!(joined(&rows, &wish), Err(NewcomerRefusal::NoSuchRail { link: 0, rail: 7 }));
    }

    #[test]
    fn shared_memory_reaches_the_own_machine_only() {
        let rows = rows(MIXED, ["127.0.0.1", "127.0.0.1"]);
        let after = joined(&rows, &request("127.0.0.1")).unwrap();
        let end = after.links[0].rails[0].end(NodeId(3)).unwrap();
        assert_eq!(end.address, RailAddress::Shm("netdisk/north/3/0.0".into()));
        let refused = joined(&rows, &request("10.0.0.3")).unwrap_err();
        assert!(refused.to_string().contains("netdisk link add --rail tcp"));
    }

    #[test]
    fn names_and_numbers_are_given_once() {
        let rows = rows(TCP, ["10.0.0.1", "10.0.0.2"]);
        let mut wish = request("10.0.0.3");
        let with = |given: &[u16], wish: &JoinRequest| {
            newcomer(&rows, given.iter().copied().map(NodeId), None, wish).map(|(id, _)| id.0)
        };
        assert_eq!(with(&[7], &wish), Ok(8));
        assert_eq!(with(&[u16::MAX], &wish), Err(NewcomerRefusal::NoId));
        wish.id = Some(2);
        assert_eq!(with(&[], &wish), Err(NewcomerRefusal::IdTaken { id: 2, name: "beta".into() }));
        wish.id = Some(2000);
        assert_eq!(with(&[], &wish), Err(NewcomerRefusal::NoPorts { id: 2000 }));
        wish.name = "alpha".into();
        assert_eq!(with(&[], &wish), Err(NewcomerRefusal::NameTaken { name: "alpha".into() }));
    }
}
