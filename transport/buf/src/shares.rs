//! Who holds the chunks of a slab: a reserve for each holder, and what lies beyond the reserves for all
//! (SPEC T2). A holder that gives nothing back runs into its limit while the others' reserves are untouched.

use crate::slab::{CLASSES_MAX, SlabLayout};

/// Holders that a slab tells apart.
pub const HOLDERS_MAX: usize = 8;
/// Holder of a chunk that counts for none.
const NOBODY: u8 = u8::MAX;
/// One part in so many of each class is kept in reserve, shared out evenly.
const RESERVED_PART: u32 = 2;

/// The account of one slab.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    layout: SlabLayout,
    /// Bit per holder that has a reserve.
    holders: u32,
    /// Holder by chunk.
    holder_of: Vec<u8>,
    held: [[u32; CLASSES_MAX]; HOLDERS_MAX],
    free: [u32; CLASSES_MAX],
    reserve: [u32; CLASSES_MAX],
}

impl Shares {
    /// An account that begins with these free chunks; the others count for nobody.
    pub(crate) fn new(layout: &SlabLayout, is_free: impl Fn(u32) -> bool) -> Shares {
        let chunks = layout.chunks() as u32;
        let mut shares = Shares {
            layout: *layout,
            holders: 0,
            holder_of: vec![NOBODY; layout.chunks()],
            held: [[0; CLASSES_MAX]; HOLDERS_MAX],
            free: [0; CLASSES_MAX],
            reserve: [0; CLASSES_MAX],
        };
        for index in (0..chunks).filter(|index| is_free(*index)) {
            shares.free[shares.class_of(index)] += 1;
        }
        shares
    }

    /// Shares the reserves out among these holders, one bit each.
    pub(crate) fn share_among(&mut self, holders: u32) {
        self.holders = holders;
        let sharers = holders.count_ones().max(1);
        for (reserve, (_, count)) in self.reserve.iter_mut().zip(self.layout.classes) {
            // A class with fewer chunks than sharers has none to promise.
            let least = u32::from(count >= sharers);
            *reserve = (count / RESERVED_PART / sharers).max(least);
        }
    }

    fn class_of(&self, index: u32) -> usize {
        let mut first = 0;
        let ends = self.layout.classes.iter().map(|(_, count)| {
            first += count;
            first
        });
        ends.take_while(|end| *end <= index).count()
    }

    /// Chunks of a class that are kept for others than this holder.
    fn kept_for_others(&self, holder: usize, class: usize) -> u32 {
        let others = (0..HOLDERS_MAX).filter(|other| *other != holder && self.holders & (1 << other) != 0);
        others.map(|other| self.reserve[class].saturating_sub(self.held[other][class])).sum()
    }

    /// Whether the holder may take a free chunk of this class.
    pub(crate) fn may_take(&self, holder: usize, class: usize) -> bool {
        let own = self.holders & (1 << holder) != 0 && self.held[holder][class] < self.reserve[class];
        self.free[class] > 0 && (own || self.free[class] > self.kept_for_others(holder, class))
    }

    /// Whether the holder has at most half of what it could have now, of every class.
    pub(crate) fn is_half_empty(&self, holder: usize) -> bool {
        (0..CLASSES_MAX).all(|class| {
            let held = self.held[holder][class];
            let may_have = (held + self.free[class]).saturating_sub(self.kept_for_others(holder, class));
            held == 0 || 2 * held <= may_have
        })
    }

    /// A free chunk is this holder's now, or nobody's.
    pub(crate) fn taken(&mut self, index: u32, holder: Option<usize>) {
        let class = self.class_of(index);
        self.free[class] -= 1;
        if let Some(holder) = holder {
            self.held[holder][class] += 1;
            self.holder_of[index as usize] = holder as u8;
        }
    }

    /// It has come back.
    pub(crate) fn returned(&mut self, index: u32) {
        let class = self.class_of(index);
        self.free[class] += 1;
        let holder = core::mem::replace(&mut self.holder_of[index as usize], NOBODY);
        if holder != NOBODY {
            self.held[usize::from(holder)][class] -= 1;
        }
    }
}
