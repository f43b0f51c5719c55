//! fio's random reads through its `nbd` engine, the same job for every server.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench_harness::{Contender, Measured, Unit};
use serde_json::Value;

use super::nbd_server::NbdServer;

/// Which of fio's figures is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FioFigure {
    /// Median completion latency.
    MedianLatency,
    /// Reads per second.
    Iops,
}

/// Random 4 KiB reads from one NBD server, started anew for each turn.
pub(crate) struct FioRead {
    /// Whom fio reads from.
    pub(crate) server: Box<dyn NbdServer>,
    /// Reads in flight.
    pub(crate) depth: u32,
    /// Length of a turn.
    pub(crate) runtime: Duration,
    /// Bytes of the disk that are read; written once beforehand, so that no server answers from a hole.
    pub(crate) disk_bytes: u64,
    /// What is compared.
    pub(crate) figure: FioFigure,
}

impl Contender for FioRead {
    fn name(&self) -> String {
        self.server.name()
    }

    fn measure(&mut self) -> Result<Measured> {
        let running = self.server.start()?;
        let uri = running.uri();
        let size = format!("--size={}", self.disk_bytes);
        fio(&uri, &["--name=fill", "--rw=write", "--bs=1m", "--iodepth=4", &size])?;
        let runtime = format!("--runtime={}ms", self.runtime.as_millis());
        let depth = format!("--iodepth={}", self.depth);
        let job = ["--name=read", "--rw=randread", "--bs=4k", "--time_based", &runtime, &depth, &size];
        read_figure(&fio(&uri, &job)?, "read", self.figure)
    }
}

/// Runs one job to its end and returns what it reported.
fn fio(uri: &str, job: &[&str]) -> Result<Value> {
    let mut command = Command::new("fio");
    command.args(job).args(["--ioengine=nbd", "--output-format=json", "--eta=never"]);
    command.arg(format!("--uri={uri}")).stdin(Stdio::null());
    let output = command.output().context("fio cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("fio failed ({}): {}{text}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    // The engine may say a word of its own before the report.
    let report = text.find('{').map(|start| &text[start..]).context("fio reported nothing")?;
    serde_json::from_str(report).context("fio's report is not JSON")
}

/// Takes the compared figure of a direction, `read` or `write`, out of fio's report.
pub(crate) fn read_figure(report: &Value, direction: &str, figure: FioFigure) -> Result<Measured> {
    let job = &report["jobs"][0];
    if job["error"].as_i64() != Some(0) {
        bail!("fio met error {} of the server", job["error"]);
    }
    let half = &job[direction];
    let (value, unit) = match figure {
        FioFigure::MedianLatency => (&half["clat_ns"]["percentile"]["50.000000"], Unit::Nanoseconds),
        FioFigure::Iops => (&half["iops"], Unit::OperationsPerSecond),
    };
    let value = value.as_f64().with_context(|| format!("fio's report lacks the {figure:?}"))?;
    Ok(Measured::figure(value, unit))
}

#[cfg(test)]
mod tests {
    use bench_harness::Unit;
    use serde_json::json;

    use super::{FioFigure, read_figure};

    #[test]
    fn median_and_rate_are_read_from_fios_report() {
        let read =
            json!({"iops": 30_512.25, "clat_ns": {"percentile": {"1.000000": 9, "50.000000": 26_368}}});
        let report =
            json!({"fio version": "fio-3.33", "jobs": [{"jobname": "read", "error": 0, "read": read}]});
        let median = read_figure(&report, "read", FioFigure::MedianLatency).unwrap();
        assert_eq!((median.figure, median.unit), (26_368.0, Unit::Nanoseconds));
        let rate = read_figure(&report, "read", FioFigure::Iops).unwrap();
        assert_eq!((rate.figure, rate.unit), (30_512.25, Unit::OperationsPerSecond));
    }

    #[test]
    fn a_job_that_met_an_error_gives_no_figure() {
        let report = json!({"jobs": [{"error": 5, "read": {"iops": 100.0}}]});
        assert!(read_figure(&report, "read", FioFigure::Iops).is_err());
        assert!(read_figure(&json!({}), "read", FioFigure::Iops).is_err());
    }
}
