//! `netdisk watch`: what happens in the cluster, as it happens, in words.
//!
//! Two sources, told in the order in which they come: what the replicated log decided (members, rows, changes
//! that nodes stand still for; with index and cause, from wherever one left off), and what the watched node
//! sees by itself (rails, leader, who serves for it, how long its clients waited), which is looked at every
//! few milliseconds.

mod story;

use crate::exit::Failure;
use crate::which::Which;
use anyhow::Context;
use control_node::admin::{Request, ask, watch_node};
use control_node::report::Status;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use story::{Line, decided, seen};

/// How often the node is asked what it sees.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Tell what happens, as it happens.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// One JSON value a line.
    #[arg(long)]
    json: bool,
    /// Begin after this index of the log; by default with what comes from now on.
    #[arg(long, value_name = "INDEX")]
    since: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// What comes from the two sources.
enum News {
    Line(Line),
    /// A source has ended.
    Over(anyhow::Error),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let socket = arguments.which.socket()?;
    let first = look(&socket)?;
    let (tell, news) = channel();
    let (path, since, out) = (socket.clone(), arguments.since, tell.clone());
    std::thread::Builder::new().name("watch-log".into()).spawn(move || follow_log(&path, since, &out))?;
    std::thread::Builder::new()
        .name("watch-node".into())
        .spawn(move || follow_node(&socket, first, &tell))?;
    let until = arguments.seconds.map(|seconds| std::time::Instant::now() + Duration::from_secs(seconds));
    loop {
        let next = match until {
            None => news.recv().ok(),
            Some(until) => news.recv_timeout(until.saturating_duration_since(std::time::Instant::now())).ok(),
        };
        match next {
            Some(News::Line(line)) => show(&line, arguments.json)?,
            Some(News::Over(error)) => return Err(error),
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn show(line: &Line, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let written = if json { writeln!(out, "{}", line.json()) } else { writeln!(out, "{}", line.text()) };
    // A reader that has gone has seen enough.
    written.and_then(|()| out.flush()).context("nobody reads any more")
}

fn look(socket: &Path) -> anyhow::Result<Status> {
    let answer = crate::daemon::request(socket, &Request::Status)?;
    serde_json::from_value(answer).context("the node is of another release")
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn follow_log(socket: &Path, since: Option<u64>, tell: &Sender<News>) {
    let mut refused = None;
    let ended = watch_node(socket, since, |value| {
        if let Some(why) = value.get("error").and_then(Value::as_str) {
            refused = Some(why.to_owned());
            return false;
        }
        decided(&value, unix_ms()).into_iter().all(|line| tell.send(News::Line(line)).is_ok())
    });
    let error = match (refused, ended) {
        (Some(why), _) => anyhow::anyhow!("{why}"),
        (None, Ok(())) => anyhow::anyhow!("the node hung up").context(Failure::Unreachable),
        (None, Err(fault)) => anyhow::Error::from(fault).context(Failure::Unreachable),
    };
    let _ = tell.send(News::Over(error));
}

fn follow_node(socket: &Path, mut before: Status, tell: &Sender<News>) {
    for line in story::first(&before, unix_ms()) {
        let _ = tell.send(News::Line(line));
    }
    loop {
        std::thread::sleep(LOOK_EVERY);
        // That it is gone, the other source tells.
        let Ok(answer) = ask(socket, &Request::Status) else { return };
        let Ok(after) = serde_json::from_value::<Status>(answer) else { continue };
        for line in seen(&before, &after, unix_ms()) {
            if tell.send(News::Line(line)).is_err() {
                return;
            }
        }
        before = after;
    }
}

/// A line for programs.
impl Line {
    fn json(&self) -> Value {
        json!({
            "unix_ms": self.unix_ms, "source": self.source.name(), "index": self.index, "number": self.number,
            "what": self.what, "row": self.row,
        })
    }
}
