//! A lease: received data that the client keeps after its call-back has returned (SPEC T4).

use core::fmt;
use std::sync::Arc;
use transport_buf::ledger::LeaseLedger;
use transport_buf::{Chunk, SharedChunk};
use transport_provider::InlineBytes;

/// Where leased bytes lie.
#[derive(Debug)]
pub(crate) enum LeasedBytes {
    Empty,
    Inline(InlineBytes),
    /// In the chunk in which the provider put them.
    Chunk(Chunk),
    /// Put together from the fragments of a striped message.
    Assembled(Vec<u8>),
}

impl AsRef<[u8]> for LeasedBytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            LeasedBytes::Empty => &[],
            LeasedBytes::Inline(bytes) => bytes.as_ref(),
            LeasedBytes::Chunk(chunk) => chunk.as_ref(),
            LeasedBytes::Assembled(bytes) => bytes,
        }
    }
}

/// Received data on loan. Reading it costs nothing; dropping it, on any thread, gives the memory and the
/// credit back.
pub struct Lease {
    bytes: LeasedBytes,
    entry: Option<(Arc<LeaseLedger>, u16)>,
}

impl Lease {
    pub(crate) fn new(bytes: LeasedBytes, entry: Option<(Arc<LeaseLedger>, u16)>) -> Lease {
        Lease { bytes, entry }
    }

    /// Bytes of data.
    pub fn len(&self) -> usize {
        self.as_ref().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The memory goes back first: the peer may use it as soon as it has the credit.
        self.bytes = LeasedBytes::Empty;
        if let Some((ledger, entry)) = self.entry.take() {
            ledger.strike(entry);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({} bytes)", self.len())
    }
}

/// The credit of a lease whose memory went its own way; dropping it gives the credit back.
#[derive(Debug)]
pub struct LeaseTicket(#[expect(dead_code, reason = "held for its drop")] Lease);

impl Lease {
    /// The chunk that holds the data, to be shared with others (a disk), and the credit apart from it.
    /// Gives the lease back if its data lies in no chunk.
    #[expect(clippy::result_large_err, reason = "the caller goes on with the lease at once")]
    pub fn into_shared(mut self) -> Result<(SharedChunk, LeaseTicket), Lease> {
        match core::mem::replace(&mut self.bytes, LeasedBytes::Empty) {
            LeasedBytes::Chunk(chunk) => Ok((chunk.share(), LeaseTicket(self))),
            other => {
                self.bytes = other;
                Err(self)
            }
        }
    }
}
