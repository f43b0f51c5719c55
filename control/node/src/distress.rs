//! Distress of this node and of its peers (SPEC D): what stands ready to be said, and what others said.
//!
//! Which cause says what, and by which way, is the table in [`control_proto::distress::Reason`]; here it is
//! tied to what happens in a process:
//!
//! | cause | reason | who says it |
//! |---|---|---|
//! | SIGTERM, SIGINT, the admin socket's stop | planned stop | the thread that waits for nothing else |
//! | `netdisk node power-fail` | power failure | that thread; the node drains and ends |
//! | a panic in any thread of the daemon | panic | the thread that panics, before its message is printed |
//! | SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT | each its own | the signal's handler |
//! | votes cannot be kept | records failing | the reactor, before it does anything else |
//! | the reactor's event queue or the monitor's thread fails | transport failing | the reactor |
//!
//! *A failing disk is no distress.* A request that fails with an error of the medium is its client's; a disk
//! that cannot be reached is a broken path, and the volume moves to a node that reaches it while this node
//! goes on with all else (SPEC B3). The node's own are the records without which it can promise nothing, and
//! the machinery under all disks and all rails.

mod alarm;
mod give_up;
mod process;
mod tombstone;

pub(crate) use alarm::Alarm;
pub(crate) use give_up::GivingUp;
pub(crate) use tombstone::open as tombstone_file;
pub use tombstone::{Tombstone, TombstoneRefusal, clear};

use control_proto::distress::{
    DistressFault, DistressWatch, Ending, Level, REASONS, Reason, Signal, Speaker, Standing,
};
use control_proto::rows::ClusterRows;
use control_proto::view::Member;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use transport_buf::last_words::{Destination, LEVELS, LastWords, LastWordsRefusal, Mouth, Phrase};
use transport_endpoint::VerdictBoard;
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{Epoch, Incarnation, NodeId};

const _: () = assert!(LEVELS == Level::ALL.len());

/// Why a node cannot say that it fails, or must not start since it said so.
#[derive(Debug)]
pub enum DistressRefusal {
    /// It said so, and nobody cleared it; or what it left cannot be read.
    Tombstone(TombstoneRefusal),
    /// What is to be said cannot be prepared.
    Words(LastWordsRefusal),
    /// No thread or pipe to be had.
    System(io::Error),
}

impl fmt::Display for DistressRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DistressRefusal::Tombstone(source) => source.fmt(f),
            DistressRefusal::Words(source) => source.fmt(f),
            DistressRefusal::System(_) => write!(f, "cannot start the thread that says distress"),
        }
    }
}

impl std::error::Error for DistressRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DistressRefusal::Tombstone(source) => source.source(),
            DistressRefusal::Words(source) => source.source(),
            DistressRefusal::System(source) => Some(source),
        }
    }
}

/// Distress of one node. Owned by its reactor.
pub(crate) struct Distress {
    key: ClusterKey,
    speaker: Speaker,
    mouth: Arc<Mouth>,
    watch: DistressWatch,
    board: Arc<VerdictBoard>,
    /// The tombstone's file.
    mark: File,
    /// A thread has panicked.
    doomed: Arc<AtomicBool>,
    pub(crate) alarm: Alarm,
}

impl Distress {
    /// Opens the sockets, forms the words, starts the thread. `mark`: the tombstone's file; `wake`: called
    /// after the thread has said something.
    pub(crate) fn start(
        rows: &ClusterRows,
        me: Member,
        key: &ClusterKey,
        board: Arc<VerdictBoard>,
        mark: File,
        wake: impl Fn() + Send + 'static,
    ) -> Result<Distress, DistressRefusal> {
        let speaker = Speaker { member: me, epoch: Epoch(0), sequence: 1 };
        let words = prepare(rows, key, speaker, &mark)?;
        let mouth = Arc::new(Mouth::new(words));
        let configured: Vec<NodeId> = rows.nodes.iter().map(|node| node.id).collect();
        let checked = key.clone();
        board.watch_notices(Box::new(move |bytes| Signal::open(&checked, bytes).is_ok()));
        let alarm = Alarm::start(mouth.clone(), wake).map_err(DistressRefusal::System)?;
        let watch = DistressWatch::new(key.clone(), me.node, &configured);
        let doomed = Arc::default();
        Ok(Distress { key: key.clone(), speaker, mouth, watch, board, mark, doomed, alarm })
    }

    /// Says it at once.
    pub(crate) fn say(&self, reason: Reason) {
        let Some(index) = reason.index() else { return };
        if let Some(left) = self.mouth.say(index) {
            tracing::warn!(%reason, datagrams = left, "told the others");
        }
    }

    /// Says that nothing of this node can take effect any more.
    pub(crate) fn say_fenced(&self, reason: Reason) {
        self.mouth.with(LastWords::raise_level);
        self.say(reason);
    }

    /// A new configuration is in force: words are formed anew for it, and what was heard too early is judged.
    pub(crate) fn configure(&mut self, epoch: Epoch, members: &[Member]) -> Vec<Ending> {
        self.speaker.epoch = epoch;
        self.form();
        self.watch.view(epoch, members)
    }

    /// This node lives a new life from now on.
    pub(crate) fn reincarnate(&mut self, life: Incarnation) {
        self.speaker.member.incarnation = life;
        self.form();
    }

    /// Words are said on the rails of these rows from now on, and those of their nodes are heard.
    pub(crate) fn follow_rows(&mut self, rows: &ClusterRows) {
        let configured: Vec<NodeId> = rows.nodes.iter().map(|node| node.id).collect();
        self.watch.configure(self.speaker.member.node, &configured);
        self.speaker.sequence += 1;
        match prepare(rows, &self.key, self.speaker, &self.mark) {
            // Once this node speaks, it says the rest of it where it began.
            Ok(words) => _ = self.mouth.replace(words),
            Err(refusal) => tracing::error!("distress would be told on the rails of before: {refusal}"),
        }
    }

    fn form(&mut self) {
        self.speaker.sequence += 1;
        let (key, speaker) = (&self.key, self.speaker);
        // Once this node speaks, what it says is of the configuration that it spoke in.
        self.mouth.with(|words| words.form(|reason, level| phrase(key, speaker, reason, level)));
    }

    /// The next peer that said its end. Each is passed on to the others once: they may have missed it.
    pub(crate) fn next_ending(&mut self) -> Option<Ending> {
        while let Some(bytes) = self.board.take_notice() {
            match self.watch.hear(&bytes) {
                Ok(ending) => {
                    self.mouth.with(|words| words.relay(&bytes));
                    return Some(ending);
                }
                Err(DistressFault::Repeated | DistressFault::Ahead { .. }) => {}
                // Its own words, passed on by others.
                Err(DistressFault::Stranger { node }) if node == self.speaker.member.node => {}
                Err(fault) => tracing::warn!("{fault}"),
            }
        }
        None
    }

    /// How a peer stands by its own words.
    pub(crate) fn standing(&self, node: NodeId, is_heard: bool) -> Standing {
        self.watch.standing(node, is_heard)
    }

    /// Datagrams that looked like a signal and were not believed.
    pub(crate) fn refused(&self) -> u64 {
        self.board.notices_refused()
    }
}

fn prepare(
    rows: &ClusterRows,
    key: &ClusterKey,
    speaker: Speaker,
    mark: &File,
) -> Result<Arc<LastWords>, DistressRefusal> {
    let rails = rows.rails_of(speaker.member.node);
    let destinations: Vec<Destination> = rails
        .map(|rail| Destination { local: rail.local.heartbeat, remote: rail.remote.heartbeat })
        .collect();
    let mark = mark.try_clone().map_err(DistressRefusal::System)?;
    let is_last = |index: usize| Reason::all().nth(index) != Some(Reason::PlannedStop);
    let words =
        LastWords::prepare(&destinations, REASONS, is_last, Some(mark)).map_err(DistressRefusal::Words)?;
    words.form(|reason, level| phrase(key, speaker, reason, level));
    if !words.is_locked() {
        tracing::warn!(
            "distress signals may be paged out: raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)"
        );
    }
    Ok(Arc::new(words))
}

fn phrase(key: &ClusterKey, speaker: Speaker, reason: usize, level: usize) -> Phrase {
    let (Some(reason), Some(level)) = (Reason::all().nth(reason), Level::ALL.get(level).copied()) else {
        return Phrase::default();
    };
    let mark = match reason.may_return() {
        true => Vec::new(),
        false => Tombstone { member: speaker.member, reason, level }.encode().to_vec(),
    };
    Phrase { datagram: Signal::form(key, speaker, level, reason).to_vec(), mark }
}
