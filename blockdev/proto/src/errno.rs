//! The errors that a client of a virtual disk may see, as a closed set, with their numbers on the wire and in
//! Linux.

use core::fmt;

/// Why a block request failed, in the words of a block device (SPEC B11). Closed: whatever a store, a peer or
/// the kernel reports is mapped to the one that fits the cause, and an unknown number is an I/O error.
/// The number on the wire is the Linux errno, which is also what NBD and ublk want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum BlockErrno {
    /// The caller may not do this operation on this virtual disk (reservation, fenced).
    Eperm = 1,
    /// The disk failed, or every path to it is broken.
    Eio = 5,
    /// The caller may not open or use this virtual disk by its permissions.
    Eacces = 13,
    /// There is no such virtual disk, or its disk is gone for good.
    Enodev = 19,
    /// Misaligned, of length zero, too long, or a read past the end.
    Einval = 22,
    /// A write past the end, or the backing store has no room left.
    Enospc = 28,
    /// The virtual disk or its backing store is read-only.
    Erofs = 30,
    /// Offset and length do not fit into 64 bits, or the transfer is over the limit.
    Eoverflow = 75,
    /// The backing store cannot do this operation (fast zeroes on a store without them).
    Enotsup = 95,
    /// The surface or node is shutting down and takes no more requests.
    Eshutdown = 108,
    /// The policy of the volume says to fail rather than wait, and the wait was over.
    Etimedout = 110,
}

impl BlockErrno {
    /// Every value, for tables and tests.
    pub const ALL: [BlockErrno; 11] = [
        BlockErrno::Eperm,
        BlockErrno::Eio,
        BlockErrno::Eacces,
        BlockErrno::Enodev,
        BlockErrno::Einval,
        BlockErrno::Enospc,
        BlockErrno::Erofs,
        BlockErrno::Eoverflow,
        BlockErrno::Enotsup,
        BlockErrno::Eshutdown,
        BlockErrno::Etimedout,
    ];

    /// The number on the wire.
    #[inline]
    pub const fn to_wire(self) -> u16 {
        self as u16
    }

    /// The errno with this number on the wire; `None` for a number that this version does not send.
    pub const fn from_wire(number: u16) -> Option<BlockErrno> {
        Some(match number {
            1 => BlockErrno::Eperm,
            5 => BlockErrno::Eio,
            13 => BlockErrno::Eacces,
            19 => BlockErrno::Enodev,
            22 => BlockErrno::Einval,
            28 => BlockErrno::Enospc,
            30 => BlockErrno::Erofs,
            75 => BlockErrno::Eoverflow,
            95 => BlockErrno::Enotsup,
            108 => BlockErrno::Eshutdown,
            110 => BlockErrno::Etimedout,
            _ => return None,
        })
    }

    /// The positive Linux errno (`libc::EIO` is 5).
    #[inline]
    pub const fn to_linux(self) -> i32 {
        self as i32
    }

    /// The block error that fits a positive Linux errno as a store gets it from the kernel. An unknown one is
    /// [`BlockErrno::Eio`]: the caller must learn that the operation failed, and the log keeps the number.
    pub const fn from_linux(number: i32) -> BlockErrno {
        match number {
            // EPERM, EACCES, ENODEV and the others that have the same meaning here.
            1..=110 if BlockErrno::from_wire(number as u16).is_some() => {
                match BlockErrno::from_wire(number as u16) {
                    Some(errno) => errno,
                    None => BlockErrno::Eio,
                }
            }
            // ENXIO: the device behind the file is gone.
            6 => BlockErrno::Enodev,
            // EDQUOT and EFBIG: no room for this write.
            122 | 27 => BlockErrno::Enospc,
            // ENOMEDIUM: nothing in the drive.
            123 => BlockErrno::Enodev,
            // ENOSYS: an operation that the kernel or file system lacks. (EOPNOTSUPP is ENOTSUP on Linux.)
            38 => BlockErrno::Enotsup,
            _ => BlockErrno::Eio,
        }
    }

    /// True when this result of an execution says that the node cannot reach the disk any more, so that
    /// another node's path may still do what this one could not (SPEC B3).
    #[inline]
    pub const fn means_broken_path(self) -> bool {
        matches!(self, BlockErrno::Eio | BlockErrno::Enodev | BlockErrno::Eshutdown | BlockErrno::Etimedout)
    }
}

impl fmt::Display for BlockErrno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BlockErrno::Eperm => "operation not permitted (EPERM)",
            BlockErrno::Eio => "input/output error (EIO)",
            BlockErrno::Eacces => "permission denied (EACCES)",
            BlockErrno::Enodev => "no such virtual disk (ENODEV)",
            BlockErrno::Einval => "misaligned or out of range (EINVAL)",
            BlockErrno::Enospc => "write past the end, or no room left (ENOSPC)",
            BlockErrno::Erofs => "read-only (EROFS)",
            BlockErrno::Eoverflow => "too long (EOVERFLOW)",
            BlockErrno::Enotsup => "not supported by the backing store (ENOTSUP)",
            BlockErrno::Eshutdown => "shutting down (ESHUTDOWN)",
            BlockErrno::Etimedout => "timed out (ETIMEDOUT)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: B11
    #[test]
    fn every_errno_survives_the_wire_and_linux() {
        for errno in BlockErrno::ALL {
            assert_eq!(BlockErrno::from_wire(errno.to_wire()), Some(errno));
            assert_eq!(BlockErrno::from_linux(errno.to_linux()), errno);
        }
        let known = (0..=u16::MAX).filter(|number| BlockErrno::from_wire(*number).is_some()).count();
        assert_eq!(known, BlockErrno::ALL.len());
    }

    // proves: B11
    #[test]
    fn foreign_linux_errnos_map_to_the_cause_that_fits_or_to_eio() {
        assert_eq!(BlockErrno::from_linux(6), BlockErrno::Enodev);
        assert_eq!(BlockErrno::from_linux(27), BlockErrno::Enospc);
        assert_eq!(BlockErrno::from_linux(122), BlockErrno::Enospc);
        assert_eq!(BlockErrno::from_linux(38), BlockErrno::Enotsup);
        for number in [-5, 0, 2, 4, 11, 111, 121, i32::MAX, i32::MIN] {
            assert_eq!(BlockErrno::from_linux(number), BlockErrno::Eio, "{number}");
        }
    }
}
