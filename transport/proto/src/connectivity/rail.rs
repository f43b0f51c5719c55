//! One rail as the connectivity monitor sees it.

use super::heartbeat::{FLAG_HEARS_YOU, FLAG_READY, Heartbeat, HeartbeatFault, NO_ECHO};
use super::{DownCause, RailState, Settings, Verdict};
use crate::identity::Path;
use crate::time::Time;
use core::time::Duration;

/// A round trip longer than this is a clock that jumped, not a measurement.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(10);

/// What happened to one rail since it was added. Counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RailCounters {
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats heard and believed.
    pub heard: u64,
    /// Rounds in which one was due and none came.
    pub missed: u64,
    /// Times the rail went down after it was up.
    pub failed: u64,
}

/// The monitor's memory of one rail.
#[derive(Clone, Debug)]
pub(super) struct Rail {
    pub(super) path: Path,
    pub(super) state: RailState,
    pub(super) round_trip: Option<Duration>,
    pub(super) counters: RailCounters,
    pub(super) last_heard: Option<Time>,
    /// Of the heartbeat sent last.
    sequence: u64,
    /// Heartbeats heard in an unbroken run, while not yet receiving.
    run: u32,
    /// Rounds in a row without a heartbeat.
    missed: u32,
    heard_in_round: bool,
    /// Latched: on after a run, off after a silence.
    receiving: bool,
    /// What the peer's last heartbeat on this rail said.
    peer_hears: bool,
    peer_ready: bool,
    peer_sequence: u64,
    /// `sent_at` of the peer's last heartbeat, and when it was heard.
    echo: Option<(u64, Time)>,
    hold: Duration,
    hold_until: Time,
    up_since: Time,
}

impl Rail {
    /// A rail of which nothing is known. Its heartbeats count on from `sequence`.
    pub(super) fn new(path: Path, sequence: u64) -> Rail {
        Rail {
            path,
            state: RailState::Down,
            round_trip: None,
            counters: RailCounters::default(),
            last_heard: None,
            sequence,
            run: 0,
            missed: 0,
            heard_in_round: false,
            receiving: false,
            peer_hears: false,
            peer_ready: false,
            peer_sequence: 0,
            echo: None,
            hold: Duration::ZERO,
            hold_until: Time(0),
            up_since: Time(0),
        }
    }

    /// The peer began a new life: what was learnt of the old one is void, and the rail is not to blame for
    /// it. `Some` if the rail was up.
    pub(super) fn forget_peer(&mut self) -> Option<Verdict> {
        let was_up = self.state == RailState::Up;
        let (counters, round_trip) = (self.counters, self.round_trip);
        *self = Rail { counters, round_trip, ..Rail::new(self.path, self.sequence) };
        was_up.then_some(Verdict::Down { cause: DownCause::PeerRestarted })
    }

    /// A heartbeat that is later than the last one, of the peer's present life. `mine`: it names our present
    /// life.
    pub(super) fn hear(
        &mut self,
        now: Time,
        heartbeat: &Heartbeat,
        mine: bool,
        settings: &Settings,
    ) -> Result<(), HeartbeatFault> {
        let sequence = heartbeat.sequence.get();
        if sequence <= self.peer_sequence {
            return Err(HeartbeatFault::Replayed);
        }
        let unbroken = sequence - 1 == self.peer_sequence;
        self.peer_sequence = sequence;
        self.echo = Some((heartbeat.sent_at.get(), now));
        if !mine {
            return Ok(());
        }
        self.counters.heard += 1;
        self.last_heard = Some(now);
        self.heard_in_round = true;
        self.missed = 0;
        self.run = if unbroken { self.run.saturating_add(1) } else { 1 };
        self.receiving |= self.run >= settings.heard_up;
        self.peer_hears = heartbeat.flags & FLAG_HEARS_YOU != 0;
        self.peer_ready = heartbeat.flags & FLAG_READY != 0;
        self.measure(now, heartbeat);
        Ok(())
    }

    fn measure(&mut self, now: Time, heartbeat: &Heartbeat) {
        let sent_at = Time(heartbeat.echo_sent_at.get());
        if heartbeat.echo_delay.get() == NO_ECHO || sent_at > now {
            return;
        }
        let delay = Duration::from_nanos(u64::from(heartbeat.echo_delay.get()));
        let sample = now.since(sent_at).saturating_sub(delay);
        if sample <= ROUND_TRIP_MAX {
            self.round_trip = Some(self.round_trip.map_or(sample, |average| (average * 7 + sample) / 8));
        }
    }

    /// Ends a round. `void`: this side's own clock slipped, so that a silence may be its own doing.
    pub(super) fn end_round(&mut self, void: bool, settings: &Settings) {
        if !self.heard_in_round && !void {
            self.missed = self.missed.saturating_add(1);
            self.counters.missed += u64::from(self.receiving || self.run > 0);
            if self.missed >= settings.missed_down {
                self.receiving = false;
                self.run = 0;
            }
        }
        self.heard_in_round = false;
    }

    /// Moves the state to where the facts say. `Some` if the rail went up or down.
    pub(super) fn judge(&mut self, now: Time, settings: &Settings) -> Option<Verdict> {
        let usable = self.ready(now) && self.peer_hears && self.peer_ready;
        match (self.state, usable) {
            (RailState::Up, true) => None,
            (RailState::Up, false) => {
                self.fail(now, settings);
                let cause = if self.receiving { DownCause::PeerDoesNotHear } else { DownCause::Silent };
                Some(Verdict::Down { cause })
            }
            (_, true) => {
                self.state = RailState::Up;
                self.up_since = now;
                Some(Verdict::Up { round_trip: self.round_trip.unwrap_or_default() })
            }
            (_, false) => {
                if self.run > 0 {
                    self.state = RailState::Probing;
                } else if self.state != RailState::Suspect || self.missed >= settings.forget_rounds {
                    self.state = RailState::Down;
                }
                None
            }
        }
    }

    /// A rail that fails again before it was up for long waits twice as long as the last time.
    fn fail(&mut self, now: Time, settings: &Settings) {
        self.state = RailState::Suspect;
        self.counters.failed += 1;
        let calm = now.since(self.up_since) >= settings.calm;
        let doubled = if calm { settings.hold_first } else { self.hold * 2 };
        self.hold = doubled.clamp(settings.hold_first, settings.hold_max);
        self.hold_until = now + self.hold;
    }

    fn ready(&self, now: Time) -> bool {
        self.receiving && now >= self.hold_until
    }

    /// Number of the next heartbeat on this rail.
    pub(super) fn next_sequence(&mut self) -> u64 {
        self.counters.sent += 1;
        self.sequence += 1;
        self.sequence
    }

    /// What this side says of the rail in its next heartbeat.
    pub(super) fn flags(&self, now: Time) -> u8 {
        let hears = if self.receiving { FLAG_HEARS_YOU } else { 0 };
        hears | if self.ready(now) { FLAG_READY } else { 0 }
    }

    /// Echo of the peer's last heartbeat: its `sent_at`, and how long ago it came, nanoseconds.
    pub(super) fn echo(&self, now: Time) -> (u64, u32) {
        match self.echo {
            Some((sent_at, heard_at)) => {
                (sent_at, u32::try_from(now.since(heard_at).as_nanos()).unwrap_or(NO_ECHO))
            }
            None => (0, NO_ECHO),
        }
    }
}
