//! Reservations of a virtual disk between two nodes that use it from afar, while the node that serves it is
//! killed, the whole cluster restarted, and a writer preempted under load.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use fixtures_lab::{Cluster, ClusterPlan, NbdClient, NbdFault, Ran};
use std::thread::JoinHandle;

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
const BLOCK: usize = 4096;
const EPERM: u32 = 1;
/// Exit code of a reservation conflict.
const CONFLICT: i32 = 5;
const OTHER_FAILURE: i32 = 1;

fn cluster() -> Cluster {
    Cluster::start(NETDISK, ClusterPlan { nbd_nodes: vec![2, 3], ..ClusterPlan::default() })
}

/// `netdisk reservation WORDS` by this node.
fn by(cluster: &Cluster, node: u16, words: &[&str]) -> Ran {
    let socket = cluster.admin_socket(node).display().to_string();
    cluster.netdisk(&[&["reservation"], words, &["--socket", &socket]].concat())
}

fn done(cluster: &Cluster, node: u16, words: &[&str]) -> String {
    by(cluster, node, words).expect_success().out
}

#[track_caller]
fn refused(cluster: &Cluster, node: u16, words: &[&str], code: i32) -> String {
    let ran = by(cluster, node, words);
    assert_eq!(ran.status.code(), Some(code), "{}{}", ran.out, ran.err);
    ran.err
}

fn client(cluster: &Cluster, node: u16) -> NbdClient {
    NbdClient::open(&cluster.nbd_socket(node), "").unwrap()
}

fn write(cluster: &Cluster, node: u16) -> Result<(), NbdFault> {
    client(cluster, node).write(0, &[node as u8; BLOCK], true)
}

fn read(cluster: &Cluster, node: u16) -> Result<u8, NbdFault> {
    let mut bytes = [0; BLOCK];
    client(cluster, node).read(0, &mut bytes)?;
    Ok(bytes[0])
}

#[track_caller]
fn is_kept_out(result: Result<(), NbdFault>) {
    assert!(matches!(result, Err(NbdFault::Refused(EPERM))), "{result:?}");
}

/// Writes without pause until it is refused; how often it was not.
fn writer(cluster: &Cluster, node: u16, block: u64) -> JoinHandle<u64> {
    let mut client = client(cluster, node);
    std::thread::spawn(move || {
        for count in 0.. {
            match client.write(block * BLOCK as u64, &[node as u8; BLOCK], false) {
                Ok(()) => {}
                Err(NbdFault::Refused(EPERM)) => return count,
                Err(fault) => panic!("{fault}"),
            }
        }
        unreachable!("it is refused some time")
    })
}

// proves: B12 B4
#[test]
fn a_reservation_keeps_others_out_through_failover_and_restart_until_it_is_released() {
    let mut cluster = cluster();
    let why = refused(&cluster, 2, &["reserve", "vd0", "--key", "2", "--type", "we"], CONFLICT);
    assert!(why.contains("not registered"), "{why}");
    done(&cluster, 2, &["register", "vd0", "--key", "2"]);
    done(&cluster, 3, &["register", "vd0", "--key", "0x3"]);
    for node in [2, 3] {
        write(&cluster, node).unwrap();
    }
    let said = done(&cluster, 2, &["reserve", "vd0", "--key", "2", "--type", "we"]);
    assert!(said.contains("write exclusive") && said.contains("0x3"), "{said}");
    let why = refused(&cluster, 3, &["reserve", "vd0", "--key", "3", "--type", "ea"], CONFLICT);
    assert!(why.contains("node 2 holds it (write exclusive)"), "{why}");
    is_kept_out(write(&cluster, 3));
    is_kept_out(client(&cluster, 3).flush());
    write(&cluster, 2).unwrap();
    assert_eq!(read(&cluster, 3).unwrap(), 2);

    // Another node serves the disk: it knows.
    cluster.kill_node(1);
    cluster.until_status(3, "the other serves", |status| status.virtual_disks[0].serving == Some(2));
    is_kept_out(write(&cluster, 3));
    write(&cluster, 2).unwrap();
    cluster.start_node(1);
    // All of it from the logs.
    for node in [1, 2, 3] {
        cluster.kill_node(node);
    }
    for node in [1, 2, 3] {
        cluster.start_node(node);
    }
    cluster.until_whole();
    is_kept_out(write(&cluster, 3));
    write(&cluster, 2).unwrap();

    let why = refused(&cluster, 2, &["release", "vd0", "--key", "2", "--type", "ea"], CONFLICT);
    assert!(why.contains("held as write exclusive"), "{why}");
    done(&cluster, 2, &["release", "vd0", "--key", "2", "--type", "we"]);
    write(&cluster, 3).unwrap();
    // With exclusive access not even reads pass, and with the holder's registration it ends.
    done(&cluster, 3, &["reserve", "vd0", "--key", "3", "--type", "ea"]);
    assert!(matches!(read(&cluster, 2), Err(NbdFault::Refused(EPERM))));
    done(&cluster, 3, &["unregister", "vd0", "--key", "3"]);
    assert_eq!(read(&cluster, 2).unwrap(), 3);
    let why = refused(&cluster, 2, &["register", "other", "--key", "2"], OTHER_FAILURE);
    assert!(why.contains("there is no virtual disk \"other\""), "{why}");
}

// proves: B12 B5
#[test]
fn what_a_preempted_writer_asked_before_never_lands_after_the_preemption_is_done() {
    let cluster = cluster();
    for (node, key) in [(2, "2"), (3, "3")] {
        done(&cluster, node, &["register", "vd0", "--key", key]);
    }
    done(&cluster, 2, &["reserve", "vd0", "--key", "2", "--type", "we"]);
    let preempt = ["preempt", "vd0", "--key", "3", "--type", "we", "--abort", "--victim"];
    let why = refused(&cluster, 3, &[&preempt[..], &["77"]].concat(), CONFLICT);
    assert!(why.contains("nobody is registered with that key"), "{why}");
    for round in 0..5 {
        let writers: Vec<JoinHandle<u64>> = (0..4).map(|block| writer(&cluster, 2, block)).collect();
        let begun = cluster.status(2).unwrap().driver.completed;
        fixtures_lab::until("the writers write", || {
            (cluster.status(2)?.driver.completed > begun + 200).then_some(())
        });
        done(&cluster, 3, &[&preempt[..], &["2"]].concat());
        // Nothing of the victim can come after this.
        let mut client = client(&cluster, 3);
        for block in 0..4 {
            client.write(block * BLOCK as u64, &[100 + round; BLOCK], false).unwrap();
        }
        assert!(writers.into_iter().all(|writer| writer.join().unwrap() > 0));
        for block in 0..4 {
            let mut bytes = [0; BLOCK];
            client.read(block * BLOCK as u64, &mut bytes).unwrap();
            assert!(bytes == [100 + round; BLOCK], "a write of the victim landed late");
        }
        // The other way round, for the next time.
        done(&cluster, 3, &["clear", "vd0", "--key", "3"]);
        for (node, key) in [(2, "2"), (3, "3")] {
            done(&cluster, node, &["register", "vd0", "--key", key]);
        }
        done(&cluster, 2, &["reserve", "vd0", "--key", "2", "--type", "we"]);
    }
    let said = done(&cluster, 1, &["list"]);
    assert!(said.contains("node2") && said.contains("write exclusive"), "{said}");
}
