//! How the configuration database grows: `cargo run --release -p control-proto --example growth`. For
//! clusters of a few sizes it prints what a snapshot has, what memory one replica takes, and how long
//! commands take.

use blockdev_proto::geometry::{BlockBytes, DiskId, VolumeId};
use control_proto::ccd::{Applied, Change, Command, Database, OperationId, Row, RowChange, Steward};
use control_proto::protocol_rules::Strict;
use control_proto::rows::{
    ClusterRows, DiskKind, DiskPort, DiskRow, LinkNumber, LinkRow, LostQuorum, NodeRow, RailAddress, RailEnd,
    RailRow, VirtualDiskRow,
};
use control_proto::view::Member;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use transport_proto::identity::{Incarnation, LinkId, NodeId, RailId};

/// A full mesh of nodes with two rails, five voters.
fn nodes_alone(nodes: u16) -> ClusterRows {
    let host = |id: u16| IpAddr::from([10, 0, (id >> 8) as u8, id as u8]);
    let node = |id| NodeRow { id: NodeId(id), name: format!("node{id}"), host: host(id), voter: id <= 5 };
    let rail = |rail: u8| {
        let end = |id: u16| {
            let port = 7400 + 2 * u16::from(rail);
            let at = |port| SocketAddr::new(host(id), port);
            RailEnd { node: NodeId(id), address: RailAddress::Tcp(at(port)), heartbeat: at(port + 1) }
        };
        RailRow { id: RailId(rail), ends: (1..=nodes).map(end).collect() }
    };
    let all = (1..=nodes).map(NodeId).collect();
    ClusterRows {
        nodes: (1..=nodes).map(node).collect(),
        links: vec![LinkRow {
            number: LinkNumber(0),
            id: LinkId(0),
            nodes: all,
            rails: vec![rail(0), rail(1)],
        }],
        ..ClusterRows::empty("grown")
    }
}

/// A virtual disk on a dual-ported disk of its own.
fn volume_rows(number: u32, nodes: u16) -> Vec<RowChange> {
    let first = NodeId((number % u32::from(nodes)) as u16 + 1);
    let second = NodeId(((number + 1) % u32::from(nodes)) as u16 + 1);
    let (id, path) = (DiskId(number), format!("/dev/disk/by-id/shelf-{number:05}"));
    let ports = [first, second].map(|node| DiskPort { node, path: path.clone() });
    let disk = DiskRow { id, name: format!("disk{number}"), kind: DiskKind::Raw, ports: ports.to_vec() };
    let virtual_disk = VirtualDiskRow {
        id: VolumeId(number),
        name: format!("vd{number}"),
        candidates: vec![(first, id), (second, id)],
        size_bytes: 1 << 40,
        block_bytes: BlockBytes::USUAL,
        read_only: false,
        on_lost_quorum: LostQuorum::Suspend,
    };
    vec![RowChange::Put(Row::Disk(disk)), RowChange::Put(Row::VirtualDisk(virtual_disk))]
}

struct Log {
    database: Database,
    sequence: u64,
}

impl Log {
    fn give(&mut self, change: Change) -> Duration {
        self.sequence += 1;
        let operation = OperationId { node: NodeId(1), life: Incarnation(1), sequence: self.sequence };
        let bytes = Command { operation, expect: Vec::new(), change }.encode();
        let begun = Instant::now();
        let applied = self.database.apply_bytes(self.sequence, &bytes);
        let took = begun.elapsed();
        assert!(matches!(applied, Applied::Done { .. }), "{applied:?}");
        took
    }
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn grow(nodes: u16, volumes: u32) {
    let before = resident_bytes();
    let database = Database::found(nodes_alone(nodes)).expect("sound rows");
    let mut log = Log { database, sequence: 0 };
    let member = |id| Member { node: NodeId(id), incarnation: Incarnation(1) };
    let by = Steward { member: member(1), term: 1 };
    log.give(Change::Steward(by));
    let membership = |log: &Log, count: u16| Change::Membership {
        by,
        expect: log.database.membership().number,
        members: (1..=count).map(member).collect(),
        broken: Vec::new(),
        causes: Vec::new(),
    };
    let all = membership(&log, nodes);
    log.give(all);
    let begun = Instant::now();
    let mut created: Vec<Duration> =
        (0..volumes).map(|number| log.give(Change::Rows(volume_rows(number, nodes)))).collect();
    let filled = begun.elapsed();
    let resident = resident_bytes().saturating_sub(before);
    created.sort();
    let begun = Instant::now();
    let snapshot = log.database.snapshot();
    let written = begun.elapsed();
    let begun = Instant::now();
    let restored = Database::<Strict>::restore(&snapshot).expect("our own snapshot");
    let read = begun.elapsed();
    assert_eq!(restored.view(), log.database.view());
    let one_less = membership(&log, nodes - 1);
    let removed = log.give(one_less);
    let begun = Instant::now();
    let mapped = log.database.view().mappings().filter(|mapping| mapping.serving.is_some()).count();
    let mapping = begun.elapsed();
    println!(
        "| {nodes} | {volumes} | {:.2} MiB | {:.1} MiB | {:.2} s | {:.0} µs | {:.0} µs | {:.1} ms | \
         {:.1} ms | {:.0} µs | {:.1} ms ({mapped}) |",
        snapshot.len() as f64 / (1 << 20) as f64,
        resident as f64 / (1 << 20) as f64,
        filled.as_secs_f64(),
        micros(created[created.len() / 2]),
        micros(created[created.len() - 1]),
        micros(written) / 1000.0,
        micros(read) / 1000.0,
        micros(removed),
        micros(mapping) / 1000.0,
    );
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

fn main() {
    let sizes: Vec<u32> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    if let [nodes, volumes] = sizes[..] {
        return grow(nodes as u16, volumes);
    }
    println!(
        "| nodes | virtual disks | snapshot | memory of a replica | created one by one in | median | \
         longest | snapshot written in | read in | membership change | all mappings anew (served) |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    // Each in a process of its own, so that memory is not what the one before has left.
    let program = std::env::current_exe().expect("a program knows where it is");
    for (nodes, volumes) in [(3, 100), (10, 1_000), (100, 1_000), (100, 10_000)] {
        let words = [nodes, volumes].map(|size: u32| size.to_string());
        let ended = std::process::Command::new(&program).args(words).status();
        assert!(ended.is_ok_and(|status| status.success()), "{nodes} nodes, {volumes} virtual disks");
    }
}
