//! The database itself: what it holds, and how a command gets to its rows.

use super::answer::{Answer, Applied, Outcome};
use super::command::{Change, Command, Expect, OperationId};
use super::event::{Cause, Event, Events, Gap, RowEvent};
use super::format::FormatRow;
use super::members::MembershipRow;
use super::reconfiguration::{Reconfiguration, ReconfigurationId};
use super::refusal::Refusal;
use super::reservation::ReservationRow;
use super::row::{Row, RowKey, Table};
use super::session::{Known, Sessions};
use super::token::{TokenHash, TokenRow};
use super::tombstone::Tombstone;
use crate::protocol_rules::{ProtocolRules, Strict};
use crate::rows::ClusterRows;
use crate::rules::{self, RowFault};
use crate::view::ClusterView;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use blockdev_proto::geometry::VolumeId;
use core::marker::PhantomData;
use transport_proto::identity::{Epoch, Incarnation, NodeId};

/// What came about with a virtual disk's mapping, beside its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeState {
    /// The configuration number of the last change of its row, its suspension or its paths.
    pub changed: Epoch,
    /// It stands still for this one.
    pub suspended_by: Option<ReconfigurationId>,
}

/// The cluster configuration database, see the head of this module.
#[doc(alias = "CCD")]
#[derive(Clone, Debug)]
pub struct Database<R: ProtocolRules = Strict> {
    pub(super) index: u64,
    /// Configuration numbers are log indexes plus this.
    pub(super) base: u64,
    pub(super) number: Epoch,
    pub(super) rows: Arc<ClusterRows>,
    pub(super) revisions: BTreeMap<RowKey, u64>,
    pub(super) formats: BTreeMap<Table, FormatRow>,
    pub(super) membership: MembershipRow,
    pub(super) volumes: Arc<BTreeMap<VolumeId, VolumeState>>,
    pub(super) reconfigurations: BTreeMap<ReconfigurationId, Reconfiguration>,
    pub(super) tombstones: BTreeMap<NodeId, Tombstone>,
    pub(super) tokens: BTreeMap<TokenHash, TokenRow>,
    pub(super) reservations: BTreeMap<VolumeId, ReservationRow>,
    pub(super) sessions: Sessions,
    pub(super) events: Events,
    pub(super) obeys: PhantomData<R>,
}

/// What a change did.
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) cause: Cause,
    pub(super) changes: Vec<RowEvent>,
}

impl Done {
    /// Everything was already so.
    pub(super) fn nothing() -> Done {
        let cause = Cause::Members(Vec::new());
        Done { outcome: Outcome::default(), cause, changes: Vec::new() }
    }
}

impl Database {
    /// The database of a new cluster with these rows, at index 0, which is before every command. What is
    /// wrong with the rows comes back, row by row.
    pub fn found(rows: ClusterRows) -> Result<Database, Vec<(RowKey, RowFault)>> {
        Database::found_with_rules(rows)
    }
}

impl<R: ProtocolRules> Database<R> {
    /// As [`Database::found`], obeying the given rules.
    pub fn found_with_rules(mut rows: ClusterRows) -> Result<Database<R>, Vec<(RowKey, RowFault)>> {
        rows.sort();
        let faults = rules::check_all(&rows);
        if faults.is_empty() { Ok(Database::of_rows(rows)) } else { Err(faults) }
    }

    /// A database with these rows as they are.
    pub(super) fn of_rows(rows: ClusterRows) -> Database<R> {
        Database {
            index: 0,
            base: 0,
            number: Epoch(0),
            rows: Arc::new(rows),
            revisions: BTreeMap::new(),
            formats: Table::ALL.map(|table| (table, FormatRow::usual(table))).into_iter().collect(),
            membership: MembershipRow::default(),
            volumes: Arc::default(),
            reconfigurations: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            tokens: BTreeMap::new(),
            reservations: BTreeMap::new(),
            sessions: Sessions::default(),
            events: Events::begin(0),
            obeys: PhantomData,
        }
    }

    // --- the log ---

    /// Applies the command at this index of the log. The same on every node.
    ///
    /// # Panics
    /// If the index is not above all before: then the log is out of order, and nothing could be trusted.
    pub fn apply(&mut self, index: u64, command: &Command) -> Applied {
        self.apply_weighed(index, command, 256)
    }

    /// Applies the bytes at this index of the log. Bytes that are no command are refused, as on every node.
    pub fn apply_bytes(&mut self, index: u64, bytes: &[u8]) -> Applied {
        match Command::decode(bytes) {
            Ok(command) => self.apply_weighed(index, &command, bytes.len()),
            Err(_) => {
                self.advance(index);
                Applied::Refused(self.answer(Err(Refusal::Malformed)))
            }
        }
    }

    /// An entry of the log that is no command has gone by (a change of voters, a new leader's first).
    pub fn advance(&mut self, index: u64) {
        assert!(index > self.index, "log index {index} after {}", self.index);
        self.index = index;
    }

    fn apply_weighed(&mut self, index: u64, command: &Command, weight: usize) -> Applied {
        self.advance(index);
        let id = &command.operation;
        if self.rows.node(id.node).is_none() {
            return Applied::Refused(self.answer(Err(Refusal::Stranger { node: id.node })));
        }
        match self.sessions.find(id) {
            Known::Answered(answer) => return Applied::Repeated(answer),
            Known::Never(refusal) => return Applied::Refused(self.answer(Err(refusal))),
            Known::New => {}
        }
        let done = self.check_expectations(&command.expect).and_then(|()| self.change(id, &command.change));
        let applied = match done {
            Err(refusal) => Applied::Refused(self.answer(Err(refusal))),
            Ok(done) => {
                let event = self.note(done.cause, done.changes, weight);
                Applied::Done { answer: self.answer(Ok(done.outcome)), event }
            }
        };
        // The command may have taken out the proposer's own row, and its session with it.
        if self.rows.node(id.node).is_some() {
            self.sessions.remember(id, applied.answer().clone());
        }
        applied
    }

    fn answer(&self, result: Result<Outcome, Refusal>) -> Answer {
        Answer { index: self.index, number: self.number, result }
    }

    fn check_expectations(&self, expect: &[Expect]) -> Result<(), Refusal> {
        for expectation in expect {
            match expectation {
                Expect::Number(expected) if *expected != self.number => {
                    return Err(Refusal::NumberChanged { expected: *expected, found: self.number });
                }
                Expect::Number(_) => {}
                Expect::Row { key, revision } => {
                    let found = self.revision(key);
                    if found != *revision {
                        return Err(Refusal::RowChanged { key: key.clone(), expected: *revision, found });
                    }
                }
            }
        }
        Ok(())
    }

    fn change(&mut self, id: &OperationId, change: &Change) -> Result<Done, Refusal> {
        match change {
            Change::Rows(changes) => self.change_rows(id.node, changes),
            Change::Prepare { changes, deadline_ms, hold } => {
                self.prepare(id.node, changes, *deadline_ms, *hold)
            }
            Change::Ack { reconfiguration, member } => self.acknowledge(*reconfiguration, *member),
            Change::Proceed { reconfiguration } => self.proceed(*reconfiguration),
            Change::Cancel { reconfiguration, why } => self.cancel(*reconfiguration, *why),
            Change::Steward(steward) => self.take_stewardship(*steward),
            Change::Membership { by, expect, members, broken, causes } => {
                self.change_members(*by, *expect, members, broken, causes)
            }
            Change::RaiseEpoch { above } => self.raise_epoch(*above),
            Change::Distress { member, level, reason } => self.distress(*member, *level, reason),
            Change::Mirror { volume, by, change } => self.change_mirror(*volume, *by, *change),
            Change::Reservation { volume, command } => self.reserve(id.node, *volume, *command),
            Change::Erased { region, by } => self.erased(*region, *by),
            Change::Depart { member, changes } => self.depart(*member, changes),
            Change::Clear { node } => self.clear(*node),
            Change::CreateToken(token) => self.create_token(token),
            Change::RevokeToken(hash) => self.revoke_token(*hash),
            Change::Join { token, nonce, unix_ms, changes } => self.join(*token, *nonce, *unix_ms, changes),
        }
    }

    /// Keeps what changed for those who watch, and the revisions of the rows.
    fn note(&mut self, cause: Cause, changes: Vec<RowEvent>, weight: usize) -> Option<Arc<Event>> {
        if changes.is_empty() {
            return None;
        }
        for change in &changes {
            match change.after {
                Some(_) => self.revisions.insert(change.key.clone(), self.index + 1),
                None => self.revisions.remove(&change.key),
            };
        }
        let event = Arc::new(Event { index: self.index, number: self.number, cause, changes });
        self.events.add(event.clone(), weight);
        Some(event)
    }

    // --- numbers ---

    /// This command changes the configuration: the number is its index.
    pub(super) fn raise_number(&mut self) -> Epoch {
        self.number = Epoch(self.base + self.index);
        self.number
    }

    /// What is kept of a virtual disk beside its row.
    pub fn volume(&self, volume: VolumeId) -> VolumeState {
        self.volumes.get(&volume).copied().unwrap_or_default()
    }

    pub(super) fn volume_changed(&mut self, volume: VolumeId, number: Epoch) {
        Arc::make_mut(&mut self.volumes).entry(volume).or_default().changed = number;
    }

    pub(super) fn suspend_volume(&mut self, volume: VolumeId, by: Option<ReconfigurationId>) {
        // One that is gone stands still no more.
        if self.rows.virtual_disk(volume).is_some() {
            Arc::make_mut(&mut self.volumes).entry(volume).or_default().suspended_by = by;
        } else {
            self.forget_volume(volume);
        }
    }

    pub(super) fn forget_volume(&mut self, volume: VolumeId) {
        Arc::make_mut(&mut self.volumes).remove(&volume);
    }

    // --- looking ---

    /// Log index of the last command that was applied.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The configuration number; equal on all nodes that have applied the same.
    pub fn number(&self) -> Epoch {
        self.number
    }

    /// The configured rows. Whoever keeps them while a command is applied costs a copy of them.
    pub fn rows(&self) -> &Arc<ClusterRows> {
        &self.rows
    }

    /// Who is a member.
    pub fn membership(&self) -> &MembershipRow {
        &self.membership
    }

    /// Why a node stays out, if it does.
    pub fn tombstone(&self, node: NodeId) -> Option<&Tombstone> {
        self.tombstones.get(&node)
    }

    /// All tombstones, by node.
    pub fn tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.tombstones.values()
    }

    /// Invitations, the last used ones too.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenRow> {
        self.tokens.values()
    }

    /// Reservations, by virtual disk, of all that ever had any.
    pub fn reservations(&self) -> impl Iterator<Item = &ReservationRow> {
        self.reservations.values()
    }

    /// Reconfigurations under way and the last ones that were, by id.
    pub fn reconfigurations(&self) -> impl Iterator<Item = &Reconfiguration> {
        self.reconfigurations.values()
    }

    /// A reconfiguration.
    pub fn reconfiguration(&self, id: ReconfigurationId) -> Option<&Reconfiguration> {
        self.reconfigurations.get(&id)
    }

    /// How a table is changed.
    pub fn format(&self, table: Table) -> &FormatRow {
        &self.formats[&table]
    }

    /// Any row.
    pub fn row(&self, key: &RowKey) -> Option<Row> {
        match key {
            RowKey::Format(table) => self.formats.get(table).cloned().map(Row::Format),
            RowKey::Membership => Some(Row::Membership(self.membership.clone())),
            RowKey::Reconfiguration(id) => self.reconfigurations.get(id).cloned().map(Row::Reconfiguration),
            RowKey::Tombstone(node) => self.tombstones.get(node).cloned().map(Row::Tombstone),
            RowKey::Token(hash) => self.tokens.get(hash).cloned().map(Row::Token),
            RowKey::Reservation(volume) => self.reservations.get(volume).cloned().map(Row::Reservation),
            configured => self.rows.row(configured),
        }
    }

    /// What [`Expect::Row`] compares: 1 for a row that the cluster was founded with, one more than the log
    /// index of its last change for any other, 0 for none.
    pub fn revision(&self, key: &RowKey) -> u64 {
        let known = self.revisions.get(key).copied();
        known.unwrap_or_else(|| u64::from(self.row(key).is_some()))
    }

    /// The last life in which a node was known: as a member, as departed, or by its tombstone.
    pub fn last_life(&self, node: NodeId) -> Option<Incarnation> {
        let lives = self.membership.members.iter().chain(&self.membership.departed);
        let lives = lives.chain(self.tombstones.get(&node).map(|stone| &stone.member));
        lives.filter(|member| member.node == node).map(|member| member.incarnation).max()
    }

    /// What nodes act on. Whoever keeps it while a command is applied costs a copy of the rows.
    pub fn view(&self) -> ClusterView {
        ClusterView {
            epoch: self.number,
            members: self.membership.members.clone(),
            broken: self.membership.broken.clone(),
            rows: self.rows.clone(),
            formed: self.membership.formed,
            volumes: self.volumes.clone(),
        }
    }

    /// Events after this log index, in order; a [`Gap`] if some of them are not kept any more, also after
    /// [`Database::restore`]: then one lists the rows and goes on from [`Database::index`].
    pub fn events_since(&self, index: u64) -> Result<impl Iterator<Item = &Arc<Event>>, Gap> {
        self.events.since(index)
    }
}
