//! The replicated log as a client of the transport: its messages, and what this node proposes to it.

use blockdev_proto::geometry::VolumeId;
use control_proto::ccd::{ANSWERS_MAX, Answer, Change, Command, Expect, OperationId};
use control_proto::pool::RegionId;
use control_raft::{
    ClusterStamp, Fatal, Handle, Machine, NotDone, Outcome, Outputs, RaftOptions, RaftState, Refusal,
    StartFault, Ticket,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use transport_endpoint::{Core, Data, Delivery, PeerEvent, Tag};
use transport_proto::identity::{ClientId, Incarnation, NodeId};
use transport_proto::time::Time;

/// Folder of the log in the state folder.
pub(crate) const FOLDER: &str = "raft";
/// What may have happened, or had no leader, is proposed again after this time.
const AGAIN: Duration = Duration::from_millis(50);
/// Who votes is brought in line with the rows this often, while it is not.
const MEMBERS_AGAIN: Duration = Duration::from_millis(300);

/// Whom the answer to a proposal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// The administrator's request of this number.
    Admin(u64),
    /// This node as one that has just joined.
    Arrival,
    /// This node as one that goes for good.
    Departure,
    /// The membership, about who is a member.
    Members,
    /// The membership, about a number that was used before.
    Raise,
    /// The membership, about who takes care of it.
    Steward,
    /// This node as one that takes part in a reconfiguration.
    Participant,
    /// This node as the one that serves a mirror.
    Mirror(VolumeId),
    /// This node as the lender of a region.
    Region(RegionId),
    /// This node as the leader that watches over deadlines.
    Overseer,
    /// This node as one that heard of the end of a node, or of its own past.
    Witness,
}

/// What became of a proposal.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) asker: Asker,
    /// The log's answer; or why the log did not take it, then nothing happened.
    pub(crate) result: Result<Answer, NotDone>,
}

/// A proposal was not taken; nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// Too many are without an answer.
    Busy,
    /// The log has stopped.
    Stopped,
    /// The command is too large.
    TooLarge,
}

struct Open {
    asker: Asker,
    bytes: Vec<u8>,
    /// An attempt may have happened: only the log can tell any more.
    unknown: bool,
    /// To be proposed again then.
    again_at: Time,
}

/// The log of this node, see the head of this file.
pub(crate) struct Consensus {
    node: NodeId,
    /// The life in which this process proposes: its first, whatever lives its membership has since.
    life: Incarnation,
    handle: Handle,
    outputs: Outputs,
    /// Stops the log when it is dropped.
    _running: Box<dyn Send>,
    state: RaftState,
    /// Leader and term, as they were told last.
    told: Option<(Option<NodeId>, u64)>,
    /// By sequence.
    open: BTreeMap<u64, Open>,
    last_sequence: u64,
    finished: VecDeque<Finished>,
    /// A change of who votes is under way.
    changing: bool,
    members_at: Time,
    /// Confirmations of the leader that were asked for: number, and when.
    asked: VecDeque<(u64, Time)>,
    last_asked: u64,
    confirmed: VecDeque<Time>,
    /// Administrators' reads that have ended, by number.
    reads: VecDeque<(u64, Result<(), NotDone>)>,
    /// Set by the log's thread when there is something to fetch.
    signal: Arc<AtomicBool>,
    /// When to look though nothing was signalled.
    look_at: Time,
    disk_age: Duration,
}

/// Tickets of changes of members; those of proposals are their sequences.
const MEMBERS: u64 = 1 << 63;
/// Tickets of confirmations.
const CONFIRM: u64 = 1 << 62;
/// Tickets of administrators' reads, by the number of the request.
const READ: u64 = 1 << 61;
/// The log's own news are looked for this often, whatever is signalled.
const LOOK: Duration = Duration::from_millis(100);
/// Confirmations without an answer at the most.
const ASKED_MAX: usize = 8;

impl Consensus {
    /// Takes the log of the state folder up, or begins one. When it returns, the machine has everything that
    /// was known to be committed when the node stopped.
    pub(crate) fn start<M: Machine>(
        node: NodeId,
        stamp: ClusterStamp,
        state: &Path,
        voters: BTreeSet<NodeId>,
        machine: M,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<Consensus, StartFault> {
        let options = RaftOptions::new(node, stamp, state.join(FOLDER), voters);
        let signal = Arc::new(AtomicBool::new(true));
        let raised = signal.clone();
        let wake = move || {
            raised.store(true, Ordering::Release);
            wake();
        };
        let (handle, outputs, running) = control_raft::start(options, machine, wake)?.split();
        Ok(Consensus {
            node,
            life: Incarnation(0),
            state: handle.state(),
            handle,
            outputs,
            _running: Box::new(running),
            told: None,
            open: BTreeMap::new(),
            last_sequence: 0,
            finished: VecDeque::new(),
            changing: false,
            members_at: Time(0),
            asked: VecDeque::new(),
            last_asked: 0,
            confirmed: VecDeque::new(),
            reads: VecDeque::new(),
            signal,
            look_at: Time(0),
            disk_age: Duration::ZERO,
        })
    }

    /// The same, proposing in this life from now on.
    pub(crate) fn in_life(self, life: Incarnation) -> Consensus {
        Consensus { life, ..self }
    }

    /// Leader, term and members, as of the last round.
    pub(crate) fn state(&self) -> &RaftState {
        &self.state
    }

    /// Whether this node leads and a majority answers it.
    pub(crate) fn leads(&self) -> bool {
        self.state.leads
    }

    /// Why the log has stopped, if it has.
    pub(crate) fn fatal(&self) -> Option<Fatal> {
        self.outputs.fatal()
    }

    /// Age of the oldest write of the log that the disk has not finished.
    pub(crate) fn disk_age(&self) -> Duration {
        self.disk_age
    }

    /// Under which id the next proposal would happen.
    pub(crate) fn next_operation(&self) -> OperationId {
        OperationId { node: self.node, life: self.life, sequence: self.last_sequence + 1 }
    }

    /// Proposes a change; its end comes out of [`Consensus::next_finished`].
    pub(crate) fn propose(
        &mut self,
        asker: Asker,
        expect: Vec<Expect>,
        change: Change,
    ) -> Result<(), NotTaken> {
        let operation = self.next_operation();
        let oldest = self.open.first_key_value().map_or(operation.sequence, |(sequence, _)| *sequence);
        if operation.sequence - oldest >= ANSWERS_MAX as u64 {
            return Err(NotTaken::Busy);
        }
        let bytes = Command { operation, expect, change }.encode();
        self.handle.propose(Ticket(operation.sequence), bytes.clone()).map_err(|refusal| match refusal {
            Refusal::Backlog { .. } => NotTaken::Busy,
            Refusal::Stopped => NotTaken::Stopped,
            Refusal::TooLarge { .. } => NotTaken::TooLarge,
        })?;
        self.last_sequence = operation.sequence;
        self.open.insert(operation.sequence, Open { asker, bytes, unknown: false, again_at: Time::NEVER });
        Ok(())
    }

    /// Whether a proposal of this asker has no answer yet.
    pub(crate) fn has_open(&self, asker: Asker) -> bool {
        self.open.values().any(|open| open.asker == asker)
    }

    /// The next proposal that ended.
    pub(crate) fn next_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    // --- as a client of the transport ---

    pub(crate) fn deliver(&mut self, core: &mut Core, delivery: Delivery<'_>) {
        if let Some(incarnation) = core.peer_incarnation(delivery.from) {
            self.handle.receive(delivery.from, incarnation, delivery.control, delivery.data());
        }
    }

    pub(crate) fn peer(&mut self, core: &mut Core, event: PeerEvent) {
        let (PeerEvent::Up { node, .. }
        | PeerEvent::Restarted { node, .. }
        | PeerEvent::Reachable { node }
        | PeerEvent::Unreachable { node }
        | PeerEvent::Gone { node }) = event;
        if core.is_reachable(node) {
            self.handle.peer_reachable(node);
        } else {
            self.handle.peer_unreachable(node);
        }
    }

    /// A node has ended by its own word, or is no member any more: if it led, another one is elected at once.
    pub(crate) fn ended(&self, node: NodeId) {
        self.handle.peer_ended(node);
    }

    /// Sends what the log wants to send. Returns how much that was.
    #[inline]
    pub(crate) fn poll(&mut self, core: &mut Core) -> usize {
        let mut count = 0;
        while let Some(message) = self.outputs.next_message() {
            count += 1;
            let data =
                if message.data.is_empty() { Data::Empty } else { Data::Caller(Arc::new(message.data)) };
            // What is lost for want of a rail or credit is asked for again.
            let _ = core.send(message.to, ClientId::CONFIGURATION, &message.control, data, Tag::SILENT);
        }
        count
    }

    // --- control ---

    /// Whether there may be something to fetch: messages by [`Consensus::poll`], all else by
    /// [`Consensus::control`].
    #[inline]
    pub(crate) fn take_due(&mut self, now: Time) -> bool {
        // Taken down before anything is fetched: what comes meanwhile puts it up again.
        let signalled = self.signal.load(Ordering::Relaxed) && self.signal.swap(false, Ordering::Acquire);
        signalled || now >= self.look_at
    }

    /// Takes answers and news of the log; proposes again what must be. `true`: leader or term are others.
    /// Before it, the reactor's copy of the database has been brought up to date.
    pub(crate) fn control(&mut self, now: Time) -> bool {
        self.disk_age = self.handle.disk_age().unwrap_or_default();
        // Also what changed without being told apart: indexes.
        self.outputs.changed_state();
        self.state = self.handle.state();
        while let Some(answer) = self.outputs.next_answer() {
            match answer.ticket.0 {
                number if number & MEMBERS != 0 => self.members_answered(&answer.outcome),
                number if number & CONFIRM != 0 => self.confirmation(number & !CONFIRM, &answer.outcome),
                number if number & READ != 0 => self.read_answered(number & !READ, &answer.outcome),
                sequence => self.answered(now, sequence, answer.outcome),
            }
        }
        self.propose_again(now);
        self.look_at = self.next_due(now);
        let now = Some((self.state.leader, self.state.term));
        std::mem::replace(&mut self.told, now) != now
    }

    fn answered(&mut self, now: Time, sequence: u64, outcome: Outcome) {
        let Some(open) = self.open.get_mut(&sequence) else { return };
        let result = match outcome {
            Outcome::Done { answer, .. } => Answer::decode(&answer).map_err(|fault| {
                tracing::error!("the leader's answer cannot be read: {fault}");
                NotDone::NoLeader
            }),
            Outcome::NotDone(why) if !open.unknown => Err(why),
            // The membership sees in the log what became of it, and thinks again before it repeats itself.
            _ if matches!(open.asker, Asker::Members | Asker::Raise | Asker::Steward) => {
                Err(NotDone::NoLeader)
            }
            Outcome::Unknown | Outcome::NotDone(_) => {
                (open.unknown, open.again_at) = (true, now + AGAIN);
                return;
            }
        };
        let asker = open.asker;
        self.open.remove(&sequence);
        self.finished.push_back(Finished { asker, result });
    }

    fn propose_again(&mut self, now: Time) {
        for (sequence, open) in &mut self.open {
            if now >= open.again_at {
                let taken = self.handle.propose(Ticket(*sequence), open.bytes.clone()).is_ok();
                open.again_at = if taken { Time::NEVER } else { now + AGAIN };
            }
        }
    }

    /// On the leader: brings who votes and who learns in line with the rows.
    pub(crate) fn reconcile(&mut self, now: Time, voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId>) {
        let in_line = self.state.voters == voters && self.state.learners == learners && !self.state.changing;
        if !self.state.leads || in_line || self.changing || voters.is_empty() || now < self.members_at {
            return;
        }
        self.members_at = now + MEMBERS_AGAIN;
        self.changing = self.handle.set_members(Ticket(MEMBERS), voters, learners).is_ok();
    }

    fn members_answered(&mut self, outcome: &Outcome) {
        self.changing = false;
        match outcome {
            Outcome::Done { .. } => tracing::info!("voters and learners of the log are as the rows say"),
            Outcome::NotDone(why) => tracing::debug!("voters and learners are not changed yet: {why}"),
            Outcome::Unknown => {}
        }
    }

    /// Asks a majority whether this node leads; the answer comes out of [`Consensus::next_confirmed`].
    pub(crate) fn confirm(&mut self, at: Time) {
        if self.asked.len() >= ASKED_MAX {
            return;
        }
        self.last_asked += 1;
        if self.handle.read(Ticket(CONFIRM | self.last_asked)).is_ok() {
            self.asked.push_back((self.last_asked, at));
        }
    }

    fn confirmation(&mut self, number: u64, outcome: &Outcome) {
        let Some(place) = self.asked.iter().position(|(asked, _)| *asked == number) else { return };
        if let (Some((_, at)), Outcome::Done { .. }) = (self.asked.remove(place), outcome) {
            self.confirmed.push_back(at);
        }
    }

    /// Asks when this node's machine has all that was told done by now; the answer comes out of
    /// [`Consensus::next_read`]. `false`: not now.
    pub(crate) fn read(&mut self, number: u64) -> bool {
        self.handle.read(Ticket(READ | number)).is_ok()
    }

    fn read_answered(&mut self, number: u64, outcome: &Outcome) {
        let result = match outcome {
            Outcome::Done { .. } => Ok(()),
            Outcome::NotDone(why) => Err(*why),
            Outcome::Unknown => Err(NotDone::NoLeader),
        };
        self.reads.push_back((number, result));
    }

    /// The next read that has ended.
    pub(crate) fn next_read(&mut self) -> Option<(u64, Result<(), NotDone>)> {
        self.reads.pop_front()
    }

    /// When a majority that confirmed this node as leader was asked.
    pub(crate) fn next_confirmed(&mut self) -> Option<Time> {
        self.confirmed.pop_front()
    }

    /// When [`Consensus::control`] has something to do by time alone.
    pub(crate) fn next_due(&self, now: Time) -> Time {
        let again = self.open.values().map(|open| open.again_at).min().unwrap_or(Time::NEVER);
        again.min(now + LOOK)
    }
}
