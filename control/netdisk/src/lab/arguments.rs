//! What `netdisk lab` takes on its command line.

use super::bench::BenchArguments;
use fixtures_lab::vm::Way;
use std::ffi::OsString;
use std::path::PathBuf;

/// Run any program under soft-RoCE, on any Linux machine.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) action: Action,
}

#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// Run a program; its output and exit code come back.
    Run(RunArguments),
    /// An interactive shell in the laboratory.
    Shell(ShellArguments),
    /// Tell which way the laboratory takes on this machine, what is missing, and what installs it.
    Doctor(DoctorArguments),
    /// Measure rails of kind verbs beside perftest and the kernel's NVMe over fabrics, in turn.
    Bench(BenchArguments),
}

#[derive(clap::Args)]
pub(crate) struct DoctorArguments {
    /// Bring together now what the first run would fetch, and try it.
    #[arg(long)]
    pub(crate) fetch: bool,
}

#[derive(clap::Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    /// Run it on every host at once, instead of on h1.
    #[arg(long)]
    pub(crate) each_host: bool,
    /// A plan of faults (TOML) to carry out while it runs.
    #[arg(long, value_name = "FILE")]
    pub(crate) faults: Option<PathBuf>,
    /// The program and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub(crate) words: Vec<OsString>,
}

#[derive(clap::Args)]
pub(crate) struct ShellArguments {
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
}

/// What the laboratory looks like.
#[derive(clap::Args)]
pub(crate) struct MachineArguments {
    /// Hosts: h1, h2, …, each with RoCE devices of its own.
    #[arg(long, default_value_t = 2)]
    pub(crate) hosts: u8,
    /// Rails between each two hosts.
    #[arg(long, default_value_t = 2)]
    pub(crate) rails: u8,
    /// Memory of the guest: 512M, 2G.
    #[arg(long, default_value = "2G", value_parser = megabytes, value_name = "SIZE")]
    pub(crate) ram: u64,
    /// Memory that the program may lock (`ulimit -l`): 64K, 8M; all unless given.
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    pub(crate) memlock: Option<u64>,
    /// One more kernel module to load, such as nvme-rdma.
    #[arg(long, value_name = "NAME")]
    pub(crate) module: Vec<String>,
    /// One more folder that the guest may change; the current one is shared always.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) share: Vec<PathBuf>,
    /// End the program after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Insist on a way: host (this machine's own kernel; root), kvm or tcg (a guest).
    #[arg(long, value_parser = way, value_name = "WAY")]
    pub(crate) way: Option<Way>,
    /// Show the guest's console on standard error.
    #[arg(long)]
    pub(crate) console: bool,
}

fn way(text: &str) -> Result<Way, String> {
    Way::from_name(text).ok_or_else(|| "the ways are host, kvm and tcg".to_owned())
}

fn megabytes(text: &str) -> Result<u64, String> {
    bytes(text).map(|bytes| bytes >> 20)
}

/// A number with a letter for its unit: `64K`, `512M`, `2G`; plain: bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let hint = || "a size is a number and K, M or G: 64K, 512M, 2G".to_owned();
    let number: u64 = digits.parse().map_err(|_| hint())?;
    number.checked_mul(1 << shift).ok_or_else(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_others_are_refused_with_an_example() {
        assert_eq!(bytes("64K"), Ok(65_536));
        assert_eq!(megabytes("2G"), Ok(2048));
        assert_eq!(bytes("7"), Ok(7));
        for strange in ["", "K", "2T", "-1M", "99999999999G"] {
            assert!(bytes(strange).expect_err(strange).contains("64K"));
        }
    }
}
