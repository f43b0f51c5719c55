//! openraft's questions to one other node, sent through the [`Post`].

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetwork, RaftNetworkFactory};
use transport_proto::identity::NodeId;

use crate::flavour::{Flavour, Snapshot, Vote};
use crate::log_store::LogStore;
use crate::options::SNAPSHOT_CHUNK_BYTES;
use crate::post::{CallFault, Post};
use crate::wire::{AppendAnswer, Chunk, ChunkAnswer, Message};

/// Makes [`Line`]s.
pub(crate) struct Switchboard {
    pub(crate) post: Arc<Post>,
    pub(crate) log: LogStore,
    /// How long a node that is not reachable is left alone.
    pub(crate) patience: Duration,
    /// How long one piece of a snapshot may take, its installation included.
    pub(crate) chunk_time: Duration,
}

/// The way to one other node.
pub(crate) struct Line {
    to: NodeId,
    post: Arc<Post>,
    log: LogStore,
    patience: Duration,
    chunk_time: Duration,
}

type CallError = RPCError<u64, openraft::EmptyNode, RaftError<u64>>;
type StreamError = StreamingError<Flavour, Fatal<u64>>;

/// The wire's node numbers are smaller than openraft's; a larger one can only come from a bug.
pub(crate) fn node_id(node: u64) -> NodeId {
    NodeId(u16::try_from(node).unwrap_or(0))
}

impl RaftNetworkFactory<Flavour> for Switchboard {
    type Network = Line;

    async fn new_client(&mut self, target: u64, _node: &openraft::EmptyNode) -> Line {
        Line {
            to: node_id(target),
            post: self.post.clone(),
            log: self.log.clone(),
            patience: self.patience,
            chunk_time: self.chunk_time,
        }
    }
}

fn odd_answer() -> NetworkError {
    NetworkError::new(&io::Error::other("the answer does not fit the question"))
}

fn stopped() -> Unreachable {
    Unreachable::new(&io::Error::other("the node's log has stopped"))
}

impl Line {
    async fn call(&self, question: &Message) -> Result<Message, CallError> {
        self.post.call(self.to, question).await.map_err(|fault| match fault {
            CallFault::NotSent => RPCError::Unreachable(Unreachable::new(&fault)),
            CallFault::Lost => RPCError::Network(NetworkError::new(&fault)),
        })
    }

    async fn send_chunk(&self, chunk: Chunk) -> Result<ChunkAnswer, StreamError> {
        let question = Message::Chunk(chunk);
        let answer = tokio::time::timeout(self.chunk_time, self.post.call(self.to, &question)).await;
        match answer {
            Ok(Ok(Message::Chunked(answer))) => Ok(answer),
            Ok(Ok(_)) => Err(odd_answer().into()),
            Ok(Err(fault)) => Err(Unreachable::new(&fault).into()),
            Err(late) => Err(Unreachable::new(&late).into()),
        }
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: &Snapshot) -> Result<Vote, StreamError> {
        let state = &snapshot.snapshot;
        let mut offset = 0;
        loop {
            let end = state.len().min(offset + SNAPSHOT_CHUNK_BYTES);
            let chunk = Chunk {
                vote,
                meta: snapshot.meta.clone(),
                total: state.len() as u64,
                offset: offset as u64,
                bytes: state[offset..end].to_vec(),
            };
            match self.send_chunk(chunk).await? {
                ChunkAnswer::Installed(theirs) | ChunkAnswer::HigherVote(theirs) => return Ok(theirs),
                // Progress, or the receiver has begun anew; anything else would go round in circles.
                ChunkAnswer::Next(next) if next == end as u64 || next == 0 => offset = next as usize,
                ChunkAnswer::Next(_) => return Err(odd_answer().into()),
                ChunkAnswer::TooLarge => {
                    let why = "the snapshot is larger than the node takes; raise its limit";
                    return Err(Unreachable::new(&io::Error::other(why)).into());
                }
                ChunkAnswer::Stopped => return Err(stopped().into()),
            }
        }
    }
}

impl RaftNetwork<Flavour> for Line {
    async fn append_entries(
        &mut self,
        mut request: AppendEntriesRequest<Flavour>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        request.leader_commit = self.log.durable_part(request.leader_commit);
        let (vote, can_conflict) = (request.vote, request.prev_log_id.is_some());
        match self.call(&Message::Append(request)).await? {
            Message::Appended(AppendAnswer::Success) => Ok(AppendEntriesResponse::Success),
            Message::Appended(AppendAnswer::Conflict) if can_conflict => Ok(AppendEntriesResponse::Conflict),
            Message::Appended(AppendAnswer::HigherVote(theirs)) if theirs > vote => {
                Ok(AppendEntriesResponse::HigherVote(theirs))
            }
            Message::Appended(AppendAnswer::Stopped) => Err(RPCError::Unreachable(stopped())),
            _ => Err(RPCError::Network(odd_answer())),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, CallError> {
        match self.call(&Message::Vote(request)).await? {
            Message::Voted(response) => Ok(response),
            _ => Err(RPCError::Network(odd_answer())),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamError> {
        let mut cancel = std::pin::pin!(cancel);
        let mut sending = std::pin::pin!(self.send_snapshot(vote, &snapshot));
        let ended = std::future::poll_fn(|context| {
            if let std::task::Poll::Ready(closed) = cancel.as_mut().poll(context) {
                return std::task::Poll::Ready(Err(closed.into()));
            }
            sending.as_mut().poll(context)
        });
        ended.await.map(SnapshotResponse::new)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.patience))
    }
}
