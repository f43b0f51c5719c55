//! Why a request was refused, how one failed, and the answers of the fencing calls.

use std::io;

use thiserror::Error;

/// The request was not taken. Nothing happened, and the memory is the caller's again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubmitRefusal {
    /// As many requests as the backing can hold are in flight. Poll, then submit again.
    #[error("{in_flight} requests are in flight, as many as the disk takes; wait for one to end")]
    Full {
        /// Requests in flight now.
        in_flight: usize,
    },
    /// Offset or length is not a multiple of the block size.
    #[error("offset and length must be multiples of the {block_bytes}-byte block")]
    Unaligned {
        /// The block size of the disk.
        block_bytes: u32,
    },
    /// The range ends behind the last data byte.
    #[error("the range ends behind the disk's {data_bytes} bytes")]
    OutOfRange {
        /// Size of the disk.
        data_bytes: u64,
    },
    /// One transfer is limited; split it.
    #[error("one transfer moves {length_bytes_max} bytes at most; split it")]
    TooLong {
        /// The limit.
        length_bytes_max: u64,
    },
    /// A length of zero.
    #[error("a request must cover at least one block")]
    Empty,
    /// The disk was opened for reading only.
    #[error("the disk is open for reading only")]
    ReadOnly,
    /// The disk is dual-ported and this node does not own it now.
    #[error("this node does not own the dual-ported disk; take ownership first")]
    NotOwned,
}

/// A request that was taken and failed. For a change of the disk this means *unknown*, never *not done*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StoreFault {
    /// The device or file system reported an error that says nothing about the path to it.
    #[error("the disk failed the request: {}", io::Error::from_raw_os_error(*errno))]
    Media {
        /// The error number of the kernel.
        errno: i32,
    },
    /// The device is gone or its path is broken; another node may still reach it.
    #[error("the disk cannot be reached: {}", io::Error::from_raw_os_error(*errno))]
    Unreachable {
        /// The error number of the kernel.
        errno: i32,
    },
    /// No space is left under a sparse or thin disk.
    #[error("no space is left for the disk to grow into")]
    NoSpace,
    /// The device cannot do this operation.
    #[error("the disk does not support this operation")]
    Unsupported,
    /// The transfer stopped making progress before its end; the image was cut while it was open.
    #[error("the disk ended the transfer early; was its image truncated?")]
    ShortTransfer,
}

impl StoreFault {
    /// Sorts an error number of the kernel.
    #[must_use]
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ENOSPC | libc::EDQUOT => Self::NoSpace,
            libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY => Self::Unsupported,
            libc::ENODEV | libc::ENXIO | libc::ENOLINK | libc::ENOMEDIUM | libc::ESHUTDOWN => {
                Self::Unreachable { errno }
            }
            _ => Self::Media { errno },
        }
    }

    /// The error number to give to a client of the block device.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::Media { errno } | Self::Unreachable { errno } => errno,
            Self::NoSpace => libc::ENOSPC,
            Self::Unsupported => libc::EOPNOTSUPP,
            Self::ShortTransfer => libc::EIO,
        }
    }
}

/// Why an epoch was not made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EpochRefusal {
    /// The disk has seen a newer epoch: the caller was fenced and must not serve this disk.
    #[error("epoch {asked} is behind the disk's epoch {stored}: this node was fenced off the disk")]
    Behind {
        /// The epoch that was to be stored.
        asked: u64,
        /// The epoch on the disk.
        stored: u64,
    },
    /// The disk is dual-ported and this node does not own it now.
    #[error("this node does not own the dual-ported disk; take ownership first")]
    NotOwned,
    /// The disk was opened for reading only.
    #[error("the disk is open for reading only")]
    ReadOnly,
    /// Writing failed; the old epoch or the new one is on the disk. Ask again with the same epoch or a higher
    /// one.
    #[error("the epoch may not have reached the disk: {fault}")]
    Unknown {
        /// What the disk reported.
        fault: StoreFault,
    },
}

/// A disk cannot be made as large as asked for; it is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the disk holds {data_bytes} bytes, and {asked_bytes} are asked for")]
pub struct GrowRefusal {
    /// The size asked for.
    pub asked_bytes: u64,
    /// Its size.
    pub data_bytes: u64,
}

/// The answer of one attempt to own a dual-ported disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnershipAttempt {
    /// This node owns the disk, and everything that earlier owners submitted has ended.
    Taken {
        /// The fencing epoch found on the disk.
        epoch: u64,
    },
    /// Another owner lives, or a dead one's I/O has not ended yet. Try again later.
    WouldBlock,
    /// The lock was free, but the disk could not be read again; it was let go.
    Failed {
        /// What went wrong.
        fault: StoreFault,
    },
}

/// The answer of one attempt to let a dual-ported disk go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnershipRelease {
    /// Nothing is in flight and another node may own the disk.
    Released,
    /// New requests are refused; these must end first. Poll, then ask again.
    Draining {
        /// Requests in flight now.
        in_flight: usize,
    },
}
