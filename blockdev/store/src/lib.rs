//! Storage that a node reaches directly: memory, image files and raw block devices behind one polled
//! interface.
//!
//! One reactor thread owns a backing and drives it in this order, forever:
//!
//! 1. [`Backing::submit`] for each request. The answer is there at once ([`Submitted::Done`]), comes later
//!    ([`Submitted::Queued`]), or the request is refused and nothing happened ([`SubmitRefusal`]).
//! 2. [`Backing::kick`] once per round: everything queued leaves in one system call.
//! 3. [`Backing::poll`] hands out what has finished.
//! 4. Before it sleeps on [`Backing::event_fd`], [`Backing::arm`] must say `true`.
//!
//! [`AnyBacking`] is the closed set of backings that a node runs; it dispatches without a vtable and adds
//! what fencing needs: the durable epoch and the ownership of a disk that two nodes can open.
//!
//! [`Drive`] is the same door for crates without `unsafe`: it holds the memory of each request until its end.

mod backing;
mod bounce;
mod buffered;
#[cfg(feature = "conformance")]
pub mod conformance;
mod counters;
mod create;
mod device;
mod disk_file;
mod drive;
mod erase;
mod fault;
mod geometry;
mod memory;
mod open_refusal;
mod request;
mod superblock;
mod uring;

pub use backing::{AnyBacking, Backing};
pub use buffered::BufferedFile;
pub use counters::StoreCounters;
pub use create::{NewDisk, create};
pub use disk_file::{DiskFile, EngineChoice, OpenMode, Ports};
pub use drive::{Drive, DriveEnd, DriveIo, DriveOperation, ReadTarget, Returned, WriteSource};
pub use erase::{EraseFault, Erasure};
pub use fault::{EpochRefusal, GrowRefusal, OwnershipAttempt, OwnershipRelease, StoreFault, SubmitRefusal};
pub use geometry::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, Geometry, TRANSFER_BYTES_MAX};
pub use memory::{MemoryDisk, MemoryDiskRefusal};
pub use open_refusal::{CreateRefusal, OpenRefusal};
pub use request::{IoMemory, StoreCompletion, StoreIo, StoreOperation, StoreResult, Submitted};
pub use superblock::{DiskUuid, FORMAT_VERSION, Superblock, TAIL_BYTES};
pub use uring::{QUEUE_DEPTH_MAX, UringFile};
