//! `netdisk permission`: who may open a virtual disk.

use super::vdisk::usual_permission;
use super::{change, list};
use crate::change::{Flags, Look, Plan, find};
use anyhow::{Context, bail};
use control_proto::ccd::{Database, Row, RowChange, RowKey};
use std::process::ExitCode;

/// See and change who may open a virtual disk.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List them.
    List(Look),
    /// Set owner, group, mode or nodes; what is not named stays.
    Set(Set),
    /// Go back to the usual: root of each node alone.
    Remove(Remove),
}

#[derive(clap::Args)]
struct Set {
    /// The virtual disk.
    virtual_disk: String,
    /// User, as a number.
    #[arg(long)]
    owner: Option<u32>,
    /// Group, as a number.
    #[arg(long)]
    group: Option<u32>,
    /// Permission bits, octal, such as 660.
    #[arg(long)]
    mode: Option<String>,
    /// Nodes on which it may be opened, or "all".
    #[arg(long, value_delimiter = ',')]
    nodes: Vec<String>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Remove {
    /// The virtual disk.
    virtual_disk: String,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::List(look) => list(look, "permission", &HEAD, listed),
        Action::Set(set) => change(&set.flags, false, &|database| plan_set(database, set)),
        Action::Remove(it) => change(&it.flags, false, &|database| plan_remove(database, &it.virtual_disk)),
    }
}

const HEAD: [&str; 5] = ["VIRTUAL DISK", "OWNER", "GROUP", "MODE", "NODES"];

fn listed(database: &Database) -> Vec<Vec<String>> {
    let rows = database.rows();
    let one = |row: &control_proto::rows::VirtualDiskRow| {
        let usual = usual_permission(rows, row.id);
        let permission = rows.permission(row.id).unwrap_or(&usual);
        let nodes: Vec<String> = permission.nodes.iter().map(|node| rows.node_name(*node)).collect();
        let (owner, group) = (permission.owner.to_string(), permission.group.to_string());
        vec![row.name.clone(), owner, group, format!("{:03o}", permission.mode), nodes.join(", ")]
    };
    rows.virtual_disks.iter().map(one).collect()
}

fn mode_of(text: &str) -> anyhow::Result<u16> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u16::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777);
    mode.with_context(|| format!("{text:?} is no file mode: write three octal digits, such as 660"))
}

fn plan_set(database: &Database, set: &Set) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let disk = find::virtual_disk(rows, &set.virtual_disk)?;
    if set.owner.is_none() && set.group.is_none() && set.mode.is_none() && set.nodes.is_empty() {
        bail!("say what to set: --owner, --group, --mode or --nodes");
    }
    let mut row = rows.permission(disk.id).cloned().unwrap_or_else(|| usual_permission(rows, disk.id));
    row.owner = set.owner.unwrap_or(row.owner);
    row.group = set.group.unwrap_or(row.group);
    if let Some(mode) = &set.mode {
        row.mode = mode_of(mode)?;
    }
    if !set.nodes.is_empty() {
        row.nodes = find::nodes(rows, &set.nodes)?;
    }
    let done = format!("{} belongs to {}:{}, mode {:03o}", disk.name, row.owner, row.group, row.mode);
    Ok(Plan::new(done, vec![RowChange::Put(Row::Permission(row))]))
}

fn plan_remove(database: &Database, name: &str) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let disk = find::virtual_disk(rows, name)?;
    let row = rows.permission(disk.id).map(|_| RowChange::Remove(RowKey::Permission(disk.id)));
    Ok(Plan::new(format!("{} is root's alone", disk.name), row.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::change::sample::{after, database, refused};
    use clap::Parser;
    use transport_proto::identity::NodeId;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        set: Set,
    }

    fn set(words: &[&str]) -> Set {
        Line::try_parse_from([&["x"], words].concat()).unwrap().set
    }

    // proves: C5
    #[test]
    fn permissions_are_set_field_by_field_and_go_back_to_the_usual() {
        let some = set(&["vd0", "--mode", "0o660", "--nodes", "gamma"]);
        let changed = after(&database(), &|db| plan_set(db, &some)).unwrap();
        let row = changed.rows().permissions[0].clone();
        assert_eq!((row.owner, row.mode, row.nodes), (1000, 0o660, vec![NodeId(3)]));
        let gone = after(&changed, &|db| plan_remove(db, "vd0")).unwrap();
        assert!(gone.rows().permissions.is_empty());
        assert_eq!(listed(&gone)[0][3], "600");
        let again = after(&gone, &|db| plan_set(db, &set(&["vd0", "--owner", "7"]))).unwrap();
        assert_eq!(again.rows().permissions[0].mode, 0o600);
    }

    #[test]
    fn bad_modes_and_empty_orders_are_refused() {
        for mode in ["888", "1777", "rw", ""] {
            let text = refused(&database(), &|db| plan_set(db, &set(&["vd0", "--mode", mode])));
            assert!(text.contains("octal"), "{text}");
        }
        assert!(refused(&database(), &|db| plan_set(db, &set(&["vd0"]))).contains("--owner"));
    }
}
