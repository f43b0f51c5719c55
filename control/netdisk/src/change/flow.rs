//! The course of a change, over anything that holds a database.

use super::show::{Difference, differences, json, text};
use super::{Flags, Plan};
use crate::exit::Failure;
use anyhow::{Context, bail};
use control_proto::ccd::{
    Answer, Applied, Change, Command, Database, Expect, OperationId, Phase, ReconfigurationId, Refusal,
    RowChange,
};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;
use transport_proto::identity::{Incarnation, NodeId};

/// How often a plan is made anew when others change the same rows.
const ATTEMPTS_MAX: u32 = 20;
/// How often one looks whether a change is in force.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What became of a proposal.
#[derive(Debug)]
pub(crate) enum Proposed {
    /// The log's word.
    Answered(Answer),
    /// It may have happened, or may still.
    Unknown,
}

/// A cluster, as commands see it.
pub(crate) trait Cluster {
    /// The database as the node has it.
    fn database(&mut self) -> anyhow::Result<Database>;
    /// Proposes a change and waits for its end.
    fn propose(&mut self, expect: Vec<Expect>, change: Change) -> anyhow::Result<Proposed>;
    /// Waits a little.
    fn pause(&mut self, span: Duration) {
        std::thread::sleep(span);
    }
}

/// How a change ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Where the log has it; `None` if everything was already so.
    pub(crate) index: Option<u64>,
    /// The reconfiguration that made it, if one did.
    pub(crate) reconfiguration: Option<ReconfigurationId>,
    /// It waits for somebody to let it go on.
    pub(crate) held: bool,
}

/// What the database would say, tried on a copy.
fn tried(database: &Database, change: &Change) -> Result<(), Refusal> {
    let mut copy = database.clone();
    // Any node may propose; a life that nobody had.
    let node = copy.rows().nodes.first().map_or(NodeId(0), |row| row.id);
    let operation = OperationId { node, life: Incarnation(u64::MAX), sequence: 1 };
    let command = Command { operation, expect: Vec::new(), change: change.clone() };
    let index = copy.index() + 1;
    match copy.apply(index, &command) {
        Applied::Done { .. } => Ok(()),
        Applied::Refused(answer) | Applied::Repeated(answer) => answer.result.map(|_| ()),
    }
}

/// The kind of change that these rows take: at once, or when every member stands still for it.
fn change_for(
    database: &Database,
    changes: &[RowChange],
    deadline_ms: u32,
    hold: bool,
) -> Result<Change, Refusal> {
    let at_once = Change::Rows(changes.to_vec());
    let together = || Change::Prepare { changes: changes.to_vec(), deadline_ms, hold };
    match tried(database, &at_once) {
        Ok(()) if !hold => Ok(at_once),
        Ok(()) | Err(Refusal::NeedsReconfiguration { .. }) => {
            let change = together();
            match tried(database, &change) {
                Ok(()) => Ok(change),
                // Nobody is there to stand still.
                Err(Refusal::NothingToSynchronise) => Ok(at_once),
                Err(refusal) => Err(refusal),
            }
        }
        Err(refusal) => Err(refusal),
    }
}

/// A planned change, and what a person is told of it.
struct Attempt {
    plan: Plan,
    shown: Vec<Difference>,
}

/// Plans, proposes and waits. `plan` is asked again when its rows were changed meanwhile.
pub(crate) fn carry_out(
    cluster: &mut dyn Cluster,
    plan: &dyn Fn(&Database) -> anyhow::Result<Plan>,
    deadline_ms: u32,
    hold: bool,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<(Plan, Vec<Difference>, Ended)> {
    // The last attempt of which nobody knows what became.
    let mut lost: Option<Attempt> = None;
    for _ in 0..ATTEMPTS_MAX {
        let database = cluster.database();
        let database = if lost.is_some() { database.context(Failure::Unknown)? } else { database? };
        if let Some(attempt) = lost.take()
            && let Some(ended) = came_through(cluster, &database, &attempt, progress)?
        {
            return Ok((attempt.plan, attempt.shown, ended));
        }
        let plan = plan(&database)?;
        let shown = differences(&database, &plan.changes);
        if shown.is_empty() {
            return Ok((plan, shown, Ended { index: None, reconfiguration: None, held: false }));
        }
        let change = change_for(&database, &plan.changes, deadline_ms, hold)
            .map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
        let expect = expectations(&database, &plan.changes);
        match cluster.propose(expect, change)? {
            Proposed::Unknown => {
                progress("the answer was lost, looking again");
                lost = Some(Attempt { plan, shown });
                cluster.pause(LOOK_EVERY);
            }
            Proposed::Answered(answer) => match answer.result {
                Ok(outcome) => {
                    let ended = wait(cluster, Some(answer.index), outcome.reconfiguration, progress)?;
                    return Ok((plan, shown, ended));
                }
                Err(Refusal::RowChanged { .. } | Refusal::NumberChanged { .. }) => {
                    progress("rows were changed meanwhile, planning again");
                }
                Err(refusal) => bail!("{refusal}"),
            },
        }
    }
    if lost.is_some() {
        return Err(Failure::Unknown.into());
    }
    bail!("others change the same rows all the time: try again later")
}

/// Whether a change whose answer was lost was made, or is being made. If not, it never will be: the rows that
/// it expects are compared when it is applied, and the next attempt changes them first.
fn came_through(
    cluster: &mut dyn Cluster,
    database: &Database,
    attempt: &Attempt,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<Option<Ended>> {
    if differences(database, &attempt.plan.changes).is_empty() {
        return Ok(Some(Ended { index: Some(database.index()), reconfiguration: None, held: false }));
    }
    let ours = database.live_reconfigurations().find(|row| row.changes == attempt.plan.changes);
    let Some(id) = ours.map(|row| row.id) else { return Ok(None) };
    wait(cluster, None, Some(id), progress).map(Some)
}

fn wait(
    cluster: &mut dyn Cluster,
    index: Option<u64>,
    reconfiguration: Option<ReconfigurationId>,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<Ended> {
    let held = match reconfiguration {
        Some(id) => until_over(cluster, id, progress)?,
        None => false,
    };
    Ok(Ended { index: index.or(reconfiguration.map(|id| id.0)), reconfiguration, held })
}

/// The rows are still those that the plan was made for.
fn expectations(database: &Database, changes: &[RowChange]) -> Vec<Expect> {
    let expect = |change: &RowChange| {
        let key = change.key();
        let revision = database.revision(&key);
        Expect::Row { key, revision }
    };
    changes.iter().map(expect).collect()
}

/// Waits for the end of a reconfiguration; `true` if it is held instead.
pub(crate) fn until_over(
    cluster: &mut dyn Cluster,
    id: ReconfigurationId,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<bool> {
    loop {
        let database = cluster.database().context(Failure::Unknown)?;
        let Some(row) = database.reconfiguration(id) else {
            // This node has not come to it yet, or it ended long ago.
            cluster.pause(LOOK_EVERY);
            continue;
        };
        match row.phase {
            Phase::Committed { .. } => return Ok(false),
            Phase::Cancelled { why, .. } => {
                bail!("the change was given up and everything is as before: {why}; try it again")
            }
            Phase::Held { .. } => return Ok(true),
            Phase::Preparing => {
                let missing: Vec<String> =
                    row.missing.iter().map(|member| database.rows().node_name(member.node)).collect();
                progress(&format!("waiting for {} to let running requests finish", missing.join(", ")));
            }
        }
        cluster.pause(LOOK_EVERY);
    }
}

/// Shows how things go: on a terminal only, in one line.
pub(crate) struct Progress {
    terminal: bool,
    last: String,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal(), last: String::new() }
    }

    pub(crate) fn tell(&mut self, line: &str) {
        if self.terminal && self.last != line {
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
            line.clone_into(&mut self.last);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.last.is_empty() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// The whole of a command that changes rows.
pub(crate) fn run(
    cluster: &mut dyn Cluster,
    flags: &Flags,
    hold: bool,
    plan: &dyn Fn(&Database) -> anyhow::Result<Plan>,
) -> anyhow::Result<ExitCode> {
    if flags.dry_run {
        return dry_run(cluster, flags, hold, plan);
    }
    let mut progress = Progress::new();
    let (plan, shown, ended) =
        carry_out(cluster, plan, flags.deadline_ms, hold, &mut |line| progress.tell(line))?;
    drop(progress);
    if flags.json {
        let done = json!({
            "changes": json(&shown), "index": ended.index, "done": plan.done, "held": ended.held,
            "reconfiguration": ended.reconfiguration.map(|id| id.0),
        });
        println!("{}", serde_json::to_string_pretty(&done)?);
    } else if let Some(id) = ended.reconfiguration.filter(|_| ended.held) {
        println!(
            "all nodes stand still for it. When the hardware is as it should be: netdisk change proceed {}\n\
             to give it up: netdisk change cancel {}",
            id.0, id.0
        );
    } else if ended.index.is_none() {
        println!("it was so already: {}", plan.done);
    } else {
        println!("{}", plan.done);
    }
    Ok(ExitCode::SUCCESS)
}

fn dry_run(
    cluster: &mut dyn Cluster,
    flags: &Flags,
    hold: bool,
    plan: &dyn Fn(&Database) -> anyhow::Result<Plan>,
) -> anyhow::Result<ExitCode> {
    let database = cluster.database()?;
    let plan = plan(&database)?;
    let shown = differences(&database, &plan.changes);
    let change = if shown.is_empty() {
        None
    } else {
        let change = change_for(&database, &plan.changes, flags.deadline_ms, hold);
        Some(change.map_err(|refusal| anyhow::anyhow!("{refusal}"))?)
    };
    let waits = matches!(change, Some(Change::Prepare { .. }));
    if flags.json {
        let would = json!({ "dry_run": true, "changes": json(&shown), "waits_for_members": waits });
        println!("{}", serde_json::to_string_pretty(&would)?);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", text(&shown));
    match (shown.is_empty(), waits) {
        (true, _) => println!("nothing would change"),
        (_, true) => println!("nothing was changed; clients would wait for a moment"),
        _ => println!("nothing was changed"),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
