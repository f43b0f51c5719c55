//! A socket to a process of this machine, and the three ways in which its reader may wait.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench_harness::spin_or_yield;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};

use super::wire::Wire;

/// Spins before a spinning end yields its core; each is a system call of ≈ 0.3 µs, so this is some
/// milliseconds.
const SPINS_MAX: u32 = 10_000;
/// An end that hears nothing for this long takes the other for dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How an end waits for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wait {
    /// The read itself sleeps.
    Blocking,
    /// `epoll_wait` sleeps, then the read finds bytes.
    Epoll,
    /// The read returns at once and is tried again and again.
    Spinning,
}

/// One end of a connection that carries messages of known length, one at a time in each direction.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Wire,
    wait: Wait,
    /// Only for [`Wait::Epoll`].
    poll: Option<(Poll, Events)>,
}

impl Socket {
    /// Sets the options that both sides of every comparison have: no delay, the same congestion control.
    ///
    /// # Errors
    /// The kernel refuses an option, for example a congestion control that it does not have.
    pub(crate) fn new(stream: Wire, wait: Wait, congestion: Option<&str>) -> Result<Self> {
        stream.set_options(congestion)?;
        stream.set_read_timeout(SILENCE_MAX)?;
        stream.set_nonblocking(wait != Wait::Blocking)?;
        let poll = match wait {
            Wait::Epoll => {
                let poll = Poll::new()?;
                poll.registry().register(
                    &mut SourceFd(&stream.as_fd().as_raw_fd()),
                    Token(0),
                    Interest::READABLE,
                )?;
                Some((poll, Events::with_capacity(8)))
            }
            Wait::Blocking | Wait::Spinning => None,
        };
        Ok(Self { stream, wait, poll })
    }

    /// Sends a whole message.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<()> {
        let mut sent = 0;
        while sent < message.len() {
            match self.stream.write(&message[sent..]) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => return Err(error).context("sending over a socket"),
            }
        }
        Ok(())
    }

    /// Receives a whole message; `false` if the other end closed between two messages.
    ///
    /// # Errors
    /// The connection broke, or nothing came for ten seconds.
    pub(crate) fn receive(&mut self, message: &mut [u8]) -> Result<bool> {
        let (mut received, mut turns, mut deadline) = (0, 0, None);
        // In a ping-pong nothing can have come since the last message was read whole, so epoll goes first.
        let mut wait_first = true;
        while received < message.len() {
            if let Some((poll, events)) = self.poll.as_mut().filter(|_| wait_first) {
                poll.poll(events, Some(SILENCE_MAX))?;
                if events.is_empty() {
                    bail!("the other end has been silent for {} s", SILENCE_MAX.as_secs());
                }
            }
            wait_first = false;
            match self.stream.read(&mut message[received..]) {
                Ok(0) if received == 0 => return Ok(false),
                Ok(0) => bail!("the connection ended inside a message"),
                Ok(bytes) => received += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.wait != Wait::Blocking => {
                    wait_first = true;
                    if self.wait == Wait::Spinning {
                        turns = spin_or_yield(turns, SPINS_MAX);
                        let silent_at = *deadline.get_or_insert_with(|| Instant::now() + SILENCE_MAX);
                        if turns > SPINS_MAX && Instant::now() > silent_at {
                            bail!("the other end has been silent for {} s", SILENCE_MAX.as_secs());
                        }
                    }
                }
                Err(error) => return Err(error).context("receiving over a socket"),
            }
        }
        Ok(true)
    }
}
