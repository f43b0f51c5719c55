//! Two halves, their disks, the link between them and a client, and what is checked whatever happens.

use blockdev_proto::pair::{
    Command, Generation, Grant, Half, PairAction, PairLimits, PairMessage, Record, Refusal, Role, Side, State,
};
use blockdev_proto::rules::Rules;
use core::time::Duration;
use fixtures_faults::Dice;
use std::collections::VecDeque;
use transport_proto::identity::NodeId;
use transport_proto::time::Time;

pub(crate) const PAIR: u64 = 0x7061_6972;
pub(crate) const SIDES: [Side; 2] = [Side::First, Side::Second];

pub(crate) fn node(side: Side) -> NodeId {
    NodeId(side as u16 + 1)
}

/// What is on its way from one half to the other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    Said(PairMessage),
    /// Part of the content, and whether it is the last.
    Copied {
        generation: Generation,
        version: u64,
        last: bool,
    },
    CopyDone {
        generation: Generation,
    },
    Write {
        version: u64,
    },
    Written {
        version: u64,
    },
}

/// The content of a half: a version, or a part of one over another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Whole(u64),
    Mixed,
}

pub(crate) struct Site<R: Rules> {
    pub(crate) half: Half<R>,
    pub(crate) durable: Record,
    /// Records that the disk has not finished.
    pub(crate) writing: Option<Record>,
    pub(crate) yielding: bool,
    pub(crate) content: Content,
    /// Acts as the winner.
    pub(crate) holds: Option<Grant>,
    /// The generation for which copying was begun.
    pub(crate) copying: Option<Generation>,
    /// A write that waits for the other half, or for the record that says that it goes alone.
    pub(crate) write: Option<u64>,
    pub(crate) answers: Vec<Result<Option<Grant>, Refusal>>,
}

pub(crate) struct World<R: Rules> {
    pub(crate) dice: Dice,
    pub(crate) now: Time,
    pub(crate) sites: [Site<R>; 2],
    /// To each side.
    pub(crate) wire: [VecDeque<Word>; 2],
    pub(crate) link: bool,
    pub(crate) session: u64,
    pub(crate) version: u64,
    /// The newest write that a client got an answer to.
    pub(crate) acked: u64,
    pub(crate) wins: u64,
}

impl<R: Rules> World<R> {
    pub(crate) fn new(seed: u64) -> World<R> {
        let site = |side: Side| Site {
            half: Half::with_rules(side, Record::simplex(PAIR), PairLimits::default()),
            durable: Record::simplex(PAIR),
            writing: None,
            yielding: false,
            content: Content::Whole(0),
            holds: None,
            copying: None,
            write: None,
            answers: Vec::new(),
        };
        World {
            dice: Dice::new(seed),
            now: Time(0),
            sites: SIDES.map(site),
            wire: [VecDeque::new(), VecDeque::new()],
            link: false,
            session: 0,
            version: 0,
            acked: 0,
            wins: 0,
        }
    }

    pub(crate) fn any_side(&mut self) -> Side {
        SIDES[self.dice.below(2) as usize]
    }

    pub(crate) fn site(&mut self, side: Side) -> &mut Site<R> {
        &mut self.sites[side as usize]
    }

    pub(crate) fn feed(&mut self, side: Side, what: impl FnOnce(&mut Half<R>, Time, &mut Vec<PairAction>)) {
        let mut actions = Vec::new();
        let now = self.now;
        what(&mut self.site(side).half, now, &mut actions);
        for action in actions {
            match action {
                PairAction::Persist { record } => {
                    let before = self.site(side).writing.replace(record);
                    assert_eq!(before, None, "one record at a time");
                }
                PairAction::Send(message) => self.send(side, Word::Said(message)),
                PairAction::Yield => self.site(side).yielding = true,
                PairAction::Answer { token, result } => {
                    assert_eq!(token, 7);
                    if let Ok(Some(grant)) = result {
                        let other = self.site(side.other());
                        assert!(other.holds.is_none(), "two winners: {grant:?} and {:?}", other.holds);
                        assert!(grant.side == side && grant.node == node(side));
                        self.site(side).holds = Some(grant);
                        self.wins += 1;
                    }
                    self.site(side).answers.push(result);
                }
            }
        }
        self.look(side);
    }

    pub(crate) fn send(&mut self, from: Side, word: Word) {
        if self.link {
            self.wire[from.other() as usize].push_back(word);
        }
    }

    pub(crate) fn look(&mut self, side: Side) {
        let site = self.site(side);
        if site.half.admits_reads() {
            assert_ne!(site.content, Content::Mixed, "{side:?} is read: {:?}", site.half.record());
        }
        let alone = !site.half.record().state.is_joined();
        // Told after the record says that this half goes alone.
        if alone && let Some(version) = site.write.take() {
            self.acked = self.acked.max(version);
        }
    }

    pub(crate) fn command(&mut self, side: Side, command: Command) {
        self.feed(side, |half, now, actions| half.command(now, 7, command, actions));
    }

    pub(crate) fn cut(&mut self) {
        self.link = false;
        self.wire = [VecDeque::new(), VecDeque::new()];
        for side in SIDES {
            self.feed(side, Half::disconnected);
        }
    }

    pub(crate) fn mend(&mut self) {
        self.cut();
        self.link = true;
        for side in SIDES {
            self.session += 1;
            let session = self.session;
            self.feed(side, |half, now, actions| half.connected(now, session, actions));
        }
    }

    /// The node of a side loses what it did not write, and whoever held the pair by it is gone.
    pub(crate) fn crash(&mut self, side: Side) {
        let landed = self.dice.below(2) == 0;
        self.cut();
        let site = self.site(side);
        if landed && let Some(record) = site.writing {
            site.durable = record;
        }
        let record = Record::decode(PAIR, &site.durable.encode()).expect("what was written is read");
        site.half = Half::with_rules(side, record, PairLimits::default());
        (site.writing, site.yielding, site.holds, site.copying, site.write) = (None, false, None, None, None);
        self.mend();
    }

    /// One thing happens. `false`: nothing can but the time.
    pub(crate) fn step(&mut self) -> bool {
        let mut choices = Vec::new();
        for side in SIDES {
            let site = &self.sites[side as usize];
            let record = site.half.record();
            let is_source = record.role == Role::Primary && record.state == State::Copy;
            if site.writing.is_some() {
                choices.push((side, 0));
            }
            if site.yielding {
                choices.push((side, 1));
            }
            if !self.wire[side as usize].is_empty() {
                choices.push((side, 2));
            }
            if is_source && site.half.is_followed() && site.copying != Some(record.generation) {
                choices.push((side, 3));
            }
        }
        if choices.is_empty() {
            return false;
        }
        let (side, what) = choices[self.dice.below(choices.len() as u64) as usize];
        match what {
            0 => {
                let site = self.site(side);
                if let Some(record) = site.writing.take() {
                    site.durable = record;
                }
                self.feed(side, Half::persisted);
            }
            1 => {
                let site = self.site(side);
                (site.yielding, site.holds, site.write) = (false, None, None);
                self.feed(side, Half::yielded);
            }
            2 => {
                if let Some(word) = self.wire[side as usize].pop_front() {
                    self.hear(side, word);
                }
            }
            _ => self.copy(side),
        }
        true
    }

    pub(crate) fn copy(&mut self, side: Side) {
        let site = self.site(side);
        let generation = site.half.record().generation;
        let Content::Whole(version) = site.content else { panic!("copied from a half that is mixed") };
        site.copying = Some(generation);
        self.send(side, Word::Copied { generation, version, last: false });
        self.send(side, Word::Copied { generation, version, last: true });
    }

    pub(crate) fn hear(&mut self, side: Side, word: Word) {
        let record = *self.sites[side as usize].half.record();
        let follows = record.role == Role::Secondary && record.state.is_joined();
        match word {
            Word::Said(message) => {
                let message = PairMessage::parse(&message.encode()).expect("what was said is understood");
                self.feed(side, |half, now, actions| half.message(now, message, actions));
            }
            Word::Copied { generation, version, last } => {
                if follows && record.generation == generation {
                    self.site(side).content = if last { Content::Whole(version) } else { Content::Mixed };
                    if last {
                        self.send(side, Word::CopyDone { generation });
                    }
                }
            }
            Word::CopyDone { generation } => {
                self.feed(side, |half, now, actions| half.copied(now, generation, actions));
            }
            Word::Write { version } => {
                if follows && record.state == State::Pair {
                    self.site(side).content = Content::Whole(version);
                    self.send(side, Word::Written { version });
                } else {
                    self.cut();
                    self.mend();
                }
            }
            Word::Written { version } => {
                if self.site(side).write.take_if(|waiting| *waiting == version).is_some() {
                    self.acked = self.acked.max(version);
                }
            }
        }
    }

    /// A client writes the primary half, while it is in the pair state or suspended.
    pub(crate) fn write(&mut self, side: Side) {
        let site = &self.sites[side as usize];
        let record = site.half.record();
        let steady = record.state == State::Pair || record.state.is_suspended();
        let free = site.write.is_none() && site.writing.is_none() && !site.yielding;
        if record.role != Role::Primary || !site.half.admits_writes() || !steady || !free {
            return;
        }
        let goes_on = record.state == State::Pair;
        self.version += 1;
        let version = self.version;
        self.site(side).content = Content::Whole(version);
        if goes_on {
            self.site(side).write = Some(version);
            self.send(side, Word::Write { version });
        } else {
            self.acked = version;
        }
    }

    /// Until nothing happens any more, time-outs included.
    pub(crate) fn settle(&mut self) {
        for _ in 0..20_000 {
            if self.step() {
                continue;
            }
            let due = SIDES.map(|side| self.sites[side as usize].half.next_deadline());
            let due = due[0].min(due[1]);
            if due == Time::NEVER || !self.link {
                return;
            }
            self.now = self.now.max(due);
            for side in SIDES {
                self.feed(side, Half::timer);
            }
        }
        panic!("it never settles");
    }

    pub(crate) fn answers(&mut self) -> [Vec<Result<Option<Grant>, Refusal>>; 2] {
        SIDES.map(|side| core::mem::take(&mut self.sites[side as usize].answers))
    }

    pub(crate) fn states(&self) -> [(Role, State); 2] {
        SIDES.map(|side| {
            let record = self.sites[side as usize].half.record();
            (record.role, record.state)
        })
    }

    /// A command that must succeed.
    pub(crate) fn order(&mut self, side: Side, command: Command) -> Option<Grant> {
        self.answers();
        self.command(side, command);
        self.settle();
        let [first, second] = self.answers();
        let all = [first, second].concat();
        assert_eq!(all.len(), 1, "{command}: {all:?}");
        all[0].unwrap_or_else(|why| panic!("{command} of {side:?}: {why} in {:?}", self.states()))
    }

    /// A new pair, split.
    pub(crate) fn split_pair(seed: u64) -> World<R> {
        let mut world = World::new(seed);
        world.mend();
        world.settle();
        let (creator, splitter) = (world.any_side(), world.any_side());
        world.order(creator, Command::Create);
        assert!(world.states().iter().all(|(_, state)| *state == State::Pair), "{:?}", world.states());
        world.order(splitter, Command::Split);
        world
    }

    /// Both sides want the pair; `faults`: meanwhile links are cut and nodes crash. Gives who holds it.
    pub(crate) fn race(&mut self, faults: bool) -> Vec<Side> {
        let mut wanting = SIDES.to_vec();
        if self.dice.below(2) == 0 {
            wanting.reverse();
        }
        let mut pause = self.dice.below(12);
        for _ in 0..200 {
            if pause == 0
                && let Some(side) = wanting.pop()
            {
                self.command(side, Command::Reserve { node: node(side) });
                pause = self.dice.below(12);
            }
            pause = pause.saturating_sub(1);
            if faults {
                let side = self.any_side();
                match self.dice.below(60) {
                    0 => self.cut(),
                    1 | 2 => self.mend(),
                    3 => self.crash(side),
                    4 => self.command(side, Command::Reserve { node: node(side) }),
                    5 => self.command(side, Command::Split),
                    6 => self.command(side, Command::Resync),
                    7 => self.command(side, Command::SwapResync),
                    8 => {
                        self.now = self.now + Duration::from_millis(1 + self.dice.below(3000));
                        for side in SIDES {
                            self.feed(side, Half::timer);
                        }
                    }
                    9..25 => self.write(side),
                    _ => {}
                }
            }
            self.step();
        }
        self.settle();
        SIDES.into_iter().filter(|side| self.sites[*side as usize].holds.is_some()).collect()
    }

    /// A race over a whole link: one side is granted the pair, and the other is not, not even afterwards.
    pub(crate) fn fair_race(&mut self) -> Side {
        self.answers();
        let winners = self.race(false);
        let answers = self.answers();
        let granted = |side: &Side| answers[*side as usize].iter().any(Result::is_ok);
        let granted: Vec<Side> = SIDES.into_iter().filter(granted).collect();
        assert_eq!((granted.len(), &granted), (1, &winners), "{answers:?} in {:?}", self.states());
        winners[0]
    }

    /// After any course: heals the link, brings the pair to suspended, and lets both race once more.
    pub(crate) fn ends_well(&mut self) {
        self.mend();
        self.settle();
        let primaries = self.states().iter().filter(|(role, _)| *role == Role::Primary).count();
        assert_eq!(primaries, 1, "{:?}", self.states());
        let primary = SIDES.into_iter().find(|side| self.states()[*side as usize].0 == Role::Primary);
        let primary = primary.expect("there is one");
        if self.states()[0].1.is_suspended() {
            self.order(primary, Command::Resync);
        }
        assert!(self.states().iter().all(|(_, state)| *state == State::Pair), "{:?}", self.states());
        let [first, second] = SIDES.map(|side| self.sites[side as usize].content);
        assert_eq!(first, second);
        self.order(primary, Command::Split);
        for side in SIDES {
            self.site(side).holds = None;
        }
        self.fair_race();
    }
}
