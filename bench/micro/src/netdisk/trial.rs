//! One measurement of the transport as a person asks for it: what, how large, how deep, over how many links,
//! rails, clients and threads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use bench_harness::{
    Budget, Contender, CorePair, Measured, MonotonicClock, Pipeline, Run, Unit, closed_loop,
    closed_loop_at_depth, open_loop,
};
use transport_endpoint::{Data, Tag};

use super::partner::Ask;
use super::station::Station;
use super::wiring::{Carrier, Layout};

/// Any name: the station only counts completions.
const COUNTED: Tag = Tag(0);
/// From this size on a message is built in the memory from which it goes, not copied there.
const IN_PLACE_FROM: usize = 4096;
/// Messages between two looks at what came, while credit lasts.
const SENDS_PER_TURN: u32 = 16;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Time of a message that is sent back.
    Latency(Ways),
    /// Bytes per second, one way.
    Bandwidth,
    /// Messages per second, one way.
    Rate,
}

/// How a latency is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    /// Half of there and back, as most transports tell it.
    Half,
    /// There and back.
    Round,
}

/// What starts a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Drive {
    /// The answer to an earlier one; so many are under way. `None`: as many as credit allows.
    Closed { depth: Option<u32> },
    /// A timetable; latency counts from the intended start.
    Open { rate_per_s: f64 },
}

/// netdisk's side of a comparison.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    /// What is counted.
    pub(crate) what: What,
    /// How both ends are wired.
    pub(crate) layout: Layout,
    /// Bytes of the data part.
    pub(crate) bytes: usize,
    /// What starts a message.
    pub(crate) drive: Drive,
    /// Pairs of endpoints that work beside each other, each on its pair of cores as far as these go.
    pub(crate) threads: usize,
    /// Pairs of cores.
    pub(crate) cores: Vec<CorePair>,
    /// Length of a turn.
    pub(crate) budget: Budget,
    /// Where the partner is; `None` for a process of this machine.
    pub(crate) partner: Option<SocketAddr>,
}

/// What one thread found.
enum Found {
    Run(Run),
    PerSecond(f64),
}

impl Contender for Trial {
    fn name(&self) -> String {
        format!("netdisk {}", self.layout.carrier.word())
    }

    fn measure(&mut self) -> Result<Measured> {
        let trial = &*self;
        let found = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.threads).map(|thread| scope.spawn(move || trial.measure_once(thread))).collect();
            let joined = threads.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a measuring thread panicked: a bug")))
            });
            joined.collect::<Result<Vec<_>>>()
        })?;
        let (mut all, mut per_second) = (None::<Run>, 0.0);
        for found in found {
            match (found, all.as_mut()) {
                (Found::PerSecond(more), _) => per_second += more,
                (Found::Run(run), None) => all = Some(run),
                (Found::Run(run), Some(all)) => all.join(&run),
            }
        }
        match (self.what, all) {
            (What::Latency(Ways::Round), Some(run)) => Ok(Measured::latency_of(run)),
            (What::Latency(Ways::Half), Some(run)) => Ok(Measured::latency_of(run.halved())),
            (What::Bandwidth, _) => {
                Ok(Measured::figure(per_second * self.bytes as f64, Unit::BytesPerSecond))
            }
            _ => Ok(Measured::figure(per_second, Unit::OperationsPerSecond)),
        }
    }
}

impl Trial {
    fn measure_once(&self, thread: usize) -> Result<Found> {
        let cores = self.cores[thread % self.cores.len()];
        let mut station = match self.partner {
            Some(address) => Station::connect_to(address, self.layout, cores)?,
            None => Station::connect(self.layout, cores)?,
        };
        match self.what {
            What::Latency(_) => self.echo(station).map(Found::Run),
            What::Bandwidth | What::Rate => self.stream(&mut station).map(Found::PerSecond),
        }
    }

    /// Messages that are sent back.
    fn echo(&self, mut station: Station) -> Result<Run> {
        let clock = &mut MonotonicClock::start();
        let mut message = vec![0x5a; self.bytes];
        let mut turn = 0_u64;
        let mut ask = |station: &mut Station| -> Result<()> {
            turn += 1;
            message[..8].copy_from_slice(&turn.to_le_bytes());
            let answer = station.ask(Ask::Echo, &message)?;
            ensure!(answer == turn, "asked {turn}, the answer was to {answer}");
            Ok(())
        };
        match self.drive {
            Drive::Open { rate_per_s } => open_loop(clock, &self.budget, rate_per_s, || ask(&mut station)),
            Drive::Closed { depth: None | Some(1) } => {
                closed_loop(clock, &self.budget, 1, || ask(&mut station))
            }
            Drive::Closed { depth: Some(depth) } => {
                station.keep_tags();
                let mut echoes = Echoes { station, message };
                closed_loop_at_depth(clock, &self.budget, depth, &mut echoes)
            }
        }
    }

    /// Messages that the partner takes in; how many per second were acknowledged.
    fn stream(&self, station: &mut Station) -> Result<f64> {
        let source = Arc::new(vec![0x5a; self.bytes]);
        self.stream_for(station, &source, self.budget.warm_up, u64::MAX)?;
        let Budget { measure, operations_max, .. } = self.budget;
        let (messages, elapsed) = self.stream_for(station, &source, measure, operations_max)?;
        Ok(messages as f64 / elapsed.as_secs_f64())
    }

    fn stream_for(
        &self,
        station: &mut Station,
        source: &Arc<Vec<u8>>,
        time: Duration,
        messages_max: u64,
    ) -> Result<(u64, Duration)> {
        let window = match self.drive {
            Drive::Closed { depth } => depth.map_or(u64::MAX, u64::from),
            Drive::Open { .. } => u64::MAX,
        };
        let (start, before) = (Instant::now(), station.heard().delivered);
        let mut sent = 0;
        // At least one message, however busy the machine is.
        while station.heard().delivered == before
            || start.elapsed() < time && station.heard().delivered - before < messages_max
        {
            for _ in 0..SENDS_PER_TURN {
                if sent - (station.heard().delivered - before) >= window || sent == messages_max {
                    break;
                }
                self.send(station, source)?;
                sent += 1;
                if self.bytes >= IN_PLACE_FROM {
                    break;
                }
            }
            station.take_turn()?;
        }
        let (messages, elapsed) = (station.heard().delivered - before, start.elapsed());
        // What is under way belongs to this stretch of time, not to the next.
        station.run_until(|heard| heard.delivered - before >= sent)?;
        Ok((messages, elapsed))
    }

    fn send(&self, station: &mut Station, source: &Arc<Vec<u8>>) -> Result<()> {
        match self.layout.carrier {
            _ if self.bytes < IN_PLACE_FROM => station.send(Ask::TakeIn, Data::Copy(source), COUNTED),
            // Over shared memory a message is built in place: one copy, as the bare memcpy has.
            Carrier::Shm => station.build_and_send(Ask::TakeIn, source, COUNTED),
            // A device sends registered memory over and over, as perftest does.
            Carrier::Verbs => station.send_in_place(Ask::TakeIn, self.bytes, COUNTED),
            // A socket sends the caller's own memory, as the raw stream does.
            Carrier::Tcp => station.send(Ask::TakeIn, Data::Caller(source.clone()), COUNTED),
        }
    }
}

/// Round trips of which several are under way; each message carries its tag and brings it back.
struct Echoes {
    station: Station,
    message: Vec<u8>,
}

impl Pipeline for Echoes {
    type Error = anyhow::Error;

    fn submit(&mut self, tag: u32) -> Result<()> {
        self.message[..8].copy_from_slice(&u64::from(tag).to_le_bytes());
        self.station.send(Ask::Echo, Data::Copy(&self.message), Tag::SILENT)
    }

    fn poll(&mut self, done: &mut dyn FnMut(u32)) -> Result<()> {
        self.station.run_until(|heard| !heard.tags.is_empty())?;
        self.station.take_tags(&mut |tag| done(tag as u32));
        Ok(())
    }
}
