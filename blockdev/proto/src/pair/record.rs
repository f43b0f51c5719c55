//! What a half of a pair keeps on stable storage, one block with a checksum, and tells the other half: the
//! same bytes in both.

use super::{Grant, Role, Side, State};
use crate::checksum::crc32c;
use crate::wire::WireFault;
use alloc::vec::Vec;
use core::fmt;
use transport_proto::identity::NodeId;
use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an encoded [`Record`].
pub const RECORD_BYTES: usize = 512;
const MAGIC: &[u8; 8] = b"ndpair\0\0";
const VERSION: u16 = 1;
/// Where the fields begin, after magic and version.
const FIELDS_AT: usize = 16;
const CRC_AT: usize = RECORD_BYTES - 4;
/// In place of a node's number.
const NOBODY: u16 = u16::MAX;

/// The number of a state of a pair. A later one wins where two halves meet and disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation {
    /// Rises when a half takes over without the word of the other.
    pub term: u64,
    /// Rises with every decision of the primary half.
    pub step: u64,
}

impl Generation {
    pub(super) fn next(self) -> Generation {
        Generation { step: self.step.saturating_add(1), ..self }
    }

    pub(super) fn next_term(self) -> Generation {
        Generation { term: self.term.saturating_add(1), step: self.step.saturating_add(1) }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.step)
    }
}

/// The durable state of one half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which pair; another pair's record is never used.
    pub pair: u64,
    /// Of the pair, as this half knows it.
    pub state: State,
    /// Of this half; without meaning while the state is simplex.
    pub role: Role,
    /// Of the state.
    pub generation: Generation,
    /// Whether the content of this half is that of one moment, so that it may be served: a half that is being
    /// copied to is not, and one that was superseded is not.
    pub consistent: bool,
    /// The side that won the pair as an arbiter last, if any.
    pub grant: Option<Grant>,
    /// The highest number of a grant that this half has seen.
    pub arbiter_epoch: u64,
    /// The node that has this half reserved.
    pub reserved: Option<NodeId>,
}

impl Record {
    /// The record of a half that is in no pair yet.
    pub fn simplex(pair: u64) -> Record {
        Record {
            pair,
            state: State::Simplex,
            role: Role::Secondary,
            generation: Generation::default(),
            consistent: true,
            grant: None,
            arbiter_epoch: 0,
            reserved: None,
        }
    }
}

/// Why a record cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// There is none.
    Missing,
    /// The checksum does not fit, or a field says what no release writes.
    Damaged,
    /// It is of a version that this release does not know.
    Version {
        /// The version found.
        found: u16,
    },
    /// It is another pair's.
    Foreign {
        /// That pair.
        pair: u64,
    },
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordFault::Missing => write!(f, "there is no record of a pair on the disk"),
            RecordFault::Damaged => write!(f, "the record of the pair is damaged"),
            RecordFault::Version { found } => {
                write!(f, "the record of the pair is of version {found}: use the release that wrote it")
            }
            RecordFault::Foreign { pair } => write!(f, "the disk is half of another pair ({pair:016x})"),
        }
    }
}

pub(super) fn of_flag(code: u8) -> Option<bool> {
    match code {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

pub(super) fn known<T>(value: Option<T>, field: &'static str) -> Result<T, WireFault> {
    value.ok_or(WireFault::Field { field })
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Default)]
#[repr(C)]
pub(super) struct RecordLayout {
    pair: U64,
    term: U64,
    step: U64,
    arbiter_epoch: U64,
    grant_epoch: U64,
    grant_node: U16,
    reserved: U16,
    grant_side: u8,
    state: u8,
    role: u8,
    consistent: u8,
}

fn node_or_nobody(number: U16) -> Option<NodeId> {
    Some(NodeId(number.get())).filter(|node| node.0 != NOBODY)
}

impl RecordLayout {
    pub(super) fn of(record: &Record) -> RecordLayout {
        let grant = record.grant;
        RecordLayout {
            pair: record.pair.into(),
            term: record.generation.term.into(),
            step: record.generation.step.into(),
            arbiter_epoch: record.arbiter_epoch.into(),
            grant_epoch: grant.map_or(0, |grant| grant.epoch).into(),
            grant_node: grant.map_or(NOBODY, |grant| grant.node.0).into(),
            reserved: record.reserved.map_or(NOBODY, |node| node.0).into(),
            grant_side: grant.map_or(0, |grant| grant.side as u8),
            state: record.state as u8,
            role: record.role as u8,
            consistent: u8::from(record.consistent),
        }
    }

    pub(super) fn read(&self) -> Result<Record, WireFault> {
        let side = known(Side::of_code(self.grant_side), "side of the grant")?;
        let epoch = self.grant_epoch.get();
        Ok(Record {
            pair: self.pair.get(),
            state: known(State::of_code(self.state), "state")?,
            role: known(Role::of_code(self.role), "role")?,
            generation: Generation { term: self.term.get(), step: self.step.get() },
            consistent: known(of_flag(self.consistent), "consistent")?,
            grant: node_or_nobody(self.grant_node).map(|node| Grant { side, node, epoch }),
            arbiter_epoch: self.arbiter_epoch.get(),
            reserved: node_or_nobody(self.reserved),
        })
    }
}

impl Record {
    /// The block to write.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = alloc::vec![0; RECORD_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(FIELDS_AT, RecordLayout::of(self).as_bytes());
        let sum = crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a block back.
    ///
    /// # Errors
    /// [`RecordFault`].
    pub fn decode(pair: u64, bytes: &[u8]) -> Result<Record, RecordFault> {
        if bytes.len() != RECORD_BYTES {
            return Err(RecordFault::Damaged);
        }
        if &bytes[..8] != MAGIC {
            return Err(RecordFault::Missing);
        }
        let found = u16::from_le_bytes([bytes[8], bytes[9]]);
        if found != VERSION {
            return Err(RecordFault::Version { found });
        }
        if crc32c(&bytes[..CRC_AT]).to_le_bytes() != bytes[CRC_AT..] {
            return Err(RecordFault::Damaged);
        }
        let (fields, _) =
            RecordLayout::ref_from_prefix(&bytes[FIELDS_AT..]).map_err(|_| RecordFault::Damaged)?;
        let record = fields.read().map_err(|_| RecordFault::Damaged)?;
        if record.pair == pair { Ok(record) } else { Err(RecordFault::Foreign { pair: record.pair }) }
    }
}
