//! Membership: which nodes belong to the cluster, in which life, at which configuration number (SPEC C3, C6).
//!
//! *Who decides.* The replicated log. The machine of the node that leads the log proposes what should be, by
//! comparison with what is ([`Change::Membership`]); what the log says is so, on every node, whoever proposed
//! it. So numbers are unique, and a leader that is none any more changes nothing.
//!
//! *Who is in.* Each node watches the others and tells them whom it sees. The leader proposes the largest
//! set, itself first and then lower ids first, in which everyone sees everyone: a broken cable between two
//! nodes puts one of them out for good instead of making the membership flap. A life that has left never
//! comes back: the node learns it ([`Output::Removed`]), begins a new life and joins again. So nobody can
//! have been away without knowing. A node whose life the others refuse to talk to concludes it from the
//! higher numbers in their heartbeats ([`Input::HeardOf`]). A node whose disks hang, or that a tombstone
//! keeps out, is not in.
//!
//! *Leases.* A node serves only while it holds a lease of the leader. The holder counts from when it asked;
//! the leader counts from when it granted, and what it grants reaches no further than one lease after a
//! majority last confirmed it, so a leader that was voted out without knowing grants nothing that outlives
//! its successor's patience: a new leader waits one lease before it lets anyone expire. Nobody is removed for
//! silence before the last lease that it may hold is over ([`Output::QuorumLost`] came before that on its own
//! clock). That fences nothing by itself, since submitted I/O may still land: what re-issues requests obeys
//! SPEC B5 by other means.
//!
//! Calling order: [`Membership::new`], then [`Membership::handle`] for each input and at each
//! [`Membership::next_deadline`]. Outputs are to be carried out in their order; messages and proposals may be
//! lost, repeated and overtaken.

mod lease;
mod message;
mod watch;
mod wish;

pub use message::{CONTROL_BYTES, Encoded, Message, Status};

use crate::ccd::{BROKEN_MAX, Change, Database, MembershipRow};
use crate::protocol_rules::{ProtocolRules, Strict};
use crate::rows::MembershipTimes;
use crate::view::{BrokenPath, Member};
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::time::Duration;
use lease::Lease;
use transport_proto::identity::{Epoch, Incarnation, NodeId};
use transport_proto::time::Time;
use watch::PeerWatch;

/// A node tells the others what it sees this often, if nothing changes.
const STATUS_PERIOD: Duration = Duration::from_millis(250);
/// What was refused is proposed again after so long, if it is still wanted.
const PROPOSAL_PAUSE: Duration = Duration::from_millis(50);

/// What the log says about members, as far as this node has applied it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The configuration number.
    pub number: Epoch,
    /// Who is a member.
    pub membership: MembershipRow,
    /// Every node that is configured, rising.
    pub configured: Vec<NodeId>,
    /// Those of them that a tombstone keeps out, rising.
    pub tombstoned: Vec<NodeId>,
    /// How long members wait.
    pub times: MembershipTimes,
}

impl<R: ProtocolRules> Database<R> {
    /// What a membership machine is told after each command that may concern it ([`Input::Applied`]).
    pub fn log_state(&self) -> LogState {
        LogState {
            number: self.number(),
            membership: self.membership().clone(),
            configured: self.rows().nodes.iter().map(|row| row.id).collect(),
            tombstoned: self.tombstones().map(|stone| stone.member.node).collect(),
            times: self.rows().membership,
        }
    }
}

/// What happens to a membership machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A rail to the node is up, and the node is in this life. Also when a new life shows while rails are up.
    PeerUp {
        /// The node.
        node: NodeId,
        /// Its life.
        incarnation: Incarnation,
    },
    /// No rail to the node is up any more.
    PeerDown {
        /// The node.
        node: NodeId,
    },
    /// A message of the node arrived, sent in this life.
    Message {
        /// The sender.
        from: NodeId,
        /// Its life.
        incarnation: Incarnation,
        /// What it says.
        message: Message,
    },
    /// The log has gone on.
    Applied(LogState),
    /// Who leads the log, as far as this node knows. One that leads takes care of the membership when the log
    /// says so ([`Change::Steward`]), not earlier.
    Leader {
        /// The node.
        leader: Option<NodeId>,
        /// The term in which it does.
        term: u64,
    },
    /// A majority of the voters confirmed that this node leads the log, when it asked at this time
    /// ([`Output::Confirm`]).
    Confirmed {
        /// When it asked, on this node's clock.
        at: Time,
    },
    /// What became of the latest proposal of members is known, or known to be unknown.
    MembersAnswered,
    /// The same of the latest proposal to raise the number.
    RaiseAnswered,
    /// The same of the latest proposal to take care of the membership.
    StewardAnswered,
    /// The oldest disk I/O of this node that has not ended is of this age; zero if there is none.
    OldestIo(Duration),
    /// A node was found unable to reach a disk (SPEC B3).
    PathBroken(BrokenPath),
    /// One of this node's paths works again.
    PathMended(BrokenPath),
    /// Another node was heard to hold this configuration number, by whatever way, heartbeats above all.
    HeardOf(Epoch),
    /// This configuration number, or a higher one, was used by an earlier cluster: go above.
    EpochSpent(Epoch),
    /// A node said by a distress signal that this life of it stops in order and has fenced itself: it is out
    /// at once. One that fails goes by [`Change::Distress`] instead, and a tombstone stays.
    Ended(Member),
    /// A node said that this life of it is about to stop: its silence needs no suspect time. It may still
    /// hold a lease, which is waited for.
    Ending(Member),
    /// This node is to stop in good order.
    Leave,
    /// This node, removed before, begins a new life, later than all before.
    Reincarnate(Incarnation),
}

/// What the owner is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send; may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Propose to the log; may be lost. [`Change::Membership`] is answered by [`Input::MembersAnswered`],
    /// [`Change::RaiseEpoch`] by [`Input::RaiseAnswered`], [`Change::Steward`] by [`Input::StewardAnswered`].
    Propose(Change),
    /// Ask a majority of the voters whether this node leads the log still (a linearizable read does), and if
    /// so, say [`Input::Confirmed`] with this time.
    Confirm {
        /// Now.
        at: Time,
    },
    /// This node, in its present life, is no longer a member: give up all duties, begin a new life. Once per
    /// life.
    Removed,
    /// This node left in good order.
    Left,
    /// The lease is over: close the gates, if that was not done already at [`Membership::lease_until`].
    QuorumLost,
    /// A lease is held (again).
    QuorumRegained,
}

/// The membership machine of one node, see the head of this file.
#[doc(alias = "CMM")]
#[derive(Clone, Debug)]
pub struct Membership<R: ProtocolRules = Strict> {
    node: NodeId,
    incarnation: Incarnation,
    log: LogState,
    /// The other configured nodes, by rising id.
    peers: Vec<PeerWatch>,
    broken: Vec<BrokenPath>,
    mended: Vec<BrokenPath>,
    floor: Epoch,
    leaving: bool,
    oldest_io: Duration,
    now: Time,
    started: Time,
    status_due: Time,
    lease: Lease,
    /// Until when the latest proposal of members may be answered.
    proposed_until: Option<Time>,
    /// Members that are to go: nothing is granted to them.
    going: Vec<Member>,
    /// Those of them whom some proposal left out that may still come about, as long as the number is the one
    /// that it expects: for them there is no way back.
    doomed: Vec<Member>,
    steward_until: Option<Time>,
    raise_until: Option<Time>,
    has_quorum: bool,
    lost_since: Option<Time>,
    /// Highest number that others were heard to hold.
    heard_of: Epoch,
    life_since: Time,
    /// This life was told that it is over.
    told_removed: bool,
    obeys: PhantomData<R>,
}

/// The answer is there; if it was a good one, the log has told so or is about to.
fn try_again_soon(until: &mut Option<Time>, now: Time) {
    if let Some(until) = until {
        *until = (*until).min(now + PROPOSAL_PAUSE);
    }
}

impl Membership {
    /// A machine for `node` that knows what the log said last.
    pub fn new(node: NodeId, incarnation: Incarnation, log: LogState, now: Time) -> Membership {
        Membership::with_rules(node, incarnation, log, now)
    }
}

impl<R: ProtocolRules> Membership<R> {
    /// As [`Membership::new`], obeying the given rules.
    pub fn with_rules(node: NodeId, incarnation: Incarnation, log: LogState, now: Time) -> Membership<R> {
        let mut machine = Membership {
            node,
            incarnation,
            log: LogState::default(),
            peers: Vec::new(),
            broken: Vec::new(),
            mended: Vec::new(),
            floor: Epoch(0),
            leaving: false,
            oldest_io: Duration::ZERO,
            now,
            started: now,
            status_due: now,
            lease: Lease::new(now),
            proposed_until: None,
            going: Vec::new(),
            doomed: Vec::new(),
            steward_until: None,
            raise_until: None,
            has_quorum: false,
            lost_since: None,
            heard_of: Epoch(0),
            life_since: now,
            told_removed: false,
            obeys: PhantomData,
        };
        machine.log = log;
        machine.follow_configured();
        machine
    }

    /// What the log says, as far as it was told.
    pub fn log(&self) -> &LogState {
        &self.log
    }

    /// Whether this node is a member in its present life.
    pub fn is_member(&self) -> bool {
        self.log.membership.has(self.me())
    }

    /// Whether this node takes care of the membership, and of what else needs one that leads.
    pub fn is_steward(&self) -> bool {
        self.lease.leads
    }

    /// Whether a lease is held.
    pub fn has_quorum(&self) -> bool {
        self.has_quorum
    }

    /// Whether a rail to this node is up, as far as it was told; `None`: no other configured node.
    pub fn hears(&self, node: NodeId) -> Option<bool> {
        self.peers.iter().find(|peer| peer.node == node).map(|peer| peer.up)
    }

    /// Until when the lease that is held lasts, on this node's clock: at that moment the gates are closed, by
    /// a thread that does nothing else, unless a later time was told.
    pub fn lease_until(&self) -> Time {
        self.lease.until
    }

    /// Takes in what happened and what time has brought.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => {}
            Input::PeerUp { node, incarnation } => self.peer_up(node, incarnation, out),
            Input::PeerDown { node } => self.peer_down(node),
            Input::Message { from, incarnation, message } => self.hear(from, incarnation, message, out),
            Input::Applied(log) => self.applied(log, out),
            Input::Leader { leader, term } => self.follow_leader(leader, term),
            Input::Confirmed { at } => self.confirmed(at, out),
            Input::MembersAnswered => try_again_soon(&mut self.proposed_until, self.now),
            Input::StewardAnswered => try_again_soon(&mut self.steward_until, self.now),
            Input::RaiseAnswered => try_again_soon(&mut self.raise_until, self.now),
            Input::OldestIo(age) => self.oldest_io(age),
            Input::PathBroken(path) => self.report(path, true),
            Input::PathMended(path) => self.report(path, false),
            Input::HeardOf(number) => self.heard_of = self.heard_of.max(number),
            Input::EpochSpent(number) => self.floor = self.floor.max(number),
            Input::Ended(member) => self.hear_of_end(member, true),
            Input::Ending(member) => self.hear_of_end(member, false),
            Input::Leave => (self.leaving, self.status_due) = (true, self.now),
            Input::Reincarnate(incarnation) => {
                assert!(incarnation > self.incarnation, "a life must be later than the one before");
                (self.incarnation, self.status_due) = (incarnation, self.now);
                self.life_since = self.now;
                self.told_removed = false;
                self.lease.forget();
            }
        }
        self.seek_stewardship(out);
        self.ask_for_lease(out);
        self.watch_quorum(out);
        self.seek_change(out);
        self.seek_raise(out);
        if self.now >= self.status_due {
            self.status_due = self.now + STATUS_PERIOD;
            let status = Message::Status(self.status());
            self.broadcast(&status, out);
        }
    }

    /// When to call [`Membership::handle`] with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Time {
        let mut deadline = self.status_due.min(self.lease.ask_due);
        let mut by = |time: Time| {
            if time > self.now {
                deadline = deadline.min(time);
            }
        };
        self.peers.iter().filter_map(|peer| peer.gone_at(self.log.times.suspect)).for_each(&mut by);
        by(self.lease.until);
        if let Some(at) = self.stranded_at() {
            by(at);
        }
        let answers = self.proposed_until.into_iter().chain(self.raise_until).chain(self.steward_until);
        answers.for_each(&mut by);
        if self.lease.leads {
            by(self.started + self.settling());
            self.log.membership.members.iter().for_each(|member| by(self.expires_at(*member)));
        }
        deadline
    }

    /// A proposal that has no answer by then is taken for lost, and made again if it is still wanted. It may
    /// come about all the same: what it expects keeps it from doing harm.
    fn patience(&self) -> Duration {
        self.log.times.suspect
    }

    fn me(&self) -> Member {
        Member { node: self.node, incarnation: self.incarnation }
    }

    fn peer(&mut self, node: NodeId) -> Option<&mut PeerWatch> {
        self.peers.iter_mut().find(|peer| peer.node == node)
    }

    fn send(&self, to: NodeId, message: Message, out: &mut Vec<Output>) {
        out.push(Output::Send { to, message });
    }

    /// To every node that is reachable.
    fn broadcast(&self, message: &Message, out: &mut Vec<Output>) {
        for peer in self.peers.iter().filter(|peer| peer.up) {
            self.send(peer.node, message.clone(), out);
        }
    }

    // --- watching ---

    fn peer_up(&mut self, node: NodeId, incarnation: Incarnation, out: &mut Vec<Output>) {
        let Some(peer) = self.peer(node) else { return };
        peer.up = true;
        peer.meet(incarnation);
        self.status_due = self.now;
        self.lease.ask_due = self.now;
        self.send(node, Message::Status(self.status()), out);
    }

    fn peer_down(&mut self, node: NodeId) {
        let now = self.now;
        let Some(peer) = self.peer(node) else { return };
        if peer.up {
            (peer.up, peer.down_since) = (false, now);
        }
    }

    /// An age is told at once when it crosses the limit, not with every change.
    fn oldest_io(&mut self, age: Duration) {
        let was_hung = self.is_hung(self.oldest_io);
        self.oldest_io = age;
        if self.is_hung(age) != was_hung {
            self.status_due = self.now;
        }
    }

    fn is_hung(&self, age: Duration) -> bool {
        age >= self.log.times.hung_disk
    }

    fn hear_of_end(&mut self, member: Member, has_ended: bool) {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.node == member.node) else { return };
        let known = if has_ended { &mut peer.ended } else { &mut peer.ending };
        *known = (*known).max(member.incarnation);
        // The leader may not have heard it, and counts on the word of everyone who reaches that node.
        self.status_due = self.now;
    }

    fn report(&mut self, path: BrokenPath, broken: bool) {
        // The word about a path is its own node's, if that is this one; of two words the later counts.
        let (to, from) =
            if broken { (&mut self.broken, &mut self.mended) } else { (&mut self.mended, &mut self.broken) };
        from.retain(|other| *other != path);
        if let Err(place) = to.binary_search(&path)
            && to.len() < BROKEN_MAX
        {
            to.insert(place, path);
        }
        self.drop_settled_reports();
        self.status_due = self.now;
    }

    /// Forgets reports that the log shows.
    fn drop_settled_reports(&mut self) {
        let shown = &self.log.membership.broken;
        self.broken.retain(|path| !shown.contains(path));
        self.mended.retain(|path| shown.contains(path));
    }

    fn status(&self) -> Status {
        let (membership, suspect) = (&self.log.membership, self.log.times.suspect);
        // The others hold one that nobody heard for there, for a while; only one that was heard is vouched
        // for.
        let met = self.peers.iter().filter(|peer| peer.incarnation > Incarnation(0));
        Status {
            incarnation: self.incarnation,
            number: self.log.number,
            leaving: self.leaving,
            oldest_io: self.oldest_io,
            reaches: met.filter_map(|peer| peer.life(self.now, suspect, membership)).collect(),
            broken: self.broken.clone(),
            mended: self.mended.clone(),
        }
    }

    fn watch_quorum(&mut self, out: &mut Vec<Output>) {
        if self.now < self.lease.until {
            self.lost_since = None;
            if !self.has_quorum {
                self.has_quorum = true;
                out.push(Output::QuorumRegained);
            }
            return;
        }
        self.lost_since.get_or_insert(self.now);
        if self.has_quorum {
            self.has_quorum = false;
            out.push(Output::QuorumLost);
        }
        if self.stranded_at().is_some_and(|at| self.now >= at) {
            self.told_removed = true;
            out.push(Output::Removed);
        }
    }

    /// When this life counts as over although nobody could tell so. The others refuse connections of a life
    /// that they removed, so such a node hears of higher numbers by heartbeats alone. A new life is always
    /// safe; it costs the old one's requests an unknown outcome, so it is not begun lightly.
    fn stranded_at(&self) -> Option<Time> {
        let since = self.lost_since?.max(self.life_since);
        let patience = self.log.times.lease * if self.is_member() { 1 } else { 4 };
        (self.heard_of > self.log.number && !self.told_removed).then_some(since + patience)
    }

    // --- the log ---

    fn applied(&mut self, log: LogState, out: &mut Vec<Output>) {
        // Not "was a member": it may have joined and been removed before it heard of either.
        let me = self.me();
        let removed = log.membership.is_over(me) && !self.log.membership.is_over(me) && !self.told_removed;
        if log.membership != self.log.membership {
            self.status_due = self.now;
        }
        if log.membership.number != self.log.membership.number {
            // What was proposed was for the membership before.
            self.proposed_until = None;
            self.doomed.clear();
        }
        self.log = log;
        self.follow_steward();
        self.follow_configured();
        self.drop_settled_reports();
        self.told_removed |= removed;
        if removed {
            self.lease.forget();
            out.push(if self.leaving { Output::Left } else { Output::Removed });
        }
    }

    fn follow_configured(&mut self) {
        let (node, now) = (self.node, self.now);
        let configured = &self.log.configured;
        self.peers.retain(|peer| configured.contains(&peer.node));
        for &other in configured.iter().filter(|other| **other != node) {
            if let Err(place) = self.peers.binary_search_by_key(&other, |peer| peer.node) {
                self.peers.insert(place, PeerWatch::new(other, now));
            }
        }
    }

    // --- messages ---

    fn hear(&mut self, from: NodeId, incarnation: Incarnation, message: Message, out: &mut Vec<Output>) {
        let Some(peer) = self.peer(from) else { return };
        peer.meet(incarnation);
        if incarnation < peer.incarnation {
            return;
        }
        match message {
            Message::Status(status) => {
                if peer.incarnation == status.incarnation {
                    peer.status = Some(status);
                }
            }
            Message::Ask { stamp } => {
                self.answer_ask(Member { node: from, incarnation }, stamp, out);
            }
            Message::Grant { term, stamp, age } => self.granted(from, term, stamp, age),
        }
    }
}

#[cfg(test)]
#[path = "membership/tests.rs"]
mod tests;
