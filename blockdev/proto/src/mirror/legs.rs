//! The legs of a mirror as its server sees them: which are used, which failed, and what the configuration is
//! to be told about it.

use super::layout::{LEGS_MAX, Layout, Leg, LegState};
use super::record::{self, RecordFault};
use super::{Mirror, MirrorAction, Phase, Proposal};
use crate::errno::BlockErrno;
use crate::geometry::VolumeId;
use crate::rules::Rules;
use alloc::vec::Vec;
use core::fmt;
use transport_proto::identity::{Epoch, Incarnation};
use transport_proto::time::Time;

/// Why a leg is not used, or was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegCause {
    /// No node that is a member serves it.
    Unreachable,
    /// It failed a request.
    Error(BlockErrno),
    /// It does not have the records that it should have.
    Lost(RecordFault),
    /// An operator said so.
    Operator,
}

impl fmt::Display for LegCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LegCause::Unreachable => f.write_str("no node serves it"),
            LegCause::Error(errno) => write!(f, "it failed a request with {errno:?}"),
            LegCause::Lost(RecordFault::Missing) => f.write_str("its content is gone"),
            LegCause::Lost(RecordFault::Foreign) => f.write_str("another mirror lies on it"),
            LegCause::Lost(RecordFault::Damaged) => f.write_str("its records are damaged"),
            LegCause::Lost(RecordFault::Version { found }) => {
                write!(f, "its records are of version {found}, which this release does not know")
            }
            LegCause::Operator => f.write_str("an operator took it out"),
        }
    }
}

/// How a leg stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has everything.
    Sound,
    /// It failed, and the configuration does not say so yet.
    Failing,
    /// It lacks writes, and nothing is done about it now.
    Out,
    /// It lacks writes, and is being copied to.
    Syncing,
}

/// A leg for `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegStatus {
    /// The virtual disk that it lies on.
    pub volume: VolumeId,
    /// How it stands.
    pub standing: Standing,
    /// Whether some node serves it.
    pub reachable: bool,
    /// What was wrong with it last.
    pub cause: Option<LegCause>,
}

/// One leg.
#[derive(Debug)]
pub(super) struct LegView {
    pub(super) leg: Leg,
    pub(super) standing: Standing,
    pub(super) reachable: bool,
    /// The life of whoever serves it, or served it last: one that began anew may have lost what was not
    /// flushed.
    pub(super) life: Incarnation,
    /// Number and life in its header, in the opening that goes on.
    pub(super) found: Option<(Epoch, Incarnation)>,
    pub(super) cause: Option<LegCause>,
    /// Not to be tried before.
    pub(super) retry_at: Time,
    /// Its records were asked for in the opening or raising that goes on.
    pub(super) asked: bool,
    /// They were as they should be.
    pub(super) answered: bool,
    /// Requests to it that have not ended.
    pub(super) ios: u32,
    /// The configuration was asked to call it in sync, and may yet do so.
    pub(super) promised: bool,
    /// The configuration was asked to call it stale, and may yet do so: it is not counted on.
    pub(super) accused: bool,
    /// No leg any more; its place is free once nothing is under way.
    pub(super) is_gone: bool,
}

impl LegView {
    fn new(leg: Leg) -> LegView {
        LegView {
            leg,
            standing: usual(leg.state),
            reachable: false,
            life: Incarnation(0),
            found: None,
            cause: None,
            retry_at: Time(0),
            asked: false,
            answered: false,
            ios: 0,
            promised: false,
            accused: false,
            is_gone: false,
        }
    }

    /// As the row says and nothing more.
    pub(super) fn reset(&mut self) {
        self.standing = if self.accused { Standing::Failing } else { usual(self.leg.state) };
        self.asked = false;
        self.answered = false;
        self.found = None;
        self.promised = false;
        self.retry_at = Time(0);
    }

    pub(super) fn status(&self) -> LegStatus {
        let LegView { standing, reachable, cause, .. } = *self;
        let cause = cause.filter(|_| standing != Standing::Sound);
        LegStatus { volume: self.leg.volume, standing, reachable, cause }
    }
}

/// How a leg stands that is called in sync and was not known to be.
const fn usual_unless(is_active: bool) -> Standing {
    if is_active { Standing::Failing } else { Standing::Sound }
}

const fn usual(state: LegState) -> Standing {
    match state {
        LegState::InSync => Standing::Sound,
        LegState::Stale => Standing::Out,
    }
}

impl<R: Rules> Mirror<R> {
    pub(super) fn enter_leg(&mut self, leg: Leg) {
        if let Some(place) = self.legs.iter_mut().find(|place| place.is_none()) {
            *place = Some(LegView::new(leg));
        }
    }

    pub(super) fn view(&self, place: usize) -> Option<&LegView> {
        self.legs[place].as_ref()
    }

    pub(super) fn header_of(&self, place: usize, epoch: Epoch) -> Vec<u8> {
        let life = self.view(place).map_or(Incarnation(0), |view| view.life);
        record::header(&self.layout, self.identity(place), epoch, life)
    }

    pub(super) fn identity(&self, place: usize) -> u64 {
        self.view(place).map_or(0, |view| view.leg.identity)
    }

    fn place_of(&self, leg: VolumeId) -> Option<usize> {
        let is_it = |view: &LegView| view.leg.volume == leg && !view.is_gone;
        self.legs.iter().position(|place| place.as_ref().is_some_and(is_it))
    }

    pub(super) fn standing(&self, place: usize) -> Option<Standing> {
        self.view(place).filter(|view| !view.is_gone).map(|view| view.standing)
    }

    /// Places of legs that stand like this.
    pub(super) fn places(&self, standing: Standing) -> impl Iterator<Item = usize> + Clone + use<R> {
        let mut found = [false; LEGS_MAX];
        for (place, found) in found.iter_mut().enumerate() {
            *found = self.standing(place) == Some(standing);
        }
        (0..LEGS_MAX).filter(move |place| found[*place])
    }

    /// Places of legs that every write goes to.
    pub(super) fn used_places(&self) -> impl Iterator<Item = usize> + Clone + use<R> {
        let mut found = [false; LEGS_MAX];
        for (place, found) in found.iter_mut().enumerate() {
            *found = matches!(self.standing(place), Some(Standing::Sound | Standing::Syncing));
        }
        (0..LEGS_MAX).filter(move |place| found[*place])
    }

    /// Whether some leg does not get what is written now.
    pub(super) fn leaves_one_behind(&self) -> bool {
        self.places(Standing::Out).next().is_some() || self.places(Standing::Failing).next().is_some()
    }

    /// The leg to read from: the near one, else one that is reachable, else any that is sound.
    pub(super) fn source(&self, tried: u8) -> Option<usize> {
        let sound = self.places(Standing::Sound).filter(|place| tried & (1 << place) == 0);
        let is = |place: &usize, test: &dyn Fn(&LegView) -> bool| self.view(*place).is_some_and(test);
        let near = sound.clone().find(|place| is(place, &|view| Some(view.leg.volume) == self.near));
        near.or_else(|| sound.clone().find(|place| is(place, &|view| view.reachable)))
            .or_else(|| sound.clone().next())
    }

    /// A request to the leg in this place has ended.
    pub(super) fn let_go(&mut self, place: usize) {
        if let Some(view) = self.legs[place].as_mut() {
            view.ios = view.ios.saturating_sub(1);
        }
        self.legs[place].take_if(|view| view.is_gone && view.ios == 0);
    }

    /// Some node serves the leg, in this life, or none does.
    pub fn reachable(
        &mut self,
        now: Time,
        leg: VolumeId,
        life: Option<Incarnation>,
        actions: &mut Vec<MirrorAction>,
    ) {
        let Some(place) = self.place_of(leg) else { return };
        let Some(view) = self.legs[place].as_mut() else { return };
        let began_anew = life.is_some_and(|life| life != view.life);
        if view.reachable == life.is_some() && !began_anew {
            return;
        }
        view.reachable = life.is_some();
        view.life = life.unwrap_or(view.life);
        view.retry_at = Time(0);
        self.open_anew(actions);
        if (began_anew || life.is_none()) && matches!(self.phase, Phase::Ready | Phase::Raising(_)) {
            self.leg_failed(now, place, LegCause::Unreachable, actions);
        }
        self.work(now, actions);
    }

    /// A leg did not do what it should. `false`: it is the last one in sync, and stays in use.
    pub(super) fn leg_failed(
        &mut self,
        now: Time,
        place: usize,
        cause: LegCause,
        actions: &mut Vec<MirrorAction>,
    ) -> bool {
        match self.standing(place) {
            Some(Standing::Sound) => {
                let is_other = |other: &usize| *other != place && self.view(*other).is_some_and(serves);
                if !self.places(Standing::Sound).any(|other| is_other(&other)) {
                    return false;
                }
                self.set_aside(place, Standing::Failing, cause, actions);
                self.propose_at = now;
            }
            Some(Standing::Syncing) if self.view(place).is_some_and(|view| view.promised) => {
                // Whoever opens the mirror next may find it called in sync: that is to be undone first.
                self.set_aside(place, Standing::Failing, cause, actions);
                self.leave_pass(place);
                self.propose_at = now;
            }
            Some(Standing::Syncing) => {
                self.set_aside(place, Standing::Out, cause, actions);
                let retry_at = now + self.limits.retry_after;
                if let Some(view) = self.legs[place].as_mut() {
                    view.retry_at = retry_at;
                }
                self.arm(retry_at);
                self.leave_pass(place);
            }
            // Whoever waits for what it was asked would wait until it is back.
            Some(Standing::Out) if cause == LegCause::Unreachable => {
                if let Some(view) = self.view(place).filter(|view| view.ios > 0) {
                    actions.push(MirrorAction::Drop { leg: view.leg.volume });
                }
            }
            _ => {}
        }
        true
    }

    /// The leg gets no writes from now on. What it may not have on stable storage is what the map says.
    fn set_aside(
        &mut self,
        place: usize,
        standing: Standing,
        cause: LegCause,
        actions: &mut Vec<MirrorAction>,
    ) {
        if matches!(cause, LegCause::Lost(_)) {
            self.mark_all();
        }
        self.behind.unite(&self.intent.wanted);
        self.pass_leaves_one_behind();
        if let Some(view) = self.legs[place].as_mut() {
            view.standing = standing;
            view.cause = Some(cause);
            actions.push(MirrorAction::Drop { leg: view.leg.volume });
        }
    }

    /// Nothing is known of what some leg has.
    pub(super) fn mark_all(&mut self) {
        self.intent.fill();
        self.behind.fill();
    }

    /// Takes a newer row.
    pub fn layout(&mut self, now: Time, layout: &Layout, actions: &mut Vec<MirrorAction>) {
        if layout.generation <= self.layout.generation {
            return;
        }
        self.layout = Layout { size_bytes: self.layout.size_bytes, ..*layout };
        let is_active = matches!(self.phase, Phase::Ready | Phase::Raising(_));
        for place in 0..LEGS_MAX {
            let Some(view) = self.legs[place].as_ref().filter(|view| !view.is_gone) else { continue };
            let volume = view.leg.volume;
            let identity = view.leg.identity;
            match layout.legs().find(|leg| leg.volume == volume && leg.identity == identity) {
                Some(leg) => self.follow_leg(place, *leg, is_active, actions),
                None => self.lose_leg(place, actions),
            }
        }
        for leg in layout.legs() {
            if self.place_of(leg.volume).is_none() {
                self.enter_leg(*leg);
                self.pass_leaves_one_behind();
            }
        }
        self.propose_at = now;
        self.work(now, actions);
    }

    fn follow_leg(&mut self, place: usize, leg: Leg, is_active: bool, actions: &mut Vec<MirrorAction>) {
        let Some(view) = self.legs[place].as_mut() else { return };
        let before = core::mem::replace(&mut view.leg, leg);
        // Whatever was asked for was asked for the row before.
        view.promised = false;
        view.accused = false;
        match (before.state, leg.state) {
            (LegState::InSync, LegState::Stale) if !is_active => view.reset(),
            (LegState::InSync, LegState::Stale) => {
                let cause = view.cause.unwrap_or(LegCause::Operator);
                if view.standing == Standing::Failing {
                    view.standing = Standing::Out;
                } else {
                    self.set_aside(place, Standing::Out, LegCause::Operator, actions);
                }
                if let Some(view) = self.legs[place].as_mut() {
                    view.cause = Some(cause);
                }
            }
            (LegState::Stale, LegState::InSync) if view.standing == Standing::Syncing => {
                view.standing = Standing::Sound;
                view.cause = None;
                self.leave_pass(place);
            }
            // It failed meanwhile.
            (LegState::Stale, LegState::InSync) => view.standing = usual_unless(is_active),
            (LegState::Stale, LegState::Stale) if view.standing == Standing::Failing => {
                view.standing = Standing::Out;
            }
            _ => {}
        }
    }

    fn lose_leg(&mut self, place: usize, actions: &mut Vec<MirrorAction>) {
        if let Some(view) = self.legs[place].as_mut() {
            view.is_gone = true;
            actions.push(MirrorAction::Drop { leg: view.leg.volume });
        }
        self.leave_pass(place);
        self.legs[place].take_if(|view| view.ios == 0);
    }

    /// Makes the proposal that is due, now and again until a newer row comes.
    pub(super) fn propose(&mut self, now: Time, actions: &mut Vec<MirrorAction>) {
        let Some(proposal) = self.wanted_proposal() else { return };
        if now < self.propose_at {
            return self.arm(self.propose_at);
        }
        self.propose_at = now + self.limits.propose_again_after;
        self.arm(self.propose_at);
        let (Proposal::InSync { leg } | Proposal::Stale { leg, .. }) = proposal else {
            return actions.push(MirrorAction::Propose { generation: self.layout.generation, proposal });
        };
        if let Some(place) = self.place_of(leg)
            && let Some(view) = self.legs[place].as_mut()
        {
            view.promised |= matches!(proposal, Proposal::InSync { .. });
            view.accused |= matches!(proposal, Proposal::Stale { .. });
        }
        actions.push(MirrorAction::Propose { generation: self.layout.generation, proposal });
    }

    fn wanted_proposal(&self) -> Option<Proposal> {
        if let Some(view) = self.places(Standing::Failing).next().and_then(|place| self.view(place)) {
            let cause = view.cause.unwrap_or(LegCause::Unreachable);
            return Some(Proposal::Stale { leg: view.leg.volume, cause });
        }
        if self.awaits_format() {
            return Some(Proposal::Formatted);
        }
        let ready = self.pass.as_ref().and_then(|pass| pass.ready_leg());
        ready.and_then(|place| self.view(place)).map(|view| Proposal::InSync { leg: view.leg.volume })
    }
}

fn serves(view: &LegView) -> bool {
    view.reachable
}

impl Layout {
    /// The state of one of its legs.
    pub fn state_of(&self, volume: VolumeId) -> Option<LegState> {
        self.legs().find(|leg| leg.volume == volume).map(|leg| leg.state)
    }
}
