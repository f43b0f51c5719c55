//! A running node as commands see it, over its admin socket.

use crate::change::flow::{Cluster, Proposed};
use crate::exit::Failure;
use crate::which::Which;
use anyhow::{Context, bail};
use control_node::admin::{Request, ask, of_hex};
use control_proto::ccd::{Answer, Change, Database, Expect};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Asks a node; the answer as it is.
fn ask_node(socket: &Path, request: &Request) -> anyhow::Result<Value> {
    let answer = ask(socket, request).with_context(|| format!("no answer from {}", socket.display()));
    answer.context(Failure::Unreachable)
}

/// Asks and turns a refusal into an error.
pub(crate) fn request(socket: &Path, request: &Request) -> anyhow::Result<Value> {
    let answer = ask_node(socket, request)?;
    match answer.get("error").and_then(Value::as_str) {
        Some(why) => bail!("{why}"),
        None => Ok(answer),
    }
}

/// A node that answers at its admin socket.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) socket: PathBuf,
}

impl Daemon {
    /// The node that is meant; it is not asked yet.
    pub(crate) fn of(which: &Which) -> anyhow::Result<Daemon> {
        Ok(Daemon { socket: which.socket()? })
    }

    /// Proposes a change that needs no plan, and gives its refusal as an error.
    pub(crate) fn decided(&mut self, change: Change) -> anyhow::Result<Answer> {
        match self.propose(Vec::new(), change)? {
            Proposed::Answered(Answer { result: Err(refusal), .. }) => bail!("{refusal}"),
            Proposed::Answered(answer) => Ok(answer),
            Proposed::Unknown => Err(Failure::Unknown.into()),
        }
    }
}

impl Cluster for Daemon {
    fn database(&mut self) -> anyhow::Result<Database> {
        let mut answer = ask_node(&self.socket, &Request::Database { fresh: true })?;
        if answer.get("no_leader").is_some() {
            // What is there can be looked at; whoever wants to change it hears it once more.
            eprintln!("netdisk: no majority answers; this is what the node asked knows");
            answer = ask_node(&self.socket, &Request::Database { fresh: false })?;
        }
        if let Some(why) = answer.get("error").and_then(Value::as_str) {
            bail!("{why}");
        }
        let bytes = answer.get("snapshot").and_then(Value::as_str).and_then(of_hex);
        let bytes = bytes.context("the node is of another release")?;
        Database::restore(&bytes).context("the node is of another release")
    }

    fn propose(&mut self, expect: Vec<Expect>, change: Change) -> anyhow::Result<Proposed> {
        let request = Request::propose(expect, change, false, false);
        // Without an answer it may have got there.
        let Ok(answer) = ask(&self.socket, &request) else { return Ok(Proposed::Unknown) };
        if let Some(answer) = answer.get("answer").and_then(Value::as_str).and_then(of_hex) {
            return Ok(Proposed::Answered(
                Answer::decode(&answer).context("the node is of another release")?,
            ));
        }
        if answer.get("unknown").is_some() {
            return Ok(Proposed::Unknown);
        }
        match answer.get("error").and_then(Value::as_str) {
            Some(why) if answer.get("no_leader").is_some() => {
                Err(anyhow::anyhow!("{why}").context(Failure::NoMajority))
            }
            Some(why) => bail!("{why}"),
            None => bail!("the node is of another release"),
        }
    }
}
