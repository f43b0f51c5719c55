//! The thread of the demo's clients: it writes the image and drives the verifying load, both through one
//! node, each on a connection of its own, with several requests under way.

use super::client::{Answer, Cookie, NbdClient};
use super::faults::{Faults, Moment};
use super::image::Image;
use super::latency::Latencies;
use super::load::{Load, LoadErrand, LoadRequest};
use super::stamp::BLOCK_BYTES;
use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Requests of the load under way.
const LOAD_DEPTH: usize = 8;
/// Pieces of the image under way.
const IMAGE_DEPTH: usize = 4;
/// The image is written in this part of the run's time, so that the load goes on beside and after it.
const IMAGE_SHARE: f64 = 0.9;
/// The longest sleep: how soon the thread sees an order or a piece's turn.
const SLEEP_MAX: Duration = Duration::from_millis(10);
/// Between two reports of progress.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// So long without an answer, and the cluster is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What the clients have done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Bytes of the image that were acknowledged.
    pub(super) image_bytes: u64,
    /// Bytes written and acknowledged, image included.
    pub(super) bytes_written: u64,
    /// Bytes read.
    pub(super) bytes_read: u64,
    /// Median latency of late, nanoseconds.
    pub(super) median_ns: u64,
    /// Whether a request that was sent after the kill has been answered.
    pub(super) restored: bool,
}

/// What the clients' thread and the director tell each other.
#[derive(Default)]
pub(super) struct Cues {
    /// Set just before the kill.
    pub(super) killed: OnceLock<Instant>,
    /// Set when the node is dead.
    pub(super) dead: OnceLock<Instant>,
    /// The load may end when the image is written and its time is over.
    pub(super) may_end: AtomicBool,
    /// End now; nobody wants the result.
    pub(super) abandon: AtomicBool,
    progress: Mutex<Progress>,
}

impl Cues {
    /// The latest report.
    pub(super) fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

/// What the clients leave behind.
pub(super) struct Worked {
    pub(super) load: Load,
    pub(super) latencies: Latencies,
    pub(super) faults: Faults,
    pub(super) progress: Progress,
    /// SHA-256 of the image as it was sent.
    pub(super) image_checksum: String,
}

/// The clients while they work.
pub(super) struct Workload {
    cues: Arc<Cues>,
    image: Arc<Image>,
    through: String,
    span: Duration,
    start: Instant,
    image_client: NbdClient,
    chunks: HashMap<Cookie, (Instant, u64)>,
    image_sent: u64,
    hash: Sha256,
    load_client: NbdClient,
    errands: HashMap<Cookie, (Instant, LoadErrand)>,
    load: Load,
    latencies: Latencies,
    faults: Faults,
    progress: Progress,
    chunk: Vec<u8>,
}

impl Workload {
    /// Clients on two connections of one node, `through`, for a run of `span`.
    pub(super) fn new(
        clients: [NbdClient; 2],
        through: String,
        image: Arc<Image>,
        load: Load,
        span: Duration,
        cues: Arc<Cues>,
    ) -> Workload {
        let [image_client, load_client] = clients;
        let start = Instant::now();
        Workload {
            cues,
            image,
            through,
            span,
            start,
            image_client,
            chunks: HashMap::new(),
            image_sent: 0,
            hash: Sha256::new(),
            load_client,
            errands: HashMap::new(),
            load,
            latencies: Latencies::new(start),
            faults: Faults::default(),
            progress: Progress::default(),
            chunk: Vec::new(),
        }
    }

    /// Works until all is written and the director lets it end.
    pub(super) fn run(mut self) -> anyhow::Result<Worked> {
        let mut reported = self.start;
        loop {
            if self.cues.abandon.load(Ordering::Relaxed) {
                bail!("abandoned");
            }
            let now = Instant::now();
            let ending = self.is_ending(now);
            if !ending {
                self.send_load(now);
            }
            self.send_image(now)?;
            if ending && self.under_way() == 0 {
                break;
            }
            self.take_answers()?;
            let now = Instant::now();
            if self.latencies.silence(now) > SILENCE_MAX {
                bail!("no answer from node {} for {} s", self.through, SILENCE_MAX.as_secs());
            }
            if now.saturating_duration_since(reported) > REPORT_EVERY {
                reported = now;
                self.progress.median_ns = self.latencies.recent_median_ns();
                self.cues.report(self.progress);
            }
            NbdClient::wait(&[&self.image_client, &self.load_client], SLEEP_MAX)?;
        }
        self.finish()
    }

    fn is_ending(&self, now: Instant) -> bool {
        self.image_sent >= self.image.padded_length()
            && now.saturating_duration_since(self.start) >= self.span
            && self.cues.may_end.load(Ordering::Relaxed)
    }

    fn under_way(&self) -> usize {
        self.image_client.under_way() + self.load_client.under_way()
    }

    fn send_load(&mut self, now: Instant) {
        let base = self.image.padded_length();
        while self.load_client.under_way() < LOAD_DEPTH {
            let offset = |block: super::stamp::BlockNumber| base + block.0 * BLOCK_BYTES as u64;
            let (cookie, errand) = match self.load.next() {
                LoadRequest::Write { first, bytes, durable } => {
                    let count = (bytes.len() / BLOCK_BYTES) as u64;
                    let cookie = self.load_client.write(offset(first), &bytes, durable);
                    (cookie, LoadErrand::Write { first, count })
                }
                LoadRequest::Read { first, floors } => {
                    let length = (floors.len() * BLOCK_BYTES) as u32;
                    (self.load_client.read(offset(first), length), LoadErrand::Read { first, floors })
                }
            };
            self.errands.insert(cookie, (now, errand));
        }
    }

    /// Sends the pieces of the image whose time has come.
    fn send_image(&mut self, now: Instant) -> anyhow::Result<()> {
        let total = self.image.padded_length();
        let share = now.saturating_duration_since(self.start).as_secs_f64() / self.span.as_secs_f64();
        let due = (total as f64 * share / IMAGE_SHARE) as u64;
        while self.image_sent < total && self.image_sent <= due && self.image_client.under_way() < IMAGE_DEPTH
        {
            let own = self.image.read_at(self.image_sent, &mut self.chunk)?;
            self.hash.update(&self.chunk[..own]);
            let cookie = self.image_client.write(self.image_sent, &self.chunk, false);
            self.image_sent += self.chunk.len() as u64;
            self.chunks.insert(cookie, (now, own as u64));
        }
        Ok(())
    }

    fn take_answers(&mut self) -> anyhow::Result<()> {
        let image_answers = self.image_client.turn()?;
        let load_answers = self.load_client.turn()?;
        self.latencies.killed(self.cues.killed.get().copied(), self.cues.dead.get().copied());
        let now = Instant::now();
        for answer in image_answers {
            let (sent, bytes) = self.chunks.remove(&answer.cookie).context("an answer to nothing")?;
            self.latencies.answered(sent, now);
            match answer.result {
                Ok(_) => {
                    self.progress.image_bytes += bytes;
                    self.progress.bytes_written += bytes;
                }
                Err(errno) => self.faults.error("a write of the image", errno),
            }
        }
        for answer in load_answers {
            self.take_load_answer(answer, now)?;
        }
        self.progress.restored = self.latencies.is_restored();
        Ok(())
    }

    fn take_load_answer(&mut self, answer: Answer, now: Instant) -> anyhow::Result<()> {
        let (sent, errand) = self.errands.remove(&answer.cookie).context("an answer to nothing")?;
        self.latencies.answered(sent, now);
        match (errand, answer.result) {
            (LoadErrand::Write { first, count }, result) => {
                self.load.wrote(first, count, result.is_ok());
                match result {
                    Ok(_) => self.progress.bytes_written += count * BLOCK_BYTES as u64,
                    Err(errno) => self.faults.error("a write of the load", errno),
                }
            }
            (LoadErrand::Read { first, floors }, Ok(bytes)) => {
                self.progress.bytes_read += bytes.len() as u64;
                let seen = (Moment::Load, self.through.as_str());
                self.load.read(first, &floors, &bytes, &mut self.faults, seen);
            }
            (LoadErrand::Read { .. }, Err(errno)) => self.faults.error("a read of the load", errno),
        }
        Ok(())
    }

    /// Makes everything durable and says goodbye.
    fn finish(mut self) -> anyhow::Result<Worked> {
        self.image_client.flush();
        let deadline = Instant::now() + SILENCE_MAX;
        while self.image_client.under_way() > 0 {
            for answer in self.image_client.turn()? {
                if let Err(errno) = answer.result {
                    self.faults.error("a flush", errno);
                }
            }
            if Instant::now() > deadline || self.cues.abandon.load(Ordering::Relaxed) {
                bail!("a flush was not answered");
            }
            NbdClient::wait(&[&self.image_client], SLEEP_MAX)?;
        }
        self.image_client.close()?;
        self.load_client.close()?;
        self.cues.report(self.progress);
        Ok(Worked {
            load: self.load,
            latencies: self.latencies,
            faults: self.faults,
            progress: self.progress,
            image_checksum: super::outcome::hex(&self.hash.finalize()),
        })
    }
}
