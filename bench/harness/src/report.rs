//! One run as a table for people and as JSON for programs.

use serde::Serialize;

use crate::{Comparison, Goal, Machine, Table, Unit, Verdict};

/// The value of `format` in every JSON report.
pub const REPORT_FORMAT: &str = "netdisk-bench";
/// The version of the JSON schema. Fields may be added under one version; a change of meaning raises it.
pub const REPORT_VERSION: u32 = 1;

/// One scenario's result.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Short, stable, unique: `shm/64B/round-trip`.
    pub scenario: String,
    /// What is measured, in words.
    pub title: String,
    /// Name of our side; empty if it was not measured.
    pub ours: String,
    /// Name of the limit or peer; empty if the goal is absolute.
    pub limit: String,
    /// The bar.
    pub goal: Goal,
    /// Unit of the figures.
    pub unit: Unit,
    /// Our median, if measured.
    pub ours_figure: Option<f64>,
    /// The median of the limit or peer, if measured.
    pub limit_figure: Option<f64>,
    /// Median of the pairs' ratios.
    pub ratio: Option<f64>,
    /// All pairs; absent if nothing ran.
    pub comparison: Option<Comparison>,
    /// What came of it.
    pub verdict: Verdict,
}

impl Row {
    /// A row whose comparison ran. The goal decides the verdict.
    pub fn measured(
        scenario: &str,
        title: &str,
        goal: Goal,
        names: (String, String),
        comparison: Comparison,
    ) -> Self {
        Self {
            scenario: scenario.to_owned(),
            title: title.to_owned(),
            ours: names.0,
            limit: names.1,
            goal,
            unit: comparison.unit,
            ours_figure: comparison.ours(None),
            limit_figure: comparison.limit(None),
            ratio: comparison.ratio(None),
            verdict: goal.judge(&comparison),
            comparison: Some(comparison),
        }
    }

    /// A row that has no figures, and why.
    pub fn without_figures(scenario: &str, title: &str, goal: Goal, unit: Unit, verdict: Verdict) -> Self {
        Self {
            scenario: scenario.to_owned(),
            title: title.to_owned(),
            ours: String::new(),
            limit: String::new(),
            goal,
            unit,
            ours_figure: None,
            limit_figure: None,
            ratio: None,
            comparison: None,
            verdict,
        }
    }

    fn cells(&self) -> Vec<String> {
        let figure = |figure: Option<f64>| figure.map_or("–".to_owned(), |figure| self.unit.show(figure));
        let spread = self.comparison.as_ref().and_then(Comparison::ratio_spread);
        let ratio = match (self.ratio, spread) {
            (Some(ratio), Some((low, high))) => format!("{ratio:.2}× [{low:.2}–{high:.2}]"),
            _ => "–".to_owned(),
        };
        let limit = match self.limit.is_empty() {
            true => "–".to_owned(),
            false => format!("{} {}", figure(self.limit_figure), self.limit),
        };
        let cores = self.comparison.as_ref().map(Comparison::placements).unwrap_or_default();
        vec![
            self.scenario.clone(),
            figure(self.ours_figure),
            limit,
            ratio,
            self.goal.show(self.unit),
            cores,
            self.verdict.show(),
        ]
    }
}

/// One run of a bench binary. Serialises to the JSON schema of [`REPORT_VERSION`].
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Always [`REPORT_FORMAT`].
    pub format: &'static str,
    /// Always [`REPORT_VERSION`].
    pub version: u32,
    /// Seconds since 1970 at the start of the run.
    pub started_unix_s: u64,
    /// Where and what.
    pub machine: Machine,
    /// Results in the order in which they ran.
    pub rows: Vec<Row>,
}

impl Report {
    /// An empty report of a run that starts now on this machine.
    pub fn begin(machine: Machine) -> Self {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            format: REPORT_FORMAT,
            version: REPORT_VERSION,
            started_unix_s: since_1970.map_or(0, |age| age.as_secs()),
            machine,
            rows: Vec::new(),
        }
    }

    /// The table of all rows, with the machine above it and a count of verdicts below.
    pub fn show(&self) -> String {
        let mut table =
            Table::new(&["scenario", "ours", "limit or peer", "ratio", "goal", "cores", "verdict"]);
        self.rows.iter().for_each(|row| table.row(row.cells()));
        format!("{}\n{}\n{}", self.machine.show(), table.show(), self.tally())
    }

    /// The whole report as JSON, indented.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report holds only numbers, texts and lists")
    }

    /// Whether every goal was reached. A row that was skipped, failed or not decided is not reached.
    pub fn all_reached(&self) -> bool {
        self.rows.iter().all(|row| matches!(row.verdict, Verdict::Reached | Verdict::Shown))
    }

    fn tally(&self) -> String {
        let count =
            |wanted: fn(&Verdict) -> bool| self.rows.iter().filter(|row| wanted(&row.verdict)).count();
        format!(
            "{} reached, {} not reached, {} not decided, {} skipped, {} failed\n",
            count(|verdict| matches!(verdict, Verdict::Reached)),
            count(|verdict| matches!(verdict, Verdict::NotReached { .. })),
            count(|verdict| matches!(verdict, Verdict::NotDecided { .. })),
            count(|verdict| matches!(verdict, Verdict::Skipped { .. })),
            count(|verdict| matches!(verdict, Verdict::Failed { .. })),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Report, Row};
    use crate::{Comparison, Goal, Machine, Pair, Placement, Unit, Verdict};

    fn report() -> Report {
        let pair = Pair {
            ours: Some(390.0),
            limit: Some(100.0),
            ratio: Some(3.9),
            placement: Some(Placement::Near),
        };
        let comparison = Comparison {
            unit: Unit::Nanoseconds,
            pairs: vec![pair],
            pairs_dropped: 1,
            ours_latency: None,
            limit_latency: None,
            recorders: [None, None],
            timelines: [None, None],
        };
        let names = ("netdisk shm".to_owned(), "cache line".to_owned());
        let goal = Goal::RatioAtMost { ratio: 4.0 };
        let mut report = Report::begin(Machine::describe(Path::new(env!("CARGO_MANIFEST_DIR"))));
        report.rows.push(Row::measured("shm/64B", "round trip", goal, names, comparison));
        let missing = Verdict::Skipped { why: "nbdkit is not installed: apt-get install nbdkit".to_owned() };
        report.rows.push(Row::without_figures("nbd/qd1", "read", goal, Unit::Nanoseconds, missing));
        report
    }

    // proves: F4
    #[test]
    fn table_and_json_tell_the_same() {
        let report = report();
        let text = report.show();
        assert!(
            text.contains("390 ns") && text.contains("3.90× [3.90–3.90]") && text.contains("1 near"),
            "{text}"
        );
        assert!(text.contains("SKIPPED: nbdkit is not installed: apt-get install nbdkit"), "{text}");
        assert!(text.contains("1 reached, 0 not reached, 0 not decided, 1 skipped, 0 failed"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((json["format"].as_str(), json["version"].as_u64()), (Some("netdisk-bench"), Some(1)));
        let row = &json["rows"][0];
        assert_eq!(row["scenario"], "shm/64B");
        assert_eq!((row["ratio"].as_f64(), row["unit"].as_str()), (Some(3.9), Some("nanoseconds")));
        assert_eq!(row["comparison"]["pairs"][0]["placement"], "near");
        assert_eq!(row["verdict"]["kind"], "reached");
        assert_eq!(json["rows"][1]["verdict"]["kind"], "skipped");
    }

    #[test]
    fn a_skipped_row_is_not_a_success() {
        let mut report = report();
        assert!(!report.all_reached());
        report.rows.pop();
        assert!(report.all_reached());
    }
}
