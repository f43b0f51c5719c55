//! The library surface: blocks read from a memory disk of another node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use bench_harness::{Budget, Contender, CorePair, Measured, MonotonicClock, Pinned, Worker, closed_loop};
use blockdev_engine::{BlockCompletion, BlockEngine, BlockIo, ReadData, WriteData};
use blockdev_proto::geometry::ByteRange;
use blockdev_proto::wire::{Operation, RequestFlags};
use transport_endpoint::Endpoint;
use transport_proto::identity::Incarnation;

use super::disk_master::{DiskMaster, VOLUME, map, round};
use super::wiring::{Layout, STATION, Wiring};
use crate::role::Role;

/// Far more than the caches of one core hold, little enough to be filled quickly.
const DISK_BYTES: u64 = 64 << 20;
/// Bytes of each write that fills the disk beforehand.
const FILL_BYTES: u32 = 1 << 20;
/// A request that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Random reads, one at a time, as a contender.
#[derive(Debug)]
pub(crate) struct DiskRead {
    /// Where the two nodes run.
    pub(crate) cores: CorePair,
    /// Length of a turn.
    pub(crate) budget: Budget,
    /// How they are wired.
    pub(crate) layout: Layout,
    /// Bytes of each read, whole blocks.
    pub(crate) bytes: u32,
}

impl Contender for DiskRead {
    fn name(&self) -> String {
        format!("netdisk library, {}", self.layout.carrier.word())
    }

    fn measure(&mut self) -> Result<Measured> {
        let mut reader = Reader::connect(self.layout, self.cores, DISK_BYTES)?;
        reader.fill()?;
        let mut places = Places::of(self.bytes, DISK_BYTES);
        let run = closed_loop(&mut MonotonicClock::start(), &self.budget, 1, || -> Result<()> {
            let offset = places.next_offset();
            let read = reader.request(Operation::Read, ByteRange::new(offset, self.bytes), None)?;
            let head = read.as_ref().and_then(|data| data.as_ref().first().copied());
            ensure!(head == Some(fill_byte(offset)), "the read at {offset} brought {head:?}");
            Ok(())
        })?;
        Ok(Measured::latency_of(run))
    }
}

/// What the disk holds at an offset; differs between the parts that were written at once.
fn fill_byte(offset: u64) -> u8 {
    (offset / u64::from(FILL_BYTES)) as u8 | 0x80
}

/// The measuring node, and its master in a process of its own.
pub(super) struct Reader {
    node: Endpoint<BlockEngine>,
    disk_bytes: u64,
    _pinned: Pinned,
    _worker: Worker,
}

impl Reader {
    pub(super) fn connect(layout: Layout, cores: CorePair, disk_bytes: u64) -> Result<Self> {
        let wiring = Wiring::choose(layout)?;
        // The lower id listens, so this node is there before the master dials.
        let mut node = wiring.endpoint(STATION, BlockEngine::new(STATION, Incarnation(1)))?;
        let master = DiskMaster { wiring: wiring.clone(), core: cores.worker, disk_bytes };
        let mut worker = wiring.start_worker(&Role::NetdiskDiskMaster(master))?;
        let _ready: String = worker.hear()?;
        map(&mut node, disk_bytes)?;
        Ok(Self { node, disk_bytes, _pinned: Pinned::to(cores.ours)?, _worker: worker })
    }

    /// Writes every block once, so that no read is answered from a hole.
    pub(super) fn fill(&mut self) -> Result<()> {
        for offset in (0..self.disk_bytes).step_by(FILL_BYTES as usize) {
            let data = WriteData::Caller(Arc::new(vec![fill_byte(offset); FILL_BYTES as usize]));
            self.request(Operation::Write, ByteRange::new(offset, FILL_BYTES), Some(data))?;
        }
        Ok(())
    }

    /// Runs one request to its end.
    fn request(
        &mut self,
        operation: Operation,
        range: ByteRange,
        data: Option<WriteData>,
    ) -> Result<Option<ReadData>> {
        let (core, engine) = self.node.parts();
        let io = BlockIo { volume: VOLUME, operation, flags: RequestFlags::NONE, range, data, tag: 0 };
        engine.submit(core, io).map_err(|refused| anyhow!("the request was refused: {:?}", refused.why))?;
        self.next_completion()?.result.map_err(|errno| anyhow!("the request failed: {errno:?}"))
    }

    /// The measuring node.
    pub(super) fn node(&mut self) -> &mut Endpoint<BlockEngine> {
        &mut self.node
    }

    /// Drives the node until a request ends.
    pub(super) fn next_completion(&mut self) -> Result<BlockCompletion> {
        // By the node's own clock, which each round has read at no further cost.
        let stuck_at = self.node.core().now() + PATIENCE;
        loop {
            if let Some(done) = self.node.clients().next_completion() {
                return Ok(done);
            }
            round(&mut self.node)?;
            if self.node.core().now() > stuck_at {
                bail!("the request is stuck for {} s", PATIENCE.as_secs());
            }
        }
    }
}

/// Random places of whole reads on the disk; always the same sequence.
pub(super) struct Places {
    state: u64,
    bytes: u64,
    disk_bytes: u64,
}

impl Places {
    pub(super) fn of(bytes: u32, disk_bytes: u64) -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, bytes: u64::from(bytes), disk_bytes }
    }

    /// Marsaglia's xorshift: no place comes twice before all have come, roughly.
    pub(super) fn next_offset(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % (self.disk_bytes / self.bytes) * self.bytes
    }
}
