//! `netdisk link`: logical links, each joining nodes by redundant rails.

use super::{change, list, next_number};
use crate::change::{Flags, Look, Plan, find};
use anyhow::{Context, bail, ensure};
use control_node::scheme::{RailKind, base_for, move_end, rail_end};
use control_proto::ccd::{Database, Row, RowChange, RowKey};
use control_proto::rows::{ClusterRows, LinkNumber, LinkRow, RailEnd, RailRow};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;
use transport_proto::identity::{LINKS_MAX, LinkId, NodeId, Path, RAILS_MAX, RailId};

/// See and change logical links.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List them.
    List(Look),
    /// Join nodes by one more link.
    Add(Add),
    /// Take a link away; what it carries goes over the others.
    Remove(Remove),
}

#[derive(clap::Args)]
struct Add {
    /// Its rails, one word for each: tcp, shm or verbs, with addresses that differ from the scheme, such as
    /// tcp,alpha=10.1.0.1,beta=10.1.0.2:7001.
    #[arg(long = "rail", required = true, value_name = "RAIL")]
    rails: Vec<RailWanted>,
    /// Nodes that it joins.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    nodes: Vec<String>,
    /// Its number between two nodes; the next free one if left out.
    #[arg(long)]
    link: Option<u8>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Remove {
    /// Its row number, as `netdisk link list` tells it.
    number: u32,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::List(look) => list(look, "link", &HEAD, listed),
        Action::Add(add) => {
            change(&add.flags, false, &|database| plan_add(database, &add.rails, &add.nodes, add.link))
        }
        Action::Remove(it) => change(&it.flags, false, &|database| plan_remove(database, it.number)),
    }
}

/// A rail as people write it: its kind, and addresses that differ from the scheme, by node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RailWanted {
    pub(crate) kind: RailKind,
    /// By node: address, and port if it is written.
    pub(crate) addresses: Vec<(String, IpAddr, Option<u16>)>,
}

impl FromStr for RailWanted {
    type Err = String;

    fn from_str(text: &str) -> Result<RailWanted, String> {
        let mut words = text.split(',');
        let kind: RailKind = words.next().unwrap_or_default().parse()?;
        let mut addresses = Vec::new();
        for word in words {
            let (node, address) =
                word.split_once('=').ok_or_else(|| format!("{word:?} is not NODE=ADDRESS"))?;
            let (ip, port) = place(address).ok_or_else(|| format!("{address:?} is no address"))?;
            addresses.push((node.to_owned(), ip, port));
        }
        if kind == RailKind::Shm && !addresses.is_empty() {
            return Err("shared memory has no address: write shm alone".into());
        }
        Ok(RailWanted { kind, addresses })
    }
}

/// An address with or without a port.
pub(crate) fn place(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let whole = text.parse::<SocketAddr>().ok().map(|address| (address.ip(), Some(address.port())));
    whole.or_else(|| text.parse().ok().map(|ip| (ip, None)))
}

const HEAD: [&str; 4] = ["ROW", "LINK", "RAILS", "NODES"];

fn listed(database: &Database) -> Vec<Vec<String>> {
    let rows = database.rows();
    let one = |row: &LinkRow| {
        let kind = |rail: &RailRow| {
            rail.ends.first().map_or_else(String::new, |end| RailKind::of(&end.address).to_string())
        };
        let rails: Vec<String> =
            row.rails.iter().map(|rail| format!("{} {}", rail.id.0, kind(rail))).collect();
        let nodes: Vec<String> = row.nodes.iter().map(|node| rows.node_name(*node)).collect();
        vec![row.number.0.to_string(), row.id.0.to_string(), rails.join(", "), nodes.join(", ")]
    };
    rows.links.iter().map(one).collect()
}

/// A rail between nodes, by the scheme and by what is written.
pub(super) fn rail_row(
    rows: &ClusterRows,
    nodes: &[NodeId],
    path: Path,
    wanted: &RailWanted,
) -> anyhow::Result<RailRow> {
    for (name, ..) in &wanted.addresses {
        let node = find::node(rows, name)?;
        ensure!(nodes.contains(&node.id), "{} is not at this link: leave its address out", node.name);
    }
    let end = |&node: &NodeId| -> anyhow::Result<RailEnd> {
        let row = rows.node(node).context("a link names a node that is not there")?;
        let base = base_for(rows, node);
        let end = base.and_then(|base| rail_end(&rows.name, node, row.host, base, path, wanted.kind));
        let mut end = end.with_context(|| format!("the ports of {} would be past the last one", row.name))?;
        let written = wanted
            .addresses
            .iter()
            .find(|(name, ..)| find::node(rows, name).is_ok_and(|meant| meant.id == node));
        if let Some((_, ip, port)) = written {
            move_end(&mut end, *ip, *port, None);
        }
        Ok(end)
    };
    Ok(RailRow { id: path.rail, ends: nodes.iter().map(end).collect::<anyhow::Result<_>>()? })
}

fn plan_add(
    database: &Database,
    rails: &[RailWanted],
    nodes: &[String],
    id: Option<u8>,
) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let nodes = find::nodes(rows, nodes)?;
    let number = LinkNumber(next_number(rows.links.iter().map(|row| row.number.0), 0, u32::MAX)?);
    let meets = |row: &&LinkRow| row.nodes.iter().filter(|node| nodes.contains(node)).count() > 1;
    let used: Vec<u32> = rows.links.iter().filter(meets).map(|row| u32::from(row.id.0)).collect();
    let id = match id {
        Some(id) => LinkId(id),
        None => LinkId(next_number(used.iter().copied(), 0, LINKS_MAX as u32 - 1)? as u8),
    };
    let mut link = LinkRow { number, id, nodes, rails: Vec::new() };
    if rails.len() > RAILS_MAX {
        bail!("{} rails are too many: a link has {RAILS_MAX} at the most", rails.len());
    }
    if usize::from(id.0) >= LINKS_MAX {
        bail!("link {} is over the limit: choose one up to {}", id.0, LINKS_MAX - 1);
    }
    for (place, wanted) in rails.iter().enumerate() {
        let path = Path { link: id, rail: RailId(place as u8) };
        link.rails.push(rail_row(rows, &link.nodes, path, wanted)?);
    }
    let done = format!("link {} joins {} nodes by {} rails", id.0, link.nodes.len(), link.rails.len());
    Ok(Plan::new(done, vec![RowChange::Put(Row::Link(link))]))
}

fn plan_remove(database: &Database, number: u32) -> anyhow::Result<Plan> {
    let row = find::link(database.rows(), number)?;
    Ok(Plan::new(format!("link {} is gone", row.id.0), vec![RowChange::Remove(RowKey::Link(row.number))]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::change::sample::{after, database, refused};
    use control_proto::rows::RailAddress;

    // proves: C5
    #[test]
    fn a_link_is_added_by_the_scheme_and_taken_away() {
        let rails = ["tcp".parse().unwrap(), "tcp,beta=127.0.0.2:9000".parse().unwrap()];
        let all = ["all".to_owned()];
        let more = after(&database(), &|db| plan_add(db, &rails, &all, None)).unwrap();
        let link = more.rows().links.last().unwrap().clone();
        assert_eq!((link.number, link.id), (LinkNumber(2), LinkId(2)));
        let end = |rail: usize, node| link.rails[rail].end(NodeId(node)).unwrap().address.clone();
        let port = 7400 + 64 + 2 * Path { link: LinkId(2), rail: RailId(0) }.index() as u16;
        assert_eq!(end(0, 2), RailAddress::Tcp(SocketAddr::new([127, 0, 0, 1].into(), port)));
        assert_eq!(end(1, 2), RailAddress::Tcp("127.0.0.2:9000".parse().unwrap()));
        let gone = after(&more, &|db| plan_remove(db, 2)).unwrap();
        assert_eq!(gone.rows().links.len(), 2);
    }

    #[test]
    fn the_last_link_between_two_nodes_stays() {
        let one = after(&database(), &|db| plan_remove(db, 1)).unwrap();
        assert!(refused(&one, &|db| plan_remove(db, 0)).contains("no link joins"));
        assert!(refused(&one, &|db| plan_remove(db, 9)).contains("netdisk link list"));
    }

    #[test]
    fn slips_in_a_rail_are_named() {
        for (text, why) in [
            ("udp", "tcp, shm or verbs"),
            ("tcp,alpha", "NODE=ADDRESS"),
            ("tcp,alpha=10.0.0", "no address"),
            ("shm,alpha=10.0.0.1", "shm alone"),
        ] {
            assert!(text.parse::<RailWanted>().unwrap_err().contains(why), "{text}");
        }
        let stranger = ["tcp,delta=10.0.0.1".parse().unwrap()];
        let text = refused(&database(), &|db| plan_add(db, &stranger, &["all".into()], None));
        assert!(text.contains("delta"), "{text}");
        let same = ["tcp".parse().unwrap()];
        let text = refused(&database(), &|db| plan_add(db, &same, &["all".into()], Some(0)));
        assert!(text.contains("link 0 joins alpha and beta") || text.contains("used already"), "{text}");
    }
}
