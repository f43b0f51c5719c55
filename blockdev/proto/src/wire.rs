//! What drivers and masters say to each other: small little-endian layouts that fit into the control part of
//! a transport message. The payload of a write and the bytes of a read travel as the message's data part.
//!
//! The layouts are private to `codec.rs`; everybody else handles the plain types below, and
//! [`Message::parse`] is the only way from bytes to them. It never panics: a number that this version does
//! not know is a fault of the peer.

mod codec;
#[cfg(test)]
mod tests;

pub use self::codec::Encoded;
use crate::errno::BlockErrno;
use crate::geometry::{ByteRange, DiskId, VolumeId};
use transport_proto::identity::{Epoch, Incarnation, NodeId, Sequence};

/// Version of these layouts, second byte of each message.
pub const VERSION: u8 = 1;

/// Requests that one driver may have pending at the most; every [`Slot`] is below. Bounds the duplicate table
/// that a master keeps for each driver.
pub const SLOTS_MAX: usize = 4096;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Operation {
    /// Bytes from the disk to the client.
    Read = 1,
    /// Bytes from the client to the disk.
    Write = 2,
    /// All writes answered before this was submitted are on stable storage when it is answered.
    Flush = 3,
    /// The range's content does not matter any more.
    Discard = 4,
    /// The range reads as zeroes from now on.
    WriteZeroes = 5,
}

impl Operation {
    /// The operation with this number on the wire.
    #[inline]
    pub const fn from_wire(number: u8) -> Option<Operation> {
        Some(match number {
            1 => Operation::Read,
            2 => Operation::Write,
            3 => Operation::Flush,
            4 => Operation::Discard,
            5 => Operation::WriteZeroes,
            _ => return None,
        })
    }

    /// True when it changes what later reads return.
    #[inline]
    pub const fn modifies(self) -> bool {
        matches!(self, Operation::Write | Operation::Discard | Operation::WriteZeroes)
    }

    /// True when as many bytes as its range is long travel with the request or with the answer.
    #[inline]
    pub const fn carries_payload(self) -> bool {
        matches!(self, Operation::Read | Operation::Write)
    }
}

/// Wishes that go with a request; a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestFlags(u8);

impl RequestFlags {
    /// No wishes.
    pub const NONE: RequestFlags = RequestFlags(0);
    /// Answer only when the written bytes are on stable storage (force unit access).
    pub const FUA: RequestFlags = RequestFlags(1);
    /// Write-zeroes must keep the space allocated.
    pub const NO_UNMAP: RequestFlags = RequestFlags(2);
    /// Write-zeroes must fail with ENOTSUP if it would be no faster than writing.
    pub const FAST_ZERO: RequestFlags = RequestFlags(4);
    const KNOWN: u8 = 7;

    /// The set with these bits; `None` if a bit is unknown.
    #[inline]
    pub const fn from_wire(bits: u8) -> Option<RequestFlags> {
        if bits & !RequestFlags::KNOWN == 0 { Some(RequestFlags(bits)) } else { None }
    }

    /// The bits.
    #[inline]
    pub const fn to_wire(self) -> u8 {
        self.0
    }

    /// Both sets together.
    #[inline]
    #[must_use]
    pub const fn with(self, other: RequestFlags) -> RequestFlags {
        RequestFlags(self.0 | other.0)
    }

    /// True when every bit of `other` is in this set.
    #[inline]
    pub const fn contains(self, other: RequestFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Place of a request in its driver's pending list, `0..SLOTS_MAX`. Free for another request once answered,
/// so a request of a higher [`Sequence`] in the same slot tells the master that the one before is answered
/// for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl Slot {
    /// As an index into a table.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Names a request of one driver's life: the same in each re-issue, never used for another request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// Where it is pending.
    pub slot: Slot,
    /// The driver's count of requests, from 1. Rises from request to request within a slot, never repeats.
    pub sequence: Sequence,
}

/// Driver to master: do this. The data part is the payload of a write, else empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The virtual disk.
    pub volume: VolumeId,
    /// The driver's mapping number at this attempt; the master executes it only at the very same.
    pub epoch: Epoch,
    /// The driver's node.
    pub client: NodeId,
    /// The driver's life.
    pub incarnation: Incarnation,
    /// Which request, the same in each attempt.
    pub id: RequestId,
    /// What to do.
    pub operation: Operation,
    /// Wishes.
    pub flags: RequestFlags,
    /// Which bytes.
    pub range: ByteRange,
}

/// Whether a request that a master could not carry out may yet have touched the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Execution {
    /// Nothing reached the disk, and nothing will.
    NotExecuted,
    /// Some of it may be on the disk.
    Unknown,
}

/// How a master answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done. The data part carries the bytes of a read.
    Done,
    /// Failed for good; no other node would do better.
    Errno(BlockErrno),
    /// Not executed: the request's configuration number is not the gate's.
    NackStale {
        /// The number that this master's gate is open at, or is being raised to.
        gate_epoch: Epoch,
    },
    /// Not executed: no room or gate not open yet. Try again a little later.
    NackBusy,
    /// This node cannot reach the disk any more; another candidate may (SPEC B3).
    NackPath {
        /// What became of this request.
        execution: Execution,
    },
    /// Not executed: by its mapping this node does not serve the volume.
    NackNotServing {
        /// Configuration number of that mapping; zero when it knows no such volume.
        mapping_epoch: Epoch,
    },
}

/// Master to driver: what became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The virtual disk.
    pub volume: VolumeId,
    /// Number of the latest attempt that the master has seen; an answer to an older attempt is a stray.
    pub epoch: Epoch,
    /// Life of the driver that asked; an answer to an earlier life is a stray.
    pub incarnation: Incarnation,
    /// Which request.
    pub id: RequestId,
    /// What became of it.
    pub verdict: Verdict,
}

/// Driver to master: tell me when your gate is open at this number or above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The virtual disk.
    pub volume: VolumeId,
    /// The driver's mapping number.
    pub epoch: Epoch,
    /// The driver's node.
    pub client: NodeId,
    /// The driver's life.
    pub incarnation: Incarnation,
}

/// What a master says to an [`Attach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachVerdict {
    /// The proof: the gate is open at this number, nothing of an older master or of an older number will ever
    /// run, and nothing of the asking node's earlier lives is still running here.
    Open {
        /// The gate's number, at least the one asked for.
        gate_epoch: Epoch,
    },
    /// By its mapping this node does not serve the volume.
    NotServing {
        /// Configuration number of that mapping; zero when it knows no such volume.
        mapping_epoch: Epoch,
    },
}

/// Master to driver: the answer to an [`Attach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The virtual disk.
    pub volume: VolumeId,
    /// The number asked for.
    pub epoch: Epoch,
    /// Life of the driver that asked.
    pub incarnation: Incarnation,
    /// Open, or not here.
    pub verdict: AttachVerdict,
}

/// Driver or master to whoever decides on mappings: this node cannot reach this disk (SPEC B3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathBroken {
    /// The virtual disk.
    pub volume: VolumeId,
    /// Configuration number at which it was found out; a report that is older than the row's repair is void.
    pub epoch: Epoch,
    /// The node that cannot reach the disk.
    pub node: NodeId,
    /// The disk.
    pub disk: DiskId,
}

/// To the master that serves a virtual disk: tell me when reservations as they are since this revision are in
/// force with you. True once, it stays true, so the answer may come late, twice, or from a former master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The virtual disk.
    pub volume: VolumeId,
    /// Revision of the row in the configuration.
    pub revision: u64,
    /// And when whatever was admitted by an older row has ended.
    pub aborts: bool,
}

/// Everything that travels on the block client of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Driver to master.
    Request(Request),
    /// Master to driver.
    Answer(Answer),
    /// Driver to master.
    Attach(Attach),
    /// Master to driver.
    Attached(Attached),
    /// To the node that decides on mappings.
    PathBroken(PathBroken),
    /// To a master.
    Settle(Settle),
    /// From a master: it is so.
    Settled(Settle),
}

/// Why bytes are no message of ours. The peer that sent them is at fault, never this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireFault {
    /// Not as many bytes as the kind has.
    Length {
        /// Bytes there were.
        found: usize,
    },
    /// A layout version that this node does not speak.
    Version {
        /// The version found.
        found: u8,
    },
    /// An unknown kind of message.
    Kind {
        /// The number found.
        found: u8,
    },
    /// A field holds a number that has no meaning.
    Field {
        /// Name of the field.
        field: &'static str,
    },
    /// The data part is not as long as the control part says.
    DataLength {
        /// Bytes there should be.
        expected: usize,
        /// Bytes there were.
        found: usize,
    },
}

impl Request {
    /// Bytes of the data part that must come with this request.
    #[inline]
    pub fn data_length(&self) -> usize {
        if self.operation == Operation::Write { self.range.length as usize } else { 0 }
    }

    /// Bytes of the data part that must come with a [`Verdict::Done`] to this request.
    #[inline]
    pub fn answer_data_length(&self) -> usize {
        if self.operation == Operation::Read { self.range.length as usize } else { 0 }
    }

    /// Checks that a data part of `found` bytes fits this request.
    #[inline]
    pub fn check_data_length(&self, found: usize) -> Result<(), WireFault> {
        let expected = self.data_length();
        if expected == found { Ok(()) } else { Err(WireFault::DataLength { expected, found }) }
    }

    /// The answer to this attempt with this verdict.
    #[inline]
    pub fn answered(&self, verdict: Verdict) -> Answer {
        Answer { volume: self.volume, epoch: self.epoch, incarnation: self.incarnation, id: self.id, verdict }
    }
}

impl Attach {
    /// The word on this attach.
    pub fn answered(&self, verdict: AttachVerdict) -> Attached {
        Attached { volume: self.volume, epoch: self.epoch, incarnation: self.incarnation, verdict }
    }
}
