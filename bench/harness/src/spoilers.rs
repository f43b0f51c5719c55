//! What on this machine spoils figures, and what to do about it.

use std::fs;
use std::path::Path;

use crate::{CorePair, Machine};

/// Something that makes figures worse, or less sure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoiler {
    /// What is found.
    pub what: String,
    /// What it does to figures.
    pub effect: &'static str,
    /// What to do.
    pub help: String,
}

/// Locked memory that RDMA devices want, bytes.
const LOCKED_BYTES_MIN: u64 = 64 << 20;

/// Looks at everything.
pub fn spoilers(machine: &Machine) -> Vec<Spoiler> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let mut found = Vec::new();
    found.extend(frequency(&read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")));
    found.extend(cores(machine.cores, CorePair::choose().is_ok()));
    found.extend(siblings(&read("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")));
    found.extend(huge_pages(&read("/sys/kernel/mm/transparent_hugepage/shmem_enabled")));
    found.extend(clock(&machine.clock_source));
    found.extend(locked_memory(&read("/proc/self/limits")));
    found.extend(load(machine.load, machine.cores));
    found.extend(virtual_machine(&read("/proc/cpuinfo")));
    found.extend(idle(Path::new("/sys/devices/system/cpu/cpu0/cpuidle/state1").exists()));
    found.extend(congestion(&machine.tcp_congestion));
    found
}

fn spoiler(what: String, effect: &'static str, help: &str) -> Spoiler {
    Spoiler { what, effect, help: help.to_owned() }
}

/// A machine without the file has no scaling, or hides it.
fn frequency(governor: &str) -> Option<Spoiler> {
    let scales = !governor.is_empty() && governor != "performance";
    scales.then(|| {
        let what = format!("the cores' frequency follows the load (governor {governor})");
        spoiler(what, "the first turns are slower", "cpupower frequency-set -g performance")
    })
}

fn cores(count: usize, is_pair: bool) -> Option<Spoiler> {
    let effect = "the two ends of an exchange share a core and wait for each other's time slice";
    (!is_pair).then(|| {
        let what = format!("{count} core may be used");
        spoiler(what, effect, "give it two: taskset -c 0,1, or a larger machine")
    })
}

/// `0,1` or `0-1`: core 0 shares its execution units with another that is counted too.
fn siblings(list: &str) -> Option<Spoiler> {
    let shared = list.contains([',', '-']);
    let effect = "two ends on siblings share one core's units and its caches";
    let help = "name two cores that are no siblings with --cores, or turn SMT off: \
                echo off > /sys/devices/system/cpu/smt/control";
    shared.then(|| spoiler(format!("cores {list} are siblings (SMT)"), effect, help))
}

/// `always within_size advise [never] deny force`.
fn huge_pages(setting: &str) -> Option<Spoiler> {
    let off = setting.contains("[never]") || setting.contains("[deny]");
    let effect = "large messages miss the TLB at every page";
    let help = "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled";
    off.then(|| spoiler("shared memory gets no huge pages".to_owned(), effect, help))
}

fn clock(source: &str) -> Option<Spoiler> {
    let slow = !source.is_empty()
        && !matches!(source, "tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page");
    let effect = "each look at the time is a system call or a slow register";
    slow.then(|| {
        spoiler(format!("the clock is {source}"), effect, "boot with clocksource=tsc where the TSC is stable")
    })
}

/// The soft limit in a text of /proc/PID/limits.
fn locked_memory(limits: &str) -> Option<Spoiler> {
    let line = limits.lines().find(|line| line.starts_with("Max locked memory"))?;
    let bytes: u64 = line.split_whitespace().nth(3)?.parse().ok()?;
    let what = format!("{} KiB of memory may be locked", bytes >> 10);
    let effect = "RDMA devices cannot register more";
    (bytes < LOCKED_BYTES_MIN)
        .then(|| spoiler(what, effect, "ulimit -l unlimited, or LimitMEMLOCK=infinity in a unit"))
}

fn load(load: f64, cores: usize) -> Option<Spoiler> {
    let busy = load > cores as f64 * 0.25;
    let effect = "others take time slices from both sides; turns are dropped";
    busy.then(|| {
        spoiler(format!("the load of the last minute is {load:.1}"), effect, "wait, or end what runs: top")
    })
}

fn virtual_machine(cpuinfo: &str) -> Option<Spoiler> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    let virtual_cpu = flags.split_whitespace().any(|flag| flag == "hypervisor");
    let what = "this is a virtual machine".to_owned();
    let effect =
        "cores move on the host's: distances between them change within minutes (near and far in the tables)";
    virtual_cpu.then(|| spoiler(what, effect, "compare ratios only, or measure on hardware"))
}

fn idle(has_deep_states: bool) -> Option<Spoiler> {
    let effect = "a sleeping core takes some µs more to wake";
    let help = "for the latency of sleeping ends: cpupower idle-set -D 0, or hold /dev/cpu_dma_latency at 0";
    has_deep_states.then(|| spoiler("idle cores go to deep states".to_owned(), effect, help))
}

fn congestion(name: &str) -> Option<Spoiler> {
    let effect = "a loopback stream has two thirds of what cubic reaches";
    (name == "bbr").then(|| {
        spoiler(
            "TCP congestion control is bbr".to_owned(),
            effect,
            "sysctl net.ipv4.tcp_congestion_control=cubic",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: F4
    #[test]
    fn each_spoiler_is_seen_where_it_is_and_not_where_it_is_not() {
        assert!(
            frequency("powersave").is_some() && frequency("performance").is_none() && frequency("").is_none()
        );
        assert!(cores(1, false).is_some() && cores(2, true).is_none());
        assert!(siblings("0,4").is_some() && siblings("0-1").is_some() && siblings("0").is_none());
        assert!(huge_pages("always within_size advise [never] deny force").is_some());
        assert!(huge_pages("always within_size [advise] never deny force").is_none());
        assert!(clock("hpet").is_some() && clock("tsc").is_none() && clock("").is_none());
        let limits = |soft: &str| format!("Limit\nMax locked memory  {soft}  unlimited bytes\n");
        assert!(locked_memory(&limits("65536")).is_some());
        assert!(locked_memory(&limits("unlimited")).is_none() && locked_memory("").is_none());
        assert!(load(1.5, 2).is_some() && load(0.2, 2).is_none());
        assert!(virtual_machine("flags : fpu hypervisor\n").is_some());
        assert!(virtual_machine("flags : fpu\n").is_none());
        assert!(congestion("bbr").is_some() && congestion("cubic").is_none());
        assert!(idle(true).is_some() && idle(false).is_none());
    }

    #[test]
    fn every_spoiler_says_what_it_does_and_what_helps() {
        let machine = Machine::describe(Path::new("/"));
        for spoiler in spoilers(&machine) {
            assert!(!spoiler.what.is_empty() && !spoiler.effect.is_empty() && !spoiler.help.is_empty());
        }
    }
}
