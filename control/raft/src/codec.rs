//! Raft's own values as bytes, little-endian, the same on the wire and on disk.
//!
//! Decoding takes any bytes: whatever does not fit is [`Torn`], never a panic, and no length is believed
//! before as many bytes are there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::{CommittedLeaderId, EmptyNode, EntryPayload, LeaderId};

use crate::flavour::{Command, Entry, LogId, Membership, SnapshotMeta, StoredMembership, Vote};
use crate::options::{COMMAND_BYTES_MAX, MEMBERS_MAX};

/// Configurations that a membership joins at the most; raft needs two.
const CONFIGURATIONS_MAX: usize = 4;
/// Bytes of the name of a snapshot at the most.
const SNAPSHOT_NAME_BYTES_MAX: usize = 128;

/// Bytes that are not what they should be: cut short, out of range, or followed by more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Torn;

/// Takes values off the front of some bytes.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Torn> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Torn)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Torn> {
        self.bytes(N)?.try_into().map_err(|_| Torn)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Torn> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Torn> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Torn> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Torn> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, Torn> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Torn),
        }
    }

    /// Bytes behind a length of 32 bits, at most `max`.
    pub(crate) fn blob(&mut self, max: usize) -> Result<&'a [u8], Torn> {
        let length = self.u32()? as usize;
        if length > max {
            return Err(Torn);
        }
        self.bytes(length)
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), Torn> {
        if self.rest.is_empty() { Ok(()) } else { Err(Torn) }
    }
}

pub(crate) fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

pub(crate) fn option<T>(
    reader: &mut Reader<'_>,
    take: impl FnOnce(&mut Reader<'_>) -> Result<T, Torn>,
) -> Result<Option<T>, Torn> {
    if reader.flag()? { take(reader).map(Some) } else { Ok(None) }
}

pub(crate) fn put_log_id(out: &mut Vec<u8>, log_id: &LogId) {
    put_u64(out, log_id.leader_id.term);
    put_u64(out, log_id.leader_id.node_id);
    put_u64(out, log_id.index);
}

/// An index stays far from the end of its range, so that adding to it cannot overflow.
pub(crate) fn log_id(reader: &mut Reader<'_>) -> Result<LogId, Torn> {
    let leader = CommittedLeaderId::new(reader.u64()?, reader.u64()?);
    let index = reader.u64()?;
    if index > u64::MAX / 2 || leader.term > u64::MAX / 2 {
        return Err(Torn);
    }
    Ok(LogId::new(leader, index))
}

pub(crate) fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    put_u64(out, vote.leader_id.term);
    put_u64(out, vote.leader_id.node_id);
    out.push(u8::from(vote.committed));
}

pub(crate) fn vote(reader: &mut Reader<'_>) -> Result<Vote, Torn> {
    let leader_id = LeaderId::new(reader.u64()?, reader.u64()?);
    if leader_id.term > u64::MAX / 2 {
        return Err(Torn);
    }
    Ok(Vote { leader_id, committed: reader.flag()? })
}

fn put_nodes<'a>(out: &mut Vec<u8>, nodes: impl ExactSizeIterator<Item = &'a u64>) {
    out.extend_from_slice(&(nodes.len() as u16).to_le_bytes());
    nodes.for_each(|node| put_u64(out, *node));
}

fn nodes(reader: &mut Reader<'_>) -> Result<BTreeSet<u64>, Torn> {
    let count = usize::from(reader.u16()?);
    if count > MEMBERS_MAX {
        return Err(Torn);
    }
    let mut nodes = BTreeSet::new();
    for _ in 0..count {
        if !nodes.insert(reader.u64()?) {
            return Err(Torn);
        }
    }
    Ok(nodes)
}

fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let configurations = membership.get_joint_config();
    out.push(configurations.len() as u8);
    configurations.iter().for_each(|voters| put_nodes(out, voters.iter()));
    let all: Vec<u64> = membership.nodes().map(|(node, _)| *node).collect();
    put_nodes(out, all.iter());
}

fn membership(reader: &mut Reader<'_>) -> Result<Membership, Torn> {
    let count = usize::from(reader.u8()?);
    if count > CONFIGURATIONS_MAX {
        return Err(Torn);
    }
    let configurations = (0..count).map(|_| nodes(reader)).collect::<Result<Vec<_>, Torn>>()?;
    if configurations.iter().any(BTreeSet::is_empty) {
        return Err(Torn);
    }
    let all: BTreeMap<u64, EmptyNode> =
        nodes(reader)?.into_iter().map(|node| (node, EmptyNode::new())).collect();
    if configurations.iter().flatten().any(|voter| !all.contains_key(voter)) {
        return Err(Torn);
    }
    Ok(Membership::new(configurations, all))
}

pub(crate) fn put_stored_membership(out: &mut Vec<u8>, stored: &StoredMembership) {
    put_option(out, stored.log_id().as_ref(), put_log_id);
    put_membership(out, stored.membership());
}

pub(crate) fn stored_membership(reader: &mut Reader<'_>) -> Result<StoredMembership, Torn> {
    Ok(StoredMembership::new(option(reader, log_id)?, membership(reader)?))
}

pub(crate) fn put_snapshot_meta(out: &mut Vec<u8>, meta: &SnapshotMeta) {
    put_option(out, meta.last_log_id.as_ref(), put_log_id);
    put_stored_membership(out, &meta.last_membership);
    put_blob(out, meta.snapshot_id.as_bytes());
}

pub(crate) fn snapshot_meta(reader: &mut Reader<'_>) -> Result<SnapshotMeta, Torn> {
    let last_log_id = option(reader, log_id)?;
    let last_membership = stored_membership(reader)?;
    let name = reader.blob(SNAPSHOT_NAME_BYTES_MAX)?;
    let snapshot_id = String::from_utf8(name.to_vec()).map_err(|_| Torn)?;
    Ok(SnapshotMeta { last_log_id, last_membership, snapshot_id })
}

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_log_id(out, &entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => out.push(BLANK),
        EntryPayload::Normal(command) => {
            out.push(COMMAND);
            put_blob(out, &command.0);
        }
        EntryPayload::Membership(members) => {
            out.push(MEMBERSHIP);
            put_membership(out, members);
        }
    }
}

pub(crate) fn entry(reader: &mut Reader<'_>) -> Result<Entry, Torn> {
    let log_id = log_id(reader)?;
    let payload = match reader.u8()? {
        BLANK => EntryPayload::Blank,
        COMMAND => EntryPayload::Normal(Command(Arc::from(reader.blob(COMMAND_BYTES_MAX)?))),
        MEMBERSHIP => {
            let members = membership(reader)?;
            if members.get_joint_config().is_empty() {
                return Err(Torn);
            }
            EntryPayload::Membership(members)
        }
        _ => return Err(Torn),
    };
    Ok(Entry { log_id, payload })
}

/// Bytes that [`put_entry`] writes for this entry, or a little more.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    const FIXED: usize = 3 * 8 + 1 + 4;
    match &entry.payload {
        EntryPayload::Blank => FIXED,
        EntryPayload::Normal(command) => FIXED + command.0.len(),
        EntryPayload::Membership(members) => {
            let voters: usize = members.get_joint_config().iter().map(|set| 2 + 8 * set.len()).sum();
            FIXED + voters + 2 + 8 * members.nodes().count()
        }
    }
}
