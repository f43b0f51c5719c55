//! How the NBD server is set up, and why it may not start.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::connection::ConnectionLimits;

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A UNIX socket. It appears under its name with mode and owner already set, and goes at a clean stop.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Permission bits; connecting needs write permission.
        mode: u32,
        /// User and group, or as the process has them.
        owner: Option<(u32, u32)>,
    },
    /// A TCP port, without encryption: for trusted networks and the loopback.
    Tcp(SocketAddr),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path, .. } => write!(f, "UNIX socket {}", path.display()),
            Self::Tcp(address) => write!(f, "TCP address {address}"),
        }
    }
}

/// Set-up of the server.
#[derive(Clone, Debug)]
pub struct NbdConfig {
    /// Where clients connect; at least one to be of use.
    pub listen: Vec<ListenAddress>,
    /// Connections at once, dead ones included until the service is done with their requests.
    pub connections_max: usize,
    /// How much one connection may have under way.
    pub limits: ConnectionLimits,
    /// A client that is still in its handshake after this time has to yield its place to a new one.
    pub handshake_timeout: Duration,
    /// Polls without a byte after which a socket is no longer tried directly but waits for its event.
    pub quiet_polls_max: u32,
}

impl Default for NbdConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            connections_max: 256,
            limits: ConnectionLimits::default(),
            handshake_timeout: Duration::from_secs(10),
            quiet_polls_max: 4096,
        }
    }
}

/// Why the server did not start. Nothing is left behind.
#[derive(Debug)]
pub enum StartRefusal {
    /// Another process answers at this address.
    InUse(ListenAddress),
    /// There is something at the path of the UNIX socket that is no socket.
    NotASocket(PathBuf),
    /// The token range has no room for the listeners and one connection.
    TooFewTokens {
        /// Tokens that are needed.
        needed: usize,
    },
    /// The system refused.
    System {
        /// Where.
        address: ListenAddress,
        /// What was attempted.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl fmt::Display for StartRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(address) => {
                write!(
                    f,
                    "{address} is in use by a live process; stop that process or choose another address"
                )
            }
            Self::NotASocket(path) => {
                write!(f, "{} exists and is no socket; remove it or choose another path", path.display())
            }
            Self::TooFewTokens { needed } => {
                write!(f, "the reactor must give the NBD server {needed} tokens")
            }
            Self::System { address, action, source } => write!(f, "cannot {action} {address}: {source}"),
        }
    }
}

impl std::error::Error for StartRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { source, .. } => Some(source),
            Self::InUse(_) | Self::NotASocket(_) | Self::TooFewTokens { .. } => None,
        }
    }
}
