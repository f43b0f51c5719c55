//! Memory that parent and worker both map, and how they wait for a word of it.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench_harness::spin_or_yield;
use serde::{Deserialize, Serialize};
use transport_buf::Region;

/// Spins before a waiting end yields its core: ≈ 100 µs, far more than any answer needs while the other end
/// runs.
const SPINS_MAX: u32 = 20_000;
/// An end that hears nothing for this long takes the other for dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A parent's memory file, named so that its worker can open it. Valid while the parent holds the region.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SharedMemory {
    parent_pid: u32,
    parent_fd: i32,
    bytes: usize,
}

impl SharedMemory {
    /// Names a region of this process.
    pub(crate) fn of(region: &Region) -> Self {
        Self { parent_pid: std::process::id(), parent_fd: region.file().as_raw_fd(), bytes: region.len() }
    }

    /// In the worker: maps it.
    ///
    /// # Errors
    /// The parent is gone, or the region is not the agreed one.
    pub(crate) fn map(&self) -> Result<Region> {
        let path = format!("/proc/{}/fd/{}", self.parent_pid, self.parent_fd);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.with_context(|| format!("the parent's memory {path} cannot be opened"))?;
        Region::adopt(OwnedFd::from(file), self.bytes).context("the parent's memory cannot be mapped")
    }
}

/// Waits until the word is at least `wanted`; returns what it is. Spins first, then yields between looks.
///
/// # Errors
/// It did not change for ten seconds: the other end is dead.
pub(crate) fn wait_for(word: &AtomicU64, wanted: u64) -> Result<u64> {
    let mut turns = 0;
    let mut deadline = None;
    loop {
        let value = word.load(Ordering::Acquire);
        if value >= wanted {
            return Ok(value);
        }
        turns = spin_or_yield(turns, SPINS_MAX);
        if turns > SPINS_MAX && Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + SILENCE_MAX)
        {
            bail!("the other end has been silent for {} s", SILENCE_MAX.as_secs());
        }
    }
}
