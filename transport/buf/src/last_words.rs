//! What a dying process still says (SPEC D1, D2): datagrams formed in advance in locked memory, sockets open
//! in advance, and a way to send them that allocates nothing, takes no lock and calls nothing but `sendto`,
//! so that it may run in a signal handler.
//!
//! This module knows no message: its owner numbers the *reasons* and forms a datagram for each reason at each
//! of two *levels*. A *mark* goes with it: bytes for a file that is open in advance too, so that the next
//! start of the process finds why the last one ended.

mod banks;
mod memory;
mod mouth;
mod signals;

pub use banks::Banks;
pub use memory::{DATAGRAM_BYTES_MAX, LEVELS, MARK_BYTES_MAX, Phrase, REASONS_MAX};
pub use mouth::Mouth;
pub use signals::{FATAL_SIGNALS, FatalSignal, install};

use crate::atomic::{AtomicU64, Ordering};
use core::fmt;
use memory::Memory;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

/// Each datagram goes to each destination so often.
pub const COPIES: usize = 3;
/// Room in a socket for all copies to all peers; the kernel gives what it allows.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// One way to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// This node's address on the rail; its port does not matter.
    pub local: SocketAddr,
    /// Where the peer listens on the rail.
    pub remote: SocketAddr,
}

/// Why last words could not be prepared.
#[derive(Debug)]
pub enum LastWordsRefusal {
    /// No socket on a rail.
    Socket {
        /// This node's address on it.
        local: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No memory.
    Memory(io::Error),
}

impl fmt::Display for LastWordsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LastWordsRefusal::Socket { local, .. } => {
                write!(f, "no socket for distress signals on {}: does this machine own it?", local.ip())
            }
            LastWordsRefusal::Memory(_) => write!(f, "no memory for distress signals"),
        }
    }
}

impl std::error::Error for LastWordsRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LastWordsRefusal::Socket { source, .. } | LastWordsRefusal::Memory(source) => Some(source),
        }
    }
}

/// Last words, ready to be said. Formed by [`LastWords::form`], said by [`LastWords::say`].
#[derive(Debug)]
pub struct LastWords {
    memory: Memory,
    banks: Banks,
    /// The level that [`LastWords::say`] speaks at.
    level: AtomicU64,
    /// One bit for each (reason, level) that was said, two for "some last reason, at this level".
    said: AtomicU64,
    /// Reasons after which no other of them is said.
    last: u64,
    /// Kept open; their descriptors stand in the memory.
    _sockets: Vec<UdpSocket>,
    mark: Option<File>,
    forming: Mutex<()>,
}

/// The bits of [`LastWords::said`] that stand for all last reasons.
const LAST_SAID: usize = 62;
const _: () = assert!(REASONS_MAX * LEVELS <= LAST_SAID);

impl LastWords {
    /// Opens the sockets and locks the memory for `reasons` reasons. `is_last`: whether anything is still to
    /// be said after this reason; of those after which nothing is, only the first is said. `mark`: a file,
    /// open for writing, that takes the mark at its beginning.
    pub fn prepare(
        destinations: &[Destination],
        reasons: usize,
        is_last: impl Fn(usize) -> bool,
        mark: Option<File>,
    ) -> Result<LastWords, LastWordsRefusal> {
        assert!(reasons <= REASONS_MAX, "{reasons} reasons, room for {REASONS_MAX}");
        let mut destinations = destinations.to_vec();
        for destination in &mut destinations {
            destination.local.set_port(0);
        }
        destinations.sort();
        destinations.dedup();
        let mut sockets: Vec<(SocketAddr, UdpSocket)> = Vec::new();
        let mut targets = Vec::with_capacity(destinations.len());
        for Destination { local, remote } in destinations {
            if sockets.last().is_none_or(|(known, _)| *known != local) {
                sockets.push((local, open(local)?));
            }
            let descriptor = sockets.last().map_or(-1, |(_, socket)| socket.as_raw_fd());
            targets.push((descriptor, remote));
        }
        let memory = Memory::new(reasons, &targets).map_err(LastWordsRefusal::Memory)?;
        let last = (0..reasons).filter(|reason| is_last(*reason)).fold(0, |mask, reason| mask | 1 << reason);
        Ok(LastWords {
            memory,
            banks: Banks::new(),
            level: AtomicU64::new(0),
            said: AtomicU64::new(0),
            last,
            _sockets: sockets.into_iter().map(|(_, socket)| socket).collect(),
            mark,
            forming: Mutex::new(()),
        })
    }

    /// Forms every phrase anew. `false`: somebody speaks already, and what was formed before stays.
    pub fn form(&self, mut phrase: impl FnMut(usize, usize) -> Phrase) -> bool {
        let _one_at_a_time = self.forming.lock().unwrap_or_else(PoisonError::into_inner);
        self.banks.form(|bank| {
            for reason in 0..self.memory.reasons() {
                for level in 0..LEVELS {
                    self.memory.write(bank, reason, level, &phrase(reason, level));
                }
            }
        })
    }

    /// From now on the higher level is said, if it is true.
    pub fn raise_level(&self) {
        self.level.store(LEVELS as u64 - 1, Ordering::SeqCst);
    }

    /// Says it: [`COPIES`] to every destination, then the mark. Returns how many datagrams left; `None`: it
    /// was said before. Async-signal-safe: no allocation, no lock, no wait for the network.
    pub fn say(&self, reason: usize) -> Option<usize> {
        if reason >= self.memory.reasons() {
            return None;
        }
        let level = (self.level.load(Ordering::SeqCst) as usize).min(LEVELS - 1);
        let bank = self.banks.speak();
        let is_last = self.last >> reason & 1 == 1;
        let bit = if is_last { LAST_SAID + level } else { reason * LEVELS + level };
        if self.said.fetch_or(1 << bit, Ordering::SeqCst) >> bit & 1 == 1 {
            return None;
        }
        let mut left = 0;
        // Round by round, so that a burst of loss does not take all copies for one peer.
        for _ in 0..COPIES {
            left += self.memory.send(bank, reason, level);
        }
        if let Some(mark) = &self.mark {
            self.memory.mark(bank, reason, level, mark.as_raw_fd());
        }
        Some(left)
    }

    /// Whether anything was said.
    pub fn has_spoken(&self) -> bool {
        self.banks.has_spoken()
    }

    /// Puts the mark on disk. Waits for the disk: not for a dying thread.
    pub fn sync_mark(&self) -> io::Result<()> {
        self.mark.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// Passes another node's words on, one copy to every destination. What does not leave is lost.
    pub fn relay(&self, bytes: &[u8]) {
        self.memory.relay(bytes);
    }

    /// Whether the kernel keeps the memory from being paged out; else a dying process may wait for its swap.
    pub fn is_locked(&self) -> bool {
        self.memory.is_locked()
    }
}

fn open(local: SocketAddr) -> Result<UdpSocket, LastWordsRefusal> {
    let refused = |source| LastWordsRefusal::Socket { local, source };
    let socket = UdpSocket::bind(local).map_err(refused)?;
    socket.set_nonblocking(true).map_err(refused)?;
    // The default is enough for most; more is a favour.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES);
    Ok(socket)
}
