//! What the kernel tells of an open file or block device, and the aligned access to its superblock slots.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt};

use rustix::fs::{AtFlags, OFlags, StatxFlags};

use crate::superblock::{SLOT_OFFSETS, SlotImage};

/// What direct I/O asks for when the kernel does not tell.
const DIRECT_ALIGNMENT_GUESS: u32 = 4096;
/// `STATX_DIOALIGN`.
const STATX_DIRECT_ALIGNMENT: u32 = 0x2000;

/// Alignments that direct I/O asks for, both powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirectAlignment {
    pub(crate) memory: u32,
    pub(crate) offset: u32,
}

/// Whether this is a block device; `None` when it is neither that nor a regular file.
pub(crate) fn is_block_device(file: &File) -> io::Result<Option<bool>> {
    let kind = file.metadata()?.file_type();
    Ok(if kind.is_block_device() {
        Some(true)
    } else if kind.is_file() {
        Some(false)
    } else {
        None
    })
}

/// Bytes of the file or device.
pub(crate) fn size_bytes(mut file: &File) -> io::Result<u64> {
    io::Seek::seek(&mut file, io::SeekFrom::End(0))
}

/// Bytes of the device's own logical block; 1 for a file, which takes any.
pub(crate) fn device_block_bytes(file: &File) -> io::Result<u32> {
    match is_block_device(file)? {
        Some(true) => Ok(rustix::fs::ioctl_blksszget(file.as_fd())?),
        _ => Ok(1),
    }
}

/// What direct I/O on this file asks for; `None` when the file system says it has none.
pub(crate) fn direct_alignment(file: &File) -> Option<DirectAlignment> {
    let mask = StatxFlags::from_bits_retain(STATX_DIRECT_ALIGNMENT);
    let guess = DirectAlignment { memory: DIRECT_ALIGNMENT_GUESS, offset: DIRECT_ALIGNMENT_GUESS };
    let Ok(told) = rustix::fs::statx(file.as_fd(), c"", AtFlags::EMPTY_PATH, mask) else {
        return Some(guess);
    };
    if told.stx_mask & STATX_DIRECT_ALIGNMENT == 0 {
        return Some(guess);
    }
    let (memory, offset) = (told.stx_dio_mem_align, told.stx_dio_offset_align);
    let usable = memory.is_power_of_two() && offset.is_power_of_two();
    usable.then_some(DirectAlignment { memory, offset })
}

/// Turns direct I/O on for an open description.
pub(crate) fn set_direct(file: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file.as_fd())?;
    Ok(rustix::fs::fcntl_setfl(file.as_fd(), flags | OFlags::DIRECT)?)
}

/// Reads both superblock slots of the tail at `tail_offset`.
pub(crate) fn read_slots(file: &File, tail_offset: u64) -> io::Result<[SlotImage; 2]> {
    let mut slots = [SlotImage::zeroed(), SlotImage::zeroed()];
    for (slot, at) in slots.iter_mut().zip(SLOT_OFFSETS) {
        file.read_exact_at(&mut slot.0, tail_offset + at)?;
    }
    Ok(slots)
}

/// Writes one slot and makes it durable.
pub(crate) fn write_slot(file: &File, tail_offset: u64, index: usize, slot: &SlotImage) -> io::Result<()> {
    file.write_all_at(&slot.0, tail_offset + SLOT_OFFSETS[index])?;
    file.sync_data()
}
