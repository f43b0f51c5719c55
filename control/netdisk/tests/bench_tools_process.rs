//! The benches of messages and disks as a person runs them: their files, their refusals, both ends apart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use fixtures_lab::Folder;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Short turns that count also beside other tests.
const QUICK: [&str; 6] = ["--turns", "3", "--seconds", "0.05", "--keep-disturbed", "--warm-up=0.02"];

fn netdisk(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netdisk")).arg("bench").args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn has_two_cores() -> bool {
    let enough = std::thread::available_parallelism().unwrap().get() >= 2;
    if !enough {
        eprintln!("SKIPPED: two ends need two cores");
    }
    enough
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

// proves: F4
#[test]
fn a_bench_of_latency_leaves_a_table_and_every_file_that_was_asked_for() {
    if !has_two_cores() {
        return;
    }
    let folder = Folder::new();
    let [report, csv, curves, png, page] =
        ["lat.json", "lat.csv", "curves", "lat.png", "lat.html"].map(|name| folder.join(name));
    let files = [
        ["--json", report.to_str().unwrap(), "--csv", csv.to_str().unwrap()],
        ["--hgrm", curves.to_str().unwrap(), "--plot", png.to_str().unwrap()],
    ]
    .concat();
    let what = ["lat", "--provider", "shm,tcp", "--size", "64,4K", "--vs", "cacheline,memcpy"];
    let output = netdisk(&[&what[..], &QUICK, &files].concat());
    let (told, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{told}\n{said}");
    assert!(told.contains("lat/shm/64B/cacheline") && told.contains("p99.99"), "{told}");
    assert!(said.contains("SKIPPED lat/shm/64B/memcpy: memcpy does not do this"), "{said}");
    let rows = json(&report)["rows"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 8);
    let measured: Vec<&Value> = rows.iter().filter(|row| row["ratio"].is_number()).collect();
    assert_eq!(measured.len(), 4, "{rows:?}");
    for row in measured {
        let latency = &row["comparison"]["ours_latency"];
        assert!(latency["count"].as_u64() > Some(0) && latency["p9999_ns"].is_u64(), "{row}");
        assert_eq!(latency["operations_per_sample"], 2, "half round trips say so: {row}");
    }
    let lines = std::fs::read_to_string(&csv).unwrap();
    assert!(lines.starts_with("scenario,side,who,unit,figure,ratio,verdict,samples,min_ns"), "{lines}");
    assert_eq!(lines.lines().count(), 1 + 4 * 2 + 4, "{lines}");
    let hgrm = std::fs::read_to_string(curves.join("lat-tcp-64B-cacheline-ours.hgrm")).unwrap();
    assert!(hgrm.contains("1/(1-Percentile)"), "{hgrm}");
    let log = std::fs::read_to_string(curves.join("lat-tcp-64B-cacheline-ours.hlog")).unwrap();
    assert!(log.contains("HISTFAAAA"), "{log}");
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    let output = netdisk(&[&["lat", "--plot", page.to_str().unwrap()], &QUICK[..]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(std::fs::read_to_string(&page).unwrap().contains("<svg"));
}

// proves: F4
#[test]
fn an_open_loop_keeps_its_timetable_and_a_count_ends_a_turn() {
    if !has_two_cores() {
        return;
    }
    let folder = Folder::new();
    let report = folder.join("open.json");
    let files = ["--json", report.to_str().unwrap()];
    let output = netdisk(&[&["lat", "--size", "64", "--open", "2000"], &QUICK[..], &files].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let count = json(&report)["rows"][0]["comparison"]["ours_latency"]["count"].as_u64().unwrap();
    // Three turns of 50 ms by a timetable of 2000 a second.
    assert!((290..=310).contains(&count), "{count}");
    // Time enough for the count on any machine.
    let pace = ["--turns", "3", "--seconds", "20", "--keep-disturbed"];
    let output = netdisk(&[&["lat", "--size", "64", "--count", "40"], &pace[..], &files].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(json(&report)["rows"][0]["comparison"]["ours_latency"]["count"], 120);
}

// proves: F4
#[test]
fn bandwidth_and_rate_go_over_links_rails_clients_and_threads() {
    if !has_two_cores() {
        return;
    }
    let folder = Folder::new();
    let report = folder.join("report.json");
    let files = ["--json", report.to_str().unwrap()];
    let shape = ["--links", "2", "--rails", "2", "--clients", "3", "--threads", "2", "--wait", "adaptive"];
    for (kind, size, unit) in [("bw", "64K", "bytes_per_second"), ("rate", "64", "operations_per_second")] {
        for provider in ["shm", "tcp"] {
            let what = [kind, "--provider", provider, "--size", size];
            let output = netdisk(&[&what[..], &shape, &QUICK, &files].concat());
            assert!(output.status.success(), "{}", text(&output.stderr));
            let row = json(&report)["rows"][0].clone();
            let id = format!("{kind}/{provider}/{size}iB/2-links/2-rails/3-clients/2-threads");
            assert_eq!(row["scenario"], id.replace("64iB", "64B"), "{row}");
            assert_eq!(row["unit"], unit);
            assert!(row["ours_figure"].as_f64() > Some(0.0), "{row}");
        }
    }
}

// proves: F4
#[test]
fn one_end_listens_and_the_other_connects() {
    if !has_two_cores() {
        return;
    }
    let mut listening = Command::new(env!("CARGO_BIN_EXE_netdisk"))
        .args(["bench", "lat", "--listen", "127.0.0.1:0", "--sessions", "6"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(listening.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let address = line.split([' ', ';']).find(|word| word.starts_with("127.")).unwrap().to_owned();
    let what = ["lat", "--provider", "tcp,shm", "--size", "4K", "--connect", &address];
    let output = netdisk(&[&what[..], &QUICK].concat());
    let told = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(told.contains("lat/tcp/4KiB") && !told.contains("FAILED"), "{told}");
    assert!(listening.wait().unwrap().success());
}

// proves: F4
#[test]
fn a_missing_peer_is_skipped_with_the_command_that_installs_it() {
    if !has_two_cores() {
        return;
    }
    let peers = "ucx,libfabric";
    let output = Command::new(env!("CARGO_BIN_EXE_netdisk"))
        .args(["bench", "lat", "--size", "64", "--strict", "--vs", peers])
        .args(QUICK)
        .env("PATH", "")
        .output()
        .unwrap();
    let said = text(&output.stderr);
    for command in ["apt-get install ucx-utils", "apt-get install libfabric-bin"] {
        assert!(said.contains("SKIPPED") && said.contains(command), "{said}");
    }
    assert!(!output.status.success(), "a skipped goal does not count as reached");
}

// proves: F4
#[test]
fn a_wish_that_cannot_be_fulfilled_is_refused_with_what_to_do() {
    let refusals: [(&[&str], &str); 9] = [
        (&["lat", "--size", "4"], "8 bytes to 1 MiB"),
        (&["lat", "--links", "9"], "--links 1 to 8"),
        (&["lat", "--threads", "0"], "--threads: 1 to 64"),
        (&["lat", "--clients", "4"], "--clients 1 to 3"),
        (&["lat", "--cores", "0"], "--cores"),
        (&["lat", "--seconds=-1"], "--seconds"),
        (&["lat", "--connect", "192.0.2.1:9"], "use tcp or verbs"),
        (&["disk", "--block", "5"], "power of two"),
        (&["compare", "/proc/self/maps", "/proc/self/maps"], "no report of netdisk bench"),
    ];
    for (words, reason) in refusals {
        let output = netdisk(words);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{words:?}: {said}");
        assert!(!said.contains("panicked"), "{words:?}: {said}");
    }
}

// proves: F4
#[test]
fn a_disk_is_read_and_written_through_the_library_and_beside_an_nbd_server() {
    if !has_two_cores() {
        return;
    }
    let folder = Folder::new();
    let [report, picture] = ["disk.json", "disk.svg"].map(|name| folder.join(name));
    let files = ["--json", report.to_str().unwrap(), "--plot", picture.to_str().unwrap()];
    let what = ["disk", "--surface", "library", "--rw", "read,write", "--disk", "16", "--depth", "1,8"];
    let output = netdisk(&[&what[..], &QUICK, &files].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows = json(&report)["rows"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row["ours_figure"].as_f64() > Some(0.0)), "{rows:?}");
    assert!(std::fs::read_to_string(&picture).unwrap().contains("write 4 KiB, 8 in flight"));

    let what = ["disk", "--disk", "16", "--depth", "1", "--vs", "nbdkit,qemu-nbd,spdk", "--turns", "1"];
    let files = ["--seconds", "0.1", "--keep-disturbed", "--json", report.to_str().unwrap()];
    let output = netdisk(&[&what[..], &files].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    for row in json(&report)["rows"].as_array().unwrap() {
        let kind = row["verdict"]["kind"].as_str().unwrap();
        assert_ne!(kind, "failed", "{row}");
        assert!(row["ratio"].is_number() || kind == "skipped", "{row}");
    }
}

// proves: F4
#[test]
fn two_reports_are_compared_and_the_table_is_written_from_them() {
    if !has_two_cores() {
        return;
    }
    let folder = Folder::new();
    let (results, readme) = (folder.join("results"), folder.join("README.md"));
    std::fs::create_dir(&results).unwrap();
    let report = results.join("lat-shm.json");
    let what = ["lat", "--size", "64", "--vs", "cacheline", "--json", report.to_str().unwrap()];
    let output = netdisk(&[&what[..], &QUICK].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));

    let same = report.to_str().unwrap();
    let output = netdisk(&["compare", same, same]);
    assert!(output.status.success() && text(&output.stdout).contains("same"), "{}", text(&output.stdout));
    // Every pair's ratio made three times as large: slower, beyond all noise.
    let mut slower = json(&report);
    for pair in slower["rows"][0]["comparison"]["pairs"].as_array_mut().unwrap() {
        let ratio = pair["ratio"].as_f64().unwrap();
        pair["ratio"] = Value::from(ratio * 30.0);
    }
    let other = folder.join("slower.json");
    std::fs::write(&other, slower.to_string()).unwrap();
    let output = netdisk(&["compare", same, other.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("WORSE"), "{}", text(&output.stdout));

    let marks = "head\n<!-- begin: netdisk bench table -->\n<!-- end: netdisk bench table -->\ntail\n";
    std::fs::write(&readme, marks).unwrap();
    let places = ["--results", results.to_str().unwrap(), "--readme", readme.to_str().unwrap()];
    let output = netdisk(&[&["table", "--keep"], &places[..]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = std::fs::read_to_string(&readme).unwrap();
    assert!(table.contains("| lat/shm/64B/cacheline |") && table.ends_with("tail\n"), "{table}");
}

// proves: F4
#[test]
fn the_doctor_of_benches_names_the_machine_and_what_helps() {
    let output = netdisk(&["doctor"]);
    let told = text(&output.stdout);
    assert!(output.status.success() && told.contains("cores"), "{told}");
    for block in told.split("\n\n").skip(1).filter(|block| block.contains("effect:")) {
        assert!(block.contains("help:"), "{block}");
    }
}
