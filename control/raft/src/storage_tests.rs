//! openraft's own storage suite over our log and machine; what reaches the disk, and in which order; what
//! becomes of files that are damaged or not ours.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite, log_id};
use openraft::{EntryPayload, RaftLogReader, Vote};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::sync::watch;
use transport_proto::identity::NodeId;

use crate::codec::{self, Reader};
use crate::fault::StartFault;
use crate::flavour::{Command, Entry, Flavour, StorageError};
use crate::journal::{self, Journal};
use crate::log_store::LogStore;
use crate::machine_store::MachineStore;
use crate::options::ClusterStamp;
use crate::shelf::{Batch, Contents, Shelf, ShelfFault};
use crate::snapshot_file::SnapshotFile;
use crate::{Machine, RestoreFault};

const STAMP: ClusterStamp = ClusterStamp { cluster: 11, genesis: [5; 32] };
const NODE: NodeId = NodeId(1);

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("control-raft-unit-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn open(&self) -> Result<(Journal, Contents), StartFault> {
        Journal::open(&self.0, STAMP, NODE)
    }

    fn log(&self) -> LogStore {
        let (shelf, contents) = self.open().unwrap();
        LogStore::new(shelf, contents)
    }

    /// The bytes of a record appended to this file, which ends there.
    fn log_after(&self, file: &[u8], end: usize) -> Vec<u8> {
        fs::write(self.file(), file).unwrap();
        run(async { self.log().save_vote(&Vote::new(9, 1)).await.unwrap() });
        let mut bytes = fs::read(self.file()).unwrap().split_off(end);
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
        bytes
    }

    fn file(&self) -> PathBuf {
        self.0.join(journal::FILE)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Counts commands.
#[derive(Default)]
struct Counter(u64);

impl Machine for Counter {
    fn apply(&mut self, _index: u64, _command: &[u8]) -> Vec<u8> {
        self.0 += 1;
        Vec::new()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn restore(&mut self, _index: u64, bytes: &[u8]) -> Result<(), RestoreFault> {
        let bytes = bytes.try_into().map_err(|_| RestoreFault { why: "eight bytes are expected".into() })?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<Flavour, LogStore, MachineStore<Counter>, Scratch> for Builder {
    async fn build(&self) -> Result<(Scratch, LogStore, MachineStore<Counter>), StorageError> {
        let scratch = Scratch::new();
        let log = scratch.log();
        let file = SnapshotFile::new(&scratch.0, STAMP);
        let machine = MachineStore::open(Counter::default(), file, log.clone(), watch::channel(0).0).unwrap();
        Ok((scratch, log, machine))
    }
}

// proves: C1
#[test]
fn openrafts_storage_suite_passes() {
    Suite::test_all(Builder).unwrap();
}

fn entry(term: u64, index: u64) -> Entry {
    let payload = EntryPayload::Normal(Command(Arc::from(index.to_le_bytes())));
    Entry { log_id: log_id(term, 1, index), payload }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

async fn indexes(log: &mut LogStore) -> Vec<u64> {
    log.try_get_log_entries(..).await.unwrap().iter().map(|entry| entry.log_id.index).collect()
}

#[test]
fn everything_is_there_again_after_reopening() {
    let scratch = Scratch::new();
    run(async {
        let mut log = scratch.log();
        log.blocking_append((0..20).map(|index| entry(1, index))).await.unwrap();
        log.truncate(log_id(1, 1, 15)).await.unwrap();
        log.blocking_append([entry(2, 15), entry(2, 16)]).await.unwrap();
        log.purge(log_id(1, 1, 4)).await.unwrap();
        log.save_committed(Some(log_id(1, 1, 12))).await.unwrap();
        log.save_vote(&Vote::new_committed(2, 1)).await.unwrap();
    });
    run(async {
        let mut log = scratch.log();
        assert_eq!(indexes(&mut log).await, (5..17).collect::<Vec<_>>());
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(2, 1)));
        assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 1, 12)));
        let state = log.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, Some(log_id(1, 1, 4)));
        assert_eq!(state.last_log_id, Some(log_id(2, 1, 16)));
    });
}

/// What was kept, batch by batch.
#[derive(Clone, Default)]
struct Watched {
    batches: Arc<Mutex<Vec<Vec<u64>>>>,
    votes: Arc<Mutex<Vec<u64>>>,
    full: Arc<std::sync::atomic::AtomicBool>,
}

impl Shelf for Watched {
    fn keep(&mut self, batch: &Batch) -> Result<(), ShelfFault> {
        if self.full.load(Ordering::Relaxed) {
            return Err(ShelfFault { path: "x".into(), why: "No space left on device".into() });
        }
        let index = |entry: &Vec<u8>| codec::entry(&mut Reader::new(entry)).unwrap().log_id.index;
        self.batches.lock().push(batch.entries.iter().map(index).collect());
        self.votes.lock().extend(batch.vote.map(|vote| vote.leader_id.term));
        Ok(())
    }
}

#[test]
fn what_is_appended_together_is_kept_in_one_batch() {
    let watched = Watched::default();
    let mut log = LogStore::new(watched.clone(), Contents::default());
    run(async {
        for index in 0..100 {
            log.blocking_append([entry(1, index)]).await.unwrap();
        }
        assert!(watched.batches.lock().is_empty(), "nothing waited for the disk yet");
        log.settle().await.unwrap();
        log.settle().await.unwrap();
    });
    assert_eq!(*watched.batches.lock(), [(0..100).collect::<Vec<_>>()]);
}

#[test]
fn a_vote_is_durable_before_it_is_told_and_takes_the_entries_before_it_along() {
    let watched = Watched::default();
    let mut log = LogStore::new(watched.clone(), Contents::default());
    run(async {
        log.blocking_append([entry(1, 0)]).await.unwrap();
        log.save_vote(&Vote::new(7, 1)).await.unwrap();
    });
    assert_eq!(*watched.batches.lock(), [vec![0]]);
    assert_eq!(*watched.votes.lock(), [7]);
}

#[test]
fn nothing_is_applied_or_told_to_be_committed_before_it_is_durable() {
    let watched = Watched::default();
    let mut log = LogStore::new(watched.clone(), Contents::default());
    let scratch = Scratch::new();
    let file = SnapshotFile::new(&scratch.0, STAMP);
    let mut machine = MachineStore::open(Counter::default(), file, log.clone(), watch::channel(0).0).unwrap();
    run(async {
        log.blocking_append([entry(1, 0)]).await.unwrap();
        log.settle().await.unwrap();
        log.blocking_append([entry(1, 1), entry(1, 2)]).await.unwrap();
        assert_eq!(log.durable_part(Some(log_id(1, 1, 2))), Some(log_id(1, 1, 0)));
        assert_eq!(log.durable_part(Some(log_id(1, 1, 0))), Some(log_id(1, 1, 0)));
        machine.apply([entry(1, 0)]).await.unwrap();
        assert_eq!(watched.batches.lock().len(), 1, "entry 0 was durable already");
        machine.apply([entry(1, 1)]).await.unwrap();
        assert_eq!(*watched.batches.lock(), [vec![0], vec![1, 2]]);
        assert_eq!(log.durable_part(Some(log_id(1, 1, 2))), Some(log_id(1, 1, 2)));
    });
}

#[test]
fn after_a_failed_write_nothing_is_taken_any_more() {
    let watched = Watched::default();
    let mut log = LogStore::new(watched.clone(), Contents::default());
    let scratch = Scratch::new();
    let file = SnapshotFile::new(&scratch.0, STAMP);
    let mut machine = MachineStore::open(Counter::default(), file, log.clone(), watch::channel(0).0).unwrap();
    run(async {
        log.blocking_append([entry(1, 0)]).await.unwrap();
        watched.full.store(true, Ordering::Relaxed);
        assert!(log.settle().await.is_err());
        watched.full.store(false, Ordering::Relaxed);
        assert!(log.settle().await.is_err(), "who comes later is not told that all is well");
        assert!(machine.apply([entry(1, 0)]).await.is_err());
        assert_eq!(log.durable_part(Some(log_id(1, 1, 0))), None);
        assert!(log.blocking_append([entry(1, 1)]).await.is_err());
        assert!(log.save_vote(&Vote::new(9, 1)).await.is_err());
        assert!(log.keep_flushing().await.to_string().contains("No space left"));
    });
    assert!(watched.batches.lock().is_empty() && watched.votes.lock().is_empty());
}

fn refused(folder: &Path, stamp: ClusterStamp, node: NodeId) -> StartFault {
    let before = fs::read(folder.join(journal::FILE)).unwrap();
    let Err(fault) = Journal::open(folder, stamp, node) else { panic!("refused") };
    let after = fs::read(folder.join(journal::FILE)).unwrap();
    assert!(before == after, "a refused file is left as it is: {fault}");
    fault
}

#[test]
fn a_log_of_another_cluster_or_node_is_refused() {
    let scratch = Scratch::new();
    drop(scratch.open().unwrap());
    let other_cluster = ClusterStamp { cluster: 12, ..STAMP };
    let other_genesis = ClusterStamp { genesis: [6; 32], ..STAMP };
    for stamp in [other_cluster, other_genesis] {
        let Err(fault) = Journal::open(&scratch.0, stamp, NODE) else { panic!("refused") };
        assert!(matches!(fault, StartFault::OtherCluster { .. }), "{fault}");
    }
    let Err(fault) = Journal::open(&scratch.0, STAMP, NodeId(2)) else { panic!("refused") };
    assert!(matches!(fault, StartFault::OtherNode { owner: NODE, .. }), "{fault}");
    assert!(scratch.open().is_ok(), "and nothing has become of it");
}

#[test]
fn a_log_in_use_is_refused() {
    let scratch = Scratch::new();
    let open = scratch.open().unwrap();
    let Err(fault) = scratch.open() else { panic!("refused") };
    assert!(matches!(fault, StartFault::InUse { .. }), "{fault}");
    drop(open);
}

#[test]
fn a_foreign_or_empty_file_is_refused_and_left_alone() {
    for bytes in [&b""[..], b"hello", &[0; 8192]] {
        let scratch = Scratch::new();
        fs::write(scratch.file(), bytes).unwrap();
        let fault = refused(&scratch.0, STAMP, NODE);
        assert!(matches!(fault, StartFault::Foreign { .. }), "{fault}");
    }
}

/// A log of a hundred entries, closed in order.
fn filled() -> Scratch {
    let scratch = Scratch::new();
    run(async {
        let mut log = scratch.log();
        log.blocking_append((0..100).map(|index| entry(1, index))).await.unwrap();
        log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    });
    scratch
}

/// Places in a file, and what is done to the bytes there.
fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is changed in a file: it is refused, or everything in it is as it was. Never a panic.
    #[test]
    fn a_damaged_log_is_refused_or_whole(places in changes()) {
        let scratch = filled();
        let mut bytes = fs::read(scratch.file()).unwrap();
        for (place, change) in places {
            let place = place.index(bytes.len());
            bytes[place] ^= change;
        }
        fs::write(scratch.file(), &bytes).unwrap();
        if let Ok((shelf, contents)) = scratch.open() {
            let found: Vec<Entry> = contents.entries.iter().cloned().collect();
            let expected: Vec<Entry> = (0..100).map(|index| entry(1, index)).collect();
            prop_assert!(found == expected);
            prop_assert_eq!(contents.vote, Some(Vote::new_committed(1, 1)));
            drop(shelf);
        }
    }

    /// A file cut short is refused, unless nothing but room in advance was cut.
    #[test]
    fn a_log_cut_short_is_refused(kept in 0.0_f64..0.02) {
        let scratch = filled();
        let bytes = fs::read(scratch.file()).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let kept = (bytes.len() as f64 * kept) as usize;
        fs::write(scratch.file(), &bytes[..kept]).unwrap();
        match scratch.open() {
            Ok((_, contents)) => prop_assert!(kept >= used && contents.entries.len() == 100),
            Err(_) => prop_assert_eq!(fs::read(scratch.file()).unwrap(), &bytes[..kept]),
        }
    }

    /// A power cut leaves any of the last record's sectors unwritten. What was durable before is there, and
    /// the log goes on; a record in the middle that looks so is damage.
    #[test]
    fn a_record_that_a_power_cut_left_unfinished_is_dropped(
        unwritten in proptest::collection::vec(any::<bool>(), 8),
    ) {
        let scratch = filled();
        let before = fs::read(scratch.file()).unwrap();
        let begin = before.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        run(async {
            let mut log = scratch.log();
            log.blocking_append((100..150).map(|index| entry(1, index))).await.unwrap();
            log.settle().await.unwrap();
        });
        let whole = fs::read(scratch.file()).unwrap();
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let mut bytes = whole.clone();
        let mut cut = false;
        for (sector, unwritten) in (begin / 512..).zip(unwritten) {
            let part = begin.max(sector * 512)..end.min((sector + 1) * 512);
            if unwritten && part.start < part.end {
                bytes[part].fill(0);
                cut = true;
            }
        }
        fs::write(scratch.file(), &bytes).unwrap();
        run(async {
            let mut log = scratch.log();
            let found = indexes(&mut log).await.len();
            assert_eq!(found, if cut { 100 } else { 150 });
            let next = found as u64;
            log.blocking_append([entry(2, next)]).await.unwrap();
            log.settle().await.unwrap();
        });
        let expected = if cut { 101 } else { 151 };
        prop_assert_eq!(run(async { indexes(&mut scratch.log()).await.len() }), expected);
        if cut {
            // The same with a record behind it.
            let mut later = Scratch::new().log_after(&whole, end);
            bytes[end..end + later.len()].swap_with_slice(&mut later);
            fs::write(scratch.file(), &bytes).unwrap();
            refused(&scratch.0, STAMP, NODE);
        }
    }

    #[test]
    fn a_damaged_snapshot_is_refused(place in any::<prop::sample::Index>(), change in 1_u8..) {
        let scratch = Scratch::new();
        let file = SnapshotFile::new(&scratch.0, STAMP);
        let meta = crate::flavour::SnapshotMeta { last_log_id: Some(log_id(1, 1, 9)), ..Default::default() };
        file.replace(&meta, b"the state of the machine").unwrap();
        prop_assert_eq!(file.read().unwrap().unwrap().meta, meta);
        let mut bytes = fs::read(file.path()).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= change;
        fs::write(file.path(), &bytes).unwrap();
        prop_assert!(file.read().is_err());
        prop_assert_eq!(fs::read(file.path()).unwrap(), bytes);
    }
}

#[test]
fn a_file_that_is_mostly_void_is_written_anew() {
    let scratch = Scratch::new();
    let large = |index| Entry {
        log_id: log_id(1, 1, index),
        payload: EntryPayload::Normal(Command(Arc::from(vec![index as u8; 200 << 10]))),
    };
    run(async {
        let mut log = scratch.log();
        log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        for index in 0..100 {
            log.blocking_append([large(index)]).await.unwrap();
            log.settle().await.unwrap();
            if index % 10 == 9 {
                log.purge(log_id(1, 1, index - 2)).await.unwrap();
            }
        }
        assert!(fs::metadata(scratch.file()).unwrap().len() < 12 << 20);
    });
    run(async {
        let mut log = scratch.log();
        assert_eq!(indexes(&mut log).await, (88..100).collect::<Vec<_>>());
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(1, 1)));
    });
}

#[test]
fn an_other_format_is_refused_with_both_versions() {
    let scratch = Scratch::new();
    let file = SnapshotFile::new(&scratch.0, STAMP);
    file.replace(&crate::flavour::SnapshotMeta::default(), b"").unwrap();
    let mut bytes = fs::read(file.path()).unwrap();
    bytes[8] = 9;
    fs::write(file.path(), bytes).unwrap();
    let Err(fault) = file.read() else { panic!("refused") };
    assert!(matches!(fault, StartFault::OtherVersion { found: 9, known: 1, .. }), "{fault}");
    let names: BTreeSet<_> =
        fs::read_dir(&scratch.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "no half-written file is left: {names:?}");
}
