//! Three frames by which the two ends of a fresh connection prove to each other that they hold the cluster's
//! key.
//!
//! ```text
//! dialer                                       listener
//!   HELLO       nonce D, proposal, mac  ──────►  for me? of my cluster? from a known node, in a living life?
//!   (verifies)  ◄──────  HELLO_ACK  nonce L, echo D, proposal, mac over both frames
//!   HELLO_DONE  echo L, mac over all three  ──►  (verifies)
//!   established                                   established
//! ```
//! Each hash covers every byte that went before (headers too, but for the two words that a provider fills in)
//! and names its own direction. So a recorded frame does not fit the fresh nonce of the other side, a frame
//! sent back to its sender fits no purpose of his, and one who listens learns two nonces and three hashes, of
//! no use later. What follows on the connection is not encrypted: the handshake says who is there, not that
//! nobody reads along.
//!
//! A machine makes one handshake: [`Handshake::dial`] or [`Handshake::accept`], then [`Handshake::handle`]
//! for each frame that arrives, until [`Step::Establish`] or a fault. After a fault the connection is to be
//! closed; nothing that the peer said counts. The caller gives up after [`HANDSHAKE_TIME_MAX`].

mod exercise;

pub use exercise::exercise;

use crate::cluster_key::{ClusterKey, ClusterTag, Purpose};
use crate::identity::{Epoch, Incarnation, NodeId, Path, RailGeneration};
use crate::wire::{CONTROL_BYTES_MAX, FrameHeader, FrameType, HEADER_BYTES, VERSION};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A connection whose handshake is not over by then is closed by the reactor: it holds a slot that a real
/// peer needs.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(2);

/// Sixteen bytes that the caller drew from the operating system for this handshake alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

/// Control part of all three frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HelloPart {
    /// Which cluster, see [`ClusterTag`].
    pub cluster: [u8; 16],
    /// The sender's nonce.
    pub nonce: [u8; 16],
    /// The nonce of the one spoken to; zero in HELLO, whose sender cannot know it.
    pub echo: [u8; 16],
    /// Highest configuration number that the sender knows of, its own or told by others.
    pub highest_epoch: U64,
    /// `FEATURE_*` bits that the sender offers; both use those that both offer.
    pub features: U32,
    /// Largest data part that the sender takes, bytes; the smaller of both holds.
    pub data_bytes_max: U32,
    /// Messages of one client that the sender keeps for replay; the smaller of both holds.
    pub window: U32,
    /// Proposal for the rail's generation; in HELLO_DONE, the agreed one.
    pub generation: U16,
    /// Zero.
    pub reserved: U16,
    /// HMAC-SHA256 over everything said so far, this frame included.
    pub mac: [u8; 32],
}

/// Bytes of a [`HelloPart`].
pub const HELLO_BYTES: usize = 104;
const _: () = assert!(size_of::<HelloPart>() == HELLO_BYTES && HELLO_BYTES <= CONTROL_BYTES_MAX);
const MAC_BYTES: usize = 32;

/// Feature: this side can put a checksum on data parts, see [`crate::wire::FLAG_DATA_CRC`].
pub const FEATURE_DATA_CRC: u32 = 1;

/// This side of a handshake.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// This node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// The configuration number in force here.
    pub epoch: Epoch,
    /// Highest configuration number heard of.
    pub highest_epoch: Epoch,
    /// `FEATURE_*` bits offered.
    pub features: u32,
    /// Largest data part taken, bytes.
    pub data_bytes_max: u32,
    /// Messages of one client kept for replay.
    pub window: u32,
}

/// What is known of a peer that may be at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquaintance {
    /// The peer.
    pub node: NodeId,
    /// Its latest known life; an earlier one is refused. Zero if none is known.
    pub incarnation: Incarnation,
    /// Generation of the last connection of this rail with it; zero if there was none.
    pub last_generation: RailGeneration,
}

/// A frame of the handshake, to be posted as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloFrame {
    /// Header, complete but for what the provider fills in.
    pub header: FrameHeader,
    /// Control part.
    pub part: HelloPart,
}

impl HelloFrame {
    /// The control part as bytes.
    pub fn control(&self) -> &[u8] {
        self.part.as_bytes()
    }
}

/// What both sides agreed on. Handed out only when the peer has proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    /// The peer.
    pub peer: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Generation of this connection, equal on both sides, different from all that either side remembers.
    pub generation: RailGeneration,
    /// The peer's configuration number.
    pub epoch: Epoch,
    /// Highest configuration number that the peer knows of.
    pub highest_epoch: Epoch,
    /// `FEATURE_*` bits that both offer.
    pub features: u32,
    /// Largest data part that both take, bytes.
    pub data_bytes_max: u32,
    /// Messages of one client that both keep for replay.
    pub window: u32,
}

/// What to do after a frame was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The listener answers HELLO: post this frame and wait for the next.
    Send(HelloFrame),
    /// The dialer is through: post this frame, then use the connection.
    SendAndEstablish(HelloFrame, Established),
    /// The listener is through: use the connection.
    Establish(Established),
}

/// Why a handshake ends without a connection. The peer (or whoever speaks in its place) is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFault {
    /// Another layout version.
    WrongVersion {
        /// The version found.
        found: u8,
    },
    /// Lengths or fields that no release of ours sends.
    Malformed,
    /// A frame that is not the next of the handshake.
    OutOfOrder {
        /// Number of the type found.
        found: u8,
        /// The type that was due.
        due: FrameType,
    },
    /// The peer belongs to another cluster.
    WrongCluster {
        /// The tag found.
        found: ClusterTag,
        /// This cluster's.
        ours: ClusterTag,
    },
    /// The hash does not fit: another key, or a forgery.
    WrongKey {
        /// The node that the sender claims to be.
        claimed: NodeId,
    },
    /// The frame is meant for another node.
    Misdirected {
        /// The node it is meant for.
        meant: NodeId,
        /// This node.
        ours: NodeId,
    },
    /// The frame names another link or rail than the one it came by.
    WrongPath {
        /// The path it names.
        found: Path,
        /// The path of this connection.
        ours: Path,
    },
    /// Another node than the one dialed answered.
    UnexpectedNode {
        /// The node that answered.
        found: NodeId,
        /// The node dialed.
        dialed: NodeId,
    },
    /// The dialer is no node that this rail leads to.
    NotAMember {
        /// The node that dialed.
        found: NodeId,
    },
    /// An earlier life than one that is already known: a leftover of a process that is gone.
    StaleIncarnation {
        /// The life found.
        found: Incarnation,
        /// The life known.
        known: Incarnation,
    },
    /// This side's own frame came back.
    Reflected,
    /// A frame of another handshake, played again.
    Replayed,
    /// The peer proved itself but reckons differently: its release does not fit ours.
    Disagreement,
}

impl fmt::Display for HandshakeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use HandshakeFault as Fault;
        match *self {
            Fault::WrongVersion { found } => {
                write!(
                    f,
                    "peer speaks layout version {found}, this node {VERSION}: run one release on all nodes"
                )
            }
            Fault::Malformed => {
                write!(f, "malformed handshake: something else than a netdisk node dials this address")
            }
            Fault::OutOfOrder { found, due } => {
                write!(
                    f,
                    "frame type {found} where {due:?} was due: the peer is no netdisk node or a faulty one"
                )
            }
            Fault::WrongCluster { found, ours } => write!(
                f,
                "peer belongs to cluster {found}, this node to {ours}: check [cluster] name and the rail \
                 addresses"
            ),
            Fault::WrongKey { claimed } => write!(
                f,
                "what claims to be {claimed} does not hold the cluster key: install one key file on all nodes"
            ),
            Fault::Misdirected { meant, ours } => write!(
                f,
                "frame for {meant} arrived at {ours}: two nodes share an address, or one runs with a wrong id"
            ),
            Fault::WrongPath { found, ours } => write!(
                f,
                "frame of {found} arrived by {ours}: rail addresses are swapped in one node's configuration"
            ),
            Fault::UnexpectedNode { found, dialed } => {
                write!(f, "{found} answered where {dialed} was dialed: correct the rail address of {dialed}")
            }
            Fault::NotAMember { found } => write!(
                f,
                "{found} is not at the other end of this rail by the configuration: add it, or stop that node"
            ),
            Fault::StaleIncarnation { found, known } => write!(
                f,
                "life {} of the peer is older than {}, known already: stop the old process, check the clock",
                found.0, known.0
            ),
            Fault::Reflected => write!(f, "own frame came back: the rail's address leads to this very node"),
            Fault::Replayed => write!(f, "frame of an earlier handshake: somebody plays recorded traffic"),
            Fault::Disagreement => {
                write!(f, "peer reckons another generation or no room at all: run one release on all nodes")
            }
        }
    }
}

impl core::error::Error for HandshakeFault {}

/// The generation after this one. Zero means "never connected" and is left out when the count wraps.
pub const fn next_generation(last: RailGeneration) -> RailGeneration {
    match last.0.wrapping_add(1) {
        0 => RailGeneration(1),
        next => RailGeneration(next),
    }
}

/// The later of two generations by serial number (RFC 1982), so that the count may wrap.
const fn later_generation(a: RailGeneration, b: RailGeneration) -> RailGeneration {
    if a.0.wrapping_sub(b.0) < 1 << 15 { a } else { b }
}

/// What all frames said so far, in order; the hash of each next frame covers it.
#[derive(Clone)]
struct Transcript {
    bytes: [u8; 3 * (HEADER_BYTES + HELLO_BYTES)],
    length: usize,
}

impl Transcript {
    const EMPTY: Transcript = Transcript { bytes: [0; 3 * (HEADER_BYTES + HELLO_BYTES)], length: 0 };

    /// Adds a frame, without the words that providers fill in.
    fn add(&mut self, frame: &HelloFrame) {
        let mut header = frame.header;
        header.rail_stamp = U64::ZERO;
        header.crc32c = U32::ZERO;
        for bytes in [header.as_bytes(), frame.control()] {
            self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
            self.length += bytes.len();
        }
    }

    /// All but the hash of the frame added last.
    fn signed_bytes(&self) -> &[u8] {
        &self.bytes[..self.length - MAC_BYTES]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    AwaitHello,
    AwaitHelloAck,
    AwaitHelloDone,
    Over,
}

/// One handshake on one connection, see the head of this file.
#[derive(Clone)]
pub struct Handshake {
    key: ClusterKey,
    ours: Introduction,
    path: Path,
    nonce: Nonce,
    stage: Stage,
    transcript: Transcript,
    /// Who may be at the other end; exactly the one dialed, for a dialer.
    acquaintances: Vec<Acquaintance>,
    /// The listener's conclusion from HELLO, handed out only after HELLO_DONE.
    conclusion: Option<Established>,
    proposal: RailGeneration,
    peer_nonce: [u8; 16],
}

impl Handshake {
    /// Begins as the side that dialed `peer` on `path`. The frame is to be posted first.
    pub fn dial(
        key: &ClusterKey,
        ours: Introduction,
        path: Path,
        peer: Acquaintance,
        nonce: Nonce,
    ) -> (Handshake, HelloFrame) {
        let mut machine = Handshake::new(key, ours, path, Vec::from([peer]), nonce, Stage::AwaitHelloAck);
        machine.proposal = next_generation(peer.last_generation);
        let hello = machine.frame(FrameType::Hello, Purpose::Hello, peer.node, machine.proposal);
        (machine, hello)
    }

    /// Begins as the side that was dialed on `path`, by one of `acquaintances`.
    pub fn accept(
        key: &ClusterKey,
        ours: Introduction,
        path: Path,
        acquaintances: &[Acquaintance],
        nonce: Nonce,
    ) -> Handshake {
        Handshake::new(key, ours, path, acquaintances.to_vec(), nonce, Stage::AwaitHello)
    }

    fn new(
        key: &ClusterKey,
        ours: Introduction,
        path: Path,
        acquaintances: Vec<Acquaintance>,
        nonce: Nonce,
        stage: Stage,
    ) -> Handshake {
        Handshake {
            key: key.clone(),
            ours,
            path,
            nonce,
            stage,
            transcript: Transcript::EMPTY,
            acquaintances,
            conclusion: None,
            proposal: RailGeneration(0),
            peer_nonce: [0; 16],
        }
    }

    /// Takes in a frame of the peer. After a fault, and after the handshake is over, every frame is a fault.
    pub fn handle(&mut self, header: &FrameHeader, control: &[u8]) -> Result<Step, HandshakeFault> {
        let (due, purpose) = self.due();
        let stage = core::mem::replace(&mut self.stage, Stage::Over);
        if stage == Stage::Over {
            return Err(HandshakeFault::OutOfOrder { found: header.frame_type, due });
        }
        let (frame, peer) = self.authenticate(header, control, due, purpose)?;
        match stage {
            Stage::AwaitHello => {
                self.proposal = next_generation(peer.last_generation);
                self.peer_nonce = frame.part.nonce;
                let ack = self.frame(FrameType::HelloAck, Purpose::HelloAck, peer.node, self.proposal);
                self.conclusion = Some(self.conclude(&frame)?);
                self.stage = Stage::AwaitHelloDone;
                Ok(Step::Send(ack))
            }
            Stage::AwaitHelloAck => {
                self.peer_nonce = frame.part.nonce;
                let established = self.conclude(&frame)?;
                let generation = established.generation;
                let done = self.frame(FrameType::HelloDone, Purpose::HelloDone, peer.node, generation);
                Ok(Step::SendAndEstablish(done, established))
            }
            Stage::AwaitHelloDone | Stage::Over => {
                let established = self.conclusion.take().ok_or(HandshakeFault::Disagreement)?;
                let same_speaker = frame.header.incarnation() == established.incarnation
                    && frame.header.source() == established.peer
                    && frame.part.nonce == self.peer_nonce;
                if !same_speaker || frame.part.generation.get() != established.generation.0 {
                    return Err(HandshakeFault::Disagreement);
                }
                Ok(Step::Establish(established))
            }
        }
    }

    /// The frame that is due, and the purpose of its hash. After the handshake nothing is due but traffic.
    fn due(&self) -> (FrameType, Purpose) {
        match self.stage {
            Stage::AwaitHello => (FrameType::Hello, Purpose::Hello),
            Stage::AwaitHelloAck => (FrameType::HelloAck, Purpose::HelloAck),
            Stage::AwaitHelloDone => (FrameType::HelloDone, Purpose::HelloDone),
            Stage::Over => (FrameType::Data, Purpose::HelloDone),
        }
    }

    /// Everything that must hold before a word of the frame is believed, cheapest and most telling first.
    fn authenticate(
        &mut self,
        header: &FrameHeader,
        control: &[u8],
        due: FrameType,
        purpose: Purpose,
    ) -> Result<(HelloFrame, Acquaintance), HandshakeFault> {
        if header.version != VERSION {
            return Err(HandshakeFault::WrongVersion { found: header.version });
        }
        if header.frame_type() != Some(due) {
            return Err(HandshakeFault::OutOfOrder { found: header.frame_type, due });
        }
        let Ok(part) = HelloPart::read_from_bytes(control) else {
            return Err(HandshakeFault::Malformed);
        };
        let lengths_fit =
            usize::from(header.control_length.get()) == HELLO_BYTES && header.data_length.get() == 0;
        if !lengths_fit || part.generation.get() == 0 {
            return Err(HandshakeFault::Malformed);
        }
        let tag = self.key.tag();
        if part.cluster != tag.0 {
            return Err(HandshakeFault::WrongCluster { found: ClusterTag(part.cluster), ours: tag });
        }
        let peer = self.whereabouts(header, &part, due)?;
        let frame = HelloFrame { header: *header, part };
        self.transcript.add(&frame);
        if !self.key.verify(purpose, &[self.transcript.signed_bytes()], &part.mac) {
            return Err(HandshakeFault::WrongKey { claimed: header.source() });
        }
        if header.incarnation() < peer.incarnation {
            return Err(HandshakeFault::StaleIncarnation {
                found: header.incarnation(),
                known: peer.incarnation,
            });
        }
        Ok((frame, peer))
    }

    /// Whether the frame comes from where it should, goes to this node and belongs to this handshake.
    fn whereabouts(
        &self,
        header: &FrameHeader,
        part: &HelloPart,
        due: FrameType,
    ) -> Result<Acquaintance, HandshakeFault> {
        if header.source() == self.ours.node || part.nonce == self.nonce.0 {
            return Err(HandshakeFault::Reflected);
        }
        if header.destination() != self.ours.node {
            return Err(HandshakeFault::Misdirected { meant: header.destination(), ours: self.ours.node });
        }
        if header.path() != self.path {
            return Err(HandshakeFault::WrongPath { found: header.path(), ours: self.path });
        }
        let Some(peer) = self.acquaintances.iter().find(|known| known.node == header.source()) else {
            return Err(match (due, self.acquaintances.first()) {
                (FrameType::HelloAck, Some(dialed)) => {
                    HandshakeFault::UnexpectedNode { found: header.source(), dialed: dialed.node }
                }
                _ => HandshakeFault::NotAMember { found: header.source() },
            });
        };
        let echo_due = if due == FrameType::Hello { [0; 16] } else { self.nonce.0 };
        if part.echo != echo_due {
            return Err(HandshakeFault::Replayed);
        }
        Ok(*peer)
    }

    /// What both sides reckon alike from the two proposals.
    fn conclude(&self, frame: &HelloFrame) -> Result<Established, HandshakeFault> {
        let (header, part) = (&frame.header, &frame.part);
        let established = Established {
            peer: header.source(),
            incarnation: header.incarnation(),
            generation: later_generation(self.proposal, RailGeneration(part.generation.get())),
            epoch: header.epoch(),
            highest_epoch: Epoch(part.highest_epoch.get().max(header.epoch.get())),
            features: self.ours.features & part.features.get(),
            data_bytes_max: self.ours.data_bytes_max.min(part.data_bytes_max.get()),
            window: self.ours.window.min(part.window.get()),
        };
        if established.window == 0 || established.data_bytes_max == 0 {
            return Err(HandshakeFault::Disagreement);
        }
        Ok(established)
    }

    /// This side's next frame, added to the transcript and signed.
    fn frame(
        &mut self,
        frame_type: FrameType,
        purpose: Purpose,
        peer: NodeId,
        generation: RailGeneration,
    ) -> HelloFrame {
        let mut header = FrameHeader::new(frame_type);
        header.link = self.path.link.0;
        header.rail = self.path.rail.0;
        header.epoch = U64::new(self.ours.epoch.0);
        header.source = U16::new(self.ours.node.0);
        header.destination = U16::new(peer.0);
        header.control_length = U16::new(HELLO_BYTES as u16);
        header.incarnation = U64::new(self.ours.incarnation.0);
        let part = HelloPart {
            cluster: self.key.tag().0,
            nonce: self.nonce.0,
            echo: self.peer_nonce,
            highest_epoch: U64::new(self.ours.highest_epoch.0),
            features: U32::new(self.ours.features),
            data_bytes_max: U32::new(self.ours.data_bytes_max),
            window: U32::new(self.ours.window),
            generation: U16::new(generation.0),
            reserved: U16::ZERO,
            mac: [0; MAC_BYTES],
        };
        let mut frame = HelloFrame { header, part };
        let mut with_frame = self.transcript.clone();
        with_frame.add(&frame);
        frame.part.mac = self.key.sign(purpose, &[with_frame.signed_bytes()]);
        self.transcript.add(&frame);
        frame
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
