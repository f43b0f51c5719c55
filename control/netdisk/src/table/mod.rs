//! One module for each table that people change: what its commands are called, and how each becomes row
//! changes. Each `plan_*` is a pure function of the database; what is refused by the rules of rows is refused
//! by the database itself, so here is only what the rules cannot know.

pub(crate) mod disk;
pub(crate) mod link;
pub(crate) mod nbd;
pub(crate) mod node;
pub(crate) mod permission;
pub(crate) mod pool;
pub(crate) mod rail;
pub(crate) mod vdisk;
pub(crate) mod volume;

use crate::change::show::columns;
use crate::change::{Flags, Look, Plan, flow};
use crate::daemon::Daemon;
use anyhow::{Context, bail};
use control_proto::ccd::Database;
use std::process::ExitCode;

/// Carries a plan out at the node that the flags name.
pub(crate) fn change(
    flags: &Flags,
    hold: bool,
    plan: &dyn Fn(&Database) -> anyhow::Result<Plan>,
) -> anyhow::Result<ExitCode> {
    let mut daemon = Daemon::of(&flags.which)?;
    flow::run(&mut daemon, flags, hold, plan)
}

/// Prints one section of the configuration: as columns, or as JSON.
pub(crate) fn list(
    look: &Look,
    section: &str,
    head: &[&str],
    rows: impl Fn(&Database) -> Vec<Vec<String>>,
) -> anyhow::Result<ExitCode> {
    let mut daemon = Daemon::of(&look.which)?;
    let database = flow::Cluster::database(&mut daemon)?;
    if look.json {
        let mut whole = control_node::config::to_json(database.rows());
        println!("{}", serde_json::to_string_pretty(&whole[section].take())?);
    } else {
        print!("{}", columns(head, &rows(&database)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes of a size such as `64MiB`.
pub(crate) fn bytes(size: &str) -> anyhow::Result<u64> {
    let digits = size.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match &size[digits.len()..] {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        other => bail!("unit {other:?} is unknown: use KiB, MiB, GiB or TiB"),
    };
    let count: u64 =
        digits.parse().with_context(|| format!("{size:?} is no size: write 64MiB or a number of bytes"))?;
    count.checked_mul(unit).with_context(|| format!("{size} is too large"))
}

/// The number after the last one; the first free one where that is past the end.
fn next_number(used: impl Iterator<Item = u32> + Clone, first: u32, most: u32) -> anyhow::Result<u32> {
    let after = used.clone().max().map_or(first, |last| last.saturating_add(1));
    if after <= most {
        return Ok(after);
    }
    let free = (first..=most).find(|number| used.clone().all(|other| other != *number));
    free.with_context(|| format!("all {} numbers are given: remove a row first", most - first + 1))
}
