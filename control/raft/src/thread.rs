//! Raft's thread: starts everything, takes orders, stops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::error::{InitializeError, RaftError};
use openraft::{Config, Raft, SnapshotPolicy};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use transport_proto::identity::{Incarnation, NodeId};

use crate::fault::StartFault;
use crate::flavour::Flavour;
use crate::handle::{Handle, IncomingBytes, Order, Outputs};
use crate::journal::{self, Journal};
use crate::leadership::{Follow, Leadership};
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::machine_store::MachineStore;
use crate::members;
use crate::network::Switchboard;
use crate::options::{INCOMING_MAX, REQUESTS_MAX, RaftOptions};
use crate::post::Post;
use crate::service::{self, Service};
use crate::snapshot_file::{self, SnapshotFile};
use crate::snapshot_intake::SnapshotIntake;
use crate::wire::{self, Message};

/// How long one piece of a snapshot may take, its installation included.
const CHUNK_TIME: Duration = Duration::from_secs(10);
/// Threads that read and write snapshot files.
const FILE_THREADS: usize = 2;
/// How long such a thread waits for more before it ends.
const FILE_THREAD_IDLE: Duration = Duration::from_secs(1);

/// A running replicated log. Dropping it stops it.
pub struct Running {
    /// The way in.
    pub handle: Handle,
    /// The way out.
    pub outputs: Outputs,
    thread: Stopper,
}

struct Stopper {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Stopper {
    fn drop(&mut self) {
        // The thread may have ended by itself.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Running {
    /// Stops in order: nothing is left to be written when this returns.
    pub fn stop(self) {
        drop(self);
    }

    /// The way in and the way out, and what stops the log when it is dropped.
    pub fn split(self) -> (Handle, Outputs, impl Send) {
        (self.handle, self.outputs, self.thread)
    }
}

/// Takes the log of `options.folder` up, or begins one, and runs it on a thread of its own. `wake` is called
/// on that thread when [`Outputs`] has something new.
pub fn start<M: Machine>(
    options: RaftOptions,
    machine: M,
    wake: impl Fn() + Send + Sync + 'static,
) -> Result<Running, StartFault> {
    config(&options)?;
    std::fs::create_dir_all(&options.folder)
        .map_err(|source| StartFault::Folder { path: options.folder.clone(), source })?;
    let (shelf, contents) = open_shelf(&options)?;
    start_on(options, LogStore::new(shelf, contents), machine, wake)
}

/// [`start`], on a log that is open already.
pub(crate) fn start_on<M: Machine>(
    options: RaftOptions,
    log: LogStore,
    machine: M,
    wake: impl Fn() + Send + Sync + 'static,
) -> Result<Running, StartFault> {
    let config = config(&options)?;
    log.step_down(options.node);
    let file = SnapshotFile::new(&options.folder, options.stamp);
    let (applied_sender, applied) = watch::channel(0);
    let machine = MachineStore::open(machine, file, log.clone(), applied_sender)?;
    let post = Post::new(options.stamp, Box::new(wake));
    let (orders, orders_taken) = mpsc::channel(INCOMING_MAX);
    let (stop, stopped) = oneshot::channel();
    let (started, start_result) = std::sync::mpsc::sync_channel(1);
    let incoming = IncomingBytes::default();
    let handle = Handle { orders, incoming: incoming.clone(), post: post.clone(), log: log.clone() };
    let outputs = Outputs { post: post.clone() };
    let name = format!("raft-{}", options.node.0);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let ending = Ending { post: post.clone(), orderly: false };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(FILE_THREADS)
            .thread_keep_alive(FILE_THREAD_IDLE)
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(async {
                let start = begin(options, config, log, machine, post, applied).await;
                let (service, fault) = match start {
                    Ok(service) => (Some(service), Ok(())),
                    Err(fault) => (None, Err(fault)),
                };
                let _ = started.send(fault);
                if let Some(service) = service {
                    let thread = RaftThread { service, incoming, lives: BTreeMap::new() };
                    thread.run(orders_taken, stopped).await;
                }
            }),
            Err(source) => {
                let _ = started.send(Err(StartFault::Thread { source }));
            }
        }
        ending.orderly();
    });
    let thread = thread.map_err(|source| StartFault::Thread { source })?;
    let thread = Stopper { stop: Some(stop), thread: Some(thread) };
    match start_result.recv() {
        Ok(Ok(())) => Ok(Running { handle, outputs, thread }),
        Ok(Err(fault)) => Err(fault),
        Err(_) => Err(StartFault::Raft { why: "its thread panicked".into() }),
    }
}

/// Reports a thread that ends without having been asked to.
struct Ending {
    post: Arc<Post>,
    orderly: bool,
}

impl Ending {
    fn orderly(mut self) {
        self.orderly = true;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.orderly {
            self.post.stop_for_good("its thread panicked".into());
        }
    }
}

fn open_shelf(options: &RaftOptions) -> Result<(Journal, crate::shelf::Contents), StartFault> {
    let file = SnapshotFile::new(&options.folder, options.stamp);
    let log = options.folder.join(journal::FILE);
    // A snapshot without its log: the vote is lost, and voting again could give two leaders to one term.
    if file.path().exists() && !log.exists() {
        let why = format!("there is a file {} but no log beside it", snapshot_file::FILE);
        return Err(StartFault::Damaged { path: log, why });
    }
    Journal::open(&options.folder, options.stamp, options.node)
}

fn config(options: &RaftOptions) -> Result<Arc<Config>, StartFault> {
    let millis = |time: Duration| time.as_millis() as u64;
    let compaction = &options.compaction;
    let config = Config {
        cluster_name: format!("{:016x}", options.stamp.cluster),
        heartbeat_interval: millis(options.timing.heartbeat),
        election_timeout_min: millis(options.timing.election_min),
        election_timeout_max: millis(options.timing.election_max),
        install_snapshot_timeout: millis(CHUNK_TIME),
        max_payload_entries: wire::ENTRIES_MAX as u64,
        // Whoever lacks entries that are gone gets the snapshot; whoever lacks fewer gets them one by one.
        replication_lag_threshold: compaction.entries + compaction.keep_entries,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(compaction.entries),
        max_in_snapshot_log_to_keep: compaction.keep_entries,
        ..Config::default()
    };
    if options.timing.heartbeat.is_zero() {
        return Err(StartFault::Options { why: "a heartbeat takes at least a millisecond".into() });
    }
    let config = config.validate().map_err(|fault| StartFault::Options { why: fault.to_string() })?;
    Ok(Arc::new(config))
}

/// Starts openraft and the tasks around it.
async fn begin<M: Machine>(
    options: RaftOptions,
    config: Arc<Config>,
    log: LogStore,
    machine: MachineStore<M>,
    post: Arc<Post>,
    applied: watch::Receiver<u64>,
) -> Result<Arc<Service>, StartFault> {
    let first = log.is_new() && options.first_voters.contains(&options.node);
    let lines = Switchboard {
        post: post.clone(),
        log: log.clone(),
        patience: options.timing.heartbeat,
        chunk_time: CHUNK_TIME,
    };
    let start_fault = |why: String| StartFault::Raft { why };
    let raft = Raft::new(u64::from(options.node.0), config, lines, log.clone(), machine)
        .await
        .map_err(|fault| start_fault(fault.to_string()))?;
    if first {
        tokio::spawn(begin_cluster(raft.clone(), options.clone(), post.clone()));
    }
    let (leadership_sender, leadership) = watch::channel(Leadership::default());
    let (barriers, barriers_taken) = mpsc::channel(2 * REQUESTS_MAX);
    tokio::spawn(service::serve_barriers(raft.clone(), barriers_taken));
    let follow = Follow {
        raft: raft.clone(),
        options: options.clone(),
        post: post.clone(),
        log: log.clone(),
        leadership: leadership_sender,
        snapshot_at_bytes: 0,
        purge_asked: 0,
    };
    tokio::spawn(follow.run());
    let intake = Mutex::new(SnapshotIntake::new(options.compaction.snapshot_bytes_max));
    Ok(Arc::new(Service {
        raft,
        options,
        post,
        log,
        leadership,
        applied,
        intake,
        changing: Mutex::new(()),
        barriers,
        served: AtomicUsize::new(0),
    }))
}

/// The first voter begins the cluster at once. The others wait for it, each longer than the one before, so
/// that the first leader is not voted down again at once.
async fn begin_cluster(raft: Raft<Flavour>, options: RaftOptions, post: Arc<Post>) {
    let rank = options.first_voters.range(..options.node).count() as u32;
    tokio::time::sleep(options.timing.election_max * 2 * rank).await;
    match raft.initialize(members::first_members(&options.first_voters)).await {
        // Another first voter was faster.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(fault) => post.stop_for_good(fault.to_string()),
    }
}

struct RaftThread {
    service: Arc<Service>,
    incoming: IncomingBytes,
    /// The latest life of each node that spoke.
    lives: BTreeMap<NodeId, Incarnation>,
}

impl RaftThread {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>, mut stop: oneshot::Receiver<()>) {
        let log = self.service.log.clone();
        let mut flushing = std::pin::pin!(log.keep_flushing());
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => break,
                fault = &mut flushing => {
                    self.service.post.stop_for_good(fault.to_string());
                    break;
                }
                order = orders.recv() => match order {
                    Some(order) => self.carry_out(order),
                    None => break,
                },
            }
        }
        let _ = self.service.raft.shutdown().await;
        self.service.log.finish();
    }

    fn carry_out(&mut self, order: Order) {
        let service = self.service.clone();
        match order {
            Order::Propose { ticket, command } => {
                tokio::spawn(service.propose(ticket, command));
            }
            Order::Read { ticket } => {
                tokio::spawn(service.read(ticket));
            }
            Order::Members { ticket, voters, learners } => {
                tokio::spawn(service.set_members(ticket, voters, learners));
            }
            Order::Receive { from, incarnation, control, data } => {
                self.incoming.0.fetch_sub(control.len() + data.len(), Ordering::Relaxed);
                self.receive(from, incarnation, &control, &data);
            }
            Order::Reachable { node, reachable } => {
                tracing::debug!(%node, reachable, "raft");
            }
            Order::Ended { node } => {
                tokio::spawn(service.succeed(node));
            }
            Order::Snapshot => {
                tokio::spawn(async move { service.raft.trigger().snapshot().await });
            }
        }
    }

    fn receive(&mut self, from: NodeId, incarnation: Incarnation, control: &[u8], data: &[u8]) {
        let life = self.lives.entry(from).or_insert(incarnation);
        if incarnation < *life {
            return self.service.post.count_stale();
        }
        *life = incarnation;
        match Message::decode(self.service.post.stamp(), control, data) {
            Ok((call, message)) => {
                tokio::spawn(self.service.clone().serve(from, call, message));
            }
            Err(reason) => self.service.post.count_dropped(reason),
        }
    }
}
