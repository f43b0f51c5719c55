//! What the connectivity monitors of three nodes cost while nothing happens: each has four rails to each of
//! the two others, over loopback. Processor time of all threads, as the share of a core for one node.
//! `cargo run --release -p transport-endpoint --example idle_monitor [seconds]`

#![forbid(unsafe_code)]

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport_endpoint::{MonitorThread, VerdictBoard, WatchedRail};
use transport_proto::cluster_key::ClusterKey;
use transport_proto::connectivity::{RailState, Settings};
use transport_proto::identity::{Incarnation, LinkId, NodeId, Path, RailId};

const NODES: u16 = 3;
const RAILS: u8 = 4;

/// Processor time of all threads of this process so far, nanoseconds, and how often they were put on a core.
fn processor() -> Result<(u64, u64), Box<dyn Error>> {
    let mut sum = (0, 0);
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let mut fields = text.split_whitespace().map(str::parse::<u64>);
        let (Some(run), Some(_waited), Some(times)) = (fields.next(), fields.next(), fields.next()) else {
            return Err("the kernel counts no processor time of threads".into());
        };
        sum = (sum.0 + run?, sum.1 + times?);
    }
    Ok(sum)
}

fn main() -> Result<(), Box<dyn Error>> {
    let seconds: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    let count = usize::from(NODES) * usize::from(RAILS);
    let sockets: Vec<UdpSocket> =
        (0..count).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses: Vec<SocketAddr> = sockets.iter().map(UdpSocket::local_addr).collect::<Result<_, _>>()?;
    drop(sockets);
    let address =
        |node: u16, rail: u8| addresses[usize::from(node - 1) * usize::from(RAILS) + usize::from(rail)];
    let key = ClusterKey::derive("example", b"a secret of sixteen bytes or more");
    let mut monitors = Vec::new();
    for node in 1..=NODES {
        let pairs = (1..=NODES)
            .filter(|peer| *peer != node)
            .flat_map(|peer| (0..RAILS).map(move |rail| (peer, rail)));
        let rails: Vec<WatchedRail> = pairs
            .map(|(peer, rail)| WatchedRail {
                peer: NodeId(peer),
                path: Path { link: LinkId(0), rail: RailId(rail) },
                local: address(node, rail),
                remote: address(peer, rail),
            })
            .collect();
        let life = (NodeId(node), Incarnation(u64::from(node)));
        let board = Arc::<VerdictBoard>::default();
        monitors.push(MonitorThread::start(&key, Settings::default(), life, &rails, board)?);
    }
    std::thread::sleep(Duration::from_secs(1));
    let (started, before) = (Instant::now(), processor()?);
    std::thread::sleep(Duration::from_secs(seconds));
    let (span, after) = (started.elapsed().as_secs_f64(), processor()?);
    let nodes = f64::from(NODES);
    let share = (after.0 - before.0) as f64 / 1e9 / span / nodes;
    let wakeups = (after.1 - before.1) as f64 / span / nodes;
    println!("a node: {:.2} % of a core, {wakeups:.0} times a second on a core", share * 100.0);
    for monitor in &monitors {
        for report in monitor.reports() {
            let up = report.rails.iter().filter(|rail| rail.state == RailState::Up).count();
            let trip = report.rails.iter().filter_map(|rail| rail.round_trip).max().unwrap_or_default();
            let failed: u64 = report.rails.iter().map(|rail| rail.counters.failed).sum();
            println!("  to {}: {up} rails up, {failed} failures, round trip at most {trip:?}", report.peer);
        }
    }
    Ok(())
}
