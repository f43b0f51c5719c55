//! The atomics of this crate: `core`'s in a build, loom's under `--cfg loom`.
//! Memory that is shared between processes always uses `core`'s, since loom cannot live in a mapping.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
