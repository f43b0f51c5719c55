//! Volumes on other virtual disks in line with the rows, and what this node, serving a mirror, has to say of
//! its legs.

use crate::consensus::Asker;
use crate::node::Node;
use blockdev_engine::{Below, BlockEngine};
use blockdev_proto::assembly::AssemblyLayout;
use blockdev_proto::geometry::{DiskId, VolumeId};
use blockdev_proto::mirror::{LEGS_MAX, Layout, Leg, LegCause, Proposal};
use control_proto::ccd::{Change, Database, Expect, MirrorChange, RowKey};
use control_proto::rows::{ClusterRows, StaleReason, VolumeRow};
use transport_endpoint::Core;
use transport_proto::identity::NodeId;

/// The mirror of a row as the engine knows it; `None` if its virtual disk is not there.
fn layout_of(database: &Database, row: &VolumeRow) -> Option<Layout> {
    let whole = database.rows().virtual_disk(row.volume)?;
    let mirror = row.mirror()?;
    let mut legs = [None; LEGS_MAX];
    for (place, leg) in legs.iter_mut().zip(&mirror.legs) {
        *place = Some(Leg { volume: leg.volume, identity: leg.identity, state: leg.state });
    }
    Some(Layout {
        volume: row.volume,
        size_bytes: whole.size_bytes,
        block_bytes: whole.block_bytes,
        instance: mirror.instance,
        generation: database.revision(&RowKey::Volume(row.volume)),
        fresh: mirror.fresh,
        legs,
    })
}

/// The concatenation or stripe of a row as the engine knows it; `None` if it is none.
fn assembly_of(rows: &ClusterRows, row: &VolumeRow) -> Option<AssemblyLayout> {
    let arrangement = rows.arrangement(row)?.ok()?;
    Some(AssemblyLayout { volume: row.volume, arrangement, parts: row.parts().collect() })
}

/// Tells the engine of the volumes that this node may serve. Comes before the mappings by the same rows.
pub(crate) fn follow(engine: &mut BlockEngine, core: &mut Core, database: &Database, node: NodeId) {
    let rows = database.rows();
    let serves = |row: &&VolumeRow| {
        let whole = rows.virtual_disk(row.volume);
        whole.is_some_and(|whole| whole.candidates.contains(&(node, DiskId::PARTS)))
    };
    let below = |row: &VolumeRow| Below {
        volume: row.volume,
        parts: row.parts().collect(),
        are_copies: row.mirror().is_some(),
    };
    engine.set_below(rows.volumes.iter().map(below).collect());
    let mine: Vec<&VolumeRow> = rows.volumes.iter().filter(serves).collect();
    let gone = engine.hosted().filter(|known| mine.iter().all(|row| row.volume != *known));
    for volume in gone.collect::<Vec<VolumeId>>() {
        engine.remove_hosted(core, volume);
    }
    for row in mine {
        if let Some(layout) = layout_of(database, row) {
            engine.set_mirror(core, &layout);
        }
        if let Some(layout) = assembly_of(rows, row) {
            engine.set_assembly(core, &layout);
        }
    }
}

fn said(proposal: Proposal) -> MirrorChange {
    match proposal {
        Proposal::Stale { leg, cause } => {
            let why = match cause {
                LegCause::Unreachable => StaleReason::Unreachable,
                LegCause::Error(_) => StaleReason::Failed,
                LegCause::Lost(_) => StaleReason::Lost,
                LegCause::Operator => StaleReason::Operator,
            };
            MirrorChange::Stale { leg, why }
        }
        Proposal::InSync { leg } => MirrorChange::InSync { leg },
        Proposal::Formatted => MirrorChange::Formatted,
    }
}

impl Node {
    /// Proposes what a mirror here wants said of it. What comes to nothing, it asks for again.
    pub(crate) fn speak_for_mirror(&mut self, volume: VolumeId, generation: u64, proposal: Proposal) {
        let by = self.me();
        let expect = vec![Expect::Row { key: RowKey::Volume(volume), revision: generation }];
        let change = said(proposal);
        let asker = Asker::Mirror(volume);
        let clients = self.station.endpoint.clients();
        let Some(consensus) = clients.consensus.as_mut().filter(|log| !log.has_open(asker)) else { return };
        tracing::info!(volume = volume.0, "mirror: {change}");
        if consensus.propose(asker, expect, Change::Mirror { volume, by, change }).is_err() {
            tracing::warn!(volume = volume.0, "the log takes nothing now; asked again");
        }
    }
}
