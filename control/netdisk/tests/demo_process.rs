//! The demo as a person runs it: the program, its processes, its exit code and what it prints.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A file with content of its own, in a folder that goes when this is dropped.
struct Input {
    folder: PathBuf,
}

impl Input {
    fn new(name: &str, bytes: &[u8]) -> Input {
        let folder = std::env::temp_dir().join(format!("netdisk-demo-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("input"), bytes).unwrap();
        Input { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("input")
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Not a multiple of a block, and no two blocks alike.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8).collect()
}

// proves: B1 B4 T6
#[test]
fn the_demo_loses_no_byte_when_the_primary_is_killed_and_a_rail_is_cut() {
    let input = Input::new("good", &bytes(300_001));
    let kept = input.folder.join("kept");
    let scratch = input.folder.join("tmp");
    std::fs::create_dir(&scratch).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_netdisk"))
        .args(["demo", "--seconds", "3", "--input"])
        .arg(input.path())
        .arg("--keep")
        .arg(&kept)
        .env("TMPDIR", &scratch)
        .output()
        .unwrap();
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{said}");
    for part in ["lost = 0", "stale = 0", "errors = 0", "through C   sha256", "verdict       GOOD"] {
        assert!(told.contains(part), "{part} is missing in:\n{told}\n{said}");
    }
    // Through C, and through the node that took over.
    assert_eq!(told.matches("… the same").count(), 2, "{told}");
    assert!(said.contains("is killed by SIGKILL") && said.contains("is cut"), "{said}");
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "left behind");
    let logs = ["A", "B", "C"].map(|node| {
        let log = std::fs::read_to_string(kept.join(format!("node-{node}.log"))).unwrap();
        assert!(!log.contains('\x1b'), "colours in a file:\n{log}");
        assert!(!log.contains("is not reached by all others"), "one that joined did not see another:\n{log}");
        log
    });
    assert_eq!(
        logs.iter().filter(|log| log.contains("stopped")).count(),
        2,
        "all but the killed one stop in order"
    );
}

#[test]
fn an_input_that_cannot_be_used_is_named_and_nothing_is_left_behind() {
    let input = Input::new("empty", b"");
    let scratch = input.folder.join("tmp");
    std::fs::create_dir(&scratch).unwrap();
    for (path, why) in
        [(input.path(), "empty"), (input.folder.clone(), "not a plain file"), ("gone".into(), "No such")]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_netdisk"))
            .arg("demo")
            .arg("--input")
            .arg(&path)
            .env("TMPDIR", &scratch)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains(why) && said.contains(path.to_str().unwrap()), "{said}");
        assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "left behind");
    }
}

#[test]
fn one_byte_changed_on_the_disk_behind_the_nodes_is_found_and_told() {
    let input = Input::new("tampered", &bytes(300_001));
    let kept = input.folder.join("kept");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_netdisk"))
        .args(["demo", "--seconds", "2", "--input"])
        .arg(input.path())
        .arg("--keep")
        .arg(&kept)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(demo.stderr.take().unwrap()).lines() {
        said.push(line.unwrap());
        if said.last().unwrap().contains("is killed by SIGKILL") {
            // Half of the image is on the disk, so its beginning is written and will not be written again.
            let mut disk = std::fs::OpenOptions::new().write(true).open(kept.join("shelf.img")).unwrap();
            disk.write_all(&[!bytes(1)[0]]).unwrap();
            disk.sync_all().unwrap();
        }
    }
    let mut told = String::new();
    demo.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    let said = said.join("\n");
    assert_eq!(demo.wait().unwrap().code(), Some(1), "{told}\n{said}");
    for part in ["1 bytes of the image, read through C, are wrong, the first at 0", "DIFFERENT", "BAD"] {
        assert!(told.contains(part), "{part} is missing in:\n{told}\n{said}");
    }
}
