//! UCX's own benchmark, `ucx_perftest`, with active messages: the peer that netdisk's messages are most like.

use anyhow::{Context, Result};
use bench_harness::{Budget, Contender, CorePair, Measured, Unit};

use super::pair;
use crate::netdisk::Carrier;

/// Iterations of the short run that tells how many fit into a turn.
const TRIAL_ITERATIONS: u64 = 500;
/// It reports in units of 2²⁰ bytes per second.
const MEGABYTE: f64 = 1_048_576.0;

/// Which of its figures is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UcxFigure {
    /// Median of halved round trips.
    HalfRoundTrip,
    /// The same doubled.
    RoundTrip,
    /// Mean bandwidth, one way.
    Bandwidth,
    /// Mean messages per second, one way.
    Rate,
}

/// UCX as a contender.
#[derive(Debug)]
pub(crate) struct UcxPerftest {
    /// What carries the messages: shared memory or TCP.
    pub(crate) carrier: Carrier,
    /// What is compared.
    pub(crate) figure: UcxFigure,
    /// Bytes of each message.
    pub(crate) bytes: usize,
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// Length of a turn, roughly.
    pub(crate) budget: Budget,
    /// Iterations that make a turn of that length, once known.
    pub(crate) iterations: Option<u64>,
}

impl Contender for UcxPerftest {
    fn name(&self) -> String {
        match self.figure {
            UcxFigure::HalfRoundTrip | UcxFigure::RoundTrip => "ucx_perftest ucp_am_lat".to_owned(),
            UcxFigure::Bandwidth | UcxFigure::Rate => "ucx_perftest ucp_am_bw".to_owned(),
        }
    }

    fn measure(&mut self) -> Result<Measured> {
        let iterations = match self.iterations {
            Some(known) => known,
            None => {
                let per_s = self.run(TRIAL_ITERATIONS)?.messages_per_s;
                let wanted = per_s * self.budget.measure.as_secs_f64();
                *self.iterations.insert((wanted as u64).clamp(TRIAL_ITERATIONS, 100_000_000))
            }
        };
        let told = self.run(iterations)?;
        Ok(match self.figure {
            UcxFigure::HalfRoundTrip => Measured::figure(told.median_us * 1e3, Unit::Nanoseconds),
            UcxFigure::RoundTrip => Measured::figure(told.median_us * 2e3, Unit::Nanoseconds),
            UcxFigure::Bandwidth => Measured::figure(told.megabytes_per_s * MEGABYTE, Unit::BytesPerSecond),
            UcxFigure::Rate => Measured::figure(told.messages_per_s, Unit::OperationsPerSecond),
        })
    }
}

impl UcxPerftest {
    fn run(&self, iterations: u64) -> Result<Told> {
        let environment: &[_] = match self.carrier {
            Carrier::Shm => &[("UCX_TLS", "posix")],
            Carrier::Tcp | Carrier::Verbs => &[("UCX_TLS", "tcp"), ("UCX_NET_DEVICES", "lo")],
        };
        let test = match self.figure {
            UcxFigure::HalfRoundTrip | UcxFigure::RoundTrip => "ucp_am_lat",
            UcxFigure::Bandwidth | UcxFigure::Rate => "ucp_am_bw",
        };
        let server = |port: u16| vec!["-p".to_owned(), port.to_string()];
        let client = |port: u16| {
            let warm_up = (iterations / 10).clamp(10, 10_000);
            let numbers =
                [port.into(), self.bytes as u64, iterations, warm_up].map(|number| number.to_string());
            let [port, bytes, iterations, warm_up] = &numbers;
            ["127.0.0.1", "-t", test, "-f", "-v", "-p", port, "-s", bytes, "-n", iterations, "-w", warm_up]
                .map(str::to_owned)
                .to_vec()
        };
        let said = pair::run("ucx_perftest", self.cores, environment, &server, &client)?;
        told(&said).with_context(|| format!("ucx_perftest told no result: {said}"))
    }
}

/// One line of its CSV.
#[derive(Debug, PartialEq)]
struct Told {
    median_us: f64,
    megabytes_per_s: f64,
    messages_per_s: f64,
}

/// Columns by their names: their number differs between versions.
fn told(said: &str) -> Option<Told> {
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split(',').collect()).collect();
    let head = lines.iter().position(|line| line.contains(&"iterations"))?;
    let row = lines[head + 1..].iter().find(|line| line.len() == lines[head].len())?;
    let number = |wanted: &dyn Fn(&str) -> bool| -> Option<f64> {
        row[lines[head].iter().position(|name| wanted(name))?].trim().parse().ok()
    };
    Some(Told {
        median_us: number(&|name| name.contains("percentile"))?,
        megabytes_per_s: number(&|name| name == "overall_bw")?,
        messages_per_s: number(&|name| name == "overall_mr")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Told, told};

    #[test]
    fn figures_are_read_by_the_names_of_their_columns() {
        let said = "iterations,50.0_percentile_lat,avg_lat,overall_lat,avg_bw,overall_bw,avg_mr,overall_mr\n\
                    200000,0.160,0.613,0.613,99.62,99.62,1632193,1632193\n";
        let wanted = Told { median_us: 0.16, megabytes_per_s: 99.62, messages_per_s: 1_632_193.0 };
        assert_eq!(told(said), Some(wanted));
        assert_eq!(told("[error] no transport"), None);
    }
}
