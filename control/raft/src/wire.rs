//! What nodes say to each other, as bytes: a head in the control part, a body in the data part of a message
//! of the transport.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};

use crate::codec::{self, Reader, Torn};
use crate::flavour::{Flavour, LogId, SnapshotMeta, Vote};
use crate::options::{ANSWER_BYTES_MAX, COMMAND_BYTES_MAX, ClusterStamp};

const MAGIC: &[u8; 4] = b"NDRF";
/// Version of everything in this file.
pub(crate) const VERSION: u8 = 1;
/// Bytes of the head: magic, version, kind, two spare, cluster, genesis, call.
pub(crate) const HEAD_BYTES: usize = 4 + 1 + 1 + 2 + 8 + 32 + 8;
/// Entries in one message at the most.
pub(crate) const ENTRIES_MAX: usize = 1024;

/// A question that wants an answer, or an answer.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// The leader's entries, or its heartbeat.
    Append(AppendEntriesRequest<Flavour>),
    Appended(AppendAnswer),
    /// A candidate asks for a vote.
    Vote(VoteRequest<u64>),
    Voted(VoteResponse<u64>),
    /// A piece of the leader's snapshot.
    Chunk(Chunk),
    Chunked(ChunkAnswer),
    /// A command for the leader.
    Forward(Vec<u8>),
    Forwarded(ForwardAnswer),
    /// Up to where must be applied for a read that begins now?
    Barrier,
    BarrierAt(BarrierAnswer),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AppendAnswer {
    Success,
    Conflict,
    HigherVote(Vote),
    /// The node's log has stopped.
    Stopped,
}

impl From<AppendEntriesResponse<u64>> for AppendAnswer {
    fn from(response: AppendEntriesResponse<u64>) -> Self {
        match response {
            AppendEntriesResponse::Success => AppendAnswer::Success,
            AppendEntriesResponse::Conflict => AppendAnswer::Conflict,
            AppendEntriesResponse::HigherVote(vote) => AppendAnswer::HigherVote(vote),
            // openraft's core never answers so; as a conflict the leader looks again what this node has.
            AppendEntriesResponse::PartialSuccess(_) => AppendAnswer::Conflict,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    /// Bytes of the whole snapshot.
    pub(crate) total: u64,
    /// Where this piece begins.
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ChunkAnswer {
    /// Send on from here.
    Next(u64),
    /// The snapshot is installed; the receiver's vote.
    Installed(Vote),
    /// The receiver has seen this higher vote.
    HigherVote(Vote),
    /// Larger than the receiver takes.
    TooLarge,
    /// The node's log has stopped.
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ForwardAnswer {
    /// Applied at this index, with this answer.
    Done { index: u64, answer: Vec<u8> },
    /// May have happened.
    Unknown,
    /// Not executed: this node does not lead.
    NotLeader,
    /// Not executed: too much is open there.
    Backlog,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BarrierAnswer {
    At(Option<LogId>),
    /// This node does not lead, or could not make sure that it does.
    NotLeader,
}

/// Why a message was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// From another cluster, or from a node made of another genesis.
    Stranger,
    /// From another version of netdisk.
    OtherVersion,
    /// Not a message.
    Torn,
}

/// The two parts of a message of the transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) control: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Message::Append(_) => 1,
            Message::Appended(_) => 2,
            Message::Vote(_) => 3,
            Message::Voted(_) => 4,
            Message::Chunk(_) => 5,
            Message::Chunked(_) => 6,
            Message::Forward(_) => 7,
            Message::Forwarded(_) => 8,
            Message::Barrier => 9,
            Message::BarrierAt(_) => 10,
        }
    }

    /// `call` joins an answer to its question.
    pub(crate) fn encode(&self, stamp: ClusterStamp, call: u64) -> Parts {
        let mut control = Vec::with_capacity(HEAD_BYTES);
        control.extend_from_slice(MAGIC);
        control.extend_from_slice(&[VERSION, self.kind(), 0, 0]);
        codec::put_u64(&mut control, stamp.cluster);
        control.extend_from_slice(&stamp.genesis);
        codec::put_u64(&mut control, call);
        let mut data = Vec::new();
        self.put_body(&mut data);
        Parts { control, data }
    }

    fn put_body(&self, data: &mut Vec<u8>) {
        match self {
            Message::Append(request) => put_append(data, request),
            Message::Appended(answer) => match answer {
                AppendAnswer::Success => data.push(0),
                AppendAnswer::Conflict => data.push(1),
                AppendAnswer::HigherVote(vote) => {
                    data.push(2);
                    codec::put_vote(data, vote);
                }
                AppendAnswer::Stopped => data.push(3),
            },
            Message::Vote(request) => {
                codec::put_vote(data, &request.vote);
                codec::put_option(data, request.last_log_id.as_ref(), codec::put_log_id);
            }
            Message::Voted(response) => {
                codec::put_vote(data, &response.vote);
                data.push(u8::from(response.vote_granted));
                codec::put_option(data, response.last_log_id.as_ref(), codec::put_log_id);
            }
            Message::Chunk(chunk) => {
                codec::put_vote(data, &chunk.vote);
                codec::put_snapshot_meta(data, &chunk.meta);
                codec::put_u64(data, chunk.total);
                codec::put_u64(data, chunk.offset);
                data.extend_from_slice(&chunk.bytes);
            }
            Message::Chunked(answer) => put_chunk_answer(data, answer),
            Message::Forward(command) => data.extend_from_slice(command),
            Message::Forwarded(answer) => match answer {
                ForwardAnswer::Done { index, answer } => {
                    data.push(0);
                    codec::put_u64(data, *index);
                    data.extend_from_slice(answer);
                }
                ForwardAnswer::Unknown => data.push(1),
                ForwardAnswer::NotLeader => data.push(2),
                ForwardAnswer::Backlog => data.push(3),
            },
            Message::Barrier => {}
            Message::BarrierAt(BarrierAnswer::At(log_id)) => {
                data.push(0);
                codec::put_option(data, log_id.as_ref(), codec::put_log_id);
            }
            Message::BarrierAt(BarrierAnswer::NotLeader) => data.push(1),
        }
    }

    /// Any bytes are taken; what is not a message of this cluster and version is dropped, with the reason.
    pub(crate) fn decode(
        stamp: ClusterStamp,
        control: &[u8],
        data: &[u8],
    ) -> Result<(u64, Message), Dropped> {
        let torn = |Torn| Dropped::Torn;
        let mut head = Reader::new(control);
        if head.bytes(MAGIC.len()).map_err(torn)? != MAGIC {
            return Err(Dropped::Torn);
        }
        if head.u8().map_err(torn)? != VERSION {
            return Err(Dropped::OtherVersion);
        }
        let kind = head.u8().map_err(torn)?;
        head.u16().map_err(torn)?;
        let (cluster, genesis) = (head.u64().map_err(torn)?, head.bytes(32).map_err(torn)?);
        if cluster != stamp.cluster || genesis != stamp.genesis {
            return Err(Dropped::Stranger);
        }
        let call = head.u64().map_err(torn)?;
        head.end().map_err(torn)?;
        let mut body = Reader::new(data);
        let message = Message::body(kind, &mut body).map_err(torn)?;
        body.end().map_err(torn)?;
        Ok((call, message))
    }

    fn body(kind: u8, body: &mut Reader<'_>) -> Result<Message, Torn> {
        Ok(match kind {
            1 => Message::Append(append(body)?),
            2 => Message::Appended(match body.u8()? {
                0 => AppendAnswer::Success,
                1 => AppendAnswer::Conflict,
                2 => AppendAnswer::HigherVote(codec::vote(body)?),
                3 => AppendAnswer::Stopped,
                _ => return Err(Torn),
            }),
            3 => Message::Vote(VoteRequest::new(codec::vote(body)?, codec::option(body, codec::log_id)?)),
            4 => {
                let (vote, granted) = (codec::vote(body)?, body.flag()?);
                Message::Voted(VoteResponse::new(vote, codec::option(body, codec::log_id)?, granted))
            }
            5 => Message::Chunk(chunk(body)?),
            6 => Message::Chunked(chunk_answer(body)?),
            7 => Message::Forward(at_most(body.rest(), COMMAND_BYTES_MAX)?),
            8 => Message::Forwarded(match body.u8()? {
                0 => ForwardAnswer::Done {
                    index: body.u64()?,
                    answer: at_most(body.rest(), ANSWER_BYTES_MAX)?,
                },
                1 => ForwardAnswer::Unknown,
                2 => ForwardAnswer::NotLeader,
                3 => ForwardAnswer::Backlog,
                _ => return Err(Torn),
            }),
            9 => Message::Barrier,
            10 => Message::BarrierAt(match body.u8()? {
                0 => BarrierAnswer::At(codec::option(body, codec::log_id)?),
                1 => BarrierAnswer::NotLeader,
                _ => return Err(Torn),
            }),
            _ => return Err(Torn),
        })
    }
}

fn at_most(bytes: &[u8], max: usize) -> Result<Vec<u8>, Torn> {
    if bytes.len() > max { Err(Torn) } else { Ok(bytes.to_vec()) }
}

fn put_append(data: &mut Vec<u8>, request: &AppendEntriesRequest<Flavour>) {
    data.reserve(96 + request.entries.iter().map(codec::entry_bytes).sum::<usize>());
    codec::put_vote(data, &request.vote);
    codec::put_option(data, request.prev_log_id.as_ref(), codec::put_log_id);
    codec::put_option(data, request.leader_commit.as_ref(), codec::put_log_id);
    data.extend_from_slice(&(request.entries.len() as u16).to_le_bytes());
    request.entries.iter().for_each(|entry| codec::put_entry(data, entry));
}

/// openraft relies on these: the vote is a leader's, entries follow each other, and none is of an earlier
/// leader than the one before.
fn append(body: &mut Reader<'_>) -> Result<AppendEntriesRequest<Flavour>, Torn> {
    let vote = codec::vote(body)?;
    let prev_log_id = codec::option(body, codec::log_id)?;
    let leader_commit = codec::option(body, codec::log_id)?;
    let count = usize::from(body.u16()?);
    if !vote.committed || count > ENTRIES_MAX {
        return Err(Torn);
    }
    let mut entries = Vec::new();
    let mut before = prev_log_id;
    for _ in 0..count {
        let entry = codec::entry(body)?;
        let follows = entry.log_id.index == before.map_or(0, |before| before.index + 1);
        if !follows || before.is_some_and(|before| entry.log_id.leader_id < before.leader_id) {
            return Err(Torn);
        }
        before = Some(entry.log_id);
        entries.push(entry);
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

fn chunk(body: &mut Reader<'_>) -> Result<Chunk, Torn> {
    let vote = codec::vote(body)?;
    let meta = codec::snapshot_meta(body)?;
    let (total, offset) = (body.u64()?, body.u64()?);
    let bytes = body.rest().to_vec();
    let fits = offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= total);
    if fits && vote.committed && meta.last_log_id.is_some() {
        Ok(Chunk { vote, meta, total, offset, bytes })
    } else {
        Err(Torn)
    }
}

fn put_chunk_answer(data: &mut Vec<u8>, answer: &ChunkAnswer) {
    match answer {
        ChunkAnswer::Next(offset) => {
            data.push(0);
            codec::put_u64(data, *offset);
        }
        ChunkAnswer::Installed(vote) => {
            data.push(1);
            codec::put_vote(data, vote);
        }
        ChunkAnswer::HigherVote(vote) => {
            data.push(2);
            codec::put_vote(data, vote);
        }
        ChunkAnswer::TooLarge => data.push(3),
        ChunkAnswer::Stopped => data.push(4),
    }
}

fn chunk_answer(body: &mut Reader<'_>) -> Result<ChunkAnswer, Torn> {
    Ok(match body.u8()? {
        0 => ChunkAnswer::Next(body.u64()?),
        1 => ChunkAnswer::Installed(codec::vote(body)?),
        2 => ChunkAnswer::HigherVote(codec::vote(body)?),
        3 => ChunkAnswer::TooLarge,
        4 => ChunkAnswer::Stopped,
        _ => return Err(Torn),
    })
}
