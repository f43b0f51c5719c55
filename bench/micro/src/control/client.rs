//! A client with several writes open on one connection, and the load it makes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bench_harness::Recorder;

/// Bytes of each value.
pub(crate) const VALUE_BYTES: usize = 256;
/// Between two attempts to write after the leader's death.
const ATTEMPT_EVERY: Duration = Duration::from_millis(10);
/// A cluster that takes no write for this long is broken.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A connection that writes are sent over, without waiting for each other.
pub(crate) trait Client {
    /// Begins a write; its number comes back with its answer. Not sent before [`Client::answer`] is called.
    fn put(&mut self) -> Result<u64>;

    /// Sends what waits, and takes one answer: the write's number, and whether it was carried out. `None`
    /// after `wait`.
    fn answer(&mut self, wait: Duration) -> Result<Option<(u64, bool)>>;
}

/// What a load did.
pub(crate) struct Done {
    /// From the sending of each write to its answer.
    pub(crate) latency: Recorder,
    /// Writes per second.
    pub(crate) rate: f64,
}

/// Keeps `open` writes open: `warm_up` without, `measure` with recording.
pub(crate) fn load(
    client: &mut dyn Client,
    open: usize,
    warm_up: Duration,
    measure: Duration,
) -> Result<Done> {
    let mut sent = HashMap::new();
    let mut latency = Recorder::new(1);
    let begin = Instant::now() + warm_up;
    let end = begin + measure;
    let mut counted = 0_u64;
    loop {
        while sent.len() < open {
            sent.insert(client.put()?, Instant::now());
        }
        let Some((number, done)) = client.answer(SILENCE_MAX)? else { bail!("no answer for too long") };
        let now = Instant::now();
        let Some(since) = sent.remove(&number) else { bail!("an answer to nothing") };
        if !done {
            bail!("a write was refused while every node is up");
        }
        if now >= begin {
            counted += 1;
            latency.record_ns((now - since).as_nanos() as u64);
        }
        if now >= end {
            let rate = counted as f64 / (now - begin).as_secs_f64();
            return Ok(Done { latency, rate });
        }
    }
}

/// Tries again and again, without waiting for earlier attempts, until one write is done.
pub(crate) fn until_written(client: &mut dyn Client) -> Result<()> {
    let begin = Instant::now();
    loop {
        client.put()?;
        let next = Instant::now() + ATTEMPT_EVERY;
        while let Some((_, done)) = client.answer(next.saturating_duration_since(Instant::now()))? {
            if done {
                return Ok(());
            }
        }
        if begin.elapsed() > SILENCE_MAX {
            bail!("nothing could be written for {} s", SILENCE_MAX.as_secs());
        }
    }
}
