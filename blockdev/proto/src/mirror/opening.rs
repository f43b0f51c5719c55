//! How a mirror is opened, and how a number is put on its legs: what is found there is checked before any of
//! it is believed, each time that the cluster's configuration has changed.

use super::layout::{LegState, MAP_REGIONS, RECORD_BYTES};
use super::legs::{LegCause, LegView, Standing};
use super::record;
use super::{Mirror, MirrorAction, Payload, Phase, Purpose};
use crate::errno::BlockErrno;
use crate::geometry::{ByteRange, TRANSFER_BYTES_MAX};
use crate::rules::Rules;
use crate::wire::{Operation, RequestFlags};
use alloc::sync::Arc;
use alloc::vec::Vec;
use transport_proto::identity::Epoch;
use transport_proto::time::Time;

/// Map blocks that are read in one piece.
const BLOCKS_PER_READ: u64 = (TRANSFER_BYTES_MAX / RECORD_BYTES) as u64 / 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Headers,
    Maps,
}

/// A mirror that is being opened.
#[derive(Debug)]
pub(super) struct Opening {
    since: Time,
    reading: Reading,
    /// Reads of the map that have not ended.
    left: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The legs are asked for what they have.
    Check,
    /// The map is written on a mirror that has none.
    Map,
    /// The number is written.
    Write,
    /// The configuration is to know that there are records now.
    Format,
}

/// A number that is being put on the legs.
#[derive(Debug)]
pub(super) struct Raising {
    epoch: Epoch,
    step: Step,
    /// The last leg failed: from the beginning, not before this time.
    failed_until: Option<Time>,
}

impl<R: Rules> Mirror<R> {
    /// Opens the mirror: its legs' records are read. Tells `Opened` or `OpenFailed`, however long that takes.
    pub fn open(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        if !matches!(self.phase, Phase::Closed) {
            return;
        }
        self.copied_bytes = 0;
        self.begin_opening(now, actions);
        self.work(now, actions);
    }

    /// A leg came or went: what was found so far is not believed.
    pub(super) fn open_anew(&mut self, actions: &mut Vec<MirrorAction>) {
        let Phase::Opening(Opening { since, .. }) = self.phase else { return };
        self.ios.clear();
        for view in self.legs.iter_mut().flatten() {
            view.ios = 0;
            actions.push(MirrorAction::Drop { leg: view.leg.volume });
        }
        self.begin_opening(since, actions);
    }

    fn begin_opening(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        for view in self.legs.iter_mut().flatten() {
            view.reset();
            view.cause = None;
            actions.push(MirrorAction::Retake { leg: view.leg.volume });
        }
        self.intent = super::Intent::new(&self.layout);
        self.behind.clear();
        self.doubt.clear();
        self.recent.clear();
        let opening = Opening { since: now, reading: Reading::Headers, left: 0 };
        self.phase = Phase::Opening(opening);
    }

    pub(super) fn advance_opening(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        let Phase::Opening(opening) = &self.phase else { return };
        let (since, reading, left) = (opening.since, opening.reading, opening.left);
        if self.layout.fresh {
            // One leg counts, and has no records yet.
            if self.places(Standing::Sound).any(|place| self.view(place).is_some_and(|view| view.reachable)) {
                self.phase = Phase::Ready;
                actions.push(MirrorAction::Opened { persisted: Epoch(0) });
            }
            return;
        }
        match reading {
            Reading::Headers => {
                self.ask_headers(true, actions);
                self.judge_headers(now, since, actions);
            }
            Reading::Maps if left == 0 => self.opened(actions),
            Reading::Maps => {}
        }
    }

    /// Asks the sound legs that were not asked for their headers.
    fn ask_headers(&mut self, only_reachable: bool, actions: &mut Vec<MirrorAction>) {
        for place in self.places(Standing::Sound) {
            let Some(view) = self.legs[place].as_mut() else { continue };
            if view.asked || (only_reachable && !view.reachable) {
                continue;
            }
            view.asked = true;
            let range = ByteRange::new(self.layout.header_offset(), RECORD_BYTES);
            let none = RequestFlags::NONE;
            self.io(place, Purpose::Header, Operation::Read, none, range, Payload::None, actions);
        }
    }

    pub(super) fn header_done(
        &mut self,
        now: Time,
        place: usize,
        result: Result<(), BlockErrno>,
        bytes: &[u8],
        actions: &mut Vec<MirrorAction>,
    ) {
        let checked = match result {
            Ok(()) => record::read_header(&self.layout, self.identity(place), bytes).map_err(LegCause::Lost),
            Err(errno) => Err(LegCause::Error(errno)),
        };
        let cause = match checked {
            Ok(found) => {
                if let Some(view) = self.legs[place].as_mut() {
                    view.answered = true;
                    view.found = Some(found);
                }
                return;
            }
            Err(cause) => cause,
        };
        match self.phase {
            Phase::Opening(_) => {
                if let Some(view) = self.legs[place].as_mut() {
                    view.cause = Some(cause);
                }
            }
            _ => {
                if !self.leg_failed(now, place, cause, actions)
                    && let Some(view) = self.legs[place].as_mut()
                {
                    // The last copy: nothing is served from one that is not what it was. Perhaps it comes
                    // back.
                    view.cause = Some(cause);
                    view.retry_at = now + self.limits.retry_after;
                }
            }
        }
    }

    pub(super) fn header_written(
        &mut self,
        now: Time,
        place: usize,
        result: Result<(), BlockErrno>,
        actions: &mut Vec<MirrorAction>,
    ) {
        if let Err(errno) = result
            && !self.leg_failed(now, place, LegCause::Error(errno), actions)
        {
            self.raising_failed(now);
        }
    }

    fn awaits(&self, purpose: Purpose) -> bool {
        self.ios.iter().any(|(_, io)| io.purpose == purpose)
    }

    /// Goes on to the maps when enough is known of the headers.
    fn judge_headers(&mut self, now: Time, since: Time, actions: &mut Vec<MirrorAction>) {
        let sound: Vec<usize> = self.places(Standing::Sound).collect();
        let of = |test: fn(&LegView) -> bool| {
            sound.iter().filter(|place| self.view(**place).is_some_and(test)).count()
        };
        let answered = of(|view| view.answered);
        let failed = of(|view| view.asked && !view.answered && view.cause.is_some());
        let under_way = of(|view| view.asked && !view.answered && view.cause.is_none());
        let unasked = sound.len() - answered - failed - under_way;
        if under_way > 0 {
            return;
        }
        if answered == 0 {
            // Without a copy that is in sync there is nothing to open; one that may still come is awaited.
            if unasked == 0 {
                self.abandon(actions);
                actions.push(MirrorAction::OpenFailed { errno: BlockErrno::Eio });
            }
            return;
        }
        let grace_ends = since + self.limits.open_grace;
        if unasked > 0 && now < grace_ends {
            return self.arm(grace_ends);
        }
        for place in sound {
            let Some(view) = self.legs[place].as_ref().filter(|view| !view.answered) else { continue };
            let cause = view.cause.unwrap_or(LegCause::Unreachable);
            self.leg_failed(now, place, cause, actions);
        }
        self.set_aside_restarted(now, actions);
        self.read_maps(actions);
    }

    /// Of legs that are called in sync, those count that were there when the mirror was opened last, and of
    /// these the ones that have been up since: the others may have lost what was answered and not flushed. If
    /// all began anew, none is better than another, and only what was flushed was promised.
    fn set_aside_restarted(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        let found = |place: &usize| self.view(*place).and_then(|view| view.found);
        let Some(best) = self.best_number() else { return };
        let is_up_since =
            |place: &usize| self.view(*place).is_some_and(|view| view.found == Some((best, view.life)));
        let sound: Vec<usize> = self.places(Standing::Sound).collect();
        let some_are = sound.iter().any(is_up_since);
        let counts = |place: &usize| match some_are {
            true => is_up_since(place),
            false => found(place).is_some_and(|(epoch, _)| epoch == best),
        };
        for place in sound.iter().copied().filter(|place| !counts(place)).collect::<Vec<usize>>() {
            self.leg_failed(now, place, LegCause::Unreachable, actions);
        }
    }

    /// The highest number on a leg in sync.
    fn best_number(&self) -> Option<Epoch> {
        let sound = self.places(Standing::Sound).filter_map(|place| self.view(place)?.found);
        sound.map(|(epoch, _)| epoch).max()
    }

    fn read_maps(&mut self, actions: &mut Vec<MirrorAction>) {
        let mut left = 0;
        for place in self.places(Standing::Sound) {
            let mut first = 0;
            while first < self.layout.map_blocks() {
                let count = (self.layout.map_blocks() - first).min(BLOCKS_PER_READ) as u32;
                let range = ByteRange::new(self.layout.map_offset(first), count * RECORD_BYTES);
                let purpose = Purpose::MapLoad { first, count };
                let none = RequestFlags::NONE;
                self.io(place, purpose, Operation::Read, none, range, Payload::None, actions);
                first += u64::from(count);
                left += 1;
            }
        }
        if let Phase::Opening(opening) = &mut self.phase {
            opening.reading = Reading::Maps;
            opening.left = left;
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what was read, from where, and how that went")]
    pub(super) fn map_loaded(
        &mut self,
        now: Time,
        place: usize,
        first: u64,
        count: u32,
        result: Result<(), BlockErrno>,
        bytes: &[u8],
        actions: &mut Vec<MirrorAction>,
    ) {
        if let Phase::Opening(opening) = &mut self.phase {
            opening.left -= 1;
        }
        if let Err(errno) = result {
            // The map of another leg says it too. Without one there is nothing to go by.
            if !self.leg_failed(now, place, LegCause::Error(errno), actions) {
                self.abandon(actions);
                actions.push(MirrorAction::OpenFailed { errno });
            }
            return;
        }
        for index in 0..u64::from(count) {
            let start = (index * u64::from(RECORD_BYTES)) as usize;
            let block = bytes.get(start..start + RECORD_BYTES as usize).unwrap_or_default();
            // Of a block that is damaged all bits are set: that is slow, and right.
            let _ = record::read_map_block(&self.layout, first + index, block, &mut self.intent.wanted);
        }
    }

    fn opened(&mut self, actions: &mut Vec<MirrorAction>) {
        let best = self.best_number().unwrap_or(Epoch(0));
        // What one leg says all are to say.
        let mut next = self.intent.wanted.first_from(0);
        while let Some(region) = next {
            let block = region / MAP_REGIONS;
            self.intent.mark_due(block);
            next = self.intent.wanted.first_from((block + 1) * MAP_REGIONS);
        }
        if self.places(Standing::Sound).count() > 1 {
            self.doubt.unite(&self.intent.wanted);
        }
        if self.leaves_one_behind() {
            self.behind.unite(&self.intent.wanted);
        }
        for view in self.legs.iter_mut().flatten() {
            (view.asked, view.answered) = (false, false);
        }
        self.phase = Phase::Ready;
        actions.push(MirrorAction::Opened { persisted: best });
    }

    /// Puts a number on every leg that is in sync, after each has shown that it is what it was. Tells
    /// `Persisted`, however long that takes. No client's request runs meanwhile.
    pub fn persist(&mut self, now: Time, epoch: Epoch, actions: &mut Vec<MirrorAction>) {
        if !matches!(self.phase, Phase::Ready | Phase::Raising(_)) {
            return;
        }
        self.begin_raising(epoch);
        self.work(now, actions);
    }

    fn begin_raising(&mut self, epoch: Epoch) {
        for view in self.legs.iter_mut().flatten() {
            (view.asked, view.answered) = (false, false);
        }
        let mut step = Step::Check;
        if self.layout.fresh {
            step = Step::Map;
            if self.layout.legs().any(|leg| leg.state == LegState::Stale) {
                self.mark_all();
            }
            self.intent.write_all();
        }
        self.phase = Phase::Raising(Raising { epoch, step, failed_until: None });
    }

    /// The last leg in use did not take what it must have. Nothing if no number is being put on the legs.
    pub(super) fn raising_failed(&mut self, now: Time) {
        let again_at = now + self.limits.retry_after;
        if let Phase::Raising(raising) = &mut self.phase {
            raising.failed_until = Some(again_at);
        }
    }

    pub(super) fn advance_raising(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        let Phase::Raising(Raising { epoch, step, failed_until }) = self.phase else { return };
        if let Some(again_at) = failed_until {
            if now < again_at {
                return self.arm(again_at);
            }
            // What was begun ends first.
            let is_begun = self.awaits(Purpose::Header) || self.awaits(Purpose::HeaderWrite);
            if !is_begun && self.intent.is_settled() {
                self.begin_raising(epoch);
                self.advance_raising(now, actions);
            }
            return;
        }
        match step {
            Step::Check => {
                for place in self.places(Standing::Sound) {
                    let Some(view) = self.legs[place].as_mut().filter(|view| !view.answered) else {
                        continue;
                    };
                    let retry_at = view.retry_at;
                    if retry_at <= now {
                        view.asked &= view.ios > 0;
                    } else {
                        self.arm(retry_at);
                    }
                }
                self.ask_headers(false, actions);
                let sound = self.places(Standing::Sound);
                if sound.clone().all(|place| self.view(place).is_some_and(|view| view.answered)) {
                    self.write_number(epoch, actions);
                }
            }
            Step::Map if self.intent.is_settled() => self.write_number(epoch, actions),
            Step::Write if self.awaits(Purpose::HeaderWrite) => {}
            Step::Write if self.layout.fresh => {
                self.phase = Phase::Raising(Raising { epoch, step: Step::Format, failed_until });
                self.propose_at = now;
            }
            Step::Write => self.raised(epoch, actions),
            Step::Format if !self.layout.fresh => self.raised(epoch, actions),
            Step::Map | Step::Format => {}
        }
    }

    fn write_number(&mut self, epoch: Epoch, actions: &mut Vec<MirrorAction>) {
        let sound = self.places(Standing::Sound);
        self.phase = Phase::Raising(Raising { epoch, step: Step::Write, failed_until: None });
        for place in sound {
            let range = ByteRange::new(self.layout.header_offset(), RECORD_BYTES);
            let payload = Payload::Record(Arc::new(self.header_of(place, epoch)));
            self.io(
                place,
                Purpose::HeaderWrite,
                Operation::Write,
                RequestFlags::FUA,
                range,
                payload,
                actions,
            );
        }
    }

    fn raised(&mut self, epoch: Epoch, actions: &mut Vec<MirrorAction>) {
        self.phase = Phase::Ready;
        self.epoch = epoch;
        actions.push(MirrorAction::Persisted { epoch });
    }

    pub(super) fn awaits_format(&self) -> bool {
        matches!(self.phase, Phase::Raising(Raising { step: Step::Format, .. }))
    }
}
