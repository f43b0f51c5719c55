//! `netdisk lab`: soft-RoCE for any program, on any Linux machine.

mod arguments;
mod bench;
mod terminal;

use anyhow::Context;
use arguments::{Action, RunArguments};
use fixtures_faults::FaultPlan;
use fixtures_lab::vm::{Diagnosis, Lab, LabFault, LabOptions, Streams, Way};
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

pub(crate) use arguments::Arguments;
pub(crate) use bench::{GuestArguments, WorkerArguments, measure_in_guest, serve_worker};

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Action::Run(arguments) => run_program(arguments),
        Action::Shell(arguments) => shell(arguments),
        Action::Doctor(arguments) => doctor(&arguments),
        Action::Bench(arguments) => bench::run(&arguments),
    }
}

fn run_program(arguments: RunArguments) -> anyhow::Result<ExitCode> {
    let lab = Lab::new(arguments.machine.options(arguments.each_host, arguments.faults.as_deref())?)?;
    let guest = lab.start(&arguments.words, Streams::inherited())?;
    Ok(exit_code(guest.wait()?))
}

/// A shell in the guest; on a pipe, one that takes its commands from there.
fn shell(arguments: arguments::ShellArguments) -> anyhow::Result<ExitCode> {
    let lab = Lab::new(arguments.machine.options(false, None)?)?;
    let shell = std::env::var_os("SHELL").filter(|shell| Path::new(shell).is_file());
    let words = [shell.unwrap_or_else(|| OsString::from("/bin/sh"))];
    if !io::stdin().is_terminal() {
        return Ok(exit_code(lab.start(&words, Streams::inherited())?.wait()?));
    }
    let size = terminal::size();
    eprintln!("lab: kernel {}; commands there: on, pair, rail, each-host; exit ends it", lab.kernel());
    let guest = lab.start_on_terminal(&words, Streams::inherited(), size)?;
    // On this machine's own kernel the shell has the terminal itself.
    if lab.way() == Way::Host {
        return Ok(exit_code(guest.wait()?));
    }
    let raw = terminal::Raw::enter().context("cannot take over the terminal")?;
    let ended = guest.wait();
    drop(raw);
    Ok(exit_code(ended?))
}

fn doctor(arguments: &arguments::DoctorArguments) -> anyhow::Result<ExitCode> {
    let diagnosis = Diagnosis::make(arguments.fetch)?;
    println!("{diagnosis}");
    Ok(if diagnosis.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

impl arguments::MachineArguments {
    fn options(&self, is_on_each_host: bool, plan: Option<&Path>) -> anyhow::Result<LabOptions> {
        let mut options = LabOptions {
            topology: fixtures_lab::vm::Topology::new(self.hosts, self.rails)?,
            ram_mb: self.ram,
            memlock_bytes: self.memlock,
            way: self.way,
            modules: self.module.clone(),
            is_on_each_host,
            time_limit: self.timeout.map(std::time::Duration::from_secs),
            is_console_shown: self.console,
            ..LabOptions::default()
        };
        for folder in &self.share {
            let whole = folder.canonicalize().with_context(|| format!("--share {}", folder.display()))?;
            options.shares.push(whole);
        }
        options.plan = plan.map(read_plan).transpose()?;
        Ok(options)
    }
}

fn read_plan(path: &Path) -> Result<FaultPlan, LabFault> {
    let fault = |why: String| LabFault::Plan { path: path.to_path_buf(), why };
    let text = std::fs::read_to_string(path).map_err(|source| fault(source.to_string()))?;
    let plan: FaultPlan = toml::from_str(&text).map_err(|source| fault(source.to_string()))?;
    plan.check().map_err(|source| fault(source.to_string()))?;
    Ok(plan)
}
