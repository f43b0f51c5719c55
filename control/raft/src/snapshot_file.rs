//! The snapshot on disk: one file, replaced as a whole, so that there is always the old one or the new one.
//!
//! Magic, format, stamp of the cluster, openraft's description, the machine's bytes, CRC-32C of all of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::codec::{self, Reader, Torn};
use crate::fault::StartFault;
use crate::flavour::{Snapshot, SnapshotMeta};
use crate::options::ClusterStamp;

const MAGIC: &[u8; 8] = b"NDRAFTSN";
/// Format of the file; the machine's bytes have one of their own.
const FORMAT: u32 = 1;
/// Name of the snapshot inside its folder.
pub(crate) const FILE: &str = "snapshot";
/// Name of a snapshot that is being written.
const FILE_IN_MAKING: &str = "snapshot.new";
/// Bytes of openraft's description at the most.
const META_BYTES_MAX: usize = 64 << 10;

/// Where the snapshot of one node stands.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    folder: PathBuf,
    stamp: ClusterStamp,
}

impl SnapshotFile {
    pub(crate) fn new(folder: &Path, stamp: ClusterStamp) -> SnapshotFile {
        SnapshotFile { folder: folder.into(), stamp }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Replaces the snapshot; when this returns, the new one survives a loss of power.
    pub(crate) fn replace(&self, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        codec::put_u64(&mut bytes, self.stamp.cluster);
        bytes.extend_from_slice(&self.stamp.genesis);
        let mut described = Vec::new();
        codec::put_snapshot_meta(&mut described, meta);
        codec::put_blob(&mut bytes, &described);
        codec::put_u64(&mut bytes, state.len() as u64);
        let check = crc32c::crc32c_append(crc32c::crc32c(&bytes), state);

        let making = self.folder.join(FILE_IN_MAKING);
        let mut file = File::create(&making)?;
        file.write_all(&bytes)?;
        file.write_all(state)?;
        file.write_all(&check.to_le_bytes())?;
        file.sync_all()?;
        fs::rename(&making, self.path())?;
        File::open(&self.folder)?.sync_all()
    }

    /// The snapshot, if there is one.
    pub(crate) fn read(&self) -> Result<Option<Snapshot>, StartFault> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StartFault::Folder { path, source }),
        };
        self.parse(&bytes).map(Some)
    }

    fn parse(&self, bytes: &[u8]) -> Result<Snapshot, StartFault> {
        let path = self.path();
        let damaged = |why: &str| StartFault::Damaged { path: self.path(), why: why.into() };
        let mut reader = Reader::new(bytes);
        if reader.bytes(MAGIC.len()) != Ok(MAGIC) {
            return Err(StartFault::Foreign { path });
        }
        let short = |Torn| damaged("it is cut short");
        let format = reader.u32().map_err(short)?;
        if format != FORMAT {
            return Err(StartFault::OtherVersion { path, found: format, known: FORMAT });
        }
        let (whole, check) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("it is cut short"))?;
        if crc32c::crc32c(whole) != u32::from_le_bytes(*check) {
            return Err(damaged("its check does not fit"));
        }
        let (cluster, genesis) = (reader.u64().map_err(short)?, reader.bytes(32).map_err(short)?);
        if cluster != self.stamp.cluster || genesis != self.stamp.genesis {
            return Err(StartFault::OtherCluster { path });
        }
        let described = reader.blob(META_BYTES_MAX).map_err(short)?;
        let mut description = Reader::new(described);
        let meta = codec::snapshot_meta(&mut description).map_err(|Torn| damaged("its description"))?;
        let state_bytes = usize::try_from(reader.u64().map_err(short)?).map_err(|_| damaged("its length"))?;
        let state = reader.bytes(state_bytes).map_err(short)?;
        Ok(Snapshot { meta, snapshot: Box::new(state.to_vec()) })
    }
}
