//! A region: anonymous shared memory (memfd) of a fixed, sealed size, mapped here and perhaps in other
//! processes.
//!
//! The file is sealed against shrinking and growing and its pages are allocated when it is made, so that
//! touching it can neither run past the end nor fail for want of memory later (SIGBUS). It has no name in any
//! file system: when the last process that maps it ends, it is gone.

use crate::atomic::{AtomicU8, AtomicU64, Ordering};
use crate::custody::Custody;
use core::fmt;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

/// Bytes of a page; regions, and chunks of at least a page, are aligned to it.
pub const PAGE_BYTES: usize = 4096;

/// Shared memory mapped into this process. Unmapped when dropped; every chunk, lease and ring in it keeps it
/// alive.
pub struct Region {
    map: MmapRaw,
    file: OwnedFd,
    /// Which chunks are in whose hands in this process, once the region is used as a slab.
    custody: OnceLock<Custody>,
    /// Wakes the process that allocates chunks in this region, if that is another one.
    bell: OnceLock<OwnedFd>,
}

/// Why a region could not be made or mapped.
#[derive(Debug)]
pub enum RegionError {
    /// The kernel gave no memory file.
    Create(Errno),
    /// Not enough memory for all pages of the region.
    Allocate {
        /// Bytes asked for.
        bytes: usize,
        /// What the kernel said.
        source: Errno,
    },
    /// The memory file could not be sealed, or one that a peer sent is not sealed.
    Seal(Errno),
    /// A peer sent a memory file that lacks the seals or the size that were agreed.
    Foreign {
        /// Bytes agreed.
        expected: usize,
        /// Bytes it has.
        found: u64,
        /// Whether it can still shrink under us.
        sealed: bool,
    },
    /// The mapping failed.
    Map(std::io::Error),
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegionError::Create(_) => write!(f, "cannot create shared memory (memfd)"),
            RegionError::Allocate { bytes, .. } => write!(
                f,
                "cannot allocate {bytes} bytes of shared memory: lower the node's memory budget or free \
                 memory"
            ),
            RegionError::Seal(_) => write!(f, "cannot seal shared memory"),
            RegionError::Foreign { expected, found, sealed } => write!(
                f,
                "peer sent {found} bytes of shared memory (sealed: {sealed}), agreed were {expected} sealed"
            ),
            RegionError::Map(_) => write!(f, "cannot map shared memory"),
        }
    }
}

impl std::error::Error for RegionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RegionError::Create(e) | RegionError::Seal(e) | RegionError::Allocate { source: e, .. } => {
                Some(e)
            }
            RegionError::Map(e) => Some(e),
            RegionError::Foreign { .. } => None,
        }
    }
}

impl Region {
    /// Makes a region of `bytes` (rounded up to whole pages), zeroed, all pages allocated, sealed.
    pub fn create(bytes: usize) -> Result<Region, RegionError> {
        let bytes = bytes.max(1).next_multiple_of(PAGE_BYTES);
        let file = rustix::fs::memfd_create(c"netdisk", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(RegionError::Create)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)
            .map_err(|source| RegionError::Allocate { bytes, source })?;
        rustix::fs::fcntl_add_seals(&file, Region::seals()).map_err(RegionError::Seal)?;
        Region::map(file, bytes)
    }

    /// Maps a region that a peer made. `bytes` is what the two sides agreed on; a file of another size, or
    /// one that could still shrink, is refused.
    pub fn adopt(file: OwnedFd, bytes: usize) -> Result<Region, RegionError> {
        let found = rustix::fs::fstat(&file).map_err(RegionError::Create)?.st_size as u64;
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(RegionError::Seal)?;
        let sealed = seals.contains(Region::seals());
        if found != bytes as u64 || !sealed {
            return Err(RegionError::Foreign { expected: bytes, found, sealed });
        }
        Region::map(file, bytes)
    }

    fn seals() -> SealFlags {
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
    }

    fn map(file: OwnedFd, bytes: usize) -> Result<Region, RegionError> {
        // Page tables are filled now rather than by a fault per page in the middle of a transfer.
        let map = MmapOptions::new().len(bytes).populate().map_raw(&file).map_err(RegionError::Map)?;
        Ok(Region { map, file, custody: OnceLock::new(), bell: OnceLock::new() })
    }

    /// The custody of this region's chunks, of which there are `chunks`.
    pub(crate) fn custody(&self, chunks: usize) -> &Custody {
        self.custody.get_or_init(|| Custody::new(chunks))
    }

    /// Custody, if there ever was a chunk.
    pub(crate) fn custody_in_use(&self) -> &Custody {
        self.custody.get().expect("a chunk was made, which set up custody first")
    }

    /// Names the eventfd (non-blocking) that wakes the process which allocates chunks in this region. It is
    /// written when a chunk returns while that process waits for one. Set once; a second one is ignored.
    pub fn set_bell(&self, bell: OwnedFd) {
        let _first_one_stays = self.bell.set(bell);
    }

    /// Wakes whoever waits for a chunk of this region.
    pub(crate) fn ring_bell(&self) {
        if let Some(bell) = self.bell.get() {
            // A counter at its limit is a bell that rings already; any other failure means that nobody is
            // left to wake.
            let _rings_already = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
    }

    /// Bytes of the region.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Never: a region has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The memory file, to be passed to a peer process.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Address of byte `offset`. Panics if `offset` lies past the end (a bug of this process: offsets from
    /// peers are checked before they get here).
    pub fn pointer(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.len(), "offset {offset} past the region's {} bytes", self.len());
        // SAFETY: `offset` is within the mapping (or one past its end), checked above.
        unsafe { self.map.as_mut_ptr().add(offset) }
    }

    /// The aligned word at `offset` as an atomic. Panics if it is misaligned or past the end.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len(), "no aligned word at {offset}");
        let pointer = self.pointer(offset).cast::<u64>();
        // SAFETY: in bounds and aligned (checked above), mapped as long as `self` lives, and every process
        // accesses these words by atomics only.
        unsafe { AtomicU64::from_ptr(pointer) }
    }
}

impl Region {
    /// Copies `bytes` to byte `offset` and on, as a device or another process stores them: piece by piece,
    /// atomically each, without order. Panics past the end.
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len()), "store past the end");
        let lead = offset.next_multiple_of(8).wrapping_sub(offset).min(bytes.len());
        let (ragged, rest) = bytes.split_at(lead);
        let (words, tail) = rest.as_chunks::<8>();
        self.store_bytes(offset, ragged);
        for (number, word) in words.iter().enumerate() {
            self.word(offset + lead + number * 8).store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        self.store_bytes(offset + lead + words.len() * 8, tail);
    }

    /// Copies from byte `offset` and on to `out`; what another side stores meanwhile may be seen in parts.
    /// Panics past the end.
    pub fn load(&self, offset: usize, out: &mut [u8]) {
        assert!(offset.checked_add(out.len()).is_some_and(|end| end <= self.len()), "load past the end");
        let lead = offset.next_multiple_of(8).wrapping_sub(offset).min(out.len());
        let (ragged, rest) = out.split_at_mut(lead);
        let (words, tail) = rest.as_chunks_mut::<8>();
        self.load_bytes(offset, ragged);
        for (number, word) in words.iter_mut().enumerate() {
            *word = self.word(offset + lead + number * 8).load(Ordering::Relaxed).to_ne_bytes();
        }
        self.load_bytes(offset + lead + words.len() * 8, tail);
    }

    fn store_bytes(&self, offset: usize, bytes: &[u8]) {
        for (number, byte) in bytes.iter().enumerate() {
            self.byte(offset + number).store(*byte, Ordering::Relaxed);
        }
    }

    fn load_bytes(&self, offset: usize, out: &mut [u8]) {
        for (number, byte) in out.iter_mut().enumerate() {
            *byte = self.byte(offset + number).load(Ordering::Relaxed);
        }
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < self.len());
        // SAFETY: in bounds (checked above), mapped as long as `self` lives, and accessed as an atomic, as
        // words are: see `word`.
        unsafe { AtomicU8::from_ptr(self.pointer(offset)) }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("bytes", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stored_at_any_offset_and_length_are_loaded_again_and_touch_nothing_else() {
        let region = Region::create(4096).unwrap();
        for offset in 64..80 {
            for length in 0..40 {
                region.store(0, &[0xee; 256]);
                let bytes: Vec<u8> = (1..=length).collect();
                region.store(offset, &bytes);
                let mut seen = [0; 256];
                region.load(0, &mut seen);
                let end = offset + bytes.len();
                assert_eq!(seen[offset..end], bytes);
                assert!(seen[..offset].iter().chain(&seen[end..]).all(|byte| *byte == 0xee));
                let mut again = vec![0; bytes.len()];
                region.load(offset, &mut again);
                assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    #[should_panic(expected = "past the end")]
    fn a_store_past_the_end_is_a_bug() {
        Region::create(4096).unwrap().store(4090, &[0; 7]);
    }
}
