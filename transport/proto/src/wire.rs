//! The frame: 64 bytes, little-endian, one cache line, the same on every provider.
//!
//! A frame is header, then `control_length` bytes of control part, then `data_length` bytes of data part.
//! Over shared memory and RDMA the data part lies in a chunk of the receiver's slab and the frame only names
//! it; what a provider needs for that (chunk number, offset) is the provider's own and not part of this
//! layout.

use crate::identity::{ClientId, Epoch, Incarnation, LinkId, NodeId, Path, RailGeneration, RailId, Sequence};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First two bytes of every frame: "nd".
pub const MAGIC: u16 = u16::from_le_bytes(*b"nd");
/// Version of this layout; frames of another version are refused when a rail connects.
pub const VERSION: u8 = 1;
/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a message's control part at the most: a client's request header fits, its payload does not belong
/// here.
pub const CONTROL_BYTES_MAX: usize = 128;
/// Bytes of a message's data part at the most (1 MiB), one chunk of the largest class.
pub const DATA_BYTES_MAX: usize = 1 << 20;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// A whole message.
    Data = 1,
    /// One fragment of a striped message; a [`FragmentExtension`] leads its control part.
    Fragment = 2,
    /// Acknowledgement and credits of one client's traffic, no message.
    Ack = 3,
    /// First frame of a rail, dialer to listener.
    Hello = 4,
    /// Answer to [`FrameType::Hello`].
    HelloAck = 5,
    /// The dialer's proof, the third and last frame of the handshake.
    HelloDone = 6,
    /// Orderly end of a rail (the sender will use it no more).
    Bye = 7,
    /// Echo request or answer, to measure and to keep a quiet rail honest.
    Probe = 8,
}

impl FrameType {
    /// The type with this number on the wire; `None` for a number this version does not know.
    pub const fn from_wire(value: u8) -> Option<FrameType> {
        Some(match value {
            1 => FrameType::Data,
            2 => FrameType::Fragment,
            3 => FrameType::Ack,
            4 => FrameType::Hello,
            5 => FrameType::HelloAck,
            6 => FrameType::HelloDone,
            7 => FrameType::Bye,
            8 => FrameType::Probe,
            _ => return None,
        })
    }
}

/// Flag: `crc32c` covers the data part too (by option; the header and control part are always covered on
/// tcp).
pub const FLAG_DATA_CRC: u8 = 1;
/// Flag: this frame was sent before, by another rail.
pub const FLAG_REPLAYED: u8 = 2;
/// Flag: the sender of this frame has dropped messages of this client; what it does not acknowledge is to be
/// sent again.
pub const FLAG_REPLAY: u8 = 4;

/// The frame header as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FrameHeader {
    /// [`MAGIC`].
    pub magic: U16,
    /// [`VERSION`].
    pub version: u8,
    /// A [`FrameType`].
    pub frame_type: u8,
    /// `FLAG_*` bits.
    pub flags: u8,
    /// Logical link by which it travels.
    pub link: u8,
    /// Rail by which it travels.
    pub rail: u8,
    /// Zero.
    pub reserved: u8,
    /// The sender's configuration number.
    pub epoch: U64,
    /// Sending node.
    pub source: U16,
    /// Node it is meant for.
    pub destination: U16,
    /// Client on both nodes.
    pub client: U16,
    /// Bytes of the control part, `0..=CONTROL_BYTES_MAX` (plus a fragment extension).
    pub control_length: U16,
    /// The sender's life.
    pub incarnation: U64,
    /// Position in this client's traffic; 0 in frames that carry no message.
    pub sequence: U64,
    /// Low half of the last in-order [`Sequence`] that the sender of this frame has received from this
    /// client.
    pub ack: U32,
    /// Low half of the highest [`Sequence`] that this frame's receiver may use for this client (cumulative
    /// credit).
    pub credit: U32,
    /// Generation of the rail's connection (high 16 bits) and position of the frame in it (low 48, from 1).
    /// Over shared memory this word also publishes the slot.
    pub rail_stamp: U64,
    /// Bytes of the data part of this frame, `0..=DATA_BYTES_MAX`.
    pub data_length: U32,
    /// CRC32C over header (this field zero), control part and, with [`FLAG_DATA_CRC`], data part. Zero on
    /// memory providers, which have no wire.
    pub crc32c: U32,
}

const _: () = assert!(size_of::<FrameHeader>() == HEADER_BYTES);

/// What differs from frame to frame between two nodes; see the fields of [`FrameHeader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFields {
    /// What the frame is for.
    pub frame_type: FrameType,
    /// `FLAG_*` bits.
    pub flags: u8,
    /// Logical link and rail by which it travels.
    pub path: Path,
    /// Client on both nodes.
    pub client: ClientId,
    /// Bytes of the control part.
    pub control_length: u16,
    /// Position in the client's traffic; 0 in frames that carry no message.
    pub sequence: Sequence,
    /// Low half of the last sequence received in order.
    pub ack: u32,
    /// Low half of the highest sequence that the receiver may use.
    pub credit: u32,
    /// Bytes of the data part.
    pub data_length: u32,
}

/// Leads the control part of a [`FrameType::Fragment`] frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FragmentExtension {
    /// Which fragment, `0..count`.
    pub index: U16,
    /// Fragments of the message, `2..=LINKS_MAX`.
    pub count: U16,
    /// Where this fragment's data part begins in the message's data part, bytes.
    pub offset: U32,
    /// Bytes of the whole message's data part.
    pub message_length: U32,
    /// Zero.
    pub reserved: U32,
}

/// Bytes of a [`FragmentExtension`].
pub const FRAGMENT_EXTENSION_BYTES: usize = 16;
const _: () = assert!(size_of::<FragmentExtension>() == FRAGMENT_EXTENSION_BYTES);

/// Why bytes are not a frame of ours. The peer that sent them is at fault, never this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// Fewer bytes than a header.
    Truncated {
        /// Bytes there were.
        length: usize,
    },
    /// Not the magic of a netdisk frame.
    Magic {
        /// The two bytes found.
        found: u16,
    },
    /// A layout version that this node does not speak.
    Version {
        /// The version found.
        found: u8,
    },
    /// A frame type that this version does not know.
    Type {
        /// The number found.
        found: u8,
    },
    /// A control part longer than the type allows.
    ControlLength {
        /// The length found, bytes.
        found: usize,
    },
    /// A data part longer than [`DATA_BYTES_MAX`].
    DataLength {
        /// The length found, bytes.
        found: usize,
    },
    /// A link, rail, client or fragment number out of range.
    Range,
    /// The CRC32C does not fit the bytes.
    Checksum,
}

impl core::fmt::Display for FrameFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            FrameFault::Truncated { length } => write!(f, "{length} bytes are too few for a frame header"),
            FrameFault::Magic { found } => write!(f, "not a netdisk frame (magic {found:#06x})"),
            FrameFault::Version { found } => {
                write!(
                    f,
                    "frame layout version {found}, this node speaks {VERSION}: run one release on all nodes"
                )
            }
            FrameFault::Type { found } => write!(f, "unknown frame type {found}"),
            FrameFault::ControlLength { found } => {
                write!(f, "control part of {found} bytes is over the limit")
            }
            FrameFault::DataLength { found } => write!(f, "data part of {found} bytes is over the limit"),
            FrameFault::Range => write!(f, "link, rail, client or fragment number out of range"),
            FrameFault::Checksum => write!(f, "checksum does not fit"),
        }
    }
}

impl FrameHeader {
    /// A header with everything zero but magic, version and type.
    #[inline]
    pub fn new(frame_type: FrameType) -> FrameHeader {
        FrameHeader {
            magic: U16::new(MAGIC),
            version: VERSION,
            frame_type: frame_type as u8,
            flags: 0,
            link: 0,
            rail: 0,
            reserved: 0,
            epoch: U64::ZERO,
            source: U16::ZERO,
            destination: U16::ZERO,
            client: U16::ZERO,
            control_length: U16::ZERO,
            incarnation: U64::ZERO,
            sequence: U64::ZERO,
            ack: U32::ZERO,
            credit: U32::ZERO,
            rail_stamp: U64::ZERO,
            data_length: U32::ZERO,
            crc32c: U32::ZERO,
        }
    }

    /// This header with these fields; who speaks to whom, in which configuration, stays. What lies between is
    /// zero.
    ///
    /// Composed of whole words: a provider that copies it word by word then finds each as it was stored. A
    /// word that was stored piece by piece has to reach the cache before it can be read.
    #[inline]
    pub fn with(&self, fields: &FrameFields) -> FrameHeader {
        const { assert!(core::mem::offset_of!(FrameHeader, flags) == 4) };
        const { assert!(core::mem::offset_of!(FrameHeader, client) == 20) };
        const { assert!(core::mem::offset_of!(FrameHeader, sequence) == 32) };
        const { assert!(core::mem::offset_of!(FrameHeader, data_length) == 56) };
        let own: [U64; 8] = zerocopy::transmute!(*self);
        let word = |index: usize| own[index].get();
        let path = u64::from(fields.path.link.0) << 40 | u64::from(fields.path.rail.0) << 48;
        let kind = u64::from(fields.frame_type as u8) << 24 | u64::from(fields.flags) << 32;
        let client = u64::from(fields.client.0) << 32 | u64::from(fields.control_length) << 48;
        let words: [U64; 8] = [
            U64::new(word(0) & 0xff_ffff | kind | path),
            own[1],
            U64::new(word(2) & 0xffff_ffff | client),
            own[3],
            U64::new(fields.sequence.0),
            U64::new(u64::from(fields.ack) | u64::from(fields.credit) << 32),
            U64::ZERO,
            U64::new(u64::from(fields.data_length)),
        ];
        zerocopy::transmute!(words)
    }

    /// Reads a header from the first [`HEADER_BYTES`] of `bytes` and checks every field whose range is known.
    /// The checksum is the caller's to check, since it covers more than the header.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<FrameHeader, FrameFault> {
        let Ok((header, _)) = FrameHeader::read_from_prefix(bytes) else {
            return Err(FrameFault::Truncated { length: bytes.len() });
        };
        header.check()?;
        Ok(header)
    }

    /// Checks every field whose range is known.
    #[inline]
    pub fn check(&self) -> Result<(), FrameFault> {
        // All but fragments in one go, without a branch for each field.
        let sound = (self.magic.get() == MAGIC)
            & (self.version == VERSION)
            & (self.frame_type == FrameType::Data as u8 || self.frame_type == FrameType::Ack as u8)
            & (usize::from(self.control_length.get()) <= CONTROL_BYTES_MAX)
            & (self.data_length.get() as usize <= DATA_BYTES_MAX)
            & (usize::from(self.link) < crate::identity::LINKS_MAX)
            & (usize::from(self.rail) < crate::identity::RAILS_MAX)
            & (usize::from(self.client.get()) < crate::identity::CLIENTS_MAX);
        if sound { Ok(()) } else { self.check_each() }
    }

    #[cold]
    fn check_each(&self) -> Result<(), FrameFault> {
        if self.magic.get() != MAGIC {
            return Err(FrameFault::Magic { found: self.magic.get() });
        }
        if self.version != VERSION {
            return Err(FrameFault::Version { found: self.version });
        }
        let Some(frame_type) = FrameType::from_wire(self.frame_type) else {
            return Err(FrameFault::Type { found: self.frame_type });
        };
        let control = usize::from(self.control_length.get());
        let extension = if frame_type == FrameType::Fragment { FRAGMENT_EXTENSION_BYTES } else { 0 };
        if control > CONTROL_BYTES_MAX + extension || control < extension {
            return Err(FrameFault::ControlLength { found: control });
        }
        if self.data_length.get() as usize > DATA_BYTES_MAX {
            return Err(FrameFault::DataLength { found: self.data_length.get() as usize });
        }
        let path_in_range = usize::from(self.link) < crate::identity::LINKS_MAX
            && usize::from(self.rail) < crate::identity::RAILS_MAX;
        if !path_in_range || usize::from(self.client.get()) >= crate::identity::CLIENTS_MAX {
            return Err(FrameFault::Range);
        }
        Ok(())
    }

    /// The type, `None` if [`FrameHeader::check`] would refuse it.
    #[inline]
    pub fn frame_type(&self) -> Option<FrameType> {
        FrameType::from_wire(self.frame_type)
    }

    /// The path by which the frame travels.
    #[inline]
    pub fn path(&self) -> Path {
        Path { link: LinkId(self.link), rail: RailId(self.rail) }
    }

    /// Sending node.
    #[inline]
    pub fn source(&self) -> NodeId {
        NodeId(self.source.get())
    }

    /// Node it is meant for.
    #[inline]
    pub fn destination(&self) -> NodeId {
        NodeId(self.destination.get())
    }

    /// Client on both nodes.
    #[inline]
    pub fn client(&self) -> ClientId {
        ClientId(self.client.get())
    }

    /// The sender's life.
    #[inline]
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.get())
    }

    /// The sender's configuration number.
    #[inline]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.get())
    }

    /// Position in the client's traffic.
    #[inline]
    pub fn sequence(&self) -> Sequence {
        Sequence(self.sequence.get())
    }

    /// Packs generation and position into [`FrameHeader::rail_stamp`].
    #[inline]
    pub fn stamp(generation: RailGeneration, position: u64) -> u64 {
        (u64::from(generation.0) << 48) | (position & ((1 << 48) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composed_header_says_what_was_put_in() {
        let mut names = FrameHeader::new(FrameType::Data);
        names.source.set(0x1234);
        names.destination.set(0x5678);
        names.epoch.set(u64::MAX - 1);
        names.incarnation.set(u64::MAX - 2);
        let fields = FrameFields {
            frame_type: FrameType::Ack,
            flags: FLAG_REPLAY,
            path: Path { link: LinkId(7), rail: RailId(3) },
            client: ClientId(5),
            control_length: 144,
            sequence: Sequence(u64::MAX - 3),
            ack: 0xdead_beef,
            credit: 0xcafe_f00d,
            data_length: 1 << 20,
        };
        let mut expected = names;
        expected.frame_type = FrameType::Ack as u8;
        (expected.flags, expected.link, expected.rail) = (FLAG_REPLAY, 7, 3);
        expected.client.set(5);
        expected.control_length.set(144);
        expected.sequence.set(u64::MAX - 3);
        expected.ack.set(0xdead_beef);
        expected.credit.set(0xcafe_f00d);
        expected.data_length.set(1 << 20);
        assert_eq!(names.with(&fields), expected);
        assert_eq!(expected.with(&fields), expected, "whatever the fields were before");
    }
}
