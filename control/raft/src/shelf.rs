//! Where the log stands on disk: one redb file, one transaction and one fsync for each batch.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use transport_proto::identity::NodeId;

use crate::codec::{self, Reader, Torn};
use crate::fault::StartFault;
use crate::flavour::{Entry, LogId, Vote};
use crate::options::ClusterStamp;

/// Format of the file and of the records in it.
pub(crate) const FORMAT: u32 = 1;
/// Name of the log inside its folder.
pub(crate) const FILE: &str = "raft.redb";
/// Name of a log that is being made; without the log itself it means nothing.
const FILE_IN_MAKING: &str = "raft.redb.new";
/// First bytes of every redb file.
const REDB_MAGIC: &[u8] = b"redb\x1A\x0A\xA9\x0D\x0A";
/// The log is in memory anyway, so redb keeps little beside it.
const CACHE_BYTES: usize = 1 << 20;

const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const IDENTITY: &str = "identity";
const VOTE: &str = "vote";
const PURGED: &str = "purged";
const COMMITTED: &str = "committed";

/// All that the disk must know next, in one atomic step.
#[derive(Default)]
pub(crate) struct Batch {
    /// Entries at this index and above are void, except those that follow.
    pub(crate) cut: Option<u64>,
    /// Entries by index, rising, encoded.
    pub(crate) entries: Vec<(u64, Vec<u8>)>,
    /// The vote, if it is new.
    pub(crate) vote: Option<Vote>,
    /// Up to where entries are gone, if that is new.
    pub(crate) purged: Option<LogId>,
    /// Up to where entries are known to be committed, if that is new.
    pub(crate) committed: Option<LogId>,
}

/// What a log holds when it is opened.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) entries: VecDeque<Entry>,
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogId>,
    pub(crate) committed: Option<LogId>,
}

/// A place that keeps batches. What it has taken survives a loss of power.
pub(crate) trait Shelf: Send + 'static {
    /// Keeps the whole batch, or fails. After a failure nothing is known of the disk, and nobody asks again.
    fn keep(&mut self, batch: &Batch) -> Result<(), ShelfFault>;
}

/// The disk did not keep a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: the log could not be written: {why}")]
pub(crate) struct ShelfFault {
    pub(crate) path: PathBuf,
    pub(crate) why: String,
}

/// The log in a redb file.
pub(crate) struct RedbShelf {
    database: Database,
    path: PathBuf,
}

impl RedbShelf {
    /// Opens the log in `folder`, or makes an empty one if there is none.
    pub(crate) fn open(
        folder: &Path,
        stamp: ClusterStamp,
        node: NodeId,
    ) -> Result<(RedbShelf, Contents), StartFault> {
        let path = folder.join(FILE);
        if !path.try_exists().map_err(|source| StartFault::Folder { path: path.clone(), source })? {
            make(folder, stamp, node)?;
        }
        check_magic(&path)?;
        let database = builder().open(&path).map_err(|fault| open_fault(&path, fault))?;
        let shelf = RedbShelf { database, path };
        let contents = shelf.read(stamp, node)?;
        Ok((shelf, contents))
    }

    fn read(&self, stamp: ClusterStamp, node: NodeId) -> Result<Contents, StartFault> {
        let damaged = |why: String| StartFault::Damaged { path: self.path.clone(), why };
        let from_redb = |fault: redb::Error| damaged(fault.to_string());
        let read = self.database.begin_read().map_err(|fault| from_redb(fault.into()))?;
        let meta = read.open_table(META).map_err(|fault| from_redb(fault.into()))?;
        let record = |name: &'static str| -> Result<Option<Vec<u8>>, StartFault> {
            let Some(found) = meta.get(name).map_err(|fault| from_redb(fault.into()))? else {
                return Ok(None);
            };
            let bytes =
                codec::unsealed(found.value()).map_err(|Torn| damaged(format!("check of its {name}")))?;
            Ok(Some(bytes.to_vec()))
        };
        let identity = record(IDENTITY)?.ok_or_else(|| damaged("it has no identity".into()))?;
        check_identity(&self.path, &identity, stamp, node)?;
        let log_id = |name: &'static str| -> Result<Option<LogId>, StartFault> {
            record(name)?
                .map(|bytes| whole(&bytes, codec::log_id))
                .transpose()
                .map_err(|Torn| damaged(name.into()))
        };
        let vote = record(VOTE)?
            .map(|bytes| whole(&bytes, codec::vote))
            .transpose()
            .map_err(|Torn| damaged(VOTE.into()))?;
        let (purged, committed) = (log_id(PURGED)?, log_id(COMMITTED)?);
        let table = read.open_table(ENTRIES).map_err(|fault| from_redb(fault.into()))?;
        let mut entries = VecDeque::new();
        let first = purged.map_or(0, |purged| purged.index + 1);
        let found = table.iter().map_err(|fault| from_redb(fault.into()))?;
        for (next, found) in (first..).zip(found) {
            let (key, value) = found.map_err(|fault| from_redb(fault.into()))?;
            let entry = codec::unsealed(value.value())
                .and_then(|bytes| whole(bytes, codec::entry))
                .map_err(|Torn| damaged(format!("check of entry {}", key.value())))?;
            if key.value() != next || entry.log_id.index != next {
                return Err(damaged(format!("entry {next} is missing")));
            }
            entries.push_back(entry);
        }
        Ok(Contents { entries, vote, purged, committed })
    }

    fn write(&self, batch: &Batch) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut entries = write.open_table(ENTRIES)?;
            if let Some(cut) = batch.cut {
                entries.retain_in(cut.., |_, _| false)?;
            }
            if let Some(purged) = &batch.purged {
                entries.retain_in(..=purged.index, |_, _| false)?;
            }
            for (index, entry) in &batch.entries {
                entries.insert(index, codec::sealed(entry).as_slice())?;
            }
            let mut meta = write.open_table(META)?;
            let mut put = |name: &str, fill: &dyn Fn(&mut Vec<u8>)| -> Result<(), redb::Error> {
                let mut bytes = Vec::new();
                fill(&mut bytes);
                meta.insert(name, codec::sealed(&bytes).as_slice())?;
                Ok(())
            };
            if let Some(vote) = &batch.vote {
                put(VOTE, &|bytes| codec::put_vote(bytes, vote))?;
            }
            if let Some(purged) = &batch.purged {
                put(PURGED, &|bytes| codec::put_log_id(bytes, purged))?;
            }
            if let Some(committed) = &batch.committed {
                put(COMMITTED, &|bytes| codec::put_log_id(bytes, committed))?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

impl Shelf for RedbShelf {
    fn keep(&mut self, batch: &Batch) -> Result<(), ShelfFault> {
        self.write(batch).map_err(|fault| ShelfFault { path: self.path.clone(), why: fault.to_string() })
    }
}

/// A file that an earlier process left in the middle of its work is mended by redb; one that was altered
/// since then is found out, because every page is checked on opening.
fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// Makes an empty log that carries its identity. It gets its name only when it is whole.
fn make(folder: &Path, stamp: ClusterStamp, node: NodeId) -> Result<(), StartFault> {
    let making = folder.join(FILE_IN_MAKING);
    let folder_fault = |source: io::Error| StartFault::Folder { path: making.clone(), source };
    match fs::remove_file(&making) {
        Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(folder_fault(fault)),
        _ => {}
    }
    let fill = || -> Result<(), redb::Error> {
        let database = builder().create(&making)?;
        let write = database.begin_write()?;
        write.open_table(ENTRIES)?;
        write.open_table(META)?.insert(IDENTITY, codec::sealed(&identity(stamp, node)).as_slice())?;
        write.commit()?;
        database.close()?;
        Ok(())
    };
    fill().map_err(|fault| match fault {
        redb::Error::Io(source) => folder_fault(source),
        other => folder_fault(io::Error::other(other)),
    })?;
    fs::rename(&making, folder.join(FILE)).map_err(folder_fault)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(folder_fault)
}

pub(crate) fn identity(stamp: ClusterStamp, node: NodeId) -> Vec<u8> {
    let mut bytes = FORMAT.to_le_bytes().to_vec();
    codec::put_u64(&mut bytes, stamp.cluster);
    bytes.extend_from_slice(&stamp.genesis);
    bytes.extend_from_slice(&node.0.to_le_bytes());
    bytes
}

fn check_identity(path: &Path, found: &[u8], stamp: ClusterStamp, node: NodeId) -> Result<(), StartFault> {
    let damaged = |Torn| StartFault::Damaged { path: path.into(), why: "its identity is cut short".into() };
    let mut reader = Reader::new(found);
    let format = reader.u32().map_err(damaged)?;
    if format != FORMAT {
        return Err(StartFault::OtherVersion { path: path.into(), found: format, known: FORMAT });
    }
    let (cluster, genesis) = (reader.u64().map_err(damaged)?, reader.bytes(32).map_err(damaged)?);
    if cluster != stamp.cluster || genesis != stamp.genesis {
        return Err(StartFault::OtherCluster { path: path.into() });
    }
    let owner = NodeId(reader.u16().map_err(damaged)?);
    reader.end().map_err(damaged)?;
    if owner == node { Ok(()) } else { Err(StartFault::OtherNode { path: path.into(), owner }) }
}

fn check_magic(path: &Path) -> Result<(), StartFault> {
    let folder_fault = |source: io::Error| StartFault::Folder { path: path.into(), source };
    let mut start = Vec::new();
    let file = File::open(path).map_err(folder_fault)?;
    file.take(REDB_MAGIC.len() as u64).read_to_end(&mut start).map_err(folder_fault)?;
    if start == REDB_MAGIC { Ok(()) } else { Err(StartFault::Foreign { path: path.into() }) }
}

fn open_fault(path: &Path, fault: DatabaseError) -> StartFault {
    let path = path.to_path_buf();
    match fault {
        DatabaseError::DatabaseAlreadyOpen => StartFault::InUse { path },
        DatabaseError::Storage(StorageError::Io(source)) => StartFault::Folder { path, source },
        other => StartFault::Damaged { path, why: other.to_string() },
    }
}

/// Decodes a value that takes up all the bytes.
fn whole<T>(bytes: &[u8], take: impl FnOnce(&mut Reader<'_>) -> Result<T, Torn>) -> Result<T, Torn> {
    let mut reader = Reader::new(bytes);
    let value = take(&mut reader)?;
    reader.end()?;
    Ok(value)
}
