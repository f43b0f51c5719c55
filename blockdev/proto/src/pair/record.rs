//! What a half of a pair keeps on stable storage: one block with a checksum.

use super::{Grant, Role, Side, State};
use crate::checksum::crc32c;
use alloc::vec::Vec;
use core::fmt;
use transport_proto::identity::NodeId;

/// Bytes of an encoded [`Record`].
pub const RECORD_BYTES: usize = 512;
const MAGIC: &[u8; 8] = b"ndpair\0\0";
const VERSION: u16 = 1;
const CRC_AT: usize = RECORD_BYTES - 4;
/// In place of a node's number.
pub(super) const NOBODY: u16 = u16::MAX;

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

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl Record {
    /// The block to write.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = alloc::vec![0; RECORD_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(10, &[self.state.code(), self.role as u8, u8::from(self.consistent)]);
        put(16, &self.pair.to_le_bytes());
        put(24, &self.generation.term.to_le_bytes());
        put(32, &self.generation.step.to_le_bytes());
        put(40, &self.arbiter_epoch.to_le_bytes());
        put(48, &self.reserved.map_or(NOBODY, |node| node.0).to_le_bytes());
        put(50, &self.grant.map_or(NOBODY, |grant| grant.node.0).to_le_bytes());
        put(52, &[self.grant.map_or(0, |grant| grant.side as u8)]);
        put(56, &self.grant.map_or(0, |grant| grant.epoch).to_le_bytes());
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
        let found = u16_at(bytes, 8);
        if found != VERSION {
            return Err(RecordFault::Version { found });
        }
        if crc32c(&bytes[..CRC_AT]).to_le_bytes() != bytes[CRC_AT..] {
            return Err(RecordFault::Damaged);
        }
        let ours = u64_at(bytes, 16);
        if ours != pair {
            return Err(RecordFault::Foreign { pair: ours });
        }
        let node = |at: usize| Some(NodeId(u16_at(bytes, at))).filter(|node| node.0 != NOBODY);
        let side = Side::of_code(bytes[52]).ok_or(RecordFault::Damaged)?;
        let epoch = u64_at(bytes, 56);
        Ok(Record {
            pair,
            state: State::of_code(bytes[10]).ok_or(RecordFault::Damaged)?,
            role: Role::of_code(bytes[11]).ok_or(RecordFault::Damaged)?,
            consistent: of_flag(bytes[12]).ok_or(RecordFault::Damaged)?,
            generation: Generation { term: u64_at(bytes, 24), step: u64_at(bytes, 32) },
            grant: node(50).map(|node| Grant { side, node, epoch }),
            arbiter_epoch: u64_at(bytes, 40),
            reserved: node(48),
        })
    }
}
