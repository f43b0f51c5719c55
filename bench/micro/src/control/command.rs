//! `netdisk bench control`: the log of the configuration, beside etcd if a person names it.

use std::time::Duration;

use anyhow::Result;
use bench_harness::{Goal, Picture, Report, Row};
use clap::Args;

use crate::output::{self, Destinations, latency_panels};
use crate::peers::Tool;
use crate::rival::Rival;
use crate::settings::Pace;

/// Three nodes and a client need more than a moment.
const MEASURE_MIN: Duration = Duration::from_secs(1);

/// The log of the configuration: three nodes, one client.
#[derive(Debug, Args)]
pub struct ControlArguments {
    /// etcd, measured in turn with it.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PEER")]
    vs: Vec<Rival>,
    /// Install etcd if it is missing.
    #[arg(long)]
    install: bool,
    /// Only the rows whose id contains this text.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Exit with 1 unless every goal is reached.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    into: Destinations,
}

/// Does what was asked for. `false`: a goal is not reached, and that was asked about.
///
/// # Errors
/// The wish cannot be fulfilled, or a result cannot be written. A row that fails stands in the report.
pub fn run_control(arguments: &ControlArguments) -> Result<bool> {
    let mut settings = arguments.pace.settings()?;
    settings.control_measure = settings.budget.measure.max(MEASURE_MIN);
    if arguments.install && arguments.vs.contains(&Rival::Etcd) {
        Tool::Etcd.install();
    }
    let mut scenarios = super::scenarios(&settings);
    let wanted = arguments.only.as_deref().unwrap_or_default();
    scenarios.retain(|scenario| scenario.id.contains(wanted));
    if scenarios.is_empty() {
        let ids: Vec<_> = super::scenarios(&settings).into_iter().map(|scenario| scenario.id).collect();
        anyhow::bail!("no row's id contains {wanted:?}; they are {}", ids.join(", "));
    }
    let mut report = Report::begin(crate::machine());
    for mut scenario in scenarios {
        if !arguments.vs.contains(&Rival::Etcd) {
            scenario.limit = None;
            scenario.needs.clear();
            scenario.goal = Goal::Shown;
        }
        report.rows.push(output::run_row(scenario, &settings));
    }
    for rival in arguments.vs.iter().filter(|rival| **rival != Rival::Etcd) {
        eprintln!("SKIPPED: {}", rival.elsewhere());
    }
    let picture = || {
        let panels = report.rows.iter().flat_map(|row: &Row| latency_panels(&row.scenario, &[row]));
        let title = "the log of the configuration".to_owned();
        Picture { title, notes: output::notes(&report), panels: panels.collect() }
    };
    output::show(&report);
    arguments.into.write(&report, picture)?;
    Ok(!arguments.strict || report.all_reached())
}
