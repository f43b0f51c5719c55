//! `netdisk leave`: a node goes for good.

use crate::change::flow::{Cluster, Progress, carry_out};
use crate::change::show::{differences, json, text};
use crate::change::{Flags, Plan};
use crate::daemon::{Daemon, request};
use anyhow::Context;
use control_node::admin::Request;
use control_node::departure::departure;
use control_node::report::Status;
use control_proto::ccd::Database;
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use transport_proto::identity::NodeId;

/// How long the node may take to hand over, leave and end.
const END_TIME_MAX: Duration = Duration::from_secs(60);

/// Let the node of this machine leave the cluster for good.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

fn status(daemon: &Daemon) -> anyhow::Result<Status> {
    let answer = request(&daemon.socket, &Request::Status)?;
    serde_json::from_value(answer).context("the node is of another release")
}

/// Whether the node still votes, or nobody leads: then who votes is not settled.
fn votes(daemon: &Daemon) -> anyhow::Result<bool> {
    let status = status(daemon)?;
    Ok(status.log.voters.contains(&status.node) || status.log.leader.is_none())
}

/// What others take over, while the node still runs.
fn hand_over(database: &Database, node: NodeId) -> anyhow::Result<Plan> {
    let departure = departure(database, node)?;
    Ok(Plan::new("others serve what it served", departure.duties))
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let flags = &arguments.flags;
    let mut daemon = Daemon::of(&flags.which)?;
    let status = status(&daemon)?;
    let node = NodeId(status.node);
    let database = daemon.database()?;
    let name = database.rows().node_name(node);
    let departure = departure(&database, node)?;
    let whole = departure.whole();
    let shown = differences(&database, &whole);
    if flags.dry_run {
        match flags.json {
            true => println!("{}", json!({ "dry_run": true, "changes": json(&shown) })),
            false => println!("{}nothing was changed", text(&shown)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut progress = Progress::new();
    carry_out(&mut daemon, &|database| hand_over(database, node), flags.deadline_ms, false, &mut |line| {
        progress.tell(line);
    })?;
    progress.tell("handing its vote over");
    let until = Instant::now() + END_TIME_MAX;
    while votes(&daemon)? {
        anyhow::ensure!(Instant::now() < until, "the others do not take over its vote: see `netdisk doctor`");
        std::thread::sleep(LOOK_EVERY);
    }
    progress.tell("leaving");
    request(&daemon.socket, &Request::Leave)?;
    let until = Instant::now() + END_TIME_MAX;
    // The node takes its socket away as the last thing.
    while daemon.socket.exists() {
        anyhow::ensure!(
            Instant::now() < until,
            "the node has handed over but did not end in time: look at its log, and at `netdisk node list` \
             on another node"
        );
        std::thread::sleep(LOOK_EVERY);
    }
    drop(progress);
    let done = format!("node {name} has left {}; its state folder is of no use any more", status.cluster);
    match flags.json {
        true => println!("{}", json!({ "done": done, "changes": json(&shown) })),
        false => println!("{done}"),
    }
    Ok(ExitCode::SUCCESS)
}
