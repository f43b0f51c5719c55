//! Format rows: of which version a table's rows are, and which steps of synchronisation a change of them
//! takes (SPEC C2).

use super::row::Table;
use crate::codec::coded;
use alloc::vec::Vec;
use core::fmt;

/// A step that every member takes about the virtual disks that a change concerns (SPEC C4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Hold new requests.
    Suspend,
    /// Wait for those outstanding.
    Drain,
    /// Drop the copy of the mapping.
    Invalidate,
    /// Fetch the mapping as it is now.
    Fetch,
    /// Let requests go on.
    Resume,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Suspend => "suspend",
            Step::Drain => "drain",
            Step::Invalidate => "invalidate",
            Step::Fetch => "fetch",
            Step::Resume => "resume",
        })
    }
}

/// How a table is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatRow {
    /// The table.
    pub table: Table,
    /// Version of its rows.
    pub version: u16,
    /// What every member does and acknowledges before rows of it change. With none, rows change at once.
    pub before: Vec<Step>,
    /// What every member does after.
    pub after: Vec<Step>,
}

impl FormatRow {
    /// How the table is changed unless somebody says otherwise: what is mapped changes when all stand still,
    /// everything else at once.
    pub fn usual(table: Table) -> FormatRow {
        let (before, after) = match table {
            Table::Disks | Table::VirtualDisks => (
                Vec::from([Step::Suspend, Step::Drain, Step::Invalidate]),
                Vec::from([Step::Fetch, Step::Resume]),
            ),
            _ => (Vec::new(), Vec::new()),
        };
        FormatRow { table, version: table.version(), before, after }
    }

    /// Whether changes wait for the members.
    pub fn is_synchronised(&self) -> bool {
        !self.before.is_empty()
    }
}

impl Table {
    /// Version of the rows that this release writes.
    pub const fn version(self) -> u16 {
        match self {
            // 2: what clients meet without quorum.
            Table::VirtualDisks => 2,
            // 2: whether the node votes.
            Table::Nodes => 2,
            _ => 1,
        }
    }
}

coded! {
    enum Step { 1 = Suspend, 2 = Drain, 3 = Invalidate, 4 = Fetch, 5 = Resume }
}
coded! {
    struct FormatRow { table, version, before, after }
}
