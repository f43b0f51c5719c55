//! Tombstones: a node that cried for help gave up its duties and stays out until an operator clears it
//! (SPEC D5).

use crate::codec::coded;
use crate::view::Member;
use alloc::string::String;
use core::fmt;

/// Bytes of a reason at the most.
pub const REASON_BYTES_MAX: usize = 200;

/// How much the node could say of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DistressLevel {
    /// It is about to die: start the takeover, and fence it.
    Dying,
    /// Its gates are closed and drained: take over at once.
    Fenced,
}

impl fmt::Display for DistressLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DistressLevel::Dying => "dying",
            DistressLevel::Fenced => "fenced itself",
        })
    }
}

/// Why a node stays out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The node, and the life that gave up. No life of the node joins while this row is there.
    pub member: Member,
    /// How much it could say of itself; the later word, if there were two.
    pub level: DistressLevel,
    /// In its own words.
    pub reason: String,
}

coded! {
    enum DistressLevel { 1 = Dying, 2 = Fenced }
}
coded! {
    struct Tombstone { member, level, reason }
}
