//! The seqpacket socket beside a connection: listen, dial, datagrams with descriptors, and who is at the
//! other end.

use crate::grant::GRANT_DESCRIPTORS;
use core::mem::MaybeUninit;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::PidfdFlags;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use transport_provider::ListenRefusal;

/// Bytes that are looked at in a datagram; no datagram of ours is longer.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 320;
/// Peers that may wait to be accepted.
const BACKLOG: i32 = 64;

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Waits for peers under an abstract name.
pub(crate) fn listen(address: &str) -> Result<OwnedFd, ListenRefusal> {
    let bound = || {
        let socket = socket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(address.as_bytes())?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    bound().map_err(|errno: Errno| match errno {
        Errno::ADDRINUSE => ListenRefusal::InUse { address: address.to_string() },
        errno => ListenRefusal::Os { address: address.to_string(), source: errno.into() },
    })
}

/// A socket to be connected by [`connect`].
pub(crate) fn dialing() -> Result<OwnedFd, Errno> {
    socket()
}

/// Connects at once or not at all: a UNIX socket has no way in between.
pub(crate) fn connect(socket: &OwnedFd, address: &str) -> Result<(), Errno> {
    rustix::net::connect(socket, &SocketAddrUnix::new_abstract_name(address.as_bytes())?)
}

/// The next peer that waits; `None` if there is none.
pub(crate) fn accept(listener: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    match rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Ends both directions; the peer sees it once it has read what was sent before.
pub(crate) fn shut_down(socket: &OwnedFd) {
    // It fails only where the peer is gone already, which is what is wanted.
    let _gone_already = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

/// Sends one datagram. [`Errno::AGAIN`]: no room now.
pub(crate) fn send(
    socket: &OwnedFd,
    parts: &[IoSlice<'_>],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(GRANT_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors)),
            "as many as there is space for"
        );
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, parts, &mut ancillary, flags).map(|_whole_datagram| ())
}

/// What a look at the socket brought.
pub(crate) enum Reception {
    /// A datagram of this many bytes; `descriptors` came with it.
    Datagram {
        /// Bytes in the buffer.
        length: usize,
        /// What came with it, in order.
        descriptors: Vec<OwnedFd>,
    },
    /// A datagram that is longer than any of ours.
    Oversized,
    /// A datagram whose descriptors this process had no room for.
    NoDescriptors,
    /// Nothing now.
    Nothing,
    /// The peer closed its end or is dead, and all that it sent has been read.
    End,
}

/// Reads one datagram.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8; DATAGRAM_BYTES_MAX]) -> Reception {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(GRANT_DESCRIPTORS))];
    loop {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut parts = [IoSliceMut::new(buffer)];
        let message = match rustix::net::recvmsg(socket, &mut parts, &mut ancillary, flags) {
            Ok(message) => message,
            // The peer closed with our datagrams unread. Said once; what it sent before can still be read.
            Err(Errno::CONNRESET | Errno::INTR) => continue,
            Err(Errno::AGAIN) => return Reception::Nothing,
            Err(_) => return Reception::End,
        };
        let mut descriptors = Vec::new();
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                descriptors.extend(rights);
            }
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Reception::Oversized;
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Reception::NoDescriptors;
        }
        if message.bytes == 0 {
            return Reception::End;
        }
        return Reception::Datagram { length: message.bytes, descriptors };
    }
}

/// A descriptor that becomes readable when the process at the other end ends; `None` where the kernel has
/// none to give. The socket's end tells the same, unless the peer left a copy of the socket to a child.
pub(crate) fn peer_process(socket: &OwnedFd) -> Option<OwnedFd> {
    peer_pidfd(socket).or_else(|| {
        let credentials = rustix::net::sockopt::socket_peercred(socket).ok()?;
        rustix::process::pidfd_open(credentials.pid, PidfdFlags::NONBLOCK).ok()
    })
}

fn peer_pidfd(socket: &OwnedFd) -> Option<OwnedFd> {
    /// `asm-generic/socket.h`, Linux 6.5.
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut descriptor: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointers are to locals of the lengths given, and the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut descriptor).cast(),
            &raw mut length,
        )
    };
    if result != 0 || descriptor < 0 {
        return None;
    }
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Rings an eventfd.
pub(crate) fn ring(bell: &OwnedFd) {
    // A counter at its limit is a bell that rings already; any other failure means that nobody is left to
    // wake.
    let _rings_already = rustix::io::write(bell, &1u64.to_ne_bytes());
}
