//! `netdisk bench`: what netdisk reaches on this machine.

use std::process::ExitCode;

/// Measure netdisk on this machine.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// How long clients wait when the node that serves their disk goes.
    Failover(crate::demo::failover::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.what {
        What::Failover(arguments) => crate::demo::failover::run(arguments),
    }
}
