//! `netdisk rail`: cuts a rail of a running node as a pulled cable would, and mends it.

use crate::status::{Which, request};
use control_node::admin::Request;
use std::process::ExitCode;

/// Cut or mend a rail of a running node.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Drop the rail's heartbeats: its traffic moves to another rail.
    Cut(Rail),
    /// Undo a cut.
    Mend(Rail),
}

#[derive(clap::Args)]
struct Rail {
    #[command(flatten)]
    which: Which,
    /// Logical link.
    #[arg(long)]
    link: u8,
    /// Rail of it.
    #[arg(long)]
    rail: u8,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (rail, order) = match &arguments.action {
        Action::Cut(rail) => (rail, Request::CutRail { link: rail.link, rail: rail.rail }),
        Action::Mend(rail) => (rail, Request::MendRail { link: rail.link, rail: rail.rail }),
    };
    request(&rail.which.socket()?, &order)?;
    Ok(ExitCode::SUCCESS)
}
