//! A loop device of its own over an image, detached on drop.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// An attached loop device.
pub(crate) struct LoopDevice(pub(crate) PathBuf);

impl LoopDevice {
    /// Attaches an image; `None`, with a word about why, where this user or machine has no loop devices.
    pub(crate) fn attach(image: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show", "--direct-io=off"]).arg(image).output();
        match made {
            Ok(made) if made.status.success() => {
                Some(Self(PathBuf::from(String::from_utf8_lossy(&made.stdout).trim())))
            }
            other => {
                eprintln!("no loop device to be had (losetup says {other:?})");
                None
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(detached.is_ok_and(|status| status.success()), "{} stays attached", self.0.display());
        }
    }
}
