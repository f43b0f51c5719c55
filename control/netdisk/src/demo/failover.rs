//! `netdisk bench failover`: how long a client waits when the node that serves its disk goes, in one way
//! after another. The load is verified all the while, and read back at the end.

mod table;

use super::client::NbdClient;
use super::cluster::{C, Cluster, EXPORT, NODES, NodeNumber, WAIT_MAX, is_ready, serving, state_folder};
use super::folder::Folders;
use super::interrupt::Interrupt;
use super::place::{Place, Provider};
use super::stamp::BLOCK_BYTES;
use super::watched_load::WatchedLoad;
use anyhow::{Context, ensure};
use control_node::report::Status;
use rustix::process::Signal;
use serde::Serialize;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use table::Report;

/// Blocks that the load works on: 16 MiB.
const BLOCKS: u64 = 4096;
/// Requests that show that the load goes on.
const GOES_ON: u64 = 500;
/// Between two looks at the load.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How the serving node goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// Dead at once, without a word: SIGKILL.
    Killed,
    /// It fails and says so: SIGSEGV.
    Distress,
    /// It is stopped in order: SIGTERM.
    Stopped,
    /// It stays, another node becomes primary by order.
    Moved,
}

impl Way {
    const ALL: [Way; 4] = [Way::Killed, Way::Distress, Way::Stopped, Way::Moved];

    fn text(self) -> &'static str {
        match self {
            Way::Killed => "killed, without a word",
            Way::Distress => "fails and says so",
            Way::Stopped => "stopped in order",
            Way::Moved => "moved by order",
        }
    }

    /// The longest pause that it may cost.
    fn goal(self) -> Duration {
        match self {
            Way::Killed => Duration::from_secs(3),
            Way::Distress | Way::Stopped => Duration::from_millis(300),
            Way::Moved => Duration::from_millis(100),
        }
    }
}

/// How long clients wait when the serving node is killed, fails, stops, or hands over.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this way; all of them otherwise.
    #[arg(long, value_enum)]
    way: Option<Way>,
    /// How often each.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    times: u32,
    /// Also write the report as JSON into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw how long each request took, over time: .svg, .png or .html.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Keep disk, configuration and logs in this new folder.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Exit with 1 unless every goal is reached.
    #[arg(long)]
    strict: bool,
}

/// One time.
#[derive(Clone, Copy, Debug, Serialize)]
struct Pause {
    /// The longest time from a request to its answer around the event, seconds.
    seconds: f64,
    /// The node also led the log of the configuration.
    led_the_log: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let place = Place::find(Provider::Usual)?;
    let interrupt = Interrupt::watch()?;
    let mut folders = Folders::create(arguments.keep.as_deref())?;
    let course =
        Cluster::start(&folders, &place, BLOCKS * BLOCK_BYTES as u64, &interrupt).and_then(|cluster| {
            let mut course = Course { cluster, place: &place, folders: &folders, interrupt: &interrupt };
            course.run(arguments).inspect_err(|_| {
                if interrupt.check().is_ok() {
                    eprintln!("{}", course.cluster.logs());
                }
            })
        });
    let report = course.inspect_err(|_| {
        eprintln!("netdisk bench failover: its files are kept in {}", folders.keep().display());
    })?;
    println!("{report}");
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &arguments.plot {
        report.picture().write(path)?;
        eprintln!("drawn: {}", path.display());
    }
    let good = report.is_clean() && (!arguments.strict || report.reaches_all());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Course<'a> {
    cluster: Cluster,
    place: &'a Place,
    folders: &'a Folders,
    interrupt: &'a Interrupt,
}

impl Course<'_> {
    fn run(&mut self, arguments: &Arguments) -> anyhow::Result<Report> {
        self.until_ready()?;
        let client = NbdClient::open(self.cluster.nbd_socket(C), EXPORT)?;
        let run = crate::table::disk::uuid()?.0 as u64;
        let load = WatchedLoad::start(client, run, BLOCKS, C.letter().to_string())?;
        let mut report = Report::default();
        load.mark();
        self.goes_on(&load)?;
        for way in Way::ALL.into_iter().filter(|way| arguments.way.is_none_or(|only| only == *way)) {
            let mut pauses = Vec::new();
            report.begins(way, load.clock_s());
            for time in 1..=arguments.times {
                // Half of the times it also leads the log of the configuration, so that its end takes an
                // election too.
                if time.is_multiple_of(2) {
                    self.have_the_server_lead()?;
                }
                let pause = self.once(way, &load)?;
                eprintln!("{}: {time} of {}, {:.0} ms", way.text(), arguments.times, pause.seconds * 1e3);
                pauses.push(pause);
            }
            report.add(way, pauses);
        }
        report.timeline = Some(load.timeline());
        report.faults = load.finish()?;
        self.cluster.stop(self.interrupt)?;
        Ok(report)
    }

    fn once(&mut self, way: Way, load: &WatchedLoad) -> anyhow::Result<Pause> {
        self.until_ready()?;
        load.mark();
        self.goes_on(load)?;
        let status = self.cluster.wait_for(C, "an answer", self.interrupt, |_| true)?;
        let server = serving(&status).context("somebody serves")?;
        let led_the_log = status.log.leader == Some(server.0);
        load.mark();
        self.act(way, server)?;
        let twin = server.twin();
        self.cluster
            .wait_for(C, "the other node serves", self.interrupt, |now| serving(now) == Some(twin))?;
        let answered = load.answered();
        self.until(load, |load| load.answered() >= answered + GOES_ON)?;
        let seconds = load.longest().as_secs_f64();
        self.recover(way, server)?;
        Ok(Pause { seconds, led_the_log })
    }

    /// Makes a node that reaches the disk leader of the log, and the node that serves it.
    fn have_the_server_lead(&mut self) -> anyhow::Result<()> {
        self.until_ready()?;
        let leader = |status: &Status| status.log.leader.map(NodeNumber);
        let status = self.cluster.wait_for(C, "a leader", self.interrupt, |now| leader(now).is_some())?;
        if leader(&status) == Some(C) {
            // Without it the other two elect one of them.
            let [watcher, ..] = NODES;
            self.cluster.signal(C, Signal::STOP)?;
            let other = self.cluster.wait_for(watcher, "another leader", self.interrupt, |now| {
                now.log.leader.is_some_and(|leader| NodeNumber(leader) != C)
            });
            self.cluster.signal(C, Signal::CONT)?;
            other?;
            self.until_ready()?;
        }
        let status = self.cluster.wait_for(C, "a leader", self.interrupt, |now| leader(now).is_some())?;
        match leader(&status) {
            Some(leader) if leader != C && serving(&status) != Some(leader) => {
                self.act(Way::Moved, leader.twin())?;
                self.cluster
                    .wait_for(C, "the leader serves", self.interrupt, |now| serving(now) == Some(leader))?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn act(&mut self, way: Way, server: NodeNumber) -> anyhow::Result<()> {
        match way {
            Way::Killed => self.cluster.kill(server),
            Way::Distress => self.ends_by(server, Signal::SEGV),
            Way::Stopped => self.ends_by(server, Signal::TERM),
            Way::Moved => {
                let to = server.twin().letter().to_string();
                let socket = self.cluster.admin_socket(C).display().to_string();
                self.netdisk(&["vdisk", "move", EXPORT, "--node", &to, "--socket", &socket])
            }
        }
    }

    fn ends_by(&mut self, server: NodeNumber, signal: Signal) -> anyhow::Result<()> {
        self.cluster.signal(server, signal)?;
        self.cluster.await_end(server, self.interrupt)
    }

    /// The node is back as it was.
    fn recover(&mut self, way: Way, server: NodeNumber) -> anyhow::Result<()> {
        if way == Way::Moved {
            return Ok(());
        }
        if way == Way::Distress {
            let folder = self.folders.file(&state_folder(server)).display().to_string();
            self.netdisk(&["node", "clear", "--state", &folder])?;
        }
        self.cluster.restart(server, self.place, self.folders)
    }

    fn until_ready(&mut self) -> anyhow::Result<()> {
        for node in NODES {
            let ready = "three members, all rails up, the disk served";
            self.cluster.wait_for(node, ready, self.interrupt, is_ready)?;
        }
        Ok(())
    }

    fn goes_on(&mut self, load: &WatchedLoad) -> anyhow::Result<()> {
        self.until(load, |load| load.answered() >= GOES_ON)
    }

    fn until(&mut self, load: &WatchedLoad, holds: impl Fn(&WatchedLoad) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + WAIT_MAX;
        while !holds(load) {
            self.interrupt.check()?;
            self.cluster.check()?;
            ensure!(!load.has_ended(), "the load has ended by itself");
            ensure!(Instant::now() < deadline, "the load does not go on");
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Runs this very program.
    fn netdisk(&self, words: &[&str]) -> anyhow::Result<()> {
        let ran = Command::new("/proc/self/exe").args(words).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.success(), "netdisk {}: {}", words.join(" "), said.trim());
        Ok(())
    }
}
