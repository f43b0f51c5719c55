//! Why a node says that it fails, and the one table of what follows from each reason (SPEC D3, D5).

use core::fmt;

/// What must still be fenced when the signal goes out. Ordered: a later word of one life can only be higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Gates may be open and requests with the disks: others take over, but fence first (SPEC B5).
    Dying = 1,
    /// Gates are closed, nothing is with a disk and ownership is given up: nothing is left to wait for.
    Fenced = 2,
}

impl Level {
    /// Both, rising.
    pub const ALL: [Level; 2] = [Level::Dying, Level::Fenced];

    /// The level with this number.
    pub fn from_number(number: u8) -> Option<Level> {
        Level::ALL.into_iter().find(|level| *level as u8 == number)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Dying => "dying",
            Level::Fenced => "fenced",
        })
    }
}

/// How a signal goes out (SPEC D2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the running thread, before anything else goes on.
    AtOnce,
    /// By the thread that waits for nothing else, while the node goes on with an orderly shutdown.
    ByThread,
}

/// Why a node says that it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It was asked to stop: SIGTERM, SIGINT, the admin socket.
    PlannedStop,
    /// The power is gone and the battery lasts a little longer.
    PowerFail,
    /// A thread panicked.
    Panic,
    /// Its own records (votes, database) cannot be kept, so it can promise nothing any more.
    RecordsFailing,
    /// The machinery of its disks, not one disk, does not work.
    StoreFailing,
    /// The machinery of its rails, not one rail, does not work.
    TransportFailing,
    /// SIGSEGV.
    SegmentationFault,
    /// SIGBUS.
    BusError,
    /// SIGILL.
    IllegalInstruction,
    /// SIGFPE.
    ArithmeticFault,
    /// SIGABRT.
    Abort,
    /// A reason of a later release. Never sent by this one.
    Other(u16),
}

/// What follows from a reason.
struct Row {
    reason: Reason,
    number: u16,
    way: Way,
    /// The node may come back without an operator.
    may_return: bool,
    text: &'static str,
}

const fn row(reason: Reason, number: u16, way: Way, may_return: bool, text: &'static str) -> Row {
    Row { reason, number, way, may_return, text }
}

/// Reasons that a node of this release can give. The order is that of the messages formed in advance.
pub const REASONS: usize = 11;

/// Time left → by the thread; none, or an unknown kind → at once (D3). Only who was asked to stop may come
/// back by itself: every other end leaves open what is broken (D5).
const TABLE: [Row; REASONS] = [
    row(Reason::PlannedStop, 1, Way::ByThread, true, "planned stop"),
    row(Reason::PowerFail, 2, Way::ByThread, false, "power failure, on battery"),
    row(Reason::Panic, 3, Way::AtOnce, false, "panic"),
    row(Reason::RecordsFailing, 4, Way::AtOnce, false, "its own records cannot be kept"),
    row(Reason::StoreFailing, 5, Way::AtOnce, false, "its storage does not work"),
    row(Reason::TransportFailing, 6, Way::AtOnce, false, "its network does not work"),
    row(Reason::SegmentationFault, 7, Way::AtOnce, false, "segmentation fault (SIGSEGV)"),
    row(Reason::BusError, 8, Way::AtOnce, false, "bus error (SIGBUS)"),
    row(Reason::IllegalInstruction, 9, Way::AtOnce, false, "illegal instruction (SIGILL)"),
    row(Reason::ArithmeticFault, 10, Way::AtOnce, false, "arithmetic fault (SIGFPE)"),
    row(Reason::Abort, 11, Way::AtOnce, false, "abort (SIGABRT)"),
];

impl Reason {
    /// The reasons of this release, each at its [`Reason::index`].
    pub fn all() -> impl Iterator<Item = Reason> {
        TABLE.iter().map(|row| row.reason)
    }

    fn row(self) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.reason == self)
    }

    /// Its place among the messages formed in advance, `0..REASONS`; `None` for one of another release.
    pub fn index(self) -> Option<usize> {
        TABLE.iter().position(|row| row.reason == self)
    }

    /// Its number on the wire and on disk.
    pub fn number(self) -> u16 {
        match self {
            Reason::Other(number) => number,
            _ => self.row().map_or(0, |row| row.number),
        }
    }

    /// The reason with this number.
    pub fn from_number(number: u16) -> Reason {
        TABLE.iter().find(|row| row.number == number).map_or(Reason::Other(number), |row| row.reason)
    }

    /// How it goes out. An unknown kind: at once.
    pub fn way(self) -> Way {
        self.row().map_or(Way::AtOnce, |row| row.way)
    }

    /// Whether the node may come back without an operator's word. Not from an unknown kind.
    pub fn may_return(self) -> bool {
        self.row().is_some_and(|row| row.may_return)
    }

    /// Whether the node goes on serving until it has said [`Level::Fenced`]: then moving its duties earlier
    /// would only cut off its own clients.
    pub fn serves_until_fenced(self) -> bool {
        self == Reason::PlannedStop
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Other(number) => write!(f, "reason {number} of another release"),
            _ => f.write_str(self.row().map_or("", |row| row.text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: D3 D5
    #[test]
    fn the_kind_of_failure_chooses_the_way_and_who_may_return() {
        let by_thread = [Reason::PlannedStop, Reason::PowerFail];
        for (index, reason) in Reason::all().enumerate() {
            assert_eq!(reason.index(), Some(index));
            assert_eq!(Reason::from_number(reason.number()), reason);
            assert_eq!(reason.way() == Way::ByThread, by_thread.contains(&reason), "{reason}");
            assert_eq!(reason.may_return(), reason == Reason::PlannedStop, "{reason}");
        }
        let unknown = Reason::from_number(900);
        assert_eq!((unknown, unknown.number()), (Reason::Other(900), 900));
        assert_eq!((unknown.way(), unknown.may_return(), unknown.index()), (Way::AtOnce, false, None));
        assert_eq!(Level::from_number(3), None);
    }
}
