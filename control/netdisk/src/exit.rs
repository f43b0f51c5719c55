//! How the program ends: what its exit codes mean, the same for every sub-command.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done, or nothing to do |
//! | 1 | refused or failed; nothing changed |
//! | 2 | the command line is wrong |
//! | 3 | nobody knows whether the change was made: look (`netdisk status`) before doing it again |
//! | 4 | no node answers, or the cluster has no majority |
//! | 5 | a reservation of another node stands against it, or a registration is missing; nothing changed |

use std::fmt;
use std::process::ExitCode;

/// Why a command ended with another code than 1.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The outcome of a change is unknown.
    Unknown,
    /// No node answers at the socket.
    Unreachable,
    /// The node answers, but the cluster decides nothing now.
    NoMajority,
    /// A reservation stands against it.
    Conflict,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Unknown => {
                "nobody knows whether the change was made: look with `netdisk status` before doing it again"
            }
            Failure::Unreachable => "no node answers: is it running, and is this its admin socket?",
            Failure::Conflict => "nothing was changed",
            Failure::NoMajority => {
                "the cluster decides nothing now: a majority of its voters is missing (netdisk doctor)"
            }
        })
    }
}

impl std::error::Error for Failure {}

/// The exit code for an error.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Unknown) => ExitCode::from(3),
        Some(Failure::Conflict) => ExitCode::from(5),
        Some(Failure::Unreachable | Failure::NoMajority) => ExitCode::from(4),
        None => ExitCode::FAILURE,
    }
}
