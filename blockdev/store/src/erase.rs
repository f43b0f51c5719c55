//! Overwrites a disk with zeroes, step by step, so that whoever does it may pause, and stop.

use std::path::Path;

use thiserror::Error;

use crate::backing::Backing;
use crate::disk_file::{DiskFile, EngineChoice, OpenMode, Ports};
use crate::fault::{StoreFault, SubmitRefusal};
use crate::open_refusal::OpenRefusal;
use crate::request::{StoreIo, StoreOperation, Submitted};

/// Why a disk is not erased. What was erased of it so far stays so.
#[derive(Debug, Error)]
pub enum EraseFault {
    /// It cannot be opened, or somebody has it open.
    #[error(transparent)]
    Open(#[from] OpenRefusal),
    /// The disk does not take the zeroes.
    #[error("{path}: the disk refused zeroes: {source}")]
    Refused {
        /// Where it is.
        path: String,
        /// Why.
        source: SubmitRefusal,
    },
    /// The disk failed. The same again is safe.
    #[error("{path}: the disk failed while it was erased: {source}; replace it, or try again")]
    Failed {
        /// Where it is.
        path: String,
        /// How.
        source: StoreFault,
    },
}

/// A disk that is being erased. Nobody else has it open meanwhile: what an earlier user submitted has ended
/// before the lock of the disk is free (see [`DiskFile`]), so nothing lands behind the zeroes.
#[derive(Debug)]
pub struct Erasure {
    disk: DiskFile,
    next_bytes: u64,
}

impl Erasure {
    /// Opens the disk for it.
    ///
    /// # Errors
    /// [`EraseFault::Open`]; among others that somebody has the disk open still.
    pub fn open(path: &Path) -> Result<Erasure, EraseFault> {
        let mode = OpenMode { ports: Ports::Single, engine: EngineChoice::Buffered, ..OpenMode::default() };
        Ok(Erasure { disk: DiskFile::open(path, &mode)?, next_bytes: 0 })
    }

    /// Bytes for clients, all of which are erased.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.disk.geometry().data_bytes
    }

    /// Bytes that are zero by now.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.next_bytes
    }

    /// Erases up to so many bytes more. `true`: all of the disk is zero, and durable.
    ///
    /// # Errors
    /// [`EraseFault`]; the step may be repeated.
    pub fn step(&mut self, bytes_max: u64) -> Result<bool, EraseFault> {
        let geometry = self.disk.geometry();
        let block = u64::from(geometry.block_bytes);
        let length_bytes =
            (geometry.data_bytes - self.next_bytes).min(bytes_max.next_multiple_of(block).max(block));
        if length_bytes > 0 {
            let zeroes = StoreOperation::WriteZeroes { length_bytes, may_unmap: false, fua: false };
            self.carry_out(zeroes)?;
            self.next_bytes += length_bytes;
        }
        if self.next_bytes < geometry.data_bytes {
            return Ok(false);
        }
        self.carry_out(StoreOperation::Flush)?;
        Ok(true)
    }

    fn carry_out(&mut self, operation: StoreOperation) -> Result<(), EraseFault> {
        let io = StoreIo { tag: 0, offset_bytes: self.next_bytes, operation };
        let result = match self.disk.submit(io) {
            Ok(Submitted::Done(result)) => result,
            // Plain system calls end within the submit.
            Ok(Submitted::Queued) => Err(StoreFault::ShortTransfer),
            Err(source) => {
                let path = self.disk.path().display().to_string();
                return Err(EraseFault::Refused { path, source });
            }
        };
        result.map_err(|source| EraseFault::Failed { path: self.disk.path().display().to_string(), source })
    }
}
