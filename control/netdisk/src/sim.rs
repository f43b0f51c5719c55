//! `netdisk sim`: whole clusters of the real state machines under one seed each.

use anyhow::bail;
use fixtures_sim::{Mutant, SimOptions, run as simulate};
use std::num::NonZero;
use std::process::ExitCode;

/// Run simulated clusters and judge what their clients and disks showed.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    base: u64,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Break a rule and expect the checkers to notice: no-epoch-gate, no-duplicate-table, ack-of-any-life,
    /// resume-on-timer or lease-from-receipt.
    #[arg(long)]
    mutant: Option<String>,
    /// Print what happens, line by line; meant for one seed.
    #[arg(long)]
    trace: bool,
    /// Threads; as many as there are cores unless told otherwise.
    #[arg(long)]
    jobs: Option<usize>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mutant = match arguments.mutant.as_deref() {
        None => None,
        Some(name) => match Mutant::from_name(name) {
            Some(mutant) => Some(mutant),
            None => {
                let names = Mutant::ALL.map(Mutant::name).join(", ");
                bail!("mutant {name:?} is unknown: there are {names}");
            }
        },
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let report = simulate(&SimOptions {
        seeds: arguments.seeds,
        base: arguments.base,
        seed: arguments.seed,
        mutant,
        trace: arguments.trace,
        jobs: arguments.jobs.unwrap_or(cores).max(1),
    });
    println!("{report}");
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
