//! The requests of one connection that are not answered yet, each cut into pieces for the service.

use std::collections::VecDeque;
use std::ops::Range;

use super::admission::Work;
use crate::codec::Request;
use crate::{BlockErrno, BlockOperation};

/// Place of a job in its table; part of the tag that the service sees.
pub(super) type JobSlot = u16;

/// One client request between its header and its reply.
#[derive(Debug)]
pub(super) struct Job<W, R> {
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) work: Work,
    /// Length of every piece but the last, in bytes.
    piece_bytes: u32,
    pub(super) pieces: u16,
    pub(super) submitted: u16,
    pub(super) completed: u16,
    /// The first error of any piece.
    pub(super) error: Option<BlockErrno>,
    /// Every byte of a write's payload has arrived; true for everything else from the start.
    pub(super) whole: bool,
    /// Memory is short: pieces of a write go before the rest has arrived, data of a simple read reply goes
    /// before the rest has come.
    pub(super) piecemeal: bool,
    /// Payload of a write, one buffer a piece, in order.
    pub(super) buffers: VecDeque<W>,
    /// Data of a simple read reply by piece, until its turn.
    pub(super) held: Vec<Option<R>>,
    /// Pieces whose data is in the outbox, for simple read replies.
    pub(super) replied: u16,
    live: bool,
}

impl<W, R> Job<W, R> {
    fn vacant() -> Self {
        Self {
            cookie: 0,
            offset: 0,
            length: 0,
            work: Work::Flush,
            piece_bytes: 1,
            pieces: 0,
            submitted: 0,
            completed: 0,
            error: None,
            whole: true,
            piecemeal: false,
            buffers: VecDeque::new(),
            held: Vec::new(),
            replied: 0,
            live: false,
        }
    }

    /// Sets up the slot for a request; the collections keep their memory from job to job.
    fn begin(&mut self, request: &Request, work: Work, transfer_bytes: u32) {
        assert!(self.buffers.is_empty() && self.held.is_empty(), "a vacant job holds memory");
        self.cookie = request.cookie;
        self.offset = request.offset;
        self.length = request.length;
        self.work = work;
        self.piece_bytes = transfer_bytes;
        self.pieces = if work.has_payload() { request.length.div_ceil(transfer_bytes) as u16 } else { 1 };
        self.submitted = 0;
        self.completed = 0;
        self.error = None;
        self.whole = !matches!(work, Work::Write { .. });
        self.piecemeal = false;
        self.replied = 0;
        self.live = true;
    }

    /// Payload bytes that the job moves, 0 for jobs without.
    pub(super) fn payload_bytes(&self) -> u64 {
        if self.work.has_payload() { u64::from(self.length) } else { 0 }
    }

    /// The bytes of the disk that the job touches.
    pub(super) fn span(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.length)
    }

    /// Where a piece begins on the disk.
    pub(super) fn piece_offset(&self, piece: u16) -> u64 {
        self.offset + u64::from(piece) * u64::from(self.piece_bytes)
    }

    /// Length of a piece in bytes.
    pub(super) fn piece_length(&self, piece: u16) -> u32 {
        let start = u32::from(piece) * self.piece_bytes;
        self.piece_bytes.min(self.length - start)
    }

    /// The next piece can go to the service.
    pub(super) fn can_submit(&self) -> bool {
        match self.work {
            Work::Write { .. } => (self.whole || self.piecemeal) && !self.buffers.is_empty(),
            _ => self.submitted < self.pieces,
        }
    }

    /// The operation of the next piece. Call only when [`Job::can_submit`].
    pub(super) fn take_operation(&mut self) -> Option<BlockOperation<W>> {
        let (offset, length) = (self.offset, self.length);
        Some(match self.work {
            Work::Read => BlockOperation::Read {
                offset: self.piece_offset(self.submitted),
                length: self.piece_length(self.submitted),
            },
            Work::Write { fua } => {
                let buffer = self.buffers.pop_front()?;
                BlockOperation::Write { offset: self.piece_offset(self.submitted), buffer, fua }
            }
            Work::Flush => BlockOperation::Flush,
            Work::Discard { fua } => BlockOperation::Discard { offset, length, fua },
            Work::WriteZeroes { fua, no_unmap, fast_only } => {
                BlockOperation::WriteZeroes { offset, length, fua, no_unmap, fast_only }
            }
            Work::BlockStatus { one } => BlockOperation::BlockStatus { offset, length, one },
        })
    }

    /// The service gave an operation back.
    pub(super) fn restore(&mut self, operation: BlockOperation<W>) {
        if let BlockOperation::Write { buffer, .. } = operation {
            self.buffers.push_front(buffer);
        }
    }

    /// The next piece of a simple read reply if it is there: is it the first, the cookie, the data.
    pub(super) fn next_in_order(&mut self) -> Option<(bool, u64, R)> {
        let data = self.held.get_mut(usize::from(self.replied))?.take()?;
        self.replied += 1;
        Some((self.replied == 1, self.cookie, data))
    }

    pub(super) fn is_finished(&self) -> bool {
        self.completed == self.pieces
    }

    /// The client is gone: nothing further is submitted; what is in the service runs to its end.
    pub(super) fn abandon(&mut self) {
        self.pieces = self.submitted;
        self.buffers.clear();
        self.held.clear();
    }
}

/// A fixed number of job slots.
#[derive(Debug)]
pub(super) struct JobTable<W, R> {
    jobs: Vec<Job<W, R>>,
    free: Vec<JobSlot>,
    /// Payload bytes of all live jobs.
    pub(super) payload_bytes: u64,
}

impl<W, R> JobTable<W, R> {
    pub(super) fn new(jobs_max: u16) -> Self {
        Self {
            jobs: (0..jobs_max).map(|_| Job::vacant()).collect(),
            free: (0..jobs_max).rev().collect(),
            payload_bytes: 0,
        }
    }

    pub(super) fn live(&self) -> usize {
        self.jobs.len() - self.free.len()
    }

    pub(super) fn begin(&mut self, request: &Request, work: Work, transfer_bytes: u32) -> Option<JobSlot> {
        let slot = self.free.pop()?;
        let job = &mut self.jobs[usize::from(slot)];
        job.begin(request, work, transfer_bytes);
        self.payload_bytes += job.payload_bytes();
        Some(slot)
    }

    pub(super) fn get(&self, slot: JobSlot) -> &Job<W, R> {
        &self.jobs[usize::from(slot)]
    }

    /// The job of a slot that is in use.
    pub(super) fn get_mut(&mut self, slot: JobSlot) -> &mut Job<W, R> {
        let job = &mut self.jobs[usize::from(slot)];
        assert!(job.live, "job {slot} is not in use");
        job
    }

    /// Ends a job and frees its slot.
    pub(super) fn finish(&mut self, slot: JobSlot) {
        let job = self.get_mut(slot);
        job.live = false;
        job.buffers.clear();
        job.held.clear();
        let bytes = job.payload_bytes();
        self.payload_bytes -= bytes;
        self.free.push(slot);
    }

    pub(super) fn live_slots(&self) -> impl Iterator<Item = JobSlot> {
        (0..self.jobs.len() as JobSlot).filter(|&slot| self.jobs[usize::from(slot)].live)
    }
}
