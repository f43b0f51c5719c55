//! The mirror: one virtual disk kept on several others, its legs, by the node that serves it (SPEC B9, B10).
//!
//! It lies below the master, in place of a disk: a request that the master lets in goes to every leg as a
//! request of this node to that virtual disk, and is answered when every leg that counts has it. What fences
//! the legs against a former server of the mirror is what fences every virtual disk: the numbers in their
//! gates. The README beside this crate argues why no stale write lands and no stale byte is read.
//!
//! Calling order: [`layout`](Mirror::layout) and [`reachable`](Mirror::reachable) whenever they change;
//! [`open`](Mirror::open) → `Opened`; [`persist`](Mirror::persist) → `Persisted`; then
//! [`submit`](Mirror::submit), until [`abandon`](Mirror::abandon). Actions are carried out in their order;
//! each `Io` ends with one [`done`](Mirror::done). Payload bytes never come in, only the mirror's own
//! records.

mod cleaning;
mod copying;
mod intent;
mod layout;
mod legs;
mod opening;
mod record;
mod regions;
mod requests;

pub use self::layout::{
    LEGS_MAX, Layout, Leg, LegState, RECORD_BYTES, REGION_BYTES_MAX, REGION_BYTES_MIN, leg_bytes,
    region_bytes,
};
pub use self::legs::{LegCause, LegStatus, Standing};
pub use self::record::RecordFault;
pub use crate::table::IoId;

use self::cleaning::Cleaning;
use self::copying::{Copy, Pass};
use self::intent::Intent;
use self::legs::LegView;
use self::opening::{Opening, Raising};
use self::regions::RegionSet;
use self::requests::Op;
use crate::errno::BlockErrno;
use crate::geometry::{ByteRange, VolumeId};
use crate::rules::{Rules, Strict};
use crate::table::Table;
use crate::wire::{Operation, RequestFlags};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::time::Duration;
use transport_proto::identity::Epoch;
use transport_proto::time::Time;

/// Where the payload of a write to a leg comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// There is none.
    None,
    /// The payload of the client's request with this token.
    Request(u64),
    /// A record of the mirror's own.
    Record(Arc<Vec<u8>>),
    /// The bytes that this read of a leg brought.
    Read(IoId),
}

/// What the configuration is to say of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// This leg may lack writes; never the last that does not.
    Stale {
        /// The leg.
        leg: VolumeId,
        /// Why.
        cause: LegCause,
    },
    /// This leg has everything again.
    InSync {
        /// The leg.
        leg: VolumeId,
    },
    /// The mirror has records now.
    Formatted,
}

/// What the mirror wants its caller to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorAction {
    /// Send this request to a leg; when it has ended, tell [`Mirror::done`].
    Io {
        /// Names it.
        io: IoId,
        /// The leg's virtual disk.
        leg: VolumeId,
        /// What to do.
        operation: Operation,
        /// Wishes.
        flags: RequestFlags,
        /// Which bytes of the leg.
        range: ByteRange,
        /// Of a write.
        payload: Payload,
    },
    /// A client's request has ended.
    Answer {
        /// The client's request.
        token: u64,
        /// What the client gets to know.
        result: Result<(), BlockErrno>,
        /// The read of a leg whose bytes are the answer; they are the caller's from now on.
        read: Option<IoId>,
    },
    /// A client's request will not be carried out here: it must be asked again, of whoever serves then.
    Withdraw {
        /// The client's request.
        token: u64,
    },
    /// The bytes that this read of a leg brought are not needed any more.
    Forget {
        /// The read.
        io: IoId,
    },
    /// Fail what is under way to this leg, and everything that is sent there before `Retake`. What may have
    /// reached it goes on holding back what comes later to the same bytes.
    Drop {
        /// The leg.
        leg: VolumeId,
    },
    /// The leg is used again.
    Retake {
        /// The leg.
        leg: VolumeId,
    },
    /// Ask for this to be configured, if the row is still of this generation. Asked again until it changes.
    Propose {
        /// The generation of the layout that it was thought out for.
        generation: u64,
        /// What.
        proposal: Proposal,
    },
    /// Opened: the highest number that the legs were used at.
    Opened {
        /// That number.
        persisted: Epoch,
    },
    /// It cannot be opened now.
    OpenFailed {
        /// Why.
        errno: BlockErrno,
    },
    /// The number is on every leg that counts.
    Persisted {
        /// The number.
        epoch: Epoch,
    },
}

/// Spans of a mirror. None is needed for safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorLimits {
    /// At opening, a leg that cannot be reached is waited for so long before the others go on without it.
    pub open_grace: Duration,
    /// A proposal that nothing came of is made again after this time.
    pub propose_again_after: Duration,
    /// A leg that failed while it was copied to is tried again after this time.
    pub retry_after: Duration,
    /// Regions that were not written for one to two of these are taken out of the map.
    pub clean_every: Duration,
    /// Regions copied at one time while no client is about; one at a time while one is.
    pub copies_max: usize,
    /// A client is about for so long after its last request.
    pub client_is_about: Duration,
}

impl Default for MirrorLimits {
    fn default() -> MirrorLimits {
        MirrorLimits {
            open_grace: Duration::from_millis(200),
            propose_again_after: Duration::from_millis(500),
            retry_after: Duration::from_secs(2),
            clean_every: Duration::from_secs(2),
            copies_max: 8,
            client_is_about: Duration::from_millis(20),
        }
    }
}

#[derive(Debug)]
enum Phase {
    Closed,
    Opening(Opening),
    /// Open, or about to be at a higher number.
    Ready,
    Raising(Raising),
}

/// What a request to a leg is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Request(u32),
    Header,
    HeaderWrite,
    MapLoad { first: u64, count: u32 },
    MapWrite { block: u64 },
    PassHeader,
    CopyRead { copy: u32 },
    CopyWrite { copy: u32 },
    PassFlush,
    CleanFlush,
}

#[derive(Debug)]
struct LegIo {
    place: usize,
    purpose: Purpose,
}

/// What is known of a mirror at one moment.
#[derive(Clone, Debug)]
pub struct MirrorStatus {
    /// It is open here.
    pub is_open: bool,
    /// Bytes of one region.
    pub region_bytes: u32,
    /// Regions in the map: recently written, or not equal everywhere.
    pub marked: u64,
    /// Regions that stale legs may lack.
    pub behind: u64,
    /// Regions still to be copied in the pass that runs now.
    pub to_copy: u64,
    /// Bytes copied since this node opened the mirror.
    pub copied_bytes: u64,
    /// Each leg, in the order of the row.
    pub legs: Vec<LegStatus>,
}

/// One mirror, at a node that serves it or may come to.
#[derive(Debug)]
pub struct Mirror<R: Rules = Strict> {
    layout: Layout,
    limits: MirrorLimits,
    legs: [Option<LegView>; LEGS_MAX],
    /// Read from this leg if it is in sync: it is near.
    near: Option<VolumeId>,
    phase: Phase,
    intent: Intent,
    /// Regions that some stale leg may lack.
    behind: RegionSet,
    /// Regions in which the legs in sync may differ, since a former server did not come to an end.
    doubt: RegionSet,
    /// Regions written since the last cleaning began.
    recent: RegionSet,
    ops: Table<Op>,
    /// Requests that wait for the map, for a copy, or for doubt to end.
    waiting: VecDeque<u32>,
    /// Requests that every leg has answered, and that wait for the configuration to say who failed.
    held: Vec<u32>,
    ios: Table<LegIo>,
    pass: Option<Pass>,
    copies: Table<Copy>,
    /// Regions in doubt that a reader waits for.
    urgent: VecDeque<u64>,
    cleaning: Cleaning,
    /// The number that it was opened at last.
    epoch: Epoch,
    propose_at: Time,
    last_client: Time,
    copied_bytes: u64,
    deadline: Time,
    rules: PhantomData<R>,
}

impl Mirror {
    /// A mirror that is not open.
    pub fn new(layout: &Layout, limits: MirrorLimits) -> Mirror {
        Mirror::with_rules(layout, limits)
    }
}

impl<R: Rules> Mirror<R> {
    /// As [`Mirror::new`], obeying these rules; others than [`Strict`] are for tests of checkers.
    pub fn with_rules(layout: &Layout, limits: MirrorLimits) -> Mirror<R> {
        let mut mirror = Mirror {
            layout: *layout,
            limits,
            legs: [const { None }; LEGS_MAX],
            near: None,
            phase: Phase::Closed,
            intent: Intent::new(layout),
            behind: RegionSet::none(layout.regions()),
            doubt: RegionSet::none(layout.regions()),
            recent: RegionSet::none(layout.regions()),
            ops: Table::default(),
            waiting: VecDeque::new(),
            held: Vec::new(),
            ios: Table::default(),
            pass: None,
            copies: Table::default(),
            urgent: VecDeque::new(),
            cleaning: Cleaning::default(),
            epoch: Epoch(0),
            propose_at: Time(0),
            last_client: Time(0),
            copied_bytes: 0,
            deadline: Time::NEVER,
            rules: PhantomData,
        };
        for leg in layout.legs() {
            mirror.enter_leg(*leg);
        }
        mirror
    }

    /// Reads go to this leg while it is in sync.
    pub fn prefer(&mut self, leg: Option<VolumeId>) {
        self.near = leg;
    }

    /// This leg is not near any more.
    pub fn prefer_not(&mut self, leg: VolumeId) {
        self.near.take_if(|near| *near == leg);
    }

    /// The layout in force here.
    pub fn current_layout(&self) -> &Layout {
        &self.layout
    }

    /// Gives everything up at once: this node does not serve the mirror any more, or may not. To be told
    /// before a number at which it does not serve is acted on in any other way. Requests of clients are
    /// withdrawn, those to legs dropped; what they did stays marked in the map.
    pub fn abandon(&mut self, actions: &mut Vec<MirrorAction>) {
        let was_open = !matches!(self.phase, Phase::Closed);
        self.phase = Phase::Closed;
        self.withdraw_all(actions);
        self.pass = None;
        self.copies.clear();
        self.ios.clear();
        self.cleaning = Cleaning::default();
        self.urgent.clear();
        self.deadline = Time::NEVER;
        if was_open {
            for view in self.legs.iter_mut().flatten() {
                view.ios = 0;
                view.reset();
                actions.push(MirrorAction::Drop { leg: view.leg.volume });
            }
        }
        self.legs.iter_mut().for_each(|place| {
            place.take_if(|view| view.is_gone);
        });
    }

    /// A request to a leg has ended. `bytes` are those that it read, looked at for records only.
    pub fn done(
        &mut self,
        now: Time,
        io: IoId,
        result: Result<(), BlockErrno>,
        bytes: &[u8],
        actions: &mut Vec<MirrorAction>,
    ) {
        let Some(LegIo { place, purpose }) = self.ios.remove(io) else {
            // Of a life that was given up.
            return actions.push(MirrorAction::Forget { io });
        };
        self.let_go(place);
        let keeps_bytes = matches!(purpose, Purpose::Request(_) | Purpose::CopyRead { .. });
        match purpose {
            Purpose::Request(op) => self.leg_answered(now, op, place, io, result, actions),
            Purpose::Header => self.header_done(now, place, result, bytes, actions),
            Purpose::HeaderWrite => self.header_written(now, place, result, actions),
            Purpose::MapLoad { first, count } => {
                self.map_loaded(now, place, first, count, result, bytes, actions)
            }
            Purpose::MapWrite { block } => self.map_written(now, place, block, result, actions),
            Purpose::PassHeader => self.pass_header_done(now, place, result, bytes, actions),
            Purpose::CopyRead { copy } => self.copy_read(now, copy, place, io, result, actions),
            Purpose::CopyWrite { copy } => self.copy_written(now, copy, place, result, actions),
            Purpose::PassFlush => self.pass_flushed(now, place, result, actions),
            Purpose::CleanFlush => self.clean_flushed(now, place, result, actions),
        }
        if !keeps_bytes {
            actions.push(MirrorAction::Forget { io });
        }
        self.work(now, actions);
    }

    /// Does what is due at `now`.
    pub fn timer(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        if now >= self.deadline {
            self.deadline = Time::NEVER;
            self.work(now, actions);
        }
    }

    /// When [`Mirror::timer`] wants to be called; [`Time::NEVER`] if nothing is due.
    pub fn next_deadline(&self) -> Time {
        self.deadline
    }

    /// How it stands.
    pub fn status(&self) -> MirrorStatus {
        let order = |leg: &Leg| self.legs.iter().flatten().find(|view| view.leg.volume == leg.volume);
        MirrorStatus {
            is_open: !matches!(self.phase, Phase::Closed | Phase::Opening(_)),
            region_bytes: self.layout.region_bytes(),
            marked: self.intent.wanted.count(),
            behind: self.behind.count(),
            to_copy: self.pass.as_ref().map_or(0, Pass::to_copy),
            copied_bytes: self.copied_bytes,
            legs: self.layout.legs().filter_map(order).map(LegView::status).collect(),
        }
    }

    // --- what every part uses ---

    /// Goes on with whatever can go on. Each part looks at what it has, and does nothing if it has nothing.
    fn work(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        match self.phase {
            Phase::Closed => return,
            Phase::Opening(_) => self.advance_opening(now, actions),
            Phase::Raising(_) => self.advance_raising(now, actions),
            Phase::Ready => {}
        }
        if matches!(self.phase, Phase::Closed | Phase::Opening(_)) {
            return self.propose(now, actions);
        }
        self.retry_waiting(now, actions);
        self.settle_held(now, actions);
        self.advance_pass(now, actions);
        self.clean(now, actions);
        self.write_map(actions);
        self.propose(now, actions);
    }

    fn arm(&mut self, at: Time) {
        self.deadline = self.deadline.min(at);
    }

    #[allow(clippy::too_many_arguments, reason = "it is the action, field by field")]
    fn io(
        &mut self,
        place: usize,
        purpose: Purpose,
        operation: Operation,
        flags: RequestFlags,
        range: ByteRange,
        payload: Payload,
        actions: &mut Vec<MirrorAction>,
    ) {
        let Some(view) = self.legs[place].as_mut() else { return };
        view.ios += 1;
        let leg = view.leg.volume;
        let io = self.ios.insert(LegIo { place, purpose });
        actions.push(MirrorAction::Io { io, leg, operation, flags, range, payload });
    }

    /// Blocks of the map that are due go out to every leg that is used.
    fn write_map(&mut self, actions: &mut Vec<MirrorAction>) {
        while let Some((block, bytes)) = self.intent.next_write(&self.layout) {
            let used = self.used_places();
            self.intent.issued(block, used.clone().count() as u32);
            for place in used {
                let range = ByteRange::new(self.layout.map_offset(block), RECORD_BYTES);
                let payload = Payload::Record(bytes.clone());
                let purpose = Purpose::MapWrite { block };
                self.io(place, purpose, Operation::Write, RequestFlags::FUA, range, payload, actions);
            }
        }
    }

    fn map_written(
        &mut self,
        now: Time,
        place: usize,
        block: u64,
        result: Result<(), BlockErrno>,
        actions: &mut Vec<MirrorAction>,
    ) {
        let mut is_good = true;
        match result {
            Ok(()) => {
                if let Some(pass) = &mut self.pass {
                    pass.has_block(place, block);
                }
            }
            Err(errno) => is_good = self.leg_failed(now, place, LegCause::Error(errno), actions),
        }
        // Nothing is written before its map is.
        if let Some(errno) = self.intent.written(block, is_good).then_some(result.err()).flatten() {
            self.raising_failed(now);
            self.fail_waiting(now, block, errno, actions);
        }
    }
}
