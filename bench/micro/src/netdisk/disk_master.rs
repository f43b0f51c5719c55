//! The worker's block engine: master of a memory disk that the measuring process reads from afar.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bench_harness::{CoreId, Pinned, tell_parent};
use blockdev_engine::BlockEngine;
use blockdev_proto::geometry::{BlockBytes, DiskId, VolumeId};
use blockdev_proto::mapping::{CANDIDATES_MAX, Candidate, Mapping};
use blockdev_store::{AnyBacking, MemoryDisk};
use serde::{Deserialize, Serialize};
use transport_endpoint::{Endpoint, FIRST_FREE_TOKEN};
use transport_proto::identity::Incarnation;

use super::wiring::{FIRST_EPOCH, MEMBERS, PARTNER, Wiring};

/// The only virtual disk.
pub(crate) const VOLUME: VolumeId = VolumeId(0);
const DISK: DiskId = DiskId(1);
/// Longest sleep of the loop.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// The worker's end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DiskMaster {
    /// Where both nodes meet.
    pub(crate) wiring: Wiring,
    /// Where this one runs.
    pub(crate) core: CoreId,
    /// Size of the disk.
    pub(crate) disk_bytes: u64,
}

impl DiskMaster {
    /// Serves until the parent ends it.
    ///
    /// # Errors
    /// The node cannot start, or its event queue fails.
    pub(crate) fn serve(self) -> Result<()> {
        let mut node = self.wiring.endpoint(PARTNER, BlockEngine::new(PARTNER, Incarnation(1)))?;
        let registry = node.registry().try_clone()?;
        let backing = AnyBacking::Memory(MemoryDisk::new(self.disk_bytes, BlockBytes::USUAL.get())?);
        let token = mio::Token(FIRST_FREE_TOKEN);
        node.clients().attach_disk(&registry, token, DISK, VOLUME, backing).context("attaching the disk")?;
        map(&mut node, self.disk_bytes)?;
        let _pinned = Pinned::to(self.core)?;
        tell_parent(&"ready")?;
        loop {
            round(&mut node)?;
        }
    }
}

/// Tells a node's engine who its peers are and who serves the disk.
///
/// # Errors
/// The row is refused: a bug of this bench.
pub(crate) fn map(node: &mut Endpoint<BlockEngine>, disk_bytes: u64) -> Result<()> {
    let mut candidates = [None; CANDIDATES_MAX];
    candidates[0] = Some(Candidate { node: PARTNER, disk: DISK, path_broken: false });
    let mapping = Mapping {
        volume: VOLUME,
        epoch: FIRST_EPOCH,
        candidates,
        serving: Some(PARTNER),
        size_bytes: disk_bytes,
        block_bytes: BlockBytes::USUAL,
        read_only: false,
        suspended: false,
    };
    let (core, engine) = node.parts();
    engine.members(&MEMBERS.map(|node| (node, Incarnation(1))));
    engine.mapping(core, &mapping).map_err(|fault| anyhow!("the mapping is refused: {fault:?}"))?;
    engine.open(core, VOLUME);
    Ok(())
}

/// One round of a node that does nothing else: transport, engine, and the wait between.
///
/// # Errors
/// The event queue fails.
pub(crate) fn round(node: &mut Endpoint<BlockEngine>) -> Result<()> {
    let found = node.poll();
    let (core, engine) = node.parts();
    // Nobody here acts on news, and untold ones would keep the engine awake.
    while engine.next_event().is_some() {}
    if found + engine.poll(core) > 0 {
        node.worked();
        return Ok(node.look(|_, _, _| ())?);
    }
    // By the clock of the round: reading another for each turn of a spin would show.
    let now = node.core().now();
    let due = node.clients().next_deadline(now).since(now);
    Ok(node.rest(BlockEngine::arm, due.min(SLEEP_MAX), |_, _, _| ())?)
}
