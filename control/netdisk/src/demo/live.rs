//! The live line on standard error: on a terminal one that is written over, elsewhere one a second.

use super::cluster::{rails_up, serving};
use super::workload::Progress;
use control_node::report::Status;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const TERMINAL_EVERY: Duration = Duration::from_millis(200);
const LOG_EVERY: Duration = Duration::from_secs(1);

/// The line, and what it needs to tell a rate.
pub(super) struct Live {
    terminal: bool,
    start: Instant,
    shown: Option<Instant>,
    /// A line stands on the terminal that has no end yet.
    open: bool,
    before: (Instant, u64),
}

impl Live {
    pub(super) fn new() -> Live {
        let now = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        Live { terminal, start: now, shown: None, open: false, before: (now, 0) }
    }

    /// A new act begins: shown at once.
    pub(super) fn act(&mut self, act: &str) {
        self.end_line();
        // The line about how things stand has its turn later.
        self.shown = Some(Instant::now());
        self.print(&format!("{:5.1} s  {act}", self.start.elapsed().as_secs_f64()));
        self.end_line();
    }

    /// Shows how things stand, if it is time to.
    pub(super) fn show(&mut self, progress: &Progress, image_bytes: u64, status: Option<&Status>) {
        let now = Instant::now();
        let every = if self.terminal { TERMINAL_EVERY } else { LOG_EVERY };
        if self.shown.is_some_and(|shown| now.saturating_duration_since(shown) < every) {
            return;
        }
        let bytes = progress.bytes_written + progress.bytes_read;
        let seconds = now.saturating_duration_since(self.before.0).as_secs_f64().max(0.001);
        let rate = bytes.saturating_sub(self.before.1) as f64 / seconds / f64::from(1 << 20);
        self.before = (now, bytes);
        self.shown = Some(now);
        let percent = 100 * progress.image_bytes / image_bytes.max(1);
        let (up, all) = status.map_or((0, 0), rails_up);
        let server = status.and_then(serving).map_or('?', super::cluster::NodeNumber::letter);
        let median = match progress.median_ns {
            0 => "no answer".to_owned(),
            nanos => format!("p50 {:.2} ms", nanos as f64 / 1e6),
        };
        self.print(&format!(
            "{:5.1} s  {rate:6.1} MiB/s  {median:<11}  rails {up}/{all} up  {server} serves  \
             image {percent:3} %",
            self.start.elapsed().as_secs_f64(),
        ));
    }

    fn print(&mut self, line: &str) {
        self.open = self.terminal;
        // Nobody may be looking.
        let mut out = std::io::stderr().lock();
        let _ = if self.terminal { write!(out, "\r\x1b[K{line}") } else { writeln!(out, "{line}") };
        let _ = out.flush();
    }

    /// Leaves the last line standing.
    fn end_line(&mut self) {
        if std::mem::take(&mut self.open) {
            let _ = writeln!(std::io::stderr());
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end_line();
    }
}
