//! Drivers and masters against each other, over a net that loses, repeats and reorders, on a disk that two
//! nodes reach, while masters and clients are killed and paths break: what clients see must be what one disk
//! could show, and once the faults are healed nothing may be stuck.
//!
//! This is the small loop beside the machines; the simulator runs whole nodes. A failure names its seed.

mod history;
mod world;

use blockdev_proto::rules::{NoDuplicateTable, NoEpochGate, Rules, Strict};
use world::World;

/// Runs one seed to its end; what went wrong, if anything did.
fn run<R: Rules>(seed: u64) -> Result<world::Score, String> {
    let mut world = World::<R>::new(seed);
    world.storm(2_500)?;
    world.heal()?;
    world.judge()
}

/// The first seed in which something goes wrong.
fn first_failure<R: Rules>(seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| run::<R>(seed).err().map(|fault| (seed, fault)))
}

// proves: B2 B3 B4 B5
#[test]
fn clients_see_one_disk_and_nothing_is_lost_whatever_dies_or_breaks() {
    let mut sum = world::Score::default();
    for seed in 0..1000 {
        match run::<Strict>(seed) {
            Ok(score) => sum.add(&score),
            Err(fault) => panic!("seed {seed}: {fault}"),
        }
    }
    // The storm must have met what it is meant to meet, or the verdict says nothing.
    assert!(sum.completed > 50_000, "{sum:?}");
    for met in
        [sum.reissued, sum.limbo, sum.duplicates, sum.stale, sum.path_broken, sum.kills, sum.client_kills]
    {
        assert!(met > 100, "{sum:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_course() {
    assert_eq!(run::<Strict>(7), run::<Strict>(7));
}

// proves: B5
#[test]
fn without_the_epoch_gate_a_stale_write_lands_and_is_noticed() {
    assert!(first_failure::<NoEpochGate>(300).is_some(), "300 seeds and nobody noticed");
}

// proves: B5
#[test]
fn without_the_duplicate_table_a_repeated_write_lands_late_and_is_noticed() {
    assert!(first_failure::<NoDuplicateTable>(300).is_some(), "300 seeds and nobody noticed");
}
