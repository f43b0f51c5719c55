//! Who is at the other end of a connection, as far as the kernel vouches for it (SPEC B8).

use std::fs;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, RawPid};

use super::stream::Stream;

/// A client, for the service to decide what it may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientIdentity {
    /// A process of this machine, on a UNIX socket: who it was when it connected.
    Local {
        /// Its user.
        user: u32,
        /// Its group.
        group: u32,
        /// Its further groups.
        groups: Vec<u32>,
    },
    /// Somebody on the network, whom nothing vouches for.
    Remote,
}

impl ClientIdentity {
    pub(super) fn of(stream: &Stream) -> ClientIdentity {
        let Stream::Unix(stream) = stream else { return ClientIdentity::Remote };
        match socket_peercred(stream) {
            Ok(peer) => {
                let user = peer.uid.as_raw();
                let groups = further_groups(peer.pid, user).unwrap_or_default();
                ClientIdentity::Local { user, group: peer.gid.as_raw(), groups }
            }
            // A kernel that does not say who it is: as good as a stranger.
            Err(_) => ClientIdentity::Remote,
        }
    }
}

/// The groups that a process has beside its own. The socket does not tell them, so the process is asked: one
/// that has ended since, and whose number another user's process bears now, has none.
fn further_groups(pid: Pid, user: u32) -> Option<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{}/status", RawPid::from(pid.as_raw_nonzero()))).ok()?;
    let numbers = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().filter_map(|number| number.parse().ok()).collect::<Vec<u32>>())
    };
    // Real, effective, saved, file system.
    (numbers("Uid:")?.get(1) == Some(&user)).then(|| numbers("Groups:"))?
}
