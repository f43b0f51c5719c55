//! What the course of failovers gave: a table for a person, JSON for a program.

use super::{Pause, Way};
use crate::demo::faults::Faults;
use bench_harness::{Across, Line, Machine, Panel, Picture, Timeline, Unit};
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// The report.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    rows: Vec<Row>,
    /// What the load saw that it must not see.
    pub(super) faults: Faults,
    /// How long each request took, by time.
    #[serde(skip)]
    pub(super) timeline: Option<Timeline>,
    /// When each way was begun with, seconds since the start of the load.
    #[serde(skip)]
    begins: Vec<(Way, f64)>,
}

/// One way, over all its times.
#[derive(Debug, Serialize)]
struct Row {
    way: Way,
    /// Half of the times it was at most this, seconds.
    median_seconds: f64,
    /// In 99 of 100 it was at most this, seconds; of fewer than 100 times it is the longest.
    p99_seconds: f64,
    /// What it may be, seconds.
    goal_seconds: f64,
    pauses: Vec<Pause>,
}

impl Row {
    fn is_reached(&self) -> bool {
        self.p99_seconds <= self.goal_seconds
    }
}

impl Report {
    pub(super) fn add(&mut self, way: Way, pauses: Vec<Pause>) {
        let mut seconds: Vec<f64> = pauses.iter().map(|pause| pause.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let (median_seconds, p99_seconds) = (percentile(&seconds, 50), percentile(&seconds, 99));
        let goal_seconds = way.goal().as_secs_f64();
        self.rows.push(Row { way, median_seconds, p99_seconds, goal_seconds, pauses });
    }

    /// From now on the node goes in this way.
    pub(super) fn begins(&mut self, way: Way, at_s: f64) {
        self.begins.push((way, at_s));
    }

    /// The longest request of each moment: a gap is a spike as high as it was long.
    pub(super) fn picture(&self) -> Picture {
        let timeline = self.timeline.clone().unwrap_or_default();
        let lines =
            vec![Line::longest_over_time("a client's request, the longest of each moment", &timeline)];
        let marks = self.begins.iter().map(|(way, at_s)| (*at_s, way.text().to_owned())).collect();
        let machine = Machine::describe(Path::new(env!("CARGO_MANIFEST_DIR")));
        Picture {
            title: "The node that serves a disk goes".to_owned(),
            notes: bench_harness::wrapped(&machine.show()),
            panels: vec![Panel {
                caption: "from a request to its answer, over time".to_owned(),
                across: Across::Seconds,
                up: Unit::Nanoseconds,
                lines,
                marks,
            }],
        }
    }

    /// Whether no byte was wrong and no request failed.
    pub(super) fn is_clean(&self) -> bool {
        self.faults.is_clean()
    }

    pub(super) fn reaches_all(&self) -> bool {
        self.rows.iter().all(Row::is_reached)
    }
}

/// The nearest-rank percentile of sorted figures; 0 of none.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The node that serves a disk goes; its client's longest wait for an answer:")?;
        writeln!(f)?;
        let head = ["median", "p99", "goal"];
        writeln!(
            f,
            "{:<24} {:>5} {:>9} {:>9} {:>9}  led the log  verdict",
            "way", "times", head[0], head[1], head[2]
        )?;
        let ms = |seconds: f64| format!("{:.0} ms", seconds * 1e3);
        for row in &self.rows {
            let led = row.pauses.iter().filter(|pause| pause.led_the_log).count();
            let verdict = if row.is_reached() { "reached" } else { "not reached" };
            writeln!(
                f,
                "{:<24} {:>5} {:>9} {:>9} {:>9}  {led:>11}  {verdict}",
                row.way.text(),
                row.pauses.len(),
                ms(row.median_seconds),
                ms(row.p99_seconds),
                ms(row.goal_seconds),
            )?;
        }
        writeln!(f)?;
        let Faults { errors, lost, stale, torn, misplaced, notes, .. } = &self.faults;
        write!(
            f,
            "verified load: {errors} errors, {lost} lost, {stale} stale, {torn} torn, {misplaced} misplaced"
        )?;
        notes.iter().try_for_each(|note| write!(f, "\n  {note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_of_few_figures_is_one_of_them() {
        assert_eq!(percentile(&[], 99), 0.0);
        assert_eq!(percentile(&[1.0], 50), 1.0);
        let twenty: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!((percentile(&twenty, 50), percentile(&twenty, 99)), (10.0, 20.0));
    }

    #[test]
    fn a_goal_that_is_missed_and_a_fault_show() {
        let mut report = Report::default();
        report.add(Way::Moved, vec![Pause { seconds: 0.2, led_the_log: true }]);
        assert!(report.is_clean() && !report.reaches_all());
        assert!(report.to_string().contains("not reached"), "{report}");
        report.faults.lost = 1;
        assert!(!report.is_clean());
    }
}
