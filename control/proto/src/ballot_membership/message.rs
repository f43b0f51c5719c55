//! What membership machines say to each other, and what a node keeps on disk. Little-endian, hand-coded: a
//! fixed control part of [`CONTROL_BYTES`], lists in the data part.

use super::{Ballot, Durable, EPOCH_MAX, Status, View};
use crate::rows::NODES_MAX;
use crate::view::{BrokenPath, Member};
use alloc::vec::Vec;
use blockdev_proto::geometry::DiskId;
use core::fmt;
use transport_proto::identity::{Epoch, Incarnation, NodeId};

/// Bytes of every message's control part.
pub const CONTROL_BYTES: usize = 32;
/// Broken paths in one view at the most; further reports wait until some are mended.
pub const BROKEN_MAX: usize = 4096;
const VERSION: u8 = 1;
const DURABLE_MAGIC: [u8; 8] = *b"ndmember";

/// A message between the membership machines of two nodes. `after` is the epoch of the view whose successor
/// is being decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// What the sender sees. Sent at each change and from time to time.
    Status(Status),
    /// Asks for a promise to take part in no lower ballot.
    Prepare {
        /// Which decision.
        after: Epoch,
        /// The ballot.
        ballot: Ballot,
    },
    /// The promise, with what the sender accepted last.
    Promise {
        /// Which decision.
        after: Epoch,
        /// The ballot promised.
        ballot: Ballot,
        /// Accepted before, in which ballot.
        accepted: Option<(Ballot, View)>,
    },
    /// Asks to accept a view.
    Accept {
        /// Which decision.
        after: Epoch,
        /// The ballot.
        ballot: Ballot,
        /// The view.
        view: View,
    },
    /// The sender accepted the ballot's view and has it on disk.
    Accepted {
        /// Which decision.
        after: Epoch,
        /// The ballot.
        ballot: Ballot,
    },
    /// The sender has promised a higher ballot.
    Refused {
        /// Which decision.
        after: Epoch,
        /// The ballot it promised.
        promised: Ballot,
    },
    /// A view that was decided.
    Commit(View),
}

/// A message as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Control part.
    pub control: [u8; CONTROL_BYTES],
    /// Data part.
    pub data: Vec<u8>,
}

/// Why bytes are no message, or no durable state. Whoever wrote them is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageFault {
    /// Written by another version.
    Version {
        /// The version found.
        found: u8,
    },
    /// A kind that this version does not know.
    Kind {
        /// The number found.
        found: u8,
    },
    /// Too short, too long, or a count over its limit.
    Length,
    /// A view that cannot be: lists out of order, or a node twice.
    View,
}

impl fmt::Display for MessageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            MessageFault::Version { found } => {
                write!(f, "membership version {found}, this node {VERSION}: run one release on all nodes")
            }
            MessageFault::Kind { found } => write!(f, "unknown membership message {found}"),
            MessageFault::Length => write!(f, "membership message of a wrong length"),
            MessageFault::View => write!(f, "membership view with lists out of order"),
        }
    }
}

impl core::error::Error for MessageFault {}

impl Message {
    /// As it travels.
    pub fn encode(&self) -> Encoded {
        let mut data = Writer::default();
        let (kind, after, ballot) = match self {
            Message::Status(status) => {
                data.status(status);
                (1, status.epoch, Ballot::NONE)
            }
            Message::Prepare { after, ballot } => (2, *after, *ballot),
            Message::Promise { after, ballot, accepted } => {
                if let Some((ballot, view)) = accepted {
                    data.ballot(*ballot);
                    data.view(view);
                }
                (3, *after, *ballot)
            }
            Message::Accept { after, ballot, view } => {
                data.view(view);
                (4, *after, *ballot)
            }
            Message::Accepted { after, ballot } => (5, *after, *ballot),
            Message::Refused { after, promised } => (6, *after, *promised),
            Message::Commit(view) => {
                data.view(view);
                (7, view.epoch, Ballot::NONE)
            }
        };
        let mut control = Writer::default();
        control.bytes(&[kind, VERSION, 0, 0, 0, 0, 0, 0]);
        control.u64(after.0);
        control.ballot(ballot);
        let mut fixed = [0; CONTROL_BYTES];
        fixed[..control.0.len()].copy_from_slice(&control.0);
        Encoded { control: fixed, data: data.0 }
    }

    /// Reads what [`Message::encode`] wrote. Never panics, whatever the bytes.
    pub fn decode(control: &[u8], data: &[u8]) -> Result<Message, MessageFault> {
        if control.len() != CONTROL_BYTES {
            return Err(MessageFault::Length);
        }
        if control[1] != VERSION {
            return Err(MessageFault::Version { found: control[1] });
        }
        let kind = control[0];
        let mut fixed = Reader(&control[8..]);
        let (after, ballot) = (Epoch(fixed.u64()?), fixed.ballot()?);
        let mut data = Reader(data);
        let message = match kind {
            1 => Message::Status(data.status(after)?),
            2 => Message::Prepare { after, ballot },
            3 if data.0.is_empty() => Message::Promise { after, ballot, accepted: None },
            3 => Message::Promise { after, ballot, accepted: Some((data.ballot()?, data.view()?)) },
            4 => Message::Accept { after, ballot, view: data.view()? },
            5 => Message::Accepted { after, ballot },
            6 => Message::Refused { after, promised: ballot },
            7 => Message::Commit(data.view()?),
            found => return Err(MessageFault::Kind { found }),
        };
        if data.0.is_empty() { Ok(message) } else { Err(MessageFault::Length) }
    }
}

impl Durable {
    /// As it lies on disk. Whoever writes it adds what tells a torn write.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(&DURABLE_MAGIC);
        out.bytes(&[VERSION, u8::from(self.accepted.is_some()), 0, 0, 0, 0, 0, 0]);
        out.view(&self.view);
        out.ballot(self.promised);
        if let Some((ballot, view)) = &self.accepted {
            out.ballot(*ballot);
            out.view(view);
        }
        out.0
    }

    /// Reads what [`Durable::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Durable, MessageFault> {
        let mut reader = Reader(bytes);
        let magic = reader.take(8)?;
        let fixed = reader.take(8)?;
        if magic != DURABLE_MAGIC {
            return Err(MessageFault::Length);
        }
        if fixed[0] != VERSION {
            return Err(MessageFault::Version { found: fixed[0] });
        }
        let (view, promised) = (reader.view()?, reader.ballot()?);
        let accepted = if fixed[1] != 0 { Some((reader.ballot()?, reader.view()?)) } else { None };
        if reader.0.is_empty() { Ok(Durable { view, promised, accepted }) } else { Err(MessageFault::Length) }
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    fn ballot(&mut self, ballot: Ballot) {
        self.u32(ballot.count);
        self.u16(ballot.node.0);
    }

    fn members(&mut self, members: &[Member]) {
        self.u16(members.len() as u16);
        for member in members {
            self.u16(member.node.0);
            self.u64(member.incarnation.0);
        }
    }

    fn paths(&mut self, paths: &[BrokenPath]) {
        self.u16(paths.len() as u16);
        for path in paths {
            self.u16(path.node.0);
            self.u32(path.disk.0);
        }
    }

    fn view(&mut self, view: &View) {
        self.u64(view.epoch.0);
        self.members(&view.members);
        self.members(&view.departed);
        self.paths(&view.broken);
    }

    fn status(&mut self, status: &Status) {
        self.u64(status.incarnation.0);
        self.u64(status.floor.0);
        self.u16(u16::from(status.leaving));
        self.members(&status.reaches);
        self.paths(&status.broken);
        self.paths(&status.mended);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], MessageFault> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(MessageFault::Length)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageFault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u16(&mut self) -> Result<u16, MessageFault> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, MessageFault> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, MessageFault> {
        self.array().map(u64::from_le_bytes)
    }

    fn ballot(&mut self) -> Result<Ballot, MessageFault> {
        Ok(Ballot { count: self.u32()?, node: NodeId(self.u16()?) })
    }

    /// A list in rising order, without repetition, so that equal views have equal bytes.
    fn list<T: Ord + Copy>(
        &mut self,
        most: usize,
        mut one: impl FnMut(&mut Self) -> Result<T, MessageFault>,
        rises: impl Fn(T, T) -> bool,
    ) -> Result<Vec<T>, MessageFault> {
        let count = usize::from(self.u16()?);
        if count > most {
            return Err(MessageFault::Length);
        }
        let mut list: Vec<T> = Vec::with_capacity(count);
        for _ in 0..count {
            let item = one(self)?;
            if list.last().is_some_and(|&last| !rises(last, item)) {
                return Err(MessageFault::View);
            }
            list.push(item);
        }
        Ok(list)
    }

    fn members(&mut self) -> Result<Vec<Member>, MessageFault> {
        let one = |r: &mut Self| Ok(Member { node: NodeId(r.u16()?), incarnation: Incarnation(r.u64()?) });
        self.list(NODES_MAX, one, |a: Member, b: Member| a.node < b.node)
    }

    fn paths(&mut self) -> Result<Vec<BrokenPath>, MessageFault> {
        let one = |r: &mut Self| Ok(BrokenPath { node: NodeId(r.u16()?), disk: DiskId(r.u32()?) });
        self.list(BROKEN_MAX, one, |a, b| a < b)
    }

    fn view(&mut self) -> Result<View, MessageFault> {
        let epoch = Epoch(self.u64()?);
        // One above every floor that a node obeys is the highest that can come about, counted on from there.
        if epoch.0 > 2 * EPOCH_MAX.0 {
            return Err(MessageFault::View);
        }
        Ok(View { epoch, members: self.members()?, departed: self.members()?, broken: self.paths()? })
    }

    fn status(&mut self, epoch: Epoch) -> Result<Status, MessageFault> {
        Ok(Status {
            epoch,
            incarnation: Incarnation(self.u64()?),
            floor: Epoch(self.u64()?),
            leaving: self.u16()? != 0,
            reaches: self.members()?,
            broken: self.paths()?,
            mended: self.paths()?,
        })
    }
}
