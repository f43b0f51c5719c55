//! The rows of the laboratory's table, in order: two sides and a goal each.

use bench_harness::{Contender, Goal, Unit};

use super::Lengths;
use super::kernel_nvme::{Fabric, KernelNvme};
use super::perftest::{PerftestBandwidth, PerftestLatency};
use crate::netdisk::{Carrier, DiskJob, Drive, JobKind, Layout, MessageStream, Trial, Waiting, Ways, What};
use crate::peers::Tool;
use crate::scenario::Scenario;
use transport_proto::wire::HEADER_BYTES;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Bytes of the memory disks; what the kernel's has unless told otherwise.
const DISK_BYTES: u64 = 16 << 20;

/// Jobs of 4 KiB blocks: what, how many at a time, and the row beside each of the kernel's fabrics.
const BLOCK_JOBS: [(JobKind, u32, [&str; 2]); 4] = [
    (JobKind::Read, 1, ["disk/read/4KiB/QD1/nvme-rdma", "disk/read/4KiB/QD1/nvme-tcp"]),
    (JobKind::Read, 32, ["disk/read/4KiB/QD32/nvme-rdma", "disk/read/4KiB/QD32/nvme-tcp"]),
    (JobKind::Write, 1, ["disk/write/4KiB/QD1/nvme-rdma", "disk/write/4KiB/QD1/nvme-tcp"]),
    (JobKind::Write, 32, ["disk/write/4KiB/QD32/nvme-rdma", "disk/write/4KiB/QD32/nvme-tcp"]),
];

/// All rows of this run.
pub(super) fn scenarios(lengths: Lengths) -> Vec<Scenario> {
    let mut all = vec![
        latency("verbs/64B/half-round-trip", 64, 64, lengths),
        latency("verbs/4KiB/half-round-trip", 4 * KIB, 4 * KIB, lengths),
        latency("verbs/4KiB/two-packets", 4 * KIB, 4 * KIB + HEADER_BYTES, lengths),
        bandwidth("verbs/64KiB/stream", 64 * KIB, lengths),
        bandwidth("verbs/1MiB/stream", MIB, lengths),
        two_rails(lengths),
    ];
    for (kind, depth, ids) in BLOCK_JOBS {
        for (fabric, id) in [Fabric::Rdma, Fabric::Tcp].into_iter().zip(ids) {
            all.push(blocks(id, fabric, kind, depth, lengths));
        }
    }
    all
}

/// Both ends poll, as perftest does, but give their core away between two looks: soft-RoCE's threads need
/// one.
fn layout(links: u8) -> Layout {
    Layout { links, ..Layout::one(Carrier::Verbs, Waiting::Yielding) }
}

/// `sent`: bytes that the peer sends for our `bytes`, which travel with a header.
fn latency(id: &'static str, bytes: usize, sent: usize, lengths: Lengths) -> Scenario {
    let Lengths { cores, budget, messages, .. } = lengths;
    let peer = PerftestLatency { program: "ib_send_lat", bytes: sent, messages };
    let ours = Trial {
        what: What::Latency(Ways::Half),
        layout: layout(1),
        bytes,
        drive: Drive::Closed { depth: None },
        threads: 1,
        cores: vec![cores],
        budget,
        partner: None,
    };
    Scenario {
        id: id.into(),
        title: "message one way (half a round trip), whole stack".into(),
        unit: Unit::Nanoseconds,
        goal: Goal::RatioAtMost { ratio: 1.3 },
        needs: vec![Tool::Perftest(peer.program)],
        unfit: None,
        ours: Some(Box::new(ours)),
        limit: Some(Box::new(peer)),
    }
}

fn stream(bytes: usize, links: u8, lengths: Lengths) -> Box<dyn Contender> {
    let Lengths { cores, budget, .. } = lengths;
    Box::new(MessageStream { cores, budget, layout: layout(links), bytes })
}

fn bandwidth(id: &'static str, bytes: usize, lengths: Lengths) -> Scenario {
    let peer = PerftestBandwidth { program: "ib_write_bw", bytes, stream_bytes: lengths.stream_bytes };
    Scenario {
        id: id.into(),
        title: "stream one way, whole stack".into(),
        unit: Unit::BytesPerSecond,
        goal: Goal::RatioAtLeast { ratio: 0.9 },
        needs: vec![Tool::Perftest(peer.program)],
        unfit: None,
        ours: Some(stream(bytes, 1, lengths)),
        limit: Some(Box::new(peer)),
    }
}

fn two_rails(lengths: Lengths) -> Scenario {
    Scenario {
        id: "verbs/1MiB/two-rails".into(),
        title: "stream one way, striped over two rails, against one".into(),
        unit: Unit::BytesPerSecond,
        goal: Goal::RatioAtLeast { ratio: 1.5 },
        needs: Vec::new(),
        unfit: None,
        ours: Some(stream(MIB, 2, lengths)),
        limit: Some(stream(MIB, 1, lengths)),
    }
}

/// Better than the kernel: any ratio below, or above, one.
fn blocks(id: &'static str, fabric: Fabric, kind: JobKind, depth: u32, lengths: Lengths) -> Scenario {
    let Lengths { cores, budget, .. } = lengths;
    let (unit, goal) = match depth {
        1 => (Unit::Nanoseconds, Goal::RatioAtMost { ratio: 1.0 }),
        _ => (Unit::OperationsPerSecond, Goal::RatioAtLeast { ratio: 1.0 }),
    };
    let layout = layout(1);
    let (runtime, warm_up, disk_bytes) = (budget.measure, budget.warm_up, DISK_BYTES);
    Scenario {
        id: id.into(),
        title: "4 KiB blocks of a remote memory disk, library against the kernel".into(),
        unit,
        goal,
        needs: vec![Tool::Fio, Tool::KernelModule("brd"), Tool::KernelModule(fabric.module())],
        unfit: None,
        ours: Some(Box::new(DiskJob {
            cores,
            budget,
            layout,
            kind,
            bytes: 4 << 10,
            depth,
            disk_bytes,
            counts_bytes: false,
        })),
        limit: Some(Box::new(KernelNvme { fabric, kind, depth, runtime, warm_up, disk_bytes })),
    }
}
