//! Where the log stands on disk: one file that is only appended to, one record and one fdatasync for each
//! batch.
//!
//! ```text
//! head, one block: magic, format, cluster, genesis, node, …, check
//! record: bytes of the payload | check of the payload | number | check of these three, at a multiple of 16
//!         payload, each byte changed by MASK; then MASK, up to the next multiple of 16
//! …       at least one record head of zeros, and zeros up to the end of the file
//! ```
//! Room is written in advance, so that appending changes no metadata: an fdatasync then costs a write of the
//! disk, and no commit of the file system's own journal besides.
//!
//! **A power cut** leaves sectors of the last record unwritten, that is zero; the mask keeps data from
//! looking so. Such a record was never reported durable, and is dropped. Whatever else does not check was
//! whole once: the file is damaged, refused, and left as it is.
//!
//! When most of the file is void, everything is written into a second file, which then takes the name of the
//! first.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use transport_proto::identity::NodeId;

use crate::codec::{self, Reader, Torn};
use crate::fault::StartFault;
use crate::options::ClusterStamp;
use crate::shelf::{Batch, Contents, Shelf, ShelfFault};

/// Format of the file.
const FORMAT: u32 = 1;
/// Name of the log inside its folder.
pub(crate) const FILE: &str = "raft.log";
/// Name of a log that is being made; without the log itself it means nothing.
const FILE_IN_MAKING: &str = "raft.log.new";
const MAGIC: &[u8; 8] = b"NDRAFTLG";
const HEAD_BYTES: usize = 4096;
const RECORD_HEAD_BYTES: usize = 16;
/// What a disk writes wholly or not at all.
const SECTOR_BYTES: usize = 512;
/// What each byte of a payload is changed by.
const MASK: u8 = 0xA5;
/// Room is made in such steps.
const ROOM_BYTES: u64 = 1 << 20;
/// A file that is larger, and mostly void, is written anew.
const USED_BYTES_MAX: u64 = 8 << 20;

/// The log in a file.
pub(crate) struct Journal {
    file: File,
    folder: PathBuf,
    head: Vec<u8>,
    /// Where the next record begins.
    end: u64,
    /// Up to where the file is written, with zeros where no record is.
    room: u64,
    /// Of the next record.
    number: u32,
}

impl Journal {
    /// Opens the log in `folder`, or makes an empty one if there is none.
    pub(crate) fn open(
        folder: &Path,
        stamp: ClusterStamp,
        node: NodeId,
    ) -> Result<(Journal, Contents), StartFault> {
        let path = folder.join(FILE);
        let fault = |source: io::Error| StartFault::Folder { path: path.clone(), source };
        let head = head(stamp, node);
        if !path.try_exists().map_err(fault)? {
            let (file, room) = make(folder, &head, &[]).map_err(fault)?;
            let end = HEAD_BYTES as u64;
            let journal = Journal { file, folder: folder.into(), head, end, room, number: 0 };
            return Ok((journal, Contents::default()));
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(fault)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StartFault::InUse { path });
        }
        let bytes = fs::read(&path).map_err(fault)?;
        check_head(&path, &bytes, stamp, node)?;
        let found = Found::read(&bytes).map_err(|why| StartFault::Damaged { path: path.clone(), why })?;
        let (end, room) = (found.end as u64, bytes.len() as u64);
        if bytes[found.end..].iter().any(|byte| *byte != 0) {
            // What a power cut left of a record would otherwise show behind the next one.
            file.write_all_at(&vec![0; bytes.len() - found.end], end).map_err(fault)?;
            file.sync_all().map_err(fault)?;
        }
        let journal = Journal { file, folder: folder.into(), head, end, room, number: found.number };
        Ok((journal, found.contents))
    }

    fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let record = record(self.number, batch);
        let needed = self.end + (record.len() + RECORD_HEAD_BYTES) as u64;
        if needed > self.room {
            let room = needed.next_multiple_of(ROOM_BYTES);
            self.file.write_all_at(&vec![0; (room - self.room) as usize], self.room)?;
            self.file.sync_all()?;
            self.room = room;
        }
        self.file.write_all_at(&record, self.end)?;
        self.file.sync_data()?;
        self.end += record.len() as u64;
        self.number = self.number.wrapping_add(1);
        Ok(())
    }

    fn fault(&self, fault: &io::Error) -> ShelfFault {
        ShelfFault { path: self.folder.join(FILE), why: fault.to_string() }
    }
}

impl Shelf for Journal {
    fn keep(&mut self, batch: &Batch) -> Result<(), ShelfFault> {
        self.append(batch).map_err(|fault| self.fault(&fault))
    }

    fn is_mostly_void(&self, entries_bytes: usize) -> bool {
        self.end > USED_BYTES_MAX && self.end / 2 > entries_bytes as u64
    }

    fn renew(&mut self, everything: &Batch) -> Result<(), ShelfFault> {
        let record = record(0, everything);
        let (file, room) = make(&self.folder, &self.head, &record).map_err(|fault| self.fault(&fault))?;
        let end = (HEAD_BYTES + record.len()) as u64;
        (self.file, self.end, self.room, self.number) = (file, end, room, 1);
        Ok(())
    }
}

/// Makes a log with this head and these records. It gets its name only when it is whole and on the disk.
fn make(folder: &Path, head: &[u8], records: &[u8]) -> io::Result<(File, u64)> {
    let making = folder.join(FILE_IN_MAKING);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).open(&making)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let mut bytes = [head, records].concat();
    let room = (bytes.len() + RECORD_HEAD_BYTES).next_multiple_of(ROOM_BYTES as usize);
    bytes.resize(room, 0);
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    fs::rename(&making, folder.join(FILE))?;
    File::open(folder)?.sync_all()?;
    Ok((file, room as u64))
}

fn head(stamp: ClusterStamp, node: NodeId) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    codec::put_u64(&mut bytes, stamp.cluster);
    bytes.extend_from_slice(&stamp.genesis);
    bytes.extend_from_slice(&node.0.to_le_bytes());
    bytes.resize(HEAD_BYTES - 4, 0);
    let check = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&check.to_le_bytes());
    bytes
}

fn check_head(path: &Path, bytes: &[u8], stamp: ClusterStamp, node: NodeId) -> Result<(), StartFault> {
    let path = path.to_path_buf();
    if !bytes.starts_with(MAGIC) {
        return Err(StartFault::Foreign { path });
    }
    let damaged = |path| StartFault::Damaged { path, why: "its head does not check".into() };
    let mut reader = Reader::new(&bytes[MAGIC.len()..]);
    let Ok(format) = reader.u32() else { return Err(damaged(path)) };
    if format != FORMAT {
        return Err(StartFault::OtherVersion { path, found: format, known: FORMAT });
    }
    let head = bytes.get(..HEAD_BYTES).and_then(<[u8]>::split_last_chunk::<4>);
    if head.is_none_or(|(head, check)| crc32c::crc32c(head) != u32::from_le_bytes(*check)) {
        return Err(damaged(path));
    }
    let named = (reader.u64(), reader.bytes(32), reader.u16());
    let (Ok(cluster), Ok(genesis), Ok(owner)) = named else { return Err(damaged(path)) };
    if cluster != stamp.cluster || genesis != stamp.genesis {
        return Err(StartFault::OtherCluster { path });
    }
    let owner = NodeId(owner);
    if owner == node { Ok(()) } else { Err(StartFault::OtherNode { path, owner }) }
}

fn record(number: u32, batch: &Batch) -> Vec<u8> {
    let mut record = vec![0; RECORD_HEAD_BYTES];
    batch.encode(&mut record);
    let payload = &mut record[RECORD_HEAD_BYTES..];
    let (length, check) = (payload.len() as u32, crc32c::crc32c(payload));
    payload.iter_mut().for_each(|byte| *byte ^= MASK);
    record.resize(record.len().next_multiple_of(RECORD_HEAD_BYTES), MASK);
    record[..4].copy_from_slice(&length.to_le_bytes());
    record[4..8].copy_from_slice(&check.to_le_bytes());
    record[8..12].copy_from_slice(&number.to_le_bytes());
    let check = crc32c::crc32c(&record[..12]);
    record[12..RECORD_HEAD_BYTES].copy_from_slice(&check.to_le_bytes());
    record
}

/// The head of a record, if one begins with these bytes.
struct RecordHead {
    length: usize,
    check: u32,
    number: u32,
}

impl RecordHead {
    fn read(bytes: &[u8]) -> Result<RecordHead, Torn> {
        let mut reader = Reader::new(bytes);
        let (length, check, number) = (reader.u32()? as usize, reader.u32()?, reader.u32()?);
        let own_check = reader.u32()?;
        if crc32c::crc32c(&bytes[..12]) != own_check || length == 0 {
            return Err(Torn);
        }
        Ok(RecordHead { length, check, number })
    }

    /// Bytes of the record, with all that belongs to it.
    fn record_bytes(&self) -> usize {
        (RECORD_HEAD_BYTES + self.length).next_multiple_of(RECORD_HEAD_BYTES)
    }
}

/// What was found in a file.
struct Found {
    contents: Contents,
    /// Where the next record belongs.
    end: usize,
    /// And its number.
    number: u32,
}

impl Found {
    fn read(bytes: &[u8]) -> Result<Found, String> {
        let mut found = Found { contents: Contents::default(), end: HEAD_BYTES, number: 0 };
        loop {
            let at = found.end;
            let head = bytes.get(at..at + RECORD_HEAD_BYTES).ok_or("it is cut short")?;
            if head.iter().all(|byte| *byte == 0) {
                break;
            }
            let head = RecordHead::read(head).map_err(|Torn| format!("the record at {at} does not check"))?;
            let record = bytes.get(at..at + head.record_bytes()).ok_or("it is cut short")?;
            let payload: Vec<u8> =
                record[RECORD_HEAD_BYTES..][..head.length].iter().map(|byte| byte ^ MASK).collect();
            if crc32c::crc32c(&payload) != head.check {
                if has_unwritten_sector(at, record) {
                    break;
                }
                return Err(format!("the record at {at} does not check"));
            }
            if head.number != found.number {
                return Err(format!("record {} is missing", found.number));
            }
            let follows = found.contents.follow(&payload);
            follows.map_err(|Torn| format!("the record at {at} does not follow the one before"))?;
            found.end += record.len();
            found.number = found.number.wrapping_add(1);
        }
        found.nothing_comes_after(bytes)?;
        Ok(found)
    }

    /// Only the last record can be what a power cut left: the next is begun when it is on the disk.
    fn nothing_comes_after(&self, bytes: &[u8]) -> Result<(), String> {
        let later = bytes[self.end..].chunks_exact(RECORD_HEAD_BYTES).skip(1);
        let is_record = |head: &[u8]| head.iter().any(|byte| *byte != 0) && RecordHead::read(head).is_ok();
        match later.into_iter().position(is_record) {
            Some(_) => Err(format!("the record at {} is gone, and others come after it", self.end)),
            None => Ok(()),
        }
    }
}

/// Whether the disk has not written a part of this record, which begins at `at`.
fn has_unwritten_sector(at: usize, record: &[u8]) -> bool {
    let first = (SECTOR_BYTES - at % SECTOR_BYTES).min(record.len());
    let (head, rest) = record.split_at(first);
    let unwritten = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| *byte == 0);
    unwritten(head) || rest.chunks(SECTOR_BYTES).any(unwritten)
}
