//! A disk in memory behind the service trait, for tests and for the example: completions can be held back,
//! released in any order, failed, and memory can be made scarce.

mod reactor;

pub use reactor::{MemoryReactor, StopSwitch};

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::{
    BlockAnswer, BlockCompletion, BlockErrno, BlockIo, BlockOperation, BlockService, Busy, ClientIdentity,
    ExportEntry, Extent, OpenRefusal, OpenedExport, SubmitRefusal, SubmitRefusalReason, VolumeHandle,
};

/// What the memory service tells about one of its disks.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    /// The export's name.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Block in bytes.
    pub block_bytes: u32,
    /// Longest transfer in bytes.
    pub max_transfer_bytes: u32,
    /// No writes.
    pub read_only: bool,
    /// Zeroing is fast.
    pub fast_zero: bool,
}

impl MemoryDisk {
    /// A writable disk of 512-byte blocks and transfers of up to 1 MiB.
    pub fn new(name: &str, size_bytes: u64) -> Self {
        Self {
            name: name.to_owned(),
            size_bytes,
            block_bytes: 512,
            max_transfer_bytes: 1 << 20,
            read_only: false,
            fast_zero: true,
        }
    }
}

/// Unit in which the disk allocates, in bytes; also what block status tells apart.
const PAGE_BYTES: usize = 64 << 10;

/// Bytes of a disk: pages that were written, `None` for holes.
#[derive(Debug)]
struct Volume {
    disk: MemoryDisk,
    pages: Vec<Option<Box<[u8]>>>,
    openings: usize,
}

impl Volume {
    fn read(&self, offset: u64, into: &mut [u8]) {
        let mut position = offset as usize;
        let mut rest = into;
        while !rest.is_empty() {
            let (page, start) = (position / PAGE_BYTES, position % PAGE_BYTES);
            let count = rest.len().min(PAGE_BYTES - start);
            let (now, later) = rest.split_at_mut(count);
            match &self.pages[page] {
                Some(bytes) => now.copy_from_slice(&bytes[start..start + count]),
                None => now.fill(0),
            }
            position += count;
            rest = later;
        }
    }

    fn write(&mut self, offset: u64, from: &[u8]) {
        let mut position = offset as usize;
        let mut rest = from;
        while !rest.is_empty() {
            let (page, start) = (position / PAGE_BYTES, position % PAGE_BYTES);
            let count = rest.len().min(PAGE_BYTES - start);
            let bytes = self.pages[page].get_or_insert_with(|| vec![0; PAGE_BYTES].into_boxed_slice());
            bytes[start..start + count].copy_from_slice(&rest[..count]);
            position += count;
            rest = &rest[count..];
        }
    }

    /// Zeroes a range; whole pages become holes unless they are to stay allocated.
    fn zero(&mut self, offset: u64, length: u32, allocated: bool) {
        let mut position = offset as usize;
        let end = position + length as usize;
        while position < end {
            let (page, start) = (position / PAGE_BYTES, position % PAGE_BYTES);
            let count = (end - position).min(PAGE_BYTES - start);
            if allocated {
                self.write(position as u64, &vec![0; count]);
            } else if count == PAGE_BYTES {
                self.pages[page] = None;
            } else if let Some(bytes) = &mut self.pages[page] {
                bytes[start..start + count].fill(0);
            }
            position += count;
        }
    }

    fn extents(&self, offset: u64, length: u32) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut position = offset as usize;
        let end = position + length as usize;
        while position < end {
            let count = (end - position).min(PAGE_BYTES - position % PAGE_BYTES);
            let hole = self.pages[position / PAGE_BYTES].is_none();
            match extents.last_mut() {
                Some(last) if last.hole == hole => last.length += count as u32,
                _ => extents.push(Extent { length: count as u32, hole, zero: hole }),
            }
            position += count;
        }
        extents
    }
}

/// The bytes of a read, counted while they are lent. The memory is used again for later reads.
#[derive(Debug)]
pub struct ReadLease {
    bytes: Vec<u8>,
    pool: Rc<RefCell<Pool>>,
}

impl AsRef<[u8]> for ReadLease {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ReadLease {
    fn drop(&mut self) {
        self.pool.borrow_mut().give_back(std::mem::take(&mut self.bytes));
    }
}

/// Memory for the payload of a write.
#[derive(Debug)]
pub struct WriteBuffer {
    bytes: Vec<u8>,
    pool: Rc<RefCell<Pool>>,
}

impl AsMut<[u8]> for WriteBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        self.pool.borrow_mut().give_back(std::mem::take(&mut self.bytes));
    }
}

/// Buffers that are not in use, and a limit on those that are.
#[derive(Debug)]
struct Pool {
    vacant: Vec<Vec<u8>>,
    lent: usize,
    lent_max: usize,
}

impl Pool {
    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        if self.lent >= self.lent_max {
            return None;
        }
        self.lent += 1;
        let mut bytes = self.vacant.pop().unwrap_or_default();
        bytes.resize(length, 0);
        Some(bytes)
    }

    fn give_back(&mut self, bytes: Vec<u8>) {
        self.lent -= 1;
        self.vacant.push(bytes);
    }
}

/// An operation that was submitted and has not taken effect.
#[derive(Debug)]
pub struct PendingIo {
    /// The operation.
    pub io: BlockIo<WriteBuffer>,
    /// Memory for the answer of a read, taken when it was submitted, as a transport would.
    lease: Option<ReadLease>,
}

/// Disks in memory. By default each operation takes effect and completes when it is next asked for
/// completions; [`MemoryService::hold`] keeps operations until the test releases them.
#[derive(Debug)]
pub struct MemoryService {
    volumes: Vec<Volume>,
    pool: Rc<RefCell<Pool>>,
    pending: VecDeque<PendingIo>,
    holding: bool,
    queue_max: usize,
    /// Flushes that were completed.
    pub flushes: u64,
    /// Operations with FUA that were completed.
    pub fua_operations: u64,
    /// Whom nothing is opened for.
    pub barred: Option<ClientIdentity>,
    /// Who opened something last, or tried to.
    pub last_client: Option<ClientIdentity>,
}

impl MemoryService {
    /// A service of these disks.
    pub fn new(disks: Vec<MemoryDisk>) -> Self {
        let volumes = disks
            .into_iter()
            .map(|disk| {
                let pages = (disk.size_bytes as usize).div_ceil(PAGE_BYTES);
                Volume { disk, pages: (0..pages).map(|_| None).collect(), openings: 0 }
            })
            .collect();
        let pool = Pool { vacant: Vec::new(), lent: 0, lent_max: usize::MAX };
        Self {
            volumes,
            pool: Rc::new(RefCell::new(pool)),
            pending: VecDeque::new(),
            holding: false,
            queue_max: usize::MAX,
            flushes: 0,
            fua_operations: 0,
            barred: None,
            last_client: None,
        }
    }

    /// At most so many buffers and leases may be out; beyond that the service is busy.
    pub fn limit_buffers(&mut self, buffers_max: usize) {
        self.pool.borrow_mut().lent_max = buffers_max;
    }

    /// At most so many operations may be pending; beyond that the service is busy.
    pub fn limit_queue(&mut self, queue_max: usize) {
        self.queue_max = queue_max;
    }

    /// Buffers and leases that are out.
    pub fn lent(&self) -> usize {
        self.pool.borrow().lent
    }

    /// From now on operations wait for [`MemoryService::release`].
    pub fn hold(&mut self) {
        self.holding = true;
    }

    /// Operations take effect again as they come, those that were held first.
    pub fn flow(&mut self) {
        self.holding = false;
    }

    /// Operations that wait.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = &BlockIo<WriteBuffer>> {
        self.pending.iter().map(|pending| &pending.io)
    }

    /// Openings of a disk that are not closed.
    pub fn openings(&self, volume: VolumeHandle) -> usize {
        self.volumes[volume.0 as usize].openings
    }

    /// Bytes of a disk, behind the back of all clients.
    pub fn peek(&self, volume: VolumeHandle, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.volumes[volume.0 as usize].read(offset, &mut bytes);
        bytes
    }

    /// Lets the waiting operation at `index` take effect.
    pub fn release(&mut self, index: usize) -> Option<BlockCompletion<ReadLease>> {
        let pending = self.pending.remove(index)?;
        Some(self.execute(pending))
    }

    /// Fails the waiting operation at `index` without effect.
    pub fn fail(&mut self, index: usize, errno: BlockErrno) -> Option<BlockCompletion<ReadLease>> {
        let pending = self.pending.remove(index)?;
        Some(BlockCompletion { tag: pending.io.tag, result: Err(errno) })
    }

    /// The next completion, unless operations are held.
    pub fn next_completion(&mut self) -> Option<BlockCompletion<ReadLease>> {
        if self.holding { None } else { self.release(0) }
    }

    fn execute(&mut self, pending: PendingIo) -> BlockCompletion<ReadLease> {
        let PendingIo { io, lease } = pending;
        let volume = &mut self.volumes[io.volume.0 as usize];
        let mut durable = false;
        let answer = match io.operation {
            BlockOperation::Read { offset, .. } => match lease {
                Some(mut lease) => {
                    volume.read(offset, &mut lease.bytes);
                    BlockAnswer::Data(lease)
                }
                None => BlockAnswer::Done,
            },
            BlockOperation::Write { offset, buffer, fua } => {
                volume.write(offset, &buffer.bytes);
                durable = fua;
                BlockAnswer::Done
            }
            BlockOperation::Flush => {
                self.flushes += 1;
                BlockAnswer::Done
            }
            BlockOperation::Discard { offset, length, fua } => {
                volume.zero(offset, length, false);
                durable = fua;
                BlockAnswer::Done
            }
            BlockOperation::WriteZeroes { offset, length, fua, no_unmap, .. } => {
                volume.zero(offset, length, no_unmap);
                durable = fua;
                BlockAnswer::Done
            }
            BlockOperation::BlockStatus { offset, length, .. } => {
                BlockAnswer::Extents(volume.extents(offset, length))
            }
        };
        self.fua_operations += u64::from(durable);
        BlockCompletion { tag: io.tag, result: Ok(answer) }
    }
}

impl BlockService for MemoryService {
    type WriteBuffer = WriteBuffer;
    type ReadData = ReadLease;

    fn open(&mut self, export: &str, client: &ClientIdentity) -> Result<OpenedExport, OpenRefusal> {
        self.last_client = Some(client.clone());
        if self.barred.as_ref() == Some(client) {
            return Err(OpenRefusal::NotPermitted);
        }
        let index = match export {
            "" => 0,
            name => {
                self.volumes.iter().position(|volume| volume.disk.name == name).ok_or(OpenRefusal::Unknown)?
            }
        };
        let volume = self.volumes.get_mut(index).ok_or(OpenRefusal::Unknown)?;
        volume.openings += 1;
        let disk = &volume.disk;
        Ok(OpenedExport {
            volume: VolumeHandle(index as u32),
            size_bytes: disk.size_bytes,
            block_bytes: disk.block_bytes,
            max_transfer_bytes: disk.max_transfer_bytes,
            read_only: disk.read_only,
            fast_zero: disk.fast_zero,
            description: "a disk in memory".to_owned(),
        })
    }

    fn exports(&self, _: &ClientIdentity) -> Vec<ExportEntry> {
        let entry = |volume: &Volume| ExportEntry {
            name: volume.disk.name.clone(),
            description: "a disk in memory".to_owned(),
        };
        self.volumes.iter().map(entry).collect()
    }

    fn write_buffer(&mut self, _: VolumeHandle, _: u64, length: u32) -> Result<WriteBuffer, Busy> {
        let bytes = self.pool.borrow_mut().take(length as usize).ok_or(Busy)?;
        Ok(WriteBuffer { bytes, pool: Rc::clone(&self.pool) })
    }

    fn submit(&mut self, io: BlockIo<WriteBuffer>) -> Result<(), SubmitRefusal<WriteBuffer>> {
        let busy = |io| Err(SubmitRefusal { io, reason: SubmitRefusalReason::Busy });
        if self.pending.len() >= self.queue_max {
            return busy(io);
        }
        let mut lease = None;
        if let BlockOperation::Read { length, .. } = io.operation {
            let Some(bytes) = self.pool.borrow_mut().take(length as usize) else { return busy(io) };
            lease = Some(ReadLease { bytes, pool: Rc::clone(&self.pool) });
        }
        self.pending.push_back(PendingIo { io, lease });
        Ok(())
    }

    fn close(&mut self, volume: VolumeHandle) {
        self.volumes[volume.0 as usize].openings -= 1;
    }
}
