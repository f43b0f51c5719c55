//! libfabric's ping-pong, `fi_pingpong`, as the distribution has it.

use anyhow::{Context, Result};
use bench_harness::{Budget, Contender, CorePair, Measured, Unit};

use super::pair;
use crate::netdisk::Carrier;

/// Iterations of the short run that tells how many fit into a turn.
const TRIAL_ITERATIONS: u64 = 500;

/// libfabric as a contender; it tells the mean of halved round trips.
#[derive(Debug)]
pub(crate) struct LibfabricPingpong {
    /// What carries the messages: shared memory or TCP.
    pub(crate) carrier: Carrier,
    /// Half of there and back is told.
    pub(crate) half: bool,
    /// Bytes of each message.
    pub(crate) bytes: usize,
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// Length of a turn, roughly.
    pub(crate) budget: Budget,
    /// Iterations that make a turn of that length, once known.
    pub(crate) iterations: Option<u64>,
}

impl Contender for LibfabricPingpong {
    fn name(&self) -> String {
        "fi_pingpong, mean".to_owned()
    }

    fn measure(&mut self) -> Result<Measured> {
        let iterations = match self.iterations {
            Some(known) => known,
            None => {
                let half_ns = self.run(TRIAL_ITERATIONS)?;
                let wanted = self.budget.measure.as_nanos() as f64 / (2.0 * half_ns);
                *self.iterations.insert((wanted as u64).clamp(TRIAL_ITERATIONS, 100_000_000))
            }
        };
        let half_ns = self.run(iterations)?;
        let told_ns = if self.half { half_ns } else { 2.0 * half_ns };
        Ok(Measured::figure(told_ns, Unit::Nanoseconds))
    }
}

impl LibfabricPingpong {
    /// Mean half round trip, nanoseconds.
    fn run(&self, iterations: u64) -> Result<f64> {
        // Over TCP it would take the first network card; the loopback is meant.
        let domain: &[&str] = match self.carrier {
            Carrier::Shm => &["-p", "shm", "-e", "rdm"],
            Carrier::Tcp | Carrier::Verbs => &["-p", "tcp", "-e", "rdm", "-d", "lo"],
        };
        let numbers = [self.bytes as u64, iterations].map(|number| number.to_string());
        let common = || -> Vec<String> {
            let [bytes, iterations] = &numbers;
            domain.iter().chain(&["-S", bytes, "-I", iterations]).map(|word| (*word).to_owned()).collect()
        };
        let server = |port: u16| [common(), vec!["-B".to_owned(), port.to_string()]].concat();
        let client =
            |port: u16| [common(), vec!["-P".to_owned(), port.to_string(), "127.0.0.1".to_owned()]].concat();
        let said = pair::run("fi_pingpong", self.cores, &[], &server, &client)?;
        half_round_trip_ns(&said).with_context(|| format!("fi_pingpong told no result: {said}"))
    }
}

/// From the bandwidth, in units of 10⁶ bytes per second: it has more digits than the time per message.
fn half_round_trip_ns(said: &str) -> Option<f64> {
    let row: Vec<&str> = said.lines().nth(1)?.split_whitespace().collect();
    let bytes: f64 = size(row.first()?)?;
    let megabytes_per_s: f64 = row.get(5)?.parse().ok()?;
    (megabytes_per_s > 0.0).then(|| bytes / megabytes_per_s * 1e3)
}

/// `64`, `4k` or `1m`.
fn size(text: &str) -> Option<f64> {
    let (digits, scale) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 1024.0),
        'm' => (&text[..text.len() - 1], 1_048_576.0),
        _ => (text, 1.0),
    };
    Some(digits.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::half_round_trip_ns;

    #[test]
    fn the_time_of_a_message_is_read_from_its_report() {
        let said = "bytes   #sent   #ack     total       time     MB/sec    usec/xfer   Mxfers/sec\n\
                    4k      100k    =100k    12m         0.11s    4096.00       1.00       1.84\n";
        assert_eq!(half_round_trip_ns(said), Some(1000.0));
        assert_eq!(half_round_trip_ns("bytes\n64 1\n"), None);
        assert_eq!(half_round_trip_ns(""), None);
    }
}
