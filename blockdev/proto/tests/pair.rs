//! Two halves of a pair under random commands, delays, cut links and crashes: never two winners, of a race
//! over a whole link exactly one, and no half is read whose content is of no single moment.

use blockdev_proto::pair::{
    Command, Generation, Grant, Half, PAIR_MESSAGE_BYTES, PairAction, PairLimits, PairMessage, Record,
    RecordFault, Refusal, Role, Side, State, accepts,
};
use blockdev_proto::rules::{
    GrantAlone, Rules, Strict, SwapWhilePaired, SwapWithoutYielding, WordBeforeDecision,
};
use core::time::Duration;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use transport_proto::identity::NodeId;
use transport_proto::time::Time;

const PAIR: u64 = 0x7061_6972;
const SIDES: [Side; 2] = [Side::First, Side::Second];
const RACES: u64 = 1000;

fn node(side: Side) -> NodeId {
    NodeId(side as u16 + 1)
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What is on its way from one half to the other.
#[derive(Clone, Copy, Debug)]
enum Word {
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
enum Content {
    Whole(u64),
    Mixed,
}

struct Site<R: Rules> {
    half: Half<R>,
    durable: Record,
    /// Records that the disk has not finished.
    writing: Option<Record>,
    yielding: bool,
    content: Content,
    /// Acts as the winner.
    holds: Option<Grant>,
    /// The generation for which copying was begun.
    copying: Option<Generation>,
    /// A write that waits for the other half, or for the record that says that it goes alone.
    write: Option<u64>,
    answers: Vec<Result<Option<Grant>, Refusal>>,
}

struct World<R: Rules> {
    dice: Dice,
    now: Time,
    sites: [Site<R>; 2],
    /// To each side.
    wire: [VecDeque<Word>; 2],
    link: bool,
    session: u64,
    version: u64,
    /// The newest write that a client got an answer to.
    acked: u64,
    wins: u64,
}

impl<R: Rules> World<R> {
    fn new(seed: u64) -> World<R> {
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
            dice: Dice(seed),
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

    fn any_side(&mut self) -> Side {
        SIDES[self.dice.below(2) as usize]
    }

    fn site(&mut self, side: Side) -> &mut Site<R> {
        &mut self.sites[side as usize]
    }

    fn feed(&mut self, side: Side, what: impl FnOnce(&mut Half<R>, Time, &mut Vec<PairAction>)) {
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

    fn send(&mut self, from: Side, word: Word) {
        if self.link {
            self.wire[from.other() as usize].push_back(word);
        }
    }

    fn look(&mut self, side: Side) {
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

    fn command(&mut self, side: Side, command: Command) {
        self.feed(side, |half, now, actions| half.command(now, 7, command, actions));
    }

    fn cut(&mut self) {
        self.link = false;
        self.wire = [VecDeque::new(), VecDeque::new()];
        for side in SIDES {
            self.feed(side, Half::disconnected);
        }
    }

    fn mend(&mut self) {
        self.cut();
        self.link = true;
        for side in SIDES {
            self.session += 1;
            let session = self.session;
            self.feed(side, |half, now, actions| half.connected(now, session, actions));
        }
    }

    /// The node of a side loses what it did not write, and whoever held the pair by it is gone.
    fn crash(&mut self, side: Side) {
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
    fn step(&mut self) -> bool {
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

    fn copy(&mut self, side: Side) {
        let site = self.site(side);
        let generation = site.half.record().generation;
        let Content::Whole(version) = site.content else { panic!("copied from a half that is mixed") };
        site.copying = Some(generation);
        self.send(side, Word::Copied { generation, version, last: false });
        self.send(side, Word::Copied { generation, version, last: true });
    }

    fn hear(&mut self, side: Side, word: Word) {
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
    fn write(&mut self, side: Side) {
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
    fn settle(&mut self) {
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

    fn answers(&mut self) -> [Vec<Result<Option<Grant>, Refusal>>; 2] {
        SIDES.map(|side| core::mem::take(&mut self.sites[side as usize].answers))
    }

    fn states(&self) -> [(Role, State); 2] {
        SIDES.map(|side| {
            let record = self.sites[side as usize].half.record();
            (record.role, record.state)
        })
    }

    /// A command that must succeed.
    fn order(&mut self, side: Side, command: Command) -> Option<Grant> {
        self.answers();
        self.command(side, command);
        self.settle();
        let [first, second] = self.answers();
        let all = [first, second].concat();
        assert_eq!(all.len(), 1, "{command}: {all:?}");
        all[0].unwrap_or_else(|why| panic!("{command} of {side:?}: {why} in {:?}", self.states()))
    }

    /// A new pair, split.
    fn split_pair(seed: u64) -> World<R> {
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
    fn race(&mut self, faults: bool) -> Vec<Side> {
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
    fn fair_race(&mut self) -> Side {
        self.answers();
        let winners = self.race(false);
        let answers = self.answers();
        let granted = |side: &Side| answers[*side as usize].iter().any(Result::is_ok);
        let granted: Vec<Side> = SIDES.into_iter().filter(granted).collect();
        assert_eq!((granted.len(), &granted), (1, &winners), "{answers:?} in {:?}", self.states());
        winners[0]
    }

    /// After any course: heals the link, brings the pair to suspended, and lets both race once more.
    fn ends_well(&mut self) {
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

fn faulty_course<R: Rules>(seed: u64) -> u64 {
    let mut world = World::<R>::split_pair(seed);
    world.race(true);
    world.race(true);
    world.ends_well();
    world.wins
}

/// Whether a seed among the first so many shows the mutant.
fn is_noticed<R: Rules>(seeds: u64) -> bool {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let noticed = (0..seeds).any(|seed| {
        catch_unwind(AssertUnwindSafe(|| {
            let mut world = World::<R>::split_pair(seed);
            world.fair_race();
            faulty_course::<R>(seed);
        }))
        .is_err()
    });
    std::panic::set_hook(hook);
    noticed
}

// proves: P3
#[test]
fn of_a_thousand_races_over_a_whole_link_each_has_exactly_one_winner() {
    let mut wins = [0; 2];
    for seed in 0..RACES {
        let mut world = World::<Strict>::split_pair(seed);
        wins[world.fair_race() as usize] += 1;
    }
    assert!(wins.iter().all(|wins| *wins > RACES / 10), "one side hardly ever wins: {wins:?}");
}

// proves: P3
#[test]
fn a_thousand_races_under_cut_links_and_crashes_never_have_two_winners_at_once() {
    let wins: u64 = (0..RACES).map(faulty_course::<Strict>).sum();
    assert!(wins > RACES, "the races are won too seldom to show anything: {wins}");
}

// proves: P3
#[test]
fn nobody_wins_while_the_halves_do_not_hear_each_other() {
    for seed in 0..100 {
        let mut world = World::<Strict>::split_pair(seed);
        world.cut();
        world.settle();
        world.answers();
        for side in SIDES {
            world.command(side, Command::Reserve { node: node(side) });
            world.settle();
        }
        let refused = [vec![Err(Refusal::Unreachable)], vec![Err(Refusal::Unreachable)]];
        assert_eq!(world.answers(), refused, "seed {seed}");
        assert!(SIDES.iter().all(|side| world.sites[*side as usize].half.record().reserved.is_none()));
        world.ends_well();
    }
}

// proves: P3
#[test]
fn halves_that_break_a_rule_are_noticed() {
    assert!(is_noticed::<SwapWhilePaired>(300), "a swap in the pair state");
    assert!(is_noticed::<WordBeforeDecision>(300), "a word before the decision is durable");
    assert!(is_noticed::<GrantAlone>(300), "a grant that the other half has not heard of");
    assert!(is_noticed::<SwapWithoutYielding>(300), "a swap while the former winner goes on");
}

/// The course of a two-site cluster, without its services.
// proves: P3
#[test]
fn the_winner_splits_goes_on_and_is_fenced_before_the_other_side_wins() {
    let mut world = World::<Strict>::split_pair(11);
    let winner = world.fair_race();
    world.order(winner, Command::Split);
    let loser = winner.other();
    assert!(world.site(winner).holds.is_some());
    let grant = world.order(loser, Command::Reserve { node: node(loser) }).expect("a grant");
    assert_eq!(grant.epoch, 2);
    assert!(world.site(winner).holds.is_none(), "it was fenced");
    assert_eq!(world.site(winner).half.record().reserved, None, "the loser keeps nothing");
    assert_eq!(world.states()[loser as usize], (Role::Primary, State::Pair));
    // The answer to it was lost: asked again, it has won already.
    assert_eq!(world.order(loser, Command::Reserve { node: node(loser) }), Some(grant));
}

// proves: P3
#[test]
fn a_takeover_alone_outlives_the_former_primary_whose_content_is_not_served_again() {
    let mut world = World::<Strict>::new(3);
    world.mend();
    world.settle();
    world.order(Side::First, Command::Create);
    world.cut();
    world.settle();
    assert_eq!(world.states(), [Role::Primary, Role::Secondary].map(|role| (role, State::SuspendedError)));
    world.write(Side::First);
    world.order(Side::Second, Command::Takeover { alone: true });
    world.write(Side::Second);
    world.mend();
    world.settle();
    assert_eq!(world.states(), [Role::Secondary, Role::Primary].map(|role| (role, State::SuspendedError)));
    assert!(!world.site(Side::First).half.admits_reads() && !world.site(Side::First).half.admits_writes());
    world.command(Side::First, Command::SwapResync);
    assert_eq!(world.answers()[0], [Err(Refusal::Incomplete)]);
    world.order(Side::Second, Command::Resync);
    assert_eq!(world.sites[0].content, world.sites[1].content);
}

// proves: P3
#[test]
fn a_decision_that_the_other_half_did_not_follow_ends_suspended_with_an_error_at_both() {
    for command in [Command::Split, Command::Resync] {
        let mut world = World::<Strict>::new(5);
        world.mend();
        world.settle();
        world.order(Side::First, Command::Create);
        if command == Command::Resync {
            world.order(Side::First, Command::Split);
            world.answers();
        }
        world.command(Side::First, command);
        assert!(world.step(), "the decision is durable");
        world.cut();
        world.settle();
        assert_eq!(world.answers()[0], [Err(Refusal::Unanswered)], "{command}");
        world.mend();
        world.settle();
        let both = [Role::Primary, Role::Secondary].map(|role| (role, State::SuspendedError));
        assert_eq!(world.states(), both, "{command}");
        world.ends_well();
    }
}

// proves: P1
#[test]
fn a_fault_of_either_half_suspends_both_with_an_error() {
    for faulty in SIDES {
        let mut world = World::<Strict>::new(8);
        world.mend();
        world.settle();
        world.order(Side::First, Command::Create);
        world.feed(faulty, Half::copy_failed);
        world.settle();
        let both = [Role::Primary, Role::Secondary].map(|role| (role, State::SuspendedError));
        assert_eq!(world.states(), both, "{faulty:?}");
        world.ends_well();
    }
}

/// Every acknowledged write is there after a takeover in the pair state.
// proves: P3
#[test]
fn a_takeover_in_the_pair_state_loses_no_acknowledged_write() {
    for seed in 0..200 {
        let mut world = World::<Strict>::new(seed);
        world.mend();
        world.settle();
        world.order(Side::First, Command::Create);
        for _ in 0..10 {
            world.write(Side::First);
            for _ in 0..world.dice.below(6) {
                world.step();
            }
        }
        world.settle();
        world.order(Side::Second, Command::Takeover { alone: false });
        assert_eq!(world.states()[1], (Role::Primary, State::Pair));
        assert_eq!(world.sites[1].content, Content::Whole(world.acked), "seed {seed}");
    }
}

#[test]
fn both_sides_may_create_at_once_and_one_goes_first() {
    for seed in 0..200 {
        let mut world = World::<Strict>::new(seed);
        world.mend();
        world.settle();
        for side in SIDES {
            world.command(side, Command::Create);
        }
        world.settle();
        let done = world.answers().concat().iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(done, 1, "seed {seed}");
        assert!(world.states().iter().all(|(_, state)| *state == State::Pair), "seed {seed}");
        world.order(Side::Second, Command::Delete);
        assert!(world.states().iter().all(|(_, state)| *state == State::Simplex), "seed {seed}");
    }
}

/// The table of acceptance, each cell.
// proves: P2
#[test]
fn each_command_is_accepted_in_the_states_and_roles_of_the_table_and_nowhere_else() {
    use State::{Copy, Pair, Simplex, Suspended, SuspendedError};
    let both = [Suspended, SuspendedError];
    let all = [Copy, Pair, Suspended, SuspendedError];
    let reserve = Command::Reserve { node: NodeId(1) };
    let takeover = |alone| Command::Takeover { alone };
    let table: [(Command, &[State], &[State]); 8] = [
        (Command::Create, &[Simplex], &[Simplex]),
        (Command::Split, &[Pair], &[Pair]),
        (Command::Resync, &both, &[]),
        (Command::SwapResync, &[], &both),
        (Command::Delete, &all, &all),
        (takeover(false), &all, &[Pair]),
        (takeover(true), &all, &[Pair, Suspended, SuspendedError]),
        (reserve, &both, &both),
    ];
    for (command, primary, secondary) in table {
        for state in State::ALL {
            for (role, accepted) in [(Role::Primary, primary), (Role::Secondary, secondary)] {
                let record = Record { state, role, ..Record::simplex(PAIR) };
                let said = accepts::<Strict>(&record, command);
                assert_eq!(
                    said.is_ok(),
                    accepted.contains(&state),
                    "{command} of {role} in {state}: {said:?}"
                );
                let incomplete = Record { consistent: false, ..record };
                let swaps = role == Role::Secondary && state.is_suspended();
                if swaps && [Command::SwapResync, takeover(true), reserve].contains(&command) {
                    assert_eq!(accepts::<Strict>(&incomplete, command), Err(Refusal::Incomplete));
                }
            }
        }
    }
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..4u64, Just(u64::MAX)]
}

fn any_record() -> impl Strategy<Value = Record> {
    let grant = (0..2usize, 0..1000u16, any_number());
    let grant = grant.prop_map(|(side, node, epoch)| Grant { side: SIDES[side], node: NodeId(node), epoch });
    let fields = (
        (0..5usize, any::<bool>(), any_number(), any_number(), any::<bool>()),
        (proptest::option::of(grant), any_number(), proptest::option::of(0..1000u16)),
    );
    fields.prop_map(|((state, primary, term, step, consistent), (grant, arbiter_epoch, reserved))| Record {
        pair: PAIR,
        state: State::ALL[state],
        role: if primary { Role::Primary } else { Role::Secondary },
        generation: Generation { term, step },
        consistent,
        grant,
        arbiter_epoch,
        reserved: reserved.map(NodeId),
    })
}

fn any_message() -> impl Strategy<Value = PairMessage> {
    let any_node = || (0..1000u16).prop_map(NodeId);
    let command = prop_oneof![
        Just(Command::Create),
        Just(Command::Split),
        Just(Command::Resync),
        Just(Command::SwapResync),
        Just(Command::Delete),
        any::<bool>().prop_map(|alone| Command::Takeover { alone }),
        any_node().prop_map(|node| Command::Reserve { node }),
        any_node().prop_map(|node| Command::Release { node }),
    ];
    let refusal = prop_oneof![
        any_record().prop_map(|Record { state, role, .. }| Refusal::NotNow { state, role }),
        Just(Refusal::Incomplete),
        Just(Refusal::Busy),
        Just(Refusal::Unreachable),
        Just(Refusal::Unanswered),
        Just(Refusal::Crossed),
        any_node().prop_map(|by| Refusal::Reserved { by }),
        Just(Refusal::NotReserved),
    ];
    prop_oneof![
        (any::<u64>(), any::<u64>(), any_record()).prop_map(|(from, to, record)| PairMessage::Hello {
            from,
            to,
            record
        }),
        (any::<u64>(), command, any_record()).prop_map(|(to, command, record)| PairMessage::Ask {
            to,
            command,
            record
        }),
        (any::<u64>(), refusal).prop_map(|(to, why)| PairMessage::Refused { to, why }),
        (any::<u64>(), any_record()).prop_map(|(to, record)| PairMessage::Follow { to, record }),
        (any::<u64>(), any_record())
            .prop_map(|(to, record)| PairMessage::Followed { to, generation: record.generation }),
    ]
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written_and_any_damage_is_known(
        record in any_record(),
        at in 0..512usize,
        flip in 1..=255u8,
    ) {
        let mut bytes = record.encode();
        prop_assert_eq!(Record::decode(PAIR, &bytes), Ok(record));
        prop_assert_eq!(Record::decode(PAIR + 1, &bytes), Err(RecordFault::Foreign { pair: PAIR }));
        bytes[at] ^= flip;
        prop_assert!(Record::decode(PAIR, &bytes).is_err());
    }

    #[test]
    fn a_message_is_read_as_it_was_written(message in any_message()) {
        prop_assert_eq!(PairMessage::parse(&message.encode()), Ok(message));
    }

    /// Whatever is read as a message is written as the very bytes.
    #[test]
    fn any_bytes_are_a_fault_or_the_one_form_of_a_message(
        message in any_message(),
        turned in proptest::collection::vec((0..PAIR_MESSAGE_BYTES, any::<u8>()), 0..4),
        length in 0..=PAIR_MESSAGE_BYTES + 1,
    ) {
        let mut bytes = message.encode().to_vec();
        for (at, byte) in turned {
            bytes[at] = byte;
        }
        if let Ok(read) = PairMessage::parse(&bytes) {
            prop_assert_eq!(read.encode().to_vec(), bytes.clone());
        }
        bytes.resize(length, 0);
        prop_assert!(length == PAIR_MESSAGE_BYTES || PairMessage::parse(&bytes).is_err());
    }

    /// Words of no honest half: it does not panic.
    #[test]
    fn no_word_of_the_other_half_makes_it_panic(
        records in proptest::collection::vec((any_record(), 0..5u8, any::<bool>()), 1..30),
    ) {
        let mut half = Half::new(Side::First, Record::simplex(PAIR), PairLimits::default());
        let mut actions = Vec::new();
        half.connected(Time(1), 5, &mut actions);
        for (record, kind, known) in records {
            let to = if known { 5 } else { 6 };
            let message = match kind {
                0 => PairMessage::Hello { from: 9, to, record },
                1 => PairMessage::Ask { to, command: Command::Reserve { node: NodeId(2) }, record },
                2 => PairMessage::Refused { to, why: Refusal::Incomplete },
                3 => PairMessage::Follow { to, record },
                _ => PairMessage::Followed { to, generation: record.generation },
            };
            half.message(Time(2), message, &mut actions);
            for action in actions.split_off(0) {
                match action {
                    PairAction::Persist { .. } => half.persisted(Time(3), &mut actions),
                    PairAction::Yield => half.yielded(Time(3), &mut actions),
                    PairAction::Send(_) | PairAction::Answer { .. } => {}
                }
            }
        }
    }
}
