//! Formats a file or block device as a disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use crate::device::{device_block_bytes, is_block_device, size_bytes, write_slot};
use crate::geometry::sizes_fit;
use crate::open_refusal::{CreateRefusal, OpenRefusal};
use crate::superblock::{DiskUuid, SLOT_BYTES, Superblock, TAIL_BYTES, tail_offset};

/// Looked at, at both ends of a device, to tell whether it is blank.
const BLANK_CHECK_BYTES: u64 = 1 << 20;

/// A disk to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewDisk {
    /// Bytes for clients; `None` takes all of a device. The file becomes a little longer than this.
    pub data_bytes: Option<u64>,
    /// Logical block, a power of two from [`crate::BLOCK_BYTES_MIN`] to [`crate::BLOCK_BYTES_MAX`].
    pub block_bytes: u32,
    /// Its identity, unique in the cluster.
    pub uuid: DiskUuid,
    /// Leave holes instead of allocating the file's space now. A sparse disk can meet "no space" while it
    /// serves.
    pub sparse: bool,
    /// Erase what is there.
    pub force: bool,
}

/// Formats `path`. A file is made (or, forced, emptied first); a block device keeps its old bytes in the data
/// area. Ends when the new disk is durable, its directory entry included.
///
/// # Errors
/// [`CreateRefusal`].
pub fn create(path: &Path, disk: &NewDisk) -> Result<(), CreateRefusal> {
    let exists = match std::fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(OpenRefusal::from_io(path, error).into()),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(!exists)
        .open(path)
        .map_err(|error| open_fault(path, exists, error))?;
    let made = format(path, &file, disk, exists);
    // By hand: a process being forked by another thread holds a copy of the description until its exec.
    let _ = flock(file.as_fd(), FlockOperation::Unlock);
    if made.is_err() && !exists {
        // Best effort: what failed is reported, not this.
        let _ = std::fs::remove_file(path);
    }
    made
}

fn open_fault(path: &Path, exists: bool, error: io::Error) -> CreateRefusal {
    match error.raw_os_error() {
        Some(libc::EEXIST) => CreateRefusal::Exists { path: path.to_path_buf() },
        // The directory of a new image is missing: "create it" would be no help.
        Some(libc::ENOENT) if !exists => {
            OpenRefusal::Device { path: path.parent().unwrap_or(path).to_path_buf(), source: error }.into()
        }
        _ => OpenRefusal::from_io(path, error).into(),
    }
}

fn format(path: &Path, file: &File, disk: &NewDisk, exists: bool) -> Result<(), CreateRefusal> {
    let own_path = || path.to_path_buf();
    let write_fault = |source| CreateRefusal::from_write(path, TAIL_BYTES, source);
    let is_device = match is_block_device(file).map_err(write_fault)? {
        Some(is_device) => is_device,
        None => return Err(OpenRefusal::NotADisk { path: own_path() }.into()),
    };
    if exists && !is_device && !disk.force {
        return Err(CreateRefusal::Exists { path: own_path() });
    }
    if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(OpenRefusal::InUse { path: own_path() }.into());
    }
    let device_block_bytes = device_block_bytes(file).map_err(write_fault)?;
    if device_block_bytes as usize > SLOT_BYTES {
        return Err(CreateRefusal::DeviceBlockTooLarge { path: own_path(), device_block_bytes });
    }
    if disk.block_bytes < device_block_bytes {
        let block_bytes = disk.block_bytes;
        return Err(CreateRefusal::BlockTooSmall { path: own_path(), block_bytes, device_block_bytes });
    }
    let (data_bytes, tail) = if is_device {
        place_on_device(path, file, disk)?
    } else {
        let data_bytes = disk.data_bytes.ok_or_else(|| CreateRefusal::SizeMissing { path: own_path() })?;
        (data_bytes, data_bytes.checked_next_multiple_of(SLOT_BYTES as u64).unwrap_or(u64::MAX))
    };
    if !sizes_fit(data_bytes, disk.block_bytes) || tail > i64::MAX as u64 - TAIL_BYTES {
        return Err(CreateRefusal::Shape { path: own_path(), data_bytes, block_bytes: disk.block_bytes });
    }
    if !is_device {
        resize_file(path, file, tail + TAIL_BYTES, disk.sparse)?;
    }
    let superblock =
        Superblock { uuid: disk.uuid, data_bytes, block_bytes: disk.block_bytes, epoch: 0, generation: 1 };
    for (index, generation) in [(0, 1), (1, 2)] {
        let slot = Superblock { generation, ..superblock }.encode();
        write_slot(file, tail, index, &slot).map_err(write_fault)?;
    }
    file.sync_all().map_err(write_fault)?;
    if exists { Ok(()) } else { sync_directory_of(path).map_err(write_fault) }
}

/// Data bytes and tail offset on a device.
fn place_on_device(path: &Path, file: &File, disk: &NewDisk) -> Result<(u64, u64), CreateRefusal> {
    let write_fault = |source| CreateRefusal::from_write(path, TAIL_BYTES, source);
    let found_bytes = size_bytes(file).map_err(write_fault)?;
    let smallest = disk.data_bytes.unwrap_or(SLOT_BYTES as u64);
    let needed_bytes = smallest.saturating_add(TAIL_BYTES);
    let too_short = OpenRefusal::TooShort { path: path.to_path_buf(), found_bytes, needed_bytes };
    let Some(tail) = tail_offset(found_bytes).filter(|tail| *tail >= smallest) else {
        return Err(too_short.into());
    };
    if !disk.force && !is_blank(file, found_bytes).map_err(write_fault)? {
        return Err(CreateRefusal::NotBlank { path: path.to_path_buf() });
    }
    let whole_blocks = tail - tail % u64::from(disk.block_bytes.max(1));
    Ok((disk.data_bytes.unwrap_or(whole_blocks), tail))
}

fn is_blank(file: &File, disk_bytes: u64) -> io::Result<bool> {
    let mut bytes = vec![0; BLANK_CHECK_BYTES.min(disk_bytes) as usize];
    for at in [0, disk_bytes.saturating_sub(BLANK_CHECK_BYTES)] {
        file.read_exact_at(&mut bytes, at)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn resize_file(path: &Path, file: &File, file_bytes: u64, sparse: bool) -> Result<(), CreateRefusal> {
    let sort = |source| CreateRefusal::from_write(path, file_bytes, source);
    // To zero first: an image that is made anew must not show old bytes.
    file.set_len(0).map_err(sort)?;
    file.set_len(file_bytes).map_err(sort)?;
    if sparse {
        return Ok(());
    }
    match fallocate(file.as_fd(), FallocateFlags::empty(), 0, file_bytes) {
        // A file system that cannot allocate ahead keeps the holes.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(sort(errno.into())),
    }
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
