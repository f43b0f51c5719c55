//! Which free regions a new volume is lent on. Copies lie on as many nodes as there are copies.

use super::{Form, LOAN_BLOCK, RegionId, RegionRow, SPLIT_CHUNK_BYTES};
use crate::rows::ClusterRows;
use alloc::vec::Vec;
use blockdev_proto::assembly::PARTS_MAX;
use blockdev_proto::mirror::leg_bytes;
use core::fmt;
use transport_proto::identity::NodeId;

/// A volume that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How it is to lie on regions.
    pub form: Form,
    /// Its bytes, in whole blocks.
    pub size_bytes: u64,
    /// How many copies, or parts in turns; 1 for any other form.
    pub count: usize,
    /// Nodes that it is not to lie on.
    pub avoid: Vec<NodeId>,
}

/// Why no volume can be lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// For regions of this form.
    pub form: Form,
    /// Regions that would have been needed, each on a node of its own if these are copies.
    pub count: usize,
    /// Bytes that each of them needs; of a concatenation, all of them together.
    pub each_bytes: u64,
    /// Free regions of that form, and nodes that have one.
    pub free: (usize, usize),
    /// Regions that are being erased and will be free.
    pub erasing: usize,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoRoom { form, count, each_bytes, free: (regions, nodes), erasing } = self;
        match form {
            Form::Concatenated => write!(f, "regions of {each_bytes} bytes together are needed")?,
            Form::Mirrored => {
                write!(f, "{count} regions of {each_bytes} bytes on different nodes are needed")?
            }
            Form::Single | Form::Split => write!(f, "{count} regions of {each_bytes} bytes are needed")?,
        }
        write!(
            f,
            ", and what is free for form {form} ({regions} regions on {nodes} nodes) does not suffice"
        )?;
        if *erasing > 0 {
            write!(f, "; {erasing} regions are being erased: try again when they are free, or")?;
        } else {
            write!(f, ":")?;
        }
        write!(
            f,
            " add one (netdisk pool add), or let a free one be used so (netdisk pool form REGION {form})"
        )
    }
}

impl core::error::Error for NoRoom {}

/// Bytes that one region needs for its share.
pub(crate) fn share_bytes(form: Form, size_bytes: u64, count: usize) -> u64 {
    let block = u64::from(LOAN_BLOCK.get());
    match form {
        Form::Single | Form::Concatenated => size_bytes,
        Form::Mirrored => {
            let needed = leg_bytes(size_bytes).and_then(|bytes| bytes.checked_next_multiple_of(block));
            needed.unwrap_or(u64::MAX)
        }
        Form::Split => {
            let share = size_bytes.div_ceil(count.max(1) as u64);
            share.checked_next_multiple_of(u64::from(SPLIT_CHUNK_BYTES)).unwrap_or(u64::MAX)
        }
    }
}

/// Chooses regions: the smallest that suffice, on nodes that lend least so far. The same on every node.
///
/// # Errors
/// [`NoRoom`]; free regions of the form do not suffice.
pub fn place(rows: &ClusterRows, wanted: &Wanted) -> Result<Vec<RegionId>, NoRoom> {
    let fits_form = |row: &&RegionRow| row.form == wanted.form && !wanted.avoid.contains(&row.lender);
    let of_form: Vec<&RegionRow> = rows.regions.iter().filter(fits_form).collect();
    let mut free: Vec<&RegionRow> = of_form.iter().copied().filter(|row| row.is_free()).collect();
    let count = if wanted.form == Form::Single { 1 } else { wanted.count };
    let each_bytes = share_bytes(wanted.form, wanted.size_bytes, count);
    let mut lenders: Vec<NodeId> = free.iter().map(|row| row.lender).collect();
    lenders.dedup();
    lenders.sort();
    lenders.dedup();
    let erasing = of_form.iter().filter(|row| row.state == super::RegionState::Erasing && !row.drained);
    let no_room = NoRoom {
        form: wanted.form,
        count,
        each_bytes,
        free: (free.len(), lenders.len()),
        erasing: erasing.count(),
    };
    let chosen = match wanted.form {
        Form::Concatenated => concatenated(&mut free, each_bytes),
        Form::Single | Form::Mirrored | Form::Split => spread(rows, free, wanted.form, count, each_bytes),
    };
    chosen.ok_or(no_room)
}

/// The largest first, so that few are needed; the last is the smallest that closes the gap.
fn concatenated(free: &mut Vec<&RegionRow>, bytes: u64) -> Option<Vec<RegionId>> {
    free.sort_by_key(|row| (core::cmp::Reverse(row.size_bytes()), row.id));
    let (mut chosen, mut extents, mut found) = (Vec::new(), 0, 0u64);
    while found < bytes {
        let missing = bytes - found;
        let enough = free.iter().rposition(|row| row.size_bytes() >= missing).unwrap_or(0);
        if free.is_empty() {
            return None;
        }
        let row = free.remove(enough);
        extents += row.extents.len();
        found = found.saturating_add(row.size_bytes());
        chosen.push(row.id);
    }
    (extents <= PARTS_MAX).then_some(chosen)
}

fn spread(
    rows: &ClusterRows,
    mut free: Vec<&RegionRow>,
    form: Form,
    count: usize,
    bytes: u64,
) -> Option<Vec<RegionId>> {
    free.retain(|row| row.size_bytes() >= bytes);
    let lends =
        |node: NodeId| rows.regions.iter().filter(|row| row.lender == node && row.loan().is_some()).count();
    let mut chosen: Vec<&RegionRow> = Vec::new();
    while chosen.len() < count {
        let used = |row: &RegionRow| chosen.iter().filter(|other| other.lender == row.lender).count();
        let best = free.iter().enumerate().filter(|(_, row)| form != Form::Mirrored || used(row) == 0);
        let best = best.min_by_key(|(_, row)| (used(row), row.size_bytes(), lends(row.lender), row.id));
        let place = best.map(|(place, _)| place)?;
        chosen.push(free.remove(place));
    }
    Some(chosen.into_iter().map(|row| row.id).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{Extent, RegionState};
    use super::*;
    use alloc::format;
    use alloc::string::ToString;
    use blockdev_proto::geometry::DiskId;

    fn region(id: u32, node: u16, mib: u64, form: Form) -> RegionRow {
        RegionRow {
            id: RegionId(id),
            name: format!("r{id}"),
            lender: NodeId(node),
            extents: Vec::from([Extent { disk: DiskId(id), size_bytes: mib << 20 }]),
            form,
            drained: false,
            state: RegionState::Free,
        }
    }

    fn rows(regions: &[RegionRow]) -> ClusterRows {
        ClusterRows { regions: regions.to_vec(), ..ClusterRows::empty("c") }
    }

    fn wanted(form: Form, mib: u64, count: usize) -> Wanted {
        Wanted { form, size_bytes: mib << 20, count, avoid: Vec::new() }
    }

    fn ids(rows: &ClusterRows, wanted: &Wanted) -> Result<Vec<u32>, NoRoom> {
        place(rows, wanted).map(|chosen| chosen.into_iter().map(|id| id.0).collect())
    }

    // proves: M3
    #[test]
    fn copies_lie_on_different_nodes_and_a_lack_of_nodes_is_told() {
        let form = Form::Mirrored;
        let two = rows(&[region(1, 1, 9, form), region(2, 1, 9, form), region(3, 2, 9, form)]);
        assert_eq!(ids(&two, &wanted(form, 4, 2)), Ok(Vec::from([1, 3])));
        let refusal = ids(&two, &wanted(form, 4, 3)).expect_err("two nodes only").to_string();
        assert!(refusal.contains("3 regions on 2 nodes") && refusal.contains("pool form REGION mirrored"));
        let avoided = Wanted { avoid: Vec::from([NodeId(2)]), ..wanted(form, 4, 2) };
        assert!(ids(&two, &avoided).is_err());
    }

    #[test]
    fn the_smallest_region_that_suffices_is_taken_and_only_of_the_form_that_is_set() {
        let mix = rows(&[
            region(1, 1, 100, Form::Single),
            region(2, 1, 10, Form::Single),
            region(3, 1, 8, Form::Split),
        ]);
        assert_eq!(ids(&mix, &wanted(Form::Single, 8, 1)), Ok(Vec::from([2])));
        assert_eq!(ids(&mix, &wanted(Form::Single, 11, 1)), Ok(Vec::from([1])));
        assert!(ids(&mix, &wanted(Form::Single, 101, 1)).is_err());
        let drained = rows(&[RegionRow { drained: true, ..region(1, 1, 100, Form::Single) }]);
        assert!(ids(&drained, &wanted(Form::Single, 8, 1)).is_err());
        let erasing = RegionRow { state: RegionState::Erasing, ..region(1, 1, 100, Form::Single) };
        let refusal = ids(&rows(&[erasing]), &wanted(Form::Single, 8, 1)).expect_err("none is free");
        assert!(refusal.to_string().contains("being erased"));
    }

    #[test]
    fn a_concatenation_takes_few_regions_and_closes_the_gap_with_the_smallest() {
        let form = Form::Concatenated;
        let some = rows(&[region(1, 1, 4, form), region(2, 2, 16, form), region(3, 3, 8, form)]);
        assert_eq!(ids(&some, &wanted(form, 18, 1)), Ok(Vec::from([2, 1])));
        assert_eq!(ids(&some, &wanted(form, 28, 1)), Ok(Vec::from([2, 3, 1])));
        assert!(ids(&some, &wanted(form, 29, 1)).is_err());
    }
}
