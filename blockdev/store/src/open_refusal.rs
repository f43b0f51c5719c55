//! Why a disk was not opened or not formatted: each names the path and the remedy.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::superblock::{DiskUuid, FORMAT_VERSION};

/// Why a disk was not opened. Nothing on it was changed.
#[derive(Debug, Error)]
pub enum OpenRefusal {
    /// There is no such file.
    #[error(
        "there is no disk at {path}: create it with `netdisk disk create {path} --size <bytes>`",
        path = path.display()
    )]
    Missing {
        /// Where the disk should be.
        path: PathBuf,
    },
    /// A directory, socket, terminal or the like.
    #[error(
        "{path} is neither a file nor a block device: give the path of a disk image or a disk",
        path = path.display()
    )]
    NotADisk {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Permission denied.
    #[error(
        "{path} may not be opened for reading and writing by this user: check its owner and mode",
        path = path.display()
    )]
    PermissionDenied {
        /// What was to be opened.
        path: PathBuf,
    },
    /// A read-only mount or device.
    #[error(
        "{path} lies on a read-only file system or device: remount it writable, or declare the disk \
        read-only",
        path = path.display()
    )]
    ReadOnlyFileSystem {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Another process has it open as its own.
    #[error(
        "{path} is in use by another process: stop that one, or declare the disk dual-ported on both nodes",
        path = path.display()
    )]
    InUse {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The image was cut, or it is no image.
    #[error(
        "{path} has {found_bytes} bytes and needs {needed_bytes}: it was truncated or is no netdisk disk; \
        restore it, or make it anew with `netdisk disk create --force {path}`, which erases it",
        path = path.display()
    )]
    TooShort {
        /// What was to be opened.
        path: PathBuf,
        /// Its size.
        found_bytes: u64,
        /// The size it should have at least.
        needed_bytes: u64,
    },
    /// No superblock where one should be.
    #[error(
        "{path} is not a netdisk disk (no superblock in its last 64 KiB; was it resized?): if nothing on it \
        is needed, format it with `netdisk disk create --force {path}`",
        path = path.display()
    )]
    Foreign {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Both copies of the superblock fail their checksum.
    #[error(
        "both copies of the superblock of {path} are damaged: restore the disk, or let it resynchronise \
        from its other copy after `netdisk disk create --force {path}`",
        path = path.display()
    )]
    Damaged {
        /// What was to be opened.
        path: PathBuf,
    },
    /// A later netdisk formatted it.
    #[error(
        "{path} has format version {found}, this netdisk knows versions up to {FORMAT_VERSION}: update \
        netdisk on this node",
        path = path.display()
    )]
    NewerVersion {
        /// What was to be opened.
        path: PathBuf,
        /// The version on the disk.
        found: u32,
    },
    /// It is another disk than the configuration says.
    #[error(
        "{path} is disk {found}, the configuration expects disk {expected}: correct the path or the cabling",
        path = path.display()
    )]
    WrongDisk {
        /// What was to be opened.
        path: PathBuf,
        /// The id on the disk.
        found: DiskUuid,
        /// The id wanted.
        expected: DiskUuid,
    },
    /// Anything else that the kernel reports.
    #[error("{path} cannot be opened as a disk: check the device and the kernel log", path = path.display())]
    Device {
        /// What was to be opened.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl OpenRefusal {
    /// Sorts an error of the kernel.
    pub(crate) fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Self::Missing { path },
            Some(libc::EACCES | libc::EPERM) => Self::PermissionDenied { path },
            Some(libc::EROFS) => Self::ReadOnlyFileSystem { path },
            Some(libc::EISDIR) => Self::NotADisk { path },
            _ => Self::Device { path, source },
        }
    }
}

/// Why a disk was not formatted. Unless it says otherwise, nothing was changed.
#[derive(Debug, Error)]
pub enum CreateRefusal {
    /// Something is there already.
    #[error("{path} exists already: choose another path, or erase it with --force", path = path.display())]
    Exists {
        /// What was to be formatted.
        path: PathBuf,
    },
    /// A device that is not blank.
    #[error("{path} holds data: choose another device, or erase it with --force", path = path.display())]
    NotBlank {
        /// What was to be formatted.
        path: PathBuf,
    },
    /// The sizes do not fit together.
    #[error(
        "{path} cannot have {data_bytes} data bytes in blocks of {block_bytes}: take blocks of a power of \
         two from 512 to 65536 bytes and a size that is a multiple of them and not zero",
        path = path.display()
    )]
    Shape {
        /// What was to be formatted.
        path: PathBuf,
        /// Size asked for.
        data_bytes: u64,
        /// Block asked for.
        block_bytes: u32,
    },
    /// The device's own blocks are larger than those asked for.
    #[error(
        "{path} has blocks of {device_block_bytes} bytes and cannot serve blocks of {block_bytes}: take \
        blocks of {device_block_bytes}",
        path = path.display()
    )]
    BlockTooSmall {
        /// What was to be formatted.
        path: PathBuf,
        /// Block asked for.
        block_bytes: u32,
        /// The device's block.
        device_block_bytes: u32,
    },
    /// The device's own blocks are larger than a superblock slot.
    #[error(
        "{path} has blocks of {device_block_bytes} bytes, more than the 4096 that netdisk can update \
        safely: use a file on a file system on it",
        path = path.display()
    )]
    DeviceBlockTooLarge {
        /// What was to be formatted.
        path: PathBuf,
        /// The device's block.
        device_block_bytes: u32,
    },
    /// The size of a new image was not given.
    #[error("the size of {path} is not known: give --size", path = path.display())]
    SizeMissing {
        /// What was to be formatted.
        path: PathBuf,
    },
    /// The file system is full.
    #[error(
        "there is no room for {needed_bytes} bytes at {path}: free some, take a smaller size, or make it \
        sparse",
        path = path.display()
    )]
    NoSpace {
        /// What was to be formatted.
        path: PathBuf,
        /// Bytes needed.
        needed_bytes: u64,
    },
    /// The path cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenRefusal),
    /// Writing failed half-way; a new image was removed, a forced one is no disk any more.
    #[error(
        "formatting {path} failed: check the device and the kernel log, then format it again",
        path = path.display()
    )]
    Write {
        /// What was to be formatted.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl CreateRefusal {
    /// Sorts an error of the kernel met while a disk that takes `needed_bytes` was written.
    pub(crate) fn from_write(path: &Path, needed_bytes: u64, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EFBIG | libc::EDQUOT) => Self::NoSpace { path, needed_bytes },
            _ => Self::Write { path, source },
        }
    }
}
