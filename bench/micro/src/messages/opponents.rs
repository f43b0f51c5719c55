//! Who can do what a point of netdisk's does, and what it takes to be as good.

use bench_harness::{Contender, Goal};

use super::Kind;
use crate::laboratory::{PerftestBandwidth, PerftestLatency};
use crate::limits::cache_line::CacheLineRoundTrip;
use crate::limits::memory_copy::{MemoryCopy, Places, Reading};
use crate::limits::socket::Wait;
use crate::limits::socket_round_trip::{Exchange, SocketRoundTrip};
use crate::limits::socket_stream::SocketStreaming;
use crate::limits::wire::Family;
use crate::netdisk::{Carrier, Trial, Waiting, Ways, What};
use crate::peers::{Iceoryx2, Iceoryx2Figure, LibfabricPingpong, Tool, UcxFigure, UcxPerftest};
use crate::rival::Rival;
use crate::settings::Settings;

/// Bytes of all places of the bare copy together, so that small messages are not copied into one line.
const PLACES_BYTES: usize = 4 << 20;
const PAGE_BYTES: usize = 4096;
/// Messages and bytes of a turn of perftest.
const PERFTEST_MESSAGES: u32 = 10_000;
const PERFTEST_BYTES: u64 = 256 << 20;

/// What comes of an opponent's name.
pub(super) enum Opponent {
    /// It does the same, and this is the bar.
    Fit(Box<dyn Contender>, Goal),
    /// It does not, and why.
    Unfit(String),
}

/// What has to be installed for it.
pub(super) fn needs(rival: Rival) -> Vec<Tool> {
    match rival {
        Rival::Ucx => vec![Tool::UcxPerftest],
        Rival::Libfabric => vec![Tool::LibfabricPingpong],
        Rival::Iceoryx2 => vec![Tool::Iceoryx2],
        _ => Vec::new(),
    }
}

/// The rival's side of a point.
pub(super) fn opponent(kind: Kind, rival: Rival, trial: &Trial, settings: &Settings) -> Opponent {
    let (cores, budget, bytes, carrier) =
        (settings.cores, settings.budget, trial.bytes, trial.layout.carrier);
    let half = trial.what == What::Latency(Ways::Half);
    let on_one_machine = matches!(carrier, Carrier::Shm | Carrier::Tcp);
    let (at_most, at_least) = (|ratio| Goal::RatioAtMost { ratio }, |ratio| Goal::RatioAtLeast { ratio });
    let (contender, goal): (Box<dyn Contender>, Goal) = match (rival, kind) {
        (Rival::Ucx, _) if on_one_machine => {
            let figure = match kind {
                Kind::Latency if half => UcxFigure::HalfRoundTrip,
                Kind::Latency => UcxFigure::RoundTrip,
                Kind::Bandwidth => UcxFigure::Bandwidth,
                Kind::Rate => UcxFigure::Rate,
            };
            let goal = if kind == Kind::Latency { at_most(1.0) } else { at_least(1.0) };
            (Box::new(UcxPerftest { carrier, figure, bytes, cores, budget, iterations: None }), goal)
        }
        (Rival::Libfabric, Kind::Latency) if on_one_machine => {
            let peer = LibfabricPingpong { carrier, half, bytes, cores, budget, iterations: None };
            (Box::new(peer), at_most(1.0))
        }
        (Rival::Iceoryx2, _) if carrier == Carrier::Shm => {
            let (figure, goal) = match kind {
                Kind::Latency if half => (Iceoryx2Figure::HalfRoundTrip, at_most(1.3)),
                Kind::Latency => (Iceoryx2Figure::RoundTrip, at_most(1.3)),
                Kind::Bandwidth => (Iceoryx2Figure::Bandwidth, at_least(1.0)),
                Kind::Rate => (Iceoryx2Figure::Rate, at_least(1.0)),
            };
            (Box::new(Iceoryx2 { figure, bytes, cores, budget }), goal)
        }
        (Rival::Perftest, Kind::Latency) if carrier == Carrier::Verbs && half => {
            let peer = PerftestLatency { program: "ib_send_lat", bytes, messages: PERFTEST_MESSAGES };
            (Box::new(peer), at_most(1.2))
        }
        (Rival::Perftest, Kind::Bandwidth) if carrier == Carrier::Verbs => {
            let peer = PerftestBandwidth { program: "ib_write_bw", bytes, stream_bytes: PERFTEST_BYTES };
            (Box::new(peer), at_least(0.9))
        }
        (Rival::Cacheline, Kind::Latency) => {
            (Box::new(CacheLineRoundTrip { cores, budget, half }), Goal::Shown)
        }
        (Rival::Memcpy, Kind::Bandwidth) => {
            let page = bytes.next_multiple_of(PAGE_BYTES);
            let depth = (PLACES_BYTES / page).clamp(4, 8) as u32;
            let places = Places { bytes: page as u32, depth };
            (Box::new(MemoryCopy { cores, budget, places, reading: Reading::EveryLine }), at_least(0.8))
        }
        (Rival::Tcp | Rival::Unix, Kind::Latency) => {
            let exchange = Exchange { there_bytes: bytes, back_bytes: bytes };
            let wait = match trial.layout.waiting {
                Waiting::Spinning | Waiting::Yielding => Wait::Spinning,
                Waiting::Adaptive | Waiting::Sleeping => Wait::Epoll,
            };
            let (family, congestion) = (family(rival), settings.tcp_congestion.clone());
            (
                Box::new(SocketRoundTrip { family, cores, budget, exchange, wait, half, congestion }),
                // A UNIX socket is another thing than what carries ours; it is shown for orientation.
                if rival == Rival::Tcp && carrier == Carrier::Tcp { at_most(1.25) } else { Goal::Shown },
            )
        }
        (Rival::Tcp | Rival::Unix, Kind::Bandwidth) => {
            let (family, congestion) = (family(rival), settings.tcp_congestion.clone());
            let peer = SocketStreaming { family, cores, budget, message_bytes: bytes, congestion };
            let alike = rival == Rival::Tcp && carrier == Carrier::Tcp;
            (Box::new(peer), if alike { at_least(0.9) } else { Goal::Shown })
        }
        _ => return Opponent::Unfit(rival.elsewhere()),
    };
    Opponent::Fit(contender, goal)
}

fn family(rival: Rival) -> Family {
    if rival == Rival::Unix { Family::Unix } else { Family::Tcp }
}
