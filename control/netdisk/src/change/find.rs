//! Rows by what people call them: a name, or a number.

use anyhow::{Context, bail};
use control_proto::rows::{ClusterRows, DiskRow, LinkRow, NodeRow, VirtualDiskRow};
use transport_proto::identity::NodeId;

/// Names that a refusal lists at the most.
const LISTED_MAX: usize = 12;

fn find<'r, T>(
    what: &str,
    wanted: &str,
    rows: &'r [T],
    name: impl Fn(&T) -> String,
    number: impl Fn(&T) -> u32,
) -> anyhow::Result<&'r T> {
    let digits = wanted.parse::<u32>().ok();
    let found = rows.iter().find(|row| name(row) == wanted || digits == Some(number(row)));
    found.with_context(|| {
        let mut names: Vec<String> = rows.iter().take(LISTED_MAX).map(name).collect();
        if rows.len() > LISTED_MAX {
            names.push("…".into());
        }
        match names.is_empty() {
            true => format!("there is no {what} {wanted:?}: there is none at all yet"),
            false => format!("there is no {what} {wanted:?}: there is {}", names.join(", ")),
        }
    })
}

pub(crate) fn node<'r>(rows: &'r ClusterRows, wanted: &str) -> anyhow::Result<&'r NodeRow> {
    find("node", wanted, &rows.nodes, |row| row.name.clone(), |row| u32::from(row.id.0))
}

pub(crate) fn disk<'r>(rows: &'r ClusterRows, wanted: &str) -> anyhow::Result<&'r DiskRow> {
    find("disk", wanted, &rows.disks, |row| row.name.clone(), |row| row.id.0)
}

pub(crate) fn virtual_disk<'r>(rows: &'r ClusterRows, wanted: &str) -> anyhow::Result<&'r VirtualDiskRow> {
    find("virtual disk", wanted, &rows.virtual_disks, |row| row.name.clone(), |row| row.id.0)
}

/// Nodes by their names, or all of them.
pub(crate) fn nodes(rows: &ClusterRows, wanted: &[String]) -> anyhow::Result<Vec<NodeId>> {
    if wanted.is_empty() || wanted == ["all"] {
        return Ok(rows.nodes.iter().map(|row| row.id).collect());
    }
    wanted.iter().map(|text| node(rows, text).map(|row| row.id)).collect()
}

/// The row of links of this number; where only one row has it, the link id is as good.
pub(crate) fn link(rows: &ClusterRows, wanted: u32) -> anyhow::Result<&LinkRow> {
    if let Some(row) = rows.links.iter().find(|row| row.number.0 == wanted) {
        return Ok(row);
    }
    let same: Vec<&LinkRow> = rows.links.iter().filter(|row| u32::from(row.id.0) == wanted).collect();
    match same[..] {
        [row] => Ok(row),
        _ => bail!("there is no link of row number {wanted}: see `netdisk link list`"),
    }
}
