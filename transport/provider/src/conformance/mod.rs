//! The conformance suite: one rule of the contract is one function, and every provider passes all of them.
//!
//! A provider's test file names a [`Fixture`] and calls [`crate::conformance_suite!`], which makes one
//! `#[test]` of each rule. The rules run both ends in one process, mostly on one thread, over whatever the
//! provider really uses (sockets, shared memory); nothing is mocked. [`Heard`] checks what must hold at every
//! moment: no report of a connection that is not open, nothing after `lost`, `established` only after
//! `establish`.

mod fairness;
mod frames;
mod handshake;
mod lifecycle;
mod memory;
mod refusal;
mod side;
mod wakeup;

pub use fairness::*;
pub use frames::*;
pub use handshake::*;
pub use lifecycle::*;
pub use memory::*;
pub use refusal::*;
pub use side::{Content, Heard, Link, Pair, Received, Side, pattern, pump_until, rail, turn_both};
pub use wakeup::*;

use crate::Provider;
use std::any::Any;

/// What a provider brings to be tested. Shared by the threads of a test.
pub trait Fixture: Sync {
    /// The provider.
    type Provider: Provider<Address: Clone + Send + Sync>;

    /// A fresh provider that is not attached yet. Its memory should be small (tens of MiB) but hold at least
    /// four data parts of [`transport_proto::wire::DATA_BYTES_MAX`], since the suite exhausts it.
    fn provider(&self) -> Self::Provider;

    /// An address at which nobody listens yet and a provider may; another one at each call.
    fn address(&self) -> <Self::Provider as Provider>::Address;

    /// The local end for dialing.
    fn local(&self) -> <Self::Provider as Provider>::Address;

    /// Connects to `address` without a provider and sends `bytes`, which are no frames of ours, and holds the
    /// connection open until the result is dropped.
    fn send_garbage(&self, address: &<Self::Provider as Provider>::Address, bytes: &[u8]) -> Box<dyn Any>;
}

/// Makes one test of each rule of the contract, for the provider of the fixture that the expression yields.
#[macro_export]
macro_rules! conformance_suite {
    ($fixture:expr) => {
        // proves: T8
        #[test]
        fn greeting_frames_pass_before_establish_and_payload_does_not() {
            $crate::conformance::greeting_frames_pass_before_establish_and_payload_does_not(&$fixture);
        }
        // proves: T8
        #[test]
        fn reports_come_in_order_accepted_connected_established() {
            $crate::conformance::reports_come_in_order_accepted_connected_established(&$fixture);
        }
        // proves: T8
        #[test]
        fn payload_posted_right_behind_the_handshake_waits_for_establish() {
            $crate::conformance::payload_posted_right_behind_the_handshake_waits_for_establish(&$fixture);
        }
        // proves: T8
        #[test]
        fn dialing_an_address_where_nobody_listens_is_lost_as_refused() {
            $crate::conformance::dialing_an_address_where_nobody_listens_is_lost_as_refused(&$fixture);
        }
        // proves: T8
        #[test]
        fn listening_on_an_address_in_use_is_refused() {
            $crate::conformance::listening_on_an_address_in_use_is_refused(&$fixture);
        }
        // proves: T8
        #[test]
        fn an_address_can_be_listened_on_again_after_unlisten() {
            $crate::conformance::an_address_can_be_listened_on_again_after_unlisten(&$fixture);
        }
        // proves: T8
        #[test]
        fn garbage_ends_its_connection_as_a_protocol_fault_and_no_other() {
            $crate::conformance::garbage_ends_its_connection_as_a_protocol_fault_and_no_other(&$fixture);
        }
        // proves: T8
        #[test]
        fn frames_of_every_control_and_inline_length_arrive_once_whole_and_in_order() {
            $crate::conformance::frames_of_every_control_and_inline_length_arrive_once_whole_and_in_order(
                &$fixture,
            );
        }
        // proves: T8 T9
        #[test]
        fn data_of_every_size_arrives_whole_from_every_kind_of_payload() {
            $crate::conformance::data_of_every_size_arrives_whole_from_every_kind_of_payload(&$fixture);
        }
        // proves: T8
        #[test]
        fn slices_of_a_payload_arrive_as_their_own_bytes() {
            $crate::conformance::slices_of_a_payload_arrive_as_their_own_bytes(&$fixture);
        }
        // proves: T8
        #[test]
        fn header_fields_arrive_as_they_were_posted() {
            $crate::conformance::header_fields_arrive_as_they_were_posted(&$fixture);
        }
        // proves: T8
        #[test]
        fn mixed_traffic_in_both_directions_keeps_its_order() {
            $crate::conformance::mixed_traffic_in_both_directions_keeps_its_order(&$fixture);
        }
        // proves: T6 T8
        #[test]
        fn memory_reserved_on_a_dead_connection_is_sent_over_another() {
            $crate::conformance::memory_reserved_on_a_dead_connection_is_sent_over_another(&$fixture);
        }
        // proves: T12
        #[test]
        fn a_full_queue_refuses_without_a_trace_and_says_when_it_is_writable() {
            $crate::conformance::a_full_queue_refuses_without_a_trace_and_says_when_it_is_writable(&$fixture);
        }
        // proves: T12
        #[test]
        fn what_is_too_large_is_refused_as_such() {
            $crate::conformance::what_is_too_large_is_refused_as_such(&$fixture);
        }
        // proves: T8
        #[test]
        fn connections_that_are_not_open_refuse_posts() {
            $crate::conformance::connections_that_are_not_open_refuse_posts(&$fixture);
        }
        // proves: T12
        #[test]
        fn reservations_run_out_without_stopping_what_comes_in() {
            $crate::conformance::reservations_run_out_without_stopping_what_comes_in(&$fixture);
        }
        // proves: T4
        #[test]
        fn held_chunks_keep_their_bytes_while_traffic_goes_on() {
            $crate::conformance::held_chunks_keep_their_bytes_while_traffic_goes_on(&$fixture);
        }
        // proves: T4 T12
        #[test]
        fn exhausted_receive_memory_refuses_and_recovers_when_chunks_return() {
            $crate::conformance::exhausted_receive_memory_refuses_and_recovers_when_chunks_return(&$fixture);
        }
        // proves: T4
        #[test]
        fn a_chunk_may_be_released_on_another_thread() {
            $crate::conformance::a_chunk_may_be_released_on_another_thread(&$fixture);
        }
        // proves: T11
        #[test]
        fn memory_of_a_dead_connection_is_not_reused_while_its_chunks_live() {
            $crate::conformance::memory_of_a_dead_connection_is_not_reused_while_its_chunks_live(&$fixture);
        }
        // proves: T8
        #[test]
        fn closing_ends_both_sides_and_nothing_arrives_afterwards() {
            $crate::conformance::closing_ends_both_sides_and_nothing_arrives_afterwards(&$fixture);
        }
        // proves: T8
        #[test]
        fn a_provider_that_goes_away_is_noticed_by_its_peer() {
            $crate::conformance::a_provider_that_goes_away_is_noticed_by_its_peer(&$fixture);
        }
        // proves: T7 T12
        #[test]
        fn reconnecting_a_hundred_times_works_and_leaks_no_memory() {
            $crate::conformance::reconnecting_a_hundred_times_works_and_leaks_no_memory(&$fixture);
        }
        // proves: T8
        #[test]
        fn a_sleeping_side_wakes_for_every_kind_of_report() {
            $crate::conformance::a_sleeping_side_wakes_for_every_kind_of_report(&$fixture);
        }
        // proves: T8
        #[test]
        fn no_wake_up_is_lost_between_two_threads_that_sleep_and_post() {
            $crate::conformance::no_wake_up_is_lost_between_two_threads_that_sleep_and_post(&$fixture);
        }
        // proves: T12
        #[test]
        fn a_sender_asleep_on_a_full_queue_wakes_when_it_is_writable() {
            $crate::conformance::a_sender_asleep_on_a_full_queue_wakes_when_it_is_writable(&$fixture);
        }
        // proves: T2
        #[test]
        fn a_flooded_connection_does_not_starve_the_others() {
            $crate::conformance::a_flooded_connection_does_not_starve_the_others(&$fixture);
        }
        // proves: T2
        #[test]
        fn a_connection_without_memory_does_not_stop_small_frames_of_others() {
            $crate::conformance::a_connection_without_memory_does_not_stop_small_frames_of_others(&$fixture);
        }
    };
}
