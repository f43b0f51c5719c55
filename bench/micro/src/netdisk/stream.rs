//! Messages stream to another process, as many as credit allows on their way at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bench_harness::{Budget, Contender, CorePair, Measured, Unit};
use transport_endpoint::{Data, Tag};

use super::partner::Ask;
use super::station::Station;
use super::wiring::{Carrier, Layout};

/// Any name: the station only counts completions.
const COUNTED: Tag = Tag(0);

/// netdisk's stream as a contender; counts data bytes per second that the partner's transport acknowledged.
#[derive(Debug)]
pub(crate) struct MessageStream {
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// Length of a turn.
    pub(crate) budget: Budget,
    /// How they are wired.
    pub(crate) layout: Layout,
    /// Bytes of each message's data part.
    pub(crate) bytes: usize,
}

impl MessageStream {
    /// Sends for a while; returns how many messages were acknowledged meanwhile, and how long it took.
    fn stream_for(
        &self,
        station: &mut Station,
        source: &Arc<Vec<u8>>,
        time: Duration,
    ) -> Result<(u64, Duration)> {
        let (start, before) = (Instant::now(), station.heard().delivered);
        while start.elapsed() < time {
            match self.layout.carrier {
                // Over shared memory a message is built in place: one copy, as the bare memcpy has.
                Carrier::Shm => station.build_and_send(Ask::TakeIn, source, COUNTED)?,
                // A device sends registered memory over and over, as perftest does.
                Carrier::Verbs => station.send_in_place(Ask::TakeIn, self.bytes, COUNTED)?,
                // A socket sends the caller's own memory, as the raw stream does.
                Carrier::Tcp => station.send(Ask::TakeIn, Data::Caller(source.clone()), COUNTED)?,
            }
            station.take_turn()?;
        }
        Ok((station.heard().delivered - before, start.elapsed()))
    }
}

impl Contender for MessageStream {
    fn name(&self) -> String {
        let carrier = self.layout.carrier.word();
        match self.layout.links {
            1 => format!("netdisk {carrier} stream"),
            links => format!("netdisk {carrier}, {links} rails"),
        }
    }

    fn measure(&mut self) -> Result<Measured> {
        let mut station = Station::connect(self.layout, self.cores)?;
        let source = Arc::new(vec![0x5a; self.bytes]);
        self.stream_for(&mut station, &source, self.budget.warm_up)?;
        let (messages, elapsed) = self.stream_for(&mut station, &source, self.budget.measure)?;
        let bytes_per_s = messages as f64 * self.bytes as f64 / elapsed.as_secs_f64();
        Ok(Measured::figure(bytes_per_s, Unit::BytesPerSecond))
    }
}
