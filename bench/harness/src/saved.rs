//! Reports of earlier runs, read back, and what changed between two of them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::{REPORT_FORMAT, REPORT_VERSION, Table, Unit};

/// Resamples of a bootstrap.
const RESAMPLES: usize = 4000;
/// Of these the middle 95 % make the interval.
const TAIL: f64 = 0.025;
/// Fewer pairs than this on either side decide nothing.
const PAIRS_MIN: usize = 3;
/// A change of less than this is none, however sure: placement of code moves figures by as much.
const CHANGE_MIN: f64 = 0.05;

/// A report as it was written by [`crate::Report::json`]; what a comparison needs of it.
#[derive(Debug, Clone, Deserialize)]
pub struct SavedReport {
    format: String,
    version: u32,
    /// On what it was measured.
    pub machine: SavedMachine,
    /// Its rows.
    pub rows: Vec<SavedRow>,
}

/// The machine of an earlier run.
#[derive(Debug, Clone, Deserialize)]
pub struct SavedMachine {
    /// CPU model name.
    pub cpu: String,
    /// Kernel release.
    pub kernel: String,
    /// Cores that the run might use.
    pub cores: usize,
    /// Commit of the source tree.
    pub commit: String,
    /// The command line.
    pub command: String,
}

/// One row of an earlier run.
#[derive(Debug, Clone, Deserialize)]
pub struct SavedRow {
    /// Its id.
    pub scenario: String,
    /// In words.
    pub title: String,
    /// Name of our side.
    pub ours: String,
    /// Name of the limit or peer.
    pub limit: String,
    /// Unit of the figures.
    pub unit: Unit,
    /// Our median.
    pub ours_figure: Option<f64>,
    /// The other's.
    pub limit_figure: Option<f64>,
    /// Median ratio.
    pub ratio: Option<f64>,
    comparison: Option<SavedComparison>,
    /// The verdict's kind: `reached`, `not_reached`, …
    pub verdict: SavedVerdict,
}

#[derive(Debug, Clone, Deserialize)]
struct SavedComparison {
    pairs: Vec<SavedPair>,
}

#[derive(Debug, Clone, Deserialize)]
struct SavedPair {
    ratio: Option<f64>,
}

/// What came of a row.
#[derive(Debug, Clone, Deserialize)]
pub struct SavedVerdict {
    /// `reached`, `not_reached`, `not_decided`, `skipped`, `failed` or `shown`.
    pub kind: String,
    /// The reason, where there is one.
    pub why: Option<String>,
}

impl SavedReport {
    /// Reads one.
    ///
    /// # Errors
    /// The file cannot be read, is no report, or of a version that this program does not know.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let report: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is no report of netdisk bench (--json)", path.display()))?;
        let Self { format, version, .. } = &report;
        ensure!(
            format == REPORT_FORMAT && *version == REPORT_VERSION,
            "{} is {format} {version}; this program reads {REPORT_FORMAT} {REPORT_VERSION}",
            path.display()
        );
        Ok(report)
    }

    fn ratios(&self, scenario: &str) -> Option<Vec<f64>> {
        let row = self.rows.iter().find(|row| row.scenario == scenario)?;
        let pairs = &row.comparison.as_ref()?.pairs;
        Some(pairs.iter().filter_map(|pair| pair.ratio).collect())
    }
}

/// What became of a row from one run to another.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The ratio to the peer became better, beyond noise.
    Better,
    /// It became worse, beyond noise.
    Worse,
    /// No change that the noise would not explain.
    Same,
    /// Nobody can tell, and why.
    Unknown(String),
}

impl Change {
    fn word(&self) -> String {
        match self {
            Self::Better => "better".to_owned(),
            Self::Worse => "WORSE".to_owned(),
            Self::Same => "same".to_owned(),
            Self::Unknown(why) => format!("unknown: {why}"),
        }
    }
}

/// One row of a comparison of two runs.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Its id.
    pub scenario: String,
    /// Median ratios to the peer, old and new.
    pub ratios: [Option<f64>; 2],
    /// New over old, with the 95 % interval of a bootstrap.
    pub change: Option<(f64, f64, f64)>,
    /// What it means.
    pub verdict: Change,
}

/// Compares two runs row by row. Only ratios to a peer or a limit measured in turn are compared: single times
/// of two days say nothing about what was changed between.
///
/// # Errors
/// They have no row in common.
pub fn differences(old: &SavedReport, new: &SavedReport) -> Result<Vec<Difference>> {
    let both = |row: &&SavedRow| old.rows.iter().any(|earlier| earlier.scenario == row.scenario);
    let rows: Vec<Difference> = new
        .rows
        .iter()
        .filter(both)
        .map(|row| {
            let ratios =
                [old.ratios(&row.scenario), new.ratios(&row.scenario)].map(Option::unwrap_or_default);
            let [before, after] = &ratios;
            let change = interval(before, after);
            let verdict = match change {
                None => Change::Unknown(format!("{} and {} pairs with a peer", before.len(), after.len())),
                Some(change) => judge(change, row.unit.less_is_better()),
            };
            let ratios = [median(before), median(after)];
            Difference { scenario: row.scenario.clone(), ratios, change, verdict }
        })
        .collect();
    if rows.is_empty() {
        bail!("the two reports have no row in common");
    }
    Ok(rows)
}

/// The table of a comparison.
pub fn show_differences(differences: &[Difference]) -> String {
    let mut table = Table::new(&["scenario", "old ratio", "new ratio", "new/old [95 %]", "verdict"]);
    for row in differences {
        let ratio = |ratio: Option<f64>| ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}×"));
        let change = row
            .change
            .map_or("–".to_owned(), |(middle, low, high)| format!("{middle:.3} [{low:.3}–{high:.3}]"));
        let [old, new] = row.ratios;
        table.row(vec![row.scenario.clone(), ratio(old), ratio(new), change, row.verdict.word()]);
    }
    table.show()
}

fn judge((middle, low, high): (f64, f64, f64), less_is_better: bool) -> Change {
    let (grown, shrunk) = (low > 1.0 && middle > 1.0 + CHANGE_MIN, high < 1.0 && middle < 1.0 - CHANGE_MIN);
    match (grown, shrunk, less_is_better) {
        (true, _, true) | (_, true, false) => Change::Worse,
        (true, _, false) | (_, true, true) => Change::Better,
        _ => Change::Same,
    }
}

/// Median of the new ratios over the median of the old, and the interval of its bootstrap: both sides drawn
/// anew with replacement, again and again.
fn interval(old: &[f64], new: &[f64]) -> Option<(f64, f64, f64)> {
    if old.len() < PAIRS_MIN || new.len() < PAIRS_MIN {
        return None;
    }
    let mut draws = Draws(0x9e37_79b9_7f4a_7c15);
    let mut changes: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let [before, after] = [old, new].map(|ratios| {
                let drawn: Vec<f64> = (0..ratios.len()).map(|_| ratios[draws.below(ratios.len())]).collect();
                median(&drawn)
            });
            Some(after? / before?).filter(|change| change.is_finite())
        })
        .collect();
    changes.sort_by(f64::total_cmp);
    let at = |share: f64| changes.get((changes.len() as f64 * share) as usize).copied();
    Some((median(new)? / median(old)?, at(TAIL)?, at(1.0 - TAIL)?))
}

fn median(values: &[f64]) -> Option<f64> {
    crate::compare::median(values.to_vec())
}

/// The same draws in each run, so that a verdict does not change by itself. Marsaglia's xorshift.
struct Draws(u64);

impl Draws {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % count as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, SavedReport, differences, interval, judge, show_differences};

    fn report(ratios: &[f64], unit: &str) -> SavedReport {
        let pairs: Vec<_> = ratios.iter().map(|ratio| serde_json::json!({"ratio": ratio})).collect();
        let row = serde_json::json!({
            "scenario": "lat/shm/64B/ucx", "title": "", "ours": "netdisk shm", "limit": "ucx", "unit": unit,
            "ours_figure": 1.0, "limit_figure": 1.0, "ratio": 1.0,
            "comparison": {"pairs": pairs}, "verdict": {"kind": "reached"},
        });
        let machine = serde_json::json!({
            "cpu": "", "kernel": "", "cores": 2, "commit": "abc", "command": "netdisk bench",
        });
        let text = serde_json::json!({
            "format": "netdisk-bench", "version": 1, "machine": machine, "rows": [row],
        });
        serde_json::from_value(text).unwrap()
    }

    fn verdict(old: &[f64], new: &[f64], unit: &str) -> Change {
        differences(&report(old, unit), &report(new, unit)).unwrap()[0].verdict.clone()
    }

    // proves: F4
    #[test]
    fn noise_is_no_change_and_a_change_is_told_by_what_is_better() {
        let (low, high) = ([1.0, 1.02, 0.98, 1.01, 1.0], [1.5, 1.48, 1.53, 1.5, 1.49]);
        assert_eq!(verdict(&low, &[1.03, 0.97, 1.0, 1.01, 0.99], "nanoseconds"), Change::Same);
        assert_eq!(verdict(&low, &high, "nanoseconds"), Change::Worse);
        assert_eq!(verdict(&low, &high, "bytes_per_second"), Change::Better);
        assert_eq!(verdict(&high, &low, "nanoseconds"), Change::Better);
        // As far apart, but the ratios of each run are too wide to say so.
        assert_eq!(verdict(&[0.5, 1.0, 3.0], &[0.6, 1.5, 2.5], "nanoseconds"), Change::Same);
        assert!(matches!(verdict(&[1.0], &low, "nanoseconds"), Change::Unknown(_)));
    }

    #[test]
    fn the_interval_holds_the_change_and_the_table_shows_it() {
        let (middle, low, high) = interval(&[1.0, 1.1, 0.9, 1.0], &[2.0, 2.1, 1.9, 2.0]).unwrap();
        assert!(low <= middle && middle <= high && (1.9..2.1).contains(&middle), "{low} {middle} {high}");
        assert_eq!(judge((1.02, 1.01, 1.03), true), Change::Same);
        let (old, new) = (report(&[1.0; 4], "nanoseconds"), report(&[2.0; 4], "nanoseconds"));
        let text = show_differences(&differences(&old, &new).unwrap());
        assert!(text.contains("lat/shm/64B/ucx") && text.contains("WORSE"), "{text}");
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let path = std::env::temp_dir().join(format!("netdisk-saved-{}.json", std::process::id()));
        for text in ["", "{}", "[1]", r#"{"format":"fio","version":1,"machine":{},"rows":[]}"#] {
            std::fs::write(&path, text).unwrap();
            assert!(SavedReport::read(&path).is_err(), "{text}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
