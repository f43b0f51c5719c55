//! Commands to a half, and which of them is accepted in which state and role (SPEC P2).

use super::{Record, Role, State};
use crate::rules::Rules;
use core::fmt;
use transport_proto::identity::NodeId;

/// What an administrator or a cluster manager asks of a half, at its own node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make a pair, with this half as the primary: the other's content is overwritten.
    Create,
    /// Stop copying; both halves keep the content of this moment.
    Split,
    /// Copy from the primary half again. Of the primary only.
    Resync,
    /// Change roles, and copy from what was the secondary half. Of the secondary only.
    SwapResync,
    /// End the pair; both halves keep what they have.
    Delete,
    /// This half is to be the primary, whatever it was.
    Takeover {
        /// Also while the pair is suspended, though the other half may have writes that this one lacks, and
        /// without its word if it is not heard; it must not serve any more then. The operator answers for
        /// that.
        alone: bool,
    },
    /// Win the pair as an arbiter, for a node of this side: reserve this half, then resync or swap-resync.
    Reserve {
        /// For whom.
        node: NodeId,
    },
    /// Give back the reservation of this half. Who won last stays known.
    Release {
        /// Whose.
        node: NodeId,
    },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Command::Create => "create",
            Command::Split => "split",
            Command::Resync => "resync",
            Command::SwapResync => "swap-resync",
            Command::Delete => "delete",
            Command::Takeover { .. } => "takeover",
            Command::Reserve { .. } => "reserve",
            Command::Release { .. } => "release",
        })
    }
}

/// Why a command was not carried out. Where it is not said otherwise, nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not in this state and role.
    NotNow {
        /// The state of the half that said so.
        state: State,
        /// Its role.
        role: Role,
    },
    /// The content of the secondary half is of no single moment: it was copied to only in part, or it was
    /// superseded by a takeover. Only the primary half can be copied from.
    Incomplete,
    /// Another command is under way at this half: ask again.
    Busy,
    /// The halves do not hear each other.
    Unreachable,
    /// The other half did not say that it followed. It does when the halves meet again; until then what is
    /// left of the pair is suspended (error). A reserve has not won.
    Unanswered,
    /// Both halves were made primary at the same time, and the other side's command went first.
    Crossed,
    /// Another node has this half reserved.
    Reserved {
        /// It.
        by: NodeId,
    },
    /// The node that asks to release has nothing reserved here.
    NotReserved,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotNow { state: State::Simplex, .. } => {
                write!(f, "the half is in no pair (simplex): create the pair first")
            }
            Refusal::NotNow { state, role } => {
                write!(f, "not accepted by the {role} half in state {state}: look at what pair display says")
            }
            Refusal::Incomplete => write!(
                f,
                "the secondary half has no complete copy: resync from the primary half, or create the pair \
                 anew"
            ),
            Refusal::Busy => write!(f, "another command is under way at this half: ask again"),
            Refusal::Unreachable => {
                write!(f, "the halves do not hear each other: mend the link between them, then ask again")
            }
            Refusal::Unanswered => write!(
                f,
                "the other half did not say that it followed; it does when the halves meet again: mend the \
                 link between them, then look at what pair display says"
            ),
            Refusal::Crossed => write!(f, "the other side made the pair at the same moment, and goes first"),
            Refusal::Reserved { by } => write!(f, "node {} has this half reserved", by.0),
            Refusal::NotReserved => write!(f, "this node has nothing reserved here"),
        }
    }
}

/// The table of acceptance: what a half says to a command before anybody else is asked.
///
/// | command | simplex | copy | pair | suspended, suspended (error) |
/// |---|---|---|---|---|
/// | create | accepted | – | – | – |
/// | split | – | – | P, S | – |
/// | resync | – | – | – | P |
/// | swap-resync | – | – | – | S, if its copy is complete |
/// | delete | – | P, S | P, S | P, S |
/// | takeover | – | P (nothing to do) | P (nothing to do), S | P (nothing to do), S only alone |
///
/// A takeover alone is a swap-resync where the other half is heard. Reserve is resync of the primary half and
/// swap-resync of the secondary one.
///
/// # Errors
/// [`Refusal::NotNow`] or [`Refusal::Incomplete`].
pub fn accepts<R: Rules>(record: &Record, command: Command) -> Result<(), Refusal> {
    use {Role::Primary, Role::Secondary, State::Copy, State::Pair, State::Simplex};
    let (state, role) = (record.state, record.role);
    let suspended = state.is_suspended();
    let swaps = || match (suspended || !R::SWAP_ONLY_SUSPENDED, record.consistent) {
        (true, true) => Ok(()),
        (true, false) => Err(Refusal::Incomplete),
        (false, _) => Err(Refusal::NotNow { state, role }),
    };
    let is_accepted = match (command, role) {
        (Command::Release { .. }, _) => true,
        (Command::Create, _) => state == Simplex,
        (_, _) if state == Simplex => false,
        (Command::Split, _) => state == Pair,
        (Command::Delete, _) | (Command::Takeover { .. }, Primary) => true,
        (Command::Resync | Command::Reserve { .. }, Primary) => suspended,
        (Command::Resync, Secondary) | (Command::SwapResync, Primary) => false,
        (Command::SwapResync | Command::Reserve { .. }, Secondary) => return swaps(),
        (Command::Takeover { .. }, Secondary) if state == Pair => true,
        (Command::Takeover { .. }, Secondary) if state == Copy => return Err(Refusal::Incomplete),
        (Command::Takeover { alone: true }, Secondary) => return swaps(),
        (Command::Takeover { alone: false }, Secondary) => false,
    };
    if is_accepted { Ok(()) } else { Err(Refusal::NotNow { state, role }) }
}
