//! What drivers and masters say to each other: small little-endian layouts that fit into the control part of a
//! transport message. The payload of a write and the bytes of a read travel as the message's data part.
//!
//! The layouts are private to this file; everybody else handles the plain types below, and [`Message::parse`] is the
//! only way from bytes to them. It never panics: a number that this version does not know is a fault of the peer.

use crate::errno::BlockErrno;
use crate::geometry::{ByteRange, DiskId, TRANSFER_BYTES_MAX, VolumeId};
use transport_proto::identity::{Epoch, Incarnation, NodeId, Sequence};
use transport_proto::wire::CONTROL_BYTES_MAX;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of these layouts, second byte of each message.
pub const VERSION: u8 = 1;

/// Requests that one driver may have pending at the most; every [`Slot`] is below. Bounds the duplicate table that a
/// master keeps for each driver.
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

/// Place of a request in its driver's pending list, `0..SLOTS_MAX`. Free for another request once answered, so a
/// request of a higher [`Sequence`] in the same slot tells the master that the one before is answered for good.
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
    /// The proof: the gate is open at this number, nothing of an older master or of an older number will ever run,
    /// and nothing of the asking node's earlier lives is still running here.
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

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RequestLayout {
    kind: u8,
    version: u8,
    operation: u8,
    flags: u8,
    volume: U32,
    epoch: U64,
    incarnation: U64,
    sequence: U64,
    offset: U64,
    length: U32,
    slot: U32,
    client: U16,
    reserved: [u8; 6],
}
const _: () = assert!(size_of::<RequestLayout>() == 56 && size_of::<RequestLayout>() <= CONTROL_BYTES_MAX);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct AnswerLayout {
    kind: u8,
    version: u8,
    verdict: u8,
    execution: u8,
    volume: U32,
    epoch: U64,
    incarnation: U64,
    sequence: U64,
    verdict_epoch: U64,
    slot: U32,
    errno: U16,
    reserved: U16,
}
const _: () = assert!(size_of::<AnswerLayout>() == 48 && size_of::<AnswerLayout>() <= CONTROL_BYTES_MAX);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct AttachLayout {
    kind: u8,
    version: u8,
    client: U16,
    volume: U32,
    epoch: U64,
    incarnation: U64,
}
const _: () = assert!(size_of::<AttachLayout>() == 24);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct AttachedLayout {
    kind: u8,
    version: u8,
    verdict: u8,
    reserved: u8,
    volume: U32,
    epoch: U64,
    incarnation: U64,
    verdict_epoch: U64,
}
const _: () = assert!(size_of::<AttachedLayout>() == 32);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PathBrokenLayout {
    kind: u8,
    version: u8,
    node: U16,
    volume: U32,
    epoch: U64,
    disk: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<PathBrokenLayout>() == 24);

const KIND_REQUEST: u8 = 1;
const KIND_ANSWER: u8 = 2;
const KIND_ATTACH: u8 = 3;
const KIND_ATTACHED: u8 = 4;
const KIND_PATH_BROKEN: u8 = 5;

const VERDICT_DONE: u8 = 0;
const VERDICT_ERRNO: u8 = 1;
const VERDICT_STALE: u8 = 2;
const VERDICT_BUSY: u8 = 3;
const VERDICT_PATH: u8 = 4;
const VERDICT_NOT_SERVING: u8 = 5;

const ATTACH_OPEN: u8 = 1;
const ATTACH_NOT_SERVING: u8 = 2;

/// An encoded message: the control part of a transport message.
#[derive(Clone, Copy, Debug)]
pub struct Encoded {
    bytes: [u8; 64],
    length: usize,
}

impl Encoded {
    #[inline]
    fn of(layout: &(impl IntoBytes + Immutable)) -> Encoded {
        let mut encoded = Encoded { bytes: [0; 64], length: layout.as_bytes().len() };
        encoded.bytes[..encoded.length].copy_from_slice(layout.as_bytes());
        encoded
    }

    /// The bytes to send, at most [`CONTROL_BYTES_MAX`].
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Message {
    /// Reads a message from a control part, whose length must be the kind's own.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Message, WireFault> {
        let (Some(kind), Some(version)) = (bytes.first(), bytes.get(1)) else {
            return Err(WireFault::Length { found: bytes.len() });
        };
        if *version != VERSION {
            return Err(WireFault::Version { found: *version });
        }
        match *kind {
            KIND_REQUEST => Request::read(layout(bytes)?).map(Message::Request),
            KIND_ANSWER => Answer::read(layout(bytes)?).map(Message::Answer),
            KIND_ATTACH => Ok(Message::Attach(Attach::read(layout(bytes)?))),
            KIND_ATTACHED => Attached::read(layout(bytes)?).map(Message::Attached),
            KIND_PATH_BROKEN => PathBroken::read(layout(bytes)?).map(Message::PathBroken),
            found => Err(WireFault::Kind { found }),
        }
    }

    /// The bytes of this message.
    #[inline]
    pub fn encode(&self) -> Encoded {
        match self {
            Message::Request(request) => request.encode(),
            Message::Answer(answer) => answer.encode(),
            Message::Attach(attach) => attach.encode(),
            Message::Attached(attached) => attached.encode(),
            Message::PathBroken(report) => report.encode(),
        }
    }
}

#[inline]
fn layout<L: FromBytes + KnownLayout + Immutable + Unaligned>(bytes: &[u8]) -> Result<&L, WireFault> {
    L::ref_from_bytes(bytes).map_err(|_| WireFault::Length { found: bytes.len() })
}

#[inline]
fn known<T>(value: Option<T>, field: &'static str) -> Result<T, WireFault> {
    value.ok_or(WireFault::Field { field })
}

#[inline]
fn slot_in_range(number: u32) -> Option<Slot> {
    if (number as usize) < SLOTS_MAX { Some(Slot(number)) } else { None }
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

    /// The bytes of this request.
    #[inline]
    pub fn encode(&self) -> Encoded {
        Encoded::of(&RequestLayout {
            kind: KIND_REQUEST,
            version: VERSION,
            operation: self.operation as u8,
            flags: self.flags.to_wire(),
            volume: U32::new(self.volume.0),
            epoch: U64::new(self.epoch.0),
            incarnation: U64::new(self.incarnation.0),
            sequence: U64::new(self.id.sequence.0),
            offset: U64::new(self.range.offset),
            length: U32::new(self.range.length),
            slot: U32::new(self.id.slot.0),
            client: U16::new(self.client.0),
            reserved: [0; 6],
        })
    }

    fn read(layout: &RequestLayout) -> Result<Request, WireFault> {
        let operation = known(Operation::from_wire(layout.operation), "operation")?;
        if operation.carries_payload() && layout.length.get() > TRANSFER_BYTES_MAX {
            return Err(WireFault::Field { field: "length" });
        }
        Ok(Request {
            volume: VolumeId(layout.volume.get()),
            epoch: Epoch(layout.epoch.get()),
            client: NodeId(layout.client.get()),
            incarnation: Incarnation(layout.incarnation.get()),
            id: RequestId {
                slot: known(slot_in_range(layout.slot.get()), "slot")?,
                sequence: Sequence(layout.sequence.get()),
            },
            operation,
            flags: known(RequestFlags::from_wire(layout.flags), "flags")?,
            range: ByteRange::new(layout.offset.get(), layout.length.get()),
        })
    }

    /// The answer to this attempt with this verdict.
    #[inline]
    pub fn answered(&self, verdict: Verdict) -> Answer {
        Answer { volume: self.volume, epoch: self.epoch, incarnation: self.incarnation, id: self.id, verdict }
    }
}

impl Answer {
    /// The bytes of this answer.
    #[inline]
    pub fn encode(&self) -> Encoded {
        let (verdict, execution, errno, verdict_epoch) = match self.verdict {
            Verdict::Done => (VERDICT_DONE, 0, 0, 0),
            Verdict::Errno(errno) => (VERDICT_ERRNO, 0, errno.to_wire(), 0),
            Verdict::NackStale { gate_epoch } => (VERDICT_STALE, 0, 0, gate_epoch.0),
            Verdict::NackBusy => (VERDICT_BUSY, 0, 0, 0),
            Verdict::NackPath { execution } => (VERDICT_PATH, execution as u8, 0, 0),
            Verdict::NackNotServing { mapping_epoch } => (VERDICT_NOT_SERVING, 0, 0, mapping_epoch.0),
        };
        Encoded::of(&AnswerLayout {
            kind: KIND_ANSWER,
            version: VERSION,
            verdict,
            execution,
            volume: U32::new(self.volume.0),
            epoch: U64::new(self.epoch.0),
            incarnation: U64::new(self.incarnation.0),
            sequence: U64::new(self.id.sequence.0),
            verdict_epoch: U64::new(verdict_epoch),
            slot: U32::new(self.id.slot.0),
            errno: U16::new(errno),
            reserved: U16::ZERO,
        })
    }

    fn read(layout: &AnswerLayout) -> Result<Answer, WireFault> {
        let verdict_epoch = Epoch(layout.verdict_epoch.get());
        let verdict = match layout.verdict {
            VERDICT_DONE => Verdict::Done,
            VERDICT_ERRNO => Verdict::Errno(known(BlockErrno::from_wire(layout.errno.get()), "errno")?),
            VERDICT_STALE => Verdict::NackStale { gate_epoch: verdict_epoch },
            VERDICT_BUSY => Verdict::NackBusy,
            VERDICT_PATH => Verdict::NackPath {
                execution: match layout.execution {
                    0 => Execution::NotExecuted,
                    1 => Execution::Unknown,
                    _ => return Err(WireFault::Field { field: "execution" }),
                },
            },
            VERDICT_NOT_SERVING => Verdict::NackNotServing { mapping_epoch: verdict_epoch },
            _ => return Err(WireFault::Field { field: "verdict" }),
        };
        Ok(Answer {
            volume: VolumeId(layout.volume.get()),
            epoch: Epoch(layout.epoch.get()),
            incarnation: Incarnation(layout.incarnation.get()),
            id: RequestId {
                slot: known(slot_in_range(layout.slot.get()), "slot")?,
                sequence: Sequence(layout.sequence.get()),
            },
            verdict,
        })
    }
}

impl Attach {
    /// The bytes of this attach.
    pub fn encode(&self) -> Encoded {
        Encoded::of(&AttachLayout {
            kind: KIND_ATTACH,
            version: VERSION,
            client: U16::new(self.client.0),
            volume: U32::new(self.volume.0),
            epoch: U64::new(self.epoch.0),
            incarnation: U64::new(self.incarnation.0),
        })
    }

    fn read(layout: &AttachLayout) -> Attach {
        Attach {
            volume: VolumeId(layout.volume.get()),
            epoch: Epoch(layout.epoch.get()),
            client: NodeId(layout.client.get()),
            incarnation: Incarnation(layout.incarnation.get()),
        }
    }

    /// The word on this attach.
    pub fn answered(&self, verdict: AttachVerdict) -> Attached {
        Attached { volume: self.volume, epoch: self.epoch, incarnation: self.incarnation, verdict }
    }
}

impl Attached {
    /// The bytes of this word on an attach.
    pub fn encode(&self) -> Encoded {
        let (verdict, verdict_epoch) = match self.verdict {
            AttachVerdict::Open { gate_epoch } => (ATTACH_OPEN, gate_epoch.0),
            AttachVerdict::NotServing { mapping_epoch } => (ATTACH_NOT_SERVING, mapping_epoch.0),
        };
        Encoded::of(&AttachedLayout {
            kind: KIND_ATTACHED,
            version: VERSION,
            verdict,
            reserved: 0,
            volume: U32::new(self.volume.0),
            epoch: U64::new(self.epoch.0),
            incarnation: U64::new(self.incarnation.0),
            verdict_epoch: U64::new(verdict_epoch),
        })
    }

    fn read(layout: &AttachedLayout) -> Result<Attached, WireFault> {
        let verdict_epoch = Epoch(layout.verdict_epoch.get());
        Ok(Attached {
            volume: VolumeId(layout.volume.get()),
            epoch: Epoch(layout.epoch.get()),
            incarnation: Incarnation(layout.incarnation.get()),
            verdict: match layout.verdict {
                ATTACH_OPEN => AttachVerdict::Open { gate_epoch: verdict_epoch },
                ATTACH_NOT_SERVING => AttachVerdict::NotServing { mapping_epoch: verdict_epoch },
                _ => return Err(WireFault::Field { field: "verdict" }),
            },
        })
    }
}

impl PathBroken {
    /// The bytes of this report.
    pub fn encode(&self) -> Encoded {
        Encoded::of(&PathBrokenLayout {
            kind: KIND_PATH_BROKEN,
            version: VERSION,
            node: U16::new(self.node.0),
            volume: U32::new(self.volume.0),
            epoch: U64::new(self.epoch.0),
            disk: U32::new(self.disk.0),
            reserved: U32::ZERO,
        })
    }

    fn read(layout: &PathBrokenLayout) -> Result<PathBroken, WireFault> {
        Ok(PathBroken {
            volume: VolumeId(layout.volume.get()),
            epoch: Epoch(layout.epoch.get()),
            node: NodeId(layout.node.get()),
            disk: DiskId(layout.disk.get()),
        })
    }
}
