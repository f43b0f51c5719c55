//! A client's socket, UNIX or TCP.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A connected, non-blocking socket.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// What a read from the socket brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The client is gone.
    Gone(Option<io::ErrorKind>),
}

impl Stream {
    pub(super) fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Unix(stream) => stream,
            Self::Tcp(stream) => stream,
        }
    }

    pub(super) fn read(&mut self, room: &mut [u8]) -> Arrival {
        arrival(match self {
            Self::Unix(stream) => stream.read(room),
            Self::Tcp(stream) => stream.read(room),
        })
    }

    pub(super) fn read_vectored(&mut self, rooms: &mut [IoSliceMut<'_>]) -> Arrival {
        arrival(match self {
            Self::Unix(stream) => stream.read_vectored(rooms),
            Self::Tcp(stream) => stream.read_vectored(rooms),
        })
    }

    pub(super) fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write_vectored(slices),
            Self::Tcp(stream) => stream.write_vectored(slices),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

/// Which of these clients have hung up, whatever bytes of theirs are still unread? One system call for all.
pub(super) fn hung_up<'a>(streams: impl Iterator<Item = &'a Stream>) -> Vec<bool> {
    let watch = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut descriptors: Vec<PollFd<'_>> = streams.map(|stream| PollFd::new(stream, watch)).collect();
    // An error leaves every answer empty; then the sockets' events tell, a little later.
    let _ = poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    descriptors.iter().map(|descriptor| descriptor.revents().intersects(watch)).collect()
}

fn arrival(result: io::Result<usize>) -> Arrival {
    match result {
        Ok(0) => Arrival::Gone(None),
        Ok(count) => Arrival::Bytes(count),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Arrival::Nothing,
            kind => Arrival::Gone(Some(kind)),
        },
    }
}
