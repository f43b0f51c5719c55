//! One NBD connection as a pure machine: bytes in, operations out; completions in, bytes out.
//!
//! The owner of the socket drives it in this order:
//! 1. [`Connection::advance`] with the bytes at hand, until the [`Step`] asks for something: more bytes,
//!    a list of exports, an opened export, memory for a write's payload, or that payload itself;
//! 2. [`Connection::submit_next`] until nothing is left to submit;
//! 3. [`Connection::complete`] for each completion of the service;
//! 4. [`Connection::outbox`] to the socket.
//!
//! Payload never passes through the machine: a write's bytes are read straight into the service's buffer
//! ([`Connection::payload_room`]), a read's bytes leave straight from the service's lease
//! ([`Outbox::gather`]).
//!
//! **All or nothing.** A write is submitted once its whole payload has arrived, so a client that dies in the
//! middle of one has written nothing. A simple read reply starts once all its data is in, so that an error
//! can still be told. Both hold for requests cut into several pieces as long as the service has memory for
//! them; if it runs out while nothing else of this connection holds any, the pieces go one by one
//! ([`Connection::starved`]).

mod admission;
mod end;
mod job;
mod negotiation;
mod outbox;
mod reply;
mod requests;

pub use end::EndReason;
pub use negotiation::Agreement;
pub use outbox::Outbox;

use std::collections::VecDeque;
use std::ops::Range;

use crate::limits::{BLOCK_BYTES_MAX, REQUEST_BYTES_MAX, TRANSFER_BYTES_MIN};
use crate::{
    BlockAnswer, BlockErrno, BlockIo, ExportEntry, OpenRefusal, OpenedExport, SubmitRefusal,
    SubmitRefusalReason, VolumeHandle,
};
use admission::Refused;
use job::{JobSlot, JobTable};
use negotiation::{Negotiation, NegotiationStep};

/// Replies of the handshake that may wait for a client that sends options but does not read, in bytes.
const HANDSHAKE_BACKLOG_BYTES_MAX: u64 = 256 << 10;

/// How much one connection may have under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Requests between header and reply.
    pub requests_max: u16,
    /// Payload bytes of those requests plus bytes that the client has not taken yet. One request always fits.
    pub bytes_max: u64,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { requests_max: 128, bytes_max: u64::from(REQUEST_BYTES_MAX) }
    }
}

/// What the machine needs to go on.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was consumed; call again.
    Progress,
    /// More bytes from the socket.
    NeedInput,
    /// The list of exports: answer with [`Connection::listed`].
    List,
    /// An export: answer with [`Connection::opened`].
    Open {
        /// Its name; empty is the default export.
        name: String,
        /// Only asked about: the owner closes it again after answering.
        probe: bool,
    },
    /// Memory for a piece of a write: answer with [`Connection::grant_buffer`], or come back later.
    NeedBuffer {
        /// The disk.
        volume: VolumeHandle,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Bytes of a write's payload: fill [`Connection::payload_room`], then [`Connection::payload_arrived`].
    NeedPayload,
    /// Too much is under way: stop reading until completions or the socket make room.
    Full,
    /// The client sends nothing more that counts; replies may still be due.
    Ended,
}

/// What became of [`Connection::submit_next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submission {
    /// Nothing is ready.
    Idle,
    /// One operation went to the service.
    Submitted,
    /// The service refused one operation for good; the job, if that was the last of it.
    Refused(Option<JobNumber>),
    /// The service cannot take it now.
    Busy,
}

/// Bytes on their way into one piece of a write.
#[derive(Debug)]
struct Payload<W> {
    job: JobSlot,
    /// The piece that is arriving.
    piece: u16,
    buffer: Option<W>,
    /// Bytes of the piece that are in the buffer.
    filled: u32,
}

#[derive(Debug)]
enum Phase<W> {
    Negotiating(Negotiation),
    Requests,
    Payload(Payload<W>),
    /// A refused write: its payload is thrown away, then the refusal goes out.
    Skipping {
        cookie: u64,
        left: u32,
        refused: Refused,
    },
    /// The client disconnected; its requests run to their end and are answered.
    Draining,
    /// Nothing more comes or goes.
    Ended,
}

/// One connection. `W` and `R` are the service's write buffer and read data.
#[derive(Debug)]
pub struct Connection<W, R> {
    id: u32,
    limits: ConnectionLimits,
    phase: Phase<W>,
    agreement: Option<Agreement>,
    jobs: JobTable<W, R>,
    /// Jobs with pieces that are not submitted yet, oldest first. A later one never overtakes.
    queue: VecDeque<JobSlot>,
    /// Pieces in the service.
    in_service: u32,
    outbox: Outbox<R>,
    /// A simple read reply of which a part is out: until its end, nothing else may be said.
    open_reply: Option<JobSlot>,
    end: Option<EndReason>,
    stopping: bool,
}

/// A job that the service is done with, by the number that [`Connection::unfinished`] gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobNumber(pub u16);

/// What a request that is under way touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSpan {
    /// The job.
    pub job: JobNumber,
    /// Bytes of the disk.
    pub bytes: Range<u64>,
    /// It may change them.
    pub changes_disk: bool,
}

impl<W: AsMut<[u8]>, R: AsRef<[u8]>> Connection<W, R> {
    /// A new connection; the greeting waits in its outbox. `id` comes back in every tag.
    pub fn new(id: u32, limits: ConnectionLimits) -> Self {
        assert!(limits.requests_max > 0, "a connection needs room for one request");
        let mut outbox = Outbox::with_capacity(usize::from(limits.requests_max) * 2);
        let mut greeting = Vec::new();
        let negotiation = Negotiation::new(&mut greeting);
        outbox.push_bytes(greeting);
        Self {
            id,
            limits,
            phase: Phase::Negotiating(negotiation),
            agreement: None,
            jobs: JobTable::new(limits.requests_max),
            queue: VecDeque::with_capacity(usize::from(limits.requests_max)),
            in_service: 0,
            outbox,
            open_reply: None,
            end: None,
            stopping: false,
        }
    }

    /// Takes bytes off the front of `input` and tells how many, and what is needed to go on.
    pub fn advance(&mut self, input: &[u8]) -> (usize, Step) {
        match &mut self.phase {
            Phase::Negotiating(_) => self.negotiate(input),
            Phase::Requests => self.next_request(input),
            Phase::Payload(payload) if payload.buffer.is_some() => (0, Step::NeedPayload),
            Phase::Payload(payload) => {
                let (slot, piece) = (payload.job, payload.piece);
                (0, self.need_buffer(slot, piece))
            }
            Phase::Skipping { .. } => self.skip(input),
            Phase::Draining | Phase::Ended => (0, Step::Ended),
        }
    }

    fn negotiate(&mut self, input: &[u8]) -> (usize, Step) {
        if self.outbox.bytes() > HANDSHAKE_BACKLOG_BYTES_MAX {
            return (0, Step::Full);
        }
        let Phase::Negotiating(negotiation) = &mut self.phase else { return (0, Step::NeedInput) };
        let mut out = Vec::new();
        let (consumed, step) = negotiation.advance(input, &mut out);
        self.outbox.push_bytes(out);
        let step = match step {
            NegotiationStep::NeedInput => Step::NeedInput,
            NegotiationStep::Progress => Step::Progress,
            NegotiationStep::List => Step::List,
            NegotiationStep::Open { name, probe } => Step::Open { name, probe },
            NegotiationStep::Ended(reason) => {
                self.drain(reason);
                Step::Ended
            }
        };
        (consumed, step)
    }

    /// Answers [`Step::List`].
    pub fn listed(&mut self, exports: &[ExportEntry]) {
        let Phase::Negotiating(negotiation) = &mut self.phase else { return };
        let mut out = Vec::new();
        negotiation.listed(exports, &mut out);
        self.outbox.push_bytes(out);
    }

    /// Answers [`Step::Open`]. True if the transmission phase has begun, with the volume that was opened.
    pub fn opened(&mut self, result: Result<OpenedExport, OpenRefusal>) -> bool {
        let Phase::Negotiating(negotiation) = &mut self.phase else { return false };
        if let Ok(export) = &result {
            assert_sound(export);
        }
        let mut out = Vec::new();
        let outcome = negotiation.opened(result, &mut out);
        self.outbox.push_bytes(out);
        match outcome {
            Ok(Some(agreement)) => {
                self.agreement = Some(agreement);
                self.phase = Phase::Requests;
                true
            }
            Ok(None) => false,
            Err(reason) => {
                self.drain(reason);
                false
            }
        }
    }

    /// The client sends nothing more that counts.
    fn drain(&mut self, reason: EndReason) {
        self.end.get_or_insert(reason);
        self.phase = Phase::Draining;
    }

    /// What the handshake agreed on, from the moment when transmission begins.
    pub fn agreement(&self) -> Option<&Agreement> {
        self.agreement.as_ref()
    }

    /// The bytes of the disk that the next operation's request touches, and whether it may change them.
    /// `None` while nothing is ready for [`Connection::submit_next`].
    pub fn next_span(&self) -> Option<JobSpan> {
        let slot = self.next_slot()?;
        Some(span_of(slot, self.jobs.get(slot)))
    }

    fn next_slot(&self) -> Option<JobSlot> {
        let slot = *self.queue.front()?;
        let waits_for_open_reply = self.open_reply.is_some_and(|open| open != slot);
        (!waits_for_open_reply && self.jobs.get(slot).can_submit()).then_some(slot)
    }

    /// Hands the next operation, if one is ready, to `submit`.
    pub fn submit_next(
        &mut self,
        submit: impl FnOnce(BlockIo<W>) -> Result<(), SubmitRefusal<W>>,
    ) -> Submission {
        let (Some(slot), Some(agreement)) = (self.next_slot(), &self.agreement) else {
            return Submission::Idle;
        };
        let volume = agreement.export.volume;
        let job = self.jobs.get_mut(slot);
        let piece = job.submitted;
        let Some(operation) = job.take_operation() else { return Submission::Idle };
        let result = submit(BlockIo { volume, tag: tag(self.id, slot, piece), operation });
        let failed = match result {
            Ok(()) => None,
            Err(SubmitRefusal { io, reason: SubmitRefusalReason::Busy }) => {
                job.restore(io.operation);
                return Submission::Busy;
            }
            Err(SubmitRefusal { reason: SubmitRefusalReason::Failed(errno), .. }) => Some(errno),
        };
        job.submitted += 1;
        if job.submitted == job.pieces {
            self.queue.pop_front();
        }
        self.in_service += 1;
        match failed {
            None => Submission::Submitted,
            Some(errno) => Submission::Refused(self.complete(slot, piece, Err(errno))),
        }
    }

    /// The service has no memory or no place. If nothing of this connection but the oldest request holds any,
    /// waiting would be for ever, and that request goes on piece by piece.
    pub fn starved(&mut self) {
        if self.jobs.live() != self.queue.len() {
            return;
        }
        let Some(&slot) = self.queue.front() else { return };
        let job = self.jobs.get_mut(slot);
        if job.pieces > 1 && (job.submitted > 0 || !job.buffers.is_empty()) {
            job.piecemeal = true;
            self.reply_in_order(slot);
        }
    }

    /// A piece of a job is completed. Tells if the service is done with the whole job.
    pub fn complete(
        &mut self,
        slot: u16,
        piece: u16,
        result: Result<BlockAnswer<R>, BlockErrno>,
    ) -> Option<JobNumber> {
        let job = self.jobs.get_mut(slot);
        assert!(job.completed < job.submitted && piece < job.submitted, "a completion that nobody waits for");
        job.completed += 1;
        self.in_service -= 1;
        let finished = job.is_finished();
        let torn = match self.phase {
            Phase::Ended => false,
            _ => self.reply(slot, piece, result),
        };
        if finished {
            self.jobs.finish(slot);
        }
        if torn {
            self.lost(EndReason::ReplyTorn);
        }
        finished.then_some(JobNumber(slot))
    }

    /// The socket is gone, or is given up: what is not submitted is forgotten, what is in the service runs
    /// on.
    pub fn lost(&mut self, reason: EndReason) {
        self.end.get_or_insert(reason);
        self.phase = Phase::Ended;
        self.outbox.clear();
        self.queue.clear();
        let slots: Vec<JobSlot> = self.jobs.live_slots().collect();
        for slot in slots {
            let job = self.jobs.get_mut(slot);
            job.abandon();
            if job.is_finished() {
                self.jobs.finish(slot);
            }
        }
    }

    /// The server stops: requests that come from now on are answered with `ESHUTDOWN`.
    pub fn stop(&mut self) {
        self.stopping = true;
        if matches!(self.phase, Phase::Negotiating(_)) {
            self.drain(EndReason::Stopping);
        }
    }

    /// Requests that are not done, with what they touch.
    pub fn unfinished(&self) -> impl Iterator<Item = JobSpan> {
        self.jobs.live_slots().map(|slot| span_of(slot, self.jobs.get(slot)))
    }

    /// Number of requests that are not done.
    pub fn unfinished_count(&self) -> usize {
        self.jobs.live()
    }

    /// Operations in the service.
    pub fn in_service(&self) -> u32 {
        self.in_service
    }

    /// The client's part is over, and so is the server's: the socket can be closed.
    pub fn is_over(&self) -> bool {
        match self.phase {
            Phase::Ended => true,
            Phase::Draining => self.jobs.live() == 0 && self.outbox.is_empty(),
            _ => false,
        }
    }

    /// The client disconnected or was dropped; replies may still be due.
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Draining | Phase::Ended)
    }

    /// Why the connection ended, once it does.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.end
    }

    /// What waits for the socket.
    pub fn outbox(&mut self) -> &mut Outbox<R> {
        &mut self.outbox
    }
}

fn span_of<W, R>(slot: JobSlot, job: &job::Job<W, R>) -> JobSpan {
    JobSpan { job: JobNumber(slot), bytes: job.span(), changes_disk: job.work.changes_disk() }
}

/// The tag of one piece: connection, job and piece. [`split_tag`] is its inverse.
fn tag(connection: u32, slot: JobSlot, piece: u16) -> u64 {
    u64::from(connection) << 32 | u64::from(slot) << 16 | u64::from(piece)
}

/// Connection, job and piece of a tag.
pub fn split_tag(tag: u64) -> (u32, u16, u16) {
    ((tag >> 32) as u32, (tag >> 16) as u16, tag as u16)
}

/// What a service promises about an export, checked once when it is opened.
fn assert_sound(export: &OpenedExport) {
    let (block_bytes, transfer_bytes) = (export.block_bytes, export.max_transfer_bytes);
    assert!(
        block_bytes.is_power_of_two() && block_bytes <= BLOCK_BYTES_MAX,
        "a block of {block_bytes} bytes is no power of two up to {BLOCK_BYTES_MAX}"
    );
    assert!(
        transfer_bytes >= TRANSFER_BYTES_MIN && transfer_bytes % block_bytes == 0,
        "transfers of {transfer_bytes} bytes are below {TRANSFER_BYTES_MIN} or not whole blocks"
    );
}
