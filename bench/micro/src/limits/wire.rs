//! A stream between two processes of this machine: TCP on the loopback, or a UNIX socket.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::scratch::ScratchFolder;

/// Which kind of stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Family {
    /// TCP on the loopback.
    Tcp,
    /// A UNIX stream socket.
    Unix,
}

impl Family {
    /// As the table calls it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tcp => "raw TCP",
            Self::Unix => "raw UNIX socket",
        }
    }
}

/// Where a worker waits for its parent.
pub(crate) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, ScratchFolder),
}

impl Listening {
    /// Picks an address that is free.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn start(family: Family) -> Result<Self> {
        match family {
            Family::Tcp => Ok(Self::Tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)),
            Family::Unix => {
                let folder = ScratchFolder::create()?;
                let listener = UnixListener::bind(folder.path().join("socket"))?;
                Ok(Self::Unix(listener, folder))
            }
        }
    }

    /// What the parent is to be told.
    ///
    /// # Errors
    /// The socket has no address.
    pub(crate) fn address(&self) -> Result<String> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Self::Unix(_, folder) => Ok(folder.path().join("socket").display().to_string()),
        }
    }

    /// Waits for the parent.
    ///
    /// # Errors
    /// It does not come.
    pub(crate) fn accept(self) -> Result<Wire> {
        match self {
            Self::Tcp(listener) => Ok(Wire::Tcp(listener.accept()?.0)),
            Self::Unix(listener, _folder) => Ok(Wire::Unix(listener.accept()?.0)),
        }
    }
}

/// One end of a stream.
#[derive(Debug)]
pub(crate) enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Wire {
    /// Reaches the worker at the address that it told.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn connect(family: Family, address: &str) -> Result<Self> {
        let stream = match family {
            Family::Tcp => TcpStream::connect(address.parse::<SocketAddr>()?).map(Self::Tcp),
            Family::Unix => UnixStream::connect(address).map(Self::Unix),
        };
        stream.context("connecting to the worker")
    }

    /// No delay, and the congestion control if one is asked for; a UNIX socket has neither.
    ///
    /// # Errors
    /// The kernel refuses an option, for example a congestion control that it does not have.
    pub(crate) fn set_options(&self, congestion: Option<&str>) -> Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
        stream.set_nodelay(true)?;
        if let Some(name) = congestion {
            rustix::net::sockopt::set_tcp_congestion(stream, name)
                .with_context(|| format!("this kernel has no TCP congestion control {name:?}"))?;
        }
        Ok(())
    }

    pub(crate) fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(time)),
            Self::Unix(stream) => stream.set_read_timeout(Some(time)),
        }
    }

    pub(crate) fn set_nonblocking(&self, is: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(is),
            Self::Unix(stream) => stream.set_nonblocking(is),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
