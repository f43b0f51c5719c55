//! Clusters of membership machines around a perfect log, under seeds: it is totally ordered, reaches each
//! node late and some of it later, its leader changes, proposals are lost, doubled and delayed with their
//! outcome unknown. Messages are lost, late and doubled; nodes are cut off, paused and killed. What must hold
//! is checked in every course; a failure names the number of nodes and the seed.

mod membership_cluster;

use control_proto::protocol_rules::{LeaseFromReceipt, Strict};
use membership_cluster::Cluster;

fn run_seeds(size: usize, seeds: std::ops::Range<u64>) {
    let mut expired = 0;
    for seed in seeds {
        let mut cluster = Cluster::<Strict>::new(size, seed);
        cluster.run();
        cluster.check_healed();
        assert!(cluster.decided() > 0, "nothing was ever decided");
        let found = &cluster.violations;
        assert!(found.is_empty(), "{size} nodes, seed {seed}:\n{}", found.join("\n"));
        expired += cluster.expired();
    }
    // In two of two a majority never goes on without the other.
    assert!(expired > 50 || size == 2, "the courses met {expired} silent members only");
}

// proves: C3 C6
#[test]
fn three_nodes_never_disagree_and_all_come_back() {
    run_seeds(3, 0..300);
}

// proves: C3 C6
#[test]
fn five_nodes_never_disagree_and_all_come_back() {
    run_seeds(5, 0..120);
}

// proves: C3 C6
#[test]
fn two_nodes_never_disagree_and_both_come_back() {
    run_seeds(2, 0..100);
}

/// The proof that the checker bites: a lease that is counted from its receipt outlives the leader's patience.
// proves: C6
#[test]
fn the_checker_catches_a_lease_that_counts_from_its_receipt() {
    let caught = (0..300).any(|seed| {
        let mut cluster = Cluster::<LeaseFromReceipt>::new(3, seed);
        cluster.run();
        cluster.violations.iter().any(|violation| violation.contains("holds a lease"))
    });
    assert!(caught, "300 seeds of leases from receipt and nobody noticed");
}

#[test]
fn a_seed_gives_the_same_course_every_time() {
    let log = |seed| {
        let mut cluster = Cluster::<Strict>::new(3, seed);
        cluster.run();
        cluster.log
    };
    assert_eq!(log(11), log(11));
}
