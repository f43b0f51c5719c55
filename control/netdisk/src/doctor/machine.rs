//! What this machine tells about what is wrong: room, locked memory, clock, releases.

use super::checks::{Finding, Severity};
use control_node::report::Status;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Least room for the log of the configuration, bytes.
const ROOM_BYTES_MIN: u64 = 64 << 20;
/// Locked memory that a node wants for what must not be swapped, bytes.
const LOCKED_BYTES_MIN: u64 = 8 << 20;
/// A clock that was stepped by more is worth a word, s.
const STEP_S_MAX: u64 = 5;

pub(super) fn check(socket: &Path, status: &Status) -> Vec<Finding> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    let mut found = Vec::new();
    if let Ok(system) = rustix::fs::statvfs(folder) {
        let (free, all) = (system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize);
        found.extend(room(&folder.display().to_string(), free, all));
    }
    let limits =
        process_of(socket).and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/limits")).ok());
    found.extend(limits.as_deref().and_then(locked_memory).and_then(locked));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    found.extend(clock(now, status.incarnation / 1_000_000_000, status.uptime_s));
    found.extend(release(env!("CARGO_PKG_VERSION"), status.release.as_deref()));
    found
}

fn warning(what: String, help: &str) -> Finding {
    Finding { severity: Severity::Warning, what, help: help.into() }
}

/// The process at the other end of a socket.
fn process_of(socket: &Path) -> Option<i32> {
    let stream = UnixStream::connect(socket).ok()?;
    let credentials = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    Some(credentials.pid.as_raw_nonzero().get())
}

fn room(folder: &str, free: u64, all: u64) -> Option<Finding> {
    let low = free < ROOM_BYTES_MIN || free < all / 50;
    let what = format!("{} MiB are free under {folder}, where the configuration is kept", free >> 20);
    let severity = if free < ROOM_BYTES_MIN / 8 { Severity::Wrong } else { Severity::Warning };
    low.then(|| Finding { severity, what, help: format!("df -h {folder}, and make room") })
}

/// The soft limit of locked memory in a text of /proc/PID/limits; `None` for no limit.
fn locked_memory(limits: &str) -> Option<u64> {
    let line = limits.lines().find(|line| line.starts_with("Max locked memory"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

fn locked(limit: u64) -> Option<Finding> {
    let what = format!("the node may lock {} KiB of memory only", limit >> 10);
    let help = "LimitMEMLOCK=infinity in its unit, or ulimit -l unlimited before it starts";
    (limit < LOCKED_BYTES_MIN).then(|| warning(what, help))
}

/// A life begins with the time of its start; what does not fit to how long it has run since is a step.
fn clock(now_s: u64, started_s: u64, uptime_s: u64) -> Option<Finding> {
    let off = now_s.abs_diff(started_s + uptime_s);
    let what = format!("the clock of this machine was stepped by {off} s since the node started");
    (off > STEP_S_MAX).then(|| warning(what, "timedatectl, and let the clock be disciplined"))
}

fn release(own: &str, node: Option<&str>) -> Option<Finding> {
    let node = node?;
    let what = format!("the node runs release {node}, this program is {own}");
    (node != own).then(|| warning(what, "start the node again, so that it runs this release"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;

    #[test]
    fn little_room_is_told_before_there_is_none() {
        assert!(room("/s", 10 << 30, 100 << 30).is_none());
        assert_eq!(room("/s", 1 << 30, 100 << 30).unwrap().severity, Severity::Warning);
        assert_eq!(room("/s", 1 << 20, 100 << 30).unwrap().severity, Severity::Wrong);
    }

    #[test]
    fn the_limit_of_locked_memory_is_read_from_the_kernels_table() {
        let table = "Limit                     Soft Limit           Hard Limit           Units     \n\
                     Max locked memory         65536                65536                bytes     \n";
        assert_eq!(locked_memory(table), Some(65536));
        assert!(locked(65536).unwrap().what.contains("64 KiB"));
        assert_eq!(locked_memory(&table.replace("65536", "unlimited")), None);
        assert_eq!(locked_memory("nonsense"), None);
        assert!(locked(64 << 20).is_none());
    }

    #[test]
    fn a_stepped_clock_and_an_old_node_are_told() {
        assert!(clock(1000, 900, 99).is_none());
        assert!(clock(1000, 900, 50).unwrap().what.contains("50 s"));
        assert!(release("2", Some("2")).is_none() && release("2", None).is_none());
        assert!(release("2", Some("1")).unwrap().what.contains("release 1"));
    }
}
