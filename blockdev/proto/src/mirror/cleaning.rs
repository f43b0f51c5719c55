//! Taking regions out of the map that are equal everywhere again: not written for a while, and flushed since.

use super::layout::LEGS_MAX;
use super::legs::{LegCause, Standing};
use super::regions::RegionSet;
use super::{Mirror, MirrorAction, Payload, Phase, Purpose};
use crate::errno::BlockErrno;
use crate::geometry::ByteRange;
use crate::rules::Rules;
use crate::wire::{Operation, RequestFlags};
use alloc::vec::Vec;
use transport_proto::time::Time;

/// Regions whose legs are being flushed.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    next_at: Time,
    /// What may leave the map if the flushes go well.
    regions: Option<RegionSet>,
    left: u32,
    has_failed: bool,
}

impl<R: Rules> Mirror<R> {
    pub(super) fn clean(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        let is_idle = matches!(self.phase, Phase::Ready) && self.cleaning.regions.is_none();
        if !is_idle || self.intent.wanted.is_empty() {
            return;
        }
        if now < self.cleaning.next_at {
            return self.arm(self.cleaning.next_at);
        }
        self.cleaning.next_at = now + self.limits.clean_every;
        self.arm(self.cleaning.next_at);
        let mut regions = self.intent.wanted.clone();
        for kept in [&self.behind, &self.doubt, &self.recent] {
            regions.subtract(kept);
        }
        self.recent.clear();
        self.keep_running(&mut regions);
        if regions.is_empty() || self.places(Standing::Failing).next().is_some() {
            return;
        }
        if !R::FLUSH_BEFORE_CLEAR {
            return regions.iter().for_each(|region| self.intent.release(region));
        }
        let used = self.used_places();
        self.cleaning.regions = Some(regions);
        self.cleaning.left = used.clone().count() as u32;
        self.cleaning.has_failed = false;
        for place in used {
            let (none, range) = (RequestFlags::NONE, ByteRange::EMPTY);
            self.io(place, Purpose::CleanFlush, Operation::Flush, none, range, Payload::None, actions);
        }
    }

    /// Takes out what is being written now.
    fn keep_running(&self, regions: &mut RegionSet) {
        let bytes = self.layout.region_bytes();
        for (_, op) in self.ops.iter() {
            if let Some((first, last)) = op.regions_changed(bytes) {
                (first..=last).for_each(|region| regions.remove(region));
            }
        }
    }

    pub(super) fn clean_flushed(
        &mut self,
        now: Time,
        place: usize,
        result: Result<(), BlockErrno>,
        actions: &mut Vec<MirrorAction>,
    ) {
        debug_assert!(place < LEGS_MAX);
        self.cleaning.left -= 1;
        if let Err(errno) = result {
            self.cleaning.has_failed = true;
            self.leg_failed(now, place, LegCause::Error(errno), actions);
        }
        if self.cleaning.left > 0 {
            return;
        }
        let Some(mut regions) = self.cleaning.regions.take() else { return };
        if self.cleaning.has_failed || self.places(Standing::Failing).next().is_some() {
            return;
        }
        for kept in [&self.behind, &self.doubt, &self.recent] {
            regions.subtract(kept);
        }
        self.keep_running(&mut regions);
        regions.iter().for_each(|region| self.intent.release(region));
    }
}
