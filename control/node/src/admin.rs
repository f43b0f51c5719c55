//! The admin socket: one JSON request a line, one JSON answer a line. A thread of its own takes connections;
//! what it is asked is answered by the reactor between two rounds, so an answer shows one moment of the node.

use crate::distress::Alarm;
use control_proto::distress::Reason;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::fs::Permissions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// What the admin socket is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The node's status.
    Status,
    /// Cut a rail's connections here and mute its heartbeats, as a pulled cable would, until it is mended.
    CutRail {
        /// Logical link.
        link: u8,
        /// Rail.
        rail: u8,
    },
    /// Undo [`Request::CutRail`].
    MendRail {
        /// Logical link.
        link: u8,
        /// Rail.
        rail: u8,
    },
    /// The power is gone: tell the others, drain, end, and stay out until cleared.
    PowerFail,
    /// Stop cleanly.
    Stop,
}

/// Requests that wait for the reactor at the most; one more is told to come again.
const WAITING_MAX: usize = 32;
/// Connections at once.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of a request at the most.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// A client that sends nothing for so long is hung up on, and the reactor must answer within it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request and where its answer goes.
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) answer: SyncSender<String>,
}

/// Requests on their way to the reactor.
pub(crate) struct Desk {
    asked: Mutex<VecDeque<Asked>>,
    any: AtomicBool,
    waker: Arc<mio::Waker>,
    alarm: Alarm,
}

impl Desk {
    /// The oldest request.
    #[inline]
    pub(crate) fn take(&self) -> Option<Asked> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let mut asked = self.asked.lock();
        let first = asked.pop_front();
        self.any.store(!asked.is_empty(), Ordering::Relaxed);
        first
    }

    fn ask(&self, request: Request) -> Option<String> {
        let (answer, answered) = sync_channel(1);
        {
            let mut asked = self.asked.lock();
            if asked.len() >= WAITING_MAX {
                return None;
            }
            asked.push_back(Asked { request, answer });
            self.any.store(true, Ordering::Relaxed);
        }
        self.waker.wake().ok()?;
        answered.recv_timeout(PATIENCE).ok()
    }
}

/// Why there is no admin socket.
#[derive(Debug)]
pub enum AdminRefusal {
    /// A live process answers at the path.
    InUse(PathBuf),
    /// Something that is no socket is at the path; it is not replaced.
    NotASocket(PathBuf),
    /// The system refused.
    System(PathBuf, io::Error),
}

impl fmt::Display for AdminRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminRefusal::InUse(path) => {
                write!(f, "admin socket {} is in use: this node is running already", path.display())
            }
            AdminRefusal::NotASocket(path) => {
                write!(
                    f,
                    "{} is there and no socket: move it away, or choose another with --socket",
                    path.display()
                )
            }
            AdminRefusal::System(path, _) => {
                write!(f, "cannot open admin socket {}: choose another with --socket", path.display())
            }
        }
    }
}

impl std::error::Error for AdminRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AdminRefusal::InUse(_) | AdminRefusal::NotASocket(_) => None,
            AdminRefusal::System(_, source) => Some(source),
        }
    }
}

/// The open socket; its file goes when this is dropped.
pub(crate) struct Admin {
    path: PathBuf,
    pub(crate) desk: Arc<Desk>,
}

impl Drop for Admin {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Admin {
    /// Opens the socket and starts its thread. A file left behind by a dead process is replaced.
    pub(crate) fn open(path: &Path, waker: Arc<mio::Waker>, alarm: Alarm) -> Result<Admin, AdminRefusal> {
        let refused = |source| AdminRefusal::System(path.to_path_buf(), source);
        if UnixStream::connect(path).is_ok() {
            return Err(AdminRefusal::InUse(path.to_path_buf()));
        }
        match std::fs::symlink_metadata(path) {
            Ok(there) if there.file_type().is_socket() => std::fs::remove_file(path).map_err(refused)?,
            Ok(_) => return Err(AdminRefusal::NotASocket(path.to_path_buf())),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(refused)?;
        // Whoever may connect may stop the node.
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(refused)?;
        let desk = Arc::new(Desk { asked: Mutex::default(), any: AtomicBool::new(false), waker, alarm });
        let served = desk.clone();
        std::thread::Builder::new()
            .name("netdisk-admin".into())
            .spawn(move || serve(&listener, &served))
            .map_err(refused)?;
        Ok(Admin { path: path.to_path_buf(), desk })
    }
}

fn serve(listener: &UnixListener, desk: &Arc<Desk>) {
    let live = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if live.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            continue;
        }
        live.fetch_add(1, Ordering::Relaxed);
        let (desk, counted) = (desk.clone(), live.clone());
        let started = std::thread::Builder::new().name("netdisk-admin-client".into()).spawn(move || {
            // A client that breaks off has got what it wanted.
            let _ = converse(stream, &desk);
            counted.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            live.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn converse(stream: UnixStream, desk: &Desk) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while (&mut reader).take(REQUEST_BYTES_MAX).read_line(&mut line)? > 0 {
        let answer = match serde_json::from_str::<Request>(line.trim()) {
            Ok(request) => {
                if request == Request::PowerFail {
                    // Told by a thread that waits for nothing, whatever the reactor is busy with.
                    desk.alarm.raise(Reason::PowerFail);
                }
                desk.ask(request).unwrap_or_else(|| refusal("the node is busy; ask again"))
            }
            Err(fault) => refusal(&format!("not a request: {fault}")),
        };
        writer.write_all(answer.as_bytes())?;
        writer.write_all(b"\n")?;
        line.clear();
    }
    Ok(())
}

/// An answer that says no.
pub(crate) fn refusal(why: &str) -> String {
    serde_json::json!({ "error": why }).to_string()
}

/// Asks a node by its admin socket; the answer is one JSON value.
pub fn ask(path: &Path, request: &Request) -> io::Result<serde_json::Value> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let line = serde_json::to_string(request).map_err(io::Error::other)?;
    stream.write_all(line.as_bytes())?;
    stream.write_all(b"\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    serde_json::from_str(&answer).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;

    // proves: B8
    #[test]
    fn only_the_owner_may_ask_a_node_to_stop() {
        let path = std::env::temp_dir().join(format!("netdisk-admin-{}.sock", std::process::id()));
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let admin = Admin::open(&path, waker, Alarm::unheard()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(admin);
        assert!(!path.exists());
    }
}
