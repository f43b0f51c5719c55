//! `netdisk disk`: disks, and the nodes that reach them.

use super::{bytes, change, list, next_number};
use crate::change::{Flags, Look, Plan, find};
use crate::random::random;
use anyhow::{bail, ensure};
use blockdev_proto::geometry::DiskId;
use blockdev_store::{DiskUuid, NewDisk};
use control_proto::ccd::{Database, Row, RowChange, RowKey};
use control_proto::rows::{DISKS_MAX, DiskKind, DiskPort, DiskRow};
use std::path::PathBuf;
use std::process::ExitCode;
use transport_proto::identity::NodeId;

/// Format disks; see and change which nodes reach them.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Format a file or a block device of this machine as a disk.
    Create(Create),
    /// List the cluster's disks.
    List(Look),
    /// Make a formatted disk known to the cluster.
    Add(Add),
    /// Take a disk without virtual disks out of the cluster; its bytes stay.
    Remove(Named),
    /// Give one another name.
    Rename(Rename),
    /// One more node reaches it.
    Attach(Port),
    /// A node reaches it no more; others serve what it served.
    Detach(Port),
    /// Its cable moves from one node to another, while clients use it.
    Move(Move),
}

#[derive(clap::Args)]
struct Create {
    /// File or block device.
    path: PathBuf,
    /// Bytes for clients, with KiB, MiB, GiB or TiB; a device may leave it out and give all it has.
    #[arg(long)]
    size: Option<String>,
    /// Bytes of a block.
    #[arg(long, default_value_t = 4096)]
    block_size: u32,
    /// Leave holes instead of allocating the file's space now.
    #[arg(long)]
    sparse: bool,
    /// Erase what is there.
    #[arg(long)]
    force: bool,
}

#[derive(clap::Args)]
struct Add {
    /// Its name.
    name: String,
    /// What it is made of.
    #[arg(long, value_enum, default_value_t = Kind::File)]
    kind: Kind,
    /// A node that reaches it and where it is there, NODE:PATH; NODE alone for memory. Once for each node.
    #[arg(long = "node", required = true, value_name = "NODE:PATH")]
    ports: Vec<String>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum Kind {
    /// A file in a file system.
    File,
    /// A whole block device.
    Raw,
    /// Memory of one node; gone when it ends.
    Memory,
}

#[derive(clap::Args)]
struct Named {
    /// The disk.
    name: String,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Rename {
    /// The disk.
    name: String,
    /// Its new name.
    to: String,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Port {
    /// The disk.
    name: String,
    /// The node.
    #[arg(long)]
    node: String,
    /// Where the disk is there; by default as on the first node.
    #[arg(long)]
    path: Option<String>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Move {
    /// The disk.
    name: String,
    /// The node that it leaves.
    #[arg(long)]
    from: String,
    /// The node that it comes to.
    #[arg(long)]
    to: String,
    /// Where the disk is there; by default as on the node that it leaves.
    #[arg(long)]
    path: Option<String>,
    /// Let all nodes stand still for it and wait for `netdisk change proceed`, so that the cable can be
    /// moved.
    #[arg(long)]
    hold: bool,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::Create(new) => create(new),
        Action::List(look) => list(look, "disk", &HEAD, listed),
        Action::Add(new) => change(&new.flags, false, &|db| plan_add(db, &new.name, new.kind, &new.ports)),
        Action::Remove(it) => change(&it.flags, false, &|db| plan_remove(db, &it.name)),
        Action::Rename(it) => change(&it.flags, false, &|db| plan_rename(db, &it.name, &it.to)),
        Action::Attach(it) => {
            change(&it.flags, false, &|db| plan_attach(db, &it.name, &it.node, it.path.as_deref()))
        }
        Action::Detach(it) => change(&it.flags, false, &|db| plan_detach(db, &it.name, &it.node)),
        Action::Move(it) => {
            change(&it.flags, it.hold, &|db| plan_move(db, &it.name, (&it.from, &it.to), it.path.as_deref()))
        }
    }
}

fn create(new: &Create) -> anyhow::Result<ExitCode> {
    let data_bytes = new.size.as_deref().map(bytes).transpose()?;
    let disk = NewDisk {
        data_bytes,
        block_bytes: new.block_size,
        uuid: uuid()?,
        sparse: new.sparse,
        force: new.force,
    };
    blockdev_store::create(&new.path, &disk)?;
    println!("{} is a disk of blocks of {} bytes", new.path.display(), new.block_size);
    Ok(ExitCode::SUCCESS)
}

/// A fresh identity for a disk.
pub(crate) fn uuid() -> anyhow::Result<DiskUuid> {
    Ok(DiskUuid(u128::from_le_bytes(random()?)))
}

const HEAD: [&str; 5] = ["ID", "NAME", "KIND", "REACHED BY", "VIRTUAL DISK"];

fn listed(database: &Database) -> Vec<Vec<String>> {
    let rows = database.rows();
    let one = |row: &DiskRow| {
        let kind = match row.kind {
            DiskKind::File => "file",
            DiskKind::Raw => "raw",
            DiskKind::Memory => "memory",
        };
        let port = |port: &DiskPort| match port.path.is_empty() {
            true => rows.node_name(port.node),
            false => format!("{}:{}", rows.node_name(port.node), port.path),
        };
        let ports: Vec<String> = row.ports.iter().map(port).collect();
        let used =
            rows.virtual_disks.iter().filter(|disk| disk.candidates.iter().any(|(_, id)| *id == row.id));
        let used: Vec<String> = used.map(|disk| disk.name.clone()).collect();
        vec![row.id.0.to_string(), row.name.clone(), kind.into(), ports.join(", "), used.join(", ")]
    };
    rows.disks.iter().map(one).collect()
}

/// Reads NODE:PATH.
fn port(database: &Database, text: &str, kind: Kind) -> anyhow::Result<DiskPort> {
    let (node, path) = text.split_once(':').unwrap_or((text, ""));
    let node = find::node(database.rows(), node)?.id;
    let pathless = matches!(kind, Kind::Memory);
    ensure!(
        pathless || path.starts_with('/'),
        "{text:?} says no absolute path: write NODE:/path/on/that/node"
    );
    ensure!(!pathless || path.is_empty(), "memory has no path: write the node's name alone");
    Ok(DiskPort { node, path: path.into() })
}

fn plan_add(database: &Database, name: &str, kind: Kind, ports: &[String]) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let ports: Vec<DiskPort> =
        ports.iter().map(|text| port(database, text, kind)).collect::<anyhow::Result<_>>()?;
    ensure!(
        rows.disks.iter().all(|row| row.name != name),
        "there is a disk {name} already: choose another name, or see `netdisk disk attach`"
    );
    let id = DiskId(next_number(rows.disks.iter().map(|row| row.id.0), 1, DISKS_MAX as u32)?);
    let kind = match kind {
        Kind::File => DiskKind::File,
        Kind::Raw => DiskKind::Raw,
        Kind::Memory => DiskKind::Memory,
    };
    let done = format!(
        "disk {name} is known; make a virtual disk on it: netdisk vdisk create NAME --disk {name} --size …"
    );
    Ok(Plan::new(done, vec![RowChange::Put(Row::Disk(DiskRow { id, name: name.into(), kind, ports }))]))
}

fn plan_remove(database: &Database, name: &str) -> anyhow::Result<Plan> {
    let row = find::disk(database.rows(), name)?;
    Ok(Plan::new(format!("disk {} is gone", row.name), vec![RowChange::Remove(RowKey::Disk(row.id))]))
}

fn plan_rename(database: &Database, name: &str, to: &str) -> anyhow::Result<Plan> {
    let row = find::disk(database.rows(), name)?.clone();
    let done = format!("disk {name} is called {to}");
    Ok(Plan::new(done, vec![RowChange::Put(Row::Disk(DiskRow { name: to.into(), ..row }))]))
}

fn plan_attach(database: &Database, name: &str, node: &str, path: Option<&str>) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let mut row = find::disk(rows, name)?.clone();
    let node = find::node(rows, node)?;
    let usual = row.ports.first().map(|port| port.path.clone()).unwrap_or_default();
    let path = path.map_or(usual, str::to_owned);
    match row.ports.iter_mut().find(|port| port.node == node.id) {
        Some(port) => port.path = path,
        None => row.ports.push(DiskPort { node: node.id, path }),
    }
    let done = format!(
        "{} reaches disk {}; let it serve what is there: netdisk vdisk attach NAME --node {}",
        node.name, row.name, node.name
    );
    Ok(Plan::new(done, vec![RowChange::Put(Row::Disk(row))]))
}

/// Virtual disks on a disk, with another list of those who serve them.
fn served_by(
    database: &Database,
    disk: DiskId,
    change: impl Fn(&mut Vec<(NodeId, DiskId)>),
) -> impl Iterator<Item = control_proto::rows::VirtualDiskRow> {
    let rows = database.rows().clone();
    let used = rows.virtual_disks.clone().into_iter();
    used.filter(move |row| row.candidates.iter().any(|(_, id)| *id == disk)).filter_map(move |mut row| {
        let before = row.candidates.clone();
        change(&mut row.candidates);
        (row.candidates != before).then_some(row)
    })
}

fn plan_detach(database: &Database, name: &str, node: &str) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let mut row = find::disk(rows, name)?.clone();
    let node = find::node(rows, node)?;
    row.ports.retain(|port| port.node != node.id);
    if row.ports.is_empty() {
        bail!(
            "{} alone reaches disk {}: attach it to another node first, or remove it (netdisk disk \
             remove {})",
            node.name,
            row.name,
            row.name
        );
    }
    let mut changes = vec![RowChange::Put(Row::Disk(row.clone()))];
    for served in served_by(database, row.id, |list| list.retain(|(other, _)| *other != node.id)) {
        if served.candidates.is_empty() {
            bail!(
                "{} alone serves {}: let another node serve it first (netdisk vdisk attach {} --node NODE)",
                node.name,
                served.name,
                served.name
            );
        }
        changes.push(RowChange::Put(Row::VirtualDisk(served)));
    }
    Ok(Plan::new(format!("{} reaches disk {} no more", node.name, row.name), changes))
}

fn plan_move(
    database: &Database,
    name: &str,
    (from, to): (&str, &str),
    path: Option<&str>,
) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let mut row = find::disk(rows, name)?.clone();
    let (from, to) = (find::node(rows, from)?, find::node(rows, to)?);
    ensure!(row.kind != DiskKind::Memory, "{} is memory of one node: it cannot move", row.name);
    let taken = row.ports.iter().any(|port| port.node == to.id);
    ensure!(!taken, "{} reaches disk {} already: see `netdisk vdisk move`", to.name, row.name);
    let Some(port) = row.ports.iter_mut().find(|port| port.node == from.id) else {
        bail!("{} does not reach disk {}: see `netdisk disk list`", from.name, row.name)
    };
    port.node = to.id;
    if let Some(path) = path {
        port.path = path.to_owned();
    }
    let mut changes = vec![RowChange::Put(Row::Disk(row.clone()))];
    let moved = served_by(database, row.id, |list| {
        list.iter_mut().filter(|(node, _)| *node == from.id).for_each(|(node, _)| *node = to.id);
    });
    changes.extend(moved.map(|served| RowChange::Put(Row::VirtualDisk(served))));
    Ok(Plan::new(format!("disk {} is at {} instead of {}", row.name, to.name, from.name), changes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::change::sample::{after, database, refused};

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    // proves: C5
    #[test]
    fn a_cable_moves_with_all_that_is_served_over_it() {
        let moved = after(&database(), &|db| plan_move(db, "shelf", ("alpha", "gamma"), None)).unwrap();
        let disk = moved.rows().disks[0].clone();
        assert_eq!(disk.ports[0], DiskPort { node: NodeId(3), path: "/shelf.img".into() });
        let candidates: Vec<u16> =
            moved.rows().virtual_disks[0].candidates.iter().map(|(node, _)| node.0).collect();
        assert_eq!(candidates, [3, 2]);
        for (from, to, why) in [
            ("alpha", "beta", "reaches disk shelf already"),
            ("gamma", "alpha", "reaches disk shelf already"),
            ("gamma", "gamma", "does not reach"),
        ] {
            let text = refused(&database(), &|db| plan_move(db, "shelf", (from, to), None));
            assert!(text.contains(why), "{text}");
        }
        let memory = refused(&database(), &|db| plan_move(db, "quick", ("gamma", "alpha"), None));
        assert!(memory.contains("cannot move"), "{memory}");
    }

    // proves: C5
    #[test]
    fn ports_come_and_go_and_the_last_one_stays() {
        let more = after(&database(), &|db| plan_attach(db, "shelf", "gamma", Some("/g.img"))).unwrap();
        assert_eq!(more.rows().disks[0].ports.len(), 3);
        let less = after(&more, &|db| plan_detach(db, "shelf", "alpha")).unwrap();
        assert_eq!(less.rows().virtual_disks[0].candidates.len(), 1);
        let text = refused(&less, &|db| plan_detach(db, "shelf", "beta"));
        assert!(text.contains("beta alone serves vd0"), "{text}");
        let text = refused(&database(), &|db| plan_detach(db, "quick", "gamma"));
        assert!(text.contains("gamma alone reaches disk quick"), "{text}");
    }

    #[test]
    fn disks_are_added_renamed_and_removed() {
        let ports = words(&["alpha:/dev/sdx", "beta:/dev/sdy"]);
        let more = after(&database(), &|db| plan_add(db, "new", Kind::Raw, &ports)).unwrap();
        let row = more.rows().disks.last().unwrap().clone();
        assert_eq!((row.id, row.ports.len(), row.kind), (DiskId(4), 2, DiskKind::Raw));
        let renamed = after(&more, &|db| plan_rename(db, "new", "old")).unwrap();
        let gone = after(&renamed, &|db| plan_remove(db, "old")).unwrap();
        assert_eq!(gone.rows().disks.len(), 3);
        let used = refused(&gone, &|db| plan_remove(db, "shelf"));
        assert!(used.contains("virtual disk 0"), "{used}");
    }

    #[test]
    fn slips_are_told_with_the_remedy() {
        let refuse = |kind, port: &str| refused(&database(), &|db| plan_add(db, "x", kind, &words(&[port])));
        assert!(refuse(Kind::File, "alpha").contains("NODE:/path"));
        assert!(refuse(Kind::File, "alpha:here").contains("absolute"));
        assert!(refuse(Kind::Memory, "alpha:/x").contains("memory has no path"));
        assert!(refuse(Kind::File, "alpha:/shelf.img").contains("/shelf.img is also"));
        assert!(refuse(Kind::File, "delta:/x").contains("there is alpha"));
    }
}
