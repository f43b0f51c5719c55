//! Clients' requests: to one leg if they read, to all that are used if they write.

use super::layout::MAP_REGIONS;
use super::legs::{LegCause, Standing};
use super::{IoId, Mirror, MirrorAction, Payload, Purpose};
use crate::errno::BlockErrno;
use crate::geometry::ByteRange;
use crate::rules::Rules;
use crate::wire::{Operation, RequestFlags};
use alloc::vec::Vec;
use transport_proto::time::Time;

/// A client's request.
#[derive(Debug)]
pub(super) struct Op {
    token: u64,
    operation: Operation,
    flags: RequestFlags,
    range: ByteRange,
    /// It was sent to legs.
    started: bool,
    /// Legs that have not answered.
    left: u32,
    /// Places of legs that it was sent to.
    asked: u8,
    /// Places of legs that carried it out.
    good: u8,
    /// Places of legs that did not, or were tried in vain.
    bad: u8,
    errno: Option<BlockErrno>,
    /// The read whose bytes are the answer.
    read: Option<IoId>,
}

impl Op {
    /// Whether it is under way and changes this region.
    pub(super) fn changes(&self, region: u64, region_bytes: u32) -> bool {
        self.regions_changed(region_bytes).is_some_and(|(first, last)| (first..=last).contains(&region))
    }

    /// The regions that it changes, first and last, while it is under way.
    pub(super) fn regions_changed(&self, region_bytes: u32) -> Option<(u64, u64)> {
        (self.started && self.operation.modifies()).then(|| regions_of(self.range, region_bytes))
    }
}

/// First and last region of a range that is not empty.
fn regions_of(range: ByteRange, region_bytes: u32) -> (u64, u64) {
    let bytes = u64::from(region_bytes);
    (range.offset / bytes, range.end().saturating_sub(1) / bytes)
}

impl<R: Rules> Mirror<R> {
    /// A request of a client that the master let in. It ends with `Answer` or `Withdraw`.
    pub fn submit(
        &mut self,
        now: Time,
        token: u64,
        operation: Operation,
        flags: RequestFlags,
        range: ByteRange,
        actions: &mut Vec<MirrorAction>,
    ) {
        self.last_client = now;
        if flags.contains(RequestFlags::FAST_ZERO) {
            // A leg that cannot be fast is no worse a copy for it.
            let result = Err(BlockErrno::Enotsup);
            return actions.push(MirrorAction::Answer { token, result, read: None });
        }
        // What does not matter any more must still be the same everywhere.
        let operation = if operation == Operation::Discard { Operation::WriteZeroes } else { operation };
        let op = Op {
            token,
            operation,
            flags,
            range,
            started: false,
            left: 0,
            asked: 0,
            good: 0,
            bad: 0,
            errno: None,
            read: None,
        };
        let index = self.ops.insert(op).index;
        if !self.start(now, index, actions) {
            self.waiting.push_back(index);
            self.work(now, actions);
        }
    }

    /// Requests of clients that have not ended.
    pub fn running(&self) -> usize {
        self.ops.len()
    }

    /// `false`: it has to wait.
    fn start(&mut self, now: Time, index: u32, actions: &mut Vec<MirrorAction>) -> bool {
        let Some(op) = self.ops.get(index) else { return true };
        let (operation, range) = (op.operation, op.range);
        let (first, last) = regions_of(range, self.layout.region_bytes());
        match operation {
            Operation::Read => {
                if !self.doubt.is_empty()
                    && let Some(region) = self.doubt.first_from(first).filter(|region| *region <= last)
                {
                    if !self.urgent.contains(&region) {
                        self.urgent.push_back(region);
                    }
                    return false;
                }
                self.read(now, index, actions);
            }
            Operation::Flush => self.spread(index, actions),
            Operation::Write | Operation::Discard | Operation::WriteZeroes => {
                if R::LOCK_WHILE_COPYING && self.is_being_copied(first, last) {
                    return false;
                }
                if !self.intent.require(first, last) && R::MAP_BEFORE_DATA {
                    return false;
                }
                let leaves_behind = self.leaves_one_behind();
                for region in first..=last {
                    self.recent.insert(region);
                    if leaves_behind {
                        self.behind.insert(region);
                    }
                }
                self.spread(index, actions);
            }
        }
        true
    }

    fn read(&mut self, now: Time, index: u32, actions: &mut Vec<MirrorAction>) {
        let Some(tried) = self.ops.get(index).map(|op| op.bad) else { return };
        let Some(place) = self.source(tried) else { return self.end(now, index, actions) };
        let Some(op) = self.ops.get_mut(index) else { return };
        op.started = true;
        op.left = 1;
        let range = op.range;
        let none = RequestFlags::NONE;
        self.io(place, Purpose::Request(index), Operation::Read, none, range, Payload::None, actions);
    }

    /// Sends the request to every leg that is used.
    fn spread(&mut self, index: u32, actions: &mut Vec<MirrorAction>) {
        let used = self.used_places();
        let Some(op) = self.ops.get_mut(index) else { return };
        op.started = true;
        op.left = used.clone().count() as u32;
        op.asked = used.clone().fold(0, |asked, place| asked | 1 << place);
        let (operation, flags, range, token) = (op.operation, op.flags, op.range, op.token);
        for place in used {
            let payload = if operation == Operation::Write { Payload::Request(token) } else { Payload::None };
            self.io(place, Purpose::Request(index), operation, flags, range, payload, actions);
        }
    }

    pub(super) fn leg_answered(
        &mut self,
        now: Time,
        index: u32,
        place: usize,
        io: IoId,
        result: Result<(), BlockErrno>,
        actions: &mut Vec<MirrorAction>,
    ) {
        let bit = 1u8 << place;
        let Some(op) = self.ops.get_mut(index) else { return };
        op.left -= 1;
        let is_read = op.operation == Operation::Read;
        match result {
            Ok(()) => op.good |= bit,
            Err(_) => op.bad |= bit,
        }
        if let Err(errno) = result {
            actions.push(MirrorAction::Forget { io });
            let counts = self.standing(place) == Some(Standing::Sound);
            if let Some(op) = self.ops.get_mut(index).filter(|_| counts) {
                op.errno = Some(errno);
            }
            self.leg_failed(now, place, LegCause::Error(errno), actions);
            if is_read {
                return self.read(now, index, actions);
            }
        } else if is_read {
            if let Some(op) = self.ops.get_mut(index) {
                op.read = Some(io);
            }
        } else {
            actions.push(MirrorAction::Forget { io });
        }
        if self.ops.get(index).is_some_and(|op| op.left == 0) {
            self.end(now, index, actions);
        }
    }

    /// Every leg has answered: so is the client, unless a leg that the configuration counts on failed.
    fn end(&mut self, now: Time, index: u32, actions: &mut Vec<MirrorAction>) {
        self.fail_odd_ones(now, index, actions);
        let Some(op) = self.ops.get(index) else { return };
        // Whoever opens the mirror next may believe every leg that the row calls in sync.
        let owed = self.places(Standing::Failing).any(|place| op.good & (1 << place) == 0);
        if owed && op.operation != Operation::Read && R::STALE_BEFORE_ANSWER {
            if !self.held.contains(&index) {
                self.held.push(index);
            }
            return;
        }
        let sound = self.places(Standing::Sound).filter(|place| op.asked & (1 << place) != 0);
        let has = |place: usize| op.good & (1 << place) != 0;
        let sound = sound.clone().any(has) && sound.clone().all(has);
        let Some(op) = self.ops.take(index) else { return };
        let result = match (op.operation, op.read) {
            (Operation::Read, Some(_)) => Ok(()),
            (Operation::Read, None) => Err(op.errno.unwrap_or(BlockErrno::Eio)),
            _ if sound => Ok(()),
            _ => Err(op.errno.unwrap_or(BlockErrno::Eio)),
        };
        if result.is_err() && op.operation.modifies() {
            // Some legs may have it and some not.
            let (first, last) = regions_of(op.range, self.layout.region_bytes());
            (first..=last).for_each(|region| self.differs(region));
        }
        actions.push(MirrorAction::Answer { token: op.token, result, read: op.read });
    }

    /// A leg that was the last in sync when it failed a request is not the last any more: of two that are in
    /// sync, one of which has the request and one has not, only the first is.
    fn fail_odd_ones(&mut self, now: Time, index: u32, actions: &mut Vec<MirrorAction>) {
        let Some(op) = self.ops.get(index).filter(|op| op.operation != Operation::Read) else { return };
        let (good, missed, errno) = (op.good, op.asked & !op.good, op.errno.unwrap_or(BlockErrno::Eio));
        if missed == 0 || !self.places(Standing::Sound).any(|place| good & (1 << place) != 0) {
            return;
        }
        for place in self.places(Standing::Sound).filter(|place| missed & (1 << place) != 0) {
            self.leg_failed(now, place, LegCause::Error(errno), actions);
        }
    }

    /// The map could not be written on the last leg: what waits for this block of it fails.
    pub(super) fn fail_waiting(
        &mut self,
        now: Time,
        block: u64,
        errno: BlockErrno,
        actions: &mut Vec<MirrorAction>,
    ) {
        let of_block = block * MAP_REGIONS..(block + 1) * MAP_REGIONS;
        for _ in 0..self.waiting.len() {
            let Some(index) = self.waiting.pop_front() else { return };
            let touches = self.ops.get(index).is_some_and(|op| {
                let (first, last) = regions_of(op.range, self.layout.region_bytes());
                op.operation.modifies() && first < of_block.end && last >= of_block.start
            });
            if let Some(op) = self.ops.get_mut(index).filter(|_| touches) {
                op.errno = Some(errno);
                self.end(now, index, actions);
            } else {
                self.waiting.push_back(index);
            }
        }
    }

    /// Tries again what waits.
    pub(super) fn retry_waiting(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        for _ in 0..self.waiting.len() {
            let Some(index) = self.waiting.pop_front() else { return };
            if !self.start(now, index, actions) {
                self.waiting.push_back(index);
            }
        }
    }

    pub(super) fn settle_held(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        for index in core::mem::take(&mut self.held) {
            self.end(now, index, actions);
        }
    }

    pub(super) fn withdraw_all(&mut self, actions: &mut Vec<MirrorAction>) {
        self.waiting.clear();
        self.held.clear();
        for (_, op) in self.ops.iter() {
            actions.push(MirrorAction::Withdraw { token: op.token });
        }
        self.ops.clear();
    }
}
