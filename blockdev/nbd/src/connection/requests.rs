//! The transmission phase, inward: request headers, payload of writes, payload that is thrown away.

use super::admission::{Refused, admit};
use super::{Connection, EndReason, JobSlot, Payload, Phase, Step};
use crate::BlockErrno;
use crate::codec::{Command, Request};

impl<W: AsMut<[u8]>, R: AsRef<[u8]>> Connection<W, R> {
    pub(super) fn next_request(&mut self, input: &[u8]) -> (usize, Step) {
        if self.open_reply.is_some() || self.outbox.segments() >= 4 * usize::from(self.limits.requests_max) {
            return (0, Step::Full);
        }
        let request = match Request::parse(input) {
            Ok(Some(request)) => request,
            Ok(None) => return (0, Step::NeedInput),
            Err(fault) => {
                self.drain(EndReason::Garbage(fault));
                return (0, Step::Ended);
            }
        };
        if request.command == Command::Disconnect {
            self.drain(EndReason::Disconnected);
            return (Request::BYTES, Step::Ended);
        }
        let Some(agreement) = &self.agreement else { return (0, Step::NeedInput) };
        let admitted = if self.stopping {
            Err(Refused { errno: BlockErrno::Shutdown, message: "the server is shutting down" })
        } else {
            admit(&request, agreement)
        };
        let work = match admitted {
            Ok(work) => work,
            Err(refused) => {
                self.refuse(&request, refused);
                return (Request::BYTES, Step::Progress);
            }
        };
        let payload_bytes = if work.has_payload() { u64::from(request.length) } else { 0 };
        let bytes_after = self.jobs.payload_bytes + self.outbox.bytes() + payload_bytes;
        if (self.jobs.live() > 0 || !self.outbox.is_empty()) && bytes_after > self.limits.bytes_max {
            return (0, Step::Full);
        }
        let transfer_bytes = agreement.export.max_transfer_bytes;
        let simple = !agreement.structured;
        let Some(slot) = self.jobs.begin(&request, work, transfer_bytes) else { return (0, Step::Full) };
        let job = self.jobs.get_mut(slot);
        if simple && job.pieces > 1 && request.command == Command::Read {
            job.held.extend((0..job.pieces).map(|_| None));
        }
        if !job.whole {
            self.phase = Phase::Payload(Payload { job: slot, piece: 0, buffer: None, filled: 0 });
        }
        self.queue.push_back(slot);
        (Request::BYTES, Step::Progress)
    }

    fn refuse(&mut self, request: &Request, refused: Refused) {
        if request.command == Command::Write && request.length > 0 {
            // Only after the payload: clients do not expect an answer to what they have not sent yet.
            self.phase = Phase::Skipping { cookie: request.cookie, left: request.length, refused };
        } else {
            self.reply_error(request.cookie, refused.errno, refused.message);
        }
    }

    pub(super) fn skip(&mut self, input: &[u8]) -> (usize, Step) {
        let Phase::Skipping { cookie, left, refused } = &mut self.phase else { return (0, Step::NeedInput) };
        let count = input.len().min(*left as usize);
        *left -= count as u32;
        if *left > 0 {
            return (count, Step::NeedInput);
        }
        let (cookie, refused) = (*cookie, *refused);
        self.phase = Phase::Requests;
        self.reply_error(cookie, refused.errno, refused.message);
        (count, Step::Progress)
    }

    pub(super) fn need_buffer(&self, slot: JobSlot, piece: u16) -> Step {
        let job = self.jobs.get(slot);
        let Some(agreement) = &self.agreement else { return Step::NeedInput };
        let volume = agreement.export.volume;
        Step::NeedBuffer { volume, offset: job.piece_offset(piece), length: job.piece_length(piece) }
    }

    /// Answers [`Step::NeedBuffer`]. The buffer's slice must have exactly the length that was asked for.
    pub fn grant_buffer(&mut self, mut buffer: W) {
        let Phase::Payload(payload) = &mut self.phase else { return };
        let length = self.jobs.get(payload.job).piece_length(payload.piece) as usize;
        assert_eq!(
            buffer.as_mut().len(),
            length,
            "the service's buffer has not the length that was asked for"
        );
        payload.buffer = Some(buffer);
    }

    /// The rest of the piece of a write that is arriving; empty unless the step is [`Step::NeedPayload`].
    pub fn payload_room(&mut self) -> &mut [u8] {
        match &mut self.phase {
            Phase::Payload(Payload { buffer: Some(buffer), filled, .. }) => {
                &mut buffer.as_mut()[*filled as usize..]
            }
            _ => &mut [],
        }
    }

    /// What follows [`Connection::payload_room`] in the stream is the next request, not more of this write.
    pub fn payload_room_is_last(&self) -> bool {
        match &self.phase {
            Phase::Payload(payload) => payload.piece + 1 == self.jobs.get(payload.job).pieces,
            _ => true,
        }
    }

    /// The first `count` bytes of [`Connection::payload_room`] are there.
    pub fn payload_arrived(&mut self, count: usize) {
        let Phase::Payload(payload) = &mut self.phase else { return };
        let job = self.jobs.get_mut(payload.job);
        payload.filled += count as u32;
        let length = job.piece_length(payload.piece);
        assert!(payload.filled <= length, "more payload than the room takes");
        if payload.filled < length {
            return;
        }
        job.buffers.extend(payload.buffer.take());
        payload.filled = 0;
        payload.piece += 1;
        if payload.piece == job.pieces {
            job.whole = true;
            self.phase = Phase::Requests;
        }
    }
}
