//! `netdisk lab` as a person calls it.

use fixtures_lab::{Folder, Program, skipped, until};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn netdisk() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netdisk"));
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn lab(words: &[&str]) -> Output {
    netdisk().arg("lab").args(words).output().expect("netdisk starts")
}

/// Whether the laboratory's parts are to be had here; if not, that is said loudly.
#[track_caller]
fn has_lab() -> bool {
    let doctor = lab(&["doctor", "--fetch"]);
    if !doctor.status.success() {
        skipped(&format!("no soft-RoCE laboratory here:\n{}", String::from_utf8_lossy(&doctor.stdout)));
    }
    doctor.status.success()
}

// proves: F1
#[test]
fn one_command_runs_a_program_and_gives_back_its_output_and_code() {
    if !has_lab() {
        return;
    }
    let folder = Folder::new();
    let plan = folder.join("plan.toml");
    let text = "[[fault]]\nat_us = 0\nlasts_us = 1\nsubject = \"kill\"\nnode = 1\n";
    std::fs::write(&plan, text).expect("a file");
    let script = "echo out; echo err >&2; exit 5";
    let plan = plan.display().to_string();
    let done = lab(&["run", "--rails", "1", "--faults", &plan, "--", "sh", "-c", script]);
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!((done.status.code(), out.as_ref()), (Some(5), "out\n"), "{err}");
    assert!(err.contains("NOT CARRIED OUT") && err.contains("node 1 is killed"), "{err}");
    assert!(err.ends_with("err\n"), "{err}");
}

// proves: F1
#[test]
fn a_killed_netdisk_leaves_no_emulator_behind() {
    if !has_lab() {
        return;
    }
    let mut command = netdisk();
    command.args(["lab", "run", "--rails", "1", "--", "sh", "-c", "echo up; sleep 1000"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("netdisk starts");
    let mut up = [0; 3];
    child.stdout.take().expect("piped").read_exact(&mut up).expect("the program in the guest speaks");
    assert_eq!(&up, b"up\n");
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let emulator = std::fs::read_to_string(children).expect("its children");
    let emulator = format!("/proc/{}", emulator.trim());
    assert!(Path::new(&emulator).is_dir(), "no emulator at {emulator}");
    kill_process(Pid::from_child(&child), Signal::KILL).expect("a child of ours");
    child.wait().expect("a child of ours");
    let is_gone = || {
        let state = std::fs::read_to_string(format!("{emulator}/status")).unwrap_or_default();
        (state.is_empty() || state.contains("State:\tZ")).then_some(())
    };
    until("the emulator has gone with its parent", is_gone);
}

#[test]
fn bad_arguments_are_refused_with_what_is_possible() {
    let cases: [(&[&str], &str); 8] = [
        (&["run"], "PROGRAM"),
        (&["run", "--hosts", "0", "--", "true"], "1 to 16"),
        (&["run", "--rails", "9", "--", "true"], "1 to 8"),
        (&["run", "--ram", "lots", "--", "true"], "512M"),
        (&["run", "--ram", "1M", "--", "true"], "at least 512M"),
        (&["run", "--memlock", "much", "--", "true"], "64K"),
        (&["run", "--share", "/no/such/folder", "--", "true"], "/no/such/folder"),
        (&["run", "--faults", "/no/such/plan", "--", "true"], "/no/such/plan"),
    ];
    for (words, hint) in cases {
        let done = lab(words);
        let err = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && err.contains(hint), "{words:?} should say {hint}: {err}");
    }
    assert!(Program::at(env!("CARGO_BIN_EXE_netdisk")).run(&["lab", "--help"]).status.success());
}

// proves: F1
#[test]
fn a_machine_whose_own_kernel_has_soft_roce_needs_no_guest_and_is_left_as_it_was() {
    if !has_lab() {
        return;
    }
    // A guest is such a machine, once its own devices are out of the way.
    let script = "rail delete h1 1; netdisk=$1
        $netdisk lab run --rails 1 -- sh -c 'echo $LAB_WAY; pair ibv_rc_pingpong -n 10; exit 6'; echo code $?
        ls /sys/class/infiniband /run/netns; ls /run/lab/hosts
        $netdisk lab run --way host --timeout 3 -- sleep 1000; ls /sys/class/infiniband
        rail add h1 1; $netdisk lab run --way host -- true";
    let netdisk = env!("CARGO_BIN_EXE_netdisk");
    let done = lab(&["run", "--hosts", "1", "--rails", "1", "--", "sh", "-c", script, "sh", netdisk]);
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(out.starts_with("host\n") && out.contains("10 iters"), "{out}{err}");
    let rest = out.split_once("code 6\n").unwrap_or_else(|| panic!("{out}{err}")).1;
    assert_eq!(rest, "/run/netns:\nh1\n\n/sys/class/infiniband:\nh1\n", "{err}");
    assert!(err.contains("still running after 3 s") && err.contains("another laboratory is here"), "{err}");
}

/// The shortest form that there is: one row, one pair of turns.
// proves: F1
#[cfg(feature = "verbs")]
#[test]
fn the_laboratory_measures_a_row_and_draws_it() {
    if !has_lab() {
        return;
    }
    let folder = Folder::new();
    let picture = folder.join("bench.png");
    let row = ["--quick", "--pairs", "1", "--only", "verbs/64B", "--json", "--plot"];
    let ran = netdisk().args(["lab", "bench"]).args(row).arg(&picture).output().expect("netdisk starts");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON, and nothing else");
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 1, "{report}");
    assert_eq!(rows[0]["scenario"], "verbs/64B/half-round-trip");
    // perftest may be missing here; then the row says so, and there is no ratio.
    assert!(rows[0]["ratio"].is_number() || said.contains("SKIPPED"), "{report}");
    assert!(said.contains("verbs/64B/half-round-trip"), "the table is for a person: {said}");
    let picture = std::fs::read(&picture).expect("the picture, written from within");
    assert!(picture.starts_with(b"\x89PNG"), "{} bytes that are no picture", picture.len());
}

#[cfg(not(feature = "verbs"))]
#[test]
fn a_build_without_verbs_says_how_to_get_one_that_measures() {
    let refused = lab(&["bench", "--quick"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("--features verbs -- lab bench"), "{said}");
}
