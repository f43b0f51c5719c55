//! `nbdkit memory` on a UNIX socket.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::nbd_server::{NbdServer, RunningNbdServer};

/// How long nbdkit may take to listen.
const START_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two looks for its pid file.
const START_LOOK_EVERY: Duration = Duration::from_millis(5);

/// Numbers the folders of this process.
static FOLDERS: AtomicU32 = AtomicU32::new(0);

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
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("bench-micro-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let socket = folder.join("nbdkit.sock");
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(&socket);
        let ready = folder.join("nbdkit.pid");
        command.arg("--pidfile").arg(&ready);
        command.args(["memory", &self.disk_bytes.to_string()]).stdin(Stdio::null());
        let child = command.spawn().context("nbdkit cannot be started")?;
        let mut running = Nbdkit { child, folder, socket };
        running.wait_until_it_listens(&ready)?;
        Ok(Box::new(running))
    }
}

/// A running nbdkit and the folder of its socket.
struct Nbdkit {
    child: Child,
    folder: PathBuf,
    socket: PathBuf,
}

impl Nbdkit {
    /// nbdkit writes its pid file when it listens. A trial connection would make it complain about a rude client.
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
        // Each fails only if what it ends is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
