//! `netdisk node list|rename|set|remove|clear`: the nodes of the cluster. (`netdisk node run` is the daemon.)

use super::{change, list};
use crate::change::flow::Cluster;
use crate::change::{Flags, Look, Plan, find};
use crate::daemon::Daemon;
use anyhow::{bail, ensure};
use control_node::departure::departure;
use control_proto::ccd::{Change, Database, Row, RowChange};
use control_proto::rows::NodeRow;
use std::net::IpAddr;
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// List them.
    List(Look),
    /// Give one another name.
    Rename(Rename),
    /// Change its address, or whether it votes.
    Set(Set),
    /// Take a node that does not run out of the cluster, with all that names it.
    Remove(Named),
    /// Let a node that cried for help come back, once the cause is mended.
    Clear(Clear),
}

#[derive(clap::Args)]
pub(crate) struct Named {
    /// The node, by name or number.
    node: String,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
pub(crate) struct Clear {
    /// The node, by name or number, whose tombstone the cluster is to forget, told at a node that runs; left
    /// out: the mark in the state folder of the node that does not start, on its machine.
    node: Option<String>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
pub(crate) struct Rename {
    /// The node.
    node: String,
    /// Its new name.
    to: String,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
pub(crate) struct Set {
    /// The node.
    node: String,
    /// The machine's address, from which addresses of new rails are derived.
    #[arg(long)]
    host: Option<IpAddr>,
    /// Whether it votes on the configuration; three or five do.
    #[arg(long)]
    voter: Option<bool>,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) fn run(action: &Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::List(look) => list(look, "node", &HEAD, listed),
        Action::Rename(it) => change(&it.flags, false, &|database| plan_rename(database, &it.node, &it.to)),
        Action::Set(set) => change(&set.flags, false, &|db| plan_set(db, &set.node, set.host, set.voter)),
        Action::Remove(it) => change(&it.flags, false, &|database| plan_remove(database, &it.node)),
        Action::Clear(it) => clear(it),
    }
}

const HEAD: [&str; 6] = ["ID", "NAME", "HOST", "VOTES", "MEMBER", "NOTES"];

fn listed(database: &Database) -> Vec<Vec<String>> {
    let members = &database.membership().members;
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let one = |row: &NodeRow| {
        let stone = database.tombstone(row.id);
        let note = stone.map_or_else(String::new, |stone| format!("{}: {}", stone.level, stone.reason));
        let member = members.iter().any(|member| member.node == row.id);
        let (id, host) = (row.id.0.to_string(), row.host.to_string());
        vec![id, row.name.clone(), host, yes(row.voter), yes(member), note]
    };
    database.rows().nodes.iter().map(one).collect()
}

fn plan_rename(database: &Database, node: &str, to: &str) -> anyhow::Result<Plan> {
    let row = find::node(database.rows(), node)?.clone();
    let done = format!("node {} is called {to}", row.id.0);
    Ok(Plan::new(done, vec![RowChange::Put(Row::Node(NodeRow { name: to.into(), ..row }))]))
}

fn plan_set(db: &Database, node: &str, host: Option<IpAddr>, voter: Option<bool>) -> anyhow::Result<Plan> {
    let mut row = find::node(db.rows(), node)?.clone();
    if host.is_none() && voter.is_none() {
        bail!("say what to set: --host ADDRESS, --voter true|false");
    }
    row.host = host.unwrap_or(row.host);
    row.voter = voter.unwrap_or(row.voter);
    Ok(Plan::new(format!("node {} is set", row.name), vec![RowChange::Put(Row::Node(row))]))
}

fn plan_remove(database: &Database, node: &str) -> anyhow::Result<Plan> {
    let row = find::node(database.rows(), node)?;
    ensure!(
        database.membership().members.iter().all(|member| member.node != row.id),
        "{} is a member: let it go in good order (netdisk leave, on its machine), or stop it first",
        row.name
    );
    let changes = departure(database, row.id)?.whole();
    Ok(Plan::new(format!("node {} is gone", row.name), changes))
}

fn clear(it: &Clear) -> anyhow::Result<ExitCode> {
    let Some(node) = &it.node else { return clear_here(it) };
    let mut daemon = Daemon::of(&it.flags.which)?;
    let database = daemon.database()?;
    let row = find::node(database.rows(), node)?;
    let Some(stone) = database.tombstone(row.id) else {
        bail!("node {} did not cry for help: there is nothing to clear", row.name)
    };
    let what = format!("node {} ({}: {}) may come back; start it", row.name, stone.level, stone.reason);
    if !it.flags.dry_run {
        daemon.decided(Change::Clear { node: row.id })?;
    }
    cleared(it, &what)
}

/// The mark in a state folder of this machine.
fn clear_here(it: &Clear) -> anyhow::Result<ExitCode> {
    let folder = it.flags.which.folder()?;
    if it.flags.dry_run {
        return cleared(it, &format!("the mark in {} would go", folder.display()));
    }
    let what = match control_node::distress::clear(&folder)? {
        Some(stone) => format!("{} had given up ({}); it may start", stone.member.node, stone.reason),
        None => format!("{} holds no tombstone: there is nothing to clear", folder.display()),
    };
    cleared(it, &what)
}

fn cleared(it: &Clear, what: &str) -> anyhow::Result<ExitCode> {
    if it.flags.json {
        println!("{}", serde_json::json!({ "done": what, "dry_run": it.flags.dry_run }));
    } else {
        println!("{what}");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::change::sample::{after, database, refused};

    #[test]
    fn nodes_are_renamed_and_set() {
        let renamed = after(&database(), &|db| plan_rename(db, "2", "bee")).unwrap();
        assert_eq!(renamed.rows().nodes[1].name, "bee");
        let set = after(&renamed, &|db| plan_set(db, "bee", None, Some(false))).unwrap();
        assert!(!set.rows().nodes[1].voter);
        assert!(refused(&set, &|db| plan_set(db, "bee", None, None)).contains("--voter"));
        assert!(refused(&set, &|db| plan_rename(db, "bee", "alpha")).contains("already"));
        let none = |db: &Database| {
            let mut plan = plan_set(db, "alpha", None, Some(false))?;
            plan.changes.extend(plan_set(db, "gamma", None, Some(false))?.changes);
            Ok(plan)
        };
        assert!(refused(&set, &none).contains("no node votes"));
        assert_eq!(listed(&set)[1][..2], ["2".to_owned(), "bee".to_owned()]);
    }

    #[test]
    fn a_member_is_not_removed() {
        let text = refused(&database(), &|db| plan_remove(db, "gamma"));
        assert!(text.contains("gamma is a member") && text.contains("netdisk leave"), "{text}");
    }
}
