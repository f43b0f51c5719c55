//! Concatenations and stripes: how they are made, what is added to them, and what is said of them.

use super::super::bytes;
use super::super::vdisk::block_size;
use super::{Attach, Create, maker, primaries};
use crate::change::{Plan, find};
use anyhow::{bail, ensure};
use blockdev_proto::assembly::{Arrangement, ArrangementFault, CHUNK_BYTES_USUAL, PARTS_MAX};
use blockdev_proto::geometry::{BlockBytes, DiskId, VolumeId};
use control_node::config::size_text;
use control_node::report::Assembly;
use control_proto::ccd::{Database, Row, RowChange};
use control_proto::rows::{Shape, StripeShape, VirtualDiskRow, VolumeRow};

/// A sentence for what the rules would refuse as well, about parts that have no row yet to be named by.
fn said(fault: ArrangementFault, parts: &[&VirtualDiskRow]) -> anyhow::Error {
    match fault {
        ArrangementFault::PartCount { found } => anyhow::anyhow!(
            "{found} parts: a concatenation has 1 to {PARTS_MAX}, a stripe 2 to {PARTS_MAX}: name others"
        ),
        ArrangementFault::Chunk { found } => anyhow::anyhow!(
            "a chunk of {} will not do: use a power of two from 4KiB to 64MiB, not less than a block",
            size_text(u64::from(found))
        ),
        ArrangementFault::PartTooSmall { place } => {
            let part = parts.get(place).map_or("a part", |part| part.name.as_str());
            anyhow::anyhow!("{part} has no room for one block or chunk: take a larger one")
        }
        ArrangementFault::TooLarge => anyhow::anyhow!("the parts together are too large: take fewer"),
    }
}

fn shape(new: &Create, parts: &[&VirtualDiskRow], block: BlockBytes) -> anyhow::Result<(Shape, Arrangement)> {
    let sizes: Vec<u64> = parts.iter().map(|part| part.size_bytes).collect();
    let ids: Vec<VolumeId> = parts.iter().map(|part| part.id).collect();
    let made = match new.stripe.is_empty() {
        true => {
            ensure!(new.chunk.is_none(), "--chunk is for a stripe: leave it out");
            (Shape::Concatenation(ids), Arrangement::concatenation(&sizes, block))
        }
        false => {
            let chunk = new.chunk.as_deref().map_or(Ok(u64::from(CHUNK_BYTES_USUAL)), bytes)?;
            let chunk_bytes = u32::try_from(chunk).unwrap_or(u32::MAX);
            let shape = Shape::Stripe(StripeShape { chunk_bytes, parts: ids });
            (shape, Arrangement::stripe(&sizes, chunk_bytes, block))
        }
    };
    let arrangement = made.1.map_err(|fault| said(fault, parts))?;
    Ok((made.0, arrangement))
}

pub(super) fn plan_create(database: &Database, new: &Create) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let named = if new.stripe.is_empty() { &new.concat } else { &new.stripe };
    let parts: Vec<&VirtualDiskRow> =
        named.iter().map(|part| find::virtual_disk(rows, part)).collect::<anyhow::Result<_>>()?;
    let block_bytes = block_size(&new.block_size)?;
    let (shape, arrangement) = shape(new, &parts, block_bytes)?;
    let size_bytes = new.size.as_deref().map_or(Ok(arrangement.capacity()), bytes)?;
    let nodes = match new.nodes.is_empty() {
        true => primaries(parts.iter().copied()),
        false => find::nodes(rows, &new.nodes)?,
    };
    let whole = VirtualDiskRow {
        id: maker(rows).number()?,
        name: new.name.clone(),
        candidates: nodes.iter().map(|node| (*node, DiskId::PARTS)).collect(),
        size_bytes,
        block_bytes,
        read_only: false,
        on_lost_quorum: new.on_lost_quorum.row(),
    };
    let served: Vec<String> = nodes.iter().map(|node| rows.node_name(*node)).collect();
    let done = format!(
        "volume {} is there: {} on {}, served by {}",
        whole.name,
        size_text(size_bytes),
        named.join(if new.stripe.is_empty() { " + " } else { " | " }),
        served.join(", then ")
    );
    let volume = VolumeRow { volume: whole.id, shape };
    let changes = vec![RowChange::Put(Row::Volume(volume)), RowChange::Put(Row::VirtualDisk(whole))];
    Ok(Plan::new(done, changes))
}

/// One more part at the end of a concatenation.
pub(super) fn plan_attach(
    database: &Database,
    whole: &VirtualDiskRow,
    row: &VolumeRow,
    it: &Attach,
) -> anyhow::Result<Plan> {
    let Shape::Concatenation(parts) = &row.shape else {
        bail!("{} is a stripe and keeps its parts: make another volume and copy", whole.name);
    };
    let Some(part) = &it.of else {
        bail!("say which virtual disk follows the last one of {}: --of VDISK", whole.name);
    };
    let part = find::virtual_disk(database.rows(), part)?;
    let shape = Shape::Concatenation(parts.iter().copied().chain([part.id]).collect());
    let done = format!(
        "{} lies on {} too: make it larger when you want (netdisk vdisk grow {})",
        whole.name, part.name, whole.name
    );
    let row = VolumeRow { volume: whole.id, shape };
    Ok(Plan::new(done, vec![RowChange::Put(Row::Volume(row))]))
}

/// One line that is true, with the cause and what to do when all is not well.
pub(super) fn line(seen: &Assembly, serving: Option<&str>) -> String {
    let name = &seen.name;
    let Some(serving) = serving else { return super::served_by_nobody(name) };
    let chunk = seen
        .chunk_bytes
        .map_or(String::new(), |chunk| format!(" in chunks of {}", size_text(u64::from(chunk))));
    let what = format!("{} of {} parts{chunk}, served by {serving}", seen.kind, seen.parts.len());
    let waits = seen.parts.iter().filter_map(|part| {
        let why = part.down.as_ref()?;
        let held = part.under_way.filter(|count| *count > 0);
        let held = held.map_or(String::new(), |count| format!(" ({count} do now)"));
        Some(format!("requests to {} wait{held}: {why}", part.name))
    });
    let fails = seen.parts.iter().filter_map(|part| {
        let errno = part.failed.as_ref().filter(|_| part.down.is_none())?;
        Some(format!("{} failed its last request: {errno}; look at the disk it lies on", part.name))
    });
    let (waits, fails): (Vec<String>, Vec<String>) = (waits.collect(), fails.collect());
    match (waits.is_empty(), fails.is_empty()) {
        (true, true) => format!("{name}: healthy: {what}"),
        (true, false) => format!("{name}: FAILING: {what}; {}", fails.join("; ")),
        (false, _) => format!("{name}: WAITS: {what}; {}", [waits, fails].concat().join("; ")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::super::tests::parsed;
    use super::*;
    use crate::change::sample::{after, database, refused};
    use crate::table::vdisk;
    use control_node::report::Part;

    /// The sample, with virtual disks `a` of 3 MiB and `b` of 2 MiB.
    fn with_parts() -> Database {
        let part = |db: &Database, name: &str, disk: &str, mib: u64| {
            let disk = find::disk(db.rows(), disk)?;
            let row = VirtualDiskRow {
                id: maker(db.rows()).number()?,
                name: name.into(),
                candidates: disk.ports.iter().map(|port| (port.node, disk.id)).collect(),
                size_bytes: mib << 20,
                ..db.rows().virtual_disks[0].clone()
            };
            Ok(Plan::new(String::new(), vec![RowChange::Put(Row::VirtualDisk(row))]))
        };
        let one = after(&database(), &|db| part(db, "a", "spare", 3)).unwrap();
        after(&one, &|db| part(db, "b", "quick", 2)).unwrap()
    }

    // proves: B9
    #[test]
    fn a_stripe_takes_whole_chunks_and_keeps_its_parts() {
        let new: Create = parsed(&["s", "--stripe", "a,b", "--chunk", "128K"]);
        let made = after(&with_parts(), &|db| plan_create(db, &new)).unwrap();
        let whole = made.rows().virtual_disk_named("s").unwrap();
        assert_eq!(whole.size_bytes, 4 << 20);
        assert_eq!(whole.candidates.len(), 2);
        let more: Attach = parsed(&["s", "--of", "vd0"]);
        assert!(
            refused(&made, &|db| super::super::plan_attach(db, &more, [1; 8])).contains("keeps its parts")
        );
        let odd: Create = parsed(&["s", "--stripe", "a,b", "--chunk", "96KiB"]);
        assert!(refused(&with_parts(), &|db| plan_create(db, &odd)).contains("power of two"));
        let large: Create = parsed(&["s", "--stripe", "a,b", "--size", "5MiB"]);
        assert!(refused(&with_parts(), &|db| plan_create(db, &large)).contains("do not fit"));
        let alone: Create = parsed(&["s", "--stripe", "a"]);
        assert!(refused(&with_parts(), &|db| plan_create(db, &alone)).contains("2 to"));
    }

    // proves: B9 C5
    #[test]
    fn a_concatenation_gets_one_more_part_and_those_before_the_last_keep_their_sizes() {
        let new: Create = parsed(&["c", "--concat", "b"]);
        let made = after(&with_parts(), &|db| plan_create(db, &new)).unwrap();
        let more: Attach = parsed(&["c", "--of", "a"]);
        let longer = after(&made, &|db| super::super::plan_attach(db, &more, [1; 8])).unwrap();
        let grown = after(&longer, &|db| vdisk::plan_grow(db, "c", "5MiB")).unwrap();
        assert_eq!(grown.rows().virtual_disk_named("c").unwrap().size_bytes, 5 << 20);
        assert!(refused(&longer, &|db| vdisk::plan_grow(db, "b", "3MiB")).contains("keeps its size"));
        after(&longer, &|db| vdisk::plan_grow(db, "a", "4MiB")).unwrap();
        assert!(refused(&grown, &|db| vdisk::plan_grow(db, "c", "6MiB")).contains("do not fit"));
        let again: Attach = parsed(&["c", "--of", "b"]);
        assert!(refused(&made, &|db| super::super::plan_attach(db, &again, [1; 8])).contains("twice"));
    }

    // proves: B9
    #[test]
    fn volumes_lie_on_one_another_so_high_and_never_on_themselves() {
        let lower: Create = parsed(&["low", "--concat", "a"]);
        let lower = after(&with_parts(), &|db| plan_create(db, &lower)).unwrap();
        let upper: Create = parsed(&["up", "--stripe", "low,b"]);
        let upper = after(&lower, &|db| plan_create(db, &upper)).unwrap();
        let top: Create = parsed(&["top", "--concat", "up"]);
        assert!(refused(&upper, &|db| plan_create(db, &top)).contains("3 volumes would lie on one another"));
        let round: Attach = parsed(&["low", "--of", "up"]);
        let round = refused(&upper, &|db| super::super::plan_attach(db, &round, [1; 8]));
        assert!(round.contains("lie on itself"), "{round}");
    }

    // proves: B9
    #[test]
    fn the_status_says_which_part_makes_requests_wait_and_why() {
        let part = |name: &str| Part { name: name.into(), under_way: Some(3), failed: None, down: None };
        let sound = Assembly {
            name: "s".into(),
            kind: "stripe".into(),
            chunk_bytes: Some(64 << 10),
            here: true,
            parts: vec![part("a"), part("b")],
        };
        let said = line(&sound, Some("beta"));
        assert_eq!(said, "s: healthy: stripe of 2 parts in chunks of 64KiB, served by beta");
        let mut away = sound.clone();
        away.parts[1].down = Some("no node serves it, start gamma".into());
        let said = line(&away, Some("beta"));
        assert!(said.contains("WAITS") && said.contains("b wait (3 do now): no node serves it, start gamma"));
        let mut ill = sound;
        ill.parts[0].failed = Some("input/output error (EIO)".into());
        assert!(line(&ill, Some("beta")).contains("FAILING") && line(&ill, None).contains("DOWN"));
    }
}
