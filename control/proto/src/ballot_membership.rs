//! Membership: which nodes belong to the cluster, in which life, at which configuration number (SPEC C3).
//!
//! All configured nodes vote. Each view has exactly one successor, and that one is decided by a ballot among
//! them in the manner of Paxos: a majority promises to take part in no lower ballot and tells what it
//! accepted before; what was accepted in the highest ballot must be proposed again; what a majority accepted
//! is decided. So two nodes never hold different views of one number, and a minority decides nothing. A vote
//! is on disk before it is told ([`Output::Persist`] comes before the sends that depend on it), so a node
//! that restarts cannot vote twice.
//!
//! *Who is in.* Each node watches the others and tells them whom it sees. The member with the lowest id
//! proposes the largest set, lower ids first, in which everyone sees everyone; the others step in, one after
//! the other, when it does not. A life that has left never comes back: the node learns it
//! ([`Output::Removed`]), begins a new life and joins again. So nobody can have been away without knowing. A
//! node whose life the others refuse to talk to concludes it from the higher numbers in their heartbeats
//! ([`Input::HeardOf`]).
//!
//! *Quorum.* A node that reaches no majority for the lease time says [`Output::QuorumLost`]; its owner closes
//! the gates. That alone fences nothing for others (submitted I/O may still land), they obey SPEC B5 by other
//! means.
//!
//! The replicated database takes this machine's place later, behind [`Input`] and [`Output`].
//!
//! Calling order: [`Membership::new`] with what was persisted last, then [`Membership::handle`] for each
//! input and at each [`Membership::next_deadline`]. Outputs are to be carried out in their order; messages
//! may be lost, repeated and overtaken.

mod ballot;
mod message;
mod watch;
mod wish;

pub use message::{BROKEN_MAX, CONTROL_BYTES, Encoded, Message, MessageFault};

use crate::rows::MembershipTimes;
use crate::view::{BrokenPath, Member};
use alloc::vec::Vec;
use ballot::Round;
use core::time::Duration;
use transport_proto::identity::{Epoch, Incarnation, NodeId};
use transport_proto::time::Time;
use watch::PeerWatch;

/// A node tells the others what it sees this often, if nothing changes.
const STATUS_PERIOD: Duration = Duration::from_millis(250);
/// The n-th member waits n of these before it proposes what those before it should have proposed.
const STEP_IN: Duration = Duration::from_millis(200);

/// Configuration numbers stay below; a number above is a fault of whoever told it.
pub const EPOCH_MAX: Epoch = Epoch(1 << 62);

/// The members at one configuration number. Lists rise, so that equal views are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The configuration number; 0 before the first view.
    pub epoch: Epoch,
    /// Who is in.
    pub members: Vec<Member>,
    /// The last life of each node that left; neither it nor an earlier one comes back.
    pub departed: Vec<Member>,
    /// Paths found broken, of members.
    pub broken: Vec<BrokenPath>,
}

impl View {
    /// Whether the node is in, in this very life.
    pub fn has(&self, member: Member) -> bool {
        self.members.contains(&member)
    }

    fn departed(&self, member: Member) -> bool {
        self.departed.iter().any(|gone| gone.node == member.node && gone.incarnation >= member.incarnation)
    }
}

/// Number of an attempt to decide. Ordered by count, then node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Rises with each attempt.
    pub count: u32,
    /// Who attempts.
    pub node: NodeId,
}

impl Ballot {
    /// Below every ballot.
    pub const NONE: Ballot = Ballot { count: 0, node: NodeId(0) };
}

impl Default for Ballot {
    fn default() -> Ballot {
        Ballot::NONE
    }
}

/// What a node keeps on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// The latest view known to be decided.
    pub view: View,
    /// Takes part in no lower ballot about its successor.
    pub promised: Ballot,
    /// Accepted as its successor, in which ballot.
    pub accepted: Option<(Ballot, View)>,
}

/// What a node tells the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Of the view that it holds.
    pub epoch: Epoch,
    /// Its life.
    pub incarnation: Incarnation,
    /// A number that was found used already: the next view must be above it.
    pub floor: Epoch,
    /// It is about to stop.
    pub leaving: bool,
    /// Whom it sees, itself left out.
    pub reaches: Vec<Member>,
    /// Paths that it found broken and that the view does not show.
    pub broken: Vec<BrokenPath>,
    /// Its own paths that are mended and that the view shows as broken.
    pub mended: Vec<BrokenPath>,
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
    /// A node was found unable to reach a disk (SPEC B3).
    PathBroken(BrokenPath),
    /// One of this node's paths works again.
    PathMended(BrokenPath),
    /// Another node was heard to hold a view of this number, by whatever way, heartbeats above all.
    HeardOf(Epoch),
    /// This configuration number, or a higher one, was used by an earlier cluster: go above.
    EpochSpent(Epoch),
    /// A node said that this life of it fails (SPEC D4): it is out without the suspect time, heard or not.
    Failed(Member),
    /// A node said that this life of it is about to end: once it is not heard any more, it is out at once.
    Ending(Member),
    /// This node is to stop in good order.
    Leave,
    /// This node, removed before, begins a new life, later than all before.
    Reincarnate(Incarnation),
}

/// What the owner is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Put on disk and wait until it is there, before anything that follows. If that fails, stop this node.
    Persist(Durable),
    /// Send; may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// A view was decided; numbers only rise.
    NewView(View),
    /// This node, in its present life, is no longer a member: give up all duties, begin a new life. Once per
    /// life.
    Removed,
    /// This node left in good order.
    Left,
    /// No majority was reachable for the lease time: close the gates.
    QuorumLost,
    /// A majority is reachable (again). Also once at the start.
    QuorumRegained,
}

/// The membership machine of one node, see the head of this file.
#[doc(alias = "CMM")]
#[derive(Clone, Debug)]
pub struct Membership {
    node: NodeId,
    incarnation: Incarnation,
    times: MembershipTimes,
    durable: Durable,
    /// The other configured nodes, by rising id.
    peers: Vec<PeerWatch>,
    broken: Vec<BrokenPath>,
    mended: Vec<BrokenPath>,
    floor: Epoch,
    leaving: bool,
    now: Time,
    started: Time,
    status_due: Time,
    round: Round,
    /// Since when another view than the present one should be.
    change_since: Option<Time>,
    /// No ballot before this.
    retry_at: Time,
    /// Count of the highest ballot that beat this node's; the next attempt goes above.
    outbid: u32,
    has_quorum: bool,
    lost_since: Option<Time>,
    /// Highest number that others were heard to hold.
    heard_of: Epoch,
    life_since: Time,
    /// This life was told that it is over.
    told_removed: bool,
}

impl Membership {
    /// A machine for `node`, among `configured` nodes (with it), with what this node persisted last.
    pub fn new(
        node: NodeId,
        incarnation: Incarnation,
        configured: &[NodeId],
        times: MembershipTimes,
        durable: Durable,
        now: Time,
    ) -> Membership {
        let mut others: Vec<NodeId> = configured.iter().copied().filter(|other| *other != node).collect();
        others.sort();
        others.dedup();
        Membership {
            node,
            incarnation,
            times,
            durable,
            peers: others.into_iter().map(|other| PeerWatch::new(other, now)).collect(),
            broken: Vec::new(),
            mended: Vec::new(),
            floor: Epoch(0),
            leaving: false,
            now,
            started: now,
            status_due: now,
            round: Round::Idle,
            change_since: None,
            retry_at: now,
            outbid: 0,
            has_quorum: false,
            lost_since: None,
            heard_of: Epoch(0),
            life_since: now,
            told_removed: false,
        }
    }

    /// The latest view; epoch 0 and no members before the first.
    pub fn view(&self) -> &View {
        &self.durable.view
    }

    /// Whether this node is a member in its present life.
    pub fn is_member(&self) -> bool {
        self.durable.view.has(self.me())
    }

    /// Whether a majority was reachable within the lease time.
    pub fn has_quorum(&self) -> bool {
        self.has_quorum
    }

    /// Takes in what happened and what time has brought.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => {}
            Input::PeerUp { node, incarnation } => self.peer_up(node, incarnation, out),
            Input::PeerDown { node } => self.peer_down(node),
            Input::Message { from, incarnation, message } => self.hear(from, incarnation, message, out),
            Input::PathBroken(path) => self.report(path, true),
            Input::PathMended(path) => self.report(path, false),
            Input::HeardOf(epoch) => self.heard_of = self.heard_of.max(epoch),
            Input::EpochSpent(epoch) => {
                self.status_due = self.now;
                self.floor = self.floor.max(epoch.min(EPOCH_MAX));
            }
            Input::Failed(member) => self.hear_of_end(member, true),
            Input::Ending(member) => self.hear_of_end(member, false),
            Input::Leave => (self.leaving, self.status_due) = (true, self.now),
            Input::Reincarnate(incarnation) => {
                assert!(incarnation > self.incarnation, "a life must be later than the one before");
                (self.incarnation, self.status_due) = (incarnation, self.now);
                self.life_since = self.now;
                self.told_removed = false;
            }
        }
        self.watch_quorum(out);
        self.seek_change(out);
        if self.now >= self.status_due {
            self.status_due = self.now + STATUS_PERIOD;
            let status = Message::Status(self.status());
            self.broadcast(&status, out);
        }
    }

    /// When to call [`Membership::handle`] with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Time {
        let mut deadline = self.status_due;
        let mut by = |time: Time| {
            if time > self.now {
                deadline = deadline.min(time);
            }
        };
        self.peers.iter().filter_map(|peer| peer.gone_at(self.times.suspect)).for_each(&mut by);
        if let (Some(since), true) = (self.lost_since, self.has_quorum) {
            by(since + self.times.lease);
        }
        if let Some(at) = self.stranded_at() {
            by(at);
        }
        if let Some(deadline) = self.round.deadline() {
            by(deadline);
        }
        if self.change_since.is_some() {
            by(self.retry_at);
            by(self.started + self.settling());
            if let Some(turn) = self.turn() {
                by(turn);
            }
        }
        deadline
    }

    fn me(&self) -> Member {
        Member { node: self.node, incarnation: self.incarnation }
    }

    fn majority(&self) -> usize {
        let configured = self.peers.len() + 1;
        configured / 2 + 1
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
        self.send(node, Message::Status(self.status()), out);
    }

    fn peer_down(&mut self, node: NodeId) {
        let now = self.now;
        let Some(peer) = self.peer(node) else { return };
        if peer.up {
            (peer.up, peer.down_since) = (false, now);
        }
    }

    fn hear_of_end(&mut self, member: Member, failed: bool) {
        let Some(peer) = self.peer(member.node) else { return };
        let known = if failed { &mut peer.failed } else { &mut peer.ending };
        *known = (*known).max(member.incarnation);
        // The others may not have heard it, and count on the word of everyone who reaches that node.
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

    /// Forgets reports that the view shows.
    fn drop_settled_reports(&mut self) {
        let shown = &self.durable.view.broken;
        self.broken.retain(|path| !shown.contains(path));
        self.mended.retain(|path| shown.contains(path));
    }

    fn status(&self) -> Status {
        let (view, suspect) = (&self.durable.view, self.times.suspect);
        // The others hold one that nobody heard for there, for a while; only one that was heard is vouched
        // for.
        let met = self.peers.iter().filter(|peer| peer.incarnation > Incarnation(0));
        Status {
            epoch: view.epoch,
            incarnation: self.incarnation,
            floor: self.floor,
            leaving: self.leaving,
            reaches: met.filter_map(|peer| peer.life(self.now, suspect, view)).collect(),
            broken: self.broken.clone(),
            mended: self.mended.clone(),
        }
    }

    fn watch_quorum(&mut self, out: &mut Vec<Output>) {
        let reached = 1 + self.peers.iter().filter(|peer| peer.is_reached()).count();
        if reached >= self.majority() {
            self.lost_since = None;
            if !self.has_quorum {
                self.has_quorum = true;
                out.push(Output::QuorumRegained);
            }
            return;
        }
        let since = *self.lost_since.get_or_insert(self.now);
        if self.has_quorum && self.now >= since + self.times.lease {
            self.has_quorum = false;
            out.push(Output::QuorumLost);
        }
        if self.stranded_at().is_some_and(|at| self.now >= at) {
            self.told_removed = true;
            out.push(Output::Removed);
        }
    }

    /// When this life counts as over although nobody could tell so. The others refuse connections of a life
    /// that they removed, so such a node hears of newer views by heartbeats alone. A new life is always safe;
    /// it costs the old one's requests an unknown outcome, so it is not begun lightly.
    fn stranded_at(&self) -> Option<Time> {
        let since = self.lost_since?.max(self.life_since);
        let patience = self.times.lease * if self.is_member() { 1 } else { 4 };
        (self.heard_of > self.durable.view.epoch && !self.told_removed).then_some(since + patience)
    }

    // --- messages ---

    fn hear(&mut self, from: NodeId, incarnation: Incarnation, message: Message, out: &mut Vec<Output>) {
        let Some(peer) = self.peer(from) else { return };
        peer.meet(incarnation);
        if incarnation < peer.incarnation {
            return;
        }
        match message {
            Message::Status(status) => self.hear_status(from, status, out),
            Message::Prepare { after, ballot } => self.hear_prepare(from, after, ballot, out),
            Message::Promise { after, ballot, accepted } => {
                self.hear_promise(from, after, ballot, accepted, out);
            }
            Message::Accept { after, ballot, view } => self.hear_accept(from, after, ballot, view, out),
            Message::Accepted { after, ballot } => self.hear_accepted(from, after, ballot, out),
            Message::Refused { after, promised } => self.hear_refused(after, promised),
            Message::Commit(view) => self.adopt(view, out),
        }
    }

    fn hear_status(&mut self, from: NodeId, status: Status, out: &mut Vec<Output>) {
        let epoch = status.epoch;
        if let Some(peer) = self.peer(from)
            && peer.incarnation == status.incarnation
        {
            peer.status = Some(status);
        }
        self.level(from, epoch, out);
    }

    /// Brings the two sides to the higher of their views. True if they are level already.
    fn level(&self, peer: NodeId, epoch: Epoch, out: &mut Vec<Output>) -> bool {
        let ours = self.durable.view.epoch;
        if epoch < ours {
            self.send(peer, Message::Commit(self.durable.view.clone()), out);
        } else if epoch > ours {
            self.send(peer, Message::Status(self.status()), out);
        }
        epoch == ours
    }

    /// Takes over a view that was decided.
    fn adopt(&mut self, view: View, out: &mut Vec<Output>) {
        if view.epoch <= self.durable.view.epoch {
            return;
        }
        // Not "was a member": it may have joined and been removed before it heard of either.
        let me = self.me();
        let removed = view.departed(me) && !self.durable.view.departed(me) && !self.told_removed;
        self.durable = Durable { view: view.clone(), promised: Ballot::NONE, accepted: None };
        self.round = Round::Idle;
        self.change_since = None;
        self.retry_at = self.now;
        self.status_due = self.now;
        self.drop_settled_reports();
        out.push(Output::Persist(self.durable.clone()));
        out.push(Output::NewView(view));
        self.told_removed |= removed;
        if removed {
            out.push(if self.leaving { Output::Left } else { Output::Removed });
        }
    }
}

#[cfg(test)]
#[path = "ballot_membership/tests.rs"]
mod tests;
