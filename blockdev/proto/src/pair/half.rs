//! The machine of one half.

use super::{
    Command, Generation, Grant, PairAction, PairMessage, Record, Refusal, Role, Side, State, accepts,
};
use crate::rules::{Rules, Strict};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::time::Duration;
use transport_proto::identity::NodeId;
use transport_proto::time::Time;

/// Work that waits for a step to end; more than two honest halves can have under way.
const WORK_MAX: usize = 64;

/// Spans of a pair. None is needed for safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairLimits {
    /// The other half is given up if it does not follow, or does not decide, within this time.
    pub answer_within: Duration,
    /// A greeting that nothing came of is said again after this time.
    pub greet_every: Duration,
}

impl Default for PairLimits {
    fn default() -> PairLimits {
        PairLimits { answer_within: Duration::from_secs(2), greet_every: Duration::from_millis(200) }
    }
}

/// Something to be done once nothing else is.
#[derive(Clone, Copy, Debug)]
enum Work {
    Command { token: u64, command: Command },
    Message(PairMessage),
    Sever,
    Copied { generation: Generation },
}

/// What becomes of a record that is being made durable.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Nothing more.
    Rest,
    /// This half is reserved; on with the command.
    Reserved { token: u64, command: Command },
    /// Decided here: tell the other half. The command was entered here, or there (`None`).
    Tell { ours: Option<(u64, Command)> },
    /// Decided by the other half: say that it is done here.
    Say,
    /// Where the other half stands is known now: tell it where this one does.
    Greet,
    /// The end of a command that concerned this half only.
    Answer { token: u64, result: Result<Option<Grant>, Refusal> },
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Whoever won on this side is being fenced; then this record is made durable.
    Yielding {
        next: Record,
        then: Then,
    },
    Persisting {
        next: Record,
        then: Then,
    },
}

/// A command entered here that waits for the other half.
#[derive(Clone, Copy, Debug)]
struct Pending {
    token: u64,
    command: Command,
    /// Decided here, of this generation; `None`: asked of the other half.
    decided: Option<Generation>,
}

/// One half of a pair. See the module.
#[derive(Debug)]
pub struct Half<R: Rules = Strict> {
    side: Side,
    limits: PairLimits,
    /// As it is durable.
    record: Record,
    step: Option<Step>,
    work: VecDeque<Work>,
    pending: Option<Pending>,
    /// A command entered here has no answer yet.
    is_asked: bool,
    /// This half's session, and the other's once it is known.
    session: u64,
    peer: Option<u64>,
    connected: bool,
    /// The generation that the other half has yet to say it follows, and until when.
    unfollowed: Option<Generation>,
    deadline: Time,
    rules: PhantomData<R>,
}

impl Half<Strict> {
    /// The half of a side from its durable record, at the beginning of a life.
    pub fn new(side: Side, record: Record, limits: PairLimits) -> Half {
        Half::with_rules(side, record, limits)
    }
}

impl<R: Rules> Half<R> {
    /// The same under other rules, for tests.
    pub fn with_rules(side: Side, record: Record, limits: PairLimits) -> Half<R> {
        // What was joined when the last life ended is not joined any more.
        let work = if record.state.is_joined() { VecDeque::from([Work::Sever]) } else { VecDeque::new() };
        Half {
            side,
            limits,
            record,
            step: None,
            work,
            pending: None,
            is_asked: false,
            session: 0,
            peer: None,
            connected: false,
            unfollowed: None,
            deadline: Time::NEVER,
            rules: PhantomData,
        }
    }

    /// Where this half stands.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Whether the halves hear each other.
    pub fn hears_other(&self) -> bool {
        self.peer.is_some()
    }

    /// Whether the other half has said that it follows the state of this one.
    pub fn is_followed(&self) -> bool {
        self.unfollowed.is_none()
    }

    /// Whether a client may write this half now.
    pub fn admits_writes(&self) -> bool {
        self.record.state == State::Simplex
            || self.record.role == Role::Primary && !matches!(self.step, Some(Step::Yielding { .. }))
    }

    /// Whether a client may read this half now.
    pub fn admits_reads(&self) -> bool {
        self.record.consistent
    }

    /// When [`Half::timer`] wants to be called.
    pub fn next_deadline(&self) -> Time {
        self.deadline
    }

    /// A command from this side. Ends with an [`PairAction::Answer`] that bears the token.
    pub fn command(&mut self, now: Time, token: u64, command: Command, actions: &mut Vec<PairAction>) {
        if self.is_asked {
            return actions.push(PairAction::Answer { token, result: Err(Refusal::Busy) });
        }
        self.is_asked = true;
        self.enter(now, Work::Command { token, command }, actions);
    }

    /// A connection to the other half is there; `session` was never used before and is not 0.
    pub fn connected(&mut self, now: Time, session: u64, actions: &mut Vec<PairAction>) {
        self.session = session;
        self.connected = true;
        self.peer = None;
        self.enter(now, Work::Sever, actions);
    }

    /// It is gone.
    pub fn disconnected(&mut self, now: Time, actions: &mut Vec<PairAction>) {
        self.connected = false;
        self.peer = None;
        self.enter(now, Work::Sever, actions);
    }

    /// The other half says something.
    pub fn message(&mut self, now: Time, message: PairMessage, actions: &mut Vec<PairAction>) {
        if self.connected {
            self.enter(now, Work::Message(message), actions);
        }
    }

    /// A record is durable.
    pub fn persisted(&mut self, now: Time, actions: &mut Vec<PairAction>) {
        let Some(Step::Persisting { next, then }) = self.step.take() else { return };
        self.record = next;
        self.after(now, then, actions);
        self.run(now, actions);
    }

    /// Whoever won on this side is fenced, and nothing is under way.
    pub fn yielded(&mut self, now: Time, actions: &mut Vec<PairAction>) {
        let Some(Step::Yielding { next, then }) = self.step.take() else { return };
        self.persist(now, next, then, actions);
        self.run(now, actions);
    }

    /// Everything has been copied in the state of this generation, and is on stable storage there.
    pub fn copied(&mut self, now: Time, generation: Generation, actions: &mut Vec<PairAction>) {
        self.enter(now, Work::Copied { generation }, actions);
    }

    /// The other half's disk or this one's failed a copy or a write: the pair is suspended with an error. The
    /// write may be answered once the record says so.
    pub fn copy_failed(&mut self, now: Time, actions: &mut Vec<PairAction>) {
        self.enter(now, Work::Sever, actions);
    }

    /// The time of [`Half::next_deadline`] has come.
    pub fn timer(&mut self, now: Time, actions: &mut Vec<PairAction>) {
        if now < self.deadline {
            return;
        }
        self.deadline = Time::NEVER;
        if self.connected && self.peer.is_none() {
            return self.greet(now, actions);
        }
        if self.unfollowed.is_some() || self.pending.is_some() {
            // Whatever was the reason, both begin anew.
            self.peer = None;
            self.enter(now, Work::Sever, actions);
        }
    }

    // --- one thing after the other ---

    fn enter(&mut self, now: Time, work: Work, actions: &mut Vec<PairAction>) {
        let work = if self.work.len() < WORK_MAX {
            work
        } else {
            // Nobody honest says so much at once: hear nothing of this session any more.
            self.peer = None;
            self.work.retain(|kept| !matches!(kept, Work::Message(_)));
            Work::Sever
        };
        // Twice in a row is once.
        if !matches!((work, self.work.back()), (Work::Sever, Some(Work::Sever))) {
            self.work.push_back(work);
        }
        self.run(now, actions);
    }

    fn run(&mut self, now: Time, actions: &mut Vec<PairAction>) {
        while self.step.is_none()
            && let Some(work) = self.work.pop_front()
        {
            match work {
                Work::Command { token, command } => self.begin(now, token, command, actions),
                Work::Message(message) => self.hear(now, message, actions),
                Work::Sever => self.sever(now, actions),
                Work::Copied { generation } => self.join(now, generation, actions),
            }
        }
    }

    fn persist(&mut self, now: Time, next: Record, then: Then, actions: &mut Vec<PairAction>) {
        if !R::DECISION_BEFORE_WORD && matches!(then, Then::Tell { .. }) {
            let durable = core::mem::replace(&mut self.record, next);
            self.after(now, then, actions);
            self.record = durable;
            self.step = Some(Step::Persisting { next, then: Then::Rest });
        } else {
            self.step = Some(Step::Persisting { next, then });
        }
        actions.push(PairAction::Persist { record: next });
    }

    /// Takes a record that takes the primary role from this half only when nobody goes on by it.
    fn take(&mut self, now: Time, next: Record, then: Then, actions: &mut Vec<PairAction>) {
        let gives_up = self.record.role == Role::Primary
            && self.record.state != State::Simplex
            && (next.role == Role::Secondary || next.state == State::Simplex);
        if gives_up && R::YIELD_BEFORE_SWAP {
            self.step = Some(Step::Yielding { next, then });
            actions.push(PairAction::Yield);
        } else {
            self.persist(now, next, then, actions);
        }
    }

    fn after(&mut self, now: Time, then: Then, actions: &mut Vec<PairAction>) {
        match then {
            Then::Rest => {}
            Then::Reserved { token, command } => self.pursue(now, token, command, actions),
            Then::Tell { ours } => self.tell(now, ours, actions),
            Then::Say => {
                let generation = self.record.generation;
                self.say(|to| PairMessage::Followed { to, generation }, actions);
                // It may be what a command here asked for.
                if let Some(Pending { token, command, decided: None }) = self.pending
                    && self.is_fulfilled(command)
                {
                    self.end(token, Ok(self.grant_of(command)), actions);
                }
            }
            Then::Greet => self.greet(now, actions),
            Then::Answer { token, result } => self.answer(token, result, actions),
        }
    }

    fn say(&mut self, word: impl FnOnce(u64) -> PairMessage, actions: &mut Vec<PairAction>) {
        if let Some(to) = self.peer {
            actions.push(PairAction::Send(word(to)));
        }
    }

    fn greet(&mut self, now: Time, actions: &mut Vec<PairAction>) {
        if self.connected {
            let (from, to, record) = (self.session, self.peer.unwrap_or(0), self.record);
            actions.push(PairAction::Send(PairMessage::Hello { from, to, record }));
            if self.peer.is_none() {
                self.deadline = now + self.limits.greet_every;
            }
        }
    }

    // --- commands ---

    fn begin(&mut self, now: Time, token: u64, command: Command, actions: &mut Vec<PairAction>) {
        if let Command::Release { node } = command {
            if self.record.reserved != Some(node) {
                return self.answer(token, Err(Refusal::NotReserved), actions);
            }
            let next = Record { reserved: None, ..self.record };
            return self.persist(now, next, Then::Answer { token, result: Ok(None) }, actions);
        }
        if let Command::Reserve { node } = command {
            if let Some(by) = self.record.reserved.filter(|by| *by != node) {
                return self.answer(token, Err(Refusal::Reserved { by }), actions);
            }
            // The answer to it was lost: it has won already.
            if self.is_fulfilled(command) && self.unfollowed.is_none() && self.peer.is_some() {
                let result = Ok(self.record.grant);
                return self.answer(token, result, actions);
            }
        }
        if let Err(why) = accepts::<R>(&self.record, command) {
            return self.answer(token, Err(why), actions);
        }
        if let Command::Reserve { node } = command {
            let next = Record { reserved: Some(node), ..self.record };
            return self.persist(now, next, Then::Reserved { token, command }, actions);
        }
        self.pursue(now, token, command, actions);
    }

    /// Whether the state is what the command makes, by that command's doing.
    fn is_fulfilled(&self, command: Command) -> bool {
        let Record { state, role, grant, .. } = self.record;
        match command {
            Command::Reserve { node } => {
                let mine = grant.is_some_and(|grant| grant.side == self.side && grant.node == node);
                mine && role == Role::Primary && state.is_joined()
            }
            Command::SwapResync | Command::Takeover { .. } => role == Role::Primary && state.is_joined(),
            Command::Split => state == State::Suspended,
            Command::Delete => state == State::Simplex,
            Command::Create | Command::Resync | Command::Release { .. } => false,
        }
    }

    /// A command that this half accepts.
    fn pursue(&mut self, now: Time, token: u64, command: Command, actions: &mut Vec<PairAction>) {
        if self.record.role == Role::Primary && matches!(command, Command::Takeover { .. }) {
            return self.answer(token, Ok(None), actions);
        }
        if self.peer.is_none() {
            if command != (Command::Takeover { alone: true }) {
                return self.fail(now, token, command, Refusal::Unreachable, actions);
            }
            let (role, state) = (Role::Primary, State::SuspendedError);
            let generation = self.record.generation.next_term();
            let next = Record { role, state, generation, ..self.record };
            return self.persist(now, next, Then::Answer { token, result: Ok(None) }, actions);
        }
        // Nothing follows upon a decision that the other half may not have heard of.
        if self.unfollowed.is_some() {
            return self.fail(now, token, command, Refusal::Busy, actions);
        }
        if self.record.role == Role::Primary || command == Command::Create {
            let next = self.decided(self.side, command, &self.record);
            return self.take(now, next, Then::Tell { ours: Some((token, command)) }, actions);
        }
        self.pending = Some(Pending { token, command, decided: None });
        self.deadline = now + self.limits.answer_within;
        let record = self.record;
        self.say(|to| PairMessage::Ask { to, command, record }, actions);
    }

    /// This half's record after it decides for a command of a side. `asker` is the record of that side's
    /// half.
    fn decided(&self, by: Side, command: Command, asker: &Record) -> Record {
        let here = by == self.side;
        let arbiter_epoch = self.record.arbiter_epoch.max(asker.arbiter_epoch);
        let mut next = Record { generation: self.record.generation.next(), arbiter_epoch, ..self.record };
        let swap = |next: &mut Record| {
            next.role = if here { Role::Primary } else { Role::Secondary };
            next.consistent = here;
            next.state = State::Copy;
        };
        match command {
            Command::Create => {
                (next.role, next.state, next.consistent) = (Role::Primary, State::Copy, true);
            }
            Command::Split => next.state = State::Suspended,
            Command::Resync => next.state = State::Copy,
            // Both have the same content: nothing is to be copied.
            Command::Takeover { .. } if self.record.state == State::Pair => next.role = Role::Secondary,
            Command::SwapResync | Command::Takeover { .. } => swap(&mut next),
            Command::Reserve { node } => {
                next.arbiter_epoch = arbiter_epoch.saturating_add(1);
                next.grant = Some(Grant { side: by, node, epoch: next.arbiter_epoch });
                next.reserved = self.reserved_under(next.grant);
                swap(&mut next);
            }
            Command::Delete => {
                (next.role, next.state, next.consistent) = (Role::Secondary, State::Simplex, true)
            }
            Command::Release { .. } => {}
        }
        next
    }

    fn tell(&mut self, now: Time, ours: Option<(u64, Command)>, actions: &mut Vec<PairAction>) {
        let record = self.record;
        if let Some((token, command)) = ours {
            if !R::GRANT_AFTER_BOTH {
                self.say(|to| PairMessage::Follow { to, record }, actions);
                return self.end(token, Ok(self.grant_of(command)), actions);
            }
            self.pending = Some(Pending { token, command, decided: Some(record.generation) });
        }
        // If the connection went meanwhile, the work that says so is in the queue.
        self.unfollowed = Some(record.generation);
        self.deadline = now + self.limits.answer_within;
        self.say(|to| PairMessage::Follow { to, record }, actions);
    }

    /// What this side has reserved, once this grant stands: who loses keeps nothing.
    fn reserved_under(&self, grant: Option<Grant>) -> Option<NodeId> {
        self.record.reserved.filter(|_| grant.is_none_or(|grant| grant.side == self.side))
    }

    fn grant_of(&self, command: Command) -> Option<Grant> {
        self.record.grant.filter(|_| matches!(command, Command::Reserve { .. }))
    }

    fn answer(&mut self, token: u64, result: Result<Option<Grant>, Refusal>, actions: &mut Vec<PairAction>) {
        self.is_asked = false;
        actions.push(PairAction::Answer { token, result });
    }

    fn end(&mut self, token: u64, result: Result<Option<Grant>, Refusal>, actions: &mut Vec<PairAction>) {
        self.pending = None;
        self.answer(token, result, actions);
    }

    /// A command fails; what it reserved is given back first.
    fn fail(&mut self, now: Time, token: u64, command: Command, why: Refusal, actions: &mut Vec<PairAction>) {
        self.pending = None;
        match command {
            Command::Reserve { node } if self.record.reserved == Some(node) => {
                let next = Record { reserved: None, ..self.record };
                self.persist(now, next, Then::Answer { token, result: Err(why) }, actions);
            }
            _ => self.answer(token, Err(why), actions),
        }
    }

    // --- the other half ---

    fn hear(&mut self, now: Time, message: PairMessage, actions: &mut Vec<PairAction>) {
        let (session, knows) = (self.session, self.peer.is_some());
        let is_heard = |to: u64| knows && to == session;
        match message {
            PairMessage::Hello { from, to, record } => self.greeted(now, from, to, record, actions),
            PairMessage::Ask { to, command, record } if is_heard(to) => {
                self.asked(now, command, &record, actions);
            }
            PairMessage::Refused { to, why } if is_heard(to) => {
                if let Some(Pending { token, command, decided: None }) = self.pending {
                    self.fail(now, token, command, why, actions);
                }
            }
            PairMessage::Follow { to, record } if is_heard(to) => {
                self.follow(now, &record, Then::Say, actions);
            }
            PairMessage::Followed { to, generation } if is_heard(to) => self.followed(generation, actions),
            // Of a session that is over.
            _ => {}
        }
    }

    /// The other half asks this one to decide.
    fn asked(&mut self, now: Time, command: Command, asker: &Record, actions: &mut Vec<PairAction>) {
        let Record { state, role, generation, .. } = self.record;
        let decides = role == Role::Primary && state != State::Simplex;
        let same = asker.state == state || asker.state.is_suspended() && state.is_suspended();
        let knows = asker.role == Role::Secondary && asker.generation == generation && same;
        // A release concerns the asker's half only.
        let is_ours = !matches!(command, Command::Release { .. });
        let accepted = match (decides && knows && is_ours, self.unfollowed) {
            (false, _) => Err(Refusal::NotNow { state, role }),
            (true, Some(_)) => Err(Refusal::Busy),
            // As the asker's half: what it says of its own content counts.
            (true, None) => accepts::<R>(asker, command),
        };
        match accepted {
            Ok(()) => {
                let next = self.decided(self.side.other(), command, asker);
                self.take(now, next, Then::Tell { ours: None }, actions);
            }
            Err(why) => self.say(|to| PairMessage::Refused { to, why }, actions),
        }
    }

    /// The counterpart of the other half's record.
    fn counterpart(&self, other: &Record) -> Record {
        let role = other.role.other();
        let was_primary = self.record.role == Role::Primary && self.record.state != State::Simplex;
        let consistent = match (other.state, role) {
            (State::Simplex, _) => true,
            // Who made it primary has looked whether its content is complete.
            (_, Role::Primary) => self.record.consistent,
            (State::Copy, _) => false,
            (State::Pair, _) => true,
            // Its content is its own, not a former one of the other half.
            _ => self.record.consistent && !was_primary,
        };
        Record {
            state: other.state,
            role: if other.state == State::Simplex { Role::Secondary } else { role },
            generation: other.generation,
            consistent,
            grant: other.grant,
            arbiter_epoch: self.record.arbiter_epoch.max(other.arbiter_epoch),
            reserved: self.reserved_under(other.grant),
            ..self.record
        }
    }

    /// Whether the other half's record is the later one.
    fn is_behind(&self, other: &Record) -> bool {
        let (ours, theirs) = (self.record.generation, other.generation);
        // Both made the pair at the same moment: the first side's goes first.
        let crossed = ours == theirs
            && self.record.role == Role::Primary
            && other.role == Role::Primary
            && other.state != State::Simplex
            && self.side == Side::Second;
        theirs > ours || crossed
    }

    fn follow(&mut self, now: Time, other: &Record, then: Then, actions: &mut Vec<PairAction>) {
        if other.pair != self.record.pair || !self.is_behind(other) {
            return;
        }
        if let Some(Pending { token, decided: Some(_), .. }) = self.pending {
            // The other half decided too, and goes first.
            self.end(token, Err(Refusal::Crossed), actions);
        }
        self.unfollowed = None;
        let next = self.counterpart(other);
        self.take(now, next, then, actions);
    }

    fn followed(&mut self, generation: Generation, actions: &mut Vec<PairAction>) {
        if self.unfollowed != Some(generation) {
            return;
        }
        self.unfollowed = None;
        if let Some(Pending { token, command, decided: Some(decided) }) = self.pending
            && decided == generation
        {
            self.end(token, Ok(self.grant_of(command)), actions);
        }
    }

    fn greeted(&mut self, now: Time, from: u64, to: u64, other: Record, actions: &mut Vec<PairAction>) {
        if other.pair != self.record.pair || from == 0 {
            return;
        }
        if self.peer != Some(from) {
            // The other half began anew, and what it did not say it has not heard.
            self.peer = Some(from);
            if self.must_sever() {
                self.work.push_front(Work::Message(PairMessage::Hello { from, to, record: other }));
                return self.sever(now, actions);
            }
        }
        let is_alone = other.generation == self.record.generation && !other.state.is_joined();
        if is_alone && self.record.state.is_joined() {
            // The other half gave this one up.
            return self.sever(now, actions);
        }
        let other = Record { state: other.state.severed(), ..other };
        if self.is_behind(&other) {
            return self.follow(now, &other, Then::Greet, actions);
        }
        // Told where this half stands, unless it has heard that from this session: then it knows.
        if to != self.session || other.generation < self.record.generation {
            self.greet(now, actions);
        }
    }

    fn must_sever(&self) -> bool {
        self.record.state.is_joined() || self.pending.is_some() || self.unfollowed.is_some()
    }

    /// The halves do not hear each other, or cannot go on together.
    fn sever(&mut self, now: Time, actions: &mut Vec<PairAction>) {
        if let Some(Pending { token, command, decided }) = self.pending {
            let why = if decided.is_some() { Refusal::Unanswered } else { Refusal::Unreachable };
            self.work.push_front(Work::Sever);
            return self.fail(now, token, command, why, actions);
        }
        let Record { state, role, generation, .. } = self.record;
        let is_unsaid = self.unfollowed.take().is_some() && state == State::Suspended;
        if state.is_joined() || is_unsaid {
            let decides = role == Role::Primary;
            let generation = if decides { generation.next() } else { generation };
            let next = Record { state: State::SuspendedError, generation, ..self.record };
            return self.persist(now, next, Then::Greet, actions);
        }
        self.greet(now, actions);
    }

    /// The copy is complete.
    fn join(&mut self, now: Time, generation: Generation, actions: &mut Vec<PairAction>) {
        let Record { state, role, generation: current, .. } = self.record;
        let is_this = state == State::Copy && role == Role::Primary && current == generation;
        if is_this && self.unfollowed.is_none() && self.peer.is_some() {
            let next = Record { state: State::Pair, generation: current.next(), ..self.record };
            self.persist(now, next, Then::Tell { ours: None }, actions);
        }
    }
}
