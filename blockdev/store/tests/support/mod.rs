//! Places for test disks that leave nothing behind.
#![allow(dead_code)]

pub(crate) mod loop_disk;
pub(crate) mod private_mounts;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use blockdev_store::{DiskFile, DiskUuid, NewDisk, OpenMode, create};

/// The id of every test disk.
pub(crate) const DISK: DiskUuid = DiskUuid(0xD15C);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A path that nobody else uses, removed on drop.
pub(crate) struct TestPath(pub(crate) PathBuf);

impl TestPath {
    /// On the disk that holds the build.
    pub(crate) fn on_disk() -> Self {
        Self::below(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    pub(crate) fn below(directory: &Path) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(directory.join(format!("netdisk-store-{}-{number}", std::process::id())))
    }
}

impl Drop for TestPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A sparse disk to be made.
pub(crate) fn new_disk(data_bytes: u64, block_bytes: u32) -> NewDisk {
    NewDisk { data_bytes: Some(data_bytes), block_bytes, uuid: DISK, sparse: true, force: false }
}

/// Makes, opens and unlinks a disk of 8 MiB.
pub(crate) fn fresh_disk(path: TestPath, block_bytes: u32, mode: &OpenMode) -> DiskFile {
    create(&path.0, &new_disk(8 << 20, block_bytes)).expect("a disk can be made");
    DiskFile::open(&path.0, mode).expect("the disk just made opens")
}
