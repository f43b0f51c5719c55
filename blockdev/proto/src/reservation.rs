//! Reservations of a virtual disk with the meaning of SCSI-3 persistent reservations and NVMe's (SPEC B12):
//! who is registered, who holds the disk, and what that lets others do.
//!
//! A host is a node. Commands are applied to a row of the replicated configuration, so all of them happen in
//! one order; the master of the disk gets the row and asks it about each request ([`Reservations::permits`]).
//!
//! | type | others that are registered | others |
//! |---|---|---|
//! | write exclusive | read | read |
//! | exclusive access | nothing | nothing |
//! | write exclusive, registrants only | read, write | read |
//! | exclusive access, registrants only | read, write | nothing |
//! | write exclusive, all registrants | read, write (all of them hold it) | read |
//! | exclusive access, all registrants | read, write (all of them hold it) | nothing |

mod commands;
#[cfg(test)]
mod tests;

pub use self::commands::{Command, Conflict};

use crate::wire::Operation;
use alloc::vec::Vec;
use core::fmt;
use transport_proto::identity::NodeId;

/// What a host registers with; it chooses it. Zero is no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

impl Key {
    /// No key.
    pub const NONE: Key = Key(0);
}

/// What a reservation keeps others from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only the holder writes.
    WriteExclusive,
    /// Only the holder reads and writes.
    ExclusiveAccess,
    /// Whoever is registered writes.
    WriteExclusiveRegistrants,
    /// Whoever is registered reads and writes.
    ExclusiveAccessRegistrants,
    /// Whoever is registered holds it and writes.
    WriteExclusiveAll,
    /// Whoever is registered holds it, reads and writes.
    ExclusiveAccessAll,
}

impl Kind {
    /// Every type, with its short name.
    pub const ALL: [(Kind, &'static str); 6] = [
        (Kind::WriteExclusive, "we"),
        (Kind::ExclusiveAccess, "ea"),
        (Kind::WriteExclusiveRegistrants, "we-ro"),
        (Kind::ExclusiveAccessRegistrants, "ea-ro"),
        (Kind::WriteExclusiveAll, "we-ar"),
        (Kind::ExclusiveAccessAll, "ea-ar"),
    ];

    /// By its short name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|(_, known)| *known == name).map(|(kind, _)| kind)
    }

    /// Its short name.
    pub fn name(self) -> &'static str {
        Kind::ALL.into_iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// Everybody who is registered holds it.
    pub fn is_held_by_all(self) -> bool {
        matches!(self, Kind::WriteExclusiveAll | Kind::ExclusiveAccessAll)
    }

    /// Whoever is registered may do what the holder may.
    fn admits_registrants(self) -> bool {
        !matches!(self, Kind::WriteExclusive | Kind::ExclusiveAccess)
    }

    fn keeps_from_reading(self) -> bool {
        matches!(self, Kind::ExclusiveAccess | Kind::ExclusiveAccessRegistrants | Kind::ExclusiveAccessAll)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::WriteExclusive => "write exclusive",
            Kind::ExclusiveAccess => "exclusive access",
            Kind::WriteExclusiveRegistrants => "write exclusive, registrants only",
            Kind::ExclusiveAccessRegistrants => "exclusive access, registrants only",
            Kind::WriteExclusiveAll => "write exclusive, all registrants",
            Kind::ExclusiveAccessAll => "exclusive access, all registrants",
        })
    }
}

/// A host that is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registrant {
    /// The host.
    pub node: NodeId,
    /// What it registered with.
    pub key: Key,
}

/// A reservation that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Who made it. Of a type that all registrants hold, whoever began it; it may have gone since.
    pub by: NodeId,
    /// What it keeps others from.
    pub kind: Kind,
}

/// Registrations and reservation of one virtual disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    /// Rises with each command that changed who is registered.
    pub generation: u64,
    /// By rising node.
    pub registrants: Vec<Registrant>,
    /// The reservation, if there is one.
    pub held: Option<Held>,
}

impl Reservations {
    /// The key of a host, if it is registered.
    pub fn key_of(&self, node: NodeId) -> Option<Key> {
        self.registrants.iter().find(|one| one.node == node).map(|one| one.key)
    }

    /// Whether the host holds the reservation.
    pub fn is_holder(&self, node: NodeId) -> bool {
        self.held.is_some_and(|held| match held.kind.is_held_by_all() {
            true => self.key_of(node).is_some(),
            false => held.by == node,
        })
    }

    /// Whether a host may do this. A flush counts among what a write reservation keeps others from, as NVMe
    /// has it.
    #[inline]
    pub fn permits(&self, node: NodeId, operation: Operation) -> bool {
        let Some(held) = self.held else { return true };
        if operation == Operation::Read && !held.kind.keeps_from_reading() {
            return true;
        }
        held.by == node && !held.kind.is_held_by_all()
            || held.kind.admits_registrants() && self.key_of(node).is_some()
    }

    /// A node that is gone for good is no host any more.
    pub fn forget(&mut self, node: NodeId) {
        if self.key_of(node).is_some() {
            self.remove(|one| one.node == node);
            self.generation += 1;
        }
    }

    /// Takes registrations out, and the reservation if nobody is left to hold it.
    fn remove(&mut self, is_gone: impl Fn(&Registrant) -> bool) {
        self.registrants.retain(|one| !is_gone(one));
        let Some(held) = self.held else { return };
        let is_left = match held.kind.is_held_by_all() {
            true => !self.registrants.is_empty(),
            false => self.key_of(held.by).is_some(),
        };
        if !is_left {
            self.held = None;
        }
    }
}
