//! What raft's thread does for the reactor and for other nodes: proposals, reads, messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openraft::Raft;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::Instant;
use transport_proto::identity::NodeId;

use crate::flavour::{Command, Flavour, LogId};
use crate::handle::{NotDone, Outcome, Ticket};
use crate::leadership::Leadership;
use crate::log_store::LogStore;
use crate::options::{ANSWER_BYTES_MAX, REQUESTS_MAX, RaftOptions};
use crate::post::{CallFault, Post};
use crate::snapshot_intake::SnapshotIntake;
use crate::wire::{AppendAnswer, BarrierAnswer, ForwardAnswer, Message};

/// Who is waiting for a barrier.
type BarrierWaiter = oneshot::Sender<Option<Option<LogId>>>;

/// One node's replicated log, from the inside. Tasks share it.
pub(crate) struct Service {
    pub(crate) raft: Raft<Flavour>,
    pub(crate) options: RaftOptions,
    pub(crate) post: Arc<Post>,
    pub(crate) log: LogStore,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Index of the last entry applied here.
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) intake: Mutex<SnapshotIntake>,
    /// Held by the one change of members that is under way.
    pub(crate) changing: Mutex<()>,
    pub(crate) barriers: mpsc::Sender<BarrierWaiter>,
    /// Requests of other nodes that are open here.
    pub(crate) served: AtomicUsize,
}

impl Service {
    pub(crate) fn me(&self) -> NodeId {
        self.options.node
    }

    pub(crate) fn leadership(&self) -> Leadership {
        self.leadership.borrow().clone()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.options.timing.request
    }

    /// Waits until something about the leader may have changed. `false` after the deadline.
    async fn await_change(&self, seen: &Leadership, deadline: Instant) -> bool {
        let mut leadership = self.leadership.clone();
        let changed = async {
            let _ = leadership.wait_for(|now| now != seen).await;
        };
        // Reachability changes too, and an answer may have been about a leader that is not known here yet.
        let wait = self.options.timing.heartbeat.min(deadline.saturating_duration_since(Instant::now()));
        let _ = tokio::time::timeout(wait, changed).await;
        Instant::now() < deadline
    }

    /// A proposal of this node's reactor, until it is answered.
    pub(crate) async fn propose(self: Arc<Self>, ticket: Ticket, command: Vec<u8>) {
        let outcome = self.find_outcome(command).await;
        self.post.answer(ticket, outcome);
    }

    async fn find_outcome(&self, command: Vec<u8>) -> Outcome {
        let deadline = self.deadline();
        let forward = Message::Forward(command);
        loop {
            let seen = self.leadership();
            match seen.leader {
                Some(leader) if leader == self.me() => {
                    let Message::Forward(command) = forward else { return Outcome::Unknown };
                    return self.write(command, deadline).await;
                }
                Some(leader) => match self.forward(leader, &forward, &seen, deadline).await {
                    ForwardAnswer::Done { index, answer } => return Outcome::Done { index, answer },
                    ForwardAnswer::Unknown => return Outcome::Unknown,
                    ForwardAnswer::Backlog => return Outcome::NotDone(NotDone::Backlog),
                    ForwardAnswer::NotLeader => {}
                },
                None => {}
            }
            if !self.await_change(&seen, deadline).await {
                return Outcome::NotDone(NotDone::NoLeader);
            }
        }
    }

    /// Asks the leader. Once sent, only the leader's word makes it certain that nothing happened.
    async fn forward(
        &self,
        leader: NodeId,
        question: &Message,
        seen: &Leadership,
        deadline: Instant,
    ) -> ForwardAnswer {
        let mut leadership = self.leadership.clone();
        tokio::select! {
            biased;
            answer = self.post.call(leader, question) => match answer {
                Ok(Message::Forwarded(answer)) => answer,
                Ok(_) | Err(CallFault::Lost) => ForwardAnswer::Unknown,
                Err(CallFault::NotSent) => ForwardAnswer::NotLeader,
            },
            _ = leadership.wait_for(|now| now.term != seen.term) => ForwardAnswer::Unknown,
            () = tokio::time::sleep_until(deadline) => ForwardAnswer::Unknown,
        }
    }

    /// Writes to the log of this node, which leads.
    async fn write(&self, command: Vec<u8>, deadline: Instant) -> Outcome {
        let Ok(reply) = self.raft.client_write_ff(Command(command.into())).await else {
            return Outcome::NotDone(NotDone::NoLeader);
        };
        match tokio::time::timeout_at(deadline, reply).await {
            Ok(Ok(Ok(written))) => Outcome::Done { index: written.data.index, answer: written.data.answer },
            // Not the leader any more. Whether the entry was in the log before that, openraft does not say.
            _ => Outcome::Unknown,
        }
    }

    /// A read of this node's reactor, until everything that was committed when it began is applied here.
    pub(crate) async fn read(self: Arc<Self>, ticket: Ticket) {
        let deadline = self.deadline();
        let outcome = loop {
            let seen = self.leadership();
            let barrier = match seen.leader {
                Some(leader) if leader == self.me() => self.barrier().await,
                Some(leader) => self.ask_barrier(leader, deadline).await,
                None => None,
            };
            if let Some(at) = barrier {
                break self.applied_to(at, deadline).await;
            }
            if !self.await_change(&seen, deadline).await {
                break Outcome::NotDone(NotDone::NoLeader);
            }
        };
        self.post.answer(ticket, outcome);
    }

    async fn applied_to(&self, at: Option<LogId>, deadline: Instant) -> Outcome {
        let index = at.map_or(0, |at| at.index);
        let mut applied = self.applied.clone();
        match tokio::time::timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await {
            Ok(Ok(applied)) => Outcome::Done { index: *applied, answer: Vec::new() },
            _ => Outcome::NotDone(NotDone::NoLeader),
        }
    }

    async fn ask_barrier(&self, leader: NodeId, deadline: Instant) -> Option<Option<LogId>> {
        let asked = self.post.call(leader, &Message::Barrier);
        match tokio::time::timeout_at(deadline, asked).await {
            Ok(Ok(Message::BarrierAt(BarrierAnswer::At(at)))) => Some(at),
            _ => None,
        }
    }

    /// Makes sure that this node leads, and says what is committed. Those who come while one is on its way
    /// share the next.
    pub(crate) async fn barrier(&self) -> Option<Option<LogId>> {
        let (waiter, at) = oneshot::channel();
        self.barriers.send(waiter).await.ok()?;
        at.await.ok()?
    }

    /// A message of another node.
    pub(crate) async fn serve(self: Arc<Self>, from: NodeId, call: u64, message: Message) {
        let answer = match message {
            Message::Append(request) => {
                let response = self.raft.append_entries(request).await;
                Message::Appended(match (response, self.log.settle().await) {
                    (Ok(response), Ok(())) => response.into(),
                    _ => AppendAnswer::Stopped,
                })
            }
            Message::Vote(request) => match (self.raft.vote(request).await, self.log.settle().await) {
                (Ok(response), Ok(())) => Message::Voted(response),
                _ => return,
            },
            Message::Chunk(chunk) => Message::Chunked(self.intake.lock().await.take(&self.raft, chunk).await),
            Message::Forward(command) => Message::Forwarded(self.serve_forward(command).await),
            Message::Barrier => Message::BarrierAt(match self.barrier().await {
                Some(at) => BarrierAnswer::At(at),
                None => BarrierAnswer::NotLeader,
            }),
            Message::Appended(_)
            | Message::Voted(_)
            | Message::Chunked(_)
            | Message::Forwarded(_)
            | Message::BarrierAt(_) => return self.post.answered(from, call, message),
        };
        // What cannot be sent is asked for again.
        let _ = self.post.send(from, &answer, call);
    }

    async fn serve_forward(&self, command: Vec<u8>) -> ForwardAnswer {
        if !self.leadership().leads {
            return ForwardAnswer::NotLeader;
        }
        let open = |served: usize| (served < REQUESTS_MAX).then_some(served + 1);
        if self.served.fetch_update(Ordering::Relaxed, Ordering::Relaxed, open).is_err() {
            return ForwardAnswer::Backlog;
        }
        let outcome = self.write(command, self.deadline()).await;
        self.served.fetch_sub(1, Ordering::Relaxed);
        match outcome {
            Outcome::Done { index, answer } if answer.len() <= ANSWER_BYTES_MAX => {
                ForwardAnswer::Done { index, answer }
            }
            Outcome::Done { .. } | Outcome::Unknown => ForwardAnswer::Unknown,
            Outcome::NotDone(_) => ForwardAnswer::NotLeader,
        }
    }
}

/// Serves barriers, one round of heartbeats for all who wait.
pub(crate) async fn serve_barriers(raft: Raft<Flavour>, mut waiting: mpsc::Receiver<BarrierWaiter>) {
    while let Some(first) = waiting.recv().await {
        // Whoever is ready to ask now is part of this round.
        tokio::task::yield_now().await;
        let mut round = vec![first];
        while let Ok(waiter) = waiting.try_recv() {
            round.push(waiter);
        }
        let at = raft.get_read_log_id().await.ok().map(|(at, _)| at);
        round.into_iter().for_each(|waiter| {
            let _ = waiter.send(at);
        });
    }
}

/// Between two voters that want to succeed a leader: time for the votes of the one before to be written.
const SUCCESSION_STEP: Duration = Duration::from_millis(15);
/// Rounds in which all of them have tried; then openraft's own time-outs have their turn.
const SUCCESSION_ROUNDS: u32 = 4;

impl Service {
    /// Elects a leader in place of one that has ended, without waiting for its lease.
    ///
    /// A follower refuses its vote until then, unless it is a candidate itself. So each becomes one, in order
    /// of their ids: the last of a majority gets the votes of those before it. Who has fewer entries than
    /// they have gets none, hence several rounds.
    pub(crate) async fn succeed(self: Arc<Self>, ended: NodeId) {
        let voters = self.post.state().voters;
        let others = voters.iter().filter(|voter| **voter != ended);
        let (count, rank) =
            (others.clone().count() as u32, others.take_while(|voter| **voter < self.me()).count());
        if ended == self.me() || !voters.contains(&self.me()) {
            return;
        }
        let begun = Instant::now();
        for turn in 0..SUCCESSION_ROUNDS {
            let at = begun + SUCCESSION_STEP * (turn * (count + 1) + rank as u32);
            tokio::time::sleep_until(at).await;
            // Of the last leader that is known: a candidate knows of none.
            if self.leadership().leader.is_some_and(|leader| leader != ended) {
                return;
            }
            let _ = self.raft.trigger().elect().await;
        }
    }
}

/// How long the leader waits for a node that is to vote to catch up, counted in requests.
pub(crate) const CATCH_UP_REQUESTS: u32 = 2;

impl Service {
    pub(crate) fn catch_up_time(&self) -> Duration {
        self.options.timing.request * CATCH_UP_REQUESTS
    }
}
