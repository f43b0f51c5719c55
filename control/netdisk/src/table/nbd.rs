//! `netdisk nbd`: servers through which programs open virtual disks.

use super::{change, list};
use crate::change::{Flags, Look, Plan, find};
use anyhow::{Context, ensure};
use blockdev_proto::geometry::VolumeId;
use control_proto::ccd::{Database, Row, RowChange, RowKey};
use control_proto::rows::{ClusterRows, NbdAddress, NbdRow};
use std::process::ExitCode;

/// See and change NBD servers.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List them.
    List(Look),
    /// Start one on a node, or change what one exports.
    Set(Set),
    /// Stop one.
    Remove(Remove),
}

#[derive(clap::Args)]
struct Set {
    /// The node.
    #[arg(long)]
    node: String,
    /// unix:/absolute/path or tcp:ADDRESS:PORT.
    #[arg(long)]
    listen: String,
    /// Virtual disks that it exports, or "all" there are now.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    exports: Vec<String>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Remove {
    /// The node.
    #[arg(long)]
    node: String,
    /// Where it listens.
    #[arg(long)]
    listen: String,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::List(look) => list(look, "nbd", &HEAD, listed),
        Action::Set(set) => {
            change(&set.flags, false, &|db| plan_set(db, &set.node, &set.listen, &set.exports))
        }
        Action::Remove(it) => change(&it.flags, false, &|db| plan_remove(db, &it.node, &it.listen)),
    }
}

const HEAD: [&str; 3] = ["NODE", "LISTENS AT", "EXPORTS"];

fn listed(database: &Database) -> Vec<Vec<String>> {
    let rows = database.rows();
    let one = |row: &NbdRow| {
        let exports: Vec<String> = row
            .exports
            .iter()
            .filter_map(|id| rows.virtual_disk(*id))
            .map(|disk| disk.name.clone())
            .collect();
        vec![rows.node_name(row.node), row.listen.to_string(), exports.join(", ")]
    };
    rows.nbd.iter().map(one).collect()
}

pub(super) fn address(text: &str) -> anyhow::Result<NbdAddress> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(NbdAddress::Unix(path.to_owned()));
    }
    let tcp = text.strip_prefix("tcp:").and_then(|address| address.parse().ok());
    tcp.map(NbdAddress::Tcp).with_context(|| {
        format!("{text:?} is no place to listen: write unix:/absolute/path or tcp:ADDRESS:PORT")
    })
}

fn exports(rows: &ClusterRows, wanted: &[String]) -> anyhow::Result<Vec<VolumeId>> {
    if wanted == ["all"] {
        let wholes = rows.virtual_disks.iter().filter(|row| rows.whole_of(row.id).is_none());
        return Ok(wholes.map(|row| row.id).collect());
    }
    wanted.iter().map(|name| find::virtual_disk(rows, name).map(|row| row.id)).collect()
}

fn plan_set(db: &Database, node: &str, listen: &str, wanted: &[String]) -> anyhow::Result<Plan> {
    let rows = db.rows();
    let node = find::node(rows, node)?;
    let row = NbdRow { node: node.id, listen: address(listen)?, exports: exports(rows, wanted)? };
    let done = format!("{} serves {} virtual disks at {}", node.name, row.exports.len(), row.listen);
    Ok(Plan::new(done, vec![RowChange::Put(Row::Nbd(row))]))
}

fn plan_remove(db: &Database, node: &str, listen: &str) -> anyhow::Result<Plan> {
    let rows = db.rows();
    let (node, listen) = (find::node(rows, node)?, address(listen)?);
    ensure!(
        rows.nbd_server(node.id, &listen).is_some(),
        "{} has no nbd server at {listen}: see `netdisk nbd list`",
        node.name
    );
    let done = format!("{} listens at {listen} no more", node.name);
    Ok(Plan::new(done, vec![RowChange::Remove(RowKey::Nbd { node: node.id, listen })]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::change::sample::{after, database, refused};

    #[test]
    fn servers_come_change_and_go() {
        let all = ["all".to_owned()];
        let more = after(&database(), &|db| plan_set(db, "alpha", "tcp:127.0.0.1:10809", &all)).unwrap();
        assert_eq!(more.rows().nbd.len(), 2);
        let none = after(&more, &|db| plan_set(db, "gamma", "unix:/run/c.sock", &[])).unwrap();
        assert!(none.rows().nbd.iter().any(|row| row.exports.is_empty()));
        let gone = after(&none, &|db| plan_remove(db, "gamma", "unix:/run/c.sock")).unwrap();
        assert_eq!(listed(&gone), [["alpha", "tcp:127.0.0.1:10809", "vd0"]]);
    }

    #[test]
    fn bad_places_are_told_with_the_remedy() {
        let all = ["all".to_owned()];
        let refuse = |listen: &str| refused(&database(), &|db| plan_set(db, "alpha", listen, &all));
        assert!(refuse("10809").contains("unix:/absolute/path"));
        assert!(refuse("unix:relative").contains("absolute path"));
        // The port of one of its rails.
        assert!(refuse("tcp:127.0.0.1:7402").contains("is used already by"));
        let gone = refused(&database(), &|db| plan_remove(db, "alpha", "unix:/x"));
        assert!(gone.contains("netdisk nbd list"), "{gone}");
    }
}
