//! A file or device driven by io_uring with direct I/O: nothing copied, nothing blocked, one system call a
//! round.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use rustix::time::{ClockId, clock_gettime};

use crate::backing::Backing;
use crate::bounce::{BOUNCE_BYTES, BounceBuffer, BouncePool};
use crate::counters::{FlushFault, StoreCounters};
use crate::fault::{StoreFault, SubmitRefusal};
use crate::geometry::Geometry;
use crate::request::{IoMemory, StoreCompletion, StoreIo, StoreOperation, StoreResult, Submitted};

/// Most requests that one ring may hold in flight.
pub const QUEUE_DEPTH_MAX: u32 = 1024;
/// A transfer that the kernel puts off this often without any progress in between has failed.
const FRUITLESS_RESUMES_MAX: u8 = 16;
/// The disk's place in the ring's table of files.
const DISK: types::Fixed = types::Fixed(0);

/// An open file with direct I/O and its ring.
///
/// The file is registered with the ring, so the kernel keeps its description, and with it any `flock`, until
/// the ring's last request has ended, even when this process dies.
pub struct UringFile {
    ring: IoUring,
    slots: Vec<Option<InFlight>>,
    free: Vec<u32>,
    bounce: BouncePool,
    zeroing: Zeroing,
    flush_fault: FlushFault,
    counters: StoreCounters,
    geometry: Geometry,
    file: File,
}

/// What the device was found unable to do, so that it is asked only once.
#[derive(Debug, Default)]
struct Zeroing {
    no_punch_hole: bool,
    no_zero_range: bool,
}

/// A request with the kernel.
struct InFlight {
    io: StoreIo,
    length_bytes: u64,
    done_bytes: u64,
    step: Step,
    bounce: Option<BounceBuffer>,
    fruitless_resumes: u8,
    submitted_at: Duration,
}

/// What the kernel is doing for a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Moving bytes between memory and disk.
    Transfer,
    /// Punching a hole or zeroing a range.
    Reshape,
    /// Writing zeroes, because the device cannot zero by itself.
    WriteZeroes,
    /// Making the device's cache durable.
    Sync,
}

impl UringFile {
    /// Makes a ring for a file that is open with `O_DIRECT`. `geometry.queue_depth` requests may be in
    /// flight.
    ///
    /// # Errors
    /// What the kernel says when it has no ring or no address space for us, with the file given back.
    pub fn new(file: File, geometry: Geometry) -> Result<Self, (File, io::Error)> {
        assert!(
            (1..=QUEUE_DEPTH_MAX).contains(&geometry.queue_depth),
            "queue depth {}",
            geometry.queue_depth
        );
        let made =
            Self::make_ring(&file, geometry.queue_depth).and_then(|ring| Ok((ring, BouncePool::new()?)));
        let (ring, bounce) = match made {
            Ok(made) => made,
            Err(error) => return Err((file, error)),
        };
        Ok(Self {
            ring,
            slots: (0..geometry.queue_depth).map(|_| None).collect(),
            free: (0..geometry.queue_depth).rev().collect(),
            bounce,
            zeroing: Zeroing::default(),
            flush_fault: FlushFault::default(),
            counters: StoreCounters::default(),
            geometry,
            file,
        })
    }

    /// Each request has one entry with the kernel at a time, and the completion ring is twice as long as the
    /// submission ring, so neither can overflow.
    fn make_ring(file: &File, queue_depth: u32) -> io::Result<IoUring> {
        let cooperative = IoUring::builder()
            .dontfork()
            .setup_submit_all()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .build(queue_depth);
        let ring = match cooperative {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                IoUring::builder().dontfork().build(queue_depth)?
            }
            other => other?,
        };
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        Ok(ring)
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Waits for the end of everything in flight and forgets it: until then the kernel writes into memory
    /// that others own.
    pub(crate) fn drain(&mut self) {
        while self.in_flight() > 0 {
            if let Err(error) = self.ring.submit_and_wait(1) {
                let passing = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY));
                assert!(passing, "waiting for disk I/O to end failed: {error}");
            }
            self.poll(&mut |_| {});
        }
    }

    /// The step that a request starts with.
    fn first_step(&self, operation: &StoreOperation) -> Step {
        match operation {
            StoreOperation::Read { .. } | StoreOperation::Write { .. } => Step::Transfer,
            StoreOperation::Flush => Step::Sync,
            StoreOperation::Discard { .. } => Step::Reshape,
            StoreOperation::WriteZeroes { may_unmap, .. } => {
                let cannot = if *may_unmap { self.zeroing.no_punch_hole } else { self.zeroing.no_zero_range };
                if cannot { Step::WriteZeroes } else { Step::Reshape }
            }
        }
    }

    /// Pushes the next entry for the request in slot `index`.
    fn push(&mut self, index: u32) {
        let in_flight = self.slots[index as usize].as_ref().expect("only a taken slot is pushed");
        let entry = in_flight.entry(&self.bounce).user_data(u64::from(index));
        let mut queue = self.ring.submission();
        // SAFETY: the memory of the entry is the caller's, valid until the completion by the contract of
        // `IoMemory::new`, or the pool's, which lives as long as the ring (drop waits for what is in flight).
        let pushed = unsafe { queue.push(&entry) };
        assert!(pushed.is_ok(), "one entry per slot fits the submission ring");
    }

    /// Takes note of one completion. `None`: the request goes on.
    fn advance(&mut self, index: u32, outcome: i32) -> Option<StoreCompletion> {
        let in_flight = self.slots[index as usize].as_mut().expect("the kernel completes what it was given");
        let ended = match in_flight.step {
            Step::Transfer | Step::WriteZeroes => {
                in_flight.after_transfer(outcome, &self.bounce, self.geometry.block_bytes)
            }
            Step::Reshape => in_flight.after_reshape(outcome, &mut self.zeroing),
            Step::Sync => in_flight.after_sync(outcome),
        };
        let Some(result) = ended else {
            self.counters.resumed += u64::from(in_flight.step == Step::Transfer);
            self.push(index);
            return None;
        };
        let in_flight = self.slots[index as usize].take()?;
        if in_flight.is_durable()
            && matches!(result, Err(StoreFault::Media { .. } | StoreFault::Unreachable { .. }))
        {
            self.flush_fault.note(result);
        }
        // A flush that overtook a failing one must not say "durable" after it.
        let result = if in_flight.is_durable() { result.and(self.flush_fault.check()) } else { result };
        self.counters.count(&in_flight.io.operation, in_flight.length_bytes, result);
        if let Some(buffer) = in_flight.bounce {
            self.bounce.put_back(buffer);
        }
        self.free.push(index);
        Some(StoreCompletion { tag: in_flight.io.tag, result })
    }

    /// Whether there is something that only a system call brings forward: entries to send or work of the
    /// kernel.
    fn enter_needed(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    fn now() -> Duration {
        let time = clock_gettime(ClockId::MonotonicCoarse);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

impl InFlight {
    /// Whether a good end of this request promises durability.
    fn is_durable(&self) -> bool {
        match self.io.operation {
            StoreOperation::Flush => true,
            StoreOperation::Write { fua, .. } | StoreOperation::WriteZeroes { fua, .. } => fua,
            StoreOperation::Read { .. } | StoreOperation::Discard { .. } => false,
        }
    }

    fn rest_bytes(&self) -> u64 {
        self.length_bytes - self.done_bytes
    }

    /// Memory and length of the piece that is moved next.
    fn piece(&self, memory: IoMemory, bounce: &BouncePool) -> (*mut u8, u32) {
        if let Some(buffer) = &self.bounce {
            return (bounce.pointer(buffer), self.rest_bytes().min(BOUNCE_BYTES as u64) as u32);
        }
        // SAFETY: done < length, so the pointer stays inside the memory.
        let start = unsafe { memory.pointer().as_ptr().add(self.done_bytes as usize) };
        (start, self.rest_bytes() as u32)
    }

    /// The entry for the current step.
    fn entry(&self, bounce: &BouncePool) -> squeue::Entry {
        let at = self.io.offset_bytes + self.done_bytes;
        let durable = if self.is_durable() { libc::RWF_DSYNC } else { 0 };
        match (self.step, self.io.operation) {
            (Step::Transfer, StoreOperation::Read { memory }) => {
                let (start, length) = self.piece(memory, bounce);
                opcode::Read::new(DISK, start, length).offset(at).build()
            }
            (Step::Transfer, StoreOperation::Write { memory, .. }) => {
                let (start, length) = self.piece(memory, bounce);
                if self.bounce.is_some() {
                    // SAFETY: done < length, so the pointer stays inside the memory.
                    let source = unsafe { memory.pointer().as_ptr().add(self.done_bytes as usize) };
                    // SAFETY: the source is readable by the contract of `IoMemory`, the buffer is ours alone
                    // and at least `length` long, and the two are different mappings.
                    unsafe { std::ptr::copy_nonoverlapping(source, start, length as usize) };
                }
                opcode::Write::new(DISK, start, length).offset(at).rw_flags(durable).build()
            }
            (Step::WriteZeroes, _) => {
                let length = self.rest_bytes().min(BOUNCE_BYTES as u64) as u32;
                opcode::Write::new(DISK, bounce.zeroes(), length).offset(at).rw_flags(durable).build()
            }
            (Step::Reshape, operation) => {
                let unmap = !matches!(operation, StoreOperation::WriteZeroes { may_unmap: false, .. });
                let way = if unmap { libc::FALLOC_FL_PUNCH_HOLE } else { libc::FALLOC_FL_ZERO_RANGE };
                let mode = way | libc::FALLOC_FL_KEEP_SIZE;
                opcode::Fallocate::new(DISK, self.length_bytes)
                    .offset(self.io.offset_bytes)
                    .mode(mode)
                    .build()
            }
            (Step::Sync, _) => opcode::Fsync::new(DISK).flags(types::FsyncFlags::DATASYNC).build(),
            (Step::Transfer, operation) => unreachable!("{operation:?} transfers nothing"),
        }
    }

    /// Whether the kernel only asks to be asked again; gives up after too many times without progress.
    fn put_off(&mut self, outcome: i32) -> bool {
        let again = matches!(-outcome, libc::EINTR | libc::EAGAIN | libc::ECANCELED);
        self.fruitless_resumes = self.fruitless_resumes.saturating_add(1);
        again && self.fruitless_resumes <= FRUITLESS_RESUMES_MAX
    }

    fn after_transfer(&mut self, outcome: i32, bounce: &BouncePool, block_bytes: u32) -> Option<StoreResult> {
        let Ok(moved) = u64::try_from(outcome) else {
            return if self.put_off(outcome) { None } else { Some(Err(StoreFault::from_errno(-outcome))) };
        };
        // Direct I/O goes on only from a boundary, and a resumed piece may overlap what was moved already.
        let moved = moved.min(self.rest_bytes());
        let moved = moved - moved % u64::from(block_bytes);
        if moved == 0 {
            return Some(Err(StoreFault::ShortTransfer));
        }
        if let (Some(buffer), StoreOperation::Read { memory }) = (&self.bounce, self.io.operation) {
            // SAFETY: done < length, so the pointer stays inside the memory.
            let target = unsafe { memory.pointer().as_ptr().add(self.done_bytes as usize) };
            // SAFETY: the target is writable for the rest by the contract of `IoMemory`, the buffer holds
            // `moved` bytes just read, and the two are different mappings.
            unsafe { std::ptr::copy_nonoverlapping(bounce.pointer(buffer), target, moved as usize) };
        }
        self.done_bytes += moved;
        self.fruitless_resumes = 0;
        if self.rest_bytes() == 0 { Some(Ok(())) } else { None }
    }

    fn after_reshape(&mut self, outcome: i32, zeroing: &mut Zeroing) -> Option<StoreResult> {
        if outcome < 0 && self.put_off(outcome) {
            return None;
        }
        let result = if outcome < 0 { Err(StoreFault::from_errno(-outcome)) } else { Ok(()) };
        match (result, self.io.operation) {
            // A discard is a hint; a device without it keeps the blocks.
            (Err(StoreFault::Unsupported), StoreOperation::Discard { .. }) => Some(Ok(())),
            (Err(StoreFault::Unsupported), StoreOperation::WriteZeroes { may_unmap, .. }) => {
                let cannot = if may_unmap { &mut zeroing.no_punch_hole } else { &mut zeroing.no_zero_range };
                *cannot = true;
                self.step = Step::WriteZeroes;
                None
            }
            (Ok(()), StoreOperation::WriteZeroes { fua: true, .. }) => {
                self.step = Step::Sync;
                None
            }
            (result, _) => Some(result),
        }
    }

    fn after_sync(&mut self, outcome: i32) -> Option<StoreResult> {
        if outcome >= 0 {
            return Some(Ok(()));
        }
        // A sync is never asked twice: the second one would hide what the first one lost. Only an
        // interruption, which says that nothing was looked at, is no answer.
        if -outcome == libc::EINTR && self.put_off(outcome) {
            return None;
        }
        Some(Err(StoreFault::from_errno(-outcome)))
    }
}

impl Backing for UringFile {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, io: StoreIo) -> Result<Submitted, SubmitRefusal> {
        let length_bytes = self.geometry.admit(&io)?;
        let full = SubmitRefusal::Full { in_flight: self.in_flight() };
        let mut in_flight = InFlight {
            io,
            length_bytes,
            done_bytes: 0,
            step: self.first_step(&io.operation),
            bounce: None,
            fruitless_resumes: 0,
            submitted_at: Self::now(),
        };
        if in_flight.is_durable() && self.flush_fault.check().is_err() {
            let result = self.flush_fault.check();
            self.counters.count(&io.operation, length_bytes, result);
            return Ok(Submitted::Done(result));
        }
        let index = *self.free.last().ok_or(full)?;
        if let StoreOperation::Read { memory } | StoreOperation::Write { memory, .. } = io.operation
            && !memory.is_aligned_to(self.geometry.memory_alignment)
        {
            in_flight.bounce = Some(self.bounce.take().ok_or(full)?);
            self.counters.bounced += 1;
        }
        self.free.pop();
        self.slots[index as usize] = Some(in_flight);
        self.push(index);
        Ok(Submitted::Queued)
    }

    fn kick(&mut self) {
        while self.enter_needed() {
            match self.ring.submit() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(_) => {
                    // Short of memory, or completions must be taken first: what is queued stays queued, and
                    // the next round tries again. If that never helps, the age of the oldest request tells.
                    self.counters.kernel_busy += 1;
                    break;
                }
            }
        }
    }

    fn poll(&mut self, sink: &mut impl FnMut(StoreCompletion)) -> usize {
        self.kick();
        let mut ended = 0;
        loop {
            let Some(entry) = self.ring.completion().next() else { break };
            if let Some(completion) = self.advance(entry.user_data() as u32, entry.result()) {
                ended += 1;
                sink(completion);
            }
        }
        self.kick();
        ended
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the ring keeps its descriptor open, and the borrow ends before the ring can.
        Some(unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) })
    }

    fn arm(&mut self) -> bool {
        self.kick();
        !self.enter_needed() && self.ring.completion().is_empty()
    }

    fn oldest_submitted_age(&self) -> Option<Duration> {
        let oldest = self.slots.iter().flatten().map(|in_flight| in_flight.submitted_at).min()?;
        Some(Self::now().saturating_sub(oldest))
    }

    fn counters(&self) -> StoreCounters {
        self.counters
    }
}

impl Drop for UringFile {
    fn drop(&mut self) {
        self.drain();
        // The kernel takes a ring apart some time after its descriptor was closed; the file shall not wait
        // for that.
        let _ = self.ring.submitter().unregister_files();
    }
}

impl std::fmt::Debug for UringFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringFile")
            .field("geometry", &self.geometry)
            .field("in_flight", &self.in_flight())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::NonNull;

    const BLOCKS: u64 = 8;
    const BLOCK: u64 = 4096;

    /// A read of 8 blocks whose memory is only described, never touched.
    fn in_flight() -> InFlight {
        // SAFETY: without a bounce buffer nothing touches the memory before the kernel is asked, which these
        // tests never do.
        let memory = unsafe { IoMemory::new(NonNull::dangling(), (BLOCKS * BLOCK) as u32) };
        InFlight {
            io: StoreIo { tag: 1, offset_bytes: 0, operation: StoreOperation::Read { memory } },
            length_bytes: BLOCKS * BLOCK,
            done_bytes: 0,
            step: Step::Transfer,
            bounce: None,
            fruitless_resumes: 0,
            submitted_at: Duration::ZERO,
        }
    }

    #[test]
    fn a_short_transfer_goes_on_where_it_ended_and_from_a_boundary() {
        let bounce = BouncePool::new().expect("address space");
        let mut read = in_flight();
        for (moved, done) in [(BLOCK, BLOCK), (BLOCK + 512, 2 * BLOCK), (2 * BLOCK - 1, 3 * BLOCK)] {
            assert_eq!(read.after_transfer(moved as i32, &bounce, BLOCK as u32), None);
            assert_eq!(read.done_bytes, done);
        }
        let rest = read.rest_bytes();
        assert_eq!(read.after_transfer(rest as i32, &bounce, BLOCK as u32), Some(Ok(())));
    }

    #[test]
    fn a_transfer_without_progress_is_an_error_and_never_a_success() {
        let bounce = BouncePool::new().expect("address space");
        for moved in [0, 1, 512, BLOCK as i32 - 1] {
            assert_eq!(
                in_flight().after_transfer(moved, &bounce, BLOCK as u32),
                Some(Err(StoreFault::ShortTransfer))
            );
        }
    }

    #[test]
    fn a_transfer_put_off_is_asked_again_but_not_for_ever() {
        let bounce = BouncePool::new().expect("address space");
        let mut read = in_flight();
        for _ in 0..FRUITLESS_RESUMES_MAX {
            assert_eq!(read.after_transfer(-libc::EAGAIN, &bounce, BLOCK as u32), None);
        }
        let gave_up = Some(Err(StoreFault::Media { errno: libc::EAGAIN }));
        assert_eq!(read.after_transfer(-libc::EAGAIN, &bounce, BLOCK as u32), gave_up);
        assert_eq!(
            in_flight().after_transfer(-libc::EIO, &bounce, BLOCK as u32),
            Some(Err(StoreFault::Media { errno: libc::EIO }))
        );
    }

    #[test]
    fn a_failed_sync_is_not_asked_again_and_stays_failed() {
        let mut flush = in_flight();
        let lost = Err(StoreFault::Media { errno: libc::EIO });
        assert_eq!(flush.after_sync(-libc::EAGAIN), Some(Err(StoreFault::Media { errno: libc::EAGAIN })));
        assert_eq!(flush.after_sync(-libc::EIO), Some(lost));
        let mut sticky = FlushFault::default();
        sticky.note(lost);
        sticky.note(Ok(()));
        assert_eq!(sticky.check(), lost);
    }
}
