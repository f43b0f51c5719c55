//! The atomics of this crate: `core`'s in a build, loom's under `--cfg loom`.
//!
//! The algorithms ([`crate::ring`], [`crate::returned`]) are written over these, so that loom runs the very
//! code that ships. Memory that is shared between processes cannot hold loom's, therefore everything that
//! maps memory is left out under loom and the loom tests bring memory of their own.

#[cfg(not(loom))]
pub use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
