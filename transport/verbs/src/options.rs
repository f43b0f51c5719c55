//! What may be chosen when a verbs provider is made.

use crate::lane::FRAME_BYTES_MAX;
use transport_buf::SlabLayout;
use transport_buf::region::PAGE_BYTES;
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
        VerbsOptions::for_data_of(SlabLayout::default())
    }
}

impl VerbsOptions {
    /// Memory for data that the chunks of `layout` hold: what is granted has a page more in each.
    pub fn for_data_of(layout: SlabLayout) -> VerbsOptions {
        let larger = |(bytes, count)| (bytes + PAGE_BYTES as u32 * u32::from(count > 0), count);
        VerbsOptions { receive: SlabLayout { classes: layout.classes.map(larger) }, reserve: layout }
    }

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
