//! `netdisk change`: changes that nodes stand still for (SPEC C4), under way and of late.

use crate::change::flow::{Cluster, Progress, until_over};
use crate::change::show::columns;
use crate::change::{Flags, Look};
use crate::daemon::Daemon;
use control_node::config::key_text;
use control_proto::ccd::{CancelCause, Change, Reconfiguration, ReconfigurationId, RowChange};
use control_proto::rows::ClusterRows;
use serde_json::{Value, json};
use std::process::ExitCode;

/// See changes that nodes stand still for; let one go on, or give it up.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List them, those under way first.
    List(Look),
    /// Let a held one go on: the hardware is as it should be.
    Proceed(Which),
    /// Give one up: everything stays as it was.
    Cancel(Which),
}

#[derive(clap::Args)]
struct Which {
    /// Its number.
    number: u64,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::List(look) => list(look),
        Action::Proceed(it) => {
            let reconfiguration = ReconfigurationId(it.number);
            decide(it, Change::Proceed { reconfiguration }, "went on and is done")
        }
        Action::Cancel(it) => {
            let (reconfiguration, why) = (ReconfigurationId(it.number), CancelCause::Operator);
            decide(it, Change::Cancel { reconfiguration, why }, "was given up; everything is as before")
        }
    }
}

fn rows_of(rows: &ClusterRows, row: &Reconfiguration) -> Vec<String> {
    row.changes.iter().map(|change: &RowChange| key_text(rows, &change.key())).collect()
}

fn list(look: &Look) -> anyhow::Result<ExitCode> {
    let database = Daemon::of(&look.which)?.database()?;
    let rows = database.rows();
    let mut all: Vec<&Reconfiguration> = database.reconfigurations().collect();
    all.sort_by_key(|row| (!row.phase.is_live(), std::cmp::Reverse(row.id)));
    let waits = |row: &Reconfiguration| -> Vec<String> {
        row.missing.iter().map(|member| rows.node_name(member.node)).collect()
    };
    if look.json {
        let one = |row: &&Reconfiguration| {
            json!({
                "number": row.id.0, "phase": row.phase.to_string(), "rows": rows_of(rows, row),
                "waits_for": waits(row), "live": row.phase.is_live(),
                "asked_at": rows.node_name(row.asked_at),
            })
        };
        println!("{}", serde_json::to_string_pretty(&all.iter().map(one).collect::<Vec<Value>>())?);
    } else {
        let one = |row: &&Reconfiguration| {
            let rows_text = rows_of(rows, row).join(", ");
            vec![row.id.0.to_string(), row.phase.to_string(), rows_text, waits(row).join(", ")]
        };
        print!(
            "{}",
            columns(&["NUMBER", "STATE", "ROWS", "WAITS FOR"], &all.iter().map(one).collect::<Vec<_>>())
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn decide(it: &Which, change: Change, done: &str) -> anyhow::Result<ExitCode> {
    let mut daemon = Daemon::of(&it.flags.which)?;
    if it.flags.dry_run {
        println!("nothing was changed; reconfiguration {} would be decided", it.number);
        return Ok(ExitCode::SUCCESS);
    }
    let cancels = matches!(change, Change::Cancel { .. });
    daemon.decided(change)?;
    if !cancels {
        let mut progress = Progress::new();
        until_over(&mut daemon, ReconfigurationId(it.number), &mut |line| progress.tell(line))?;
    }
    if it.flags.json {
        println!("{}", json!({ "done": done, "number": it.number }));
    } else {
        println!("reconfiguration {} {done}", it.number);
    }
    Ok(ExitCode::SUCCESS)
}
