//! A program that a scenario needs and that may not be installed.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{iceoryx2, spdk};

/// A program and the command that brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// fio with its `nbd` engine.
    FioWithNbd,
    /// nbdkit and its memory plug-in.
    Nbdkit,
    /// qemu's NBD server.
    QemuNbd,
    /// The reference NBD server.
    NbdServer,
    /// etcd's server.
    Etcd,
    /// A program of perftest.
    Perftest(&'static str),
    /// UCX's own benchmark.
    UcxPerftest,
    /// libfabric's ping-pong.
    LibfabricPingpong,
    /// Our benchmark of iceoryx2, a package of its own.
    Iceoryx2,
    /// SPDK, built by the user.
    Spdk,
    /// fio with any engine.
    Fio,
    /// A module of the kernel, loaded.
    KernelModule(&'static str),
}

impl Tool {
    /// What is missing and how to get it; `None` if the tool is there.
    pub(crate) fn missing(&self) -> Option<String> {
        match self {
            Self::KernelModule(name) => (!is_loaded(name))
                .then(|| format!("this kernel has no module {name}, or it cannot be loaded")),
            Self::Spdk => spdk::missing(),
            Self::Iceoryx2 => {
                let command =
                    format!("cargo build --release --manifest-path {}", iceoryx2::manifest().display());
                (!iceoryx2::program().is_file())
                    .then(|| format!("the bench of iceoryx2 is not built: {command}"))
            }
            _ => {
                let (program, package) = self.program_and_package();
                if !installed(program) {
                    return Some(format!("{program} is not installed: apt-get install {package}"));
                }
                let nbd_is_missing = *self == Self::FioWithNbd && !fio_has_nbd();
                nbd_is_missing.then(|| {
                    "this fio has no nbd engine: apt-get install fio libnbd0 (Debian's has it)".to_owned()
                })
            }
        }
    }

    /// The program that is looked for, and Debian's package that holds it.
    fn program_and_package(&self) -> (&'static str, &'static str) {
        match self {
            Self::FioWithNbd | Self::Fio => ("fio", "fio"),
            Self::Nbdkit => ("nbdkit", "nbdkit"),
            Self::QemuNbd => ("qemu-nbd", "qemu-utils"),
            Self::NbdServer => ("nbd-server", "nbd-server"),
            Self::Etcd => ("etcd", "etcd-server"),
            Self::Perftest(program) => (program, "perftest"),
            Self::UcxPerftest => ("ucx_perftest", "ucx-utils"),
            Self::LibfabricPingpong => ("fi_pingpong", "libfabric-bin"),
            Self::Iceoryx2 => ("cargo", "cargo"),
            Self::Spdk => ("nvmf_tgt", "spdk"),
            Self::KernelModule(name) => (name, "linux-image-amd64"),
        }
    }

    /// Installs it where that is possible; otherwise [`Tool::missing`] goes on saying what a person has to
    /// do.
    pub(crate) fn install(&self) {
        if self.missing().is_none() {
            return;
        }
        let mut command = match self {
            Self::KernelModule(_) | Self::Spdk => return,
            Self::Iceoryx2 => {
                eprintln!("building the bench of iceoryx2 …");
                let mut cargo = Command::new("cargo");
                cargo.args(["build", "--release", "--quiet", "--manifest-path"]).arg(iceoryx2::manifest());
                cargo
            }
            _ => {
                let (_, package) = self.program_and_package();
                eprintln!("installing {package} …");
                let mut apt = Command::new("apt-get");
                apt.args(["install", "-y", "-qq", package]);
                apt
            }
        };
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
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
