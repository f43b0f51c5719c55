//! The benches of the program as a person runs them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use fixtures_lab::Folder;
use serde_json::Value;
use std::process::Command;

// proves: C4 D4
#[test]
fn the_failover_bench_makes_the_serving_node_go_in_each_way_and_finds_every_byte() {
    let folder = Folder::new();
    let json = folder.join("failover.json");
    let output = Command::new(env!("CARGO_BIN_EXE_netdisk"))
        // Twice, since every second time the node leads the log too.
        .args(["bench", "failover", "--times", "2", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{said}");
    assert!(told.contains("0 errors, 0 lost, 0 stale"), "{told}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let ways: Vec<&str> =
        report["rows"].as_array().unwrap().iter().map(|row| row["way"].as_str().unwrap()).collect();
    assert_eq!(ways, ["killed", "distress", "stopped", "moved"]);
    for row in report["rows"].as_array().unwrap() {
        let pauses = row["pauses"].as_array().unwrap();
        assert_eq!(pauses.len(), 2);
        assert!(pauses.iter().all(|pause| pause["seconds"].as_f64().unwrap() > 0.0), "{row}");
        assert!(pauses[1]["led_the_log"].as_bool().unwrap(), "{row}");
    }
}
