//! The sockets that clients connect to: binding, replacing stale ones, leaving nothing behind.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use rustix::process::{getegid, geteuid};

use super::config::{ListenAddress, StartRefusal};
use super::stream::Stream;

/// One listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    pub(super) address: ListenAddress,
    /// The file that is ours to remove, by name and inode.
    file: Option<(PathBuf, u64)>,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    pub(super) fn bind(address: &ListenAddress) -> Result<Self, StartRefusal> {
        let failed = |action, source| StartRefusal::System { address: address.clone(), action, source };
        match address {
            ListenAddress::Tcp(tcp) => match TcpListener::bind(*tcp) {
                Ok(socket) => {
                    let bound = socket.local_addr().map_err(|source| failed("name", source))?;
                    Ok(Self { socket: Socket::Tcp(socket), address: ListenAddress::Tcp(bound), file: None })
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    Err(StartRefusal::InUse(address.clone()))
                }
                Err(source) => Err(failed("listen on", source)),
            },
            ListenAddress::Unix { path, mode, owner } => {
                make_way(path, address)?;
                let (socket, inode) =
                    bind_unix(path, *mode, *owner).map_err(|(action, source)| failed(action, source))?;
                let file = Some((path.clone(), inode));
                Ok(Self { socket: Socket::Unix(socket), address: address.clone(), file })
            }
        }
    }

    /// Gives the file of a UNIX socket another mode and owner; nothing to do for other sockets.
    pub(super) fn set_access(&mut self, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
        let Some((path, inode)) = &self.file else { return Ok(()) };
        if let ListenAddress::Unix { mode: known, owner: of, .. } = &mut self.address {
            if (*known, *of) == (mode, owner) || fs::symlink_metadata(path)?.ino() != *inode {
                return Ok(());
            }
            // At no moment is anybody let in who is let in neither before nor afterwards.
            fs::set_permissions(path, fs::Permissions::from_mode(*known & mode))?;
            let (user, group) = owner.unwrap_or_else(|| (geteuid().as_raw(), getegid().as_raw()));
            chown(path, Some(user), Some(group))?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            (*known, *of) = (mode, owner);
        }
        Ok(())
    }

    pub(super) fn source(&mut self) -> &mut dyn Source {
        match &mut self.socket {
            Socket::Unix(socket) => socket,
            Socket::Tcp(socket) => socket,
        }
    }

    /// The next client, and how to call it in the log.
    pub(super) fn accept(&self) -> io::Result<(Stream, String)> {
        match &self.socket {
            Socket::Unix(socket) => {
                let (stream, _) = socket.accept()?;
                Ok((Stream::Unix(stream), self.address.to_string()))
            }
            Socket::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                // Replies are written whole; waiting for more of them costs a round trip.
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), peer.to_string()))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some((path, inode)) = &self.file else { return };
        // Only our own file: another process may have replaced it by now.
        if fs::symlink_metadata(path).is_ok_and(|found| found.ino() == *inode) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Refuses a path that is taken by something alive or by something that is no socket.
fn make_way(path: &Path, address: &ListenAddress) -> Result<(), StartRefusal> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(StartRefusal::System { address: address.clone(), action: "look at", source });
        }
    };
    if !found.file_type().is_socket() {
        return Err(StartRefusal::NotASocket(path.to_owned()));
    }
    match BlockingUnixStream::connect(path) {
        // Nobody answers: left behind by a process that was killed. It is replaced by a rename below.
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
        Ok(_) => Err(StartRefusal::InUse(address.clone())),
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::WouldBlock) => {
            Err(StartRefusal::InUse(address.clone()))
        }
        Err(source) => Err(StartRefusal::System { address: address.clone(), action: "probe", source }),
    }
}

/// Binds beside the final name, sets mode and owner there, and then moves it into place in one step, so that
/// nobody connects before the permissions hold.
fn bind_unix(
    path: &Path,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<(UnixListener, u64), (&'static str, io::Error)> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(name);
    let _ = fs::remove_file(&beside);
    let socket = UnixListener::bind(&beside).map_err(|error| ("listen on", error))?;
    let place = || -> Result<u64, (&'static str, io::Error)> {
        fs::set_permissions(&beside, fs::Permissions::from_mode(mode)).map_err(|e| ("set the mode of", e))?;
        if let Some((user, group)) = owner {
            chown(&beside, Some(user), Some(group)).map_err(|e| ("set the owner of", e))?;
        }
        let inode = fs::symlink_metadata(&beside).map_err(|e| ("look at", e))?.ino();
        fs::rename(&beside, path).map_err(|e| ("move into place", e))?;
        Ok(inode)
    };
    match place() {
        Ok(inode) => Ok((socket, inode)),
        Err(failed) => {
            let _ = fs::remove_file(&beside);
            Err(failed)
        }
    }
}
