//! The machine as openraft uses it, and its snapshots.

use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::fault::StartFault;
use crate::flavour::{Entry, Flavour, LogId, Reply, Snapshot, SnapshotMeta, StorageError, StoredMembership};
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::snapshot_file::SnapshotFile;

/// The machine, up to which entry it has come, and where its snapshot stands.
pub(crate) struct MachineStore<M> {
    /// Locked by raft's thread alone; the lock makes the machine `Sync`, which openraft asks for.
    machine: Mutex<M>,
    applied: Option<LogId>,
    /// Tells those who wait for an index.
    applied_index: watch::Sender<u64>,
    membership: StoredMembership,
    log: LogStore,
    file: SnapshotFile,
    /// Makes the names of this life's snapshots differ.
    snapshots_built: u64,
}

impl<M: Machine> MachineStore<M> {
    /// Takes the machine up where its last snapshot left it.
    pub(crate) fn open(
        machine: M,
        file: SnapshotFile,
        log: LogStore,
        applied_index: watch::Sender<u64>,
    ) -> Result<MachineStore<M>, StartFault> {
        let mut store = MachineStore {
            machine: Mutex::new(machine),
            applied: None,
            applied_index,
            membership: StoredMembership::default(),
            log,
            file,
            snapshots_built: 0,
        };
        if let Some(snapshot) = store.file.read()? {
            let why = store.take_over(&snapshot.meta, &snapshot.snapshot);
            why.map_err(|fault| StartFault::Damaged { path: store.file.path(), why: fault.why })?;
        }
        Ok(store)
    }

    fn take_over(&mut self, meta: &SnapshotMeta, state: &[u8]) -> Result<(), crate::RestoreFault> {
        let index = meta.last_log_id.map_or(0, |last| last.index);
        self.machine.lock().restore(index, state)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.applied_index.send_replace(index);
        Ok(())
    }
}

/// A state to be written to the snapshot file.
pub(crate) struct SnapshotBuilder {
    meta: SnapshotMeta,
    state: Vec<u8>,
    file: SnapshotFile,
}

/// Files of several MiB are read and written beside raft's thread, so that heartbeats go on.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(work).await.map_err(|fault| StorageIOError::write(&fault).into())
}

impl RaftSnapshotBuilder<Flavour> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (meta, state, file) = (self.meta.clone(), std::mem::take(&mut self.state), self.file.clone());
        let (written, state) = beside(move || (file.replace(&meta, &state), state)).await?;
        written.map_err(|fault| StorageIOError::write_snapshot(Some(self.meta.signature()), &fault))?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(state) })
    }
}

impl<M: Machine> RaftStateMachine<Flavour> for MachineStore<M> {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Reply>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        if let Some(last) = entries.last() {
            self.log.settle_to(last.log_id.index).await?;
        }
        let mut machine = self.machine.lock();
        let mut replies = Vec::with_capacity(entries.len());
        for entry in entries {
            let index = entry.log_id.index;
            self.applied = Some(entry.log_id);
            let answer = match entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(command) => machine.apply(index, &command.0),
                EntryPayload::Membership(members) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), members);
                    Vec::new()
                }
            };
            replies.push(Reply { index, answer });
        }
        if let Some(last) = replies.last() {
            self.applied_index.send_replace(last.index);
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.snapshots_built += 1;
        let position = self.applied.map_or("nothing".into(), |last| last.to_string());
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{position}-{}", self.snapshots_built),
        };
        SnapshotBuilder { meta, state: self.machine.lock().snapshot(), file: self.file.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Vec<u8>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Vec<u8>>,
    ) -> Result<(), StorageError> {
        // What was cut off the log before must not come back after the snapshot has.
        self.log.settle().await?;
        self.take_over(meta, &snapshot)
            .map_err(|fault| StorageIOError::read_snapshot(Some(meta.signature()), &fault))?;
        let (described, file) = (meta.clone(), self.file.clone());
        let written = beside(move || file.replace(&described, &snapshot)).await?;
        written.map_err(|fault| StorageIOError::write_snapshot(Some(meta.signature()), &fault))?;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let file = self.file.clone();
        let read = beside(move || file.read()).await?;
        read.map_err(|fault| StorageIOError::read_snapshot(None, &fault).into())
    }
}
