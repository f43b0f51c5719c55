//! What a figure was measured on, so that a reader knows what it may be compared with.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// The machine, the source and the command line of one run. A fact that cannot be had is empty, never
/// guessed.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// CPU model name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// What the kernel reads the time from, for example `tsc` or `kvm-clock`.
    pub clock_source: String,
    /// Default TCP congestion control; it moves loopback streams by half.
    pub tcp_congestion: String,
    /// Processes running or waiting for a core over the last minute, before the run.
    pub load: f64,
    /// Commit of the source tree, with `+changes` if files differ from it.
    pub commit: String,
    /// The command line of this run.
    pub command: String,
}

impl Machine {
    /// Describes this machine. `source_folder` lies inside the git work tree that the binary was built from.
    pub fn describe(source_folder: &Path) -> Self {
        let cpu_facts = read("/proc/cpuinfo");
        let cpu = cpu_facts.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
        let load = read("/proc/loadavg").split_whitespace().next().and_then(|first| first.parse().ok());
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: cpu.unwrap_or_default().trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            tcp_congestion: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            load: load.unwrap_or(0.0),
            commit: commit(source_folder),
            command: command_line(std::env::args()),
        }
    }

    /// Two lines for the head of a table.
    pub fn show(&self) -> String {
        let Self { kernel, cpu, cores, clock_source, tcp_congestion, load, commit, command } = self;
        format!(
            "{cpu}, {cores} cores · Linux {kernel} · clock {clock_source} · \
             TCP {tcp_congestion} · load {load:.2}\n\
             commit {} · {command}\n",
            if commit.is_empty() { "unknown" } else { commit },
        )
    }

    /// Whether other work had the cores before this run began, so that nothing it measures means much.
    pub fn is_busy(&self) -> bool {
        self.load > self.cores as f64 * 0.5
    }
}

/// The program without its folder, and what it was told.
fn command_line(words: impl Iterator<Item = String>) -> String {
    let name = |path: String| match Path::new(&path).file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => path,
    };
    words.enumerate().map(|(at, word)| if at == 0 { name(word) } else { word }).collect::<Vec<_>>().join(" ")
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn commit(source_folder: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(source_folder).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else { return String::new() };
    let clean =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| changes.is_empty());
    if clean { hash } else { format!("{hash}+changes") }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Machine;

    #[test]
    fn this_machine_has_a_kernel_and_cores() {
        let machine = Machine::describe(Path::new(env!("CARGO_MANIFEST_DIR")));
        assert!(!machine.kernel.is_empty());
        assert!(machine.cores > 0);
        assert!(machine.show().contains(&machine.kernel));
    }

    #[test]
    fn the_command_names_the_program_without_its_folder() {
        let words = ["/opt/bin/netdisk", "bench", "--json", "/tmp/x"].map(str::to_owned);
        assert_eq!(super::command_line(words.into_iter()), "netdisk bench --json /tmp/x");
    }

    #[test]
    fn a_folder_outside_any_repository_has_no_commit() {
        assert_eq!(super::commit(Path::new("/proc")), "");
    }
}
