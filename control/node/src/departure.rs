//! What must change so that a node can go for good: first its duties, while it still runs, then its row with
//! all that names it. Refused where the node is the only one that reaches bytes that somebody needs.

use control_proto::ccd::{Database, Row, RowChange, RowKey};
use control_proto::rows::{ClusterRows, DiskRow, LinkRow, NodeRow, VirtualDiskRow, voters_usual};
use std::fmt;
use transport_proto::identity::NodeId;

/// Why a node may not go. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DepartureRefusal {
    /// There is no such node.
    NoNode {
        /// Its number.
        node: NodeId,
    },
    /// It is the cluster.
    LastNode {
        /// Its name.
        node: String,
    },
    /// Nobody else serves these virtual disks.
    OnlyPort {
        /// Its name.
        node: String,
        /// The virtual disks.
        virtual_disks: Vec<String>,
    },
}

impl fmt::Display for DepartureRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DepartureRefusal::NoNode { node } => write!(f, "there is no node {}", node.0),
            DepartureRefusal::LastNode { node } => write!(
                f,
                "{node} is the only node of the cluster: stop it and remove its state folder instead"
            ),
            DepartureRefusal::OnlyPort { node, virtual_disks } => {
                let first = virtual_disks.first().map_or("NAME", String::as_str);
                write!(
                    f,
                    "only {node} serves {}: let another node reach the disk and serve it (netdisk disk \
                     attach, netdisk vdisk attach {first}), or remove it (netdisk vdisk remove {first})",
                    virtual_disks.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for DepartureRefusal {}

/// Row changes by which a node goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// Virtual disks are served by others. Before the node stops.
    pub duties: Vec<RowChange>,
    /// Its row and its ends, ports, servers go. When it is no member any more.
    pub rest: Vec<RowChange>,
}

impl Departure {
    /// Both in one step, for a node that does not run any more. What is first changed and then taken out is
    /// only taken out.
    pub fn whole(self) -> Vec<RowChange> {
        let mut changes = self.duties;
        changes.retain(|change| self.rest.iter().all(|later| later.key() != change.key()));
        changes.extend(self.rest);
        changes
    }
}

/// How a node goes.
pub fn departure(database: &Database, node: NodeId) -> Result<Departure, DepartureRefusal> {
    let rows = database.rows();
    let row = rows.node(node).ok_or(DepartureRefusal::NoNode { node })?;
    if rows.nodes.len() < 2 {
        return Err(DepartureRefusal::LastNode { node: row.name.clone() });
    }
    let rest = vec![RowChange::Remove(RowKey::Node(node))];
    let mut departure = Departure { duties: duties(rows, row)?, rest };
    voters(rows, row, &mut departure.duties);
    let rest = &mut departure.rest;
    links(rows, node, rest);
    for disk in &rows.disks {
        rest.extend(without_port(disk, node));
    }
    for permission in rows.permissions.iter().filter(|row| row.nodes.contains(&node)) {
        let mut permission = permission.clone();
        permission.nodes.retain(|other| *other != node);
        rest.push(RowChange::Put(Row::Permission(permission)));
    }
    for server in rows.nbd.iter().filter(|row| row.node == node) {
        rest.push(RowChange::Remove(RowKey::Nbd { node, listen: server.listen.clone() }));
    }
    Ok(departure)
}

/// Virtual disks that it serves, without it.
fn duties(rows: &ClusterRows, node: &NodeRow) -> Result<Vec<RowChange>, DepartureRefusal> {
    let mut changes = Vec::new();
    let mut lost = Vec::new();
    let serves = |row: &&VirtualDiskRow| row.candidates.iter().any(|(other, _)| *other == node.id);
    for row in rows.virtual_disks.iter().filter(serves) {
        let mut row = row.clone();
        row.candidates.retain(|(other, _)| *other != node.id);
        if row.candidates.is_empty() {
            lost.push(row.name);
        } else {
            changes.push(RowChange::Put(Row::VirtualDisk(row)));
        }
    }
    match lost.is_empty() {
        true => Ok(changes),
        false => Err(DepartureRefusal::OnlyPort { node: node.name.clone(), virtual_disks: lost }),
    }
}

/// A disk that nobody reaches any more goes; it holds nothing that is served.
fn without_port(disk: &DiskRow, node: NodeId) -> Option<RowChange> {
    disk.port(node)?;
    let mut disk = disk.clone();
    disk.ports.retain(|port| port.node != node);
    Some(match disk.ports.is_empty() {
        true => RowChange::Remove(RowKey::Disk(disk.id)),
        false => RowChange::Put(Row::Disk(disk)),
    })
}

/// A link that joins nobody any more goes, unless it waits for the second node of the cluster.
fn links(rows: &ClusterRows, node: NodeId, out: &mut Vec<RowChange>) {
    let one_stays = rows.nodes.len() == 2;
    for link in rows.links.iter().filter(|link| link.nodes.contains(&node)) {
        let mut link: LinkRow = link.clone();
        link.nodes.retain(|other| *other != node);
        link.rails.iter_mut().for_each(|rail| rail.ends.retain(|end| end.node != node));
        let joins = link.nodes.len() > 1 || (one_stays && !link.nodes.is_empty());
        out.push(match joins {
            true => RowChange::Put(Row::Link(link)),
            false => RowChange::Remove(RowKey::Link(link.number)),
        });
    }
}

/// Who votes without it: as many as is usual if it was so before; else another one in its place, if it voted.
fn voters(rows: &ClusterRows, node: &NodeRow, out: &mut Vec<RowChange>) {
    let all: Vec<NodeId> = rows.nodes.iter().map(|row| row.id).collect();
    let stay: Vec<NodeId> = all.iter().copied().filter(|id| *id != node.id).collect();
    let mut voters: Vec<NodeId> = rows.nodes.iter().filter(|row| row.voter).map(|row| row.id).collect();
    let usual = voters_usual(&all).len() == voters.len();
    let wanted = if usual { voters_usual(&stay).len() } else { voters.len().min(stay.len()) };
    voters.retain(|id| *id != node.id);
    let others: Vec<NodeId> = stay.into_iter().filter(|id| !voters.contains(id)).collect();
    voters.extend(others.into_iter().take(wanted.saturating_sub(voters.len())));
    voters.sort();
    voters.truncate(wanted.max(1));
    for row in &rows.nodes {
        let voter = voters.contains(&row.id);
        if voter != row.voter {
            out.push(RowChange::Put(Row::Node(NodeRow { voter, ..row.clone() })));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::config::Config;
    use control_proto::rules::check_all;
    use std::path::Path;

    fn database(nodes: u16, more: &str) -> Database {
        let nodes: String = (1..=nodes).map(|id| format!("[[node]]\nid = {id}\n")).collect();
        let text =
            format!("[cluster]\nname = \"north\"\n{nodes}[[link]]\nrails = [{{ kind = \"tcp\" }}]\n{more}");
        Database::found(Config::parse_rows(Path::new("/c.toml"), &text).unwrap()).unwrap()
    }

    /// The rows when the node is gone, checked by the rules.
    fn without(database: &Database, node: u16) -> Result<ClusterRows, DepartureRefusal> {
        let Departure { duties, rest } = departure(database, NodeId(node))?;
        let mut rows = ClusterRows::clone(database.rows());
        for changes in [duties, rest] {
            for change in changes {
                match change {
                    RowChange::Put(row) => drop(rows.put(row)),
                    RowChange::Remove(key) => drop(rows.remove(&key)),
                }
            }
            assert_eq!(check_all(&rows), [], "both steps leave rows that keep the rules");
        }
        Ok(rows)
    }

    fn voters_of(rows: &ClusterRows) -> Vec<u16> {
        rows.nodes.iter().filter(|row| row.voter).map(|row| row.id.0).collect()
    }

    const DUAL: &str = "[[disk]]\nname = \"shelf\"\nnodes = [1, 2]\npath = \"/s\"\n\
        [[virtual_disk]]\nname = \"vd0\"\nsize = \"1MiB\"\ndisk = \"shelf\"\n\
        [[permission]]\nvirtual_disk = \"vd0\"\nmode = 0o600\n\
        [[nbd]]\nnode = 1\nlisten = \"unix:/n\"\n\
        [[disk]]\nname = \"own\"\nkind = \"memory\"\nnodes = [1]\n";

    // proves: C5
    #[test]
    fn everything_that_names_a_node_goes_with_it_and_others_serve() {
        let rows = without(&database(3, DUAL), 1).unwrap();
        assert_eq!(rows.virtual_disks[0].candidates.len(), 1);
        assert_eq!(rows.disks.len(), 1, "its memory disk, which held nothing, is gone");
        assert_eq!(rows.permissions[0].nodes, [NodeId(2), NodeId(3)]);
        assert!(rows.nbd.is_empty());
        assert_eq!(rows.links[0].nodes, [NodeId(2), NodeId(3)]);
    }

    #[test]
    fn the_only_one_that_serves_may_not_go_and_says_which_disks() {
        let own = format!("{DUAL}[[virtual_disk]]\nname = \"fast\"\nsize = \"1MiB\"\ndisk = \"own\"\n");
        let refused = without(&database(3, &own), 1).unwrap_err();
        assert!(refused.to_string().contains("only node1 serves fast"), "{refused}");
        assert!(without(&database(3, &own), 2).is_ok());
        assert!(without(&database(1, ""), 1).unwrap_err().to_string().contains("only node"));
        assert_eq!(without(&database(1, ""), 9), Err(DepartureRefusal::NoNode { node: NodeId(9) }));
    }

    #[test]
    fn the_number_of_voters_stays_usual() {
        assert_eq!(voters_of(&without(&database(6, ""), 1).unwrap()), [2, 3, 4, 5, 6]);
        assert_eq!(voters_of(&without(&database(5, ""), 1).unwrap()), [2, 3, 4]);
        assert_eq!(voters_of(&without(&database(4, ""), 4).unwrap()), [1, 2, 3]);
        assert_eq!(voters_of(&without(&database(3, ""), 3).unwrap()), [1]);
        let two = without(&database(2, ""), 1).unwrap();
        assert_eq!(voters_of(&two), [2]);
        assert_eq!(two.links[0].nodes, [NodeId(2)], "the link waits for another node");
    }
}
