//! What clients saw, and whether one disk could have shown it to them.
//!
//! Every write has a value of its own, so the reads of a value and its write form a cluster. By Gibbons and
//! Korach, "Testing shared memories" (SIAM J. Comput. 26(4), 1997), a history of one register with such
//! values is linearizable exactly when no read ends before its write begins, no two forward zones overlap,
//! and no backward zone lies within a forward zone. A cluster's zone runs from its first end to its last
//! beginning.

use std::collections::BTreeMap;

/// A write or a read of one block; times are ticks of the world, each used once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// Value written or read; 0 is what the disk holds at first.
    pub(crate) value: u64,
    /// When the client asked.
    pub(crate) begin: u64,
    /// When it was over: the client got its answer, or nothing of it could run any more. `u64::MAX` if never.
    pub(crate) end: u64,
    /// It did happen. A write that failed or whose client died may not have.
    pub(crate) certain: bool,
    /// A write, else a read.
    pub(crate) writes: bool,
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    value: u64,
    first_end: u64,
    last_begin: u64,
    write_begin: Option<u64>,
    is_read: bool,
    certain: bool,
}

/// Says what no disk could have shown, if anything, though a write may have taken effect more than once
/// before its client got the answer: a value came back after a write that began after its own write was over.
pub(crate) fn stale_fault_of(accesses: &[Access]) -> Option<String> {
    let writes = || accesses.iter().filter(|access| access.writes);
    for read in accesses.iter().filter(|access| !access.writes) {
        let end = match writes().find(|write| write.value == read.value) {
            Some(write) if write.begin > read.end => {
                return Some(format!("value {} was read before it was written", read.value));
            }
            Some(write) => write.end,
            None if read.value == 0 => 0,
            None => return Some(format!("value {} was read and never written", read.value)),
        };
        let newer = writes().find(|write| write.certain && write.begin > end && write.end < read.begin);
        if let Some(newer) = newer {
            return Some(format!(
                "value {} came back after the newer {} was answered",
                read.value, newer.value
            ));
        }
    }
    None
}

/// Says what is wrong with the history of one block, if anything.
pub(crate) fn fault_of(accesses: &[Access]) -> Option<String> {
    let mut clusters: BTreeMap<u64, Zone> = BTreeMap::new();
    for access in accesses {
        let zone = clusters.entry(access.value).or_insert(Zone {
            value: access.value,
            first_end: u64::MAX,
            last_begin: 0,
            write_begin: None,
            is_read: false,
            certain: false,
        });
        zone.first_end = zone.first_end.min(access.end);
        zone.last_begin = zone.last_begin.max(access.begin);
        zone.is_read |= !access.writes;
        zone.certain |= access.writes && access.certain;
        if access.writes {
            zone.write_begin = Some(access.begin);
        }
    }
    // The disk's first content was written before everything else.
    let first = clusters.entry(0).or_insert(Zone {
        value: 0,
        first_end: 0,
        last_begin: 0,
        write_begin: Some(0),
        is_read: false,
        certain: true,
    });
    first.first_end = 0;
    first.write_begin = Some(0);
    for access in accesses.iter().filter(|access| !access.writes) {
        match clusters[&access.value].write_begin {
            None => return Some(format!("value {} was read and never written", access.value)),
            Some(begin) if access.end < begin => {
                return Some(format!("value {} was read before it was written", access.value));
            }
            Some(_) => {}
        }
    }
    // A write without good answer that nobody read may never have happened.
    let zones: Vec<Zone> = clusters.into_values().filter(|zone| zone.is_read || zone.certain).collect();
    conflict(&zones)
}

fn conflict(zones: &[Zone]) -> Option<String> {
    let (forward, backward): (Vec<Zone>, Vec<Zone>) =
        zones.iter().partition(|zone| zone.first_end < zone.last_begin);
    for (index, one) in forward.iter().enumerate() {
        for other in &forward[index + 1..] {
            if one.first_end < other.last_begin && other.first_end < one.last_begin {
                return Some(format!(
                    "values {} and {} each came back after the other",
                    one.value, other.value
                ));
            }
        }
        let within = |zone: &&Zone| zone.last_begin > one.first_end && zone.first_end < one.last_begin;
        if let Some(zone) = backward.iter().find(within) {
            return Some(format!("value {} came back after it was overwritten by {}", one.value, zone.value));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, begin: u64, end: u64) -> Access {
        Access { value, begin, end, certain: end != u64::MAX, writes: true }
    }

    fn read(value: u64, begin: u64, end: u64) -> Access {
        Access { value, begin, end, certain: true, writes: false }
    }

    #[test]
    fn the_checker_accepts_what_a_disk_can_do() {
        assert_eq!(fault_of(&[write(1, 1, 2), read(1, 3, 4), write(2, 5, 6), read(2, 7, 8)]), None);
        assert_eq!(fault_of(&[write(1, 1, 10), write(2, 2, 3), read(2, 4, 5), read(1, 11, 12)]), None);
        assert_eq!(fault_of(&[write(1, 1, u64::MAX), read(0, 2, 3), read(1, 4, 5), write(2, 6, 7)]), None);
        assert_eq!(fault_of(&[write(1, 1, u64::MAX), write(2, 2, 3), read(2, 4, 5)]), None);
    }

    #[test]
    fn the_checker_refuses_lost_stale_and_invented_values() {
        let lost = [write(1, 1, 2), read(0, 3, 4)];
        let stale = [write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)];
        let back_again = [write(1, 1, 10), write(2, 2, 3), read(1, 4, 5), read(2, 6, 7), read(1, 8, 9)];
        let invented = [read(7, 1, 2)];
        let early = [read(1, 1, 2), write(1, 3, 4)];
        for history in [&lost[..], &stale, &back_again, &invented, &early] {
            assert!(fault_of(history).is_some(), "{history:?}");
        }
        for history in [&lost[..], &stale, &invented, &early] {
            assert!(stale_fault_of(history).is_some(), "{history:?}");
        }
        assert_eq!(stale_fault_of(&back_again), None, "a write may take effect again until it is answered");
    }
}
