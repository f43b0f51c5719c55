//! What `status` tells of volumes on other virtual disks, as far as this node knows: how each part stands and
//! why, and how far the copying of mirrors is.

use blockdev_engine::BlockEngine;
use blockdev_proto::assembly::AssemblyStatus;
use blockdev_proto::geometry::VolumeId;
use blockdev_proto::mirror::{LegState, LegStatus, MirrorStatus, Standing};
use control_proto::rows::{ClusterRows, LegRow, MirrorShape, Shape, VolumeRow};
use control_proto::view::ClusterView;
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

/// A concatenation or stripe.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assembly {
    /// Its virtual disk.
    pub name: String,
    /// `concatenation` or `stripe`.
    pub kind: String,
    /// Of a stripe.
    pub chunk_bytes: Option<u32>,
    /// Whether it is open at this node: only then is known what its parts did with requests.
    pub here: bool,
    /// What it lies on, in order.
    pub parts: Vec<Part>,
}

/// A part of a concatenation or stripe.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// The virtual disk.
    pub name: String,
    /// Requests that it has not answered.
    pub under_way: Option<u32>,
    /// The error that its last answer was.
    pub failed: Option<String>,
    /// Why requests to it wait, if they do.
    pub down: Option<String>,
}

pub(super) fn mirrors(rows: &ClusterRows, engine: &BlockEngine) -> Vec<Mirror> {
    let of = |row: &VolumeRow| {
        let shape = row.mirror()?;
        Some(mirror(rows, row.volume, shape, engine.mirror_status(row.volume)))
    };
    rows.volumes.iter().filter_map(of).collect()
}

pub(super) fn assemblies(rows: &ClusterRows, view: &ClusterView, engine: &BlockEngine) -> Vec<Assembly> {
    let of = |row: &VolumeRow| {
        let (kind, chunk_bytes) = match &row.shape {
            Shape::Mirror(_) => return None,
            Shape::Concatenation(_) => ("concatenation", None),
            Shape::Stripe(stripe) => ("stripe", Some(stripe.chunk_bytes)),
        };
        let seen = engine.assembly_status(row.volume).filter(|status| status.is_open);
        let part = |volume: VolumeId| {
            let of =
                |status: &AssemblyStatus| status.parts.iter().find(|part| part.volume == volume).copied();
            let seen = seen.as_ref().and_then(of);
            Part {
                name: super::volume_name(rows, volume),
                under_way: seen.map(|part| part.under_way),
                failed: seen.and_then(|part| part.failed).map(|errno| errno.to_string()),
                down: cause_of_silence(rows, view, volume),
            }
        };
        Some(Assembly {
            name: super::volume_name(rows, row.volume),
            kind: kind.into(),
            chunk_bytes,
            here: seen.is_some(),
            parts: row.parts().map(part).collect(),
        })
    };
    rows.volumes.iter().filter_map(of).collect()
}

/// Why requests to a virtual disk wait, by what the configuration says; `None` if they do not have to.
fn cause_of_silence(rows: &ClusterRows, view: &ClusterView, volume: VolumeId) -> Option<String> {
    if view.serving(volume).is_none() {
        let row = rows.virtual_disk(volume)?;
        let nodes: Vec<String> = row.candidates.iter().map(|(node, _)| rows.node_name(*node)).collect();
        return Some(format!("no node serves it, start {}", nodes.join(" or ")));
    }
    let row = rows.volume(volume)?;
    let cause = |part: VolumeId| {
        let cause = cause_of_silence(rows, view, part)?;
        Some(format!("its part {} waits: {cause}", super::volume_name(rows, part)))
    };
    match row.mirror() {
        Some(mirror) => {
            let causes: Option<Vec<String>> = mirror.in_sync().map(|leg| cause(leg.volume)).collect();
            causes?.into_iter().next()
        }
        None => row.parts().find_map(cause),
    }
}

fn mirror(rows: &ClusterRows, volume: VolumeId, shape: &MirrorShape, seen: Option<MirrorStatus>) -> Mirror {
    let seen = seen.filter(|status| status.is_open);
    let region_bytes = seen.as_ref().map_or(0, |status| u64::from(status.region_bytes));
    let size = rows.virtual_disk(volume).map_or(0, |whole| whole.size_bytes);
    let bytes = |regions: fn(&MirrorStatus) -> u64| {
        seen.as_ref().map_or(0, |status| (regions(status) * region_bytes).min(size))
    };
    let of = |leg: &LegRow| seen.as_ref()?.legs.iter().find(|one| one.volume == leg.volume).copied();
    Mirror {
        name: super::volume_name(rows, volume),
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

pub(super) fn render(mirrors: &[Mirror], assemblies: &[Assembly], out: &mut String) -> std::fmt::Result {
    for assembly in assemblies {
        let part = |part: &Part| match (&part.down, &part.failed) {
            (Some(why), _) => format!("{} waits ({why})", part.name),
            (None, Some(errno)) => format!("{} failed ({errno})", part.name),
            (None, None) => part.name.clone(),
        };
        let parts: Vec<String> = assembly.parts.iter().map(part).collect();
        writeln!(out, "{} {}: {}", assembly.kind, assembly.name, parts.join(", "))?;
    }
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
