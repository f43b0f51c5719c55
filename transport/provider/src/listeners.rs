//! The listeners: one a rail, and the callers that they bring in.

use crate::{ListenRefusal, RailName};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::io::ErrorKind;
use std::net::SocketAddr;

/// Callers taken from one listener in one poll at the most.
const ACCEPTS_MAX: usize = 16;

#[derive(Debug)]
struct Listener {
    rail: RailName,
    socket: TcpListener,
    /// `mio` said readable and no accept has found nothing since.
    readable: bool,
    /// The system refused a caller for want of something; tried again at each poll, but no reason to stay
    /// awake.
    failing: bool,
}

/// All listeners of a provider.
#[derive(Debug)]
pub struct Listeners {
    all: Vec<Option<Listener>>,
    /// Whether some listener may have a caller.
    expectant: bool,
}

/// A caller who was let in: the rail of the listener, the socket, who it is.
pub type Caller = (RailName, TcpStream, SocketAddr);

impl Listeners {
    /// Room for `listeners_max` of them.
    pub fn new(listeners_max: usize) -> Listeners {
        Listeners { all: (0..listeners_max).map(|_| None).collect(), expectant: false }
    }

    /// Listens on `address` for `rail`. Tokens of listeners begin at `first_token`.
    pub fn add(
        &mut self,
        registry: &Registry,
        first_token: usize,
        rail: RailName,
        address: &SocketAddr,
    ) -> Result<(), ListenRefusal> {
        let refusal = |source: std::io::Error| match source.kind() {
            ErrorKind::AddrInUse => ListenRefusal::InUse { address: address.to_string() },
            _ => ListenRefusal::Os { address: address.to_string(), source },
        };
        let Some(index) = self.all.iter().position(Option::is_none) else {
            return Err(refusal(ErrorKind::QuotaExceeded.into()));
        };
        let mut socket = crate::socket::listen(address).map_err(refusal)?;
        let token = Token(first_token + index);
        registry.register(&mut socket, token, Interest::READABLE).map_err(refusal)?;
        self.all[index] = Some(Listener { rail, socket, readable: false, failing: false });
        Ok(())
    }

    /// Ends listening for `rail`.
    pub fn remove(&mut self, registry: &Registry, rail: RailName) {
        for place in &mut self.all {
            if let Some(mut listener) = place.take_if(|listener| listener.rail == rail) {
                // Closing the socket ends the watch all the same.
                let _ = registry.deregister(&mut listener.socket);
            }
        }
    }

    /// Where `rail` is listened for.
    pub fn address(&self, rail: RailName) -> Option<SocketAddr> {
        let listener = self.all.iter().flatten().find(|listener| listener.rail == rail)?;
        listener.socket.local_addr().ok()
    }

    /// `mio` called listener `index` readable.
    pub fn mark_readable(&mut self, index: usize) {
        if let Some(Some(listener)) = self.all.get_mut(index) {
            listener.readable = true;
            self.expectant = true;
        }
    }

    /// Whether a caller may be waiting.
    pub fn is_expectant(&self) -> bool {
        self.all.iter().flatten().any(|listener| listener.readable)
    }

    /// Gives each waiting caller, up to a limit, to `take`. Costs nothing while there can be none.
    pub fn accept(&mut self, mut take: impl FnMut(Caller)) {
        if !self.expectant {
            return;
        }
        for listener in self.all.iter_mut().flatten().filter(|listener| listener.readable || listener.failing)
        {
            for _ in 0..ACCEPTS_MAX {
                match listener.socket.accept() {
                    Ok((stream, peer)) => take((listener.rail, stream, peer)),
                    Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => (),
                    Err(e) => {
                        listener.readable = false;
                        listener.failing = e.kind() != ErrorKind::WouldBlock;
                        break;
                    }
                }
            }
        }
        self.expectant = self.all.iter().flatten().any(|listener| listener.readable || listener.failing);
    }
}
