//! The transmission phase, outward: replies and chunks for what the service answers.

use super::admission::Work;
use super::negotiation::ALLOCATION_CONTEXT_ID;
use super::{Connection, JobSlot};
use crate::codec::{ByteSink, Chunk, ChunkHeader, ChunkKind, Head, SimpleReply, StatusExtent, chunk_flags};
use crate::limits::EXTENTS_MAX;
use crate::{BlockAnswer, BlockErrno, Extent};

impl<W: AsMut<[u8]>, R: AsRef<[u8]>> Connection<W, R> {
    fn is_structured(&self) -> bool {
        self.agreement.as_ref().is_some_and(|agreement| agreement.structured)
    }

    /// Takes in the result of one piece of a job that stays live until this returns. True if the reply is
    /// torn: a part of it is out and the rest will never be.
    pub(super) fn reply(
        &mut self,
        slot: JobSlot,
        piece: u16,
        result: Result<BlockAnswer<R>, BlockErrno>,
    ) -> bool {
        let structured = self.is_structured();
        let job = self.jobs.get_mut(slot);
        let (work, cookie, finished) = (job.work, job.cookie, job.is_finished());
        match (work, result) {
            (_, Err(errno)) => {
                job.error.get_or_insert(errno);
            }
            (Work::Read, Ok(BlockAnswer::Data(data)))
                if data.as_ref().len() == job.piece_length(piece) as usize =>
            {
                let (offset, length) = (job.piece_offset(piece), job.piece_length(piece));
                if structured {
                    let done = finished && job.error.is_none();
                    let flags = if done { chunk_flags::DONE } else { 0 };
                    let mut head = Head::default();
                    Chunk::encode_data_head(&mut head, cookie, flags, offset, length);
                    self.outbox.push_head(head);
                    self.outbox.push_payload(data);
                    if done {
                        return false;
                    }
                } else if job.pieces == 1 {
                    self.push_simple(cookie, None);
                    self.outbox.push_payload(data);
                    return false;
                } else {
                    job.held[usize::from(piece)] = Some(data);
                }
            }
            (Work::BlockStatus { one }, Ok(BlockAnswer::Extents(extents))) if !extents.is_empty() => {
                let length = job.length;
                self.reply_extents(cookie, &extents, length, one);
                return false;
            }
            (Work::Read | Work::BlockStatus { .. }, Ok(_)) => {
                // Not the answer to the question: the disk's word cannot be trusted.
                job.error.get_or_insert(BlockErrno::Io);
            }
            (_, Ok(_)) => {}
        }
        self.reply_rest(slot, structured)
    }

    /// What remains to be said after a piece: the end of the job, or data of a simple reply whose turn has
    /// come.
    fn reply_rest(&mut self, slot: JobSlot, structured: bool) -> bool {
        let job = self.jobs.get_mut(slot);
        let simple_pieces = !structured && job.work == Work::Read && job.pieces > 1;
        if simple_pieces {
            return self.reply_in_order(slot);
        }
        if !job.is_finished() {
            return false;
        }
        let (cookie, error) = (job.cookie, job.error);
        match error {
            Some(errno) => self.reply_error(cookie, errno, errno.message()),
            None => self.push_simple(cookie, None),
        }
        false
    }

    /// Sends what can be sent of a simple read reply in several pieces: all of it once it is complete, or the
    /// pieces whose turn it is when memory is short. True if the reply is torn.
    pub(super) fn reply_in_order(&mut self, slot: JobSlot) -> bool {
        let job = self.jobs.get_mut(slot);
        let finished = job.is_finished();
        if job.held.is_empty() || !(finished || job.piecemeal) {
            return false;
        }
        if let Some(errno) = job.error {
            let cookie = job.cookie;
            if job.replied > 0 {
                return true;
            }
            if finished {
                self.reply_error(cookie, errno, errno.message());
            }
            return false;
        }
        while let Some((first, cookie, data)) = self.jobs.get_mut(slot).next_in_order() {
            if first {
                self.push_simple(cookie, None);
                self.open_reply = Some(slot);
            }
            self.outbox.push_payload(data);
        }
        let job = self.jobs.get(slot);
        if job.replied == job.pieces {
            self.open_reply = None;
        }
        false
    }

    fn push_simple(&mut self, cookie: u64, error: Option<BlockErrno>) {
        let mut head = Head::default();
        SimpleReply { error, cookie }.encode(&mut head);
        self.outbox.push_head(head);
    }

    /// Refuses a request: with a message where the client can take one.
    pub(super) fn reply_error(&mut self, cookie: u64, error: BlockErrno, message: &'static str) {
        if self.is_structured() {
            let mut bytes = Vec::new();
            Chunk::Error { error, message, offset: None }.encode(&mut bytes, cookie, chunk_flags::DONE);
            self.outbox.push_bytes(bytes);
        } else {
            self.push_simple(cookie, Some(error));
        }
    }

    /// Sends extents, cut to what was asked for and to what one answer carries.
    fn reply_extents(&mut self, cookie: u64, extents: &[Extent], length: u32, one: bool) {
        let count_max = if one { 1 } else { EXTENTS_MAX };
        let mut left = length;
        let mut payload = Vec::new();
        payload.put_u32(ALLOCATION_CONTEXT_ID);
        for extent in extents.iter().take(count_max) {
            let length = extent.length.min(left);
            if length == 0 {
                break;
            }
            left -= length;
            let mut flags = 0;
            if extent.hole {
                flags |= StatusExtent::HOLE;
            }
            if extent.zero {
                flags |= StatusExtent::ZERO;
            }
            payload.put_u32(length);
            payload.put_u32(flags);
        }
        if payload.len() == size_of::<u32>() {
            self.reply_error(cookie, BlockErrno::Io, "the disk told nothing about these blocks");
            return;
        }
        let length = payload.len() as u32;
        let kind = ChunkKind::BlockStatus;
        let mut head = Head::default();
        ChunkHeader { flags: chunk_flags::DONE, kind, cookie, length }.encode(&mut head);
        self.outbox.push_head(head);
        self.outbox.push_bytes(payload);
    }
}
