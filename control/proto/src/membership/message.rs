//! What membership machines say to each other: a fixed control part of [`CONTROL_BYTES`], lists in the data
//! part.

use crate::ccd::{BROKEN_MAX, CodeFault};
use crate::codec::{Coded, Reader, Writer, coded};
use crate::rows::NODES_MAX;
use crate::view::{BrokenPath, Member};
use alloc::vec::Vec;
use core::time::Duration;
use transport_proto::identity::{Epoch, Incarnation};
use transport_proto::time::Time;

/// Bytes of every message's control part.
pub const CONTROL_BYTES: usize = 32;
/// 1 was that of machines that voted among themselves.
const VERSION: u16 = 2;

/// What a node tells the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Its life.
    pub incarnation: Incarnation,
    /// The configuration number that it has come to.
    pub number: Epoch,
    /// It is about to stop.
    pub leaving: bool,
    /// Age of its oldest disk I/O that has not ended.
    pub oldest_io: Duration,
    /// Whom it sees, itself left out, rising.
    pub reaches: Vec<Member>,
    /// Paths that it found broken and that the log does not show, rising.
    pub broken: Vec<BrokenPath>,
    /// Its own paths that are mended and that the log shows as broken, rising.
    pub mended: Vec<BrokenPath>,
}

/// A message between the membership machines of two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// What the sender sees. Sent at each change and from time to time.
    Status(Status),
    /// Asks the leader for a lease.
    Ask {
        /// When it was asked, on the sender's clock; means nothing to the leader.
        stamp: Time,
    },
    /// Grants a lease.
    Grant {
        /// The term in which the sender leads.
        term: u64,
        /// Of the question.
        stamp: Time,
        /// So much of the lease is spent: since a majority last confirmed the leader.
        age: Duration,
    },
}

/// A message as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Control part.
    pub control: [u8; CONTROL_BYTES],
    /// Data part.
    pub data: Vec<u8>,
}

coded! {
    struct Status { incarnation, number, leaving, oldest_io, reaches, broken, mended }
}

impl Message {
    /// As it travels.
    pub fn encode(&self) -> Encoded {
        let (mut control, mut data) = (Writer::default(), Vec::new());
        VERSION.put(&mut control);
        match self {
            Message::Status(status) => {
                control.u8(1);
                data = status.to_bytes();
            }
            Message::Ask { stamp } => {
                control.u8(2);
                stamp.0.put(&mut control);
            }
            Message::Grant { term, stamp, age } => {
                control.u8(3);
                (stamp.0, *term).put(&mut control);
                (age.as_nanos().min(u128::from(u64::MAX)) as u64).put(&mut control);
            }
        }
        let mut fixed = [0; CONTROL_BYTES];
        fixed[..control.0.len()].copy_from_slice(&control.0);
        Encoded { control: fixed, data }
    }

    /// Reads what [`Message::encode`] wrote. Never panics, whatever the bytes.
    pub fn decode(control: &[u8], data: &[u8]) -> Result<Message, CodeFault> {
        if control.len() != CONTROL_BYTES {
            return Err(CodeFault::Short);
        }
        let mut fixed = Reader(control);
        let found = u16::take(&mut fixed)?;
        if found != VERSION {
            return Err(CodeFault::Version { of: "a membership message", found, known: VERSION });
        }
        let message = match fixed.u8()? {
            1 => return Message::status_of(data),
            2 => Message::Ask { stamp: Time(u64::take(&mut fixed)?) },
            3 => {
                let (stamp, term) = (Time(u64::take(&mut fixed)?), u64::take(&mut fixed)?);
                Message::Grant { term, stamp, age: Duration::from_nanos(u64::take(&mut fixed)?) }
            }
            found => return Err(CodeFault::Variant { of: "membership message", found }),
        };
        if data.is_empty() { Ok(message) } else { Err(CodeFault::Long) }
    }

    /// Lists rise and are not too long, or the sender is at fault.
    fn status_of(data: &[u8]) -> Result<Message, CodeFault> {
        let status = Status::of_bytes(data)?;
        let members_rise = status.reaches.windows(2).all(|pair| pair[0].node < pair[1].node);
        let rise = |paths: &[BrokenPath]| {
            paths.len() <= BROKEN_MAX && paths.windows(2).all(|pair| pair[0] < pair[1])
        };
        let well = members_rise && status.reaches.len() <= NODES_MAX;
        if well && rise(&status.broken) && rise(&status.mended) {
            Ok(Message::Status(status))
        } else {
            Err(CodeFault::Value { of: "membership status" })
        }
    }
}
