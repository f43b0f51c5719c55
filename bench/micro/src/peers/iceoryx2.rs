//! iceoryx2, through a small program of ours that is a package of its own (`bench/peers/iceoryx2`), so that
//! nothing of it is linked into netdisk.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use bench_harness::{Budget, Contender, CorePair, Measured, Recorder, Unit};
use serde::Deserialize;

/// Where the package is.
pub(crate) fn manifest() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../peers/iceoryx2/Cargo.toml"))
}

/// Where its build puts the program.
pub(crate) fn program() -> PathBuf {
    manifest().with_file_name("target/release/netdisk-peer-iceoryx2")
}

/// Which of its figures is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Iceoryx2Figure {
    /// Halved round trips.
    HalfRoundTrip,
    /// Round trips; it tells halves, these are doubled.
    RoundTrip,
    /// Bytes per second, one way.
    Bandwidth,
    /// Messages per second, one way.
    Rate,
}

/// iceoryx2's publish-subscribe as a contender.
#[derive(Debug)]
pub(crate) struct Iceoryx2 {
    /// What is compared.
    pub(crate) figure: Iceoryx2Figure,
    /// Bytes of each message.
    pub(crate) bytes: usize,
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// Length of a turn.
    pub(crate) budget: Budget,
}

/// What the program prints.
#[derive(Debug, Deserialize)]
struct Told {
    /// Halves of round trips: nanoseconds, and how often.
    samples: Vec<(u64, u64)>,
    messages_per_s: f64,
}

impl Contender for Iceoryx2 {
    fn name(&self) -> String {
        "iceoryx2 publish-subscribe".to_owned()
    }

    fn measure(&mut self) -> Result<Measured> {
        let kind = match self.figure {
            Iceoryx2Figure::HalfRoundTrip | Iceoryx2Figure::RoundTrip => "lat",
            Iceoryx2Figure::Bandwidth | Iceoryx2Figure::Rate => "stream",
        };
        let output = Command::new("taskset")
            .args(["-c", &self.cores.ours.0.to_string()])
            .arg(program())
            .args([kind, &self.bytes.to_string()])
            .args([self.budget.warm_up, self.budget.measure].map(|time| time.as_millis().to_string()))
            .arg(self.cores.worker.0.to_string())
            .stdin(Stdio::null())
            .output()
            .context("the bench of iceoryx2 cannot be started")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("the bench of iceoryx2 failed ({}): {said}", output.status);
        }
        let told: Told =
            serde_json::from_slice(&output.stdout).context("the bench of iceoryx2 told no result")?;
        Ok(match self.figure {
            Iceoryx2Figure::HalfRoundTrip => Measured::latency(told.recorder(2, 1)),
            Iceoryx2Figure::RoundTrip => Measured::latency(told.recorder(1, 2)),
            Iceoryx2Figure::Bandwidth => {
                Measured::figure(told.messages_per_s * self.bytes as f64, Unit::BytesPerSecond)
            }
            Iceoryx2Figure::Rate => Measured::figure(told.messages_per_s, Unit::OperationsPerSecond),
        })
    }
}

impl Told {
    fn recorder(&self, operations_per_sample: u32, factor: u64) -> Recorder {
        let mut recorder = Recorder::new(operations_per_sample);
        for (latency_ns, count) in &self.samples {
            recorder.record_many_ns(latency_ns * factor, *count);
        }
        recorder
    }
}
