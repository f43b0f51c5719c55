//! `nbdkit memory` on a UNIX socket.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::nbd_server::{NbdServer, RunningNbdServer};
use crate::scratch::ScratchFolder;

/// How long nbdkit may take to listen.
const START_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two looks for its pid file.
const START_LOOK_EVERY: Duration = Duration::from_millis(5);

/// nbdkit's memory plug-in, its disk of this size.
#[derive(Debug)]
pub(crate) struct NbdkitMemory {
    /// Bytes of the disk.
    pub(crate) disk_bytes: u64,
}

impl NbdServer for NbdkitMemory {
    fn name(&self) -> String {
        "nbdkit memory".to_owned()
    }

    fn start(&self) -> Result<Box<dyn RunningNbdServer>> {
        let folder = ScratchFolder::create()?;
        let socket = folder.path().join("nbdkit.sock");
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(&socket);
        let ready = folder.path().join("nbdkit.pid");
        command.arg("--pidfile").arg(&ready);
        command.args(["memory", &self.disk_bytes.to_string()]).stdin(Stdio::null());
        let child = command.spawn().context("nbdkit cannot be started")?;
        let mut running = Nbdkit { child, socket, _folder: folder };
        running.wait_until_it_listens(&ready)?;
        Ok(Box::new(running))
    }
}

/// A running nbdkit and the folder of its socket.
struct Nbdkit {
    child: Child,
    socket: PathBuf,
    _folder: ScratchFolder,
}

impl Nbdkit {
    /// nbdkit writes its pid file when it listens. A trial connection would make it complain about a rude
    /// client.
    fn wait_until_it_listens(&mut self, ready: &Path) -> Result<()> {
        let deadline = Instant::now() + START_WAIT_MAX;
        while !ready.exists() {
            if let Some(status) = self.child.try_wait()? {
                bail!("nbdkit ended at once ({status}); its reason stands above");
            }
            if Instant::now() > deadline {
                bail!("nbdkit did not listen within {} s", START_WAIT_MAX.as_secs());
            }
            std::thread::sleep(START_LOOK_EVERY);
        }
        Ok(())
    }
}

impl RunningNbdServer for Nbdkit {
    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        // Both fail only if the process is gone already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
