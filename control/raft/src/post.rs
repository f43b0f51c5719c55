//! What leaves raft's thread: messages to other nodes, answers to the reactor, the state, the end.
//!
//! Everything is polled. The reactor is woken when something begins to wait.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use transport_proto::identity::NodeId;

use crate::fault::Fatal;
use crate::handle::{Answer, Counters, Outcome, Outgoing, RaftState, Ticket};
use crate::options::{ClusterStamp, OUTGOING_BYTES_MAX, OUTGOING_MAX};
use crate::wire::{Dropped, Message};

/// Wakes the reactor; called on raft's thread.
pub(crate) type Wake = Box<dyn Fn() + Send + Sync>;

/// The way out. One per node.
pub(crate) struct Post {
    stamp: ClusterStamp,
    wake: Wake,
    outgoing: Mutex<Queue>,
    answers: Mutex<VecDeque<Answer>>,
    state: Mutex<Published>,
    fatal: Mutex<Option<Fatal>>,
    calls: Mutex<Calls>,
    /// Proposals, reads and changes that the reactor has not fetched the answer of.
    requests_open: AtomicUsize,
    tally: Tally,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Outgoing>,
    bytes: usize,
}

#[derive(Default)]
struct Published {
    state: RaftState,
    fresh: bool,
}

struct Calls {
    next: u64,
    open: HashMap<u64, Call>,
    unreachable: BTreeSet<NodeId>,
}

struct Call {
    to: NodeId,
    answer: oneshot::Sender<Message>,
}

#[derive(Default)]
struct Tally {
    strangers: AtomicU64,
    other_version: AtomicU64,
    torn: AtomicU64,
    stale: AtomicU64,
    outgoing_dropped: AtomicU64,
    incoming_dropped: AtomicU64,
}

/// Why a call to another node has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallFault {
    /// The question was never sent.
    #[error("the node is not reachable now")]
    NotSent,
    /// The question was sent; whether it arrived is unknown.
    #[error("the node became unreachable before it answered")]
    Lost,
}

/// Forgets the call when nobody waits for it any more.
struct OpenCall<'a> {
    post: &'a Post,
    id: u64,
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.post.calls.lock().open.remove(&self.id);
    }
}

impl Post {
    pub(crate) fn new(stamp: ClusterStamp, wake: Wake) -> Arc<Post> {
        // Calls of an earlier life had smaller numbers, so that a late answer to one of them fits none of
        // ours.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let calls = Calls { next: now.as_nanos() as u64, open: HashMap::new(), unreachable: BTreeSet::new() };
        Arc::new(Post {
            stamp,
            wake,
            outgoing: Mutex::default(),
            answers: Mutex::default(),
            state: Mutex::default(),
            fatal: Mutex::default(),
            calls: Mutex::new(calls),
            requests_open: AtomicUsize::new(0),
            tally: Tally::default(),
        })
    }

    pub(crate) fn stamp(&self) -> ClusterStamp {
        self.stamp
    }

    /// Sends one message, or drops and counts it when too many wait already.
    pub(crate) fn send(&self, to: NodeId, message: &Message, call: u64) -> Result<(), CallFault> {
        let parts = message.encode(self.stamp, call);
        let bytes = parts.control.len() + parts.data.len();
        let first = {
            let mut queue = self.outgoing.lock();
            if queue.messages.len() >= OUTGOING_MAX || queue.bytes + bytes > OUTGOING_BYTES_MAX {
                self.tally.outgoing_dropped.fetch_add(1, Ordering::Relaxed);
                return Err(CallFault::NotSent);
            }
            queue.bytes += bytes;
            queue.messages.push_back(Outgoing { to, control: parts.control, data: parts.data });
            queue.messages.len() == 1
        };
        if first {
            (self.wake)();
        }
        Ok(())
    }

    pub(crate) fn next_outgoing(&self) -> Option<Outgoing> {
        let mut queue = self.outgoing.lock();
        let message = queue.messages.pop_front()?;
        queue.bytes -= message.control.len() + message.data.len();
        Some(message)
    }

    /// Asks another node, and waits for its answer as long as the caller does.
    pub(crate) async fn call(&self, to: NodeId, question: &Message) -> Result<Message, CallFault> {
        let (sender, receiver) = oneshot::channel();
        let open = {
            let mut calls = self.calls.lock();
            if calls.unreachable.contains(&to) {
                return Err(CallFault::NotSent);
            }
            let id = calls.next;
            calls.next += 1;
            calls.open.insert(id, Call { to, answer: sender });
            OpenCall { post: self, id }
        };
        self.send(to, question, open.id)?;
        receiver.await.map_err(|_| CallFault::Lost)
    }

    /// Hands an answer to whoever asked, if anybody still waits.
    pub(crate) fn answered(&self, from: NodeId, call: u64, answer: Message) {
        let mut calls = self.calls.lock();
        if calls.open.get(&call).is_some_and(|open| open.to == from)
            && let Some(open) = calls.open.remove(&call)
        {
            let _ = open.answer.send(answer);
        }
    }

    /// Gives up what was asked of this node, and asks nothing more until it is reachable again.
    pub(crate) fn set_reachable(&self, node: NodeId, reachable: bool) {
        let mut calls = self.calls.lock();
        if reachable {
            calls.unreachable.remove(&node);
        } else {
            calls.unreachable.insert(node);
            calls.open.retain(|_, call| call.to != node);
        }
    }

    /// Takes a place for a request of the reactor; `false` when all are taken.
    pub(crate) fn open_request(&self, max: usize) -> bool {
        let open = |open: usize| (open < max).then_some(open + 1);
        self.requests_open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, open).is_ok()
    }

    pub(crate) fn withdraw_request(&self) {
        self.requests_open.fetch_sub(1, Ordering::Relaxed);
    }

    /// The answer to a request of the reactor. There are never more than open requests.
    pub(crate) fn answer(&self, ticket: Ticket, outcome: Outcome) {
        let first = {
            let mut answers = self.answers.lock();
            answers.push_back(Answer { ticket, outcome });
            answers.len() == 1
        };
        if first {
            (self.wake)();
        }
    }

    pub(crate) fn next_answer(&self) -> Option<Answer> {
        let answer = self.answers.lock().pop_front()?;
        self.withdraw_request();
        Some(answer)
    }

    /// Publishes the state; the reactor is woken for what it acts upon, not for each index.
    pub(crate) fn publish(&self, state: RaftState) {
        let wake = {
            let mut published = self.state.lock();
            let news = !published.state.same_but_for_indexes(&state);
            let wake = news && !published.fresh;
            published.fresh |= news;
            published.state = state;
            wake
        };
        if wake {
            (self.wake)();
        }
    }

    pub(crate) fn state(&self) -> RaftState {
        self.state.lock().state.clone()
    }

    pub(crate) fn take_fresh_state(&self) -> Option<RaftState> {
        let mut published = self.state.lock();
        std::mem::take(&mut published.fresh).then(|| published.state.clone())
    }

    /// The end; the first reason stands.
    pub(crate) fn stop_for_good(&self, why: String) {
        tracing::error!(%why, "the replicated log has stopped");
        self.fatal.lock().get_or_insert(Fatal { why });
        (self.wake)();
    }

    pub(crate) fn fatal(&self) -> Option<Fatal> {
        self.fatal.lock().clone()
    }

    pub(crate) fn count_dropped(&self, reason: Dropped) {
        let counter = match reason {
            Dropped::Stranger => &self.tally.strangers,
            Dropped::OtherVersion => &self.tally.other_version,
            Dropped::Torn => &self.tally.torn,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_stale(&self) {
        self.tally.stale.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_incoming_dropped(&self) {
        self.tally.incoming_dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            strangers: read(&self.tally.strangers),
            other_version: read(&self.tally.other_version),
            torn: read(&self.tally.torn),
            stale: read(&self.tally.stale),
            outgoing_dropped: read(&self.tally.outgoing_dropped),
            incoming_dropped: read(&self.tally.incoming_dropped),
        }
    }
}
