//! NBD servers of others, each a process on a UNIX socket with a disk in memory.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

use super::Tool;
use super::nbd_server::{NbdServer, RunningNbdServer};
use crate::scratch::ScratchFolder;

/// How long a server may take to listen.
const START_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two looks whether it does.
const START_LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a server in the background may take to wait for the processes of clients that have left.
const CLIENTS_GONE_WAIT_MAX: Duration = Duration::from_secs(1);
const PID_FILE: &str = "pid";
/// Files here are memory.
const MEMORY_FOLDER: &str = "/dev/shm";

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NbdPeer {
    /// nbdkit with its memory plug-in.
    Nbdkit,
    /// qemu-nbd on a file in memory.
    QemuNbd,
    /// nbd-server on a file in memory.
    NbdServer,
}

impl NbdPeer {
    /// What has to be installed.
    pub(crate) fn tool(self) -> Tool {
        match self {
            Self::Nbdkit => Tool::Nbdkit,
            Self::QemuNbd => Tool::QemuNbd,
            Self::NbdServer => Tool::NbdServer,
        }
    }
}

/// A server with a disk of this size, as a contender's other end.
#[derive(Debug)]
pub(crate) struct NbdProcess {
    /// Which server.
    pub(crate) peer: NbdPeer,
    /// Bytes of the disk.
    pub(crate) disk_bytes: u64,
}

impl NbdServer for NbdProcess {
    fn name(&self) -> String {
        match self.peer {
            NbdPeer::Nbdkit => "nbdkit memory".to_owned(),
            NbdPeer::QemuNbd => "qemu-nbd, tmpfs".to_owned(),
            NbdPeer::NbdServer => "nbd-server, tmpfs".to_owned(),
        }
    }

    fn start(&self) -> Result<Box<dyn RunningNbdServer>> {
        let folder = ScratchFolder::create_in(Path::new(MEMORY_FOLDER))?;
        let (socket, disk) = (folder.path().join("nbd.sock"), folder.path().join("disk"));
        if self.peer != NbdPeer::Nbdkit {
            fs::File::create(&disk)?.set_len(self.disk_bytes)?;
        }
        if self.goes_to_the_background() {
            // Its launcher leaves it to us, so that what it uses counts as ours once it was waited for. In
            // the foreground (-d) it serves one connection and ends.
            set_child_subreaper(Some(getpid())).context("orphans cannot be taken over")?;
        }
        let mut command = self.command(folder.path(), &socket, &disk)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.with_context(|| format!("{} cannot be started", self.name()))?;
        let daemon = self.goes_to_the_background().then(|| folder.path().join(PID_FILE));
        let mut running = Running { child, daemon, socket, export: self.export(), _folder: folder };
        running.wait_until_it_listens(&self.name())?;
        Ok(Box::new(running))
    }
}

impl NbdProcess {
    fn goes_to_the_background(&self) -> bool {
        self.peer == NbdPeer::NbdServer
    }

    fn export(&self) -> &'static str {
        match self.peer {
            NbdPeer::Nbdkit | NbdPeer::QemuNbd => "",
            NbdPeer::NbdServer => "disk",
        }
    }

    fn command(&self, folder: &Path, socket: &Path, disk: &Path) -> Result<Command> {
        match self.peer {
            NbdPeer::Nbdkit => {
                let mut command = Command::new("nbdkit");
                command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(socket);
                command.args(["memory", &self.disk_bytes.to_string()]);
                Ok(command)
            }
            NbdPeer::QemuNbd => {
                let mut command = Command::new("qemu-nbd");
                command.args(["--persistent", "--format=raw", "--cache=writeback", "--shared=0", "--socket"]);
                command.arg(socket).arg(disk);
                Ok(command)
            }
            NbdPeer::NbdServer => {
                let config = folder.join("config");
                let (socket, disk) = (socket.display(), disk.display());
                // It wants a port beside its socket, though nobody uses it; 0 would be its standard input.
                let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
                let text = format!(
                    "[generic]\nunixsock = {socket}\nlistenaddr = 127.0.0.1\nport = {port}\n\
                     [{}]\nexportname = {disk}\n",
                    self.export()
                );
                fs::write(&config, text)?;
                let mut command = Command::new("nbd-server");
                command.arg("-C").arg(&config).arg("-p").arg(folder.join(PID_FILE)).stderr(Stdio::null());
                Ok(command)
            }
        }
    }
}

/// A running server and the folder of its socket.
struct Running {
    child: Child,
    /// Where a server that goes to the background writes its process id.
    daemon: Option<PathBuf>,
    socket: PathBuf,
    export: &'static str,
    _folder: ScratchFolder,
}

impl Running {
    fn wait_until_it_listens(&mut self, name: &str) -> Result<()> {
        let deadline = Instant::now() + START_WAIT_MAX;
        while !is_listening(&self.socket)? {
            let ended = self.child.try_wait()?.filter(|status| self.daemon.is_none() || !status.success());
            if let Some(status) = ended {
                bail!("{name} ended at once ({status})");
            }
            if Instant::now() > deadline {
                bail!("{name} did not listen within {} s", START_WAIT_MAX.as_secs());
            }
            std::thread::sleep(START_LOOK_EVERY);
        }
        Ok(())
    }
}

/// By the kernel's table of sockets: a trial connection would make servers complain about a rude client.
fn is_listening(socket: &Path) -> Result<bool> {
    let table = fs::read_to_string("/proc/net/unix").context("/proc/net/unix cannot be read")?;
    let path = socket.display().to_string();
    // The fourth column holds the flags; this one says that it accepts connections.
    let accepts = |line: &str| line.split_whitespace().nth(3) == Some("00010000");
    Ok(table.lines().any(|line| line.ends_with(&path) && accepts(line)))
}

impl RunningNbdServer for Running {
    fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.export, self.socket.display())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if the process is gone already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(pid) = self.daemon.as_ref().and_then(|file| pid_in(file)) {
            wait_until_its_clients_are_gone(pid);
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

fn pid_in(file: &Path) -> Option<Pid> {
    Pid::from_raw(fs::read_to_string(file).ok()?.trim().parse().ok()?)
}

/// Each client has a process of its own, whose time counts once the server has waited for it.
fn wait_until_its_clients_are_gone(server: Pid) {
    let pid = server.as_raw_nonzero();
    let children = format!("/proc/{pid}/task/{pid}/children");
    let deadline = Instant::now() + CLIENTS_GONE_WAIT_MAX;
    // A kernel that keeps no such list gives nothing to wait for.
    while fs::read_to_string(&children).is_ok_and(|list| !list.is_empty()) && Instant::now() < deadline {
        std::thread::sleep(START_LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use rustix::process::{getpid, test_kill_process};

    use super::{NbdPeer, NbdProcess, NbdServer, PID_FILE, pid_in};

    #[test]
    fn a_server_that_goes_to_the_background_stays_our_child_and_is_waited_for() {
        if let Some(why) = NbdPeer::NbdServer.tool().missing() {
            eprintln!("SKIPPED: {why}");
            return;
        }
        let running = NbdProcess { peer: NbdPeer::NbdServer, disk_bytes: 1 << 20 }.start().unwrap();
        let uri = running.uri();
        let socket = Path::new(uri.split_once("socket=").unwrap().1);
        drop(UnixStream::connect(socket).unwrap());
        let pid = pid_in(&socket.with_file_name(PID_FILE)).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        assert_eq!(parent.trim(), getpid().as_raw_nonzero().to_string());
        drop(running);
        assert!(test_kill_process(pid).is_err(), "a process that was waited for is gone");
    }
}
