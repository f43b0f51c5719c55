//! How long clients wait when the node that serves their disk fails and says so: many failures of each kind
//! under load, with a suspect time that nobody lives to see.
//!
//! `cargo run --release -p control-netdisk --example takeover -- target/release/netdisk 20`

#![forbid(unsafe_code)]

use fixtures_lab::{Cluster, ClusterPlan, Ledger, Load, Signal};
use std::time::Duration;

const FAR: u16 = 3;
const WORKERS: u64 = 4;

fn main() {
    let mut words = std::env::args().skip(1);
    let netdisk = words.next().expect("the path of netdisk");
    let netdisk = std::fs::canonicalize(&netdisk).expect("netdisk at that path").display().to_string();
    let runs: usize = words.next().and_then(|runs| runs.parse().ok()).unwrap_or(20);
    println!(
        "longest wait of any request around the failure, {runs} failures each, {WORKERS} clients of depth 1"
    );
    let causes = [
        ("SIGTERM", Signal::TERM),
        ("SIGSEGV", Signal::SEGV),
        ("SIGABRT (as after a panic)", Signal::ABORT),
        ("SIGKILL (no signal; suspect 500 ms)", Signal::KILL),
    ];
    for (name, signal) in causes {
        let silent = signal == Signal::KILL;
        let (suspect_ms, lease_ms) = if silent { (500, 1500) } else { (600_000, 1_200_000) };
        let plan = ClusterPlan { suspect_ms, lease_ms, ..ClusterPlan::default() };
        let mut cluster = Cluster::start(&netdisk, plan);
        report(name, (0..runs).scan(Ledger::default(), |ledger, _| Some(fail(&mut cluster, signal, ledger))));
    }
    let mut cluster =
        Cluster::start(&netdisk, ClusterPlan { suspect_ms: 600_000, lease_ms: 1_200_000, ..five() });
    let waits = (0..runs).scan(Ledger::default(), |ledger, _| Some(lose_records(&mut cluster, ledger)));
    report("its records cannot be kept", waits);
}

fn five() -> ClusterPlan {
    ClusterPlan { nodes: 5, ..ClusterPlan::default() }
}

fn report(name: &str, waits: impl Iterator<Item = Duration>) {
    let mut waits: Vec<Duration> = waits.collect();
    waits.sort();
    let at = |share: f64| waits[((waits.len() as f64 * share).ceil() as usize).clamp(1, waits.len()) - 1];
    let ms = |wait: Duration| wait.as_secs_f64() * 1e3;
    println!("{name:36} p50 {:7.1} ms  p99 {:7.1} ms  max {:7.1} ms", ms(at(0.5)), ms(at(0.99)), ms(at(1.0)));
}

fn fail(cluster: &mut Cluster, signal: Signal, ledger: &mut Ledger) -> Duration {
    let load = Load::resume(&cluster.nbd_socket(FAR), WORKERS, 0..8192, ledger);
    load.goes_on(500);
    cluster.node(1).signal(signal);
    load.goes_on(500);
    cluster.until_status(FAR, "node 1 is out", |status| !status.members.contains(&1));
    cluster.end_of_node(1);
    back(cluster, load, ledger)
}

fn lose_records(cluster: &mut Cluster, ledger: &mut Ledger) -> Duration {
    let load = Load::resume(&cluster.nbd_socket(FAR), WORKERS, 0..8192, ledger);
    load.goes_on(500);
    let blocked = cluster.state_folder(1).join("votes.next");
    std::fs::create_dir(&blocked).expect("a folder where a file belongs");
    cluster.stop_node(5);
    cluster.until_status(FAR, "node 1 is out", |status| !status.members.contains(&1));
    load.goes_on(500);
    cluster.end_of_node(1);
    std::fs::remove_dir(&blocked).expect("the folder");
    cluster.start_node(5);
    back(cluster, load, ledger)
}

/// Ends the load, and brings node 1 back for the next failure.
fn back(cluster: &mut Cluster, load: Load, ledger: &mut Ledger) -> Duration {
    let done = load.finish();
    let folder = cluster.state_folder(1).display().to_string();
    cluster.netdisk(&["node", "clear", "--state", &folder]).expect_success();
    cluster.start_node(1);
    cluster.until_whole();
    let longest = done.longest;
    *ledger = done;
    longest
}
