//! Two nodes and a memory disk: requests of one node's clients served by the other, and by the node itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use blockdev_engine::{BlockCompletion, BlockEngine, BlockIo, RefusedWhy, WriteData};
use blockdev_proto::errno::BlockErrno;
use blockdev_proto::geometry::{BlockBytes, ByteRange, DiskId, VolumeId};
use blockdev_proto::mapping::{CANDIDATES_MAX, Candidate, Mapping};
use blockdev_proto::wire::{Answer, Message, Operation, RequestFlags, RequestId, Slot, Verdict};
use blockdev_store::{AnyBacking, MemoryDisk};
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport_endpoint::{
    Data, Endpoint, EndpointConfig, FIRST_FREE_TOKEN, PeerPlan, RailAddress, RailPlan, Tag,
};
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{ClientId, Epoch, Incarnation, LinkId, NodeId, Path, RailId, Sequence};
use transport_proto::route::Spread;

const VOLUME: VolumeId = VolumeId(0);
const SIZE: u64 = 8 << 20;

fn mapping(epoch: u64, candidates: &[u16], serving: Option<u16>) -> Mapping {
    let mut places = [None; CANDIDATES_MAX];
    for (place, node) in places.iter_mut().zip(candidates) {
        *place = Some(Candidate { node: NodeId(*node), disk: DiskId(1), path_broken: false });
    }
    Mapping {
        volume: VOLUME,
        epoch: Epoch(epoch),
        candidates: places,
        serving: serving.map(NodeId),
        size_bytes: SIZE,
        block_bytes: BlockBytes::USUAL,
        read_only: false,
        suspended: false,
    }
}

struct Nodes([Endpoint<BlockEngine>; 2]);

impl Nodes {
    fn new(name: &str, shared_memory: bool) -> Nodes {
        let key = ClusterKey::derive("test", b"a secret of sixteen bytes or more");
        let endpoint = |node: u16| {
            let config = EndpointConfig::new(NodeId(node), Incarnation(u64::from(node)), key.clone());
            Endpoint::new(config, BlockEngine::new(NodeId(node), Incarnation(u64::from(node)))).unwrap()
        };
        let mut nodes = Nodes([endpoint(1), endpoint(2)]);
        let address = |node: u16| match shared_memory {
            true => RailAddress::Shm(format!("netdisk-engine-{name}-{}-{node}", std::process::id())),
            false => {
                let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                RailAddress::Tcp(free.local_addr().unwrap())
            }
        };
        let (one, two) = (address(1), address(2));
        let path = Path { link: LinkId(0), rail: RailId(0) };
        for (of, local, remote) in [(0, &one, &two), (1, &two, &one)] {
            let rail = RailPlan { path, local: local.clone(), remote: remote.clone(), monitored: false };
            let plan = PeerPlan { node: NodeId(2 - of as u16), spread: Spread::Single, rails: vec![rail] };
            let core = nodes.0[of].core();
            core.set_peer(&plan).unwrap();
            core.configure(Epoch(1), &[NodeId(1), NodeId(2)]);
            nodes.0[of].clients().members(&[(NodeId(1), Incarnation(1)), (NodeId(2), Incarnation(2))]);
        }
        let registry = nodes.0[0].registry().try_clone().unwrap();
        let disk = AnyBacking::Memory(MemoryDisk::new(SIZE, 4096).unwrap());
        let engine = nodes.0[0].clients();
        engine.attach_disk(&registry, mio::Token(FIRST_FREE_TOKEN), DiskId(1), VOLUME, disk).unwrap();
        nodes.map(&mapping(1, &[1], Some(1)));
        nodes
    }

    fn map(&mut self, mapping: &Mapping) {
        for node in &mut self.0 {
            let (core, engine) = node.parts();
            engine.mapping(core, mapping).unwrap();
            assert!(engine.open(core, mapping.volume));
        }
    }

    fn turn(&mut self) {
        for node in &mut self.0 {
            node.poll();
            let (core, engine) = node.parts();
            engine.poll(core);
            node.sleep(Duration::ZERO, |_, _, _| ()).unwrap();
        }
    }

    fn run(&mut self, node: usize, io: BlockIo) -> Result<BlockCompletion, RefusedWhy> {
        let (core, engine) = self.0[node].parts();
        engine.submit(core, io).map_err(|refused| refused.why)?;
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < Duration::from_secs(30), "the request is stuck");
            self.turn();
            if let Some(done) = self.0[node].clients().next_completion() {
                return Ok(done);
            }
        }
    }
}

fn io(operation: Operation, offset: u64, length: u32, data: Option<Vec<u8>>) -> BlockIo {
    let data = data.map(|bytes| WriteData::Caller(Arc::new(bytes)));
    let range = ByteRange::new(offset, length);
    BlockIo { volume: VOLUME, operation, flags: RequestFlags::NONE, range, data, tag: offset }
}

fn bytes_of(done: Result<BlockCompletion, RefusedWhy>) -> Vec<u8> {
    done.unwrap().result.unwrap().unwrap().as_ref().to_vec()
}

fn one_set_of_semantics(name: &str, shared_memory: bool) {
    let mut nodes = Nodes::new(name, shared_memory);
    for client in [0, 1] {
        for (number, length) in [4096u32, 65536, 1 << 20].into_iter().enumerate() {
            let offset = (number as u64) << 21;
            let pattern: Vec<u8> = (0..length).map(|at| (at as usize * 7 + client + number) as u8).collect();
            let written = nodes.run(client, io(Operation::Write, offset, length, Some(pattern.clone())));
            assert!(written.unwrap().result.unwrap().is_none());
            for reader in [0, 1] {
                assert!(bytes_of(nodes.run(reader, io(Operation::Read, offset, length, None))) == pattern);
            }
        }
        let zeroed = nodes.run(client, io(Operation::WriteZeroes, 0, 4096, None));
        assert!(zeroed.unwrap().result.is_ok());
        assert_eq!(bytes_of(nodes.run(client, io(Operation::Read, 0, 4096, None))), vec![0; 4096]);
        assert!(nodes.run(client, io(Operation::Flush, 0, 0, None)).unwrap().result.is_ok());
        assert!(nodes.run(client, io(Operation::Discard, 4096, 4096, None)).unwrap().result.is_ok());
        let past_end = nodes.run(client, io(Operation::Write, SIZE, 4096, Some(vec![1; 4096])));
        assert_eq!(past_end.unwrap_err(), RefusedWhy::Failed(BlockErrno::Enospc));
        let unaligned = nodes.run(client, io(Operation::Read, 100, 4096, None));
        assert_eq!(unaligned.unwrap_err(), RefusedWhy::Failed(BlockErrno::Einval));
    }
    let local = nodes.0[0].core().status().peers[0].counters.messages_sent;
    nodes.run(0, io(Operation::Read, 0, 4096, None)).unwrap();
    let after = nodes.0[0].core().status().peers[0].counters.messages_sent;
    assert_eq!(local, after, "a local disk is reached without the transport");
}

// proves: B1 B11 B13
#[test]
fn local_and_remote_clients_see_one_set_of_semantics_over_shared_memory() {
    one_set_of_semantics("shm", true);
}

// proves: B1 B11 B13
#[test]
fn local_and_remote_clients_see_one_set_of_semantics_over_tcp() {
    one_set_of_semantics("tcp", false);
}

// proves: B11
#[test]
fn an_answer_of_another_length_than_was_asked_for_is_an_error_and_never_data() {
    let mut nodes = Nodes::new("short", true);
    assert_eq!(bytes_of(nodes.run(1, io(Operation::Read, 0, 4096, None))).len(), 4096);
    for (number, length) in [(2, 512), (3, 0)] {
        let (core, engine) = nodes.0[1].parts();
        engine.submit(core, io(Operation::Read, 0, 4096, None)).unwrap();
        let id = RequestId { slot: Slot(0), sequence: Sequence(number) };
        let (volume, epoch, incarnation) = (VOLUME, Epoch(1), Incarnation(2));
        let forged =
            Message::Answer(Answer { volume, epoch, incarnation, id, verdict: Verdict::Done }).encode();
        let data = Data::Caller(Arc::new(vec![0; length]));
        let core = nodes.0[0].core();
        assert!(core.send(NodeId(2), ClientId::BLOCK, forged.as_bytes(), data, Tag::SILENT).is_ok());
        let started = Instant::now();
        let done = loop {
            assert!(started.elapsed() < Duration::from_secs(30), "the request is stuck");
            nodes.turn();
            if let Some(done) = nodes.0[1].clients().next_completion() {
                break done;
            }
        };
        assert_eq!(done.result.unwrap_err(), BlockErrno::Eio);
    }
}
