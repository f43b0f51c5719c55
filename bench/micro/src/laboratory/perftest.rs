//! perftest between the two hosts, by the laboratory's `pair`: server on h2, client on h1, both spinning.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use bench_harness::{Contender, Measured, Unit};

/// `ib_send_lat` or a relative of it: median of halved round trips.
#[derive(Debug)]
pub(crate) struct PerftestLatency {
    /// The program.
    pub(crate) program: &'static str,
    /// Bytes of each message.
    pub(crate) bytes: usize,
    /// Messages of a turn.
    pub(crate) messages: u32,
}

/// `ib_write_bw` or a relative of it: mean bandwidth, one way.
#[derive(Debug)]
pub(crate) struct PerftestBandwidth {
    /// The program.
    pub(crate) program: &'static str,
    /// Bytes of each message.
    pub(crate) bytes: usize,
    /// Bytes of a turn.
    pub(crate) stream_bytes: u64,
}

impl Contender for PerftestLatency {
    fn name(&self) -> String {
        self.program.to_owned()
    }

    fn measure(&mut self) -> Result<Measured> {
        let said = pair(self.program, self.bytes, u64::from(self.messages), &[])?;
        let median_us = figure(&said, self.bytes, 4)?;
        Ok(Measured::figure(median_us * 1e3, Unit::Nanoseconds))
    }
}

impl Contender for PerftestBandwidth {
    fn name(&self) -> String {
        self.program.to_owned()
    }

    fn measure(&mut self) -> Result<Measured> {
        let messages = (self.stream_bytes / self.bytes as u64).max(MESSAGES_MIN);
        let said = pair(self.program, self.bytes, messages, &["--report_gbits"])?;
        let gigabits = figure(&said, self.bytes, 3)?;
        Ok(Measured::figure(gigabits * 1e9 / 8.0, Unit::BytesPerSecond))
    }
}

/// perftest refuses fewer.
const MESSAGES_MIN: u64 = 5;

fn pair(program: &str, bytes: usize, messages: u64, more: &[&str]) -> Result<String> {
    let mut command = Command::new("pair");
    // -F: no words about the processor's frequency, which an emulated one does not have.
    command.args([program, "-F", "-s", &bytes.to_string(), "-n", &messages.to_string()]).args(more);
    let output =
        command.stdin(Stdio::null()).output().context("the laboratory's `pair` cannot be started")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{program} failed ({}): {}{said}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}

/// The figure in this column of the line of results, which begins with the size.
fn figure(said: &str, bytes: usize, column: usize) -> Result<f64> {
    let size = bytes.to_string();
    let rows = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.into_iter().find(|words| words.len() > column && words[0] == size);
    let figure = row.and_then(|words| words[column].parse().ok());
    figure.with_context(|| format!("perftest told no result: {said}"))
}

#[cfg(test)]
mod tests {
    use super::figure;

    const LATENCY: &str = "\
 local address: LID 0000 QPN 0x0012 PSN 0x5a8e1e
---------------------------------------------------------------------------------------
 #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]
 64      10000          38.11          1203.65      44.21              46.03            9.11    51.2   94.77
";
    const BANDWIDTH: &str = "\
 #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]   MsgRate[Mpps]
 65536      4096             1.52               1.47                0.002808
";

    #[test]
    fn median_and_mean_are_read_from_what_perftest_says() {
        assert_eq!(figure(LATENCY, 64, 4).unwrap(), 44.21);
        assert_eq!(figure(BANDWIDTH, 65_536, 3).unwrap(), 1.47);
    }

    #[test]
    fn a_text_without_results_is_an_error_that_shows_it() {
        let said = figure("Unable to init the socket connection", 64, 4).unwrap_err().to_string();
        assert!(said.contains("Unable to init"), "{said}");
    }
}
