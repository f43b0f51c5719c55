//! What a read costs in software alone: two engines on one thread, one shared-memory rail, a disk in memory;
//! 4 KiB read from the other node. No cache line travels between cores, nobody sleeps; so the figure is
//! instructions, not distance. `cargo run --release -p blockdev-engine --example read_path`, or under
//! callgrind.

#![forbid(unsafe_code)]

use blockdev_engine::{BlockEngine, BlockIo};
use blockdev_proto::geometry::{BlockBytes, ByteRange, DiskId, VolumeId};
use blockdev_proto::mapping::{CANDIDATES_MAX, Candidate, Mapping};
use blockdev_proto::wire::{Operation, RequestFlags};
use blockdev_store::{AnyBacking, MemoryDisk};
use std::error::Error;
use std::time::{Duration, Instant};
use transport_endpoint::{
    Endpoint, EndpointConfig, FIRST_FREE_TOKEN, PeerPlan, RailAddress, RailPlan, SpinSettings,
};
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{Epoch, Incarnation, LinkId, NodeId, Path, RailId};
use transport_proto::route::Spread;

const VOLUME: VolumeId = VolumeId(0);
const SIZE_BYTES: u64 = 8 << 20;
const READ_BYTES: u32 = 4096;

type Node = Endpoint<BlockEngine>;

fn mapping() -> Mapping {
    let mut candidates = [None; CANDIDATES_MAX];
    candidates[0] = Some(Candidate { node: NodeId(1), disk: DiskId(1), path_broken: false });
    Mapping {
        volume: VOLUME,
        epoch: Epoch(1),
        candidates,
        serving: Some(NodeId(1)),
        size_bytes: SIZE_BYTES,
        block_bytes: BlockBytes::USUAL,
        read_only: false,
        suspended: false,
    }
}

fn node(number: u16) -> Result<Node, Box<dyn Error>> {
    let key = ClusterKey::derive("example", b"a secret of sixteen bytes or more");
    let life = Incarnation(u64::from(number));
    let mut config = EndpointConfig::new(NodeId(number), life, key);
    config.spin = SpinSettings { forever: true, yielding: false, ..SpinSettings::default() };
    let mut node = Endpoint::new(config, BlockEngine::new(NodeId(number), life))?;
    let address = |node: u16| RailAddress::Shm(format!("netdisk-block-path-{}-{node}", std::process::id()));
    let path = Path { link: LinkId(0), rail: RailId(0) };
    let rail = RailPlan { path, local: address(number), remote: address(3 - number), monitored: false };
    let plan = PeerPlan { node: NodeId(3 - number), spread: Spread::Single, rails: vec![rail] };
    node.core().set_peer(&plan)?;
    node.core().configure(Epoch(1), &[NodeId(1), NodeId(2)]);
    node.clients().members(&[(NodeId(1), Incarnation(1)), (NodeId(2), Incarnation(2))]);
    if number == 1 {
        let registry = node.registry().try_clone()?;
        let disk = AnyBacking::Memory(MemoryDisk::new(SIZE_BYTES, READ_BYTES)?);
        node.clients().attach_disk(&registry, mio::Token(FIRST_FREE_TOKEN), DiskId(1), VOLUME, disk)?;
    }
    Ok(node)
}

fn turn(node: &mut Node) {
    node.poll();
    let (core, engine) = node.parts();
    engine.poll(core);
}

fn main() -> Result<(), Box<dyn Error>> {
    let count: u64 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let (mut master, mut reader) = (node(1)?, node(2)?);
    while !(master.core().is_reachable(NodeId(2)) && reader.core().is_reachable(NodeId(1))) {
        for node in [&mut master, &mut reader] {
            turn(node);
            node.sleep(Duration::ZERO, |_, _, _| ())?;
        }
    }
    for node in [&mut master, &mut reader] {
        let (core, engine) = node.parts();
        engine.mapping(core, &mapping()).map_err(|fault| format!("{fault:?}"))?;
        if !engine.open(core, VOLUME) {
            return Err("the volume does not open".into());
        }
    }
    let started = Instant::now();
    for number in 0..count {
        let range = ByteRange::new(number * u64::from(READ_BYTES) % SIZE_BYTES, READ_BYTES);
        let (operation, flags) = (Operation::Read, RequestFlags::NONE);
        let io = BlockIo { volume: VOLUME, operation, flags, range, data: None, tag: number };
        let (core, engine) = reader.parts();
        engine.submit(core, io).map_err(|refused| format!("{:?}", refused.why))?;
        while reader.clients().next_completion().is_none() {
            turn(&mut master);
            turn(&mut reader);
        }
    }
    let nanos = started.elapsed().as_nanos() as f64 / count as f64;
    println!("4 KiB read from the other node, both sides on one thread: {nanos:.0} ns");
    Ok(())
}
