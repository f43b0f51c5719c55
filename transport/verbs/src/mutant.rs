//! Rules of this crate that its own tests break on purpose, to see that the double notices. In a build that
//! is not a test of this crate none is ever broken.

/// A rule, named by how it is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Granted memory is used for the next connection before the old one's queue is destroyed.
    EarlyReuse,
    /// A write with immediate is not counted as taking one of the peer's receives.
    UncountedWrite,
    /// Sends are never signalled.
    Unsignalled,
    /// Every queue begins with the same packet number.
    StalePacketSequence,
    /// Payload memory is given back as soon as it is posted.
    EarlyRelease,
    /// What the peer returned is believed to be free before it says so.
    EarlyChunk,
}

#[cfg(test)]
std::thread_local! {
    /// The rule that is broken on this thread.
    pub(crate) static BROKEN: core::cell::Cell<Option<Mutant>> = const { core::cell::Cell::new(None) };
}

/// Whether the rule is broken.
#[inline]
pub(crate) fn is_broken(mutant: Mutant) -> bool {
    #[cfg(test)]
    {
        BROKEN.get() == Some(mutant)
    }
    #[cfg(not(test))]
    {
        let _ = mutant;
        false
    }
}
