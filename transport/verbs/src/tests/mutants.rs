//! Broken on purpose: each rule of the provider that only the double can see is broken once, and must be
//! noticed within a few seeds.

use super::course::{Course, late_writes};
use crate::fabric::double::Weather;
use crate::mutant::{BROKEN, Mutant};

/// Seeds that a mutant may survive at the most.
const SEEDS: u64 = 24;

fn is_noticed(mutant: Mutant) -> bool {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let noticed = (1..=SEEDS).any(|seed| {
        // A thread of its own, so that the rule is broken nowhere else.
        let run = std::thread::spawn(move || {
            BROKEN.set(Some(mutant));
            late_writes(seed);
            Course::new(seed * 77, Weather::ROUGH).run(8);
        });
        run.join().is_err()
    });
    std::panic::set_hook(quiet);
    noticed
}

// proves: T11
#[test]
fn memory_reused_before_the_receiver_revoked_it_is_noticed() {
    assert!(is_noticed(Mutant::EarlyReuse));
}

// proves: T8
#[test]
fn a_write_not_counted_as_taking_a_receive_is_noticed() {
    assert!(is_noticed(Mutant::UncountedWrite));
}

// proves: T8
#[test]
fn a_send_queue_filled_without_signals_is_noticed() {
    assert!(is_noticed(Mutant::Unsignalled));
}

// proves: T11
#[test]
fn a_queue_without_a_fresh_packet_number_is_noticed() {
    assert!(is_noticed(Mutant::StalePacketSequence));
}

// proves: T9
#[test]
fn memory_given_back_before_it_was_sent_is_noticed() {
    assert!(is_noticed(Mutant::EarlyRelease));
}

// proves: T4
#[test]
fn a_chunk_used_again_before_it_was_returned_is_noticed() {
    assert!(is_noticed(Mutant::EarlyChunk));
}
