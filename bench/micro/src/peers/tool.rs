//! A program that a scenario needs and that may not be installed.

use std::path::Path;
use std::process::{Command, Stdio};

/// A program and the command that brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// fio with its `nbd` engine.
    FioWithNbd,
    /// nbdkit and its memory plug-in.
    Nbdkit,
    /// etcd's server.
    Etcd,
    /// A program of perftest.
    Perftest(&'static str),
    /// fio with any engine.
    Fio,
    /// A module of the kernel, loaded.
    KernelModule(&'static str),
}

impl Tool {
    /// What is missing and how to get it; `None` if the tool is there.
    pub(crate) fn missing(&self) -> Option<String> {
        match self {
            Self::FioWithNbd if !installed("fio") => {
                Some("fio is not installed: apt-get install fio".to_owned())
            }
            Self::FioWithNbd if !fio_has_nbd() => {
                Some("this fio has no nbd engine: apt-get install fio libnbd0 (Debian's has it)".to_owned())
            }
            Self::Nbdkit if !installed("nbdkit") => {
                Some("nbdkit is not installed: apt-get install nbdkit".to_owned())
            }
            Self::Etcd if !installed("etcd") => {
                Some("etcd is not installed: apt-get install etcd-server".to_owned())
            }
            Self::Perftest(program) if !installed(program) => {
                Some(format!("{program} is not installed: apt-get install perftest"))
            }
            Self::Fio if !installed("fio") => Some("fio is not installed: apt-get install fio".to_owned()),
            Self::KernelModule(name) if !is_loaded(name) => {
                Some(format!("this kernel has no module {name}, or it cannot be loaded"))
            }
            _ => None,
        }
    }
}

impl Tool {
    /// Installs it from the distribution where that is possible; otherwise [`Tool::missing`] goes on saying
    /// what a person has to do.
    pub(crate) fn install(&self) {
        let package = match self {
            Self::FioWithNbd => "fio",
            Self::Nbdkit => "nbdkit",
            Self::Etcd => "etcd-server",
            Self::Perftest(_) => "perftest",
            Self::Fio => "fio",
            Self::KernelModule(_) => return,
        };
        if self.missing().is_some() {
            eprintln!("installing {package} …");
            let _ = Command::new("apt-get")
                .args(["install", "-y", "-qq", package])
                .stdout(Stdio::null())
                .status();
        }
    }
}

/// Modules that are built in are listed there too, if they have parameters.
fn is_loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module.replace('-', "_")).is_dir()
}

fn installed(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| is_file(&folder.join(program)))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|facts| facts.is_file())
}

fn fio_has_nbd() -> bool {
    let engines = Command::new("fio").arg("--enghelp").output();
    engines
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).lines().any(|line| line.trim() == "nbd"))
}

#[cfg(test)]
mod tests {
    use super::installed;

    #[test]
    fn a_program_is_looked_for_on_the_path() {
        assert!(installed("sh"));
        assert!(!installed("no-such-program-of-netdisk"));
    }
}
