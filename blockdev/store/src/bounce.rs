//! A bounded pool of aligned buffers for transfers whose own memory the device cannot reach directly.

use memmap2::{MmapOptions, MmapRaw};

/// Bytes of one bounce buffer; a longer transfer goes through it piece by piece.
pub(crate) const BOUNCE_BYTES: usize = 256 << 10;
/// Buffers in a pool. One more bounced transfer is refused as "full".
pub(crate) const BOUNCE_BUFFERS_MAX: usize = 8;

/// One buffer of the pool, owned by one request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BounceBuffer(u8);

/// `BOUNCE_BUFFERS_MAX` page-aligned buffers and one of zeroes. Costs address space until a buffer is first
/// used.
#[derive(Debug)]
pub(crate) struct BouncePool {
    pages: MmapRaw,
    free: Vec<BounceBuffer>,
}

impl BouncePool {
    pub(crate) fn new() -> std::io::Result<Self> {
        let pages = MmapOptions::new().len((BOUNCE_BUFFERS_MAX + 1) * BOUNCE_BYTES).map_anon()?;
        let free = (0..BOUNCE_BUFFERS_MAX as u8).map(BounceBuffer).collect();
        Ok(Self { pages: MmapRaw::from(pages), free })
    }

    pub(crate) fn take(&mut self) -> Option<BounceBuffer> {
        self.free.pop()
    }

    pub(crate) fn put_back(&mut self, buffer: BounceBuffer) {
        self.free.push(buffer);
        assert!(self.free.len() <= BOUNCE_BUFFERS_MAX, "a bounce buffer came back twice");
    }

    /// Start of a buffer of `BOUNCE_BYTES`.
    pub(crate) fn pointer(&self, buffer: &BounceBuffer) -> *mut u8 {
        self.at(usize::from(buffer.0))
    }

    /// `BOUNCE_BYTES` of zeroes. Never write there.
    pub(crate) fn zeroes(&self) -> *const u8 {
        self.at(BOUNCE_BUFFERS_MAX)
    }

    fn at(&self, index: usize) -> *mut u8 {
        assert!(index <= BOUNCE_BUFFERS_MAX);
        // SAFETY: the mapping has BOUNCE_BUFFERS_MAX + 1 buffers, and the index was just checked.
        unsafe { self.pages.as_mut_ptr().add(index * BOUNCE_BYTES) }
    }
}
