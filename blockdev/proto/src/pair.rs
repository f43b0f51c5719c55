//! A remote copy pair: two halves at two sites, each with a node of its own, and no third party (SPEC P1–P3).
//!
//! This is the machine of one half: its states, the commands, and the arbitration between the sites. Each
//! half keeps a [`Record`] on stable storage. **The primary half decides**: a command that changes the pair
//! is asked of it, it makes the new record durable, and only then tells the secondary half, which follows and
//! says so. Since one half decides, crossing commands have an order, and one of them meets the state that the
//! other made. A command is answered as done when both records are durable. If the word is lost, the primary
//! half suspends the pair with an error, whatever it had decided; when the halves meet again, the record of
//! the higher [`Generation`] is followed.
//!
//! **As an arbiter** ([`Command::Reserve`]): the half of the asking side is reserved, then the pair is
//! resynced (by the primary half's side) or swap-resynced (by the other). Both are accepted only while the
//! pair is suspended, so of two that race one is refused. Before a half gives up the primary role it asks its
//! own node to fence whoever won by it before ([`PairAction::Yield`]), so that there are never two winners.
//! If the halves do not hear each other nobody wins; only an operator's takeover goes on alone.
//!
//! Bytes are the caller's business: it copies while the state is copy and tells [`Half::copied`], writes to
//! both halves in the states copy and pair, and tells [`Half::copy_failed`] when that fails, before it
//! answers the write.
//!
//! Calling order: actions are carried out in their order. `Persist` ends with one [`Half::persisted`],
//! `Yield` with one [`Half::yielded`]. Messages may be lost with the connection, at no other time, and arrive
//! in order; [`Half::connected`] and [`Half::disconnected`] tell of it.

mod commands;
mod half;
mod record;
mod wire;

pub use self::commands::{Command, Refusal, accepts};
pub use self::half::{Half, PairLimits};
pub use self::record::{Generation, RECORD_BYTES, Record, RecordFault};
pub use self::wire::PAIR_MESSAGE_BYTES;

use core::fmt;
use transport_proto::identity::NodeId;

/// One of the two sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The one that the configuration names first.
    First = 0,
    /// The other.
    Second = 1,
}

impl Side {
    /// The other side.
    pub fn other(self) -> Side {
        match self {
            Side::First => Side::Second,
            Side::Second => Side::First,
        }
    }

    fn of_code(code: u8) -> Option<Side> {
        [Side::First, Side::Second].into_iter().find(|side| *side as u8 == code)
    }
}

/// Of a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The primary half (P-VOL): it is written, and it decides.
    Primary = 0,
    /// The secondary half (S-VOL): it gets copies.
    Secondary = 1,
}

impl Role {
    /// The role of the other half.
    pub fn other(self) -> Role {
        match self {
            Role::Primary => Role::Secondary,
            Role::Secondary => Role::Primary,
        }
    }

    fn of_code(code: u8) -> Option<Role> {
        [Role::Primary, Role::Secondary].into_iter().find(|role| *role as u8 == code)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Primary => "primary",
            Role::Secondary => "secondary",
        })
    }
}

/// Of a pair, as one half knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No pair.
    Simplex,
    /// The primary half's content is being copied; writes go to both.
    Copy,
    /// Both have the same content; writes go to both.
    Pair,
    /// Writes go to the primary half only, because somebody said so.
    Suspended,
    /// Writes go to the primary half only, because something failed.
    SuspendedError,
}

impl State {
    /// Every state.
    pub const ALL: [State; 5] =
        [State::Simplex, State::Copy, State::Pair, State::Suspended, State::SuspendedError];

    /// Whether the halves go their own ways.
    pub fn is_suspended(self) -> bool {
        matches!(self, State::Suspended | State::SuspendedError)
    }

    /// Whether writes go to both halves.
    pub fn is_joined(self) -> bool {
        matches!(self, State::Copy | State::Pair)
    }

    /// What is left of it when the halves do not hear each other.
    fn severed(self) -> State {
        if self.is_joined() { State::SuspendedError } else { self }
    }

    fn of_code(code: u8) -> Option<State> {
        State::ALL.into_iter().find(|state| *state as u8 == code)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Simplex => "simplex",
            State::Copy => "copy",
            State::Pair => "pair",
            State::Suspended => "suspended",
            State::SuspendedError => "suspended (error)",
        })
    }
}

/// A pair won as an arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The site.
    pub side: Side,
    /// Its node.
    pub node: NodeId,
    /// Rises from grant to grant.
    pub epoch: u64,
}

/// What one half says to the other. `to` is the session that the receiver announced; words of an older one
/// are not heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairMessage {
    /// Begins a session, and tells where this half stands. `to` is 0 while the other's is not known.
    Hello {
        /// The sender's session, never 0.
        from: u64,
        /// The receiver's.
        to: u64,
        /// The sender's record.
        record: Record,
    },
    /// A command that only the primary half can decide.
    Ask {
        /// The receiver's session.
        to: u64,
        /// What.
        command: Command,
        /// The asker's record.
        record: Record,
    },
    /// The primary half does not do it.
    Refused {
        /// The receiver's session.
        to: u64,
        /// Why.
        why: Refusal,
    },
    /// The primary half has decided: its own record; the receiver's is its counterpart.
    Follow {
        /// The receiver's session.
        to: u64,
        /// The decider's record.
        record: Record,
    },
    /// The receiver's decision of this generation is durable here too.
    Followed {
        /// The receiver's session.
        to: u64,
        /// Which.
        generation: Generation,
    },
}

/// What a half wants its caller to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairAction {
    /// Make the record durable, then tell [`Half::persisted`].
    Persist {
        /// It.
        record: Record,
    },
    /// Send this to the other half.
    Send(PairMessage),
    /// Fence whoever won the pair on this side, and see that nothing writes here any more. Writes that wait
    /// for the other half are withdrawn: they are asked again, of the half that is primary then. When nothing
    /// is under way, tell [`Half::yielded`].
    Yield,
    /// The end of a command.
    Answer {
        /// The caller's name for the command.
        token: u64,
        /// The grant of a reserve.
        result: Result<Option<Grant>, Refusal>,
    },
}
