//! What a backing has done since it was opened; printed by `netdisk status`.

use crate::fault::StoreFault;
use crate::request::{StoreOperation, StoreResult};

/// Counts since the backing was opened. Requests are counted when they end, refusals not at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Reads that ended well.
    pub reads: u64,
    /// Bytes of those.
    pub read_bytes: u64,
    /// Writes that ended well.
    pub writes: u64,
    /// Bytes of those.
    pub written_bytes: u64,
    /// Flushes that ended well.
    pub flushes: u64,
    /// Discards and zeroings that ended well.
    pub discards: u64,
    /// Requests of any kind that ended with a fault.
    pub errors: u64,
    /// Transfers that went through a bounce buffer because their memory was not aligned.
    pub bounced: u64,
    /// Transfers that the kernel ended early or interrupted, and that were taken up again.
    pub resumed: u64,
    /// `io_uring_enter` calls that the kernel turned away for the moment.
    pub kernel_busy: u64,
}

impl StoreCounters {
    /// Counts the end of a request of `length_bytes`.
    pub(crate) fn count(&mut self, operation: &StoreOperation, length_bytes: u64, result: StoreResult) {
        let Ok(()) = result else {
            self.errors += 1;
            return;
        };
        match operation {
            StoreOperation::Read { .. } => {
                self.reads += 1;
                self.read_bytes += length_bytes;
            }
            StoreOperation::Write { .. } => {
                self.writes += 1;
                self.written_bytes += length_bytes;
            }
            StoreOperation::Flush => self.flushes += 1,
            StoreOperation::Discard { .. } | StoreOperation::WriteZeroes { .. } => self.discards += 1,
        }
    }
}

/// A failed flush stays failed: the kernel reports a lost page once and then calls the file clean, so a later
/// flush that "works" would lie. Only opening the disk again clears it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FlushFault(Option<StoreFault>);

impl FlushFault {
    /// The fault that every durable request must report from now on, if there was one.
    pub(crate) fn check(self) -> StoreResult {
        self.0.map_or(Ok(()), Err)
    }

    /// Notes how a flush, or the sync part of a durable write, ended.
    pub(crate) fn note(&mut self, result: StoreResult) {
        if let (None, Err(fault)) = (self.0, result) {
            self.0 = Some(fault);
        }
    }
}
