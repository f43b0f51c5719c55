//! A benchmark of two processes, a server and a client that prints figures, each tied to a core.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench_harness::CorePair;

use super::limited;

/// How long a server may take to listen.
const START_WAIT_MAX: Duration = Duration::from_secs(10);
/// A client that takes longer hangs; turns are of seconds.
const RUN_MAX: Duration = Duration::from_secs(120);
/// Between two looks whether it does.
const START_LOOK_EVERY: Duration = Duration::from_millis(5);

/// Runs `program`: the server with these arguments, the client with those. Both get the port, which is free
/// when they do. Returns what the client printed.
///
/// # Errors
/// One of them cannot be started or failed; what it said is told.
pub(super) fn run(
    program: &str,
    cores: CorePair,
    environment: &[(&str, &str)],
    server: &dyn Fn(u16) -> Vec<String>,
    client: &dyn Fn(u16) -> Vec<String>,
) -> Result<String> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let mut listening = Command::new("taskset");
    listening.args(["-c", &cores.worker.0.to_string(), program]).args(server(port));
    listening.envs(environment.iter().copied()).stdin(Stdio::null());
    let child = listening.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut serving = Serving(child.with_context(|| format!("{program} cannot be started"))?);
    serving.wait_until_it_listens(program, port)?;
    let mut asking = limited::command("taskset", RUN_MAX);
    asking.args(["-c", &cores.ours.0.to_string(), program]).args(client(port));
    asking.envs(environment.iter().copied());
    let output = limited::output(asking, program)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The server's process. Dropping it kills it.
struct Serving(Child);

impl Serving {
    /// Looks in the kernel's table of sockets: a trial connection would be taken for the client.
    fn wait_until_it_listens(&mut self, program: &str, port: u16) -> Result<()> {
        let deadline = Instant::now() + START_WAIT_MAX;
        while !is_listening(port)? {
            if let Some(status) = self.0.try_wait()? {
                bail!("{program} as a server ended at once ({status})");
            }
            if Instant::now() > deadline {
                bail!("{program} did not listen within {} s", START_WAIT_MAX.as_secs());
            }
            std::thread::sleep(START_LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Both fail only if the process is gone already, which is what they are for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a TCP socket of this machine listens on the port.
pub(super) fn is_listening(port: u16) -> Result<bool> {
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // A kernel without IPv6 has no second table.
        let Ok(text) = std::fs::read_to_string(table) else { continue };
        if text.lines().any(|line| is_listening_line(line, port)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// State `0A` is LISTEN; addresses end in the port, four hexadecimal digits.
fn is_listening_line(line: &str, port: u16) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let (local, state) = (words.next(), words.nth(1));
    state == Some("0A") && local.is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::is_listening;

    #[test]
    fn a_listener_shows_in_the_kernels_table() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_listening(port).unwrap());
        drop(listener);
        assert!(!is_listening(port).unwrap());
    }
}
