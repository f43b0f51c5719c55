//! Whole clusters killed by SIGKILL in the middle of their work, and disks that are full.
//!
//! The children are this test binary itself, told by an environment variable what to do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cluster;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cluster::{Cluster, Journal, STAMP, Scratch, ids};
use control_raft::{Compaction, Outcome, RaftOptions, Refusal, Ticket};
use transport_proto::identity::NodeId;

const FOLDER: &str = "CONTROL_RAFT_CHILD_FOLDER";
const VOTERS: &str = "CONTROL_RAFT_CHILD_VOTERS";
/// Proposals that a child keeps open.
const OPEN: u64 = 16;
const LIVES: u64 = 6;

fn compacting(options: &mut RaftOptions) {
    options.compaction = Compaction { entries: 200, keep_entries: 20, ..Compaction::default() };
}

fn voters() -> Vec<u16> {
    let voters = std::env::var(VOTERS).unwrap();
    voters.split(',').map(|voter| voter.parse().unwrap()).collect()
}

/// Proposes number after number, and prints each one that is acknowledged. Ends by being killed, or when the
/// log stops.
#[test]
fn child_that_proposes() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let voters = voters();
    let mut cluster = Cluster::within(Scratch::existing(folder.into()), &voters, compacting);
    let leader = cluster.leader();
    // All that earlier lives had acknowledged is applied then, so no number comes twice.
    assert!(matches!(cluster.read(leader), Outcome::Done { .. }));
    let handle = cluster.nodes[&NodeId(leader)].running.handle.clone();
    let base = cluster.commands(leader).len() as u64 * 1_000_000;
    let (mut proposed, mut answered) = (0, 0);
    loop {
        while proposed - answered < OPEN {
            let number = base + proposed;
            if handle.propose(Ticket(number), number.to_le_bytes().to_vec()).is_err() {
                break;
            }
            proposed += 1;
        }
        cluster.until(|cluster| {
            let stopped = cluster.nodes.values().find_map(|node| node.running.outputs.fatal());
            if let Some(fatal) = stopped {
                println!("\nFATAL {fatal}");
                std::process::exit(3);
            }
            (!cluster.answers.is_empty()).then_some(())
        });
        for (ticket, outcome) in std::mem::take(&mut cluster.answers) {
            answered += 1;
            if let Outcome::Done { .. } = outcome {
                println!("\nDONE {}", ticket.0);
            }
        }
    }
}

fn child(folder: &Path, voters: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_that_proposes", "--nocapture"]);
    command.env(FOLDER, folder).env(VOTERS, voters).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Lets a child work until it has acknowledged so many, kills it, and says what it had acknowledged.
fn live_and_be_killed(folder: &Path, voters: &str, enough: usize) -> Vec<u64> {
    let mut child = child(folder, voters).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let number = |line: &str| -> Option<u64> { line.strip_prefix("DONE ")?.parse().ok() };
    let mut acknowledged: Vec<u64> = Vec::new();
    while acknowledged.len() < enough {
        let line = lines.next().expect("it works until it is killed").unwrap();
        acknowledged.extend(number(&line));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    acknowledged.extend(lines.map_while(Result::ok).filter_map(|line| number(&line)));
    acknowledged
}

fn nothing_acknowledged_is_lost(voters: &[u16]) {
    let scratch = Scratch::new();
    let list = voters.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    let mut acknowledged = Vec::new();
    for life in 0..LIVES {
        // Deaths at differing points, so that some fall on a snapshot.
        let enough = 20 + (life * 97 % 260) as usize;
        acknowledged.extend(live_and_be_killed(scratch.path(), &list, enough));
    }
    let mut cluster = Cluster::within(Scratch::existing(scratch.path().into()), voters, compacting);
    let leader = cluster.leader();
    assert!(matches!(cluster.read(leader), Outcome::Done { .. }));
    let commands = cluster.commands(leader);
    for number in acknowledged {
        let times = commands.iter().filter(|command| **command == number.to_le_bytes()).count();
        assert_eq!(times, 1, "{number} was acknowledged");
    }
    for node in voters {
        cluster.await_commands(*node, commands.len());
    }
    cluster.assert_same_history();
}

// proves: C1
#[test]
fn a_single_voter_killed_again_and_again_loses_nothing_it_acknowledged() {
    nothing_acknowledged_is_lost(&[1]);
}

// proves: C1
#[test]
fn three_voters_killed_together_again_and_again_lose_nothing_they_acknowledged() {
    nothing_acknowledged_is_lost(&[1, 2, 3]);
}

/// The limit on the size of files makes writes fail as a full disk does.
#[test]
fn a_full_disk_stops_the_log_with_its_reason_and_loses_nothing() {
    let scratch = Scratch::new();
    let program = std::env::current_exe().unwrap();
    let script = "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\"";
    let mut limited = Command::new("sh");
    let blocks_of_512_bytes = 2500.to_string();
    limited.args(["-c", script, &blocks_of_512_bytes]).arg(program);
    limited.args(["--exact", "child_that_proposes", "--nocapture"]);
    limited.env(FOLDER, scratch.path()).env(VOTERS, "1").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = limited.spawn().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert!(said.contains("FATAL the replicated log has stopped"), "{said}");
    assert!(said.contains("File too large"), "{}", &said[said.len().saturating_sub(500)..]);
    let acknowledged: Vec<u64> =
        said.lines().filter_map(|line| line.strip_prefix("DONE ")?.parse().ok()).collect();

    let mut cluster = Cluster::within(Scratch::existing(scratch.path().into()), &[1], compacting);
    cluster.leader();
    let commands = cluster.commands(1);
    for number in acknowledged {
        assert!(commands.contains(&number.to_le_bytes().to_vec()), "{number} was acknowledged");
    }
    cluster.write(1, b"and with room again it goes on");
}

#[test]
fn a_log_that_cannot_be_begun_says_which_folder() {
    let scratch = Scratch::new();
    let file: PathBuf = scratch.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let options = RaftOptions::new(NodeId(1), STAMP, file.join("raft"), ids(&[1]));
    let Err(fault) = control_raft::start(options, Journal::default(), || {}) else { panic!("no folder") };
    assert!(fault.to_string().contains("file/raft"), "{fault}");
    let stopped = Refusal::Stopped.to_string();
    assert!(stopped.contains("stopped"));
}
