//! What `netdisk status` tells: the node at one moment, as data and as text.

mod changes;
mod regions;
mod verbs;
mod volumes;

pub(crate) use changes::change_text;
pub use regions::Region;
pub use verbs::Verbs;
pub use volumes::{Assembly, Leg, Mirror, Part};

use crate::distress::Distress;
use crate::node::Node;
use blockdev_engine::EngineStatus;
use blockdev_proto::geometry::VolumeId;
use control_proto::ccd::Database;
use control_proto::distress::Standing;
use control_proto::rows::ClusterRows;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use transport_endpoint::{ProviderKind, TransportStatus};
use transport_proto::rail::RailState;

/// A node at one moment. Durations are microseconds, sizes bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Layout of this report; rises when a field changes its meaning.
    pub format: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// The node's id.
    pub node: u16,
    /// Its present life.
    pub incarnation: u64,
    /// Its release.
    #[serde(default)]
    pub release: Option<String>,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The configuration number in force.
    pub epoch: u64,
    /// Members at that number.
    pub members: Vec<u16>,
    /// Whether a lease is held, which takes a majority of the voters.
    pub quorum: bool,
    /// The replicated log of the configuration.
    #[serde(default)]
    pub log: Log,
    /// Reconfigurations that members stand still for.
    #[serde(default)]
    pub reconfigurations: Vec<Reconfiguration>,
    /// Nodes that gave up in distress and stay out.
    #[serde(default)]
    pub tombstones: Vec<u16>,
    /// Memory.
    pub memory: Memory,
    /// Connections refused because the other end is no member of the cluster, or could not prove it.
    #[serde(default)]
    pub handshakes_refused: u64,
    /// Distress signals that were not believed: forged, or of another cluster.
    #[serde(default)]
    pub distress_refused: u64,
    /// What its verbs rails have counted, once there was one.
    #[serde(default)]
    pub verbs: Option<Verbs>,
    /// All other nodes.
    pub peers: Vec<Peer>,
    /// Disks attached here.
    pub disks: Vec<Disk>,
    /// Virtual disks.
    pub virtual_disks: Vec<VirtualDisk>,
    /// Mirrors.
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
    /// Concatenations and stripes.
    #[serde(default)]
    pub assemblies: Vec<Assembly>,
    /// Regions that this node lends to the pool and erases.
    #[serde(default)]
    pub regions: Vec<Region>,
    /// Requests of this node's clients.
    pub driver: Driver,
    /// Requests of all nodes for the disks here.
    pub master: Master,
    /// Changes of the serving node that this node's clients met.
    pub failovers: Vec<Failover>,
    /// NBD servers.
    pub nbd: Vec<Nbd>,
}

/// The replicated log as this node knows it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Log {
    /// `leader`, `follower`, `learner` or `none`.
    pub role: String,
    /// Who leads, if anybody does.
    pub leader: Option<u16>,
    /// The term; rises with each election.
    pub term: u64,
    /// Who votes.
    pub voters: Vec<u16>,
    /// Who gets the log without a vote.
    pub learners: Vec<u16>,
    /// Index of the last entry that this node acts on.
    pub applied: u64,
    /// Index of the last entry that this node has.
    pub last: u64,
    /// Index of the last entry in the snapshot.
    pub snapshot: u64,
}

/// A reconfiguration under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reconfiguration {
    /// Its number.
    pub id: u64,
    /// How far it is, in words.
    pub phase: String,
    /// Virtual disks that stand still for it.
    pub virtual_disks: Vec<String>,
    /// Nodes that are waited for.
    pub waits_for: Vec<u16>,
}

/// Memory of the node.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// Resident now, by the kernel's count.
    pub resident_bytes: u64,
    /// Held for transport: connections, slabs, pools.
    pub transport_bytes: u64,
    /// What the configuration allows for transport and I/O.
    pub budget_bytes: u64,
}

/// Another node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Its id.
    pub node: u16,
    /// Whether it is a member.
    pub member: bool,
    /// Whether a rail to it is up.
    pub reachable: bool,
    /// What it said of its end; empty if nothing. One that is not reachable and said nothing may be cut off.
    #[serde(default)]
    pub distress: String,
    /// Its life, once met.
    pub incarnation: Option<u64>,
    /// Logical links to it.
    pub links: Vec<Link>,
    /// Messages sent and delivered.
    pub messages_sent: u64,
    /// Messages delivered here.
    pub messages_delivered: u64,
    /// Messages sent again after a rail died.
    pub messages_replayed: u64,
    /// Messages that came again and were dropped.
    pub duplicates_dropped: u64,
    /// Frames dropped since their sender is no member.
    pub frames_fenced: u64,
    /// Frames dropped for other faults.
    pub frames_dropped: u64,
    /// Rails lost.
    pub rails_lost: u64,
    /// Leases that clients hold.
    pub leases_held: usize,
    /// Age of the oldest.
    pub lease_age_us: Option<u64>,
}

/// A logical link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Link {
    /// Its number.
    pub link: u8,
    /// Its rails.
    pub rails: Vec<Rail>,
}

/// A rail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rail {
    /// Its number in the link.
    pub rail: u8,
    /// `verbs`, `shm` or `tcp`.
    pub kind: String,
    /// `down`, `connecting`, `probing`, `up`, `draining`.
    pub state: String,
    /// Whether it carries the link's data.
    pub active: bool,
    /// Connections it has had.
    pub connections: u64,
    /// Heartbeat round trip.
    pub round_trip_us: Option<u64>,
}

/// A disk of this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// Its name.
    pub name: String,
    /// The virtual disk that it backs.
    pub virtual_disk: String,
    /// How it is driven.
    pub access: String,
    /// Fencing number on it.
    pub epoch: u64,
    /// Requests with it.
    pub in_flight: usize,
    /// Age of the oldest.
    pub oldest_us: Option<u64>,
}

/// A virtual disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VirtualDisk {
    /// Its name.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// The node that serves it.
    pub serving: Option<u16>,
    /// This node's gate.
    pub gate: String,
    /// How often surfaces of this node have it open.
    pub open: usize,
    /// Whether it is set up for requests of this node's clients, as it is while it is open.
    #[serde(default)]
    pub set_up: bool,
    /// Members stand still for a change of it.
    #[serde(default)]
    pub suspended: bool,
    /// Requests of this node that are pending.
    pub pending: usize,
}

/// The driver's counts.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Driver {
    /// Requests pending.
    pub pending: u64,
    /// Requests finished.
    pub completed: u64,
    /// Of those with an error.
    pub failed: u64,
    /// Sent again under the same id.
    pub reissued: u64,
    /// Became of unknown outcome for a while.
    pub limbo: u64,
}

/// The master's counts.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Master {
    /// Running.
    pub executing: u64,
    /// Ran.
    pub executed: u64,
    /// Copies that were not run again.
    pub duplicates: u64,
    /// Refused for their number.
    pub stale: u64,
}

/// A failover.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failover {
    /// The virtual disk.
    pub virtual_disk: String,
    /// Configuration number.
    pub epoch: u64,
    /// Served before.
    pub from: Option<u16>,
    /// Serves since.
    pub to: u16,
    /// How long clients of this node waited.
    pub gap_us: Option<u64>,
}

/// An NBD server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Nbd {
    /// Where it listens.
    pub listen: Vec<String>,
    /// Connections.
    pub connections: usize,
    /// Requests of dead connections that still run.
    pub quarantined: usize,
}

fn memory(rows: &ClusterRows, transport: &TransportStatus) -> Memory {
    Memory {
        resident_bytes: resident_bytes(),
        transport_bytes: transport.memory_bytes as u64,
        budget_bytes: rows.memory_budget_bytes,
    }
}

/// The node at this moment.
pub(crate) fn status(node: &mut Node) -> Status {
    let rows = node.rows.clone();
    let volumes: Vec<VolumeId> = rows.virtual_disks.iter().map(|row| row.id).collect();
    let epoch = node.epoch().0;
    let reports = node.monitor.reports();
    let open = node.station.open_volumes().to_vec();
    let members = node.members().map(|member| member.0).collect();
    let log = log(node);
    let database = node.replica.database();
    let view = database.view();
    let tombstones = database.tombstones().map(|stone| stone.member.node.0).collect();
    let reconfigurations = reconfigurations(database, &rows);
    let (core, clients) = node.station.endpoint.parts();
    let transport = core.status();
    let engine = clients.engine.status(&volumes);
    let mirrored = volumes::mirrors(&rows, &clients.engine);
    let assembled = volumes::assemblies(&rows, &view, &clients.engine);
    let failovers = clients.engine.failovers().map(|failover| Failover {
        virtual_disk: volume_name(&rows, failover.volume),
        epoch: failover.epoch.0,
        from: failover.from.map(|node| node.0),
        to: failover.to.0,
        gap_us: failover.gap_nanos.map(|nanos| nanos / 1_000),
    });
    Status {
        format: 1,
        cluster: rows.name.clone(),
        node: core.node().0,
        incarnation: core.incarnation().0,
        release: Some(env!("CARGO_PKG_VERSION").into()),
        uptime_s: node.started.elapsed().as_secs(),
        epoch,
        members,
        log,
        reconfigurations,
        tombstones,
        quorum: node.has_quorum,
        memory: memory(&rows, &transport),
        handshakes_refused: transport.handshakes_refused,
        verbs: transport.verbs.map(Verbs::from),
        distress_refused: node.distress.refused(),
        failovers: failovers.collect(),
        peers: peers(&transport, &reports, &node.distress),
        disks: disks(&rows, &engine),
        virtual_disks: virtual_disks(&rows, &engine, &open),
        mirrors: mirrored,
        assemblies: assembled,
        regions: regions::regions(&rows, node.genesis.node, &node.eraser),
        driver: Driver {
            pending: engine.driver.pending,
            completed: engine.driver.completed,
            failed: engine.driver.failed,
            reissued: engine.driver.reissued,
            limbo: engine.driver.limbo,
        },
        master: Master {
            executing: engine.master.executing,
            executed: engine.master.executed,
            duplicates: engine.master.duplicates,
            stale: engine.master.stale,
        },
        nbd: node
            .surfaces
            .servers()
            .map(|server| Nbd {
                listen: server.addresses().map(ToString::to_string).collect(),
                connections: server.connections(),
                quarantined: server.quarantined_requests(),
            })
            .collect(),
    }
}

fn reconfigurations(database: &Database, rows: &ClusterRows) -> Vec<Reconfiguration> {
    let one = |row: &control_proto::ccd::Reconfiguration| Reconfiguration {
        id: row.id.0,
        phase: row.phase.to_string(),
        virtual_disks: row.volumes.iter().map(|volume| volume_name(rows, *volume)).collect(),
        waits_for: row.missing.iter().map(|member| member.node.0).collect(),
    };
    database.live_reconfigurations().map(one).collect()
}

fn log(node: &mut Node) -> Log {
    let (id, applied) = (node.genesis.node, node.replica.database().index());
    let clients = node.station.endpoint.clients();
    let Some(state) = clients.consensus.as_ref().map(|log| log.state()) else { return Log::default() };
    let ids = |nodes: &std::collections::BTreeSet<_>| {
        nodes.iter().map(|node: &transport_proto::identity::NodeId| node.0).collect()
    };
    let role = match () {
        () if state.leads => "leader",
        () if state.voters.contains(&id) => "follower",
        () if state.learners.contains(&id) => "learner",
        () => "none",
    };
    Log {
        role: role.into(),
        leader: state.leader.map(|node| node.0),
        term: state.term,
        voters: ids(&state.voters),
        learners: ids(&state.learners),
        applied,
        last: state.last,
        snapshot: state.snapshot,
    }
}

fn peers(
    transport: &TransportStatus,
    reports: &[transport_endpoint::MonitorReport],
    distress: &Distress,
) -> Vec<Peer> {
    let round_trip = |node, path| {
        let report = reports.iter().find(|report| report.peer == node)?;
        let rail = report.rails.iter().find(|rail| rail.path == path)?;
        rail.round_trip.map(|span| span.as_micros() as u64)
    };
    let peer = |peer: &transport_endpoint::PeerStatus| Peer {
        node: peer.node.0,
        member: peer.member,
        reachable: peer.reachable,
        distress: match distress.standing(peer.node, peer.reachable) {
            Standing::Present | Standing::Silent => String::new(),
            Standing::Ending(reason) => format!("about to end: {reason}"),
            Standing::Failed(reason, level) => format!("failed: {reason} ({level})"),
        },
        incarnation: peer.incarnation.map(|life| life.0),
        links: peer
            .links
            .iter()
            .map(|link| Link {
                link: link.link.0,
                rails: link
                    .rails
                    .iter()
                    .map(|rail| Rail {
                        rail: rail.path.rail.0,
                        kind: match rail.kind {
                            ProviderKind::Shm => "shm".into(),
                            ProviderKind::Tcp => "tcp".into(),
                            ProviderKind::Verbs => "verbs".into(),
                        },
                        state: state(rail.state).into(),
                        active: rail.active,
                        connections: rail.connections,
                        round_trip_us: round_trip(peer.node, rail.path),
                    })
                    .collect(),
            })
            .collect(),
        messages_sent: peer.counters.messages_sent,
        messages_delivered: peer.counters.messages_delivered,
        messages_replayed: peer.counters.messages_replayed,
        duplicates_dropped: peer.counters.duplicates_dropped,
        frames_fenced: peer.counters.frames_fenced,
        frames_dropped: peer.counters.frames_dropped,
        rails_lost: peer.counters.rails_lost,
        leases_held: peer.leases.0,
        lease_age_us: peer.leases.1.map(|age| age.as_micros() as u64),
    };
    transport.peers.iter().map(peer).collect()
}

fn state(state: RailState) -> &'static str {
    match state {
        RailState::Down => "down",
        RailState::Connecting => "connecting",
        RailState::Probing => "probing",
        RailState::Up => "up",
        RailState::Draining => "draining",
    }
}

fn disks(rows: &ClusterRows, engine: &EngineStatus) -> Vec<Disk> {
    let disk = |disk: &blockdev_engine::DiskStatus| Disk {
        name: rows.disk(disk.disk).map_or_else(|| disk.disk.0.to_string(), |row| row.name.clone()),
        virtual_disk: volume_name(rows, disk.volume),
        access: disk.access.clone(),
        epoch: disk.epoch.0,
        in_flight: disk.in_flight,
        oldest_us: disk.oldest.map(|age| age.as_micros() as u64),
    };
    engine.disks.iter().map(disk).collect()
}

fn virtual_disks(rows: &ClusterRows, engine: &EngineStatus, open: &[(VolumeId, usize)]) -> Vec<VirtualDisk> {
    let row = |row: &control_proto::rows::VirtualDiskRow| {
        let seen = engine.volumes.iter().find(|volume| volume.volume == row.id);
        VirtualDisk {
            name: row.name.clone(),
            size_bytes: row.size_bytes,
            serving: seen.and_then(|volume| volume.serving).map(|node| node.0),
            gate: seen.map_or_else(|| "unknown".into(), |volume| format!("{:?}", volume.gate)),
            open: open.iter().find(|(volume, _)| *volume == row.id).map_or(0, |(_, count)| *count),
            set_up: seen.is_some_and(|volume| volume.set_up),
            suspended: seen.is_some_and(|volume| volume.suspended),
            pending: seen.map_or(0, |volume| volume.pending),
        }
    };
    rows.virtual_disks.iter().map(row).collect()
}

fn volume_name(rows: &ClusterRows, volume: VolumeId) -> String {
    rows.virtual_disk(volume).map_or_else(|| volume.0.to_string(), |row| row.name.clone())
}

/// Resident bytes of this process; 0 where the kernel does not tell.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// The status as a person reads it.
pub fn text(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = render(status, &mut out);
    out
}

fn render(status: &Status, out: &mut String) -> std::fmt::Result {
    let quorum = if status.quorum { "majority reachable" } else { "NO MAJORITY: serving nothing" };
    writeln!(out, "node {} of {}, up {} s, {quorum}", status.node, status.cluster, status.uptime_s)?;
    writeln!(out, "configuration {}, members {:?}", status.epoch, status.members)?;
    let log = &status.log;
    let leader = log.leader.map_or_else(|| "nobody".into(), |node| format!("node {node}"));
    writeln!(
        out,
        "log: {}, term {} led by {leader}, voters {:?}, learners {:?}, entry {} of {}",
        log.role, log.term, log.voters, log.learners, log.applied, log.last
    )?;
    for one in &status.reconfigurations {
        writeln!(
            out,
            "reconfiguration {} of {}: {}; waits for nodes {:?}",
            one.id,
            one.virtual_disks.join(", "),
            one.phase,
            one.waits_for
        )?;
    }
    for node in &status.tombstones {
        writeln!(out, "node {node} gave up in distress and stays out: netdisk node clear {node}")?;
    }
    let memory = &status.memory;
    let mib = |bytes: u64| bytes >> 20;
    let (resident, held, budget) =
        (mib(memory.resident_bytes), mib(memory.transport_bytes), mib(memory.budget_bytes));
    writeln!(out, "memory {resident} MiB resident, {held} MiB transport, {budget} MiB budget")?;
    if status.handshakes_refused > 0 {
        writeln!(out, "{} connections of strangers refused", status.handshakes_refused)?;
    }
    if status.distress_refused > 0 {
        writeln!(out, "{} distress signals not believed", status.distress_refused)?;
    }
    if let Some(verbs) = &status.verbs {
        verbs.render(out)?;
    }
    render_peers(status, out)?;
    render_disks(status, out)
}

fn render_peers(status: &Status, out: &mut String) -> std::fmt::Result {
    for peer in &status.peers {
        let (member, reach) = (
            if peer.member { "member" } else { "not a member" },
            match (peer.reachable, peer.distress.as_str()) {
                (true, "") => "reachable",
                (false, "") => "UNREACHABLE: failed or cut off",
                (_, said) => said,
            },
        );
        writeln!(out, "peer {}: {member}, {reach}", peer.node)?;
        for link in &peer.links {
            for rail in &link.rails {
                let active = if rail.active { ", carries the data" } else { "" };
                let round_trip =
                    rail.round_trip_us.map_or_else(String::new, |us| format!(", heartbeat {us} us"));
                let again = match rail.connections {
                    0 | 1 => String::new(),
                    count => format!(", {} times connected again", count - 1),
                };
                let (link, number) = (link.link, rail.rail);
                writeln!(
                    out,
                    "  link {link} rail {number} {} {}{active}{round_trip}{again}",
                    rail.kind, rail.state
                )?;
            }
        }
        writeln!(
            out,
            "  sent {} delivered {} replayed {} duplicates dropped {} fenced {} leases {}",
            peer.messages_sent,
            peer.messages_delivered,
            peer.messages_replayed,
            peer.duplicates_dropped,
            peer.frames_fenced,
            peer.leases_held
        )?;
    }
    Ok(())
}

fn render_disks(status: &Status, out: &mut String) -> std::fmt::Result {
    let mib = |bytes: u64| bytes >> 20;
    for disk in &status.virtual_disks {
        let serving = disk.serving.map_or_else(|| "nobody".into(), |node| format!("node {node}"));
        writeln!(
            out,
            "virtual disk {}: {} MiB, served by {serving}, gate here {}, open {}, pending {}",
            disk.name,
            mib(disk.size_bytes),
            disk.gate,
            disk.open,
            disk.pending
        )?;
    }
    volumes::render(&status.mirrors, &status.assemblies, out)?;
    for disk in &status.disks {
        let oldest = disk.oldest_us.map_or_else(String::new, |us| format!(", oldest {us} us"));
        writeln!(
            out,
            "disk {} for {}: {}, {} in flight{oldest}",
            disk.name, disk.virtual_disk, disk.access, disk.in_flight
        )?;
    }
    let driver = &status.driver;
    writeln!(
        out,
        "requests: {} pending, {} completed, {} failed, {} sent again",
        driver.pending, driver.completed, driver.failed, driver.reissued
    )?;
    for failover in &status.failovers {
        let from = failover.from.map_or_else(|| "nobody".into(), |node| node.to_string());
        let gap =
            failover.gap_us.map_or_else(|| "no request since".into(), |us| format!("gap {} ms", us / 1000));
        writeln!(
            out,
            "failover of {} at {}: {from} -> {}, {gap}",
            failover.virtual_disk, failover.epoch, failover.to
        )?;
    }
    for server in &status.nbd {
        writeln!(out, "nbd {}: {} connections", server.listen.join(", "), server.connections)?;
    }
    Ok(())
}
