//! fio through its `nbd` engine, the same job for every server.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench_harness::{Contender, Measured, Recorder, Unit};
use serde_json::Value;

use super::limited;
use super::nbd_server::NbdServer;

/// A job that takes longer hangs; nobody asks for turns of that length from a disk in memory.
const RUN_MAX: Duration = Duration::from_secs(900);

/// Which of fio's figures is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FioFigure {
    /// Median completion latency.
    MedianLatency,
    /// Requests per second.
    Iops,
    /// Bytes per second.
    Bandwidth,
}

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FioWork {
    /// They write; else they read.
    pub(crate) writes: bool,
    /// Bytes of each request.
    pub(crate) bytes: u32,
    /// Requests in flight.
    pub(crate) depth: u32,
}

/// A job on one NBD server, started anew for each turn.
pub(crate) struct FioJob {
    /// Whom fio speaks to.
    pub(crate) server: Box<dyn NbdServer>,
    /// What it does.
    pub(crate) work: FioWork,
    /// Length of a turn.
    pub(crate) runtime: Duration,
    /// Bytes of the disk that are used; written once beforehand, so that no server answers from a hole.
    pub(crate) disk_bytes: u64,
    /// What is compared.
    pub(crate) figure: FioFigure,
}

impl Contender for FioJob {
    fn name(&self) -> String {
        self.server.name()
    }

    fn measure(&mut self) -> Result<Measured> {
        let running = self.server.start()?;
        let uri = running.uri();
        let FioWork { writes, bytes, depth } = self.work;
        let size = format!("--size={}", self.disk_bytes);
        fio(&uri, &["--name=fill", "--rw=write", "--bs=1m", "--iodepth=4", &size])?;
        let runtime = format!("--runtime={}ms", self.runtime.as_millis());
        let (depth, block) = (format!("--iodepth={depth}"), format!("--bs={bytes}"));
        let mode = if writes { "--rw=randwrite" } else { "--rw=randread" };
        let job = ["--name=job", mode, &block, "--time_based", "--ramp_time=200ms", &runtime, &depth, &size];
        read_figure(&fio(&uri, &job)?, if writes { "write" } else { "read" }, self.figure)
    }
}

/// Runs one job to its end and returns what it reported, its histograms included.
fn fio(uri: &str, job: &[&str]) -> Result<Value> {
    let mut command = limited::command("fio", RUN_MAX);
    command.args(job).args(["--ioengine=nbd", "--output-format=json+", "--eta=never"]);
    command.arg(format!("--uri={uri}"));
    let output = limited::output(command, "fio")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // The engine may say a word of its own before the report.
    let report = text.find('{').map(|start| &text[start..]).context("fio reported nothing")?;
    serde_json::from_str(report).context("fio's report is not JSON")
}

/// Takes the compared figure of a direction, `read` or `write`, out of fio's report, and the latencies if it
/// tells them.
pub(crate) fn read_figure(report: &Value, direction: &str, figure: FioFigure) -> Result<Measured> {
    let job = &report["jobs"][0];
    if job["error"].as_i64() != Some(0) {
        bail!("fio met error {} of the server", job["error"]);
    }
    let half = &job[direction];
    let (value, unit) = match figure {
        FioFigure::MedianLatency => (&half["clat_ns"]["percentile"]["50.000000"], Unit::Nanoseconds),
        FioFigure::Iops => (&half["iops"], Unit::OperationsPerSecond),
        FioFigure::Bandwidth => (&half["bw_bytes"], Unit::BytesPerSecond),
    };
    let value = value.as_f64().with_context(|| format!("fio's report lacks the {figure:?}"))?;
    Ok(Measured { recorder: latencies(half), ..Measured::figure(value, unit) })
}

/// The histogram of completion latencies, which fio tells in `json+`: nanoseconds and how often.
fn latencies(half: &Value) -> Option<Recorder> {
    let mut recorder = Recorder::new(1);
    for (latency_ns, count) in half["clat_ns"]["bins"].as_object()? {
        recorder.record_many_ns(latency_ns.parse().ok()?, count.as_u64()?);
    }
    (recorder.samples() > 0).then_some(recorder)
}

#[cfg(test)]
mod tests {
    use bench_harness::Unit;
    use serde_json::json;

    use super::{FioFigure, read_figure};

    #[test]
    fn median_rate_and_latencies_are_read_from_fios_report() {
        let latency =
            json!({"percentile": {"1.000000": 9, "50.000000": 26_368}, "bins": {"20224": 3, "26368": 9}});
        let read = json!({"iops": 30_512.25, "bw_bytes": 124_978_176, "clat_ns": latency});
        let report =
            json!({"fio version": "fio-3.33", "jobs": [{"jobname": "read", "error": 0, "read": read}]});
        let median = read_figure(&report, "read", FioFigure::MedianLatency).unwrap();
        assert_eq!((median.figure, median.unit), (26_368.0, Unit::Nanoseconds));
        assert_eq!(median.recorder.unwrap().samples(), 12);
        let rate = read_figure(&report, "read", FioFigure::Iops).unwrap();
        assert_eq!((rate.figure, rate.unit), (30_512.25, Unit::OperationsPerSecond));
        let bandwidth = read_figure(&report, "read", FioFigure::Bandwidth).unwrap();
        assert_eq!((bandwidth.figure, bandwidth.unit), (124_978_176.0, Unit::BytesPerSecond));
    }

    #[test]
    fn a_job_that_met_an_error_gives_no_figure() {
        let report = json!({"jobs": [{"error": 5, "read": {"iops": 100.0}}]});
        assert!(read_figure(&report, "read", FioFigure::Iops).is_err());
        assert!(read_figure(&json!({}), "read", FioFigure::Iops).is_err());
    }
}
