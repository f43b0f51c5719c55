//! Every scenario, its goal and its two sides. This list is the table's rows, in order.

use bench_harness::{Contender, Goal, Placement, Unit};

use crate::limits::cache_line::{self, CacheLineRoundTrip};
use crate::limits::memory_copy::{MemoryCopy, Places, Reading};
use crate::limits::socket::Wait;
use crate::limits::socket_round_trip::{Exchange, SocketRoundTrip};
use crate::limits::socket_stream::SocketStreaming;
use crate::limits::wire::Family;
use crate::netdisk::{
    AllocationsPerMessage, Carrier, ClusterWithNbd, DiskRead, IdleNodes, Layout, MessageRoundTrip,
    MessageStream, Waiting,
};
use crate::peers::{FioFigure, FioJob, FioWork, NbdPeer, NbdProcess, NbdServer, Tool};
use crate::scenario::Scenario;
use crate::settings::Settings;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// All scenarios of this run.
pub(crate) fn scenarios(settings: &Settings) -> Vec<Scenario> {
    let mut all = limits(settings);
    all.extend(messages(settings));
    all.extend(allocations(settings));
    all.extend(disks(settings));
    all.extend(nbd(settings));
    all.push(idle(settings));
    all
}

/// What the machine itself can do, shown for orientation.
fn limits(settings: &Settings) -> Vec<Scenario> {
    let Settings { cores, budget, .. } = *settings;
    let shown = |id: &'static str, title: &'static str, unit, limit| Scenario {
        id: id.into(),
        title: title.into(),
        unit,
        goal: Goal::Shown,
        needs: Vec::new(),
        unfit: None,
        ours: None,
        limit: Some(limit),
    };
    let copy = |bytes: usize, depth, reading| {
        let places = Places { bytes: bytes as u32, depth };
        Box::new(MemoryCopy { cores, budget, places, reading })
    };
    let tcp = |bytes, wait| Box::new(round_trip(settings, bytes, bytes, wait));
    let (time, rate) = (Unit::Nanoseconds, Unit::BytesPerSecond);
    let copying = "copy into memory of another process";
    vec![
        shown(
            "limit/cache-line",
            "cache line there and back",
            time,
            Box::new(CacheLineRoundTrip { cores, budget, half: false }),
        ),
        shown("limit/copy/4KiB", copying, rate, copy(4 * KIB, 8, Reading::EveryLine)),
        shown("limit/copy/64KiB", copying, rate, copy(64 * KIB, 8, Reading::EveryLine)),
        shown("limit/copy/1MiB", copying, rate, copy(MIB, 4, Reading::EveryLine)),
        shown("limit/copy/1MiB/ends", copying, rate, copy(MIB, 4, Reading::Ends)),
        shown("limit/tcp/64B/blocking", "TCP there and back", time, tcp(64, Wait::Blocking)),
        shown("limit/tcp/64B/epoll", "TCP there and back", time, tcp(64, Wait::Epoll)),
        shown("limit/tcp/64B/spinning", "TCP there and back", time, tcp(64, Wait::Spinning)),
        shown("limit/tcp/4KiB/blocking", "TCP there and back", time, tcp(4 * KIB, Wait::Blocking)),
        shown("limit/tcp/4KiB/epoll", "TCP there and back", time, tcp(4 * KIB, Wait::Epoll)),
        shown("limit/tcp/4KiB/spinning", "TCP there and back", time, tcp(4 * KIB, Wait::Spinning)),
        shown("limit/tcp/1MiB/stream", "TCP, one way", rate, Box::new(tcp_stream(settings))),
    ]
}

/// The transport against the limits.
fn messages(settings: &Settings) -> Vec<Scenario> {
    let Settings { cores, budget, .. } = *settings;
    let held = |id: &'static str, title: &'static str, unit, goal, ours, limit| Scenario {
        id: id.into(),
        title: title.into(),
        unit,
        goal,
        needs: Vec::new(),
        unfit: None,
        ours: Some(ours),
        limit: Some(limit),
    };
    let one_link = |carrier, waiting| Layout::one(carrier, waiting);
    let ours = |carrier, waiting, batch| -> Box<dyn Contender> {
        Box::new(MessageRoundTrip { cores, budget, layout: one_link(carrier, waiting), bytes: 64, batch })
    };
    let stream = |carrier, waiting| -> Box<dyn Contender> {
        Box::new(MessageStream { cores, budget, layout: one_link(carrier, waiting), bytes: MIB })
    };
    let raw = |wait| -> Box<dyn Contender> { Box::new(round_trip(settings, 64, 64, wait)) };
    let cache_line = Box::new(CacheLineRoundTrip { cores, budget, half: false });
    let places = Places { bytes: MIB as u32, depth: 4 };
    let copy = Box::new(MemoryCopy { cores, budget, places, reading: Reading::EveryLine });
    let (time, rate) = (Unit::Nanoseconds, Unit::BytesPerSecond);
    let (at_most, at_least) = (|ratio| Goal::RatioAtMost { ratio }, |ratio| Goal::RatioAtLeast { ratio });
    let (there_and_back, one_way) = ("message there and back", "messages built and read in place, one way");
    vec![
        held(
            "shm/64B/round-trip",
            there_and_back,
            time,
            at_most(4.0),
            ours(Carrier::Shm, Waiting::Spinning, cache_line::BATCH),
            cache_line,
        ),
        held("shm/1MiB/stream", one_way, rate, at_least(0.8), stream(Carrier::Shm, Waiting::Spinning), copy),
        held(
            "tcp/64B/round-trip",
            there_and_back,
            time,
            at_most(1.25),
            ours(Carrier::Tcp, Waiting::Adaptive, 1),
            raw(Wait::Epoll),
        ),
        held(
            "tcp/64B/round-trip/sleeping",
            there_and_back,
            time,
            at_most(1.25),
            ours(Carrier::Tcp, Waiting::Sleeping, 1),
            raw(Wait::Epoll),
        ),
        held(
            "tcp/64B/round-trip/spinning",
            there_and_back,
            time,
            Goal::Shown,
            ours(Carrier::Tcp, Waiting::Spinning, 1),
            raw(Wait::Spinning),
        ),
        held(
            "tcp/1MiB/stream",
            "messages from the caller's memory, one way",
            rate,
            at_least(0.9),
            stream(Carrier::Tcp, Waiting::Adaptive),
            Box::new(tcp_stream(settings)),
        ),
    ]
}

/// No message may allocate once the steady state is reached.
fn allocations(settings: &Settings) -> Vec<Scenario> {
    let Settings { cores, budget, .. } = *settings;
    let none = |id: &'static str, carrier, bytes| {
        let layout = Layout::one(carrier, Waiting::Spinning);
        Scenario {
            id: id.into(),
            title: "heap allocations per message, both processes".into(),
            unit: Unit::AllocationsPerMessage,
            goal: Goal::FigureAtMost { figure: 0.0, only: None },
            needs: Vec::new(),
            unfit: None,
            ours: Some(Box::new(AllocationsPerMessage { cores, budget, layout, bytes })),
            limit: None,
        }
    };
    vec![
        none("shm/64B/allocations", Carrier::Shm, 64),
        none("shm/4KiB/allocations", Carrier::Shm, 4 * KIB),
        none("tcp/64B/allocations", Carrier::Tcp, 64),
        none("tcp/4KiB/allocations", Carrier::Tcp, 4 * KIB),
    ]
}

/// The library surface on a memory disk of another node.
fn disks(settings: &Settings) -> Vec<Scenario> {
    let Settings { cores, budget, .. } = *settings;
    let read = |id: &'static str, title: &'static str, carrier, goal, limit| {
        let layout = Layout::one(carrier, Waiting::Spinning);
        let ours = DiskRead { cores, budget, layout, bytes: 4 * KIB as u32 };
        let unit = Unit::Nanoseconds;
        Scenario {
            id: id.into(),
            title: title.into(),
            unit,
            goal,
            needs: Vec::new(),
            unfit: None,
            ours: Some(Box::new(ours)),
            limit,
        }
    };
    let near = Goal::FigureAtMost { figure: 2_000.0, only: Some(Placement::Near) };
    // A request goes as one frame of 64 bytes and comes back with its block.
    let raw = Box::new(round_trip(settings, 64, 4 * KIB, Wait::Spinning));
    let title = "read of a remote memory disk, one at a time";
    vec![
        read("library/shm/read/4KiB", title, Carrier::Shm, near, None),
        read("library/tcp/read/4KiB", title, Carrier::Tcp, Goal::RatioAtMost { ratio: 1.5 }, Some(raw)),
    ]
}

/// netdisk's NBD server, its disk on another node, against a server that has the disk in its own memory.
fn nbd(settings: &Settings) -> Vec<Scenario> {
    let read = |id: &'static str, title: &'static str, unit, goal, depth, figure| {
        let ours = ClusterWithNbd { carrier: Carrier::Shm, disk_bytes: settings.disk_bytes };
        let limit = NbdProcess { peer: NbdPeer::Nbdkit, disk_bytes: settings.disk_bytes };
        Scenario {
            id: id.into(),
            title: title.into(),
            unit,
            goal,
            needs: vec![Tool::FioWithNbd, Tool::Nbdkit],
            unfit: None,
            ours: Some(Box::new(fio_read(settings, Box::new(ours), depth, figure))),
            limit: Some(Box::new(fio_read(settings, Box::new(limit), depth, figure))),
        }
    };
    let (latency, rate) = (Unit::Nanoseconds, Unit::OperationsPerSecond);
    let (slower, fewer) = (Goal::RatioAtMost { ratio: 1.3 }, Goal::RatioAtLeast { ratio: 0.9 });
    let title = "fio over NBD from a remote memory disk";
    vec![
        read("nbd/shm/read/4KiB/QD1", title, latency, slower, 1, FioFigure::MedianLatency),
        read("nbd/shm/read/4KiB/QD32", title, rate, fewer, 32, FioFigure::Iops),
    ]
}

/// What a node costs that has nothing to do.
fn idle(settings: &Settings) -> Scenario {
    Scenario {
        id: "idle/node".into(),
        title: "the busiest of three nodes without clients".into(),
        unit: Unit::PercentOfCore,
        goal: Goal::FigureBelow { figure: 1.0 },
        needs: Vec::new(),
        unfit: None,
        ours: Some(Box::new(IdleNodes { watch: settings.idle_watch })),
        limit: None,
    }
}

fn round_trip(settings: &Settings, there_bytes: usize, back_bytes: usize, wait: Wait) -> SocketRoundTrip {
    let Settings { cores, budget, .. } = *settings;
    let exchange = Exchange { there_bytes, back_bytes };
    let (family, congestion) = (Family::Tcp, settings.tcp_congestion.clone());
    SocketRoundTrip { family, cores, budget, exchange, wait, half: false, congestion }
}

fn tcp_stream(settings: &Settings) -> SocketStreaming {
    let Settings { cores, budget, .. } = *settings;
    let (family, congestion) = (Family::Tcp, settings.tcp_congestion.clone());
    SocketStreaming { family, cores, budget, message_bytes: MIB, congestion }
}

fn fio_read(settings: &Settings, server: Box<dyn NbdServer>, depth: u32, figure: FioFigure) -> FioJob {
    let Settings { disk_bytes, fio_runtime: runtime, .. } = *settings;
    let work = FioWork { writes: false, bytes: 4 << 10, depth };
    FioJob { server, work, runtime, disk_bytes, figure }
}
