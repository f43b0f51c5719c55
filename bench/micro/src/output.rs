//! Where the results of a bench go: a table for a person, JSON and CSV for programs, `.hgrm` and V2 logs for
//! HdrHistogram's tools, a picture.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use bench_harness::{Across, Line, Panel, Picture, Report, Row, Summary, Table, Unit, Verdict};
use clap::Args;

use crate::scenario::Scenario;
use crate::settings::Settings;

/// Files that a person may ask for.
#[derive(Debug, Default, Args)]
pub(crate) struct Destinations {
    /// The report as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// A line per side of each row.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Each side's latencies as .hgrm text and as a V2 log (.hlog), which HdrHistogram's tools read.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) hgrm: Option<PathBuf>,
    /// A picture: .svg, .png or .html.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

impl Destinations {
    /// Writes what was asked for.
    ///
    /// # Errors
    /// A file cannot be written, or there is nothing to draw.
    pub(crate) fn write(&self, report: &Report, picture: impl FnOnce() -> Picture) -> Result<()> {
        let unable = |path: &Path| format!("{} cannot be written", path.display());
        if let Some(file) = &self.json {
            fs::write(file, report.json()).with_context(|| unable(file))?;
        }
        if let Some(file) = &self.csv {
            fs::write(file, csv(report)).with_context(|| unable(file))?;
        }
        if let Some(folder) = &self.hgrm {
            write_histograms(folder, report).with_context(|| unable(folder))?;
        }
        if let Some(file) = &self.plot {
            picture().write(file)?;
            eprintln!("drawn: {}", file.display());
        }
        Ok(())
    }
}

/// Runs a row, and says what it is at.
pub(crate) fn run_row(scenario: Scenario, settings: &Settings) -> Row {
    eprintln!("{} …", scenario.id);
    let row = scenario.run(settings);
    match &row.verdict {
        Verdict::Skipped { why } => eprintln!("SKIPPED {}: {why}", row.scenario),
        Verdict::Failed { why } => eprintln!("FAILED {}: {why}", row.scenario),
        _ => {}
    }
    row
}

/// The tables on standard output: ratios, and the latencies behind them.
pub(crate) fn show(report: &Report) {
    println!("{}", report.show());
    if let Some(latencies) = latencies(report) {
        println!("{latencies}");
    }
}

/// Both sides of a row: names, figures, latencies.
fn sides(row: &Row) -> impl Iterator<Item = (&'static str, &str, Option<f64>, Option<Summary>)> {
    let comparison = row.comparison.as_ref();
    let of = |side: usize| {
        let comparison = comparison?;
        if side == 0 { comparison.ours_latency } else { comparison.limit_latency }
    };
    let ours = ("ours", row.ours.as_str(), row.ours_figure, of(0));
    let peer = ("peer", row.limit.as_str(), row.limit_figure, of(1));
    [ours, peer].into_iter().filter(|(_, name, ..)| !name.is_empty())
}

fn latencies(report: &Report) -> Option<String> {
    let headings = ["scenario", "who", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max", "samples"];
    let (mut table, mut any) = (Table::new(&headings), false);
    for row in &report.rows {
        for (_, name, _, summary) in sides(row) {
            let Some(latency) = summary else { continue };
            let Summary { min_ns, p50_ns, p90_ns, p99_ns, p999_ns, p9999_ns, max_ns, count, .. } = latency;
            let times = [min_ns, p50_ns, p90_ns, p99_ns, p999_ns, p9999_ns, max_ns];
            let times = times.into_iter().map(|ns| Unit::Nanoseconds.show(ns as f64));
            let head = [row.scenario.clone(), name.to_owned()];
            table.row(head.into_iter().chain(times).chain([count.to_string()]).collect());
            any = true;
        }
    }
    any.then(|| table.show())
}

fn csv(report: &Report) -> String {
    let head = "scenario,side,who,unit,figure,ratio,verdict,samples,min_ns,p50_ns,p90_ns,p99_ns,p999_ns,\
                p9999_ns,max_ns\n";
    let mut text = head.to_owned();
    for row in &report.rows {
        let number = |figure: Option<f64>| figure.map(|figure| figure.to_string()).unwrap_or_default();
        let unit = serde_json::to_value(row.unit).ok().and_then(|unit| unit.as_str().map(str::to_owned));
        let verdict = row.verdict.show();
        // A row without figures still has its line, so that what was skipped does not vanish.
        let mut both: Vec<_> = sides(row).collect();
        if both.is_empty() {
            both.push(("ours", "", None, None));
        }
        for (side, name, figure, summary) in both {
            let mut cells = vec![row.scenario.clone(), side.to_owned(), name.to_owned()];
            cells.extend([
                unit.clone().unwrap_or_default(),
                number(figure),
                number(row.ratio),
                verdict.clone(),
            ]);
            let latency = summary.map(|it| {
                [it.count, it.min_ns, it.p50_ns, it.p90_ns, it.p99_ns, it.p999_ns, it.p9999_ns, it.max_ns]
            });
            match latency {
                Some(numbers) => cells.extend(numbers.map(|number| number.to_string())),
                None => cells.extend(std::iter::repeat_n(String::new(), 8)),
            }
            let quoted: Vec<_> = cells.iter().map(|cell| quoted(cell)).collect();
            text.push_str(&quoted.join(","));
            text.push('\n');
        }
    }
    text
}

/// A cell as RFC 4180 wants it.
fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

fn write_histograms(folder: &Path, report: &Report) -> Result<()> {
    fs::create_dir_all(folder)?;
    let began = SystemTime::UNIX_EPOCH + Duration::from_secs(report.started_unix_s);
    for row in &report.rows {
        let Some(comparison) = &row.comparison else { continue };
        for (side, recorder) in ["ours", "peer"].into_iter().zip(&comparison.recorders) {
            let Some(recorder) = recorder else { continue };
            let name = format!("{}-{side}", row.scenario.replace('/', "-"));
            recorder.write_hgrm(&mut fs::File::create(folder.join(format!("{name}.hgrm")))?)?;
            let lasted = began.elapsed().unwrap_or_default();
            recorder.write_log(&mut fs::File::create(folder.join(format!("{name}.hlog")))?, began, lasted)?;
        }
    }
    Ok(())
}

/// Machine and command, for the head of a picture.
pub(crate) fn notes(report: &Report) -> Vec<String> {
    bench_harness::wrapped(&report.machine.show())
}

/// Percentile curves of rows, ours once and each peer's, and our latency over time.
pub(crate) fn latency_panels(what: &str, rows: &[&Row]) -> Vec<Panel> {
    let panel = |caption: String, across, lines| Panel {
        caption,
        across,
        up: Unit::Nanoseconds,
        lines,
        marks: Vec::new(),
    };
    let (mut curves, mut times): (Vec<Line>, Vec<Line>) = (Vec::new(), Vec::new());
    for row in rows {
        let Some(comparison) = &row.comparison else { continue };
        for (side, name) in [&row.ours, &row.limit].into_iter().enumerate() {
            if name.is_empty() || curves.iter().any(|line| line.name == *name) {
                continue;
            }
            match (&comparison.recorders[side], [row.ours_figure, row.limit_figure][side]) {
                (Some(recorder), _) => curves.push(Line::percentiles(name, recorder)),
                // A program that tells one number has no curve; a level line says so.
                (None, Some(figure)) if row.unit == Unit::Nanoseconds => {
                    curves.push(Line { name: name.clone(), points: vec![(0.0, figure), (0.9, figure)] });
                }
                _ => {}
            }
            if let Some(timeline) = &comparison.timelines[side] {
                times.push(Line::longest_over_time(name, timeline));
            }
        }
    }
    vec![
        panel(format!("{what}: percentiles"), Across::Percentile, curves),
        panel(format!("{what}: the longest latency of each moment"), Across::Seconds, times),
    ]
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn cells_with_commas_are_quoted() {
        assert_eq!(quoted("a"), "a");
        assert_eq!(quoted("nbdkit, \"memory\""), "\"nbdkit, \"\"memory\"\"\"");
    }
}
