//! From a command line to changed rows: plan, show, propose, wait until it took effect.
//!
//! ```text
//! database ─► plan ─► tried on a copy ─► (--dry-run: shown, and that is all)
//!                          │
//!                          ▼ with the revisions of the rows it was planned for
//!                     proposed ─► refused: why, and what to do
//!                          │      rows changed meanwhile, or outcome unknown: look again, plan again
//!                          ▼
//!                     in force on every member
//! ```
//! A plan is a pure function of the database. Since a change is proposed together with the revisions that it
//! was planned for, it can never happen twice, however often it is tried.

pub(crate) mod find;
pub(crate) mod flow;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod show;

use crate::which::Which;
use control_proto::ccd::RowChange;

/// What a command wants to change.
pub(crate) struct Plan {
    /// Row by row.
    pub(crate) changes: Vec<RowChange>,
    /// What will be so then, for people: "virtual disk vd0 has 20GiB".
    pub(crate) done: String,
}

impl Plan {
    pub(crate) fn new(done: impl Into<String>, changes: Vec<RowChange>) -> Plan {
        Plan { changes, done: done.into() }
    }
}

/// What every command that changes something understands.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Show the row changes and stop there.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// What happened, as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// How long nodes may take to let running requests finish before the change is given up, ms.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub(crate) deadline_ms: u32,
}

/// What every command that only looks understands.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Look {
    #[command(flatten)]
    pub(crate) which: Which,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
