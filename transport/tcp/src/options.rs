//! What may be chosen when a TCP provider is made.

use crate::writer::QUEUE_BYTES_MAX;
use transport_buf::SlabLayout;
use transport_proto::wire::DATA_BYTES_MAX;

/// Choices of one [`crate::TcpProvider`].
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// Memory for what comes in, shared by all connections. Its largest chunk holds `DATA_BYTES_MAX`.
    pub receive: SlabLayout,
    /// Memory for what is built here (`reserve`) or copied out of another provider's memory before it is
    /// sent. Apart from `receive`, so that a busy sender can never stop what comes in.
    pub reserve: SlabLayout,
    /// Whether the checksum of frames sent from here covers the data part too. What comes in is checked as
    /// its sender flagged it.
    pub data_checksum: bool,
    /// Data bytes that wait in the queue of one connection at the most (one frame always fits).
    pub queue_bytes_max: usize,
    /// Size of the kernel's send buffer of a connection, bytes; `None` leaves it to the kernel.
    pub kernel_send_bytes: Option<usize>,
}

impl Default for TcpOptions {
    fn default() -> TcpOptions {
        TcpOptions {
            receive: SlabLayout::default(),
            reserve: SlabLayout::default(),
            data_checksum: false,
            queue_bytes_max: QUEUE_BYTES_MAX,
            kernel_send_bytes: None,
        }
    }
}

impl TcpOptions {
    /// Panics if the memory could never hold the largest data part: such a connection would stall for good.
    pub(crate) fn check(&self) {
        for layout in [&self.receive, &self.reserve] {
            assert!(layout.is_valid(), "a slab layout of the tcp provider cannot work: {layout:?}");
            assert!(layout.chunk_bytes_max() >= DATA_BYTES_MAX, "no chunk holds the largest data part");
        }
    }
}
