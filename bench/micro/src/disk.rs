//! `netdisk bench disk`: a remote memory disk, through NBD or through the library, beside servers of others.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::{Result, ensure};
use bench_harness::{Contender, Goal, Picture, Report, Row, Unit, bytes_label};
use clap::{Args, ValueEnum};

use crate::netdisk::{Carrier, ClusterWithNbd, DiskJob, JobKind, Layout, Waiting};
use crate::output::{self, Destinations, latency_panels};
use crate::peers::{FioFigure, FioJob, FioWork, NbdPeer, NbdProcess, NbdServer, Spdk, Tool};
use crate::rival::Rival;
use crate::scenario::Scenario;
use crate::settings::{Pace, Settings};

/// From this block size on bytes per second are counted, below it requests.
const BANDWIDTH_FROM: u32 = 64 << 10;
const BLOCK_BYTES_MIN: u32 = 4096;
const BLOCK_BYTES_MAX: u32 = 1 << 20;
const DEPTH_MAX: i64 = 128;
/// Shorter turns of fio, a process each, would be mostly its start.
const FIO_RUNTIME_MIN: Duration = Duration::from_secs(1);

/// How clients reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Surface {
    /// fio, over NBD, from a node that has no disk: each block crosses to another process.
    Nbd,
    /// The library, within this process.
    Library,
}

/// What carries blocks from node to node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Provider {
    /// Shared memory.
    Shm,
    /// TCP on the loopback.
    Tcp,
}

/// Reads or writes, at random places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// Blocks are read.
    Read,
    /// Blocks are written.
    Write,
}

/// A disk of another node: how, beside whom, and where the results go.
#[derive(Debug, Args)]
pub struct DiskArguments {
    /// How clients reach it.
    #[arg(long, value_enum, default_value = "nbd", value_name = "SURFACE")]
    surface: Surface,
    /// What carries blocks from node to node.
    #[arg(long, value_enum, default_value = "shm", value_name = "PROVIDER")]
    provider: Provider,
    /// Reads, writes, or both in turn.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "read", value_name = "WHAT")]
    rw: Vec<Direction>,
    /// Bytes of a request, in KiB: 4 is usual.
    #[arg(long, value_delimiter = ',', default_value = "4", value_name = "KIB")]
    block: Vec<u32>,
    /// Requests in flight.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,32",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=DEPTH_MAX)
    )]
    depth: Vec<u32>,
    /// Size of the disk in MiB; all of it is written first.
    #[arg(
        long,
        default_value_t = 256,
        value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(16..=65536)
    )]
    disk: u64,
    /// Servers of others that are measured in turn with netdisk.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PEER")]
    vs: Vec<Rival>,
    /// Install peers that are missing.
    #[arg(long)]
    install: bool,
    /// Exit with 1 unless every goal is reached.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    into: Destinations,
}

/// What one row asks for, but for the opponent.
#[derive(Debug, Clone, Copy)]
struct Job {
    direction: Direction,
    block_bytes: u32,
    depth: u32,
}

/// Does what was asked for. `false`: a goal is not reached, and that was asked about.
///
/// # Errors
/// The wish cannot be fulfilled, or a result cannot be written. A row that fails stands in the report.
pub fn run_disk(arguments: &DiskArguments) -> Result<bool> {
    let settings = arguments.settings()?;
    let jobs = arguments.jobs()?;
    if arguments.install {
        arguments
            .vs
            .iter()
            .flat_map(|rival| needs(arguments.surface, Some(*rival)))
            .for_each(|tool| tool.install());
    }
    let rivals: Vec<Option<Rival>> = match &arguments.vs[..] {
        [] => vec![None],
        rivals => rivals.iter().copied().map(Some).collect(),
    };
    let mut report = Report::begin(crate::machine());
    for job in &jobs {
        for rival in &rivals {
            report.rows.push(output::run_row(arguments.scenario(*job, *rival, &settings), &settings));
        }
    }
    let picture = || {
        let panels = jobs.iter().flat_map(|job| {
            let head = arguments.id(*job);
            let rows: Vec<&Row> = report.rows.iter().filter(|row| is_of(row, &head)).collect();
            latency_panels(&job.title(), &rows)
        });
        let title = "latency of a remote memory disk".to_owned();
        Picture { title, notes: output::notes(&report), panels: panels.collect() }
    };
    output::show(&report);
    arguments.into.write(&report, picture)?;
    Ok(!arguments.strict || report.all_reached())
}

/// Whether a row is of this job, alone or beside a peer.
fn is_of(row: &Row, job: &str) -> bool {
    row.scenario.strip_prefix(job).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn needs(surface: Surface, rival: Option<Rival>) -> Vec<Tool> {
    let mut tools = if surface == Surface::Nbd { vec![Tool::FioWithNbd] } else { Vec::new() };
    tools.extend(rival.and_then(nbd_peer).map(NbdPeer::tool));
    tools.extend((rival == Some(Rival::Spdk)).then_some(Tool::Spdk));
    tools
}

fn nbd_peer(rival: Rival) -> Option<NbdPeer> {
    match rival {
        Rival::Nbdkit => Some(NbdPeer::Nbdkit),
        Rival::QemuNbd => Some(NbdPeer::QemuNbd),
        Rival::NbdServer => Some(NbdPeer::NbdServer),
        _ => None,
    }
}

impl Job {
    fn title(self) -> String {
        let what = if self.direction == Direction::Read { "read" } else { "write" };
        format!("{what} {}, {} in flight", bytes_label(self.block_bytes.into()), self.depth)
    }

    fn work(self) -> FioWork {
        let Job { direction, block_bytes: bytes, depth } = self;
        FioWork { writes: direction == Direction::Write, bytes, depth }
    }

    fn figure(self) -> (FioFigure, Unit) {
        match (self.depth, self.block_bytes) {
            (1, _) => (FioFigure::MedianLatency, Unit::Nanoseconds),
            (_, bytes) if bytes >= BANDWIDTH_FROM => (FioFigure::Bandwidth, Unit::BytesPerSecond),
            _ => (FioFigure::Iops, Unit::OperationsPerSecond),
        }
    }
}

impl DiskArguments {
    fn settings(&self) -> Result<Settings> {
        let mut settings = self.pace.settings()?;
        settings.disk_bytes = self.disk << 20;
        settings.fio_runtime = settings.fio_runtime.max(FIO_RUNTIME_MIN);
        Ok(settings)
    }

    fn jobs(&self) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for direction in &self.rw {
            for kib in &self.block {
                let block_bytes = kib.saturating_mul(1 << 10);
                ensure!(
                    (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block_bytes) && kib.is_power_of_two(),
                    "--block: 4 to 1024 KiB, a power of two, not {kib}"
                );
                jobs.extend(self.depth.iter().map(|depth| Job {
                    direction: *direction,
                    block_bytes,
                    depth: *depth,
                }));
            }
        }
        Ok(jobs)
    }

    fn id(&self, job: Job) -> String {
        let word = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let (surface, provider) =
            (word(self.surface.to_possible_value()), word(self.provider.to_possible_value()));
        let direction = word(job.direction.to_possible_value());
        let size = bytes_label(job.block_bytes.into()).replace(' ', "");
        format!("disk/{surface}/{provider}/{direction}/{size}/QD{}", job.depth)
    }

    fn scenario(&self, job: Job, rival: Option<Rival>, settings: &Settings) -> Scenario {
        let (_, unit) = job.figure();
        let opponent = rival.map(|rival| (rival, self.opponent(rival, job, settings)));
        let goal = match (&opponent, unit.less_is_better()) {
            (Some((Rival::Nbdkit, Some(_))), true) => Goal::RatioAtMost { ratio: 1.1 },
            (Some((_, Some(_))), true) => Goal::RatioAtMost { ratio: 1.0 },
            (Some((_, Some(_))), false) => Goal::RatioAtLeast { ratio: 1.0 },
            _ => Goal::Shown,
        };
        let id = rival.map_or(self.id(job), |rival| format!("{}/{}", self.id(job), rival.word()));
        let (unfit, limit) = match opponent {
            None => (None, None),
            Some((_, Some(limit))) => (None, Some(limit)),
            Some((rival, None)) => (Some(rival.elsewhere()), None),
        };
        Scenario {
            id: Cow::Owned(id),
            title: Cow::Owned(job.title()),
            unit,
            goal,
            needs: needs(self.surface, rival),
            unfit,
            ours: Some(self.ours(job, job.figure().0, settings)),
            limit,
        }
    }

    /// The rival's side, if it does such a job: servers beside our server, SPDK's own initiator beside our
    /// library over TCP.
    fn opponent(&self, rival: Rival, job: Job, settings: &Settings) -> Option<Box<dyn Contender>> {
        let (figure, _) = job.figure();
        let Settings { fio_runtime: runtime, disk_bytes, cores, .. } = *settings;
        match (nbd_peer(rival), rival, self.surface) {
            (Some(peer), _, Surface::Nbd) => {
                let server = NbdProcess { peer, disk_bytes };
                Some(fio(Box::new(server), job, figure, settings))
            }
            (None, Rival::Spdk, Surface::Library) if self.provider == Provider::Tcp => {
                Some(Box::new(Spdk { cores, work: job.work(), runtime, disk_bytes, figure }))
            }
            _ => None,
        }
    }

    fn ours(&self, job: Job, figure: FioFigure, settings: &Settings) -> Box<dyn Contender> {
        let carrier = match self.provider {
            Provider::Shm => Carrier::Shm,
            Provider::Tcp => Carrier::Tcp,
        };
        match self.surface {
            Surface::Nbd => {
                let server = ClusterWithNbd { carrier, disk_bytes: settings.disk_bytes };
                fio(Box::new(server), job, figure, settings)
            }
            Surface::Library => Box::new(DiskJob {
                cores: settings.cores,
                budget: settings.budget,
                layout: Layout::one(carrier, Waiting::Spinning),
                kind: if job.direction == Direction::Read { JobKind::Read } else { JobKind::Write },
                bytes: job.block_bytes,
                depth: job.depth,
                disk_bytes: settings.disk_bytes,
                counts_bytes: figure == FioFigure::Bandwidth,
            }),
        }
    }
}

fn fio(server: Box<dyn NbdServer>, job: Job, figure: FioFigure, settings: &Settings) -> Box<dyn Contender> {
    let Settings { fio_runtime: runtime, disk_bytes, .. } = *settings;
    Box::new(FioJob { server, work: job.work(), runtime, disk_bytes, figure })
}
