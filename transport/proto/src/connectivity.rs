//! The connectivity monitor: heartbeats on every rail of one peer, and what they prove (SPEC T6).
//!
//! One machine per peer. Each rail carries a heartbeat each way in each round; a rail is up when both sides
//! hear each other on it and both are past their hold-down, and each side says so in its heartbeats, so the
//! two agree within one round. A rail that fails is re-admitted as soon as it has proved itself, but the more
//! often it fails, the longer it must prove itself; it is never given up.
//!
//! ```text
//!            first heartbeat            both hear, hold-down over
//!   DOWN ───────────────────► PROBING ───────────────────────────► UP
//!     ▲                          ▲  heartbeats again                │ silence, or the peer does not hear us
//!     └──────── long silence ────┴──────────── SUSPECT ◄────────────┘
//! ```
//! A round in which this side's own tick came late is void: two busy cores delay this thread as much as a
//! broken cable would, and a silence that we slept through proves nothing.
//!
//! Calling order: [`Connectivity::add_rail`]; then [`Connectivity::handle_heartbeat`] for each datagram and
//! [`Connectivity::tick`] at each [`Connectivity::next_deadline`], in any order, with a clock that does not
//! go back.

mod heartbeat;
mod rail;

pub use heartbeat::{
    FLAG_HEARS_YOU, FLAG_READY, HEARTBEAT_BYTES, HEARTBEAT_MAGIC, HEARTBEAT_VERSION, Heartbeat,
    HeartbeatFault, NO_ECHO, NO_RAIL, NOTICE_BYTES_MAX, NOTICE_MAGIC,
};
pub use rail::RailCounters;

use crate::cluster_key::ClusterKey;
use crate::identity::{Epoch, Incarnation, LINKS_MAX, LinkId, NodeId, Path, RAILS_MAX, RailId};
use crate::time::Time;
use alloc::vec::Vec;
use core::time::Duration;
use rail::Rail;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

/// How the monitor watches. Equal on all nodes of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A heartbeat each way on each rail in each period.
    pub period: Duration,
    /// Silent rounds after which a rail is down.
    pub missed_down: u32,
    /// Heartbeats in an unbroken run after which a rail is heard.
    pub heard_up: u32,
    /// Silent rounds after which a rail that failed is plainly down.
    pub forget_rounds: u32,
    /// Shortest hold-down of a rail that failed.
    pub hold_first: Duration,
    /// Longest hold-down.
    pub hold_max: Duration,
    /// A rail that was up for so long begins again with the shortest hold-down.
    pub calm: Duration,
    /// Whether a link stays on its rail while that is up, or goes back to the lowest rail that is up.
    pub sticky: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            period: Duration::from_millis(10),
            missed_down: 3,
            heard_up: 3,
            forget_rounds: 100,
            hold_first: Duration::from_millis(50),
            hold_max: Duration::from_secs(10),
            calm: Duration::from_secs(10),
            sticky: true,
        }
    }
}

/// Where a rail stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RailState {
    /// Nothing is heard.
    Down,
    /// Heartbeats come, but not yet long enough, or not yet both ways.
    Probing,
    /// Both sides hear each other and would carry data.
    Up,
    /// Was up a moment ago.
    Suspect,
}

/// Why a rail went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DownCause {
    /// No heartbeat came for the configured number of rounds.
    Silent,
    /// The peer's heartbeats come, but say that ours do not arrive, or that the peer would not use the rail.
    PeerDoesNotHear,
    /// The peer's process began a new life.
    PeerRestarted,
    /// The rail was taken out of the configuration.
    Removed,
}

/// A change of a rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Carries data again, as far as heartbeats can tell.
    Up {
        /// Average round trip so far; zero if none was measured yet.
        round_trip: Duration,
    },
    /// Is to carry no more data.
    Down {
        /// Why.
        cause: DownCause,
    },
}

/// What the caller is to do or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this datagram by this rail.
    Send {
        /// The rail.
        path: Path,
        /// The whole datagram.
        datagram: [u8; HEARTBEAT_BYTES],
    },
    /// A rail went up or down.
    Verdict {
        /// The rail.
        path: Path,
        /// The change.
        verdict: Verdict,
    },
    /// The rail by which both sides would carry a link's data changed.
    Active {
        /// The link.
        link: LinkId,
        /// Its rail now; `None` if no rail is up on both sides.
        rail: Option<RailId>,
    },
    /// The peer has begun a life that was not known before.
    PeerLife {
        /// That life.
        incarnation: Incarnation,
    },
}

/// What the monitor knows of one rail, for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RailReport {
    /// The rail.
    pub path: Path,
    /// Where it stands.
    pub state: RailState,
    /// Average round trip, if one was measured.
    pub round_trip: Option<Duration>,
    /// When the last heartbeat was heard.
    pub last_heard: Option<Time>,
    /// What happened to it.
    pub counters: RailCounters,
}

/// What the monitor knows of the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerReport {
    /// The latest life heard of; zero if none.
    pub incarnation: Incarnation,
    /// Its configuration number.
    pub epoch: Epoch,
    /// Age of its oldest disk request, milliseconds.
    pub disk_age_ms: u32,
    /// When it was last heard, on any rail.
    pub last_heard: Option<Time>,
    /// Rounds in which the two sides named different active rails for a link.
    pub disagreements: u64,
    /// Rounds that were void because this side's tick came late.
    pub void_rounds: u64,
}

/// What the two sides say of one link.
#[derive(Clone, Copy, Debug, Default)]
struct LinkAgreement {
    /// When the peer made the statement below, by its clock; statements travel by all rails and may overtake.
    said_at: u64,
    peer_up: u8,
    peer_active: Option<RailId>,
    active: Option<RailId>,
}

/// The monitor of one peer, see the head of this file.
#[doc(alias = "CCM")]
#[derive(Clone, Debug)]
pub struct Connectivity {
    key: ClusterKey,
    settings: Settings,
    node: NodeId,
    incarnation: Incarnation,
    epoch: Epoch,
    disk_age_ms: u32,
    peer: NodeId,
    report: PeerReport,
    rails: Vec<Rail>,
    links: [LinkAgreement; LINKS_MAX],
    planned: Time,
}

impl Connectivity {
    /// A monitor of `peer`, without rails. The first round begins at `now`.
    pub fn new(
        key: &ClusterKey,
        settings: Settings,
        node: NodeId,
        incarnation: Incarnation,
        peer: NodeId,
        now: Time,
    ) -> Connectivity {
        assert!(settings.period > Duration::ZERO && settings.missed_down > 0 && settings.heard_up > 0);
        Connectivity {
            key: key.clone(),
            settings,
            node,
            incarnation,
            epoch: Epoch(0),
            disk_age_ms: 0,
            peer,
            report: PeerReport::default(),
            rails: Vec::new(),
            links: [LinkAgreement::default(); LINKS_MAX],
            planned: now,
        }
    }

    /// Watches by these settings from now on; what was heard and missed so far counts on.
    pub fn set_settings(&mut self, settings: Settings) {
        assert!(settings.period > Duration::ZERO && settings.missed_down > 0 && settings.heard_up > 0);
        self.settings = settings;
    }

    /// The node watched.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// Begins to watch a rail; nothing if it is watched already.
    pub fn add_rail(&mut self, now: Time, path: Path) {
        assert!(usize::from(path.link.0) < LINKS_MAX && usize::from(path.rail.0) < RAILS_MAX);
        if let Err(place) = self.rails.binary_search_by_key(&path, |rail| rail.path) {
            self.rails.insert(place, Rail::new(path, now.0));
        }
    }

    /// Ends the watch over a rail. If it was up, it goes down first.
    pub fn remove_rail(&mut self, path: Path, out: &mut Vec<Output>) {
        if let Ok(place) = self.rails.binary_search_by_key(&path, |rail| rail.path) {
            let rail = self.rails.remove(place);
            if rail.state == RailState::Up {
                let verdict = Verdict::Down { cause: DownCause::Removed };
                out.push(Output::Verdict { path, verdict });
            }
            self.agree(path.link, out);
        }
    }

    /// What this node's heartbeats tell from now on: its configuration number and the age of its oldest disk
    /// request.
    pub fn announce(&mut self, epoch: Epoch, disk_age_ms: u32) {
        (self.epoch, self.disk_age_ms) = (epoch, disk_age_ms);
    }

    /// Takes in a datagram that came by the rail `path`. A fault changes nothing.
    pub fn handle_heartbeat(
        &mut self,
        now: Time,
        path: Path,
        bytes: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), HeartbeatFault> {
        let heartbeat = Heartbeat::open(&self.key, bytes)?;
        let parties = (NodeId(heartbeat.source.get()), NodeId(heartbeat.destination.get()));
        if parties != (self.peer, self.node) {
            return Err(HeartbeatFault::Misdirected);
        }
        let Ok(place) = self.rails.binary_search_by_key(&path, |rail| rail.path) else {
            return Err(HeartbeatFault::WrongPath { found: heartbeat.path() });
        };
        if heartbeat.path() != path {
            return Err(HeartbeatFault::WrongPath { found: heartbeat.path() });
        }
        let life = Incarnation(heartbeat.incarnation.get());
        if life < self.report.incarnation {
            return Err(HeartbeatFault::StaleIncarnation);
        }
        if life > self.report.incarnation {
            self.meet(life, out);
        }
        let mine = heartbeat.your_incarnation.get() == self.incarnation.0;
        self.rails[place].hear(now, &heartbeat, mine, &self.settings)?;
        if mine {
            self.note(now, &heartbeat);
            self.judge(now, place, out);
            self.agree(path.link, out);
        }
        Ok(())
    }

    /// Ends a round and begins the next: judges every rail and sends a heartbeat by each. Before the deadline
    /// it does nothing.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Output>) {
        if now < self.planned {
            return;
        }
        let void = now > self.planned + self.settings.period / 2;
        self.report.void_rounds += u64::from(void);
        self.planned = if void { now + self.settings.period } else { self.planned + self.settings.period };
        for place in 0..self.rails.len() {
            self.rails[place].end_round(void, &self.settings);
            self.judge(now, place, out);
        }
        for link in 0..LINKS_MAX as u8 {
            self.agree(LinkId(link), out);
            let agreement = &self.links[usize::from(link)];
            let differ = agreement.active.is_some() && agreement.active != agreement.peer_active;
            self.report.disagreements += u64::from(differ);
        }
        for place in 0..self.rails.len() {
            let (path, datagram) = (self.rails[place].path, self.heartbeat(now, place));
            out.push(Output::Send { path, datagram });
        }
    }

    /// When to call [`Connectivity::tick`] next.
    pub fn next_deadline(&self) -> Time {
        self.planned
    }

    /// What is known of each rail, in order of paths.
    pub fn rails(&self) -> impl Iterator<Item = RailReport> + '_ {
        self.rails.iter().map(|rail| RailReport {
            path: rail.path,
            state: rail.state,
            round_trip: rail.round_trip,
            last_heard: rail.last_heard,
            counters: rail.counters,
        })
    }

    /// What is known of the peer.
    pub fn peer_report(&self) -> PeerReport {
        self.report
    }

    /// The rail by which both sides would carry the link's data.
    pub fn active(&self, link: LinkId) -> Option<RailId> {
        self.links.get(usize::from(link.0)).and_then(|agreement| agreement.active)
    }

    /// Whether any rail is up.
    pub fn reachable(&self) -> bool {
        self.rails.iter().any(|rail| rail.state == RailState::Up)
    }

    /// A life of the peer that was not known.
    fn meet(&mut self, life: Incarnation, out: &mut Vec<Output>) {
        self.report.incarnation = life;
        for rail in &mut self.rails {
            let path = rail.path;
            out.extend(rail.forget_peer().map(|verdict| Output::Verdict { path, verdict }));
        }
        for link in 0..LINKS_MAX as u8 {
            let agreement = &mut self.links[usize::from(link)];
            *agreement = LinkAgreement { active: agreement.active, ..LinkAgreement::default() };
            self.agree(LinkId(link), out);
        }
        out.push(Output::PeerLife { incarnation: life });
    }

    /// What a heartbeat says of the peer and of the whole link.
    fn note(&mut self, now: Time, heartbeat: &Heartbeat) {
        self.report.last_heard = Some(now);
        let agreement = &mut self.links[usize::from(heartbeat.link)];
        if heartbeat.sent_at.get() >= agreement.said_at {
            self.report.epoch = self.report.epoch.max(Epoch(heartbeat.epoch.get()));
            self.report.disk_age_ms = heartbeat.disk_age_ms.get();
            agreement.said_at = heartbeat.sent_at.get();
            agreement.peer_up = heartbeat.rails_up;
            let active = RailId(heartbeat.active);
            agreement.peer_active = (usize::from(active.0) < RAILS_MAX).then_some(active);
        }
    }

    fn judge(&mut self, now: Time, place: usize, out: &mut Vec<Output>) {
        let path = self.rails[place].path;
        if let Some(verdict) = self.rails[place].judge(now, &self.settings) {
            out.push(Output::Verdict { path, verdict });
        }
    }

    /// Bit n: rail n of the link is up, as this side sees it.
    fn up_mask(&self, link: LinkId) -> u8 {
        let up = self.rails.iter().filter(|rail| rail.path.link == link && rail.state == RailState::Up);
        up.fold(0, |mask, rail| mask | 1 << rail.path.rail.0)
    }

    fn agree(&mut self, link: LinkId, out: &mut Vec<Output>) {
        let leads = self.node < self.peer;
        let own = self.up_mask(link);
        let agreement = &mut self.links[usize::from(link.0)];
        let common = own & agreement.peer_up;
        let kept = if leads { agreement.active } else { agreement.peer_active.or(agreement.active) };
        let rail = choose_active(common, kept.filter(|_| self.settings.sticky));
        if rail != agreement.active {
            agreement.active = rail;
            out.push(Output::Active { link, rail });
        }
    }

    fn heartbeat(&mut self, now: Time, place: usize) -> [u8; HEARTBEAT_BYTES] {
        let rails_up = self.up_mask(self.rails[place].path.link);
        let rail = &mut self.rails[place];
        let path = rail.path;
        let (echo_sent_at, echo_delay) = rail.echo(now);
        let heartbeat = Heartbeat {
            magic: U16::new(HEARTBEAT_MAGIC),
            version: HEARTBEAT_VERSION,
            flags: rail.flags(now),
            link: path.link.0,
            rail: path.rail.0,
            rails_up,
            active: self.links[usize::from(path.link.0)].active.map_or(NO_RAIL, |rail| rail.0),
            source: U16::new(self.node.0),
            destination: U16::new(self.peer.0),
            disk_age_ms: U32::new(self.disk_age_ms),
            incarnation: U64::new(self.incarnation.0),
            your_incarnation: U64::new(self.report.incarnation.0),
            epoch: U64::new(self.epoch.0),
            sequence: U64::new(rail.next_sequence()),
            sent_at: U64::new(now.0),
            echo_sent_at: U64::new(echo_sent_at),
            echo_delay: U32::new(echo_delay),
            reserved: U32::ZERO,
            mac: [0; 16],
        };
        heartbeat.seal(&self.key)
    }
}

/// The rail that carries a link: the one `kept` while it is among `common`, else the lowest of `common`.
/// Both sides keep what the side with the lower node id keeps, so they end on one rail.
fn choose_active(common: u8, kept: Option<RailId>) -> Option<RailId> {
    let stays = kept.filter(|rail| common & (1 << rail.0) != 0);
    let lowest = (0..RAILS_MAX as u8).map(RailId).find(|rail| common & (1 << rail.0) != 0);
    stays.or(lowest)
}

#[cfg(test)]
#[path = "connectivity_tests.rs"]
mod tests;
