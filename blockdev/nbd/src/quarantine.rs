//! Keeps a reconnecting client from meeting the late writes of its dead connection.
//!
//! The death of a connection does not stop what it has in the service. If a new connection could write before
//! those requests end, an old write could land on top of a newer acknowledged one (SPEC B5). So the requests
//! of a dead connection stay here until the service has completed every one of them, and meanwhile
//! - a connection that began transmission after that death submits nothing at all to the same volume, and
//! - one that was there before, which may belong to the same client, submits nothing that overlaps with them.
//!
//! Pure: no I/O, no clock. The order of deaths and arrivals is a counter.

use std::ops::Range;

use crate::VolumeHandle;
use crate::connection::{JobNumber, JobSpan};

/// A moment between deaths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// A request of a dead connection that is still in the service.
#[derive(Debug)]
struct Grave {
    volume: VolumeHandle,
    connection: u32,
    died: Moment,
    job: JobNumber,
    bytes: Range<u64>,
    changes_disk: bool,
}

/// A connection that wants to submit.
#[derive(Clone, Copy, Debug)]
pub struct Applicant {
    /// Its number.
    pub connection: u32,
    /// Its volume.
    pub volume: VolumeHandle,
    /// When its transmission began.
    pub arrived: Moment,
    /// When it was buried itself, if it was: a client that disconnects still gets its requests done, but
    /// behind those of the connections that died before it.
    pub died: Option<Moment>,
}

/// The requests of dead connections of all exports.
#[derive(Debug, Default)]
pub struct Quarantine {
    deaths: u64,
    graves: Vec<Grave>,
}

impl Quarantine {
    /// Now, as the arrival of a connection whose transmission begins.
    pub fn now(&self) -> Moment {
        Moment(self.deaths)
    }

    /// A connection is dead, or takes leave, with these requests unfinished. A second burial of the same
    /// connection replaces the list but keeps the moment, which is returned.
    pub fn bury(
        &mut self,
        connection: u32,
        volume: VolumeHandle,
        unfinished: impl Iterator<Item = JobSpan>,
        died_before: Option<Moment>,
    ) -> Moment {
        let died = died_before.unwrap_or(Moment(self.deaths));
        if died_before.is_none() {
            self.deaths += 1;
        }
        self.graves.retain(|grave| grave.connection != connection);
        self.graves.extend(unfinished.map(|JobSpan { job, bytes, changes_disk }| Grave {
            volume,
            connection,
            died,
            job,
            bytes,
            changes_disk,
        }));
        died
    }

    /// The service is done with a request of a buried connection.
    pub fn settle(&mut self, connection: u32, job: JobNumber) {
        self.graves.retain(|grave| grave.connection != connection || grave.job != job);
    }

    /// May the applicant submit a request that touches these bytes?
    pub fn admits(&self, applicant: &Applicant, span: &JobSpan) -> bool {
        !self.graves.iter().any(|grave| grave.bars(applicant, span))
    }

    /// Requests of dead connections that are still in the service.
    pub fn unsettled(&self) -> usize {
        self.graves.len()
    }
}

impl Grave {
    fn bars(&self, applicant: &Applicant, span: &JobSpan) -> bool {
        if self.volume != applicant.volume || self.connection == applicant.connection {
            return false;
        }
        if applicant.died.is_some_and(|died| self.died >= died) {
            return false;
        }
        let new_comer = applicant.arrived > self.died;
        let overlaps = self.bytes.start < span.bytes.end && span.bytes.start < self.bytes.end;
        new_comer || (self.changes_disk && overlaps)
    }
}
