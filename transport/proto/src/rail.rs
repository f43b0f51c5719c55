//! One rail to one peer: when to connect, when it may carry payload, when it must be given up.
//!
//! ```text
//! DOWN ──dial / accept──► CONNECTING ──established──► PROBING ──CCM up──► UP
//!  ▲                          │ lost, timeout            │ lost, timeout   │ CCM down, fault
//!  │                          ▼                          ▼                 ▼
//!  └───────── lost ◄────── DRAINING ◄────────────────────┴──────────── (SUSPECT)
//! ```
//! *Suspect* is left in the step in which it is entered: the connection is closed at once and its traffic
//! moves; the rail drains until the provider says that no late access to memory is possible, and only then
//! connects anew. The node with the higher id dials, so there are no crossing connects. A rail is never given
//! up: it is dialed again with growing pauses.

use crate::time::Time;
use core::time::Duration;

/// First pause before a rail is dialed again; doubles up to [`REDIAL_PAUSE_MAX`].
const REDIAL_PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause; below the time after which the membership gives a silent node up.
const REDIAL_PAUSE_MAX: Duration = Duration::from_millis(320);
/// A rail that has been up this long begins with the shortest pause again.
const STEADY: Duration = Duration::from_secs(2);
/// Time for connection, handshake and setup, after which a connection is given up.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// Time a rail may stay in probing before its connection is made anew.
const PROBE_TIME_MAX: Duration = Duration::from_secs(10);

/// Where a rail stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RailState {
    /// No connection; the dialer tries again at its time.
    Down,
    /// A connection is being made, authenticated and set up.
    Connecting,
    /// Set up; the connectivity monitor has not confirmed the path yet.
    Probing,
    /// Carries payload.
    Up,
    /// Closed by this side; the provider is making sure that nothing late can land.
    Draining,
}

/// What the reactor must do for a rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RailAction {
    /// Nothing.
    None,
    /// Dial the peer's address.
    Dial,
    /// Close the connection.
    Close,
    /// The path carries payload from now on.
    Raise,
    /// The path is lost: move its traffic. The connection is gone already.
    Lower,
    /// The path is lost: move its traffic, and close the connection.
    LowerAndClose,
}

/// The machine of one rail.
#[derive(Clone, Debug)]
pub struct Rail {
    state: RailState,
    dialer: bool,
    /// The monitor's verdict; a rail without a monitor is always confirmed.
    confirmed: bool,
    pause: Duration,
    deadline: Time,
    up_since: Time,
}

impl Rail {
    /// A rail that has not connected yet. `dialer`: this side opens connections. `monitored`: it waits for
    /// the connectivity monitor before it carries payload.
    pub fn new(now: Time, dialer: bool, monitored: bool) -> Rail {
        let deadline = if dialer { now } else { Time::NEVER };
        Rail {
            state: RailState::Down,
            dialer,
            confirmed: !monitored,
            pause: REDIAL_PAUSE_MIN,
            deadline,
            up_since: now,
        }
    }

    /// Where it stands.
    pub fn state(&self) -> RailState {
        self.state
    }

    /// When [`Rail::tick`] wants to be called.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// A deadline may have passed.
    pub fn tick(&mut self, now: Time) -> RailAction {
        if now < self.deadline {
            return RailAction::None;
        }
        match self.state {
            RailState::Down if self.dialer => {
                self.enter(RailState::Connecting, now + CONNECT_TIME_MAX);
                RailAction::Dial
            }
            RailState::Connecting | RailState::Probing => {
                self.enter(RailState::Draining, Time::NEVER);
                RailAction::Close
            }
            RailState::Down | RailState::Up | RailState::Draining => {
                self.deadline = Time::NEVER;
                RailAction::None
            }
        }
    }

    /// The dial could not even begin.
    pub fn dial_refused(&mut self, now: Time) {
        self.rest(now);
    }

    /// The peer's connection passed the handshake here (listener). A connection that this rail still has is
    /// older and must be closed by the caller first, then [`Rail::lost`].
    pub fn accepted(&mut self, now: Time) {
        debug_assert_eq!(self.state, RailState::Down);
        self.enter(RailState::Connecting, now + CONNECT_TIME_MAX);
    }

    /// The provider has set the connection up for payload.
    pub fn established(&mut self, now: Time) -> RailAction {
        if self.state != RailState::Connecting {
            return RailAction::None;
        }
        if self.confirmed {
            return self.raise(now);
        }
        self.enter(RailState::Probing, now + PROBE_TIME_MAX);
        RailAction::None
    }

    /// The connectivity monitor's verdict changed.
    pub fn verdict(&mut self, now: Time, up: bool) -> RailAction {
        self.confirmed = up;
        match self.state {
            RailState::Probing if up => self.raise(now),
            RailState::Up if !up => {
                self.enter(RailState::Draining, Time::NEVER);
                RailAction::LowerAndClose
            }
            _ => RailAction::None,
        }
    }

    /// The connection is gone, and with it every possibility of late access.
    pub fn lost(&mut self, now: Time) -> RailAction {
        let was = self.state;
        if was == RailState::Up && now.since(self.up_since) >= STEADY {
            self.pause = REDIAL_PAUSE_MIN;
        }
        self.rest(now);
        if was == RailState::Up { RailAction::Lower } else { RailAction::None }
    }

    /// The reactor wants the connection closed (a protocol fault, an administrator's word).
    pub fn fail(&mut self) -> RailAction {
        let was = self.state;
        match was {
            RailState::Down | RailState::Draining => RailAction::None,
            RailState::Connecting | RailState::Probing => {
                self.enter(RailState::Draining, Time::NEVER);
                RailAction::Close
            }
            RailState::Up => {
                self.enter(RailState::Draining, Time::NEVER);
                RailAction::LowerAndClose
            }
        }
    }

    fn raise(&mut self, now: Time) -> RailAction {
        self.up_since = now;
        self.enter(RailState::Up, Time::NEVER);
        RailAction::Raise
    }

    fn rest(&mut self, now: Time) {
        let deadline = if self.dialer { now + self.pause } else { Time::NEVER };
        self.pause = (self.pause * 2).min(REDIAL_PAUSE_MAX);
        self.enter(RailState::Down, deadline);
    }

    fn enter(&mut self, state: RailState, deadline: Time) {
        self.state = state;
        self.deadline = deadline;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Time = Time(1_000_000_000);

    fn up_rail() -> Rail {
        let mut rail = Rail::new(T0, true, true);
        assert_eq!(rail.tick(T0), RailAction::Dial);
        assert_eq!(rail.established(T0), RailAction::None);
        assert_eq!(rail.verdict(T0, true), RailAction::Raise);
        rail
    }

    // proves: T6
    #[test]
    fn rail_carries_payload_only_when_connected_and_confirmed_by_the_monitor() {
        let mut rail = Rail::new(T0, true, true);
        assert_eq!(rail.verdict(T0, true), RailAction::None);
        assert_eq!(rail.state(), RailState::Down);
        assert_eq!(rail.tick(T0), RailAction::Dial);
        assert_eq!(rail.established(T0), RailAction::Raise);
    }

    // proves: T6
    #[test]
    fn monitor_down_forces_the_rail_down_and_monitor_up_alone_does_not_readmit_it() {
        let mut rail = up_rail();
        assert_eq!(rail.verdict(T0, false), RailAction::LowerAndClose);
        assert_eq!(rail.state(), RailState::Draining);
        assert_eq!(rail.verdict(T0, true), RailAction::None);
        assert_eq!(rail.lost(T0), RailAction::None);
        assert_eq!(rail.state(), RailState::Down);
        assert_eq!(rail.tick(rail.deadline()), RailAction::Dial);
    }

    #[test]
    fn rail_is_dialed_again_with_growing_pauses_and_never_given_up() {
        let mut rail = Rail::new(T0, true, false);
        let mut now = T0;
        let mut pauses = std::vec::Vec::new();
        for _ in 0..12 {
            assert_eq!(rail.tick(now), RailAction::Dial);
            rail.lost(now);
            pauses.push(rail.deadline().since(now));
            now = rail.deadline();
        }
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses.last(), Some(&REDIAL_PAUSE_MAX));
    }

    #[test]
    fn listener_waits_and_a_connection_that_never_comes_up_is_closed() {
        let mut rail = Rail::new(T0, false, true);
        assert_eq!(rail.tick(T0 + Duration::from_secs(100)), RailAction::None);
        rail.accepted(T0);
        assert_eq!(rail.tick(T0 + CONNECT_TIME_MAX), RailAction::Close);
        assert_eq!(rail.state(), RailState::Draining);
    }

    extern crate std;
}
