//! `netdisk lab bench`: starts the laboratory once and runs this very program in it, which measures.

use anyhow::{Context, ensure};
use bench_harness::Machine;
use bench_micro::laboratory::{self, Wishes};
use fixtures_lab::vm::{Lab, LabOptions, Streams, Tool};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The hidden sub-command of what runs inside.
const IN_GUEST: &str = "lab-bench";

#[derive(clap::Args)]
pub(crate) struct BenchArguments {
    /// Also draw a picture of the results into this file (PNG).
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// The report as JSON on standard output; the table goes to standard error.
    #[arg(long)]
    json: bool,
    /// Few and short turns: shows that everything works, its figures say little.
    #[arg(long)]
    quick: bool,
    /// Only the rows whose id contains this text.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Pairs of turns per row.
    #[arg(long, value_name = "N")]
    pairs: Option<u32>,
    /// End it after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    timeout: u64,
}

#[derive(clap::Args)]
pub(crate) struct GuestArguments {
    /// What was asked for, as JSON.
    wishes: String,
}

#[derive(clap::Args)]
pub(crate) struct WorkerArguments {
    /// What to do, as JSON.
    role: String,
}

pub(crate) fn run(arguments: &BenchArguments) -> anyhow::Result<ExitCode> {
    ensure!(
        cfg!(feature = "verbs"),
        "this netdisk was built without verbs: cargo run --release --features verbs -- lab bench"
    );
    let load = Machine::describe(Path::new(env!("CARGO_MANIFEST_DIR"))).load;
    eprintln!("lab bench: this machine's load is {load:.1}; figures under emulation count as ratios only");
    if load > 1.0 {
        eprintln!("WARNING: other work has the cores; ratios of turns that alternate may hold, roughly");
    }
    let mut options = LabOptions {
        modules: laboratory::MODULES.map(str::to_owned).to_vec(),
        tools: vec![Tool::optional("fio", "fio")],
        time_limit: Some(Duration::from_secs(arguments.timeout)),
        ..LabOptions::default()
    };
    let plot = arguments.plot.as_deref().map(|file| shared(file, &mut options)).transpose()?;
    let wishes = Wishes {
        quick: arguments.quick,
        only: arguments.only.clone(),
        pairs: arguments.pairs,
        json: arguments.json,
        host_load: Some(load),
        plot,
    };
    let program = std::env::current_exe().context("this program has no path")?;
    let words = [program.into_os_string(), OsString::from(IN_GUEST), serde_json::to_string(&wishes)?.into()];
    let streams = Streams { input: Box::new(io::empty()), ..Streams::inherited() };
    Ok(super::exit_code(Lab::new(options)?.start(&words, streams)?.wait()?))
}

/// The whole path of a file that the guest is to write; its folder becomes one that the guest may change.
fn shared(file: &Path, options: &mut LabOptions) -> anyhow::Result<PathBuf> {
    let name = file.file_name().with_context(|| format!("{} is no file's name", file.display()))?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().with_context(|| format!("{} is no folder", folder.display()))?;
    if !folder.starts_with(&options.folder) {
        options.shares.push(folder.clone());
    }
    Ok(folder.join(name))
}

pub(crate) fn measure_in_guest(arguments: &GuestArguments) -> anyhow::Result<ExitCode> {
    let wishes = serde_json::from_str(&arguments.wishes).context("started by `netdisk lab bench` only")?;
    laboratory::measure(&wishes)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn serve_worker(arguments: &WorkerArguments) -> anyhow::Result<ExitCode> {
    laboratory::serve(&arguments.role)?;
    Ok(ExitCode::SUCCESS)
}
