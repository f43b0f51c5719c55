//! The library surface under a job: random blocks of a memory disk of another node, read or written, several
//! at a time.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use bench_harness::{Budget, Contender, CorePair, Measured, MonotonicClock, Pipeline, closed_loop_at_depth};
use blockdev_engine::{BlockIo, WriteData};
use blockdev_proto::geometry::ByteRange;
use blockdev_proto::wire::{Operation, RequestFlags};

use super::disk_master::VOLUME;
use super::disk_read::{Places, Reader};
use super::wiring::Layout;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobKind {
    /// Random reads.
    Read,
    /// Random writes.
    Write,
}

/// A job as a contender: at depth 1 its median latency counts, else operations per second.
#[derive(Debug)]
pub(crate) struct DiskJob {
    /// Where the two nodes run.
    pub(crate) cores: CorePair,
    /// Length of a turn.
    pub(crate) budget: Budget,
    /// How they are wired.
    pub(crate) layout: Layout,
    /// Reads or writes.
    pub(crate) kind: JobKind,
    /// Bytes of each request, whole blocks.
    pub(crate) bytes: u32,
    /// Requests in flight.
    pub(crate) depth: u32,
    /// Bytes of the disk.
    pub(crate) disk_bytes: u64,
    /// At depths above 1 bytes per second count, not requests.
    pub(crate) counts_bytes: bool,
}

impl Contender for DiskJob {
    fn name(&self) -> String {
        format!("netdisk library, {}", self.layout.carrier.word())
    }

    fn measure(&mut self) -> Result<Measured> {
        let mut reader = Reader::connect(self.layout, self.cores, self.disk_bytes)?;
        if self.kind == JobKind::Read {
            reader.fill()?;
        }
        let mut requests = Requests {
            reader,
            places: Places::of(self.bytes, self.disk_bytes),
            kind: self.kind,
            bytes: self.bytes,
            source: Arc::new(vec![0x5a; self.bytes as usize]),
        };
        let mut clock = MonotonicClock::start();
        let run = closed_loop_at_depth(&mut clock, &self.budget, self.depth, &mut requests)?;
        let measured = match self.depth {
            1 => Measured::latency_of(run),
            _ if self.counts_bytes => Measured::bandwidth_of(run, self.bytes),
            _ => Measured::rate_of(run),
        };
        Ok(measured)
    }
}

/// The requests of a job under way.
struct Requests {
    reader: Reader,
    places: Places,
    kind: JobKind,
    bytes: u32,
    source: Arc<Vec<u8>>,
}

impl Pipeline for Requests {
    type Error = anyhow::Error;

    fn submit(&mut self, tag: u32) -> Result<()> {
        let range = ByteRange::new(self.places.next_offset(), self.bytes);
        let (operation, data) = match self.kind {
            JobKind::Read => (Operation::Read, None),
            JobKind::Write => (Operation::Write, Some(WriteData::Caller(self.source.clone()))),
        };
        let io =
            BlockIo { volume: VOLUME, operation, flags: RequestFlags::NONE, range, data, tag: tag.into() };
        let (core, engine) = self.reader.node().parts();
        engine.submit(core, io).map_err(|refused| anyhow!("the request was refused: {:?}", refused.why))
    }

    fn poll(&mut self, done: &mut dyn FnMut(u32)) -> Result<()> {
        let first = self.reader.next_completion()?;
        let mut next = Some(first);
        while let Some(completion) = next {
            completion.result.map_err(|errno| anyhow!("the request failed: {errno:?}"))?;
            done(completion.tag as u32);
            next = self.reader.node().clients().next_completion();
        }
        Ok(())
    }
}
