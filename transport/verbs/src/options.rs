//! What may be chosen when a verbs provider is made.

use crate::lane::FRAME_BYTES_MAX;
use transport_buf::SlabLayout;
use transport_proto::wire::DATA_BYTES_MAX;

/// Choices of one [`crate::VerbsProvider`].
#[derive(Clone, Copy, Debug)]
pub struct VerbsOptions {
    /// Memory that each connection grants to its peer. A chunk holds data, header and control part, so its
    /// sizes lie a page above those of the data.
    pub receive: SlabLayout,
    /// Memory for what is built here (`reserve`) or copied out of memory that is not registered. Its largest
    /// chunk holds `DATA_BYTES_MAX`.
    pub reserve: SlabLayout,
}

impl Default for VerbsOptions {
    fn default() -> VerbsOptions {
        let receive = [(8 << 10, 512), (68 << 10, 64), (260 << 10, 16), (1028 << 10, 8)];
        VerbsOptions { receive: SlabLayout { classes: receive }, reserve: SlabLayout::default() }
    }
}

impl VerbsOptions {
    /// Panics if the memory could never hold the largest data part: such a post would be refused for good.
    pub(crate) fn check(&self) {
        assert!(self.receive.is_valid() && self.reserve.is_valid(), "a slab layout cannot work: {self:?}");
        assert!(
            self.receive.chunk_bytes_max() >= DATA_BYTES_MAX + FRAME_BYTES_MAX
                && self.reserve.chunk_bytes_max() >= DATA_BYTES_MAX,
            "no chunk holds the largest data part"
        );
    }
}
