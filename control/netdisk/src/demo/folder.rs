//! Where the demo works: a folder with a short name for sockets, and one for files, which may be kept.

use anyhow::Context;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The longest folder in which sockets are made; the system allows a socket's path about a hundred bytes.
const SOCKET_FOLDER_BYTES_MAX: usize = 60;
/// Folders of killed demos that are stepped over.
const LEFT_BEHIND_MAX: u32 = 16;

/// The folders of one run. The temporary one goes when this is dropped, unless it is kept.
#[derive(Debug)]
pub(super) struct Folders {
    scratch: PathBuf,
    files: PathBuf,
    keep: bool,
}

impl Folders {
    /// Makes the folders; with `keep`, files go there and stay.
    pub(super) fn create(keep: Option<&Path>) -> anyhow::Result<Folders> {
        let system = std::env::temp_dir();
        let system =
            if system.as_os_str().len() > SOCKET_FOLDER_BYTES_MAX { PathBuf::from("/tmp") } else { system };
        let scratch = make_new(&system)?;
        let mut folders = Folders { files: scratch.clone(), scratch, keep: false };
        if let Some(keep) = keep {
            std::fs::create_dir_all(keep)
                .with_context(|| format!("cannot make {}: choose another --keep", keep.display()))?;
            let is_empty = std::fs::read_dir(keep).is_ok_and(|mut entries| entries.next().is_none());
            anyhow::ensure!(is_empty, "{} is not empty: choose a new folder for --keep", keep.display());
            folders.files = std::path::absolute(keep)?;
        }
        Ok(folders)
    }

    /// The path of a socket.
    pub(super) fn socket(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// The path of a file.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }

    /// Leaves everything where it is, for a person to look at.
    pub(super) fn keep(&mut self) -> &Path {
        self.keep = true;
        &self.files
    }
}

/// A new folder, also where an earlier process of the same number left one behind.
fn make_new(system: &Path) -> anyhow::Result<PathBuf> {
    let process = std::process::id();
    let mut number = 0;
    loop {
        let path = system.join(format!("netdisk-demo-{process}-{number}"));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && number < LEFT_BEHIND_MAX => number += 1,
            Err(error) => {
                let path = path.display();
                return Err(error)
                    .with_context(|| format!("cannot make {path}: set TMPDIR to another folder"));
            }
        }
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        if !self.keep || self.files != self.scratch {
            // What cannot be removed is left to the system's own clean-up.
            let _ = std::fs::remove_dir_all(&self.scratch);
        }
    }
}
