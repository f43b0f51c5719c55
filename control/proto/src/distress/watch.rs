//! What a node makes of the signals of others.

use super::{Level, Reason, Signal, SignalFault};
use crate::view::Member;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{Epoch, Incarnation, NodeId};

/// How a peer stands, as far as its own words tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is heard.
    Present,
    /// It is not heard and said nothing: dead or cut off, nobody here can tell. Only time decides.
    Silent,
    /// It said that it is about to stop, and serves until it has fenced itself.
    Ending(Reason),
    /// It said that it fails. No partition looks like this.
    Failed(Reason, Level),
}

/// A life that said its end; what the receiver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The life.
    pub member: Member,
    /// What must still be fenced before its duties go on elsewhere.
    pub level: Level,
    /// Why it ends.
    pub reason: Reason,
    /// In its own words.
    pub text: String,
    /// Its duties are to move now, without the suspect time. Else: only once it is not heard any more.
    pub at_once: bool,
}

/// Why a datagram had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DistressFault {
    /// No signal of this cluster.
    Signal(SignalFault),
    /// Of no other node of the configuration.
    Stranger {
        /// Whom it names.
        node: NodeId,
    },
    /// Of a life that is no member (any more): recorded and played again, or late.
    LifeOver {
        /// The life it names.
        member: Member,
    },
    /// This life said so already, or more than that: one of the copies, or played again.
    Repeated,
    /// It names a later configuration than this node has. Kept, and judged when that one is here.
    Ahead {
        /// The number it names.
        epoch: Epoch,
    },
}

impl fmt::Display for DistressFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DistressFault::Signal(fault) => fault.fmt(f),
            DistressFault::Stranger { node } => write!(f, "distress signal of {node}, which is no peer"),
            DistressFault::LifeOver { member } => {
                write!(f, "distress signal of a life of {} that is no member", member.node)
            }
            DistressFault::Repeated => f.write_str("distress signal that was heard before"),
            DistressFault::Ahead { epoch } => {
                write!(f, "distress signal of configuration {}, which is not here yet", epoch.0)
            }
        }
    }
}

impl core::error::Error for DistressFault {}

/// One other node.
#[derive(Clone, Debug)]
struct Peer {
    node: NodeId,
    /// The life in which it is a member here.
    member: Option<Incarnation>,
    /// The highest that its present life has said: level, then number of the forming.
    said: Option<(Level, u64, Reason)>,
    /// A signal of a configuration that is not here yet.
    ahead: Option<Signal>,
}

/// The receiving machine of one node. Give it each view ([`DistressWatch::view`]) and each datagram
/// ([`DistressWatch::hear`]). Holds one signal per peer at the most.
#[derive(Clone, Debug)]
pub struct DistressWatch {
    key: ClusterKey,
    epoch: Epoch,
    peers: Vec<Peer>,
    dropped: u64,
}

impl DistressWatch {
    /// A machine for `node` that listens to the others of `configured`.
    pub fn new(key: ClusterKey, node: NodeId, configured: &[NodeId]) -> DistressWatch {
        let mut watch = DistressWatch { key, epoch: Epoch(0), peers: Vec::new(), dropped: 0 };
        watch.configure(node, configured);
        watch
    }

    /// The nodes of the configuration from now on.
    pub fn configure(&mut self, node: NodeId, configured: &[NodeId]) {
        self.peers.retain(|peer| configured.contains(&peer.node));
        for other in configured.iter().filter(|other| **other != node) {
            if self.peers.iter().all(|peer| peer.node != *other) {
                self.peers.push(Peer { node: *other, member: None, said: None, ahead: None });
            }
        }
    }

    /// The members at a configuration number. Yields the endings that waited for it.
    pub fn view(&mut self, epoch: Epoch, members: &[Member]) -> Vec<Ending> {
        self.epoch = self.epoch.max(epoch);
        for peer in &mut self.peers {
            let member = members.iter().find(|member| member.node == peer.node);
            let life = member.map(|member| member.incarnation);
            if life != peer.member {
                (peer.member, peer.said) = (life, None);
            }
        }
        let waiting: Vec<Signal> = self.peers.iter_mut().filter_map(|peer| peer.ahead.take()).collect();
        waiting.into_iter().filter_map(|signal| self.judge(signal).ok()).collect()
    }

    /// A datagram came in. `Err`: it had no effect.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Ending, DistressFault> {
        let heard = Signal::open(&self.key, bytes).map_err(DistressFault::Signal);
        let judged = heard.and_then(|signal| self.judge(signal));
        self.dropped += u64::from(judged.is_err());
        judged
    }

    /// Datagrams without effect so far, copies among them.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How a peer stands; `is_heard`: a rail to it is up.
    pub fn standing(&self, node: NodeId, is_heard: bool) -> Standing {
        let said = self.peers.iter().find(|peer| peer.node == node).and_then(|peer| peer.said);
        match said {
            Some((level, _, reason)) if moves_at_once(reason, level) => Standing::Failed(reason, level),
            Some((level, _, reason)) if !is_heard => Standing::Failed(reason, level),
            Some((_, _, reason)) => Standing::Ending(reason),
            None if is_heard => Standing::Present,
            None => Standing::Silent,
        }
    }

    fn judge(&mut self, signal: Signal) -> Result<Ending, DistressFault> {
        let (member, epoch) = (signal.speaker.member, signal.speaker.epoch);
        let ours = self.epoch;
        let stranger = DistressFault::Stranger { node: member.node };
        let peer = self.peers.iter_mut().find(|peer| peer.node == member.node).ok_or(stranger)?;
        if peer.member.is_some_and(|life| member.incarnation < life) {
            return Err(DistressFault::LifeOver { member });
        }
        if peer.member != Some(member.incarnation) {
            if epoch <= ours {
                return Err(DistressFault::LifeOver { member });
            }
            // It joined in a configuration that is still on its way to us.
            let rank = |signal: &Signal| (signal.speaker.member.incarnation, signal.level);
            if peer.ahead.as_ref().is_none_or(|known| rank(known) < rank(&signal)) {
                peer.ahead = Some(signal);
            }
            return Err(DistressFault::Ahead { epoch });
        }
        let moves = moves_at_once(signal.reason, signal.level);
        if let Some((level, sequence, reason)) = peer.said {
            // More is said by a higher level, or by a crash in the middle of an orderly stop.
            let is_more = (moves_at_once(reason, level), level) < (moves, signal.level);
            if !is_more || signal.speaker.sequence < sequence {
                return Err(DistressFault::Repeated);
            }
        }
        peer.said = Some((signal.level, signal.speaker.sequence, signal.reason));
        let Signal { level, reason, text, .. } = signal;
        Ok(Ending { member, level, reason, text, at_once: moves })
    }
}

/// Whether a node's duties move on this word, or on the next one.
fn moves_at_once(reason: Reason, level: Level) -> bool {
    level == Level::Fenced || !reason.serves_until_fenced()
}
