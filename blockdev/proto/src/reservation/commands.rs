//! What a host may ask for, and what comes of it.

use super::{Held, Key, Kind, Registrant, Reservations};
use core::fmt;
use transport_proto::identity::NodeId;

/// A command of a host. Keys that prove who asks are the host's own registered ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Registers the host, changes its key, or, with a new key of [`Key::NONE`], takes its registration back.
    Register {
        /// The key that it is registered with; [`Key::NONE`] if it is not. `None`: whatever it is.
        existing: Option<Key>,
        /// The key from now on.
        new: Key,
    },
    /// Makes a reservation.
    Reserve {
        /// The host's key.
        key: Key,
        /// The type.
        kind: Kind,
    },
    /// Gives the reservation up.
    Release {
        /// The host's key.
        key: Key,
        /// The type that it is of.
        kind: Kind,
    },
    /// Takes registrations from others, and the reservation with them if one of them holds it.
    Preempt {
        /// The host's key.
        key: Key,
        /// The key of the victims; [`Key::NONE`] for all of a reservation that all registrants hold.
        victim: Key,
        /// The type of the reservation that this host has then, if the victims held it.
        kind: Kind,
        /// It is done only when nothing that the victims asked before is under way any more.
        abort: bool,
    },
    /// Takes all registrations and the reservation away.
    Clear {
        /// The host's key.
        key: Key,
    },
}

impl Command {
    /// Whether it is done only when the requests that came before it have ended.
    pub fn aborts(&self) -> bool {
        matches!(self, Command::Preempt { abort: true, .. })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Register { new: Key::NONE, .. } => f.write_str("unregister"),
            Command::Register { .. } => f.write_str("register"),
            Command::Reserve { kind, .. } => write!(f, "reserve ({kind})"),
            Command::Release { .. } => f.write_str("release"),
            Command::Preempt { abort: true, .. } => f.write_str("preempt and abort"),
            Command::Preempt { .. } => f.write_str("preempt"),
            Command::Clear { .. } => f.write_str("clear"),
        }
    }
}

/// Why a command came to nothing: SCSI's reservation conflict, by its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The host is not registered.
    NotRegistered,
    /// The host is registered with another key.
    OtherKey,
    /// Somebody else holds the disk.
    Held {
        /// Who.
        by: NodeId,
        /// By which type.
        kind: Kind,
    },
    /// The reservation is of another type: it is released as what it is.
    OtherKind {
        /// Its type.
        kind: Kind,
    },
    /// Nobody is registered with the victim's key.
    NoVictim,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Conflict::NotRegistered => f.write_str("this node is not registered: register it first"),
            Conflict::OtherKey => {
                f.write_str("this node is registered with another key: give that one, or register anew")
            }
            Conflict::Held { by, kind } => {
                write!(f, "node {} holds it ({kind}): wait for its release, or preempt it", by.0)
            }
            Conflict::OtherKind { kind } => write!(f, "it is held as {kind}: release that"),
            Conflict::NoVictim => {
                f.write_str("nobody is registered with that key: look at the registrations")
            }
        }
    }
}

impl Reservations {
    /// Carries a command of a host out. On a conflict nothing has changed.
    ///
    /// # Errors
    /// [`Conflict`].
    pub fn apply(&mut self, from: NodeId, command: Command) -> Result<(), Conflict> {
        match command {
            Command::Register { existing, new } => self.register(from, existing, new),
            Command::Reserve { key, kind } => self.reserve(from, key, kind),
            Command::Release { key, kind } => self.release(from, key, kind),
            Command::Preempt { key, victim, kind, .. } => self.preempt(from, key, victim, kind),
            Command::Clear { key } => {
                self.prove(from, key)?;
                self.registrants.clear();
                self.held = None;
                self.generation += 1;
                Ok(())
            }
        }
    }

    fn prove(&self, from: NodeId, key: Key) -> Result<(), Conflict> {
        match self.key_of(from) {
            None => Err(Conflict::NotRegistered),
            Some(known) if known != key => Err(Conflict::OtherKey),
            Some(_) => Ok(()),
        }
    }

    fn register(&mut self, from: NodeId, existing: Option<Key>, new: Key) -> Result<(), Conflict> {
        let known = self.key_of(from);
        if let Some(existing) = existing
            && existing != known.unwrap_or(Key::NONE)
        {
            return Err(if known.is_none() { Conflict::NotRegistered } else { Conflict::OtherKey });
        }
        if known.unwrap_or(Key::NONE) == new {
            return Ok(());
        }
        if new == Key::NONE {
            self.remove(|one| one.node == from);
        } else {
            match self.registrants.binary_search_by_key(&from, |one| one.node) {
                Ok(place) => self.registrants[place].key = new,
                Err(place) => self.registrants.insert(place, Registrant { node: from, key: new }),
            }
        }
        self.generation += 1;
        Ok(())
    }

    fn reserve(&mut self, from: NodeId, key: Key, kind: Kind) -> Result<(), Conflict> {
        self.prove(from, key)?;
        match self.held {
            Some(held) if self.is_holder(from) && held.kind == kind => Ok(()),
            Some(Held { by, kind }) => Err(Conflict::Held { by, kind }),
            None => {
                self.held = Some(Held { by: from, kind });
                Ok(())
            }
        }
    }

    /// Of one who does not hold it, it changes nothing and is no fault.
    fn release(&mut self, from: NodeId, key: Key, kind: Kind) -> Result<(), Conflict> {
        self.prove(from, key)?;
        match self.held.filter(|_| self.is_holder(from)) {
            Some(held) if held.kind != kind => Err(Conflict::OtherKind { kind: held.kind }),
            Some(_) => {
                self.held = None;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn preempt(&mut self, from: NodeId, key: Key, victim: Key, kind: Kind) -> Result<(), Conflict> {
        self.prove(from, key)?;
        let of_all = self.held.is_some_and(|held| held.kind.is_held_by_all());
        let takes_it = match self.held {
            Some(_) if of_all => victim == Key::NONE,
            Some(held) => self.key_of(held.by) == Some(victim),
            None => false,
        };
        let is_victim = |one: &Registrant| match takes_it && of_all {
            true => one.node != from,
            false => one.key == victim && one.node != from,
        };
        if !takes_it && !self.registrants.iter().any(is_victim) {
            return Err(Conflict::NoVictim);
        }
        self.registrants.retain(|one| !is_victim(one));
        if takes_it {
            self.held = Some(Held { by: from, kind });
        }
        self.generation += 1;
        Ok(())
    }
}
