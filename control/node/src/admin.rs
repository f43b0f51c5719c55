//! The admin socket: one JSON request a line, one JSON answer a line; `watch` alone is answered by many. A
//! thread of its own takes connections; what it is asked is answered by the reactor between two rounds, so an
//! answer shows one moment of the node.

use crate::distress::Alarm;
use control_proto::ccd::{COMMAND_BYTES_MAX, Change, Command, Expect, OperationId};
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
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use transport_proto::identity::{Incarnation, NodeId};

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
    /// Propose a change of the configuration.
    Propose {
        /// A [`control_proto::ccd::Command`] as it is encoded, in hexadecimal digits. Its operation id is
        /// given by the node.
        change: String,
        /// Only tell what it would do.
        #[serde(default)]
        dry_run: bool,
        /// Where it begins a reconfiguration: answer when that has ended.
        #[serde(default)]
        wait: bool,
    },
    /// The whole database, as a snapshot in hexadecimal digits.
    Database {
        /// With everything that any node was told is done; else as this node knows it.
        #[serde(default)]
        fresh: bool,
    },
    /// What changes, line by line, until the connection is closed.
    Watch {
        /// Begin after this index of the log; with what comes from now on if absent.
        #[serde(default)]
        since: Option<u64>,
    },
    /// The power is gone: tell the others, drain, end, and stay out until cleared.
    PowerFail,
    /// A join token, not yet known to the database: whoever asks proposes it.
    Invite {
        /// How long it is good.
        expires_s: u64,
    },
    /// Leave the cluster for good, and stop. Others have taken over what this node served.
    Leave,
    /// Stop cleanly.
    Stop,
}

impl Request {
    /// A proposal of a change, if these preconditions hold.
    pub fn propose(expect: Vec<Expect>, change: Change, dry_run: bool, wait: bool) -> Request {
        let operation = OperationId { node: NodeId(0), life: Incarnation(0), sequence: 0 };
        let bytes = Command { operation, expect, change }.encode();
        Request::Propose { change: to_hex(&bytes), dry_run, wait }
    }

    /// How long the reactor may take.
    fn patience(&self) -> Duration {
        match self {
            Request::Propose { wait: true, .. } => PATIENCE_LONG,
            _ => PATIENCE,
        }
    }
}

/// As lower-case hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        text
    })
}

/// Reads what [`to_hex`] wrote; `None` if it is not that.
pub fn of_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| (high << 4 | low) as u8).collect())
}

/// Requests that wait for the reactor at the most; one more is told to come again.
const WAITING_MAX: usize = 32;
/// Connections at once.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of a request at the most.
const REQUEST_BYTES_MAX: u64 = 2 * COMMAND_BYTES_MAX as u64 + (4 << 10);
/// A client that sends nothing for so long is hung up on, and the reactor must answer within it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for a reconfiguration that is waited for.
const PATIENCE_LONG: Duration = Duration::from_secs(120);
/// Lines on their way to one who watches; one that is further behind is hung up on.
const WATCHED_MAX: usize = 4096;

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

    /// Asks the reactor; `None`: it has no time.
    pub(crate) fn ask(&self, request: Request) -> Option<String> {
        let patience = request.patience();
        self.enter(request, 1)?.recv_timeout(patience).ok()
    }

    fn enter(&self, request: Request, answers: usize) -> Option<Receiver<String>> {
        let (answer, answered) = sync_channel(answers);
        {
            let mut asked = self.asked.lock();
            if asked.len() >= WAITING_MAX {
                return None;
            }
            asked.push_back(Asked { request, answer });
            self.any.store(true, Ordering::Relaxed);
        }
        self.waker.wake().ok()?;
        Some(answered)
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
            Ok(request @ Request::Watch { .. }) => return watch(writer, desk, request),
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

/// Passes lines on until the client or the reactor hangs up.
fn watch(mut writer: UnixStream, desk: &Desk, request: Request) -> io::Result<()> {
    let Some(lines) = desk.enter(request, WATCHED_MAX) else {
        writer.write_all(refusal("the node is busy; ask again").as_bytes())?;
        return writer.write_all(b"\n");
    };
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(mut line) => {
                line.push('\n');
                writer.write_all(line.as_bytes())?;
            }
            // A line that says nothing shows whether anybody listens still.
            Err(RecvTimeoutError::Timeout) => writer.write_all(b"\n")?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// An answer that says no.
pub(crate) fn refusal(why: &str) -> String {
    serde_json::json!({ "error": why }).to_string()
}

/// Watches a node by its admin socket: hands each line to `each` until that says `false`, or the node hangs
/// up.
pub fn watch_node(
    path: &Path,
    since: Option<u64>,
    mut each: impl FnMut(serde_json::Value) -> bool,
) -> io::Result<()> {
    let mut stream = UnixStream::connect(path)?;
    let line = serde_json::to_string(&Request::Watch { since }).map_err(io::Error::other)?;
    stream.write_all(line.as_bytes())?;
    stream.write_all(b"\n")?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if !line.is_empty() && !each(serde_json::from_str(&line).map_err(io::Error::other)?) {
            break;
        }
    }
    Ok(())
}

/// Asks a node by its admin socket; the answer is one JSON value.
pub fn ask(path: &Path, request: &Request) -> io::Result<serde_json::Value> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(request.patience()))?;
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

    #[test]
    fn hexadecimal_digits_are_read_as_they_were_written() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(of_hex(&to_hex(&bytes)), Some(bytes));
        assert_eq!((of_hex("abc"), of_hex("zz"), of_hex("")), (None, None, Some(Vec::new())));
    }

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
