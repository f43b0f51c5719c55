//! Logs on standard error: for people, or as JSON.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// What is logged unless somebody asks for other things. openraft tells every vote, and calls each node that
/// it cannot reach an error; what of it concerns people is told by `control-raft` in words of its own.
const USUAL: &str = "info,openraft=off";

/// Starts logging. `NETDISK_LOG` overrides the level (`debug`, `transport_endpoint=trace`, …).
pub(crate) fn start(json: bool) {
    let filter = EnvFilter::try_from_env("NETDISK_LOG").unwrap_or_else(|_| EnvFilter::new(USUAL));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.with_target(false).init();
    }
}
