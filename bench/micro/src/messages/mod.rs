//! `netdisk bench lat|bw|rate`: messages through the whole transport, beside whom a person names.

mod arguments;
mod opponents;
mod panels;

use std::borrow::Cow;

use anyhow::Result;
use bench_harness::{Goal, Picture, Report, Unit};

pub use self::arguments::MessageArguments;
use self::opponents::Opponent;
use crate::netdisk::{Trial, What, remote};
use crate::output;
use crate::scenario::Scenario;
use crate::settings::Settings;

/// Which of the benches of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Time of one message.
    Latency,
    /// Bytes per second.
    Bandwidth,
    /// Messages per second.
    Rate,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Latency => "lat",
            Self::Bandwidth => "bw",
            Self::Rate => "rate",
        }
    }

    fn unit(self) -> Unit {
        match self {
            Self::Latency => Unit::Nanoseconds,
            Self::Bandwidth => Unit::BytesPerSecond,
            Self::Rate => Unit::OperationsPerSecond,
        }
    }

    fn sizes(self) -> &'static [usize] {
        match self {
            Self::Latency => &[64, 4 << 10, 64 << 10, 1 << 20],
            Self::Bandwidth => &[4 << 10, 64 << 10, 1 << 20],
            Self::Rate => &[64],
        }
    }
}

/// One point of a bench: everything but the opponent.
#[derive(Debug, Clone)]
struct Point {
    trial: Trial,
    id: String,
    title: String,
}

/// Does what was asked for.
///
/// # Errors
/// The wish cannot be fulfilled, or a result cannot be written. A row that fails stands in the report.
pub fn run(kind: Kind, arguments: &MessageArguments) -> Result<bool> {
    let settings = arguments.settings()?;
    if let Some(address) = arguments.listen {
        remote::listen(address, settings.cores.worker, arguments.sessions)?;
        return Ok(true);
    }
    let points = arguments.points(kind, &settings)?;
    let mut scenarios = Vec::new();
    for point in &points {
        if arguments.vs.is_empty() {
            scenarios.push(point.alone());
        }
        for rival in &arguments.vs {
            let tools = opponents::needs(*rival);
            if arguments.install {
                tools.iter().for_each(crate::peers::Tool::install);
            }
            scenarios.push(point.beside(kind, *rival, &settings));
        }
    }
    let mut report = Report::begin(crate::machine());
    for scenario in scenarios {
        report.rows.push(output::run_row(scenario, &settings));
    }
    let picture = || Picture {
        title: panels::title(kind, arguments.round_trip),
        notes: output::notes(&report),
        panels: panels::panels(kind, &points, &report),
    };
    output::show(&report);
    arguments.into.write(&report, picture)?;
    Ok(!arguments.strict || report.all_reached())
}

impl Point {
    fn alone(&self) -> Scenario {
        Scenario {
            id: Cow::Owned(self.id.clone()),
            title: Cow::Owned(self.title.clone()),
            unit: self.unit(),
            goal: Goal::Shown,
            needs: Vec::new(),
            unfit: None,
            ours: Some(Box::new(self.trial.clone())),
            limit: None,
        }
    }

    fn beside(&self, kind: Kind, rival: crate::rival::Rival, settings: &Settings) -> Scenario {
        let mut scenario = self.alone();
        scenario.id = Cow::Owned(format!("{}/{}", self.id, rival.word()));
        scenario.needs = opponents::needs(rival);
        match opponents::opponent(kind, rival, &self.trial, settings) {
            Opponent::Fit(contender, goal) => {
                scenario.goal = goal;
                scenario.limit = Some(contender);
            }
            Opponent::Unfit(why) => scenario.unfit = Some(why),
        }
        scenario
    }

    fn unit(&self) -> Unit {
        match self.trial.what {
            What::Latency(_) => Unit::Nanoseconds,
            What::Bandwidth => Unit::BytesPerSecond,
            What::Rate => Unit::OperationsPerSecond,
        }
    }
}
