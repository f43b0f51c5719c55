//! The bytes of the messages: layouts of fixed size, and the ways to and from the plain types.

use super::{
    Answer, Attach, AttachVerdict, Attached, Execution, Message, Operation, PathBroken, Request,
    RequestFlags, RequestId, SLOTS_MAX, Settle, Slot, VERSION, Verdict, WireFault,
};
use crate::errno::BlockErrno;
use crate::geometry::{ByteRange, DiskId, TRANSFER_BYTES_MAX, VolumeId};
use transport_proto::identity::{Epoch, Incarnation, NodeId, Sequence};
use transport_proto::wire::CONTROL_BYTES_MAX;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

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

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SettleLayout {
    kind: u8,
    version: u8,
    aborts: u8,
    reserved: u8,
    volume: U32,
    revision: U64,
}
const _: () = assert!(size_of::<SettleLayout>() == 16);

const KIND_REQUEST: u8 = 1;
const KIND_ANSWER: u8 = 2;
const KIND_ATTACH: u8 = 3;
const KIND_ATTACHED: u8 = 4;
const KIND_PATH_BROKEN: u8 = 5;
const KIND_SETTLE: u8 = 6;
const KIND_SETTLED: u8 = 7;

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
            KIND_SETTLE => Settle::read(layout(bytes)?).map(Message::Settle),
            KIND_SETTLED => Settle::read(layout(bytes)?).map(Message::Settled),
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
            Message::Settle(settle) => settle.encode(KIND_SETTLE),
            Message::Settled(settle) => settle.encode(KIND_SETTLED),
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

impl Settle {
    fn encode(&self, kind: u8) -> Encoded {
        Encoded::of(&SettleLayout {
            kind,
            version: VERSION,
            aborts: u8::from(self.aborts),
            reserved: 0,
            volume: U32::new(self.volume.0),
            revision: U64::new(self.revision),
        })
    }

    fn read(layout: &SettleLayout) -> Result<Settle, WireFault> {
        let aborts = match layout.aborts {
            0 => false,
            1 => true,
            _ => return Err(WireFault::Field { field: "aborts" }),
        };
        Ok(Settle { volume: VolumeId(layout.volume.get()), revision: layout.revision.get(), aborts })
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
