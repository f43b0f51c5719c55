//! Which path a frame takes: the rails that are up, the one of each logical link that carries data, and the
//! policy that spreads messages over links (SPEC T5, T6).

use crate::identity::{ClientId, LINKS_MAX, LinkId, Path, RAILS_MAX, RailId};
use core::time::Duration;

/// How messages to one peer are spread over its logical links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// All by the lowest link that is up.
    #[default]
    Single,
    /// Each client has a home link; the others stand by.
    Home,
    /// Message by message over all links.
    RoundRobin,
    /// The link with the fewest frames on their way.
    LeastInFlight,
    /// The link with the shortest round trip as the connectivity monitor measured it.
    LowestLatency,
    /// Large messages in fragments over all links at once, small ones round robin.
    Stripe,
}

/// Data parts shorter than this are never striped: the parts would cost more than they win. Bytes.
pub const STRIPE_BYTES_MIN: usize = 64 << 10;
/// Fragments begin at multiples of this many bytes, so that they can be moved page by page.
const STRIPE_ALIGNMENT: usize = 4096;

#[derive(Clone, Copy, Debug, Default)]
struct PathState {
    up: bool,
    in_flight: u32,
    round_trip: Duration,
}

/// The paths to one peer.
#[derive(Debug)]
pub struct Routes {
    spread: Spread,
    paths: [PathState; Path::COUNT_MAX],
    /// Per link the rail that carries data; the first `links` entries of `order` are the links that are up.
    active: [RailId; LINKS_MAX],
    order: [LinkId; LINKS_MAX],
    links: u8,
    turn: u8,
}

impl Routes {
    /// No path is up yet.
    pub fn new(spread: Spread) -> Routes {
        Routes {
            spread,
            paths: [PathState::default(); Path::COUNT_MAX],
            active: [RailId(0); LINKS_MAX],
            order: [LinkId(0); LINKS_MAX],
            links: 0,
            turn: 0,
        }
    }

    /// Changes the policy; messages on their way stay where they are.
    pub fn set_spread(&mut self, spread: Spread) {
        self.spread = spread;
    }

    /// Marks a path usable or not. Both ends pick the lowest rail that is up, and both know the same rails to
    /// be up since a rail counts as up only when each end hears the other; so they agree on the active one.
    pub fn set_up(&mut self, path: Path, up: bool) {
        let state = &mut self.paths[path.index()];
        state.up = up;
        if !up {
            state.in_flight = 0;
        }
        self.elect();
    }

    /// Whether a path is usable.
    #[inline]
    pub fn is_up(&self, path: Path) -> bool {
        self.paths[path.index()].up
    }

    /// Whether any path is.
    #[inline]
    pub fn any_up(&self) -> bool {
        self.links > 0
    }

    /// The rail of a link that carries its data now.
    pub fn active(&self, link: LinkId) -> Option<RailId> {
        self.order[..usize::from(self.links)].contains(&link).then(|| self.active[usize::from(link.0)])
    }

    /// Takes in a measured round trip.
    pub fn set_round_trip(&mut self, path: Path, round_trip: Duration) {
        self.paths[path.index()].round_trip = round_trip;
    }

    /// Frames that `path` carries and that are not acknowledged.
    pub fn in_flight(&self, path: Path) -> u32 {
        self.paths[path.index()].in_flight
    }

    /// Notes that `path` took a frame.
    #[inline]
    pub fn took(&mut self, path: Path) {
        self.paths[path.index()].in_flight += 1;
    }

    /// Notes that a frame that `path` took is acknowledged.
    #[inline]
    pub fn done(&mut self, path: Path) {
        let state = &mut self.paths[path.index()];
        state.in_flight = state.in_flight.saturating_sub(1);
    }

    /// Frames in which a message with this much data travels now: 1, or one for each link that is up.
    #[inline]
    pub fn fragments(&self, data_length: usize) -> u8 {
        if self.spread == Spread::Stripe && data_length >= STRIPE_BYTES_MIN && self.links > 1 {
            self.links
        } else {
            1
        }
    }

    /// The path for a frame; `None` while none is up. Fragments of one message go to different links as far
    /// as there are enough.
    #[inline]
    pub fn choose(&mut self, client: ClientId, fragment: u8, fragments: u8) -> Option<Path> {
        let links = usize::from(self.links);
        if links == 0 {
            return None;
        }
        let pick = if links == 1 {
            0
        } else if fragments > 1 {
            usize::from(fragment) % links
        } else {
            match self.spread {
                Spread::Single => 0,
                Spread::Home => usize::from(client.0) % links,
                Spread::RoundRobin | Spread::Stripe => {
                    self.turn = self.turn.wrapping_add(1);
                    usize::from(self.turn) % links
                }
                Spread::LeastInFlight => self.least(|state| u64::from(state.in_flight)),
                Spread::LowestLatency => {
                    self.least(|state| u64::try_from(state.round_trip.as_nanos()).unwrap_or(u64::MAX))
                }
            }
        };
        let link = self.order[pick];
        Some(Path { link, rail: self.active[usize::from(link.0)] })
    }

    /// Position in `order` of the link whose active path has the least of something.
    fn least(&self, of: impl Fn(&PathState) -> u64) -> usize {
        let cost = |link: &LinkId| {
            let path = Path { link: *link, rail: self.active[usize::from(link.0)] };
            of(&self.paths[path.index()])
        };
        let up = &self.order[..usize::from(self.links)];
        up.iter().enumerate().min_by_key(|(_, link)| cost(link)).map_or(0, |(position, _)| position)
    }

    fn elect(&mut self) {
        self.links = 0;
        for link in 0..LINKS_MAX as u8 {
            let rails = (0..RAILS_MAX as u8).map(RailId);
            let mut up = rails.filter(|rail| self.paths[Path { link: LinkId(link), rail: *rail }.index()].up);
            if let Some(rail) = up.next() {
                self.active[usize::from(link)] = rail;
                self.order[usize::from(self.links)] = LinkId(link);
                self.links += 1;
            }
        }
    }
}

/// The bytes of a message's data part that one of its fragments carries.
#[inline]
pub fn fragment_range(data_length: usize, fragment: u8, fragments: u8) -> core::ops::Range<usize> {
    if fragments <= 1 {
        return 0..data_length;
    }
    let share = data_length.div_ceil(usize::from(fragments)).next_multiple_of(STRIPE_ALIGNMENT);
    let start = (share * usize::from(fragment)).min(data_length);
    start..(start + share).min(data_length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(link: u8, rail: u8) -> Path {
        Path { link: LinkId(link), rail: RailId(rail) }
    }

    fn links(spread: Spread, count: u8) -> Routes {
        let mut routes = Routes::new(spread);
        for link in 0..count {
            routes.set_up(path(link, 0), true);
            routes.set_up(path(link, 1), true);
        }
        routes
    }

    // proves: T6
    #[test]
    fn a_link_moves_to_its_next_rail_and_back_when_the_first_returns() {
        let mut routes = links(Spread::Single, 1);
        assert_eq!(routes.choose(ClientId(1), 0, 1), Some(path(0, 0)));
        routes.set_up(path(0, 0), false);
        assert_eq!(routes.choose(ClientId(1), 0, 1), Some(path(0, 1)));
        routes.set_up(path(0, 1), false);
        assert_eq!(routes.choose(ClientId(1), 0, 1), None);
        routes.set_up(path(0, 0), true);
        assert_eq!(routes.active(LinkId(0)), Some(RailId(0)));
    }

    // proves: T5
    #[test]
    fn every_policy_uses_the_links_it_names() {
        let mut seen = [0; 2];
        let mut routes = links(Spread::RoundRobin, 2);
        (0..10)
            .filter_map(|_| routes.choose(ClientId(1), 0, 1))
            .for_each(|p| seen[usize::from(p.link.0)] += 1);
        assert_eq!(seen, [5, 5]);
        let mut routes = links(Spread::Home, 2);
        assert_eq!(routes.choose(ClientId(2), 0, 1), Some(path(0, 0)));
        assert_eq!(routes.choose(ClientId(3), 0, 1), Some(path(1, 0)));
        let mut routes = links(Spread::LeastInFlight, 2);
        routes.took(path(0, 0));
        assert_eq!(routes.choose(ClientId(1), 0, 1), Some(path(1, 0)));
        let mut routes = links(Spread::LowestLatency, 2);
        routes.set_round_trip(path(0, 0), Duration::from_micros(9));
        routes.set_round_trip(path(1, 0), Duration::from_micros(3));
        assert_eq!(routes.choose(ClientId(1), 0, 1), Some(path(1, 0)));
        let mut routes = links(Spread::Stripe, 2);
        assert_eq!(routes.fragments(STRIPE_BYTES_MIN), 2);
        assert_eq!(routes.fragments(STRIPE_BYTES_MIN - 1), 1);
        assert_ne!(routes.choose(ClientId(1), 0, 2), routes.choose(ClientId(1), 1, 2));
    }

    #[test]
    fn fragments_cover_the_message_without_gap_or_overlap() {
        for length in [STRIPE_BYTES_MIN, 100_001, 1 << 20, (1 << 20) - 1] {
            for count in 2..=LINKS_MAX as u8 {
                let mut at = 0;
                for fragment in 0..count {
                    let range = fragment_range(length, fragment, count);
                    assert_eq!(range.start, at);
                    at = range.end;
                }
                assert_eq!(at, length);
            }
        }
    }
}
