//! Rails from dial to loss: handshakes, lives of peers, failover; and the configuration's changes to them.

use crate::client::{PeerEvent, Tag};
use crate::core::{Core, Notice, Owner, Place};
use crate::peer::{Peer, RailEnd};
use crate::plan::{PeerPlan, RailAddress, RailPlan};
use crate::providers::Wire;
use core::time::Duration;
use std::collections::VecDeque;
use transport_proto::handshake::{
    Acquaintance, Established, Handshake, HandshakeFault, Introduction, Nonce, Step,
};
use transport_proto::identity::{ClientId, Epoch, Incarnation, NodeId, Path};
use transport_proto::rail::{RailAction, RailState};
use transport_proto::time::Time;
use transport_proto::window::WINDOW;
use transport_proto::wire::{DATA_BYTES_MAX, FrameHeader};
use transport_provider::{ListenRefusal, PayloadSlice, RailFault, RailName};

/// A handshake under way.
pub(crate) struct Handshaking {
    machine: Handshake,
    path: Path,
    deadline: Time,
}

/// An address that this node listens on.
#[derive(Debug)]
pub(crate) struct Listener {
    name: RailName,
    address: RailAddress,
}

/// Handshakes that failed, and the last reasons; for `status`, and to log each reason once.
#[derive(Debug, Default)]
pub(crate) struct HandshakeFaults {
    pub(crate) count: u64,
    logged: VecDeque<(Path, HandshakeFault)>,
}

/// Reasons remembered as logged. One that is not among them any more is logged again.
const REASONS_MAX: usize = 64;

/// A stranger that has not finished its handshake by then is dropped.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(2);

impl Core {
    /// Adds a peer, or brings a known one in line with a changed plan: rails that are new connect, rails that
    /// are gone are closed and their traffic moves, rails that stay are not touched. Seen by no client,
    /// unless the peer loses its last rail.
    pub fn set_peer(&mut self, plan: &PeerPlan) -> Result<(), ListenRefusal> {
        let at = match self.position(plan.node) {
            Some(at) => at,
            None => self.add_peer(plan),
        };
        self.peers[at].session.routes_mut().set_spread(plan.spread);
        for rail in &plan.rails {
            let known = self.peers[at].rail(rail.path);
            if known.is_some_and(|known| self.peers[at].rails[known].plan == *rail) {
                continue;
            }
            if let Some(known) = known {
                self.retire(at, known);
            }
            self.peers[at].add_rail(self.now, self.node, rail.clone());
            self.catch_up(at, rail);
        }
        for known in 0..self.peers[at].rails.len() {
            let end = &self.peers[at].rails[known];
            if !end.retired && !plan.rails.contains(&end.plan) {
                self.retire(at, known);
            }
        }
        self.rails_deadline = self.now;
        self.listen()
    }

    /// The monitor may have watched a new rail for a while and says nothing twice.
    fn catch_up(&mut self, at: usize, plan: &RailPlan) {
        let spoken = self.verdicts.latest(self.peers[at].node, plan.path).filter(|_| plan.monitored);
        if let (Some(verdict), Some(rail)) = (spoken, self.peers[at].rail(plan.path)) {
            self.peers[at].session.routes_mut().set_round_trip(plan.path, verdict.round_trip);
            let action = self.peers[at].rails[rail].machine.verdict(self.now, verdict.up);
            self.act(at, rail, action);
        }
    }

    fn add_peer(&mut self, plan: &PeerPlan) -> usize {
        let bare = PeerPlan { rails: Vec::new(), ..plan.clone() };
        let mut peer = Peer::new(self.now, self.node, self.incarnation, &bare);
        peer.session.configure(self.epoch, true);
        for client in 0..32 {
            if self.clients & (1 << client) != 0 {
                peer.session.open(ClientId(client));
            }
        }
        let node = usize::from(plan.node.0);
        if self.peer_at.len() <= node {
            self.peer_at.resize(node + 1, u16::MAX);
        }
        self.peer_at[node] = self.peers.len() as u16;
        self.peers.push(peer);
        self.peers.len() - 1
    }

    /// Forgets a peer's rails and ends its session: the configuration no longer has it.
    pub fn remove_peer(&mut self, node: NodeId) {
        let Some(at) = self.position(node) else { return };
        for rail in 0..self.peers[at].rails.len() {
            if !self.peers[at].rails[rail].retired {
                self.retire(at, rail);
            }
        }
        self.drop_life(at);
        let _ = self.listen();
    }

    /// Brings the listeners in line with the rails: one per local address on which a peer with a higher id
    /// dials. The first address that cannot be listened on is reported; all others are served, and the next
    /// call tries it again.
    fn listen(&mut self) -> Result<(), ListenRefusal> {
        let mut wanted: Vec<(Path, RailAddress)> = Vec::new();
        for peer in self.peers.iter().filter(|peer| peer.node > self.node) {
            for rail in peer.rails.iter().filter(|rail| !rail.retired) {
                let listener = (rail.plan.path, rail.plan.local.clone());
                if !wanted.contains(&listener) {
                    wanted.push(listener);
                }
            }
        }
        let providers = &mut self.providers;
        self.listeners.retain(|listener| {
            let keep = wanted.contains(&(listener.name.path, listener.address.clone()));
            if !keep {
                providers.unlisten(listener.name, listener.address.kind());
            }
            keep
        });
        let mut refused = Ok(());
        for (path, address) in wanted {
            let known =
                self.listeners.iter().any(|known| known.name.path == path && known.address == address);
            if !known {
                // The peer is known only after the handshake; the number tells listeners of one path apart.
                let taken = |number| self.listeners.iter().any(|known| known.name.peer == NodeId(number));
                let number = (0..u16::MAX).rev().find(|number| !taken(*number)).unwrap_or(0);
                let name = RailName { peer: NodeId(number), path };
                match self.providers.listen(name, &address) {
                    Ok(()) => self.listeners.push(Listener { name, address }),
                    Err(refusal) => refused = refused.and(Err(refusal)),
                }
            }
        }
        refused
    }

    /// Whether peers can call at this end of a rail, or need not since this side calls.
    pub(crate) fn is_open_to_calls(&self, at: usize, rail: usize) -> bool {
        let (peer, plan) = (&self.peers[at], &self.peers[at].rails[rail].plan);
        let serves = |known: &Listener| known.name.path == plan.path && known.address == plan.local;
        peer.node < self.node || self.listeners.iter().any(serves)
    }

    fn retire(&mut self, at: usize, rail: usize) {
        let end = &mut self.peers[at].rails[rail];
        end.retired = true;
        let action = end.machine.fail();
        self.act(at, rail, action);
    }

    /// A new configuration: its number and its members. The present life of a peer that was a member and is
    /// none any more stays out. Whoever knows which lives have left says so by [`Core::configure_lives`].
    pub fn configure(&mut self, epoch: Epoch, members: &[NodeId]) {
        let leaves = |peer: &&Peer| peer.session.is_member() && !members.contains(&peer.node);
        let departed: Vec<(NodeId, Incarnation)> =
            self.peers.iter().filter(leaves).map(|peer| (peer.node, peer.latest)).collect();
        self.configure_lives(epoch, members, &departed);
    }

    /// A new configuration: its number, its members, and the last life of each node that has left. The
    /// session with such a life ends, it stays out, and frames that are still under way from it are dropped
    /// (SPEC T11). A later life of that node may be here already, waiting to become a member; its session
    /// goes on.
    pub fn configure_lives(&mut self, epoch: Epoch, members: &[NodeId], departed: &[(NodeId, Incarnation)]) {
        self.epoch = epoch;
        for at in 0..self.peers.len() {
            let node = self.peers[at].node;
            let replays = self.peers[at].session.configure(epoch, members.contains(&node));
            self.peers[at].stalled |= replays;
            if members.contains(&node) {
                self.restart_rails(at, |end| end.withheld);
            }
            let Some(&(_, gone)) = departed.iter().find(|(left, _)| *left == node) else { continue };
            self.peers[at].dead = self.peers[at].dead.max(gone);
            if self.peers[at].session.peer_incarnation().is_some_and(|life| life <= gone) {
                self.drop_life(at);
            }
        }
    }

    /// Closes those of a peer's rails, to connect anew; what they carried is sent again.
    pub(crate) fn restart_rails(&mut self, at: usize, which: impl Fn(&RailEnd) -> bool) {
        for rail in 0..self.peers[at].rails.len() {
            if which(&self.peers[at].rails[rail]) {
                let action = self.peers[at].rails[rail].machine.fail();
                self.act(at, rail, action);
            }
        }
    }

    /// Ends the session with a peer for good: nothing of its present life is heard again.
    fn drop_life(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        peer.dead = peer.dead.max(peer.latest);
        let node = peer.node;
        self.reset(at);
        self.notices.push(Notice::Peer(PeerEvent::Gone { node }));
    }

    /// Gives this node a new life without ending its process: after it was fenced, everything that it had
    /// under way is of unknown outcome, and it comes back as a new member would. Must be larger than every
    /// earlier one.
    pub fn reincarnate(&mut self, incarnation: Incarnation) {
        assert!(incarnation > self.incarnation, "a life must be later than the one before");
        self.incarnation = incarnation;
        for at in 0..self.peers.len() {
            self.reset(at);
        }
        // Who is being greeted was introduced to the life that is over.
        for wire in core::mem::take(&mut self.handshakes).into_keys() {
            if self.owner(wire) == Owner::Stranger {
                self.own(wire, Owner::Nobody);
                self.providers.close(wire);
            }
        }
    }

    /// Ends the session with the peer's present life: closes its rails, reports what is of unknown outcome.
    fn reset(&mut self, at: usize) {
        let mut unknown: Vec<(ClientId, Tag)> = Vec::new();
        let outgoing = &mut self.outgoing;
        let peer = &mut self.peers[at];
        peer.session
            .reset(self.incarnation, |client, kept| unknown.push((client, outgoing.release(kept.message))));
        peer.wires = [None; Path::COUNT_MAX];
        // Leases of the old life stay with their holders; the new life begins with ledgers of its own.
        peer.ledgers = core::array::from_fn(|_| std::sync::Arc::default());
        peer.told = Default::default();
        peer.lending = 0;
        let was_reachable = core::mem::take(&mut peer.reachable);
        let node = peer.node;
        if was_reachable {
            // The rails fall without a further word, and may not rise again.
            self.notices.push(Notice::Peer(PeerEvent::Unreachable { node }));
        }
        for (client, tag) in unknown {
            self.notice_unknown(node, client, tag);
        }
        for rail in 0..self.peers[at].rails.len() {
            let action = self.peers[at].rails[rail].machine.fail();
            self.act(at, rail, action);
        }
    }

    // --- rails ---

    /// Does what a rail's machine wants done.
    pub(crate) fn act(&mut self, at: usize, rail: usize, action: RailAction) {
        match action {
            RailAction::None => {}
            RailAction::Dial => self.dial(at, rail),
            RailAction::Close => self.close_rail(at, rail),
            RailAction::Raise => self.raise(at, rail),
            RailAction::Lower => self.lower(at, rail),
            RailAction::LowerAndClose => {
                self.lower(at, rail);
                self.close_rail(at, rail);
            }
        }
        // A retired rail is not ticked, so its deadline would never pass and no sleep would last.
        let end = &self.peers[at].rails[rail];
        if !end.retired {
            self.rails_deadline = self.rails_deadline.min(end.machine.deadline());
        }
    }

    fn dial(&mut self, at: usize, rail: usize) {
        let peer = &self.peers[at];
        let end = &peer.rails[rail];
        if end.retired {
            return;
        }
        let name = RailName { peer: peer.node, path: end.plan.path };
        let (local, remote) = (end.plan.local.clone(), end.plan.remote.clone());
        match self.providers.dial(self.now, name, &local, &remote) {
            Some(Ok(wire)) => {
                self.peers[at].rails[rail].wire = Some(wire);
                self.own(wire, Owner::Rail { peer: at, rail });
            }
            Some(Err(_)) | None => self.peers[at].rails[rail].machine.dial_refused(self.now),
        }
    }

    fn close_rail(&mut self, at: usize, rail: usize) {
        if let Some(wire) = self.peers[at].rails[rail].wire {
            self.providers.close(wire);
        }
    }

    fn raise(&mut self, at: usize, rail: usize) {
        let peer = &mut self.peers[at];
        let end = &peer.rails[rail];
        let path = end.plan.path;
        peer.wires[path.index()] = end.wire;
        peer.session.path_up(self.now, path);
        let node = peer.node;
        if !peer.reachable {
            peer.reachable = true;
            self.notices.push(Notice::Peer(PeerEvent::Reachable { node }));
        }
        tracing::info!(peer = node.0, link = path.link.0, rail = path.rail.0, "rail up");
        self.pump(at);
    }

    fn lower(&mut self, at: usize, rail: usize) {
        let peer = &mut self.peers[at];
        let path = peer.rails[rail].plan.path;
        peer.wires[path.index()] = None;
        // What was built in memory of this rail needs other memory now.
        peer.needy = u32::MAX;
        let replayed = peer.session.path_down(self.now, path);
        let node = peer.node;
        tracing::info!(peer = node.0, link = path.link.0, rail = path.rail.0, replayed, "rail down");
        if peer.reachable && !peer.session.routes().any_up() {
            peer.reachable = false;
            self.notices.push(Notice::Peer(PeerEvent::Unreachable { node }));
        }
        self.pump(at);
    }

    /// Ticks machines whose time has come, drops strangers that dawdle, forgets retired rails.
    pub(crate) fn tick_rails(&mut self) {
        if self.now < self.rails_deadline {
            return;
        }
        self.rails_deadline = Time::NEVER;
        for at in 0..self.peers.len() {
            for rail in 0..self.peers[at].rails.len() {
                let end = &mut self.peers[at].rails[rail];
                let action = if end.retired { RailAction::None } else { end.machine.tick(self.now) };
                self.act(at, rail, action);
            }
        }
        let late: Vec<Wire> = self
            .handshakes
            .iter()
            .filter(|(_, under_way)| under_way.deadline <= self.now)
            .map(|(w, _)| *w)
            .collect();
        for wire in late {
            self.handshakes.remove(&wire);
            self.providers.close(wire);
        }
        let next = self.handshakes.values().map(|under_way| under_way.deadline).min();
        self.rails_deadline = self.rails_deadline.min(next.unwrap_or(Time::NEVER));
    }

    /// Takes in what the connectivity monitor has said.
    pub(crate) fn take_verdicts(&mut self) {
        let Some(verdicts) = self.verdicts.take() else { return };
        for verdict in verdicts {
            let Some(at) = self.position(verdict.peer) else { continue };
            let peer = &mut self.peers[at];
            peer.session.routes_mut().set_round_trip(verdict.path, verdict.round_trip);
            let Some(rail) = peer.rail(verdict.path) else { continue };
            if peer.rails[rail].plan.monitored {
                let action = peer.rails[rail].machine.verdict(self.now, verdict.up);
                self.act(at, rail, action);
            }
        }
    }

    // --- connections ---

    pub(crate) fn own(&mut self, wire: Wire, owner: Owner) {
        let table = &mut self.owners[wire.kind as usize];
        let slot = wire.connection.slot();
        if table.len() <= slot {
            table.resize(slot + 1, Place { wire: None, owner: Owner::Nobody, proven: false });
        }
        table[slot] = Place { wire: Some(wire), owner, proven: false };
    }

    /// The table's word on a connection.
    #[inline]
    fn place(&self, wire: Wire) -> Option<&Place> {
        let place = self.owners[wire.kind as usize].get(wire.connection.slot())?;
        (place.wire == Some(wire)).then_some(place)
    }

    #[inline]
    pub(crate) fn owner(&self, wire: Wire) -> Owner {
        self.place(wire).map_or(Owner::Nobody, |place| place.owner)
    }

    /// The peer whose words a connection's frames are.
    #[inline]
    pub(crate) fn speaker(&self, wire: Wire) -> Option<usize> {
        match self.place(wire) {
            Some(Place { owner: Owner::Rail { peer, .. }, proven: true, .. }) => Some(*peer),
            _ => None,
        }
    }

    /// The other end of a connection has proved to be the peer whose rail it is.
    fn prove(&mut self, wire: Wire) {
        let slot = wire.connection.slot();
        if let Some(place) = self.owners[wire.kind as usize].get_mut(slot)
            && place.wire == Some(wire)
        {
            place.proven = true;
        }
    }

    /// The peer and rail whose connection this is.
    fn rail_on(&self, wire: Wire) -> Option<(usize, usize)> {
        self.peers.iter().enumerate().find_map(|(at, peer)| {
            let rail = peer.rails.iter().position(|end| end.wire == Some(wire))?;
            Some((at, rail))
        })
    }

    pub(crate) fn on_accepted(&mut self, wire: Wire, name: RailName) {
        let here = self.listeners.iter().find(|listener| listener.name == name);
        let Some(address) = here.map(|listener| listener.address.clone()) else {
            self.providers.close(wire);
            return;
        };
        let mut acquaintances = Vec::new();
        for peer in &self.peers {
            for end in peer.rails.iter().filter(|end| !end.retired) {
                if end.plan.path == name.path && end.plan.local == address && peer.node > self.node {
                    acquaintances.push(Acquaintance {
                        node: peer.node,
                        incarnation: peer.life_min(),
                        last_generation: end.generation,
                    });
                }
            }
        }
        let Some(nonce) = nonce() else {
            self.providers.close(wire);
            return;
        };
        let path = name.path;
        let machine = Handshake::accept(&self.key, self.introduction(), path, &acquaintances, nonce);
        let deadline = self.now + HANDSHAKE_TIME_MAX;
        self.handshakes.insert(wire, Handshaking { machine, path, deadline });
        self.rails_deadline = self.rails_deadline.min(deadline);
        self.own(wire, Owner::Stranger);
    }

    pub(crate) fn on_connected(&mut self, wire: Wire) {
        let Owner::Rail { peer: at, rail } = self.owner(wire) else { return };
        let (peer, Some(nonce)) = (&self.peers[at], nonce()) else { return };
        let end = &peer.rails[rail];
        let path = end.plan.path;
        let acquaintance =
            Acquaintance { node: peer.node, incarnation: peer.life_min(), last_generation: end.generation };
        let (machine, hello) = Handshake::dial(&self.key, self.introduction(), path, acquaintance, nonce);
        let deadline = self.now + HANDSHAKE_TIME_MAX;
        self.handshakes.insert(wire, Handshaking { machine, path, deadline });
        self.rails_deadline = self.rails_deadline.min(deadline);
        let _ = self.providers.post(wire, &hello.header, hello.control(), &[], PayloadSlice::EMPTY);
    }

    fn introduction(&self) -> Introduction {
        Introduction {
            node: self.node,
            incarnation: self.incarnation,
            epoch: self.epoch,
            highest_epoch: self.epoch,
            features: 0,
            data_bytes_max: DATA_BYTES_MAX as u32,
            window: WINDOW as u32,
        }
    }

    /// A frame on a connection whose handshake is under way.
    pub(crate) fn on_greeting(&mut self, wire: Wire, header: &FrameHeader, control: &[u8]) {
        let Some(under_way) = self.handshakes.get_mut(&wire) else { return };
        match under_way.machine.handle(header, control) {
            Ok(Step::Send(frame)) => {
                let _ = self.providers.post(wire, &frame.header, frame.control(), &[], PayloadSlice::EMPTY);
            }
            Ok(Step::SendAndEstablish(frame, established)) => {
                let _ = self.providers.post(wire, &frame.header, frame.control(), &[], PayloadSlice::EMPTY);
                self.providers.flush(true);
                self.greeted(wire, &established);
            }
            Ok(Step::Establish(established)) => self.greeted(wire, &established),
            Err(fault) => {
                self.handshakes.remove(&wire);
                self.providers.close(wire);
                self.count_fault(header.path(), fault);
            }
        }
    }

    fn count_fault(&mut self, path: Path, fault: HandshakeFault) {
        self.faults.count += 1;
        if !self.faults.logged.contains(&(path, fault)) {
            if self.faults.logged.len() == REASONS_MAX {
                self.faults.logged.pop_front();
            }
            self.faults.logged.push_back((path, fault));
            tracing::warn!(link = path.link.0, rail = path.rail.0, "connection refused: {fault}");
        }
    }

    /// The peer at the other end has proved itself.
    fn greeted(&mut self, wire: Wire, established: &Established) {
        let Some(under_way) = self.handshakes.remove(&wire) else { return };
        let place = match self.owner(wire) {
            Owner::Rail { peer, rail } => Some((peer, rail)),
            Owner::Stranger => self.place_of(under_way.path, established.peer),
            Owner::Nobody => None,
        };
        let Some((at, rail)) = place else {
            self.providers.close(wire);
            return;
        };
        // The peer may have died and come back, or been dropped, while this handshake was under way.
        if established.incarnation < self.peers[at].life_min() {
            self.providers.close(wire);
            return;
        }
        self.meet(at, wire, established.incarnation);
        let stranger = self.owner(wire) == Owner::Stranger;
        let end = &mut self.peers[at].rails[rail];
        end.generation = established.generation;
        end.connections += 1;
        if stranger {
            self.displace(at, rail, wire);
        }
        self.prove(wire);
        self.providers.establish(wire);
    }

    /// Meets the peer's life: ends the session with an earlier one.
    fn meet(&mut self, at: usize, wire: Wire, incarnation: Incarnation) {
        let node = self.peers[at].node;
        let known = self.peers[at].session.peer_incarnation();
        if known == Some(incarnation) {
            return;
        }
        let own_rail = match self.owner(wire) {
            Owner::Rail { rail, .. } => Some(rail),
            _ => None,
        };
        if known.is_some() {
            // The rail that brings the news must outlive the reset.
            let kept = own_rail.map(|rail| (rail, self.peers[at].rails[rail].machine.clone()));
            let kept_wire = own_rail.and_then(|rail| self.peers[at].rails[rail].wire.take());
            self.reset(at);
            if let (Some((rail, machine)), Some(wire)) = (kept, kept_wire) {
                self.peers[at].rails[rail].machine = machine;
                self.peers[at].rails[rail].wire = Some(wire);
            }
        }
        let peer = &mut self.peers[at];
        peer.latest = incarnation;
        let met = peer.session.meet(incarnation);
        debug_assert!(met);
        let event = match known {
            None => PeerEvent::Up { node, incarnation },
            Some(_) => PeerEvent::Restarted { node, incarnation },
        };
        self.notices.push(Notice::Peer(event));
    }

    /// The rail for which a stranger came, now that it is known.
    fn place_of(&self, path: Path, peer: NodeId) -> Option<(usize, usize)> {
        let at = self.position(peer)?;
        let rail = self.peers[at].rails.iter().position(|end| end.plan.path == path && !end.retired)?;
        Some((at, rail))
    }

    /// Puts a new connection in a rail's place; the one it had is older (the peer dials only when it has
    /// none).
    fn displace(&mut self, at: usize, rail: usize, wire: Wire) {
        if let Some(old) = self.peers[at].rails[rail].wire.take() {
            self.own(old, Owner::Nobody);
            self.handshakes.remove(&old);
            self.providers.close(old);
        }
        if self.peers[at].rails[rail].machine.state() != RailState::Down {
            let action = self.peers[at].rails[rail].machine.lost(self.now);
            self.act(at, rail, action);
        }
        let end = &mut self.peers[at].rails[rail];
        (end.wire, end.withheld) = (Some(wire), false);
        end.machine.accepted(self.now);
        self.rails_deadline = self.rails_deadline.min(end.machine.deadline());
        self.own(wire, Owner::Rail { peer: at, rail });
    }

    pub(crate) fn on_established(&mut self, wire: Wire) {
        if let Owner::Rail { peer: at, rail } = self.owner(wire) {
            let action = self.peers[at].rails[rail].machine.established(self.now);
            self.act(at, rail, action);
        }
    }

    pub(crate) fn on_lost(&mut self, wire: Wire, fault: RailFault) {
        let greeted = self.handshakes.remove(&wire);
        if let Some(Handshaking { path, .. }) = greeted.filter(|_| fault == RailFault::Protocol) {
            self.count_fault(path, HandshakeFault::Malformed);
        }
        // Not by the table of owners: a new connection may have the lost one's place there already.
        let rail = self.rail_on(wire);
        if self.place(wire).is_some() {
            self.own(wire, Owner::Nobody);
        }
        if let Some((at, rail)) = rail {
            let end = &mut self.peers[at].rails[rail];
            (end.wire, end.withheld) = (None, false);
            if fault == RailFault::Protocol {
                let path = end.plan.path;
                tracing::warn!(
                    peer = self.peers[at].node.0,
                    link = path.link.0,
                    rail = path.rail.0,
                    "peer broke the protocol; run one release on all nodes"
                );
            }
            let action = self.peers[at].rails[rail].machine.lost(self.now);
            self.act(at, rail, action);
        }
    }

    /// A peer sent what no peer sends: its rail starts over.
    pub(crate) fn protocol_fault(&mut self, at: usize, rail: usize) {
        let action = self.peers[at].rails[rail].machine.fail();
        self.act(at, rail, action);
    }
}

/// Randomness for one handshake; `None` if the system has none to give, which ends the connection.
fn nonce() -> Option<Nonce> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(Nonce(bytes))
}

impl Core {
    /// Cuts a rail's connection, as a fault would: its traffic moves, and it connects anew. For tests,
    /// drills, and the administrator who wants a rail to start over. `false`: there is no such rail.
    pub fn cut_rail(&mut self, node: NodeId, path: Path) -> bool {
        let Some(at) = self.position(node) else { return false };
        let Some(rail) = self.peers[at].rail(path) else { return false };
        let action = self.peers[at].rails[rail].machine.fail();
        self.act(at, rail, action);
        true
    }
}
