//! The cluster configuration database (SPEC C1, C2): all tables, the membership, and the reconfigurations
//! that are under way, as one deterministic machine.
//!
//! A replicated log brings [`Command`]s, each at an index that only rises; [`Database::apply`] gives them to
//! the rows. Equal logs make equal databases, byte for byte ([`Database::snapshot`]), on whichever node, so
//! nothing in here looks at a clock, and what depends on time is said by a command (`Cancel` after a
//! deadline, the wall time in `Join`).
//!
//! *Numbers.* The configuration number ([`Database::number`]) is the log index of the last command that
//! changed the configuration, plus a base that only [`Change::RaiseEpoch`] raises (a disk was seen to have a
//! higher number). Each virtual disk has a number of its own for its mapping: it rises when its row, who
//! serves it or its suspension changes, and for all of them when the members change, because raising the
//! gates is what shuts out the late requests of a node that left. A permission or another virtual disk does
//! not disturb it.
//!
//! *Once.* Every command has an [`OperationId`]; a copy of one that was applied gets the earlier answer
//! ([`Applied::Repeated`]). What is remembered, and for how long, is told in `session.rs`.
//!
//! *Compare and set.* Every row has a revision that rises with each change; a command may name the revisions
//! that it was thought out for ([`Expect`]).
//!
//! Calling order: [`Database::found`] for a new cluster or [`Database::restore`], then [`Database::apply`] in
//! the order of the log. After [`Database::restore`] the events begin anew: who watches lists the rows again.

mod answer;
mod command;
mod database;
mod departure;
mod event;
mod format;
mod members;
mod mirror;
mod pool;
mod reconfiguration;
mod refusal;
mod reservation;
mod row;
mod rows_change;
mod session;
mod snapshot;
mod token;
mod tombstone;

pub use crate::codec::CodeFault;
pub use answer::{Answer, Applied, Outcome};
pub use command::{COMMAND_BYTES_MAX, Change, Command, Expect, OperationId, ROW_CHANGES_MAX};
pub use database::{Database, VolumeState};
pub use event::{Cause, EVENT_BYTES_MAX, EVENTS_MAX, Event, Gap, RowEvent};
pub use format::{FormatRow, Step};
pub use members::{BROKEN_MAX, MemberCause, MembershipRow, Steward, Why};
pub use mirror::MirrorChange;
pub use pool::PoolRefusal;
pub use reconfiguration::{
    CancelCause, DEADLINE_MS_MAX, FINISHED_MAX, Phase, RECONFIGURATIONS_MAX, Reconfiguration,
    ReconfigurationId,
};
pub use refusal::Refusal;
pub use reservation::ReservationRow;
pub use row::{Row, RowChange, RowKey, SettingsRow, Table};
pub use session::ANSWERS_MAX;
pub use snapshot::{SNAPSHOT_FORMAT, SnapshotFault};
pub use token::{TOKENS_MAX, TokenHash, TokenRow, TokenUse};
pub use tombstone::{DistressLevel, REASON_BYTES_MAX, Tombstone};

#[cfg(test)]
mod tests;
