//! `netdisk bench`: what netdisk reaches on this machine, beside its peers.

mod compare;
mod doctor;
mod table;

use std::process::ExitCode;

use bench_micro::{ControlArguments, DiskArguments, Kind, MessageArguments};

/// Measure netdisk on this machine.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Time of a message from process to process, half of there and back unless told otherwise.
    Lat(MessageArguments),
    /// Bytes per second, one way.
    Bw(MessageArguments),
    /// Messages per second, one way.
    Rate(MessageArguments),
    /// Reads and writes of a disk of another node.
    Disk(DiskArguments),
    /// How long clients wait when the node that serves their disk goes.
    Failover(crate::demo::failover::Arguments),
    /// Writes to the log of the configuration, and how long it stands still when its leader dies.
    Control(ControlArguments),
    /// What changed from one report to another, beyond noise.
    Compare(compare::Arguments),
    /// What on this machine will spoil figures, and what helps.
    Doctor,
    /// All of it, as the table of bench/README.md and the reports of bench/results.
    Table(table::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let good = match &arguments.what {
        What::Lat(arguments) => bench_micro::run_messages(Kind::Latency, arguments),
        What::Bw(arguments) => bench_micro::run_messages(Kind::Bandwidth, arguments),
        What::Rate(arguments) => bench_micro::run_messages(Kind::Rate, arguments),
        What::Disk(arguments) => bench_micro::run_disk(arguments),
        What::Failover(arguments) => return crate::demo::failover::run(arguments),
        What::Control(arguments) => bench_micro::run_control(arguments),
        What::Compare(arguments) => compare::run(arguments),
        What::Doctor => doctor::run(),
        What::Table(arguments) => table::run(arguments),
    }?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
