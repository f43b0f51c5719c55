//! The other end of an exchange: this very binary, started again as a process of its own.
//!
//! Parent and worker talk in JSON lines over the worker's standard input and output. A worker ends when its
//! parent drops it (killed by pid) or dies, so nothing outlives a run.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long a worker may take to say its next line. Far beyond any run: it only keeps a bug from hanging the
/// bench.
const WORD_WAIT_MAX: Duration = Duration::from_secs(120);

/// A running worker process. Dropping it kills the process and reaps it.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    role: String,
}

impl Worker {
    /// Starts this binary again with the hidden sub-command and its role as one JSON argument.
    ///
    /// Call it before [`crate::Pinned::to`]: a child inherits its parent's cores.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(sub_command: &str, role: &impl Serialize) -> Result<Self> {
        // /proc/self/exe rather than the path: it still names this very binary while a build replaces the
        // file.
        Self::spawn(Command::new("/proc/self/exe"), sub_command, role)
    }

    /// The same behind a program that becomes its arguments in another place, such as `ip netns exec NAME`.
    ///
    /// # Errors
    /// The process cannot be started, or this binary's path is not known.
    pub fn start_behind(prefix: &[&str], sub_command: &str, role: &impl Serialize) -> Result<Self> {
        let (program, arguments) = prefix.split_first().context("a prefix has a program")?;
        let mut command = Command::new(program);
        command.args(arguments).arg(std::env::current_exe().context("this binary has no path")?);
        Self::spawn(command, sub_command, role)
    }

    fn spawn(mut command: Command, sub_command: &str, role: &impl Serialize) -> Result<Self> {
        let role = serde_json::to_string(role)?;
        let mut child = command
            .args([sub_command, &role])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("worker {role} cannot be started"))?;
        let input = child.stdin.take().context("a piped child has a standard input")?;
        let output = BufReader::new(child.stdout.take().context("a piped child has a standard output")?);
        Ok(Self { child, input, output, role })
    }

    /// The worker's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends one line to the worker.
    ///
    /// # Errors
    /// The worker is gone.
    pub fn tell(&mut self, word: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(word)?;
        writeln!(self.input, "{line}").with_context(|| format!("worker {} is gone", self.role))
    }

    /// Waits for the worker's next line.
    ///
    /// # Errors
    /// The worker ended (its own error stands on standard error), said something else, or said nothing in
    /// time.
    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let deadline = Instant::now() + WORD_WAIT_MAX;
        while self.output.buffer().is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("worker {} said nothing for {} s", self.role, WORD_WAIT_MAX.as_secs());
            }
            let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let pipe = self.output.get_ref().as_fd();
            match poll(&mut [PollFd::from_borrowed_fd(pipe, PollFlags::IN)], Some(&limit)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => break,
                Err(error) => return Err(error).context("waiting for a worker's word"),
            }
        }
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("worker {} ended without a word; its reason stands above", self.role);
        }
        serde_json::from_str(&line).with_context(|| format!("worker {} said {line:?}", self.role))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only if the process is gone already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a worker, before anything else: asks the kernel to end this process when its parent's thread does, so
/// that a killed bench leaves no end spinning.
///
/// # Errors
/// The parent is gone already.
pub fn die_with_parent() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("asking for the parent's death")?;
    // A parent that died before that line sends no signal, but it closed its end of the pipe.
    let stdin = std::io::stdin();
    let mut pipe = [PollFd::new(&stdin, PollFlags::empty())];
    poll(&mut pipe, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if pipe[0].revents().contains(PollFlags::HUP) {
        bail!("the parent process is gone");
    }
    Ok(())
}

/// In a worker: says one line to the parent.
///
/// # Errors
/// The parent is gone.
pub fn tell_parent(word: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(word)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("the parent process is gone")
}

/// In a worker: waits for the parent's next line. `None` when the parent closed it: time to end.
///
/// # Errors
/// The parent said something else.
pub fn hear_from_parent<T: DeserializeOwned>() -> Result<Option<T>> {
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line)? == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).with_context(|| format!("the parent process said {line:?}"))
}
