//! Memory of the transport: regions that several processes map, slabs of chunks in them, and the rings and flags by
//! which two sides hand chunks and frames to each other.
//!
//! This is one of the few crates where `unsafe` is allowed; what it exports is safe to use.
//! Raw atomics live in [`atomic`] only, so that the same code runs under loom.

pub mod atomic;
pub mod chunk;
pub mod region;
pub mod slab;

pub use chunk::{Chunk, PlacedChunk, SharedChunk};
pub use region::{Region, RegionError};
pub use slab::{Slab, SlabLayout, SlabRefusal};
