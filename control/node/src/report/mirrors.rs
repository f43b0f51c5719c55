//! What `status` tells of mirrors: each leg, and how far the copying is, as far as this node knows.

use blockdev_engine::BlockEngine;
use blockdev_proto::mirror::{LegState, LegStatus, MirrorStatus, Standing};
use control_proto::rows::{ClusterRows, LegRow, Shape, VolumeRow};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A mirror.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mirror {
    /// Its virtual disk.
    pub name: String,
    /// Whether it is open at this node: only then are the bytes below known.
    pub here: bool,
    /// Bytes whose copies may differ, or were written a moment ago.
    pub marked_bytes: u64,
    /// Bytes that stale legs may lack.
    pub behind_bytes: u64,
    /// Bytes still to be copied in the pass that runs now.
    pub to_copy_bytes: u64,
    /// Bytes copied since this node opened it.
    pub copied_bytes: u64,
    /// Its copies.
    pub legs: Vec<Leg>,
}

/// A copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Leg {
    /// The virtual disk that it lies on.
    pub name: String,
    /// `in sync`, `failing`, `stale` or `copying`.
    pub state: String,
    /// Whether some node serves it; known where the mirror is open.
    pub reachable: Option<bool>,
    /// What is wrong with it.
    pub why: Option<String>,
}

pub(super) fn mirrors(rows: &ClusterRows, engine: &BlockEngine) -> Vec<Mirror> {
    rows.volumes.iter().map(|row| mirror(rows, row, engine.mirror_status(row.volume))).collect()
}

fn mirror(rows: &ClusterRows, row: &VolumeRow, seen: Option<MirrorStatus>) -> Mirror {
    let Shape::Mirror(shape) = &row.shape;
    let seen = seen.filter(|status| status.is_open);
    let region_bytes = seen.as_ref().map_or(0, |status| u64::from(status.region_bytes));
    let size = rows.virtual_disk(row.volume).map_or(0, |whole| whole.size_bytes);
    let bytes = |regions: fn(&MirrorStatus) -> u64| {
        seen.as_ref().map_or(0, |status| (regions(status) * region_bytes).min(size))
    };
    let of = |leg: &LegRow| seen.as_ref()?.legs.iter().find(|one| one.volume == leg.volume).copied();
    Mirror {
        name: super::volume_name(rows, row.volume),
        here: seen.is_some(),
        marked_bytes: bytes(|status| status.marked),
        behind_bytes: bytes(|status| status.behind),
        to_copy_bytes: bytes(|status| status.to_copy),
        copied_bytes: seen.as_ref().map_or(0, |status| status.copied_bytes),
        legs: shape.legs.iter().map(|row| leg(rows, row, of(row))).collect(),
    }
}

fn leg(rows: &ClusterRows, row: &LegRow, seen: Option<LegStatus>) -> Leg {
    let state = match (row.state, seen.map(|seen| seen.standing)) {
        (_, Some(Standing::Failing)) => "failing",
        (LegState::InSync, _) => "in sync",
        (LegState::Stale, Some(Standing::Syncing)) => "copying",
        (LegState::Stale, _) => "stale",
    };
    let cause = seen.and_then(|seen| seen.cause).map(|cause| cause.to_string());
    let why = cause.or_else(|| (row.state == LegState::Stale).then(|| row.why.to_string()));
    Leg {
        name: super::volume_name(rows, row.volume),
        state: state.into(),
        reachable: seen.map(|seen| seen.reachable),
        why,
    }
}

pub(super) fn render(mirrors: &[Mirror], out: &mut String) -> std::fmt::Result {
    for mirror in mirrors {
        let legs: Vec<String> = mirror
            .legs
            .iter()
            .map(|leg| match &leg.why {
                Some(why) => format!("{} {} ({why})", leg.name, leg.state),
                None => format!("{} {}", leg.name, leg.state),
            })
            .collect();
        write!(out, "mirror {}: {}", mirror.name, legs.join(", "))?;
        if mirror.to_copy_bytes > 0 {
            write!(out, ", {} MiB to copy", mirror.to_copy_bytes.div_ceil(1 << 20))?;
        }
        writeln!(out)?;
    }
    Ok(())
}
