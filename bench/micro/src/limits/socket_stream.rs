//! Messages stream over a socket in one direction; the receiver takes the time.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench_harness::{Budget, Contender, CoreId, CorePair, Measured, Pinned, Unit, Worker, tell_parent};
use serde::{Deserialize, Serialize};

use super::wire::{Family, Listening, Wire};
use crate::role::{Role, SUB_COMMAND};

/// The worker's end: reads whole messages, first to warm up, then to measure, and tells what it measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sink {
    family: Family,
    message_bytes: usize,
    warm_up: Duration,
    measure: Duration,
    congestion: Option<String>,
    core: CoreId,
}

/// What the sink took in.
#[derive(Debug, Serialize, Deserialize)]
struct TakenIn {
    bytes: u64,
    elapsed: Duration,
}

impl Sink {
    /// Takes one measurement.
    ///
    /// # Errors
    /// The stream ended before the time was up.
    pub(crate) fn serve(self) -> Result<()> {
        let listening = Listening::start(self.family)?;
        tell_parent(&listening.address()?)?;
        let mut stream = listening.accept()?;
        stream.set_options(self.congestion.as_deref())?;
        let _pinned = Pinned::to(self.core)?;
        let mut message = vec![0; self.message_bytes];
        let mut messages_within = |time: Duration| -> Result<TakenIn> {
            let (start, mut bytes) = (Instant::now(), 0);
            while start.elapsed() < time {
                stream.read_exact(&mut message).context("the stream ended early")?;
                bytes += message.len() as u64;
            }
            Ok(TakenIn { bytes, elapsed: start.elapsed() })
        };
        messages_within(self.warm_up)?;
        tell_parent(&messages_within(self.measure)?)
    }
}

/// The raw stream as a contender; counts payload bytes per second at the receiver.
#[derive(Debug)]
pub(crate) struct SocketStreaming {
    /// Which kind of socket.
    pub(crate) family: Family,
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// Length of a turn.
    pub(crate) budget: Budget,
    /// Bytes of each write and of each read.
    pub(crate) message_bytes: usize,
    /// Congestion control of both sockets; `None` is the machine's default.
    pub(crate) congestion: Option<String>,
}

impl Contender for SocketStreaming {
    fn name(&self) -> String {
        format!("{} stream", self.family.word())
    }

    fn measure(&mut self) -> Result<Measured> {
        let sink = Sink {
            family: self.family,
            message_bytes: self.message_bytes,
            warm_up: self.budget.warm_up,
            measure: self.budget.measure,
            congestion: self.congestion.clone(),
            core: self.cores.worker,
        };
        let mut worker = Worker::start(SUB_COMMAND, &Role::SocketSink(sink))?;
        let address: String = worker.hear()?;
        let mut stream = Wire::connect(self.family, &address)?;
        stream.set_options(self.congestion.as_deref())?;
        let pinned = Pinned::to(self.cores.ours)?;
        let message = vec![0x5a; self.message_bytes];
        // The sink closes when it has measured enough; that is the only end of this loop.
        while stream.write_all(&message).is_ok() {}
        drop(pinned);
        let TakenIn { bytes, elapsed } = worker.hear()?;
        ensure!(bytes > 0, "the stream carried nothing");
        Ok(Measured::figure(bytes as f64 / elapsed.as_secs_f64(), Unit::BytesPerSecond))
    }
}
