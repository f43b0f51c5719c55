//! The distress signal as it travels: 176 bytes, little-endian, authenticated with the cluster's key.

use super::{Level, Reason};
use crate::view::Member;
use alloc::string::String;
use core::fmt;
use transport_proto::cluster_key::{ClusterKey, Purpose};
use transport_proto::connectivity::{NOTICE_BYTES_MAX, NOTICE_MAGIC};
use transport_proto::identity::{Epoch, Incarnation, NodeId};
use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the layout.
pub const SIGNAL_VERSION: u8 = 1;
/// Bytes of a signal.
pub const SIGNAL_BYTES: usize = 176;
/// Room for the reason in words.
pub const TEXT_BYTES: usize = 96;
const MAC_BYTES: usize = 32;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    magic: U16,
    version: u8,
    level: u8,
    reason: U16,
    source: U16,
    cluster: [u8; 16],
    incarnation: U64,
    epoch: U64,
    sequence: U64,
    /// UTF-8, the rest zero.
    text: [u8; TEXT_BYTES],
    /// HMAC-SHA256 of all bytes before it.
    mac: [u8; MAC_BYTES],
}

const _: () = assert!(size_of::<Layout>() == SIGNAL_BYTES && SIGNAL_BYTES <= NOTICE_BYTES_MAX);

/// Who speaks, as of the configuration that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// The node in its life.
    pub member: Member,
    /// Its configuration number.
    pub epoch: Epoch,
    /// Rises by one each time the messages are formed in this life.
    pub sequence: u64,
}

/// What a signal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Whose end it is.
    pub speaker: Speaker,
    /// What must still be fenced.
    pub level: Level,
    /// Why.
    pub reason: Reason,
    /// The same in the sender's words, printable.
    pub text: String,
}

/// Why a datagram is no signal of this cluster. It is dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalFault {
    /// Not the bytes of a signal of this version.
    Malformed,
    /// Of another cluster.
    OtherCluster,
    /// The hash does not fit: forged, changed on its way, or of another key.
    Forged,
}

impl fmt::Display for SignalFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SignalFault::Malformed => "no distress signal of this release: run one release on all nodes",
            SignalFault::OtherCluster => "distress signal of another cluster: do two share addresses?",
            SignalFault::Forged => {
                "distress signal with a wrong hash: forged, or install one key on all nodes"
            }
        })
    }
}

impl core::error::Error for SignalFault {}

impl Signal {
    /// The datagram that says this. The text is what the reason's own is, cut to [`TEXT_BYTES`].
    pub fn form(key: &ClusterKey, speaker: Speaker, level: Level, reason: Reason) -> [u8; SIGNAL_BYTES] {
        let words = alloc::format!("{}: {reason}", speaker.member.node);
        let mut text = [0; TEXT_BYTES];
        text.iter_mut().zip(words.bytes()).for_each(|(place, byte)| *place = byte);
        let mut layout = Layout {
            magic: U16::new(NOTICE_MAGIC),
            version: SIGNAL_VERSION,
            level: level as u8,
            reason: U16::new(reason.number()),
            source: U16::new(speaker.member.node.0),
            cluster: key.tag().0,
            incarnation: U64::new(speaker.member.incarnation.0),
            epoch: U64::new(speaker.epoch.0),
            sequence: U64::new(speaker.sequence),
            text,
            mac: [0; MAC_BYTES],
        };
        layout.mac = key.sign(Purpose::Distress, &[&layout.as_bytes()[..SIGNAL_BYTES - MAC_BYTES]]);
        zerocopy::transmute!(layout)
    }

    /// Reads and verifies.
    pub fn open(key: &ClusterKey, bytes: &[u8]) -> Result<Signal, SignalFault> {
        let layout = Layout::read_from_bytes(bytes).map_err(|_| SignalFault::Malformed)?;
        if layout.magic.get() != NOTICE_MAGIC || layout.version != SIGNAL_VERSION {
            return Err(SignalFault::Malformed);
        }
        if layout.cluster != key.tag().0 {
            return Err(SignalFault::OtherCluster);
        }
        if !key.verify(Purpose::Distress, &[&bytes[..SIGNAL_BYTES - MAC_BYTES]], &layout.mac) {
            return Err(SignalFault::Forged);
        }
        let source = NodeId(layout.source.get());
        let level = Level::from_number(layout.level).filter(|_| source != NodeId(0));
        let member = Member { node: source, incarnation: Incarnation(layout.incarnation.get()) };
        let speaker = Speaker { member, epoch: Epoch(layout.epoch.get()), sequence: layout.sequence.get() };
        Ok(Signal {
            speaker,
            level: level.ok_or(SignalFault::Malformed)?,
            reason: Reason::from_number(layout.reason.get()),
            text: printable(&layout.text),
        })
    }
}

fn printable(text: &[u8]) -> String {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let words = String::from_utf8_lossy(&text[..end]);
    words.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}
