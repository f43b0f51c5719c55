//! The lender's part in the pool (SPEC M4, M8): what is not free is overwritten with zeroes, and then said to
//! be free. One region at a time, on a thread of its own, slowly enough to leave the disk to its users.
//!
//! Nothing is kept of how far an erase is: one that a crash broke off begins anew. What is said of a region
//! is said of the revision of its row for which the erase began, so a late word frees nothing that was lent
//! since.

use crate::consensus::Asker;
use crate::node::Node;
use blockdev_store::{EraseFault, Erasure};
use control_proto::ccd::{Change, Database, Expect, RowKey};
use control_proto::pool::{RegionId, RegionRow, RegionState};
use control_proto::rows::ClusterRows;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use transport_proto::identity::NodeId;

/// Bytes that are erased in one go.
const STEP_BYTES: u64 = 4 << 20;
/// A step takes at least so long: 256 MiB a second at the most.
const STEP_TIME_MIN: Duration = Duration::from_millis(16);
/// What failed is tried again after this time; a proposal that came to nothing is made again.
const AGAIN: Duration = Duration::from_millis(500);

/// An erase under way.
struct Erase {
    region: RegionId,
    revision: u64,
    done_bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    ended: Receiver<Result<(), EraseFault>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Erase {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has said what it had to say.
            let _ = thread.join();
        }
    }
}

/// Erases the regions that this node lends.
#[derive(Default)]
pub(crate) struct Eraser {
    under_way: Option<Erase>,
    /// A region that is zero, and the revision of its row for which that was done.
    zero: Option<(RegionId, u64)>,
    /// Why regions could not be erased when it was last tried.
    faults: BTreeMap<RegionId, String>,
    /// The rows were looked through at this index of the log.
    seen_index: Option<u64>,
    again_at: Option<Instant>,
}

impl Eraser {
    /// How far the erase of a region is, bytes, or why it does not go on.
    pub(crate) fn progress(&self, region: RegionId) -> (Option<u64>, Option<&str>) {
        let erase = self.under_way.as_ref().filter(|erase| erase.region == region);
        let bytes = erase.map(|erase| erase.done_bytes.load(Ordering::Relaxed));
        (bytes, self.faults.get(&region).map(String::as_str))
    }

    /// Takes in what the thread has to say.
    fn take_end(&mut self) {
        let Some(erase) = &self.under_way else { return };
        let result = match erase.ended.try_recv() {
            Ok(result) => result,
            Err(TryRecvError::Empty) => return,
            // The thread ended without a word: begin anew.
            Err(TryRecvError::Disconnected) => {
                self.under_way = None;
                self.again_at = Some(Instant::now() + AGAIN);
                return;
            }
        };
        match result {
            Ok(()) => {
                tracing::info!(region = erase.region.0, "the region is zero");
                self.faults.remove(&erase.region);
                self.zero = Some((erase.region, erase.revision));
            }
            Err(fault) => {
                let text = fault.to_string();
                if self.faults.insert(erase.region, text.clone()).as_ref() != Some(&text) {
                    tracing::warn!(region = erase.region.0, "the region is not erased: {text}; trying again");
                }
                self.again_at = Some(Instant::now() + AGAIN);
            }
        }
        self.under_way = None;
    }

    /// A region that left the pool, or whose row is another now, is not erased any more.
    fn stop_if_void(&self, database: &Database) {
        if let Some(erase) = &self.under_way
            && database.revision(&RowKey::Region(erase.region)) != erase.revision
        {
            erase.stop.store(true, Ordering::Relaxed);
        }
    }

    /// The next region to erase: one whose turn did not fail just now comes first.
    fn next<'r>(&self, rows: &'r ClusterRows, node: NodeId) -> Option<&'r RegionRow> {
        let mine = |row: &&RegionRow| row.lender == node && row.state == RegionState::Erasing;
        rows.regions.iter().filter(mine).min_by_key(|row| (self.faults.contains_key(&row.id), row.id))
    }

    fn begin(&mut self, database: &Database, row: &RegionRow, waker: Arc<mio::Waker>) {
        let rows = database.rows();
        let port = |disk| rows.disk(disk)?.port(row.lender).map(|port| PathBuf::from(&port.path));
        let paths: Vec<PathBuf> = row.extents.iter().filter_map(|extent| port(extent.disk)).collect();
        if paths.len() != row.extents.len() {
            return;
        }
        let (done_bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (say, ended) = sync_channel(1);
        let (counted, stopped) = (done_bytes.clone(), stop.clone());
        let run = move || {
            if let Some(result) = erase(&paths, &counted, &stopped) {
                // A node that stops listens no more.
                let _ = say.send(result);
            }
            let _ = waker.wake();
        };
        match std::thread::Builder::new().name("netdisk-erase".into()).spawn(run) {
            Ok(thread) => {
                tracing::info!(region = row.name, "erasing");
                self.under_way = Some(Erase {
                    region: row.id,
                    revision: database.revision(&RowKey::Region(row.id)),
                    done_bytes,
                    stop,
                    ended,
                    thread: Some(thread),
                });
            }
            Err(fault) => {
                tracing::error!("no thread to erase a region: {fault}");
                self.again_at = Some(Instant::now() + AGAIN);
            }
        }
    }
}

/// Zero, one disk after the other. `None`: it was stopped before all was zero.
fn erase(paths: &[PathBuf], done_bytes: &AtomicU64, stop: &AtomicBool) -> Option<Result<(), EraseFault>> {
    let mut before = 0;
    for path in paths {
        let mut erasure = match Erasure::open(path) {
            Ok(erasure) => erasure,
            Err(fault) => return Some(Err(fault)),
        };
        loop {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let begun = Instant::now();
            let is_zero = match erasure.step(STEP_BYTES) {
                Ok(is_zero) => is_zero,
                Err(fault) => return Some(Err(fault)),
            };
            done_bytes.store(before + erasure.done_bytes(), Ordering::Relaxed);
            if is_zero {
                break;
            }
            std::thread::sleep(STEP_TIME_MIN.saturating_sub(begun.elapsed()));
        }
        before += erasure.done_bytes();
    }
    Some(Ok(()))
}

impl Node {
    /// One look at the regions of this node.
    pub(crate) fn erase_regions(&mut self) {
        self.eraser.take_end();
        self.eraser.stop_if_void(self.replica.database());
        let index = self.replica.database().index();
        let is_due = self.eraser.again_at.is_some_and(|at| Instant::now() >= at);
        let is_news = self.eraser.seen_index != Some(index) || self.eraser.zero.is_some();
        if self.eraser.under_way.is_some() || !(is_due || is_news) || self.is_leaving() {
            return;
        }
        if self.eraser.zero.is_some() {
            return self.say_zero(is_due);
        }
        // While it waits to try again, news make it look only when it is due.
        if self.eraser.again_at.is_some() && !is_due {
            return;
        }
        (self.eraser.seen_index, self.eraser.again_at) = (Some(index), None);
        let me = self.me();
        let waker = self.waker();
        let database = self.replica.database();
        let rows = database.rows();
        self.eraser.faults.retain(|region, _| rows.region(*region).is_some());
        if let Some(row) = self.eraser.next(rows, me.node) {
            self.eraser.begin(database, row, waker);
        }
    }

    /// Proposes that a region is free, until its row says so or is another.
    fn say_zero(&mut self, is_due: bool) {
        let Some((region, revision)) = self.eraser.zero else { return };
        let by = self.me();
        let key = RowKey::Region(region);
        let database = self.replica.database();
        let is_open = database.rows().region(region).is_some_and(|row| row.state == RegionState::Erasing)
            && database.revision(&key) == revision;
        if !is_open {
            (self.eraser.zero, self.eraser.again_at, self.eraser.seen_index) = (None, None, None);
            return;
        }
        if self.eraser.again_at.is_some() && !is_due {
            return;
        }
        self.eraser.again_at = Some(Instant::now() + AGAIN);
        let clients = self.station.endpoint.clients();
        let asker = Asker::Region(region);
        let Some(consensus) = clients.consensus.as_mut().filter(|log| !log.has_open(asker)) else { return };
        let expect = vec![Expect::Row { key, revision }];
        // What is not taken now is proposed again.
        let _ = consensus.propose(asker, expect, Change::Erased { region, by });
    }
}
