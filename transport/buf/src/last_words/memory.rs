//! The locked memory of last words: where they go, and both banks of what they are.

use core::ptr;
use memmap2::{MmapOptions, MmapRaw};
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

/// Levels of each reason.
pub const LEVELS: usize = 2;
/// Reasons at the most.
pub const REASONS_MAX: usize = 24;
/// Bytes of a datagram at the most.
pub const DATAGRAM_BYTES_MAX: usize = 256;
/// Bytes of a mark at the most.
pub const MARK_BYTES_MAX: usize = 256;

/// What is said for one reason at one level.
#[derive(Clone, Debug, Default)]
pub struct Phrase {
    /// The datagram, 1 to [`DATAGRAM_BYTES_MAX`] bytes.
    pub datagram: Vec<u8>,
    /// The mark, up to [`MARK_BYTES_MAX`] bytes; empty: none is made.
    pub mark: Vec<u8>,
}

/// A phrase as it lies in memory. A length of zero is one that was never formed.
#[repr(C)]
struct Stored {
    datagram_length: u32,
    mark_length: u32,
    datagram: [u8; DATAGRAM_BYTES_MAX],
    mark: [u8; MARK_BYTES_MAX],
}

/// Where a datagram goes, as `sendto` takes it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Target {
    descriptor: RawFd,
    length: u32,
    /// An IPv4 address lies at its beginning.
    address: libc::sockaddr_in6,
}

/// Targets, then bank 0, then bank 1, in one mapping.
#[derive(Debug)]
pub(super) struct Memory {
    map: MmapRaw,
    locked: bool,
    reasons: usize,
    targets: usize,
}

impl Memory {
    pub(super) fn new(reasons: usize, targets: &[(RawFd, SocketAddr)]) -> io::Result<Memory> {
        let bytes = Memory::banks_at(targets.len()) + 2 * reasons * LEVELS * size_of::<Stored>();
        let map: MmapRaw = MmapOptions::new().len(bytes.max(1)).populate().map_anon()?.into();
        let locked = map.lock().is_ok();
        let memory = Memory { map, locked, reasons, targets: targets.len() };
        for (place, (descriptor, remote)) in targets.iter().enumerate() {
            let (address, length) = encoded(*remote);
            let target = Target { descriptor: *descriptor, length, address };
            // SAFETY: `place` is below the number of targets, so the pointer is in bounds and aligned; nobody
            // else has this memory yet.
            unsafe { ptr::write(memory.target(place), target) };
        }
        Ok(memory)
    }

    pub(super) fn is_locked(&self) -> bool {
        self.locked
    }

    pub(super) fn reasons(&self) -> usize {
        self.reasons
    }

    fn banks_at(targets: usize) -> usize {
        (targets * size_of::<Target>()).next_multiple_of(align_of::<Stored>())
    }

    fn target(&self, place: usize) -> *mut Target {
        debug_assert!(place < self.targets);
        // SAFETY: in bounds: targets lie at the mapping's beginning, and `place` is below their number.
        unsafe { self.map.as_mut_ptr().cast::<Target>().add(place) }
    }

    fn stored(&self, bank: usize, reason: usize, level: usize) -> *mut Stored {
        let number =
            ((bank & 1) * self.reasons + reason.min(self.reasons - 1)) * LEVELS + level.min(LEVELS - 1);
        let offset = Memory::banks_at(self.targets) + number * size_of::<Stored>();
        // SAFETY: in bounds: the mapping was made for two banks of all reasons at all levels behind the
        // targets, and each number is cut to its range.
        unsafe { self.map.as_mut_ptr().add(offset).cast::<Stored>() }
    }

    /// Writes a phrase. The caller sees to it that nobody reads this bank.
    pub(super) fn write(&self, bank: usize, reason: usize, level: usize, phrase: &Phrase) {
        let Phrase { datagram, mark } = phrase;
        assert!((1..=DATAGRAM_BYTES_MAX).contains(&datagram.len()), "a datagram of {} bytes", datagram.len());
        assert!(mark.len() <= MARK_BYTES_MAX, "a mark of {} bytes", mark.len());
        let mut stored = Stored {
            datagram_length: datagram.len() as u32,
            mark_length: mark.len() as u32,
            datagram: [0; DATAGRAM_BYTES_MAX],
            mark: [0; MARK_BYTES_MAX],
        };
        stored.datagram[..datagram.len()].copy_from_slice(datagram);
        stored.mark[..mark.len()].copy_from_slice(mark);
        // SAFETY: in bounds and aligned (see `stored`); the banks' protocol keeps readers out of this one.
        unsafe { ptr::write(self.stored(bank, reason, level), stored) };
    }

    /// The bytes of a datagram.
    fn datagram(&self, bank: usize, reason: usize, level: usize) -> (*const u8, usize) {
        let stored = self.stored(bank, reason, level);
        // SAFETY: in bounds and aligned; the banks' protocol keeps writers out of a bank that is spoken from.
        let length = unsafe { (*stored).datagram_length };
        // SAFETY: as above; no reference is made, only an address.
        let start = unsafe { &raw const (*stored).datagram };
        (start.cast(), (length as usize).min(DATAGRAM_BYTES_MAX))
    }

    /// One copy to every target. Returns how many left. Async-signal-safe.
    pub(super) fn send(&self, bank: usize, reason: usize, level: usize) -> usize {
        let (start, length) = self.datagram(bank, reason, level);
        if length == 0 { 0 } else { self.send_bytes(start, length) }
    }

    /// One copy of these bytes to every target.
    pub(super) fn relay(&self, bytes: &[u8]) {
        self.send_bytes(bytes.as_ptr(), bytes.len());
    }

    /// `start` and `length` are bytes that stay as they are meanwhile.
    fn send_bytes(&self, start: *const u8, length: usize) -> usize {
        let mut left = 0;
        for place in 0..self.targets {
            // SAFETY: in bounds, aligned, and written once, before anybody shared this memory.
            let target = unsafe { ptr::read(self.target(place)) };
            // SAFETY: the descriptor's socket is open as long as the owner of this memory lives; `start` and
            // the address point to as many readable bytes as their lengths say, for the time of the call.
            let sent = unsafe {
                libc::sendto(
                    target.descriptor,
                    start.cast(),
                    length,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                    (&raw const target.address).cast(),
                    target.length,
                )
            };
            left += usize::from(sent == length as isize);
        }
        left
    }

    /// Writes the mark to the beginning of a file. Async-signal-safe.
    pub(super) fn mark(&self, bank: usize, reason: usize, level: usize, descriptor: RawFd) {
        let stored = self.stored(bank, reason, level);
        // SAFETY: in bounds and aligned; the banks' protocol keeps writers out of a bank that is spoken from.
        let length = unsafe { (*stored).mark_length } as usize;
        if length == 0 {
            return;
        }
        // SAFETY: as above; no reference is made, only an address.
        let start = unsafe { &raw const (*stored).mark };
        // SAFETY: the descriptor is open as long as the owner of this memory lives; `start` points to
        // `MARK_BYTES_MAX` readable bytes. A file that does not take it leaves no mark: nothing is left to
        // try.
        unsafe { libc::pwrite(descriptor, start.cast(), length.min(MARK_BYTES_MAX), 0) };
    }
}

fn encoded(remote: SocketAddr) -> (libc::sockaddr_in6, u32) {
    // SAFETY: all fields are integers; zero is a value of each.
    let mut address: libc::sockaddr_in6 = unsafe { core::mem::zeroed() };
    match remote {
        SocketAddr::V6(remote) => {
            address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            address.sin6_port = remote.port().to_be();
            address.sin6_addr = libc::in6_addr { s6_addr: remote.ip().octets() };
            address.sin6_scope_id = remote.scope_id();
            (address, size_of::<libc::sockaddr_in6>() as u32)
        }
        SocketAddr::V4(remote) => {
            let short = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: remote.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(remote.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: an IPv4 address is shorter than an IPv6 one and has no stricter alignment.
            unsafe { ptr::write((&raw mut address).cast::<libc::sockaddr_in>(), short) };
            (address, size_of::<libc::sockaddr_in>() as u32)
        }
    }
}
