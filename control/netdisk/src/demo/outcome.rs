//! What the demo ends with: a short table, the same as JSON, and the verdict.

use super::faults::Faults;
use super::latency::{Latencies, Phase};
use bench_harness::Table;
use control_node::report::Status;
use serde::Serialize;
use std::fmt::Write;

/// Latencies of one phase. Microseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PhaseRow {
    pub(super) phase: &'static str,
    pub(super) requests: u64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    pub(super) max_us: f64,
    /// Longest time without an answer.
    pub(super) longest_gap_us: f64,
}

impl PhaseRow {
    /// The rows of a run.
    pub(super) fn all(latencies: &Latencies) -> Vec<PhaseRow> {
        let row = |phase: Phase| {
            let summary = latencies.summary(phase);
            let us = |nanos: u64| nanos as f64 / 1e3;
            PhaseRow {
                phase: phase.name(),
                requests: summary.count,
                p50_us: us(summary.p50_ns),
                p99_us: us(summary.p99_ns),
                p999_us: us(summary.p999_ns),
                max_us: us(summary.max_ns),
                longest_gap_us: latencies.longest_gap(phase).as_secs_f64() * 1e6,
            }
        };
        Phase::ALL.into_iter().map(row).collect()
    }
}

/// The image as it was sent and as it was read back.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ImageRow {
    pub(super) what: String,
    pub(super) bytes: u64,
    /// SHA-256 of what was sent.
    pub(super) sent: String,
    /// What came back.
    pub(super) read_back: Vec<ReadBack>,
}

/// The image as it was read back through one node.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ReadBack {
    pub(super) through: char,
    /// SHA-256.
    pub(super) checksum: String,
}

/// What the nodes counted.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Counts {
    /// Messages that were sent again after a rail died.
    pub(super) messages_replayed: u64,
    /// Messages that came twice and were dropped.
    pub(super) duplicates_dropped: u64,
    /// Requests that the driver sent again under the same id, since their node had died.
    pub(super) requests_sent_again: u64,
    /// Rails lost, by accident or order.
    pub(super) rails_lost: u64,
}

impl Counts {
    /// Adds one node's counts.
    pub(super) fn add(&mut self, status: &Status) {
        for peer in &status.peers {
            self.messages_replayed += peer.messages_replayed;
            self.duplicates_dropped += peer.duplicates_dropped;
            self.rails_lost += peer.rails_lost;
        }
        self.requests_sent_again += status.driver.reissued;
    }
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) seconds: f64,
    pub(super) killed: char,
    pub(super) served_after: char,
    pub(super) rail_cut: String,
    pub(super) bytes_written: u64,
    pub(super) bytes_read: u64,
    pub(super) image: ImageRow,
    pub(super) phases: Vec<PhaseRow>,
    pub(super) counts: Counts,
    pub(super) faults: Faults,
    /// What else is wrong, in words.
    pub(super) complaints: Vec<String>,
}

impl Outcome {
    /// Whether every byte matches and nothing failed.
    pub(super) fn is_good(&self) -> bool {
        let matches = self.image.read_back.iter().all(|read| read.checksum == self.image.sent);
        matches && self.image.read_back.len() == 2 && self.faults.is_clean() && self.complaints.is_empty()
    }

    /// The table that the demo ends with.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.render(&mut out);
        out
    }

    /// The outcome for programs.
    pub(super) fn json(&self) -> anyhow::Result<String> {
        let mut value = serde_json::to_value(self)?;
        value["good"] = self.is_good().into();
        Ok(serde_json::to_string_pretty(&value)?)
    }

    fn render(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out)?;
        let headings = ["requests", "count", "p50", "p99", "p99.9", "max", "longest gap"];
        let mut table = Table::new(&headings);
        for row in &self.phases {
            table.row(vec![
                format!("{} the failover", row.phase),
                row.requests.to_string(),
                time(row.p50_us),
                time(row.p99_us),
                time(row.p999_us),
                time(row.max_us),
                time(row.longest_gap_us),
            ]);
        }
        writeln!(out, "{}", table.show())?;
        let (killed, after) = (self.killed, self.served_after);
        writeln!(out, "killed        {killed} by SIGKILL, {after} served since; then cut {}", self.rail_cut)?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (written, read) = (mib(self.bytes_written), mib(self.bytes_read));
        writeln!(out, "moved         {written:.1} MiB written, {read:.1} MiB read and checked")?;
        let image = &self.image;
        writeln!(out, "image         {:.1} MiB, {}", mib(image.bytes), image.what)?;
        writeln!(out, "  sent        sha256 {}", image.sent)?;
        for ReadBack { through, checksum } in &image.read_back {
            let same = if *checksum == image.sent { "the same" } else { "DIFFERENT" };
            writeln!(out, "  through {through}   sha256 {}… {same}", &checksum[..16.min(checksum.len())])?;
        }
        let counts = &self.counts;
        writeln!(
            out,
            "transport     messages replayed = {}, duplicates dropped = {}; requests sent again = {}",
            counts.messages_replayed, counts.duplicates_dropped, counts.requests_sent_again
        )?;
        let faults = &self.faults;
        writeln!(
            out,
            "client saw    errors = {}, lost = {}, stale = {}, torn = {}, misplaced = {}, \
             wrong image bytes = {}",
            faults.errors, faults.lost, faults.stale, faults.torn, faults.misplaced, faults.image_bytes_wrong
        )?;
        for note in faults.notes.iter().chain(&self.complaints) {
            writeln!(out, "  ! {note}")?;
        }
        let pause = self.phases.iter().map(|row| row.longest_gap_us).fold(0.0, f64::max);
        let pause = time(pause);
        let verdict = if self.is_good() {
            format!(
                "GOOD: every byte matches; a node and a rail died, and the clients saw a pause of {pause}"
            )
        } else {
            "BAD: see above".to_owned()
        };
        writeln!(out, "verdict       {verdict} ({:.1} s)", self.seconds)
    }
}

/// A time as a person reads it.
fn time(us: f64) -> String {
    if us >= 1e4 { format!("{:.0} ms", us / 1e3) } else { format!("{:.2} ms", us / 1e3) }
}

/// Bytes as digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(through: char, checksum: &str) -> ReadBack {
        ReadBack { through, checksum: checksum.repeat(32) }
    }

    fn outcome() -> Outcome {
        let image = ImageRow {
            what: "a file".into(),
            bytes: 1 << 20,
            sent: "aa".repeat(32),
            read_back: vec![read('B', "aa"), read('C', "aa")],
        };
        Outcome {
            seconds: 1.0,
            killed: 'A',
            served_after: 'B',
            rail_cut: "rail 0".into(),
            bytes_written: 1,
            bytes_read: 1,
            image,
            phases: Vec::new(),
            counts: Counts::default(),
            faults: Faults::default(),
            complaints: Vec::new(),
        }
    }

    #[test]
    fn only_a_run_without_any_fault_is_good() {
        assert!(outcome().is_good());
        assert!(outcome().text().contains("lost = 0"));
        let different = vec![read('B', "aa"), read('C', "bb")];
        let image = ImageRow { read_back: different, ..outcome().image };
        assert!(!Outcome { image, ..outcome() }.is_good());
        let once = ImageRow { read_back: vec![read('B', "aa")], ..outcome().image };
        assert!(!Outcome { image: once, ..outcome() }.is_good(), "both nodes must be read through");
        let lost = Faults { lost: 1, ..Faults::default() };
        assert!(!Outcome { faults: lost, ..outcome() }.is_good());
        let complaints = vec!["node B stopped with exit status 1".to_owned()];
        let bad = Outcome { complaints, ..outcome() };
        assert!(!bad.is_good());
        assert!(bad.text().contains("node B stopped") && bad.text().contains("BAD"));
    }
}
