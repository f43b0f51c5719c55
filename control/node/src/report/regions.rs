//! What `status` tells of the regions that this node lends.

use crate::pool::Eraser;
use control_proto::pool::RegionState;
use control_proto::rows::ClusterRows;
use serde::{Deserialize, Serialize};
use transport_proto::identity::NodeId;

/// A region that is not erased yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Bytes of it that are zero by now, while its turn is.
    pub erased_bytes: Option<u64>,
    /// Why its erase does not go on.
    pub fault: Option<String>,
}

pub(super) fn regions(rows: &ClusterRows, node: NodeId, eraser: &Eraser) -> Vec<Region> {
    let mine = rows.regions.iter().filter(|row| row.lender == node && row.state == RegionState::Erasing);
    let one = |row: &control_proto::pool::RegionRow| {
        let (erased_bytes, fault) = eraser.progress(row.id);
        Region { name: row.name.clone(), erased_bytes, fault: fault.map(str::to_owned) }
    };
    mine.map(one).collect()
}
