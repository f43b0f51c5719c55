//! Puts the pieces of a leader's snapshot together.

use openraft::Raft;

use crate::flavour::{Flavour, Snapshot, SnapshotMeta, Vote};
use crate::wire::{Chunk, ChunkAnswer};

/// The snapshot that is coming in, one at a time.
pub(crate) struct SnapshotIntake {
    bytes_max: usize,
    partial: Option<Partial>,
}

struct Partial {
    vote: Vote,
    meta: SnapshotMeta,
    total: u64,
    bytes: Vec<u8>,
}

impl SnapshotIntake {
    pub(crate) fn new(bytes_max: usize) -> SnapshotIntake {
        SnapshotIntake { bytes_max, partial: None }
    }

    pub(crate) async fn take(&mut self, raft: &Raft<Flavour>, chunk: Chunk) -> ChunkAnswer {
        let mine = match raft.with_raft_state(|state| *state.vote_ref()).await {
            Ok(vote) => vote,
            Err(_) => return ChunkAnswer::Stopped,
        };
        if mine > chunk.vote {
            return ChunkAnswer::HigherVote(mine);
        }
        match self.add(chunk) {
            Added::Next(next) => ChunkAnswer::Next(next),
            Added::TooLarge => ChunkAnswer::TooLarge,
            Added::Whole(whole) => {
                let snapshot = Snapshot { meta: whole.meta, snapshot: Box::new(whole.bytes) };
                match raft.install_full_snapshot(whole.vote, snapshot).await {
                    Ok(response) => ChunkAnswer::Installed(response.vote),
                    Err(_) => ChunkAnswer::Stopped,
                }
            }
        }
    }

    fn add(&mut self, chunk: Chunk) -> Added {
        if chunk.total > self.bytes_max as u64 {
            return Added::TooLarge;
        }
        let known = self.partial.as_ref().is_some_and(|partial| {
            partial.vote == chunk.vote && partial.meta == chunk.meta && partial.total == chunk.total
        });
        if !known {
            let newer = self.partial.as_ref().is_none_or(|partial| partial.vote <= chunk.vote);
            if chunk.offset != 0 || !newer {
                return Added::Next(0);
            }
            let Chunk { vote, meta, total, .. } = &chunk;
            self.partial =
                Some(Partial { vote: *vote, meta: meta.clone(), total: *total, bytes: Vec::new() });
        }
        let Some(partial) = &mut self.partial else { return Added::Next(0) };
        if chunk.offset == 0 {
            partial.bytes.clear();
        }
        if chunk.offset != partial.bytes.len() as u64 {
            self.partial = None;
            return Added::Next(0);
        }
        partial.bytes.extend_from_slice(&chunk.bytes);
        if partial.bytes.len() as u64 == partial.total {
            return self.partial.take().map_or(Added::Next(0), Added::Whole);
        }
        Added::Next(partial.bytes.len() as u64)
    }
}

enum Added {
    Next(u64),
    TooLarge,
    Whole(Partial),
}
