//! The binary as a person runs it: real worker processes, short turns, all pairs kept because tests share the
//! cores.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as the tests do")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn bench_micro(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench-micro")).args(arguments).output().unwrap()
}

/// Runs one family of scenarios and returns its JSON report.
fn report_of(only: &str, folder: &Path) -> Value {
    let file = folder.join("report.json");
    let file_text = file.to_str().unwrap();
    let short = ["--quick", "--pairs", "1", "--seconds", "0.02", "--keep-all-pairs"];
    let curves = ["--json", file_text, "--curves", folder.to_str().unwrap()];
    let output = bench_micro(&[&short[..], &curves, &["--only", only]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap()
}

/// A folder of this test alone, removed at its end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bench-micro-test-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn rows(report: &Value) -> Vec<&Value> {
    report["rows"].as_array().unwrap().iter().collect()
}

/// Skips where one core is all there is: the bench itself refuses to spin there.
fn has_two_cores() -> bool {
    let enough = bench_harness::CorePair::choose().is_ok();
    if !enough {
        eprintln!("SKIPPED: this needs two cores");
    }
    enough
}

// proves: F4
#[test]
fn raw_limits_are_measured_between_two_processes() {
    if !has_two_cores() {
        return;
    }
    let folder = Folder::new("limits");
    let report = report_of("limit/", &folder.0);
    assert_eq!(report["format"], "netdisk-bench");
    assert_eq!(report["version"], 1);
    let rows = rows(&report);
    assert_eq!(rows.len(), 12);
    for row in rows {
        assert_eq!(row["verdict"]["kind"], "shown", "{row}");
        assert!(row["limit_figure"].as_f64().unwrap() > 0.0, "{row}");
        if row["unit"] == "nanoseconds" {
            assert!(row["comparison"]["limit_latency"]["count"].as_u64().unwrap() > 0, "{row}");
            let file = row["scenario"].as_str().unwrap().replace('/', "-");
            assert!(folder.0.join(format!("{file}-limit.hgrm")).is_file(), "{file}");
            assert!(folder.0.join(format!("{file}.svg")).is_file(), "{file}");
        }
    }
}

// proves: F4
#[test]
fn messages_and_blocks_are_measured_between_two_netdisk_processes() {
    if !has_two_cores() {
        return;
    }
    for (only, figures) in [("shm/64B/", 2), ("tcp/64B/round-trip/sleeping", 1), ("library/", 2)] {
        let folder = Folder::new(&only.replace('/', "-"));
        let report = report_of(only, &folder.0);
        let rows = rows(&report);
        assert_eq!(rows.len(), figures, "{report}");
        for row in rows {
            assert!(row["ours_figure"].is_f64(), "{row}");
            assert_ne!(row["verdict"]["kind"], "failed", "{row}");
        }
    }
}

#[test]
fn a_message_over_shared_memory_allocates_nothing_in_either_process() {
    if !has_two_cores() {
        return;
    }
    let folder = Folder::new("allocations");
    let report = report_of("shm/64B/allocations", &folder.0);
    assert_eq!(rows(&report)[0]["ours_figure"].as_f64(), Some(0.0), "{report}");
}

#[test]
fn a_missing_peer_is_skipped_with_the_command_that_installs_it() {
    if !has_two_cores() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-micro"));
    let output = command.args(["--quick", "--only", "nbd/", "--strict"]).env("PATH", "").output().unwrap();
    let (table, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(table.contains("SKIPPED: fio is not installed: apt-get install fio"), "{table}");
    assert!(errors.contains("SKIPPED nbd/shm/read/4KiB/QD1: fio is not installed"), "{errors}");
    assert!(!output.status.success(), "a skipped goal does not count as reached");
}

#[test]
fn an_unknown_scenario_is_an_error_that_tells_where_the_list_is() {
    let output = bench_micro(&["--only", "no-such-scenario"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--list"));
}

/// Processes that run this binary as a worker of the given parent.
fn workers_of(parent_pid: u32) -> usize {
    let marker = format!("\"parent_pid\":{parent_pid},").into_bytes();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let command_lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    command_lines.filter(|line| line.windows(marker.len()).any(|part| part == marker)).count()
}

/// Waits until the parent has this many workers; `false` if it takes longer than anything here may.
fn reaches(parent_pid: u32, workers: usize) -> bool {
    let deadline = Instant::now() + Duration::from_secs(8);
    while Instant::now() < deadline {
        if workers_of(parent_pid) == workers {
            return true;
        }
        // SLEEP: a process list announces nothing; it is read again until the deadline.
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

#[test]
fn workers_die_with_their_parent_even_if_it_is_killed() {
    if !has_two_cores() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-micro"));
    command.args(["--only", "limit/cache-line", "--seconds", "30", "--keep-all-pairs"]);
    let mut bench = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let pid = bench.id();
    let worked = reaches(pid, 1);
    bench.kill().unwrap();
    bench.wait().unwrap();
    assert!(worked, "the bench started no worker");
    assert!(reaches(pid, 0), "a worker outlived its parent");
}
