//! Sockets the way rails want them: bound to the rail's address, without delay, never blocking.

use mio::net::{TcpListener, TcpStream};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Callers that the kernel keeps waiting for one listener at the most.
const BACKLOG: i32 = 128;

fn stream_socket(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(family, SocketType::STREAM, flags, None)
}

/// A listener on `address`. A port left over from connections of an earlier life is no obstacle, a live
/// listener is.
pub fn listen(address: &SocketAddr) -> io::Result<TcpListener> {
    let socket = stream_socket(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// How a dial began.
#[derive(Debug)]
pub enum Dial {
    /// It is under way, or done; the socket becomes writable.
    Begun(TcpStream),
    /// The peer's host, or the way to it, refused at once.
    Refused,
}

/// Begins to connect to `address` from an unused port of `local`'s address.
pub fn dial(local: &SocketAddr, address: &SocketAddr, send_bytes: Option<usize>) -> io::Result<Dial> {
    let socket = stream_socket(address)?;
    let mut local = *local;
    local.set_port(0);
    if !local.ip().is_unspecified() {
        rustix::net::bind(&socket, &local)?;
    }
    tune(&socket, send_bytes)?;
    match rustix::net::connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(Dial::Begun(TcpStream::from_std(socket.into()))),
        Err(Errno::CONNREFUSED | Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::TIMEDOUT) => {
            Ok(Dial::Refused)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// What every connection's socket gets.
pub fn tune(socket: impl std::os::fd::AsFd, send_bytes: Option<usize>) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(bytes) = send_bytes {
        sockopt::set_socket_send_buffer_size(&socket, bytes)?;
    }
    Ok(())
}

/// Whether a dialed socket got through: `None` while it is still trying. A port of this host's own that
/// happened to dial itself (nobody listens, the kernel picked the very port as source) is nobody's answer.
pub fn dialed(stream: &TcpStream) -> Option<bool> {
    match stream.take_error() {
        Ok(None) => (),
        Ok(Some(_)) | Err(_) => return Some(false),
    }
    match (stream.peer_addr(), stream.local_addr()) {
        (Ok(peer), Ok(local)) => Some(peer != local),
        (Err(e), _) if e.kind() == io::ErrorKind::NotConnected => None,
        _ => Some(false),
    }
}

/// Whether the peer has ended the connection, perhaps with data still unread.
pub fn is_ended(stream: &TcpStream) -> bool {
    let mut watched = [PollFd::new(stream, PollFlags::RDHUP)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    rustix::event::poll(&mut watched, Some(&now)).is_ok() && watched[0].revents().intersects(ended)
}
