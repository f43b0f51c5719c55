//! Commands about reservations (SPEC B12), for programs and for `netdisk reservation`, and how a node sees to
//! it that a command that is told done is in force.
//!
//! A command goes to the log by the node that is asked, which is the host that registers, reserves or
//! preempts. When the log has answered, the node asks whoever serves the virtual disk to say that it acts on
//! the row, and, for a preemption that aborts, that nothing older runs any more; again and again, since
//! another node may come to serve it meanwhile. Only then is the command done.

use crate::admin::{Request, ask, of_hex};
use blockdev_engine::BlockEngine;
use blockdev_proto::geometry::VolumeId;
pub use blockdev_proto::reservation::{Command, Conflict, Held, Key, Kind, Registrant, Reservations};
use blockdev_proto::wire::Settle;
use control_proto::ccd::{Answer, Change, Database, Refusal, RowKey};
use serde_json::{Value, json};
use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use transport_endpoint::Core;

/// The serving node is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Why a command about reservations came to nothing, or to nobody knows what.
#[derive(Debug)]
pub enum CommandFault {
    /// A reservation of another node, or a registration that is not there, stands against it: what SCSI calls
    /// a reservation conflict. Nothing changed.
    Conflict(Conflict),
    /// It was refused for another reason. Nothing changed.
    Refused(String),
    /// It may have been carried out, or it was and is not in force yet: look at the reservations.
    Unknown(String),
    /// The cluster decides nothing now. Nothing changed.
    NoMajority(String),
    /// No node answers at the socket.
    Unreachable(io::Error),
}

impl fmt::Display for CommandFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandFault::Conflict(conflict) => write!(f, "reservation conflict: {conflict}"),
            CommandFault::Refused(why) | CommandFault::Unknown(why) | CommandFault::NoMajority(why) => {
                f.write_str(why)
            }
            CommandFault::Unreachable(error) => write!(f, "no node answers: {error}"),
        }
    }
}

impl std::error::Error for CommandFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CommandFault::Unreachable(error) => Some(error),
            _ => None,
        }
    }
}

/// Carries out a command of the node with this admin socket, and returns once it is in force: no request that
/// it keeps out is let in any more, and, if it aborts, none of those that were is under way.
///
/// # Errors
/// [`CommandFault`].
pub fn command(socket: &Path, volume: VolumeId, command: Command) -> Result<(), CommandFault> {
    let change = Change::Reservation { volume, command };
    // A victim's requests may take their time to end.
    let request = Request::propose(Vec::new(), change, false, command.aborts());
    let said = ask(socket, &request).map_err(|error| match error.kind() {
        // It has the command, perhaps.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::UnexpectedEof => {
            CommandFault::Unknown(format!("the node did not answer: {error}; look at the reservations"))
        }
        _ => CommandFault::Unreachable(error),
    })?;
    let answer = said.get("answer").and_then(Value::as_str).and_then(of_hex);
    let answer = answer.and_then(|bytes| Answer::decode(&bytes).ok());
    if let Some(Answer { result: Err(Refusal::ReservationConflict { conflict, .. }), .. }) = answer {
        return Err(CommandFault::Conflict(conflict));
    }
    let is_set = |name: &str| said.get(name).is_some_and(|value| value != &Value::Bool(false));
    match said.get("error").and_then(Value::as_str).map(str::to_owned) {
        Some(why) if is_set("unknown") => Err(CommandFault::Unknown(why)),
        Some(why) if is_set("no_leader") => Err(CommandFault::NoMajority(why)),
        Some(why) => Err(CommandFault::Refused(why)),
        None => Ok(()),
    }
}

/// A command that the log has carried out and that may not be in force yet.
pub(crate) struct Settling {
    volume: VolumeId,
    aborts: bool,
    /// Known once this node's copy has the command.
    revision: Option<u64>,
    asked_at: Option<Instant>,
    is_in_force: bool,
}

impl Settling {
    /// `None`: a change that needs nothing of the kind.
    pub(crate) fn of(change: &Change) -> Option<Settling> {
        let Change::Reservation { volume, command } = change else { return None };
        let (volume, aborts) = (*volume, command.aborts());
        Some(Settling { volume, aborts, revision: None, asked_at: None, is_in_force: false })
    }

    /// Asks the serving node, if it is time.
    pub(crate) fn pursue(
        &mut self,
        core: &mut Core,
        engine: &mut BlockEngine,
        database: &Database,
        answer: &Answer,
    ) {
        if self.is_in_force || database.index() < answer.index {
            return;
        }
        let key = RowKey::Reservation(self.volume);
        let revision = *self.revision.get_or_insert_with(|| database.revision(&key));
        if answer.result.is_err() || database.revision(&key) == 0 {
            // Refused, or without a trace, or the disk is gone and all that was kept from it with it.
            self.is_in_force = true;
            return;
        }
        if self.asked_at.is_none_or(|at| at.elapsed() >= ASK_AGAIN) {
            self.asked_at = Some(Instant::now());
            engine.settle(core, &Settle { volume: self.volume, revision, aborts: self.aborts });
        }
    }

    /// The serving node has said something.
    pub(crate) fn hear(&mut self, settled: &Settle) {
        let is_enough = settled.aborts || !self.aborts;
        self.is_in_force |= settled.volume == self.volume
            && is_enough
            && self.revision.is_some_and(|revision| revision <= settled.revision);
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.is_in_force
    }

    /// The answer to whoever has waited long enough.
    pub(crate) fn too_late(&self) -> String {
        let why = match self.aborts {
            true => {
                "the victims are shut out, but some of their requests may still be under way, or no node \
                     serves the virtual disk: look whether it is served (netdisk vdisk list)"
            }
            false => {
                "the cluster has it, but the node that serves the virtual disk has not said that it acts \
                      on it, or no node serves it: look whether it is served (netdisk vdisk list)"
            }
        };
        json!({ "error": why, "unknown": true }).to_string()
    }
}

/// Tells the engine of reservations as the configuration has them. Comes before the mappings by the same
/// database.
pub(crate) fn follow(engine: &mut BlockEngine, core: &mut Core, database: &Database) {
    let rows = database
        .reservations()
        .map(|row| (row.volume, database.revision(&RowKey::Reservation(row.volume)), &row.reservations));
    engine.set_reservations(core, rows);
}
