//! A reconnecting client never meets its dead connection's late writes: the rule itself, as a table.

#![allow(clippy::unwrap_used, reason = "a test fails where it finds the unexpected")]

use std::ops::Range;

use blockdev_nbd::VolumeHandle;
use blockdev_nbd::connection::{JobNumber, JobSpan};
use blockdev_nbd::quarantine::{Applicant, Moment, Quarantine};

const DISK: VolumeHandle = VolumeHandle(1);

fn span(job: u16, bytes: Range<u64>, changes_disk: bool) -> JobSpan {
    JobSpan { job: JobNumber(job), bytes, changes_disk }
}

fn applicant(connection: u32, arrived: Moment) -> Applicant {
    Applicant { connection, volume: DISK, arrived, died: None }
}

// proves: B5
#[test]
fn a_new_connection_waits_until_the_last_request_of_the_dead_one_is_done() {
    let mut quarantine = Quarantine::default();
    let requests = [span(0, 0..512, true), span(1, 4096..8192, false)];
    quarantine.bury(1, DISK, requests.into_iter(), None);
    let new_comer = applicant(2, quarantine.now());
    let elsewhere = span(9, 1 << 20..1 << 21, false);
    assert!(!quarantine.admits(&new_comer, &elsewhere));
    quarantine.settle(1, JobNumber(0));
    assert!(!quarantine.admits(&new_comer, &elsewhere), "one is still in the service");
    quarantine.settle(1, JobNumber(1));
    assert!(quarantine.admits(&new_comer, &elsewhere));
    assert_eq!(quarantine.unsettled(), 0);
}

// proves: B5
#[test]
fn a_connection_that_was_there_before_waits_only_where_a_dead_write_may_land() {
    let mut quarantine = Quarantine::default();
    let resident = applicant(2, quarantine.now());
    let requests = [span(0, 1024..2048, true), span(1, 4096..8192, false)];
    quarantine.bury(1, DISK, requests.into_iter(), None);
    for (bytes, admitted) in [
        (0..1024, true),
        (512..1025, false),
        (2047..4096, false),
        (1024..2048, false),
        (2048..4096, true),
        (4096..8192, true),
        (0..0, true),
    ] {
        for changes_disk in [true, false] {
            let request = span(7, bytes.clone(), changes_disk);
            assert_eq!(quarantine.admits(&resident, &request), admitted, "{request:?}");
        }
    }
}

// proves: B5
#[test]
fn other_volumes_never_wait() {
    let mut quarantine = Quarantine::default();
    quarantine.bury(1, VolumeHandle(2), [span(0, 0..512, true)].into_iter(), None);
    assert!(quarantine.admits(&applicant(2, quarantine.now()), &span(0, 0..512, true)));
}

// proves: B5
#[test]
fn connections_that_leave_one_after_the_other_wait_in_that_order_and_never_for_each_other() {
    let mut quarantine = Quarantine::default();
    let arrived = quarantine.now();
    let request = span(0, 0..512, true);
    let first = quarantine.bury(1, DISK, [request.clone()].into_iter(), None);
    let second = quarantine.bury(2, DISK, [request.clone()].into_iter(), None);
    let leaving = |connection, died| Applicant { died: Some(died), ..applicant(connection, arrived) };
    assert!(quarantine.admits(&leaving(1, first), &request));
    assert!(!quarantine.admits(&leaving(2, second), &request));
    quarantine.settle(1, JobNumber(0));
    assert!(quarantine.admits(&leaving(2, second), &request));
}

// proves: B5
#[test]
fn a_second_burial_of_a_connection_keeps_its_moment_and_replaces_its_list() {
    let mut quarantine = Quarantine::default();
    let died = quarantine.bury(1, DISK, [span(0, 0..512, true), span(1, 0..512, true)].into_iter(), None);
    let new_comer = applicant(2, quarantine.now());
    assert_eq!(quarantine.bury(1, DISK, [span(1, 0..512, true)].into_iter(), Some(died)), died);
    assert_eq!(quarantine.unsettled(), 1);
    assert!(!quarantine.admits(&new_comer, &span(0, 0..512, true)));
    quarantine.settle(1, JobNumber(1));
    assert!(quarantine.admits(&new_comer, &span(0, 0..512, true)));
}
