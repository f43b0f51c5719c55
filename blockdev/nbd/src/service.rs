//! What the NBD surface asks of the block engine below it.
//!
//! The engine implements [`BlockService`]; the server calls it from the one thread that runs both, so nothing
//! here is `Send`. Answers come back as [`BlockCompletion`] through `NbdServer::complete`, in any order.

use crate::{BlockErrno, ClientIdentity};

/// A virtual disk of the service. The same disk has the same handle for as long as anyone has it open,
/// however many exports or connections lead to it: the quarantine of dead connections relies on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeHandle(pub u32);

/// The block engine as seen by a surface.
pub trait BlockService {
    /// Memory of the transport or the store that a write's payload is read into, straight from the socket.
    type WriteBuffer: AsMut<[u8]>;
    /// A lease on the bytes of a read, dropped once they are in the socket. `as_ref` always gives the same
    /// bytes.
    type ReadData: AsRef<[u8]>;

    /// Opens the export of that name, or the default export if the name is empty, for this client. Each
    /// success is paired with one [`BlockService::close`].
    fn open(&mut self, export: &str, client: &ClientIdentity) -> Result<OpenedExport, OpenRefusal>;

    /// The exports that this client may list.
    fn exports(&self, client: &ClientIdentity) -> Vec<ExportEntry>;

    /// Memory for `length` payload bytes bound for byte `offset` of the volume; `length` is at most the
    /// volume's `max_transfer_bytes`. The buffer's slice has exactly that length.
    fn write_buffer(
        &mut self,
        volume: VolumeHandle,
        offset: u64,
        length: u32,
    ) -> Result<Self::WriteBuffer, Busy>;

    /// Takes the operation over. It is completed exactly once, by a [`BlockCompletion`] with the same tag,
    /// never from within this call.
    fn submit(&mut self, io: BlockIo<Self::WriteBuffer>) -> Result<(), SubmitRefusal<Self::WriteBuffer>>;

    /// Gives up one opening of the volume. The server calls it after the last completion of that opening.
    fn close(&mut self, volume: VolumeHandle);
}

/// One export in the list that clients may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportEntry {
    /// The name by which a client opens it.
    pub name: String,
    /// A sentence for people; may be empty.
    pub description: String,
}

/// An export that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedExport {
    /// The disk behind the export.
    pub volume: VolumeHandle,
    /// Size of the export in bytes.
    pub size_bytes: u64,
    /// The smallest unit of I/O in bytes, a power of two up to 64 KiB.
    pub block_bytes: u32,
    /// Longest read or write that [`BlockService::submit`] takes, in bytes: a multiple of `block_bytes` and
    /// at least [`crate::limits::TRANSFER_BYTES_MIN`]. Larger client requests are cut and joined again.
    pub max_transfer_bytes: u32,
    /// No request that changes the disk passes.
    pub read_only: bool,
    /// The service honours `fast_only`: it fails a zeroing that would have to write, at once, with ENOTSUP.
    pub fast_zero: bool,
    /// A sentence for people; may be empty.
    pub description: String,
}

/// Why an export was not opened. Nothing was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenRefusal {
    /// There is no export of that name.
    Unknown,
    /// The export exists but this server may not open it.
    NotPermitted,
    /// The export exists but no path leads to its disk at the moment.
    Unreachable,
    /// The server is about to stop.
    ShuttingDown,
}

/// No buffer or queue slot at the moment. The server asks again at its next poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// One operation on a volume.
#[derive(Debug, PartialEq, Eq)]
pub struct BlockIo<W> {
    /// The disk.
    pub volume: VolumeHandle,
    /// Chosen by the server; comes back in the completion.
    pub tag: u64,
    /// What to do.
    pub operation: BlockOperation<W>,
}

/// What to do with a volume. Offsets and lengths are bytes, aligned to the volume's block and inside its
/// size.
#[derive(Debug, PartialEq, Eq)]
pub enum BlockOperation<W> {
    /// Answered with [`BlockAnswer::Data`] of exactly `length` bytes; at most `max_transfer_bytes`.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes to read.
        length: u32,
    },
    /// Answered with [`BlockAnswer::Done`].
    Write {
        /// First byte.
        offset: u64,
        /// The payload, whole.
        buffer: W,
        /// Durable before the answer.
        fua: bool,
    },
    /// Every write that was answered before this was submitted, by whatever connection, is durable before the
    /// answer. Answered with [`BlockAnswer::Done`].
    Flush,
    /// The bytes are no longer needed; they read as anything. Answered with [`BlockAnswer::Done`].
    Discard {
        /// First byte.
        offset: u64,
        /// Up to `u32::MAX` bytes: not cut, for it carries no payload.
        length: u32,
        /// Durable before the answer.
        fua: bool,
    },
    /// The bytes read as zeroes afterwards. Answered with [`BlockAnswer::Done`].
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Up to `u32::MAX` bytes: not cut, for it carries no payload.
        length: u32,
        /// Durable before the answer.
        fua: bool,
        /// Keep the space allocated.
        no_unmap: bool,
        /// Fail with ENOTSUP rather than write zeroes; only where `fast_zero` was promised.
        fast_only: bool,
    },
    /// What is allocated? Answered with [`BlockAnswer::Extents`] that begin at `offset`.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Up to `u32::MAX` bytes. The answer may stop early, but not before one extent.
        length: u32,
        /// One extent is enough.
        one: bool,
    },
}

impl<W> BlockOperation<W> {
    /// May the operation change what a later read returns?
    pub fn changes_disk(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Discard { .. } | Self::WriteZeroes { .. })
    }
}

/// The service did not take an operation. Nothing happened; the operation is given back.
#[derive(Debug, PartialEq, Eq)]
pub struct SubmitRefusal<W> {
    /// The operation, untouched.
    pub io: BlockIo<W>,
    /// Why.
    pub reason: SubmitRefusalReason,
}

/// Why the service did not take an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitRefusalReason {
    /// A queue is full; the server tries again at its next poll.
    Busy,
    /// It can never be taken; the server answers the client with this.
    Failed(BlockErrno),
}

/// The end of one operation.
#[derive(Debug, PartialEq, Eq)]
pub struct BlockCompletion<R> {
    /// The tag of the operation.
    pub tag: u64,
    /// What came of it.
    pub result: Result<BlockAnswer<R>, BlockErrno>,
}

/// A successful answer.
#[derive(Debug, PartialEq, Eq)]
pub enum BlockAnswer<R> {
    /// Done; nothing to tell.
    Done,
    /// The bytes of a read.
    Data(R),
    /// The extents of a block status request, in order, without gaps. An empty list counts as an I/O error.
    Extents(Vec<Extent>),
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes, a multiple of the block, not zero.
    pub length: u32,
    /// No space is allocated for it.
    pub hole: bool,
    /// It reads as zeroes.
    pub zero: bool,
}
