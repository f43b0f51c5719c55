//! Every provider, size, depth and number of links: latency and rate of messages that are sent back, as a
//! table.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bench_harness::{
    Machine, MonotonicClock, Pipeline, Run, Summary, Table, Unit, closed_loop_at_depth, draw_percentiles,
    open_loop,
};
use serde::Serialize;
use transport_endpoint::{Data, Tag};

use super::partner::Ask;
use super::station::Station;
use super::wiring::{Carrier, Layout, Waiting};
use crate::settings::Settings;

const CARRIERS: [Carrier; 2] = [Carrier::Shm, Carrier::Tcp];
const SIZES: [usize; 4] = [64, 4 << 10, 64 << 10, 1 << 20];
const DEPTHS: [u32; 3] = [1, 8, 32];
const LINKS: [u8; 2] = [1, 2];
/// The open loop runs at this share of the rate that the closed loop at depth 1 reached.
const OPEN_LOOP_SHARE: f64 = 0.5;

/// How a point of the sweep was driven.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Drive {
    /// The next message starts when one is answered.
    Closed {
        /// Messages under way.
        depth: u32,
    },
    /// Messages start by a timetable; latency counts from the intended start.
    Open {
        /// Messages per second.
        rate_per_s: f64,
    },
}

/// One line of the sweep.
#[derive(Debug, Serialize)]
struct Point {
    carrier: &'static str,
    bytes: usize,
    links: u8,
    drive: Drive,
    round_trips_per_s: f64,
    latency: Summary,
    #[serde(skip)]
    run: Run,
}

/// The sweep as JSON, version 1.
#[derive(Debug, Serialize)]
struct SweepReport {
    format: &'static str,
    version: u32,
    machine: Machine,
    points: Vec<Point>,
}

/// Where the results go besides the table.
#[derive(Debug, Default)]
pub(crate) struct Destinations<'a> {
    /// A JSON file.
    pub(crate) json: Option<&'a Path>,
    /// A folder for `.hgrm` files and pictures.
    pub(crate) curves: Option<&'a Path>,
}

/// Runs the whole sweep, or the part whose name (`shm/4096B/1-link`) contains `only`, and prints it.
///
/// # Errors
/// A measurement failed, or a result cannot be written.
pub(crate) fn sweep(
    settings: &Settings,
    only: &str,
    machine: Machine,
    into: &Destinations<'_>,
) -> Result<()> {
    let mut points = Vec::new();
    for carrier in CARRIERS {
        for links in LINKS {
            for bytes in SIZES {
                let name = format!("{}/{bytes}B/{links}-link", carrier.word());
                if name.contains(only) {
                    eprintln!("{name} …");
                    measure(settings, carrier, links, bytes, &mut points).with_context(|| name)?;
                }
            }
        }
    }
    if points.is_empty() {
        bail!("no point's name contains {only:?}; names look like shm/4096B/1-link");
    }
    let report = SweepReport { format: "netdisk-bench-sweep", version: 1, machine, points };
    print!("{}\n{}", report.machine.show(), report.table().show());
    if let Some(file) = into.json {
        let json = serde_json::to_string_pretty(&report)?;
        fs::write(file, json).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    into.curves.map_or(Ok(()), |folder| report.write_curves(folder))
}

/// All depths, then the open loop, of one carrier, number of links and size.
fn measure(
    settings: &Settings,
    carrier: Carrier,
    links: u8,
    bytes: usize,
    points: &mut Vec<Point>,
) -> Result<()> {
    let layout = Layout { carrier, links, waiting: Waiting::Spinning };
    let mut point = |drive, run: Run| {
        let (latency, round_trips_per_s) = (run.recorder.summary(), run.operations_per_s());
        points.push(Point { carrier: carrier.word(), bytes, links, drive, round_trips_per_s, latency, run });
        round_trips_per_s
    };
    let mut rate_at_depth_1 = 0.0;
    for depth in DEPTHS {
        let mut station = Station::connect(layout, settings.cores)?;
        station.keep_tags();
        let mut echoes = Echoes { station, message: vec![0x5a; bytes] };
        let run = closed_loop_at_depth(&mut MonotonicClock::start(), &settings.budget, depth, &mut echoes)?;
        let rate = point(Drive::Closed { depth }, run);
        rate_at_depth_1 = if depth == 1 { rate } else { rate_at_depth_1 };
    }
    let mut station = Station::connect(layout, settings.cores)?;
    let message = vec![0x5a; bytes];
    let rate_per_s = (rate_at_depth_1 * OPEN_LOOP_SHARE).max(1.0);
    let mut clock = MonotonicClock::start();
    let run =
        open_loop(&mut clock, &settings.budget, rate_per_s, || station.ask(Ask::Echo, &message).map(drop))?;
    point(Drive::Open { rate_per_s }, run);
    Ok(())
}

/// Round trips of which several are under way; each message carries its tag and brings it back.
struct Echoes {
    station: Station,
    message: Vec<u8>,
}

impl Pipeline for Echoes {
    type Error = anyhow::Error;

    fn submit(&mut self, tag: u32) -> Result<()> {
        self.message[..8].copy_from_slice(&u64::from(tag).to_le_bytes());
        self.station.send(Ask::Echo, Data::Copy(&self.message), Tag::SILENT)
    }

    fn poll(&mut self, done: &mut dyn FnMut(u32)) -> Result<()> {
        self.station.run_until(|heard| !heard.tags.is_empty())?;
        self.station.take_tags(&mut |tag| done(tag as u32));
        Ok(())
    }
}

impl SweepReport {
    fn table(&self) -> Table {
        let mut table = Table::new(&[
            "carrier",
            "bytes",
            "links",
            "loop",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "max",
            "round trips",
            "one way",
        ]);
        for point in &self.points {
            let latency = |ns: u64| Unit::Nanoseconds.show(ns as f64);
            let drive = match point.drive {
                Drive::Closed { depth } => format!("closed, depth {depth}"),
                Drive::Open { rate_per_s } => format!("open, {}", Unit::OperationsPerSecond.show(rate_per_s)),
            };
            table.row(vec![
                point.carrier.to_owned(),
                point.bytes.to_string(),
                point.links.to_string(),
                drive,
                latency(point.latency.p50_ns),
                latency(point.latency.p90_ns),
                latency(point.latency.p99_ns),
                latency(point.latency.p999_ns),
                latency(point.latency.max_ns),
                Unit::OperationsPerSecond.show(point.round_trips_per_s),
                Unit::BytesPerSecond.show(point.round_trips_per_s * point.bytes as f64),
            ]);
        }
        table
    }

    /// A `.hgrm` per point, and a picture per carrier and size of its closed loops over one link.
    fn write_curves(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        for point in &self.points {
            let Point { carrier, bytes, links, .. } = point;
            let drive = match point.drive {
                Drive::Closed { depth } => format!("depth-{depth}"),
                Drive::Open { .. } => "open".to_owned(),
            };
            let path = folder.join(format!("{carrier}-{bytes}B-{links}-link-{drive}.hgrm"));
            point.run.recorder.write_hgrm(&mut fs::File::create(path)?)?;
        }
        for carrier in CARRIERS.map(Carrier::word) {
            for bytes in SIZES {
                let of_picture = |point: &&Point| (point.carrier, point.bytes) == (carrier, bytes);
                let curves: Vec<_> = self.points.iter().filter(of_picture).map(Point::curve).collect();
                if !curves.is_empty() {
                    let title = format!("{carrier}, {bytes} bytes there and back");
                    draw_percentiles(&folder.join(format!("{carrier}-{bytes}B.svg")), &title, &curves)?;
                }
            }
        }
        Ok(())
    }
}

impl Point {
    fn curve(&self) -> (String, &bench_harness::Recorder) {
        let links = self.links;
        let name = match self.drive {
            Drive::Closed { depth } => format!("{links} link(s), depth {depth}"),
            Drive::Open { rate_per_s } => {
                format!("{links} link(s), open at {}", Unit::OperationsPerSecond.show(rate_per_s))
            }
        };
        (name, &self.run.recorder)
    }
}
