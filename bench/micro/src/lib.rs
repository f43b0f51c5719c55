//! `bench-micro`: netdisk beside the limits of the machine and beside its peers, as ratios, in one table. A
//! library as well, because `netdisk lab bench` measures in the soft-RoCE laboratory with the netdisk binary:
//! see [`laboratory`].
//!
//! The way of a run: [`catalogue`] lists the scenarios, [`scenario`] runs each one's two sides in turn, and
//! the harness prints what came of it. The raw limits are in [`limits`], programs of others in [`peers`]. The
//! other end of every exchange is a process of its own: this binary again, in one of the roles of [`role`].
#![forbid(unsafe_code)]

mod bystander;
mod catalogue;
mod control;
mod disk;
mod instructions;
pub mod laboratory;
mod limits;
mod messages;
mod netdisk;
mod output;
mod peers;
mod rival;
mod role;
mod scenario;
mod scratch;
mod settings;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench_harness::{Across, Alternation, CorePair, Line, Machine, Panel, Picture, Report, Unit};
use clap::{Args, Parser, Subcommand};

pub use crate::control::{ControlArguments, run_control};
pub use crate::disk::{DiskArguments, run_disk};
pub use crate::messages::{Kind, MessageArguments, run as run_messages};
use crate::role::Role;
use crate::scenario::Scenario;
use crate::settings::Settings;

/// netdisk's microbenchmarks: every figure is a ratio to a limit of this machine or to a peer, measured in
/// turn.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    wishes: Wishes,
}

/// What a person may ask for.
#[derive(Debug, Args)]
struct Wishes {
    /// Few and short turns: shows that everything works, its figures say little.
    #[arg(long, global = true)]
    quick: bool,
    /// Only the scenarios whose id contains this text.
    #[arg(long, global = true, value_name = "TEXT")]
    only: Option<String>,
    /// Pairs of turns to keep per scenario.
    #[arg(long, global = true, value_name = "N")]
    pairs: Option<u32>,
    /// Recorded seconds of each turn.
    #[arg(long, global = true, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Keep pairs also when other work disturbed the cores. The figures then show function only.
    #[arg(long, global = true)]
    keep_all_pairs: bool,
    /// Congestion control of raw TCP sockets (default: the machine's, as netdisk's own).
    #[arg(long, global = true, value_name = "NAME")]
    tcp_congestion: Option<String>,
    /// Also write the report as JSON into this file.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write each scenario's latency as .hgrm and as a picture (.svg) into this folder.
    #[arg(long, global = true, value_name = "FOLDER")]
    curves: Option<PathBuf>,
    /// Exit with 1 unless every goal is reached.
    #[arg(long, global = true)]
    strict: bool,
    /// List the scenarios and their goals, run nothing.
    #[arg(long, global = true)]
    list: bool,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// The control plane's replicated log beside etcd, which is installed if it is not there. Takes the
    /// options of the comparison.
    Control,
    /// Instructions of the hot paths, counted by callgrind, beside those written in bench/results.
    Instructions {
        /// Write them down instead of comparing.
        #[arg(long)]
        write: bool,
    },
    /// One hot path; callgrind counts.
    #[command(hide = true)]
    HotPath {
        /// Its name.
        path: String,
        /// How often.
        operations: u64,
    },
    /// The other end of an exchange; started by this program itself.
    #[command(hide = true)]
    Worker {
        /// A [`Role`] as JSON.
        role: String,
    },
}

/// Does what this process's command line asks for; returns its exit code.
///
/// # Errors
/// What went wrong and what to do.
pub fn run_command_line() -> Result<u8> {
    let Arguments { other, wishes } = Arguments::parse();
    match other {
        Some(Other::Worker { role }) => {
            let role: Role = serde_json::from_str(&role).context("a role is JSON written by the parent")?;
            role.serve()
        }
        Some(Other::Control) => {
            let settings = settings(&wishes)?;
            if !wishes.list {
                peers::Tool::Etcd.install();
            }
            compare(&wishes, &settings, control::scenarios(&settings))
        }
        Some(Other::Instructions { write }) => return instructions::check(write),
        Some(Other::HotPath { path, operations }) => instructions::run(&path, operations),
        None => {
            let settings = settings(&wishes)?;
            compare(&wishes, &settings, catalogue::scenarios(&settings))
        }
    }?;
    Ok(0)
}

/// This machine, with a warning if others are using it.
pub(crate) fn machine() -> Machine {
    let machine = Machine::describe(Path::new(env!("CARGO_MANIFEST_DIR")));
    if machine.is_busy() {
        let load = machine.load;
        eprintln!("WARNING: the machine is busy (load {load:.1}); ratios may hold, absolute figures do not");
    }
    machine
}

/// Every scenario against its limit or peer, and the table of what came of it.
fn compare(wishes: &Wishes, settings: &Settings, mut scenarios: Vec<Scenario>) -> Result<()> {
    if let Some(text) = &wishes.only {
        scenarios.retain(|scenario| scenario.id.contains(text.as_str()));
        if scenarios.is_empty() {
            bail!("no scenario's id contains {text:?}; --list shows them all");
        }
    }
    if wishes.list {
        for scenario in &scenarios {
            println!("{:<28} {:<18} {}", scenario.id, scenario.goal.show(scenario.unit), scenario.title);
        }
        return Ok(());
    }
    let mut report = Report::begin(machine());
    for scenario in scenarios {
        report.rows.push(output::run_row(scenario, settings));
    }
    print!("{}", report.show());
    if let Some(file) = &wishes.json {
        fs::write(file, report.json()).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    if let Some(folder) = &wishes.curves {
        write_curves(folder, &report)?;
    }
    if wishes.strict && !report.all_reached() {
        bail!("not every goal is reached; the table says which");
    }
    Ok(())
}

fn settings(wishes: &Wishes) -> Result<Settings> {
    let mut settings = if wishes.quick { Settings::quick() } else { Settings::full() };
    settings.cores = CorePair::choose()?;
    settings.core_pairs = vec![settings.cores];
    settings.tcp_congestion = wishes.tcp_congestion.clone();
    if let Some(pairs) = wishes.pairs {
        settings.alternation =
            Alternation { pairs, tries_max: pairs.saturating_mul(2), ..settings.alternation };
    }
    settings.alternation.keep_disturbed = wishes.keep_all_pairs;
    if let Some(seconds) = wishes.seconds {
        let measure = Duration::try_from_secs_f64(seconds).context("--seconds is a positive number")?;
        settings.budget.measure = measure;
        settings.fio_runtime = measure;
    }
    Ok(settings)
}

/// One `.hgrm` per side and one picture per scenario that recorded latencies.
fn write_curves(folder: &Path, report: &Report) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    for row in &report.rows {
        let Some(comparison) = &row.comparison else { continue };
        let file = row.scenario.replace('/', "-");
        let mut curves = Vec::new();
        for (side, name, recorder) in
            [("ours", &row.ours, &comparison.recorders[0]), ("limit", &row.limit, &comparison.recorders[1])]
        {
            let Some(recorder) = recorder else { continue };
            recorder.write_hgrm(&mut fs::File::create(folder.join(format!("{file}-{side}.hgrm")))?)?;
            curves.push(Line::percentiles(name, recorder));
        }
        if !curves.is_empty() {
            let panel = Panel {
                caption: row.scenario.clone(),
                across: Across::Percentile,
                up: Unit::Nanoseconds,
                lines: curves,
                marks: Vec::new(),
            };
            let picture = Picture { title: row.title.clone(), notes: Vec::new(), panels: vec![panel] };
            picture.write(&folder.join(format!("{file}.svg")))?;
        }
    }
    Ok(())
}
