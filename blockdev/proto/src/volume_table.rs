//! Rows by volume number, found with one load: what driver and master keep for each volume.

use crate::geometry::{VOLUMES_MAX, VolumeId};
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

const NONE: u32 = u32::MAX;

/// A row for each volume that was entered, at an index that stays until it leaves.
pub(crate) struct VolumeTable<Row> {
    index: Vec<u32>,
    rows: Vec<Row>,
    /// Places of rows whose volumes have left; the rows are still there and mean nothing.
    vacant: Vec<u32>,
}

impl<Row> VolumeTable<Row> {
    /// A table without rows.
    pub(crate) const fn new() -> VolumeTable<Row> {
        VolumeTable { index: Vec::new(), rows: Vec::new(), vacant: Vec::new() }
    }

    /// Index of the volume's row.
    #[inline]
    pub(crate) fn find(&self, volume: VolumeId) -> Option<usize> {
        match self.index.get(volume.0 as usize) {
            Some(&index) if index != NONE => Some(index as usize),
            _ => None,
        }
    }

    /// Enters a row for a volume that has none. The volume's number must be below [`VOLUMES_MAX`].
    pub(crate) fn enter(&mut self, volume: VolumeId, row: Row) -> usize {
        let number = volume.0 as usize;
        assert!(number < VOLUMES_MAX && self.find(volume).is_none(), "{volume} cannot be entered");
        if self.index.len() <= number {
            self.index.resize(number + 1, NONE);
        }
        let place = match self.vacant.pop() {
            Some(place) => {
                self.rows[place as usize] = row;
                place
            }
            None => {
                self.rows.push(row);
                self.rows.len() as u32 - 1
            }
        };
        self.index[number] = place;
        place as usize
    }

    /// Takes a volume's row out and leaves `empty`, a row that wants nothing, in its place.
    pub(crate) fn leave(&mut self, volume: VolumeId, empty: Row) {
        let Some(place) = self.find(volume) else { return };
        self.index[volume.0 as usize] = NONE;
        self.rows[place] = empty;
        self.vacant.push(place as u32);
    }

    /// Number of rows, empty ones included; indices are below.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }
}

impl<Row> Index<usize> for VolumeTable<Row> {
    type Output = Row;
    #[inline]
    fn index(&self, index: usize) -> &Row {
        &self.rows[index]
    }
}

impl<Row> IndexMut<usize> for VolumeTable<Row> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut Row {
        &mut self.rows[index]
    }
}
