//! netdisk over soft-RoCE beside perftest and the kernel's NVMe over fabrics, inside `netdisk lab`: two
//! hosts, two rails, one machine run. Called by the netdisk binary, which the laboratory carries out.

mod kernel_nvme;
mod perftest;
mod rows;

pub(crate) use perftest::{PerftestBandwidth, PerftestLatency};

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench_harness::{
    Alternation, Budget, CorePair, Machine, Placement, Report, Verdict, Witness, draw_report,
};
use serde::{Deserialize, Serialize};

use crate::role::Role;

/// Kernel modules that the peers need, to be loaded when the laboratory starts.
pub const MODULES: [&str; 5] = ["brd", "nvme-rdma", "nvmet-rdma", "nvme-tcp", "nvmet-tcp"];

/// What the caller of `netdisk lab bench` asked for; handed into the laboratory as JSON.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Wishes {
    /// Few and short turns.
    pub quick: bool,
    /// Only the rows whose id contains this.
    pub only: Option<String>,
    /// Pairs of turns per row, instead of the usual number.
    pub pairs: Option<u32>,
    /// The report goes to standard output as JSON; the table then goes to standard error.
    pub json: bool,
    /// How busy the machine is that emulates this one.
    pub host_load: Option<f64>,
    /// Where to draw a picture of it.
    pub plot: Option<PathBuf>,
}

/// Lengths of everything in this run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lengths {
    /// Of a turn of ours, and of fio's.
    pub(crate) budget: Budget,
    /// Messages of a turn of perftest's latency.
    pub(crate) messages: u32,
    /// Bytes of a turn of perftest's bandwidth.
    pub(crate) stream_bytes: u64,
    /// Cores of the two ends.
    pub(crate) cores: CorePair,
}

/// Nothing of this machine can be watched from inside: what disturbs an emulated processor is not seen there.
struct Nobody;

impl Witness for Nobody {
    fn placement(&mut self) -> Result<Option<Placement>> {
        Ok(None)
    }

    fn turn_begins(&mut self) -> Result<()> {
        Ok(())
    }

    fn turn_was_disturbed(&mut self) -> Result<bool> {
        Ok(false)
    }
}

/// Measures all rows and tells what came of it. Runs on host h1 of the laboratory.
///
/// # Errors
/// This is not the laboratory, or the report cannot be written. A row that fails stands in the report.
pub fn measure(wishes: &Wishes) -> Result<()> {
    ensure!(transport_endpoint::HAS_VERBS, "build it with `--features verbs`: there is nothing to measure");
    ensure!(std::env::var_os("LAB_HOST").is_some(), "this runs inside `netdisk lab` only: netdisk lab bench");
    let lengths = Lengths::of(wishes.quick)?;
    let pairs = wishes.pairs.unwrap_or(if wishes.quick { 2 } else { 5 }).max(1);
    let alternation = Alternation { pairs, tries_max: pairs, keep_disturbed: false };
    let mut scenarios = rows::scenarios(lengths);
    let wanted = wishes.only.as_deref().unwrap_or_default();
    scenarios.retain(|scenario| scenario.id.contains(wanted));
    if scenarios.is_empty() {
        bail!("no row's id contains {wanted:?}; ids look like verbs/64B/round-trip");
    }
    let mut report = Report::begin(Machine::describe(Path::new(env!("CARGO_MANIFEST_DIR"))));
    for scenario in scenarios {
        eprintln!("{} …", scenario.id);
        let row = scenario.run_beside(alternation, &mut Nobody);
        match &row.verdict {
            Verdict::Skipped { why } => eprintln!("SKIPPED {}: {why}", row.scenario),
            Verdict::Failed { why } => eprintln!("FAILED {}: {why}", row.scenario),
            _ => {}
        }
        report.rows.push(row);
    }
    if let Some(file) = &wishes.plot {
        let Machine { kernel, cpu, cores, load, .. } = &report.machine;
        let host_load = wishes.host_load.unwrap_or(*load);
        let notes = format!(
            "{cores} × {cpu}, Linux {kernel}, {pairs} pairs in turn, host's load {host_load:.1}; ratios count"
        );
        draw_report(file, "netdisk over soft-RoCE beside its peers, one run", &notes, &report)?;
    }
    if wishes.json {
        eprint!("{}", report.show());
        println!("{}", report.json());
    } else {
        print!("{}", report.show());
    }
    Ok(())
}

/// Plays a worker's role, as its parent wrote it.
///
/// # Errors
/// Whatever breaks the exchange.
pub fn serve(role: &str) -> Result<()> {
    let role: Role = serde_json::from_str(role).context("a role is JSON written by the parent")?;
    role.serve()
}

impl Lengths {
    fn of(quick: bool) -> Result<Self> {
        let ms = Duration::from_millis;
        let cores = CorePair::choose()?;
        Ok(match quick {
            true => Self {
                budget: Budget { warm_up: ms(200), measure: ms(500), operations_max: u64::MAX },
                messages: 2_000,
                stream_bytes: 64 << 20,
                cores,
            },
            false => Self {
                budget: Budget { warm_up: ms(500), measure: ms(1_500), operations_max: u64::MAX },
                messages: 10_000,
                stream_bytes: 256 << 20,
                cores,
            },
        })
    }
}
