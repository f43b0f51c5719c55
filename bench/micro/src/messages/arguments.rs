//! The command line of the benches of messages, and what it comes to.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use super::{Kind, Point};
use crate::netdisk::{Carrier, Drive, Layout, Trial, Waiting, Ways, What};
use crate::output::Destinations;
use crate::rival::Rival;
use crate::settings::{Pace, Settings};
use bench_harness::bytes_label;
use transport_proto::wire::DATA_BYTES_MAX;

/// Every message carries its number.
const BYTES_MIN: usize = 8;
/// A longest closed loop that anybody would understand.
const DEPTH_MAX: i64 = 1024;
/// Threads of one process; beyond, the machine is measured.
const THREADS_MAX: usize = 64;

/// What carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Provider {
    /// Shared memory of this machine.
    Shm,
    /// TCP.
    Tcp,
    /// RDMA devices; needs a build with them, see `netdisk lab` for machines that have none.
    Verbs,
}

/// How both ends wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wait {
    /// Look without pause; each end has a core of its own.
    Spin,
    /// Look without pause, give the core away between two looks.
    Yield,
    /// As a node does: spin while work comes fast, then sleep.
    Adaptive,
    /// Sleep at once.
    Sleep,
}

/// The benches of messages: what, how, beside whom, and where the results go.
#[derive(Debug, Args)]
pub struct MessageArguments {
    /// What carries the messages.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "shm", value_name = "PROVIDER")]
    pub(crate) provider: Vec<Provider>,
    /// Bytes of a message, for example 64,4K,1M.
    #[arg(long, value_delimiter = ',', value_parser = bytes, value_name = "BYTES")]
    pub(crate) size: Vec<usize>,
    /// Every power of two from 8 bytes to 1 MiB.
    #[arg(short, long, conflicts_with = "size")]
    pub(crate) all: bool,
    /// Messages under way; of bw and rate as many as credit allows, unless told.
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=DEPTH_MAX),
        value_name = "N"
    )]
    pub(crate) depth: Vec<u32>,
    /// Logical links between the two ends.
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "N")]
    pub(crate) links: Vec<u8>,
    /// Redundant rails of each link.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) rails: u8,
    /// Clients that share the endpoint and take turns.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) clients: u8,
    /// Pairs of endpoints that work beside each other.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) threads: usize,
    /// How both ends wait.
    #[arg(long, value_enum, default_value = "spin", value_name = "HOW")]
    pub(crate) wait: Wait,
    /// Open loop: so many messages per second by a timetable, each measured from its intended start.
    #[arg(long, value_name = "RATE", conflicts_with_all = ["depth", "vs"])]
    pub(crate) open: Option<f64>,
    /// Tell the time there and back instead of half of it.
    #[arg(long)]
    pub(crate) round_trip: bool,
    /// Peers and limits that are measured in turn with netdisk, on the same cores.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PEER", conflicts_with = "connect")]
    pub(crate) vs: Vec<Rival>,
    /// Install peers that are missing.
    #[arg(long)]
    pub(crate) install: bool,
    /// The other end is on another machine, where the same command runs with --listen.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "listen")]
    pub(crate) connect: Option<SocketAddr>,
    /// Be the other end for whoever connects. Anyone who reaches the address can: use it among friends.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// End after so many have connected.
    #[arg(long, value_name = "N", requires = "listen")]
    pub(crate) sessions: Option<u32>,
    /// Exit with 1 unless every goal is reached.
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) pace: Pace,
    #[command(flatten)]
    pub(crate) into: Destinations,
}

impl MessageArguments {
    pub(super) fn settings(&self) -> Result<Settings> {
        self.pace.settings()
    }

    /// Every combination that was asked for.
    pub(super) fn points(&self, kind: Kind, settings: &Settings) -> Result<Vec<Point>> {
        ensure!((1..=THREADS_MAX).contains(&self.threads), "--threads: 1 to {THREADS_MAX}");
        ensure!(self.open.is_none_or(|rate| rate.is_finite() && rate > 0.0), "--open: a rate above 0");
        ensure!(
            self.open.is_none() || kind == Kind::Latency,
            "--open: a stream has no timetable; use it with netdisk bench lat"
        );
        let sizes = match (&self.size[..], self.all) {
            (_, true) => (3..=DATA_BYTES_MAX.ilog2()).map(|power| 1 << power).collect(),
            ([], false) => kind.sizes().to_vec(),
            (sizes, false) => sizes.to_vec(),
        };
        let depths: Vec<Option<u32>> = match &self.depth[..] {
            [] => vec![None],
            depths => depths.iter().copied().map(Some).collect(),
        };
        let mut points = Vec::new();
        for provider in &self.provider {
            for links in &self.links {
                for depth in &depths {
                    for bytes in &sizes {
                        points.push(self.point(kind, settings, (*provider, *links, *depth, *bytes))?);
                    }
                }
            }
        }
        Ok(points)
    }

    fn point(
        &self,
        kind: Kind,
        settings: &Settings,
        (provider, links, depth, bytes): (Provider, u8, Option<u32>, usize),
    ) -> Result<Point> {
        let carrier = match provider {
            Provider::Shm => Carrier::Shm,
            Provider::Tcp => Carrier::Tcp,
            Provider::Verbs => Carrier::Verbs,
        };
        ensure!(
            carrier != Carrier::Verbs || transport_endpoint::HAS_VERBS,
            "this netdisk was built without RDMA devices: cargo run --release --features verbs -- bench …"
        );
        ensure!(
            carrier != Carrier::Shm || self.connect.is_none_or(|address| address.ip().is_loopback()),
            "--provider shm: another machine has no memory in common with this one; use tcp or verbs"
        );
        let waiting = match self.wait {
            Wait::Spin => Waiting::Spinning,
            Wait::Yield => Waiting::Yielding,
            Wait::Adaptive => Waiting::Adaptive,
            Wait::Sleep => Waiting::Sleeping,
        };
        let layout =
            Layout { links, rails: self.rails, clients: self.clients, ..Layout::one(carrier, waiting) };
        ensure!(layout.is_possible(), "--links 1 to 8, --rails 1 to 4, --clients 1 to 3");
        let what = match (kind, self.round_trip) {
            (Kind::Latency, false) => What::Latency(Ways::Half),
            (Kind::Latency, true) => What::Latency(Ways::Round),
            (Kind::Bandwidth, _) => What::Bandwidth,
            (Kind::Rate, _) => What::Rate,
        };
        let drive = match self.open {
            Some(rate_per_s) => Drive::Open { rate_per_s },
            None => Drive::Closed { depth },
        };
        let size = bytes_label(bytes as f64);
        let mut id = format!("{}/{}/{}", kind.word(), carrier.word(), size.replace(' ', ""));
        for (word, number) in [
            ("-deep", depth.map_or(1, |depth| depth as usize)),
            ("-links", links.into()),
            ("-rails", self.rails.into()),
            ("-clients", self.clients.into()),
            ("-threads", self.threads),
        ] {
            if number != 1 {
                id.push_str(&format!("/{number}{word}"));
            }
        }
        let title = match what {
            What::Latency(Ways::Half) => format!("half of there and back, {size} over {}", carrier.word()),
            What::Latency(Ways::Round) => format!("there and back, {size} over {}", carrier.word()),
            What::Bandwidth | What::Rate => format!("one way, {size} over {}", carrier.word()),
        };
        let trial = Trial {
            what,
            layout,
            bytes,
            drive,
            threads: self.threads,
            cores: settings.core_pairs.clone(),
            budget: settings.budget,
            partner: self.connect,
        };
        Ok(Point { trial, id, title })
    }
}

/// Bytes of a message: `64`, `4K`, `1M`.
fn bytes(text: &str) -> Result<usize, String> {
    let (digits, scale) = match text.chars().last() {
        Some('k' | 'K') => (&text[..text.len() - 1], 1 << 10),
        Some('m' | 'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let number: usize = digits.parse().map_err(|_| format!("{text:?} is no size; 64, 4K and 1M are"))?;
    let bytes = number.saturating_mul(scale);
    let range = BYTES_MIN..=DATA_BYTES_MAX;
    if !range.contains(&bytes) {
        return Err(format!("{text}: a message has {BYTES_MIN} bytes to 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_read_with_their_units_and_refused_with_a_reason() {
        assert_eq!([bytes("64"), bytes("4K"), bytes("1m")], [Ok(64), Ok(4096), Ok(1 << 20)]);
        for wrong in ["", "x", "4", "1G", "99999999999M", "-1", "2M"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
