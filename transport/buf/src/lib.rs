//! Memory of the transport: regions that several processes map, slabs of chunks in them, and the rings and
//! flags by which two sides hand chunks and frames to each other.
//!
//! This is one of the few crates where `unsafe` is allowed; what it exports is safe to use.
//! Raw atomics live in [`atomic`] only, so that the same code runs under loom.

pub mod atomic;
#[cfg(loom)]
#[path = "last_words/banks.rs"]
pub mod banks;
#[cfg(not(loom))]
pub mod chunk;
#[cfg(not(loom))]
mod custody;
#[cfg(not(loom))]
pub mod free_list;
#[cfg(not(loom))]
pub mod last_words;
pub mod ledger;
#[cfg(not(loom))]
pub mod region;
pub mod returned;
pub mod ring;
#[cfg(not(loom))]
pub mod ring_region;
#[cfg(not(loom))]
pub mod shares;
#[cfg(not(loom))]
pub mod slab;

#[cfg(not(loom))]
pub use chunk::{Chunk, PlacedChunk, SharedChunk};
#[cfg(not(loom))]
pub use free_list::FreeList;
#[cfg(not(loom))]
pub use region::{Region, RegionError};
#[cfg(not(loom))]
pub use ring_region::{FrameReceiver, FrameSender, SlotCopy};
#[cfg(not(loom))]
pub use slab::{Slab, SlabLayout, SlabRefusal};
