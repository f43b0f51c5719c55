//! Changes of configured rows: all of them or none, each checked by the rules that a file is checked by.

use super::answer::Outcome;
use super::command::ROW_CHANGES_MAX;
use super::database::{Database, Done};
use super::event::{Cause, RowEvent};
use super::format::FormatRow;
use super::reconfiguration::ReconfigurationId;
use super::refusal::Refusal;
use super::row::{Row, RowChange, RowKey, Table};
use super::token::{TOKENS_MAX, TokenHash, TokenRow, TokenUse};
use crate::protocol_rules::ProtocolRules;
use crate::rows::Shape;
use crate::rules::{self, RowFault};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use blockdev_proto::geometry::VolumeId;
use transport_proto::identity::{Epoch, NodeId};

/// Row changes that are in their places and checked, and can still be undone.
pub(super) struct Staged {
    changes: Vec<RowEvent>,
}

/// What of a virtual disk's mapping a change of this row touches.
fn is_mapped(before: &Option<Row>, after: &Option<Row>) -> bool {
    match (before, after) {
        (Some(Row::VirtualDisk(old)), Some(Row::VirtualDisk(new))) => {
            (&old.candidates, old.size_bytes, old.block_bytes, old.read_only)
                != (&new.candidates, new.size_bytes, new.block_bytes, new.read_only)
        }
        (Some(Row::Disk(old)), Some(Row::Disk(new))) => {
            // A port more disturbs nobody.
            old.kind != new.kind || old.ports.iter().any(|port| !new.ports.contains(port))
        }
        (Some(Row::VirtualDisk(_) | Row::Disk(_)), None) => true,
        _ => false,
    }
}

impl<R: ProtocolRules> Database<R> {
    /// Changes rows at once.
    pub(super) fn change_rows(&mut self, asked_at: NodeId, changes: &[RowChange]) -> Result<Done, Refusal> {
        let staged = self.stage(changes, None)?;
        let needs = staged.changes.iter().find(|change| self.is_synchronised(change));
        if let Some(key) = needs.map(|change| change.key.clone()) {
            self.undo(staged);
            return Err(Refusal::NeedsReconfiguration { key });
        }
        let changes = self.take_over_at_once(staged);
        Ok(Done { outcome: Outcome::default(), cause: Cause::Asked(asked_at), changes })
    }

    /// Whether changes could be made, and what stands still for them: nothing stays changed.
    pub(super) fn try_changes(&mut self, changes: &[RowChange]) -> Result<(Vec<VolumeId>, bool), Refusal> {
        let staged = self.stage(changes, None)?;
        let mut volumes: BTreeSet<VolumeId> = BTreeSet::new();
        let mut synchronised = false;
        for change in &staged.changes {
            if self.is_synchronised(change) {
                synchronised = true;
                volumes.extend(self.volumes_of(&change.key));
            }
        }
        self.undo(staged);
        // Of those there were before: a new one has no client yet.
        volumes.retain(|volume| self.rows.virtual_disk(*volume).is_some());
        for &volume in &volumes {
            if let Some(by) = self.volume(volume).suspended_by {
                return Err(Refusal::Busy { key: RowKey::VirtualDisk(volume), by });
            }
        }
        Ok((volumes.into_iter().collect(), synchronised))
    }

    fn is_synchronised(&self, change: &RowEvent) -> bool {
        let table = change.key.table();
        let mapped = match table {
            Table::Disks | Table::VirtualDisks => is_mapped(&change.before, &change.after),
            _ => change.before.is_some(),
        };
        let used = table != Table::Disks || !self.volumes_of(&change.key).is_empty();
        let format = self.formats.get(&table);
        mapped && used && format.is_some_and(FormatRow::is_synchronised)
    }

    /// Virtual disks whose mapping a row is part of.
    fn volumes_of(&self, key: &RowKey) -> Vec<VolumeId> {
        match key {
            RowKey::VirtualDisk(volume) => Vec::from([*volume]),
            RowKey::Disk(disk) => {
                let uses = self.rows.virtual_disks.iter();
                let uses = uses.filter(|row| row.candidates.iter().any(|(_, used)| used == disk));
                uses.map(|row| row.id).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Puts changes into their places and checks the whole. On a refusal everything is as before.
    pub(super) fn stage(
        &mut self,
        changes: &[RowChange],
        within: Option<ReconfigurationId>,
    ) -> Result<Staged, Refusal> {
        if changes.is_empty() {
            return Err(Refusal::NothingToChange);
        }
        if changes.len() > ROW_CHANGES_MAX {
            return Err(Refusal::TooManyChanges { found: changes.len(), most: ROW_CHANGES_MAX });
        }
        let mut keys: BTreeSet<RowKey> = BTreeSet::new();
        for change in changes {
            if !keys.insert(change.key()) {
                return Err(Refusal::TwiceInOne { key: change.key() });
            }
            self.check_change(change, within)?;
        }
        let mut staged = Staged { changes: Vec::new() };
        for change in changes {
            let before = self.put_or_remove(change);
            let after = match change {
                RowChange::Put(row) => Some(row.clone()),
                RowChange::Remove(_) => None,
            };
            staged.changes.push(RowEvent { key: change.key(), before, after });
        }
        match self.check_staged(&staged) {
            Ok(()) => Ok(staged),
            Err(refusal) => {
                self.undo(staged);
                Err(refusal)
            }
        }
    }

    fn put_or_remove(&mut self, change: &RowChange) -> Option<Row> {
        match change {
            RowChange::Put(Row::Format(row)) => self.formats.insert(row.table, row.clone()).map(Row::Format),
            RowChange::Put(row) => Arc::make_mut(&mut self.rows).put(row.clone()),
            RowChange::Remove(key) => Arc::make_mut(&mut self.rows).remove(key),
        }
    }

    /// What is wrong with one change by itself.
    fn check_change(&self, change: &RowChange, within: Option<ReconfigurationId>) -> Result<(), Refusal> {
        let key = change.key();
        let by_hand = match (&key, change) {
            (RowKey::Settings | RowKey::Format(_), RowChange::Remove(_)) => false,
            _ => matches!(
                key.table(),
                Table::Nodes
                    | Table::Links
                    | Table::Disks
                    | Table::VirtualDisks
                    | Table::Volumes
                    | Table::Permissions
                    | Table::Regions
                    | Table::Loans
                    | Table::Nbd
                    | Table::Settings
                    | Table::Formats
            ),
        };
        if !by_hand {
            return Err(Refusal::NotByHand { key });
        }
        let busy = self.live_reconfigurations().filter(|row| Some(row.id) != within);
        let busy = busy.filter(|row| {
            let about = |volume: &VolumeId| key == RowKey::VirtualDisk(*volume);
            row.changes.iter().any(|other| other.key() == key) || row.volumes.iter().any(about)
        });
        if let Some(by) = busy.map(|row| row.id).next() {
            return Err(Refusal::Busy { key, by });
        }
        match change {
            RowChange::Remove(key) => self.check_removal(key),
            RowChange::Put(row) => self.check_put(row),
        }
    }

    fn check_removal(&self, key: &RowKey) -> Result<(), Refusal> {
        if self.rows.row(key).is_none() {
            return Err(Refusal::NoSuchRow { key: key.clone() });
        }
        match key {
            RowKey::Region(_) | RowKey::Loan(_) => self.check_pool_removal(key),
            RowKey::Node(node) if self.membership.members.iter().any(|member| member.node == *node) => {
                Err(Refusal::IsMember { node: *node })
            }
            _ => Ok(()),
        }
    }

    fn check_put(&self, row: &Row) -> Result<(), Refusal> {
        match row {
            Row::Settings(row) if row.name != self.rows.name => {
                Err(Refusal::NameFixed { name: self.rows.name.clone() })
            }
            Row::Format(row) if row.version != row.table.version() => {
                let (table, found, known) = (row.table, row.version, row.table.version());
                Err(Refusal::FormatVersion { table, found, known })
            }
            Row::Volume(row) => self.check_volume(row),
            Row::Region(row) => self.check_region_put(row),
            Row::Loan(row) => self.check_loan_put(row),
            Row::Disk(row) => self.check_lent_disk(row),
            Row::VirtualDisk(row) => match self.rows.virtual_disk(row.id) {
                Some(known) if row.size_bytes < known.size_bytes => Err(Refusal::Shrinks {
                    name: known.name.clone(),
                    size_bytes: known.size_bytes,
                    wanted_bytes: row.size_bytes,
                }),
                Some(known) if row.size_bytes != known.size_bytes && self.is_mirror(row.id) => {
                    Err(Refusal::MirrorSize { name: known.name.clone() })
                }
                Some(known) if row.size_bytes != known.size_bytes && self.others_follow(row.id) => {
                    Err(Refusal::PartSize { name: known.name.clone() })
                }
                Some(known) if row.block_bytes != known.block_bytes => {
                    Err(Refusal::BlockFixed { name: known.name.clone() })
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn is_mirror(&self, volume: VolumeId) -> bool {
        self.rows.volume(volume).is_some_and(|row| row.mirror().is_some())
    }

    /// Whether it is a part of a concatenation and others come after it, whose bytes would move with its end.
    fn others_follow(&self, part: VolumeId) -> bool {
        let whole = self.rows.whole_of(part).map(|row| &row.shape);
        matches!(whole, Some(Shape::Concatenation(parts)) if parts.last() != Some(&part))
    }

    /// What is wrong with the rows as they are now, as far as these changes can have made it so.
    fn check_staged(&self, staged: &Staged) -> Result<(), Refusal> {
        let rows = &*self.rows;
        let mut faults = Vec::new();
        for change in &staged.changes {
            if let Some(row) = &change.after {
                rules::check_row(rows, row, &mut faults);
                first(&change.key, &mut faults)?;
            }
            for row in rules::touched_by(rows, &change.key) {
                rules::check_row(rows, &row, &mut faults);
                if let Some(fault) = faults.drain(..).next() {
                    let key = row.key();
                    let removed = change.after.is_none() && matches!(fault, RowFault::Dangling { .. });
                    return Err(match removed {
                        true => Refusal::InUse { key: change.key.clone(), by: key },
                        false => Refusal::Row { key, fault: Box::new(fault) },
                    });
                }
            }
        }
        let joins = |change: &RowEvent| matches!(change.key.table(), Table::Nodes | Table::Links);
        if let Some(change) = staged.changes.iter().find(|change| joins(change)) {
            rules::check_whole(rows, &mut faults);
            first(&change.key, &mut faults)?;
        }
        Ok(())
    }

    fn undo(&mut self, staged: Staged) {
        for change in staged.changes.into_iter().rev() {
            let back = match change.before {
                Some(row) => RowChange::Put(row),
                None => RowChange::Remove(change.key),
            };
            self.put_or_remove(&back);
        }
    }

    /// Keeps what was staged, with a new number if it is one of the configuration.
    pub(super) fn take_over_at_once(&mut self, staged: Staged) -> Vec<RowEvent> {
        let configures = |change: &RowEvent| {
            change.before != change.after
                && !matches!(
                    change.key.table(),
                    Table::Permissions
                        | Table::Nbd
                        | Table::Formats
                        | Table::Volumes
                        | Table::Regions
                        | Table::Loans
                )
        };
        let number = if staged.changes.iter().any(configures) { self.raise_number() } else { self.number };
        self.take_over(staged, number)
    }

    /// Keeps what was staged; mappings that it touches get the number.
    pub(super) fn take_over(&mut self, staged: Staged, number: Epoch) -> Vec<RowEvent> {
        let mut changes = staged.changes;
        changes.retain(|change| change.before != change.after);
        let mut forgotten = Vec::new();
        for change in &changes {
            match (&change.key, &change.after) {
                (RowKey::VirtualDisk(volume), None) => {
                    self.forget_volume(*volume);
                    forgotten.extend(self.forget_reservations(*volume));
                }
                (RowKey::Node(node), None) => {
                    self.sessions.forget_answers(*node);
                    self.tombstones.remove(node);
                    // Whoever was this node gets no key any more.
                    self.tokens.retain(|_, token| token.used.is_none_or(|used| used.node != *node));
                    forgotten.extend(self.forget_host(*node));
                }
                (RowKey::VirtualDisk(volume), Some(_))
                    if change.before.is_none() || is_mapped(&change.before, &change.after) =>
                {
                    self.volume_changed(*volume, number);
                }
                (RowKey::Disk(_), Some(_)) if is_mapped(&change.before, &change.after) => {
                    for volume in self.volumes_of(&change.key) {
                        self.volume_changed(volume, number);
                    }
                }
                _ => {}
            }
        }
        changes.append(&mut forgotten);
        changes
    }

    // --- invitations ---

    pub(super) fn create_token(&mut self, token: &TokenRow) -> Result<Done, Refusal> {
        if self.tokens.contains_key(&token.hash) {
            return Err(Refusal::TokenTaken { token: token.hash });
        }
        // One that is over by its index makes room; one that is over by the clock, nobody here can tell.
        let index = self.index;
        self.tokens.retain(|_, token| token.expires_index == 0 || token.expires_index >= index);
        let used = self.tokens.values().filter(|token| token.used.is_some());
        let oldest = used.min_by_key(|token| token.expires_unix_ms).map(|token| token.hash);
        if let Some(oldest) = oldest.filter(|_| self.tokens.len() >= TOKENS_MAX) {
            self.tokens.remove(&oldest);
        }
        if self.tokens.len() >= TOKENS_MAX {
            return Err(Refusal::TooManyTokens { most: TOKENS_MAX });
        }
        self.tokens.insert(token.hash, token.clone());
        let (key, after) = (RowKey::Token(token.hash), Some(Row::Token(token.clone())));
        let changes = Vec::from([RowEvent { key, before: None, after }]);
        Ok(Done { outcome: Outcome::default(), cause: Cause::Invited, changes })
    }

    pub(super) fn revoke_token(&mut self, hash: TokenHash) -> Result<Done, Refusal> {
        let token = self.tokens.remove(&hash).ok_or(Refusal::NoToken)?;
        let (key, before) = (RowKey::Token(hash), Some(Row::Token(token)));
        let changes = Vec::from([RowEvent { key, before, after: None }]);
        Ok(Done { outcome: Outcome::default(), cause: Cause::Invited, changes })
    }

    pub(super) fn join(
        &mut self,
        hash: TokenHash,
        nonce: [u8; 16],
        unix_ms: u64,
        changes: &[RowChange],
    ) -> Result<Done, Refusal> {
        let token = self.tokens.get(&hash).cloned().ok_or(Refusal::NoToken)?;
        match token.used {
            Some(used) if used.nonce == nonce => return Ok(Done::nothing()),
            Some(used) => return Err(Refusal::TokenUsed { node: used.node }),
            None => {}
        }
        let late = token.expires_unix_ms != 0 && unix_ms > token.expires_unix_ms;
        if late || (token.expires_index != 0 && self.index > token.expires_index) {
            return Err(Refusal::TokenExpired);
        }
        let added = changes.iter().filter_map(|change| match change {
            RowChange::Put(Row::Node(row)) => Some(row.id),
            _ => None,
        });
        let added: Vec<NodeId> = added.collect();
        let [node] = added[..] else { return Err(Refusal::JoinAddsNoNode) };
        if self.rows.node(node).is_some() {
            return Err(Refusal::JoinAddsNoNode);
        }
        if let Some(meant) = token.node.filter(|meant| *meant != node) {
            return Err(Refusal::TokenOfOther { node: meant });
        }
        let mut done = self.change_rows(node, changes)?;
        let (key, before) = (RowKey::Token(hash), Some(Row::Token(token.clone())));
        let used = TokenRow { used: Some(TokenUse { node, nonce }), ..token };
        self.tokens.insert(hash, used.clone());
        done.changes.push(RowEvent { key, before, after: Some(Row::Token(used)) });
        done.cause = Cause::Joined(node);
        Ok(done)
    }
}

fn first(key: &RowKey, faults: &mut Vec<RowFault>) -> Result<(), Refusal> {
    match faults.drain(..).next() {
        Some(fault) => Err(Refusal::Row { key: key.clone(), fault: Box::new(fault) }),
        None => Ok(()),
    }
}
