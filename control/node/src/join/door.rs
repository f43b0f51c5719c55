//! The join port, and knocking at it.
//!
//! A thread of its own takes connections, so that no stranger is ever in the way of data. It holds a few at
//! once; each has one limit of time for all that it says, however slowly it says it.

use super::exchange::{ExchangeFault, ask, hear};
use super::request::{JoinAnswer, JoinRequest};
use super::token::{JoinToken, TokenId, TokenSecret};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Conversations at once; one more is hung up on.
const CONVERSATIONS_MAX: usize = 8;
/// All that a newcomer says must have come within this time, and be taken within as much again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a newcomer waits for a connection.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long it waits for all of the answer: the cluster may be electing a leader.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// A stream on which all that is said must be said before a moment.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(room)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The join port cannot be opened. The node works without it; nobody joins through it.
#[derive(Debug)]
pub struct DoorRefusal {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

impl fmt::Display for DoorRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot listen for joining machines at {} ({}): machines join through other nodes",
            self.address, self.source
        )
    }
}

impl std::error::Error for DoorRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// What the door needs to know and to ask. Called on threads of the door's.
pub trait Doorkeeper: Send + Sync + 'static {
    /// The secret of a token.
    fn secret(&self, id: TokenId) -> TokenSecret;
    /// Asks the cluster. May take as long as the cluster needs, not for ever.
    fn decide(&self, id: TokenId, request: JoinRequest) -> JoinAnswer;
}

/// The open join port; closed when dropped.
pub struct Door {
    address: SocketAddr,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Door({})", self.address)
    }
}

impl Door {
    /// Opens the port and starts its thread.
    pub fn open(address: SocketAddr, keeper: Arc<dyn Doorkeeper>) -> Result<Door, DoorRefusal> {
        let refused = |source| DoorRefusal { address, source };
        let listener = TcpListener::bind(address).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let closing = Arc::new(AtomicBool::new(false));
        let closed = closing.clone();
        let thread = std::thread::Builder::new()
            .name("netdisk-door".into())
            .spawn(move || watch(&listener, &keeper, &closed))
            .map_err(refused)?;
        Ok(Door { address, closing, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        // The thread sleeps in accept until somebody comes.
        let mut own = self.address;
        match own {
            SocketAddr::V4(v4) if v4.ip().is_unspecified() => own.set_ip(Ipv4Addr::LOCALHOST.into()),
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => own.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let woken = TcpStream::connect_timeout(&own, Duration::from_secs(1)).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // It panicked or it ended: both are the end of it.
            let _ = thread.join();
        }
    }
}

fn watch(listener: &TcpListener, keeper: &Arc<dyn Doorkeeper>, closing: &AtomicBool) {
    let live = Arc::new(AtomicUsize::new(0));
    loop {
        let taken = listener.accept();
        if closing.load(Ordering::Relaxed) {
            return;
        }
        let (stream, from) = match taken {
            Ok(taken) => taken,
            Err(fault) => {
                // No descriptor left, for one: it comes again at once, so it must not become a busy loop.
                tracing::debug!("join port: {fault}");
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        if live.load(Ordering::Relaxed) >= CONVERSATIONS_MAX {
            continue;
        }
        live.fetch_add(1, Ordering::Relaxed);
        let (keeper, counted) = (keeper.clone(), live.clone());
        let started = std::thread::Builder::new().name("netdisk-join".into()).spawn(move || {
            converse(stream, from, keeper.as_ref());
            counted.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            live.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn converse(stream: TcpStream, from: SocketAddr, keeper: &dyn Doorkeeper) {
    let timed = Timed { stream, until: Instant::now() + PATIENCE };
    let answered = hear(timed, |id| keeper.secret(id)).and_then(|mut heard| {
        let request = heard.request.clone();
        tracing::info!(name = request.name, host = %request.host, %from, "a machine asks to join");
        let answer = keeper.decide(heard.id, request);
        heard.stream().until = Instant::now() + PATIENCE;
        heard.answer(&answer)
    });
    if let Err(fault) = answered {
        tracing::debug!(%from, "join port: {fault}");
    }
}

/// Knocks at one address and asks to be let in.
pub fn knock(
    address: SocketAddr,
    token: &JoinToken,
    request: &JoinRequest,
) -> Result<JoinAnswer, ExchangeFault> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_WAIT_MAX)?;
    ask(Timed { stream, until: Instant::now() + ANSWER_WAIT_MAX }, token, request)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::join::{Fingerprint, Welcome};
    use parking_lot::Mutex;
    use transport_proto::cluster_key::ClusterKey;

    /// Lets in whoever comes; remembers who came.
    struct Friendly(ClusterKey, Mutex<Vec<String>>);

    impl Doorkeeper for Friendly {
        fn secret(&self, id: TokenId) -> TokenSecret {
            TokenSecret::of(&self.0, id)
        }

        fn decide(&self, _: TokenId, request: JoinRequest) -> JoinAnswer {
            self.1.lock().push(request.name);
            JoinAnswer::Welcome(Box::new(Welcome { cluster: "north".into(), node: 2, genesis: vec![1] }))
        }
    }

    fn token(key: &ClusterKey, contact: SocketAddr) -> JoinToken {
        let id = TokenId([9; 16]);
        let (secret, fingerprint) = (TokenSecret::of(key, id), Fingerprint::of(key));
        JoinToken { id, secret, fingerprint, expires_unix_ms: 0, contacts: vec![contact] }
    }

    fn request() -> JoinRequest {
        let host = Ipv4Addr::LOCALHOST.into();
        let (release, name) = ("1".into(), "beta".into());
        JoinRequest {
            nonce: [0; 16],
            release,
            name,
            host,
            id: None,
            port_base: None,
            rails: vec![],
            dry_run: false,
        }
    }

    fn door() -> (Door, Arc<Friendly>) {
        let keeper = Arc::new(Friendly(ClusterKey::derive("north", b"0123456789abcdef"), Mutex::default()));
        let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        (Door::open(any, keeper.clone()).unwrap(), keeper)
    }

    // proves: C3 T12
    #[test]
    fn strangers_that_say_nothing_are_cut_off_and_do_not_lock_the_door_for_ever() {
        let (door, keeper) = door();
        let token = token(&keeper.0, door.address());
        // As many as are held at once, silent, and one that says a letter now and then.
        let mut silent: Vec<TcpStream> =
            (0..CONVERSATIONS_MAX).map(|_| TcpStream::connect(door.address()).unwrap()).collect();
        silent[0].write_all(b"n").unwrap();
        // Each of them is hung up on by the node, without having got a byte.
        for stream in &mut silent {
            stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
            assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
        }
        assert!(matches!(knock(door.address(), &token, &request()), Ok(JoinAnswer::Welcome(_))));
        assert_eq!(*keeper.1.lock(), ["beta"]);
    }

    #[test]
    fn a_closed_door_frees_its_port_and_a_taken_port_is_named() {
        let (door, keeper) = door();
        let address = door.address();
        let refused = Door::open(address, keeper.clone()).unwrap_err();
        assert!(refused.to_string().contains(&address.to_string()));
        drop(door);
        drop(Door::open(address, keeper).unwrap());
    }
}
