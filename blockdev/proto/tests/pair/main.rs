//! Two halves of a pair under random commands, delays, cut links and crashes: never two winners, of a race
//! over a whole link exactly one, and no half is read whose content is of no single moment.

mod bytes;
mod world;

use crate::world::{Content, PAIR, SIDES, World, node};
use blockdev_proto::pair::{Command, Half, Record, Refusal, Role, Side, State, accepts};
use blockdev_proto::rules::{
    GrantAlone, Rules, Strict, SwapWhilePaired, SwapWithoutYielding, WordBeforeDecision,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use transport_proto::identity::NodeId;

const RACES: u64 = 1000;

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
