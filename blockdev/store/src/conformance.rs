//! The one suite that every backing passes (SPEC B11). A backing brings a function that makes a fresh disk of
//! zeroes; [`conformance_suite!`](crate::conformance_suite) turns each check into a test of its own.
//!
//! Checks read the shape from the disk, so any size from [`DATA_BYTES_MIN`] and any block will do.

mod bench;
mod checks;
mod model;

pub use bench::{Bench, TestMemory, pattern};
pub use checks::*;
pub use model::random_requests_agree_with_a_model;

/// The smallest disk that the suite works on.
pub const DATA_BYTES_MIN: u64 = 4 << 20;

/// Makes a module with one test per check. The second argument is a function or closure expression that gives
/// `Option<impl Backing>`, `None` (after saying so on standard error) where this machine cannot make such a
/// disk.
#[macro_export]
macro_rules! conformance_suite {
    ($module:ident, $make:expr) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            $crate::conformance_suite!(@checks $make;
                a_fresh_disk_reads_as_zeroes
                what_was_written_is_read_back
                memory_of_any_alignment_is_served
                requests_that_do_not_fit_are_refused_and_change_nothing
                written_zeroes_are_read_and_neighbours_stay
                discarded_blocks_read_as_zeroes_or_as_before_and_neighbours_stay
                durable_requests_and_flushes_end_well
                a_full_queue_refuses_and_every_taken_request_ends_once
                a_sleeper_is_woken_by_each_completion
                counters_tell_what_was_done
                dropping_a_disk_waits_for_what_is_in_flight
                random_requests_agree_with_a_model
            );
        }
    };
    (@checks $make:expr; $($check:ident)*) => {
        $(
            #[test]
            fn $check() {
                match $make() {
                    Some(disk) => $crate::conformance::$check(disk),
                    None => eprintln!("SKIPPED {}: {}", module_path!(), stringify!($check)),
                }
            }
        )*
    };
}
