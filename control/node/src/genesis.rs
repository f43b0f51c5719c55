//! What a node's state folder begins with: which cluster this is, its key, which of its nodes this one is,
//! and the rows that the replicated database was founded with. Written once, never changed: afterwards the
//! database is what counts.

use control_proto::ccd::{Database, SnapshotFault};
use control_proto::rows::ClusterRows;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::NodeId;

/// The file's name in the state folder.
pub const FILE: &str = "genesis";
/// Its name after the node has left for good.
const LEFT_FILE: &str = "genesis.left";
const MAGIC: &[u8; 8] = b"ndgenes\0";
const VERSION: u16 = 1;
/// Magic, version, length and checksum of what follows.
const HEAD_BYTES: usize = 8 + 2 + 4 + 4;
/// A larger file is none of ours.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// How a node began.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// Number of the cluster: that of its first rows, or chosen at random where a cluster begins with one
    /// node.
    pub cluster: u64,
    /// Name of the cluster.
    pub name: String,
    /// The cluster's secret.
    pub key: ClusterKey,
    /// Which node this is.
    pub node: NodeId,
    /// The database as it was founded, see [`Database::snapshot`].
    founded: Vec<u8>,
    /// Of a node that joined later: the database as it was then. By its rows it finds the others, until the
    /// log has told it everything; empty for a node of the beginning.
    known: Vec<u8>,
}

/// Why a state folder cannot be used. Nothing in it was changed.
#[derive(Debug)]
pub enum GenesisRefusal {
    /// The system refused.
    System(PathBuf, io::Error),
    /// Not a file of ours.
    Foreign(PathBuf),
    /// Of a version that this release does not know.
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
    },
    /// What is in it does not fit its checksum, or cannot be read.
    Damaged(PathBuf),
    /// The database in it cannot be read.
    Rows(PathBuf, SnapshotFault),
    /// The folder is another node's.
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Whose.
        found: NodeId,
        /// Who was to start.
        wanted: NodeId,
    },
    /// The folder is another cluster's.
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// Whose.
        found: String,
        /// Which cluster was to be started.
        wanted: String,
    },
    /// The folder's cluster has another key than the configuration.
    OtherKey(PathBuf),
    /// There is none, and nothing says what to begin with.
    Missing(PathBuf),
    /// There is none, but what comes after it is there.
    Lost(PathBuf),
    /// The node that lived there left its cluster for good.
    Left(PathBuf),
    /// There is one already.
    Present(PathBuf),
    /// The rows are not fit for a cluster.
    Unfit(Vec<String>),
}

impl fmt::Display for GenesisRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GenesisRefusal::System(path, _) => {
                write!(
                    f,
                    "cannot use {}: give the node a folder that it may write with --state",
                    path.display()
                )
            }
            GenesisRefusal::Foreign(path) => write!(
                f,
                "{} is not a file of netdisk: choose another folder with --state, or move the file away",
                path.display()
            ),
            GenesisRefusal::Version { path, found } => write!(
                f,
                "{} is of version {found}, this release knows {VERSION}: run the release that wrote it, or a \
                 later one",
                path.display()
            ),
            GenesisRefusal::Damaged(path) | GenesisRefusal::Rows(path, _) => write!(
                f,
                "{} is damaged: put a copy of it back; without one, let the others remove this node \
                 (netdisk node remove) and let it join again (netdisk join) with an empty --state folder",
                path.display()
            ),
            GenesisRefusal::OtherNode { path, found, wanted } => write!(
                f,
                "{} is of {found}, not of {wanted}: each node needs a --state folder of its own",
                path.display()
            ),
            GenesisRefusal::OtherCluster { path, found, wanted } => write!(
                f,
                "{} is of cluster {found:?}, not of {wanted:?}: use another --state folder, or the \
                 configuration of {found:?}",
                path.display()
            ),
            GenesisRefusal::OtherKey(path) => write!(
                f,
                "{} is of a cluster with another key than the configuration's: put the right key into the \
                 configuration (its key file), or use another --state folder",
                path.display()
            ),
            GenesisRefusal::Missing(folder) => write!(
                f,
                "no node lives in {}: begin a cluster (netdisk cluster init), join one (netdisk join), \
                 or name a configuration with --config",
                folder.display()
            ),
            GenesisRefusal::Lost(folder) => write!(
                f,
                "{} has a log of the configuration but no {FILE} file: put a copy of that back; without one, \
                 let the others remove this node (netdisk node remove) and join again with an empty folder",
                folder.display()
            ),
            GenesisRefusal::Left(folder) => write!(
                f,
                "the node that lived in {} has left the cluster for good: choose another folder with --state",
                folder.display()
            ),
            GenesisRefusal::Present(path) => write!(
                f,
                "{} is there already, a node lives in that folder: start it with netdisk node, or choose \
                 another folder",
                path.display()
            ),
            GenesisRefusal::Unfit(faults) => write!(f, "the first rows do not fit: {}", faults.join("; ")),
        }
    }
}

impl std::error::Error for GenesisRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            GenesisRefusal::System(_, source) => Some(source),
            _ => None,
        }
    }
}

impl Genesis {
    /// The beginning of a cluster with these rows, as all its first nodes make it: from the same rows the
    /// same one, but for the node.
    pub fn of_rows(rows: ClusterRows, key: ClusterKey, node: NodeId) -> Result<Genesis, GenesisRefusal> {
        let name = rows.name.clone();
        let founded = Database::found(rows).map_err(|faults| {
            let fault = |(key, fault)| format!("{key}: {fault}");
            GenesisRefusal::Unfit(faults.into_iter().map(fault).collect())
        })?;
        let founded = founded.snapshot();
        // Not of all rows: two nodes with rows that differ belong to one cluster and are to find out.
        let number = Sha256::new().chain_update(b"netdisk cluster number\0").chain_update(&name);
        let number = number.chain_update(key.expose()).finalize();
        let cluster = u64::from_le_bytes(*number.first_chunk().unwrap_or(&[0; 8]));
        Ok(Genesis { cluster, name, key, node, founded, known: Vec::new() })
    }

    /// As [`Genesis::of_rows`], with a number of the cluster's own: for a cluster that begins with one node.
    pub fn with_number(self, cluster: u64) -> Genesis {
        Genesis { cluster, ..self }
    }

    /// For a node that joins: the same cluster as another node, and the database as it is now, which has the
    /// node's row.
    pub fn for_node(&self, node: NodeId, now: &Database) -> Genesis {
        Genesis { node, known: now.snapshot(), ..self.clone() }
    }

    /// The rows by which a node that joined later finds the others.
    pub fn known_rows(&self) -> Option<Arc<ClusterRows>> {
        let now: Option<Database> = Database::restore(&self.known).ok();
        now.map(|database| database.rows().clone())
    }

    /// What tells nodes apart that were made from different rows.
    pub fn digest(&self) -> [u8; 32] {
        let digest =
            Sha256::new().chain_update(b"netdisk genesis\0").chain_update(self.cluster.to_le_bytes());
        digest.chain_update(&self.name).chain_update([0]).chain_update(&self.founded).finalize().into()
    }

    /// The database as it was founded, before any command.
    pub fn database(&self, folder: &Path) -> Result<Database, GenesisRefusal> {
        Database::restore(&self.founded).map_err(|fault| GenesisRefusal::Rows(folder.join(FILE), fault))
    }

    /// Reads the file of a state folder; `None` if the folder has none and nothing else of a node.
    pub fn load(folder: &Path) -> Result<Option<Genesis>, GenesisRefusal> {
        let path = folder.join(FILE);
        let system = |error| GenesisRefusal::System(path.clone(), error);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if folder.join(LEFT_FILE).exists() {
                    return Err(GenesisRefusal::Left(folder.to_path_buf()));
                }
                let log = folder.join(crate::consensus::FOLDER);
                let lost = log.read_dir().is_ok_and(|mut files| files.next().is_some());
                return if lost { Err(GenesisRefusal::Lost(folder.to_path_buf())) } else { Ok(None) };
            }
            Err(error) => return Err(system(error)),
            Ok(there) if there.len() > FILE_BYTES_MAX => return Err(GenesisRefusal::Foreign(path)),
            Ok(_) => {}
        }
        let bytes = std::fs::read(&path).map_err(system)?;
        Genesis::decode(&path, &bytes).map(Some)
    }

    /// Writes the file of a state folder, whole or not at all, and never over another.
    pub fn store(&self, folder: &Path) -> Result<(), GenesisRefusal> {
        let path = folder.join(FILE);
        let system = |error| GenesisRefusal::System(path.clone(), error);
        std::fs::create_dir_all(folder).map_err(system)?;
        let next = folder.join(format!("{FILE}.next"));
        let put = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            // The key is in it.
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(&self.encode())?;
            file.sync_all()?;
            // Unlike a rename, a link fails where something is.
            std::fs::hard_link(&next, &path)?;
            std::fs::remove_file(&next)?;
            File::open(folder)?.sync_all()
        };
        put().map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => GenesisRefusal::Present(path.clone()),
            _ => GenesisRefusal::System(path.clone(), error),
        })
    }

    /// The node is none any more: its file is put aside, so that the folder starts no node. The log stays,
    /// for whoever wants to look.
    pub fn retire(&self, folder: &Path) -> io::Result<()> {
        std::fs::rename(folder.join(FILE), folder.join(LEFT_FILE))?;
        File::open(folder)?.sync_all()
    }

    /// As bytes: of the file, and for a node that joins.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(self.cluster.to_le_bytes());
        body.extend(self.node.0.to_le_bytes());
        body.extend(self.key.expose());
        put_bytes(&mut body, self.name.as_bytes());
        put_bytes(&mut body, &self.founded);
        put_bytes(&mut body, &self.known);
        let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((body.len() as u32).to_le_bytes());
        out.extend(crc32c::crc32c(&body).to_le_bytes());
        out.extend(body);
        out
    }

    /// Reads what [`Genesis::encode`] gave; `path` is for messages.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Genesis, GenesisRefusal> {
        let path = || path.to_path_buf();
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| GenesisRefusal::Foreign(path()))?;
        let damaged = || GenesisRefusal::Damaged(path());
        let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(damaged)?;
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(GenesisRefusal::Version { path: path(), found: version });
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (sum, body) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let sound = u32::from_le_bytes(*length) as usize == body.len()
            && u32::from_le_bytes(*sum) == crc32c::crc32c(body);
        let genesis = sound.then(|| Genesis::read_body(body)).flatten().ok_or_else(damaged)?;
        genesis.database(path().parent().unwrap_or(Path::new("")))?;
        Ok(genesis)
    }

    fn read_body(body: &[u8]) -> Option<Genesis> {
        let (cluster, rest) = body.split_first_chunk::<8>()?;
        let (node, rest) = rest.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_first_chunk::<32>()?;
        let (name, rest) = take_bytes(rest)?;
        let (founded, rest) = take_bytes(rest)?;
        let (known, rest) = take_bytes(rest)?;
        let name = String::from_utf8(name.to_vec()).ok().filter(|_| rest.is_empty())?;
        Some(Genesis {
            cluster: u64::from_le_bytes(*cluster),
            key: ClusterKey::of_bytes(&name, *key),
            node: NodeId(u16::from_le_bytes(*node)),
            name,
            founded: founded.to_vec(),
            known: known.to_vec(),
        })
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
}

fn take_bytes(from: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = from.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

#[cfg(test)]
#[path = "genesis/tests.rs"]
mod tests;
