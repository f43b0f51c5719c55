//! A disk on the bench: memory for its requests, and a loop that runs them to their end the way a reactor
//! does.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use memmap2::{MmapOptions, MmapRaw};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::backing::Backing;
use crate::fault::SubmitRefusal;
use crate::request::{IoMemory, StoreIo, StoreOperation, StoreResult, Submitted};

/// A disk that has ended nothing for this long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Page-aligned memory for transfers, touched through raw copies only.
#[derive(Debug)]
pub struct TestMemory(MmapRaw);

impl TestMemory {
    /// Zeroed memory.
    #[must_use]
    pub fn zeroed(length_bytes: usize) -> Self {
        let pages = MmapOptions::new().len(length_bytes).map_anon().expect("memory for a test");
        Self(MmapRaw::from(pages))
    }

    /// Memory with these bytes.
    #[must_use]
    pub fn with(bytes: &[u8]) -> Self {
        let memory = Self::zeroed(bytes.len());
        memory.put(0, bytes);
        memory
    }

    /// Overwrites from `at` on.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.0.len());
        // SAFETY: the range was checked.
        let target = unsafe { self.0.as_mut_ptr().add(at) };
        // SAFETY: the target is writable for the length (checked), and no reference to the mapping exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }

    /// A copy of a range.
    #[must_use]
    pub fn get(&self, at: usize, length_bytes: usize) -> Vec<u8> {
        assert!(at + length_bytes <= self.0.len());
        let mut bytes = vec![0; length_bytes];
        // SAFETY: the range was checked.
        let source = unsafe { self.0.as_ptr().add(at) };
        // SAFETY: the source is readable for the length (checked), and `bytes` is that long.
        unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), length_bytes) };
        bytes
    }

    /// Describes a range for a request. The caller keeps `self` until the request has ended.
    #[must_use]
    pub fn io(&self, at: usize, length_bytes: usize) -> IoMemory {
        assert!(at + length_bytes <= self.0.len());
        // SAFETY: the range was checked.
        let start = unsafe { self.0.as_mut_ptr().add(at) };
        let start = NonNull::new(start).expect("a mapping is not at null");
        // SAFETY: the memory stays mapped while `self` lives, which tests keep until the end, and no
        // reference to it is ever made.
        unsafe { IoMemory::new(start, length_bytes as u32) }
    }
}

/// A disk and the ends of its requests.
#[derive(Debug)]
pub struct Bench<B> {
    /// The disk.
    pub disk: B,
    next_tag: u64,
    ended: HashMap<u64, StoreResult>,
}

impl<B: Backing> Bench<B> {
    /// Puts a disk on the bench.
    pub fn new(disk: B) -> Self {
        Self { disk, next_tag: 1, ended: HashMap::new() }
    }

    /// Submits under a fresh tag, which it gives.
    ///
    /// # Errors
    /// The disk's refusal.
    pub fn submit(&mut self, offset_bytes: u64, operation: StoreOperation) -> Result<u64, SubmitRefusal> {
        let tag = self.next_tag;
        if let Submitted::Done(result) = self.disk.submit(StoreIo { tag, offset_bytes, operation })? {
            self.note(tag, result);
        }
        self.next_tag += 1;
        Ok(tag)
    }

    /// Submits, polling while the disk is full.
    pub fn submit_patiently(&mut self, offset_bytes: u64, operation: StoreOperation) -> u64 {
        loop {
            match self.submit(offset_bytes, operation) {
                Ok(tag) => return tag,
                Err(SubmitRefusal::Full { .. }) => self.sleep_and_poll(),
                Err(refusal) => panic!("refused: {refusal}"),
            }
        }
    }

    /// Runs one request to its end.
    pub fn run(&mut self, offset_bytes: u64, operation: StoreOperation) -> StoreResult {
        let tag = self.submit_patiently(offset_bytes, operation);
        self.wait(tag)
    }

    /// Waits for the end of a request.
    pub fn wait(&mut self, tag: u64) -> StoreResult {
        loop {
            if let Some(result) = self.ended.remove(&tag) {
                return result;
            }
            self.sleep_and_poll();
        }
    }

    /// Waits until nothing is in flight; gives every end not yet taken.
    pub fn drain(&mut self) -> HashMap<u64, StoreResult> {
        while self.disk.in_flight() > 0 {
            self.sleep_and_poll();
        }
        std::mem::take(&mut self.ended)
    }

    /// Sleeps as a reactor would, unless something waits already, and polls.
    pub fn sleep_and_poll(&mut self) {
        let started = Instant::now();
        while self.disk.arm() {
            let event_fd =
                self.disk.event_fd().expect("a disk with requests in flight has an event descriptor");
            let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            match poll(&mut [PollFd::new(&event_fd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => {
                    panic!("{} requests in flight, and none ended in {PATIENCE:?}", self.disk.in_flight())
                }
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => assert!(started.elapsed() < PATIENCE, "only interruptions"),
                Err(errno) => panic!("poll failed: {errno}"),
            }
        }
        let Self { disk, ended, .. } = self;
        disk.poll(&mut |completion| {
            let twice = ended.insert(completion.tag, completion.result);
            assert!(twice.is_none(), "tag {} ended twice", completion.tag);
        });
    }

    /// Writes bytes and expects success.
    pub fn write(&mut self, offset_bytes: u64, bytes: &[u8]) {
        let memory = TestMemory::with(bytes);
        let operation = StoreOperation::Write { memory: memory.io(0, bytes.len()), fua: false };
        assert_eq!(self.run(offset_bytes, operation), Ok(()));
    }

    /// Reads bytes and expects success.
    pub fn read(&mut self, offset_bytes: u64, length_bytes: usize) -> Vec<u8> {
        let memory = TestMemory::zeroed(length_bytes);
        let operation = StoreOperation::Read { memory: memory.io(0, length_bytes) };
        assert_eq!(self.run(offset_bytes, operation), Ok(()));
        memory.get(0, length_bytes)
    }

    fn note(&mut self, tag: u64, result: StoreResult) {
        assert!(self.ended.insert(tag, result).is_none(), "tag {tag} ended twice");
    }
}

/// Bytes that tell where they belong: no two ranges, and no two seeds, look alike.
#[must_use]
pub fn pattern(seed: u64, length_bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length_bytes + 8);
    while bytes.len() < length_bytes {
        state = super::model::next_random(state);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length_bytes);
    bytes
}
