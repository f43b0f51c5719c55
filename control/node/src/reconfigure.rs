//! This node in reconfigurations (SPEC C4): as a member that stands still and says so, and as the leader that
//! gives up what takes too long. Both go by the log alone: nobody resumes but by its word.

use crate::consensus::{Asker, Consensus};
use blockdev_engine::BlockEngine;
use control_proto::ccd::{CancelCause, Change, Database, Phase, Reconfiguration, ReconfigurationId};
use control_proto::view::Member;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// An acknowledgement that the log does not show is given again after this time.
const AGAIN: Duration = Duration::from_millis(250);

/// What is known of the reconfigurations under way.
#[derive(Default)]
pub(crate) struct Reconfigurations {
    /// Some are live, as of the last news.
    any_live: bool,
    /// When this node acknowledged, or gave one up as impossible, last.
    answered: BTreeMap<ReconfigurationId, Instant>,
    /// As leader: how long each has been in the phase that it is in.
    seen: BTreeMap<ReconfigurationId, Seen>,
}

/// One as its overseer sees it.
struct Seen {
    held: bool,
    since: Instant,
    /// When it was given up last.
    given_up: Option<Instant>,
}

impl Reconfigurations {
    /// The log has gone on.
    pub(crate) fn note(&mut self, database: &Database) {
        self.any_live = database.live_reconfigurations().next().is_some();
        if !self.any_live {
            self.answered.clear();
            self.seen.clear();
        }
    }

    /// Says that this node stands still, for each reconfiguration that waits for it and for which that is so.
    /// `cannot` tells why a change would be impossible here.
    pub(crate) fn take_part(
        &mut self,
        me: Member,
        database: &Database,
        engine: &BlockEngine,
        consensus: &mut Consensus,
        mut cannot: impl FnMut(&Reconfiguration) -> Option<String>,
    ) {
        if !self.any_live {
            return;
        }
        for row in database.live_reconfigurations().filter(|row| row.missing.contains(&me)) {
            let recently = self.answered.get(&row.id).is_some_and(|at| at.elapsed() < AGAIN);
            if recently || !row.volumes.iter().all(|volume| engine.stands_still(*volume)) {
                continue;
            }
            let change = match cannot(row) {
                None => {
                    tracing::info!(reconfiguration = row.id.0, "this node stands still for it");
                    Change::Ack { reconfiguration: row.id, member: me }
                }
                Some(why) => {
                    tracing::error!(reconfiguration = row.id.0, "given up, it cannot be done here: {why}");
                    Change::Cancel { reconfiguration: row.id, why: CancelCause::Unfit }
                }
            };
            // Not taken: tried again.
            let _ = consensus.propose(Asker::Participant, Vec::new(), change);
            self.answered.insert(row.id, Instant::now());
        }
    }

    /// As leader: gives up what takes longer than it may, by this node's clock from when it saw it first.
    pub(crate) fn oversee(&mut self, database: &Database, consensus: &mut Consensus) {
        if !self.any_live {
            return;
        }
        if !consensus.leads() {
            self.seen.clear();
            return;
        }
        let now = Instant::now();
        self.seen.retain(|id, _| database.reconfiguration(*id).is_some_and(|row| row.phase.is_live()));
        for row in database.live_reconfigurations() {
            let held = matches!(row.phase, Phase::Held { .. });
            let fresh = || Seen { held, since: now, given_up: None };
            let seen = self.seen.entry(row.id).or_insert_with(fresh);
            if seen.held != held {
                *seen = fresh();
            }
            let waited = now.duration_since(seen.since) >= Duration::from_millis(row.deadline_ms.into());
            if !waited || seen.given_up.is_some_and(|at| at.elapsed() < AGAIN) {
                continue;
            }
            let why = if held { CancelCause::HeldTooLong } else { CancelCause::Deadline };
            let change = Change::Cancel { reconfiguration: row.id, why };
            // Not taken: tried again.
            let _ = consensus.propose(Asker::Overseer, Vec::new(), change);
            seen.given_up = Some(now);
        }
    }

    /// When there is something to do by time alone.
    pub(crate) fn next_due(&self, database: &Database) -> Option<Instant> {
        if !self.any_live {
            return None;
        }
        let soon = Instant::now() + AGAIN;
        let deadline = |row: &Reconfiguration| {
            let seen = self.seen.get(&row.id)?;
            Some(seen.since + Duration::from_millis(row.deadline_ms.into()))
        };
        Some(database.live_reconfigurations().filter_map(deadline).min().map_or(soon, |at| at.min(soon)))
    }
}
