//! The heartbeat datagram: 88 bytes, little-endian, signed with the cluster key.

use crate::cluster_key::{ClusterKey, Purpose};
use crate::identity::{LINKS_MAX, LinkId, NodeId, Path, RAILS_MAX, RailId};
use core::fmt;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First two bytes of every heartbeat: "nh".
pub const HEARTBEAT_MAGIC: u16 = u16::from_le_bytes(*b"nh");
/// First two bytes of what others than the monitor say by the heartbeats' sockets: "nd". The monitor hands
/// such a datagram on as it is.
pub const NOTICE_MAGIC: u16 = u16::from_le_bytes(*b"nd");
/// Bytes of such a datagram at the most.
pub const NOTICE_BYTES_MAX: usize = 256;
/// Version of the heartbeat's layout.
pub const HEARTBEAT_VERSION: u8 = 1;
/// Bytes of a heartbeat.
pub const HEARTBEAT_BYTES: usize = 88;
/// Flag: the sender hears the receiver on this rail.
pub const FLAG_HEARS_YOU: u8 = 1;
/// Flag: the sender's hold-down for this rail is over; it would carry data on it.
pub const FLAG_READY: u8 = 2;
/// [`Heartbeat::active`] when the sender would use no rail of the link.
pub const NO_RAIL: u8 = 0xff;
/// [`Heartbeat::echo_delay`] when there is nothing to echo, or too old a thing.
pub const NO_ECHO: u32 = u32::MAX;

const MAC_BYTES: usize = 16;

/// A heartbeat as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Heartbeat {
    /// [`HEARTBEAT_MAGIC`].
    pub magic: U16,
    /// [`HEARTBEAT_VERSION`].
    pub version: u8,
    /// [`FLAG_HEARS_YOU`], [`FLAG_READY`].
    pub flags: u8,
    /// Logical link of the rail by which it travels.
    pub link: u8,
    /// The rail.
    pub rail: u8,
    /// Bit n: the sender holds rail n of this link for up.
    pub rails_up: u8,
    /// The rail of this link that the sender would carry data on, or [`NO_RAIL`].
    pub active: u8,
    /// Sending node.
    pub source: U16,
    /// Node it is meant for.
    pub destination: U16,
    /// Age of the sender's oldest disk request, milliseconds: alive with a hung disk is a failure.
    pub disk_age_ms: U32,
    /// The sender's life.
    pub incarnation: U64,
    /// The receiver's life as the sender knows it; 0 if it knows none. A heartbeat that does not name the
    /// receiver's present life proves nothing to it, it may be a recording.
    pub your_incarnation: U64,
    /// The sender's configuration number.
    pub epoch: U64,
    /// Rises by one with each heartbeat on this rail. Begins at the sender's clock when the rail was added,
    /// so that a rail that was taken out and added again goes on above what it said before.
    pub sequence: U64,
    /// The sender's clock, nanoseconds from a zero of its own.
    pub sent_at: U64,
    /// [`Heartbeat::sent_at`] of the last heartbeat that the sender heard on this rail.
    pub echo_sent_at: U64,
    /// How long ago that was heard, nanoseconds; [`NO_ECHO`] if there is none.
    pub echo_delay: U32,
    /// Zero.
    pub reserved: U32,
    /// First half of the HMAC-SHA256 of all bytes before it.
    pub mac: [u8; MAC_BYTES],
}

const _: () = assert!(size_of::<Heartbeat>() == HEARTBEAT_BYTES);

/// Why a datagram is no heartbeat for this rail. It is dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatFault {
    /// Not the bytes of a heartbeat of this version.
    Malformed,
    /// The hash does not fit: another key, another cluster, or a forgery.
    WrongKey,
    /// Between other nodes than this machine watches.
    Misdirected,
    /// It names another link or rail than the one it came by, or one that is not configured.
    WrongPath {
        /// The path it names.
        found: Path,
    },
    /// Of an earlier life of the peer.
    StaleIncarnation,
    /// Not later than the last one heard: played again, duplicated or overtaken.
    Replayed,
}

impl fmt::Display for HeartbeatFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            HeartbeatFault::Malformed => {
                write!(
                    f,
                    "no heartbeat of this release: what else sends to this address? one release on all nodes"
                )
            }
            HeartbeatFault::WrongKey => {
                write!(f, "heartbeat of another cluster key: install one key file on all nodes")
            }
            HeartbeatFault::Misdirected => {
                write!(f, "heartbeat between other nodes: check the rails' heartbeat addresses")
            }
            HeartbeatFault::WrongPath { found } => {
                write!(f, "heartbeat of {found} came by another rail: rail addresses are swapped")
            }
            HeartbeatFault::StaleIncarnation => write!(f, "heartbeat of an earlier life of the peer"),
            HeartbeatFault::Replayed => write!(f, "heartbeat that is not later than the last one"),
        }
    }
}

impl core::error::Error for HeartbeatFault {}

impl Heartbeat {
    /// The sender that the bytes name, unverified, to find the machine that can verify them.
    pub fn claimed_source(bytes: &[u8]) -> Option<NodeId> {
        Heartbeat::ref_from_bytes(bytes).ok().map(|heartbeat| NodeId(heartbeat.source.get()))
    }

    /// Reads and verifies. Every field but the numbers of the peer's own count is in range afterwards.
    pub fn open(key: &ClusterKey, bytes: &[u8]) -> Result<Heartbeat, HeartbeatFault> {
        let Ok(heartbeat) = Heartbeat::read_from_bytes(bytes) else {
            return Err(HeartbeatFault::Malformed);
        };
        let known = heartbeat.magic.get() == HEARTBEAT_MAGIC && heartbeat.version == HEARTBEAT_VERSION;
        let in_range = usize::from(heartbeat.link) < LINKS_MAX && usize::from(heartbeat.rail) < RAILS_MAX;
        if !known || !in_range {
            return Err(HeartbeatFault::Malformed);
        }
        if !key.verify(Purpose::Heartbeat, &[&bytes[..HEARTBEAT_BYTES - MAC_BYTES]], &heartbeat.mac) {
            return Err(HeartbeatFault::WrongKey);
        }
        Ok(heartbeat)
    }

    /// Signs and yields the datagram.
    pub fn seal(mut self, key: &ClusterKey) -> [u8; HEARTBEAT_BYTES] {
        let mac = key.sign(Purpose::Heartbeat, &[&self.as_bytes()[..HEARTBEAT_BYTES - MAC_BYTES]]);
        self.mac.copy_from_slice(&mac[..MAC_BYTES]);
        zerocopy::transmute!(self)
    }

    /// The path by which it travels.
    pub fn path(&self) -> Path {
        Path { link: LinkId(self.link), rail: RailId(self.rail) }
    }
}
