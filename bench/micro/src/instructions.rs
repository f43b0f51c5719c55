//! How many instructions the hot paths take, counted by callgrind: on a shared machine times swing by half,
//! this number does not move unless the code does. `bench-micro instructions` compares it with what is
//! written in `bench/results/instructions.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bench_harness::Table;
use blockdev_engine::{BlockEngine, BlockIo, WriteData};
use blockdev_proto::geometry::{BlockBytes, ByteRange, DiskId};
use blockdev_proto::wire::{Operation, RequestFlags};
use blockdev_store::{AnyBacking, MemoryDisk};
use serde::{Deserialize, Serialize};
use transport_endpoint::{Clients, Data, Endpoint, FIRST_FREE_TOKEN, Tag};
use transport_proto::identity::{ClientId, Incarnation};

use crate::netdisk::disk_master::{VOLUME, map};
use crate::netdisk::partner::{Answering, Ask};
use crate::netdisk::{Carrier, Heard, Layout, PARTNER, STATION, Waiting, Wiring};
use crate::scratch::ScratchFolder;

/// Exit code when nothing could be compared.
pub(crate) const NOTHING_COMPARED: u8 = 77;
/// Counts that differ by less are the same: where memory lies moves them by a little.
const CHANGE_MAX: f64 = 0.03;
/// Operations of the shorter run; the longer has twice as many, and the difference counts.
const OPERATIONS: u64 = 2_000;
/// Rounds without news after which an exchange is stuck.
const ROUNDS_MAX: u32 = 10_000_000;
const DISK_BYTES: u64 = 4 << 20;
const BLOCK_BYTES: usize = 4096;
const DISK: DiskId = DiskId(1);

/// A hot path: its name, and what runs it so many times.
type HotPath = (&'static str, fn(u64) -> Result<()>);

/// Both ends in one process and one thread, so that their rounds are the same in every run. Not over TCP: how
/// many rounds find nothing there is up to the kernel.
const PATHS: [HotPath; 4] = [
    ("message of 64 B there and back, shm", |operations| echo(64, operations)),
    ("message of 4 KiB there and back, shm", |operations| echo(BLOCK_BYTES, operations)),
    ("read of 4 KiB from another node, shm", |operations| disk(Operation::Read, operations)),
    ("write of 4 KiB to another node, shm", |operations| disk(Operation::Write, operations)),
];

/// What was counted, and by which compiler.
#[derive(Debug, Serialize, Deserialize)]
struct Counts {
    /// First line of `rustc --version`; another compiler writes other code.
    compiler: String,
    /// Instructions per operation, by hot path.
    instructions: BTreeMap<String, f64>,
}

/// Counts all paths and compares them with what is written, or writes it.
///
/// # Errors
/// valgrind is not there, a path fails, or one takes more instructions than written; the table says which.
pub(crate) fn check(write: bool) -> Result<u8> {
    let file = baseline();
    let now = Counts { compiler: compiler()?, instructions: count_all()? };
    if write {
        let text = serde_json::to_string_pretty(&now)?;
        fs::write(&file, text + "\n").with_context(|| format!("{} cannot be written", file.display()))?;
        println!("written: {}", file.display());
        return Ok(0);
    }
    let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let before: Counts =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))?;
    print!("{}", table(&before, &now).show());
    if before.compiler != now.compiler {
        println!(
            "SKIPPED: counts are of {}, this is {}: write them anew with --write",
            before.compiler, now.compiler
        );
        return Ok(NOTHING_COMPARED);
    }
    let changed = changed(&before, &now);
    ensure!(
        changed.is_empty(),
        "{} changed by more than {:.0} %: look for the cause, or accept it with \
         `cargo run --release -p bench-micro -- instructions --write`",
        changed.join("; "),
        CHANGE_MAX * 100.0
    );
    println!("{} hot paths take as many instructions as written", now.instructions.len());
    Ok(0)
}

/// Runs one path; callgrind counts.
///
/// # Errors
/// There is no such path, or it fails.
pub(crate) fn run(path: &str, operations: u64) -> Result<()> {
    let known = PATHS.iter().find(|(name, _)| *name == path);
    let (_, run) = known.with_context(|| format!("there is no hot path {path:?}"))?;
    run(operations)
}

fn baseline() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../results/instructions.json"))
}

fn compiler() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("rustc cannot be started")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn count_all() -> Result<BTreeMap<String, f64>> {
    let count = |name: &str| -> Result<(String, f64)> {
        let [few, many] = [OPERATIONS, 2 * OPERATIONS].map(|operations| instructions(name, operations));
        Ok((name.to_owned(), many?.saturating_sub(few?) as f64 / OPERATIONS as f64))
    };
    PATHS.iter().map(|(name, _)| count(name).with_context(|| (*name).to_owned())).collect()
}

/// Instructions of a whole run, as callgrind counts them.
fn instructions(path: &str, operations: u64) -> Result<u64> {
    let folder = ScratchFolder::create()?;
    let counts = folder.path().join("callgrind");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(std::env::current_exe()?)
        .args(["hot-path", path, &operations.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("valgrind cannot be started: apt-get install valgrind")?;
    ensure!(output.status.success(), "valgrind: {}", String::from_utf8_lossy(&output.stderr));
    total(&counts)
}

/// The line `totals: N` of callgrind's file.
fn total(file: &Path) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals:"));
    line.and_then(|number| number.trim().parse().ok()).context("callgrind told no total")
}

fn change(before: &Counts, now: &Counts, path: &str) -> Option<f64> {
    Some(now.instructions.get(path)? / before.instructions.get(path)? - 1.0)
}

/// Paths that take more or fewer instructions than written, and those that are not written. Fewer count too:
/// the gain is to be written down, or the next loss would hide in it.
fn changed(before: &Counts, now: &Counts) -> Vec<String> {
    let told = |path: &String| match change(before, now, path) {
        Some(change) if change.abs() <= CHANGE_MAX => None,
        Some(change) => Some(format!("{path}: {:+.1} %", change * 100.0)),
        None => Some(format!("{path}: not written yet")),
    };
    now.instructions.keys().filter_map(told).collect()
}

fn table(before: &Counts, now: &Counts) -> Table {
    let mut table = Table::new(&["hot path", "written", "now", "change"]);
    for (path, count) in &now.instructions {
        let written = before.instructions.get(path).map_or("–".to_owned(), |count| format!("{count:.0}"));
        let change = change(before, now, path).map_or("–".to_owned(), |it| format!("{:+.1} %", it * 100.0));
        table.row(vec![path.clone(), written, format!("{count:.0}"), change]);
    }
    table
}

/// A message to the other endpoint and back, again and again.
fn echo(bytes: usize, operations: u64) -> Result<()> {
    let wiring = Wiring::choose(Layout::one(Carrier::Shm, Waiting::Spinning))?;
    let mut here = wiring.endpoint(STATION, Heard::default())?;
    let mut there = wiring.endpoint(PARTNER, Answering::default())?;
    in_turn(&mut here, &mut there, |here| here.clients().partner_up)?;
    let message = vec![0x5a; bytes];
    for answers in 1..=operations {
        let data = Data::Copy(&message);
        let sent = here.core().send(PARTNER, ClientId::USER, &Ask::Echo.control(), data, Tag::SILENT);
        sent.map_err(|(refusal, _)| anyhow!("the message was refused: {refusal:?}"))?;
        in_turn(&mut here, &mut there, |here| here.clients().answers >= answers)?;
    }
    Ok(())
}

/// Rounds of both endpoints until something holds.
fn in_turn<A: Clients, B: Clients>(
    here: &mut Endpoint<A>,
    there: &mut Endpoint<B>,
    mut holds: impl FnMut(&mut Endpoint<A>) -> bool,
) -> Result<()> {
    for _ in 0..ROUNDS_MAX {
        if holds(here) {
            return Ok(());
        }
        here.run_once(Duration::ZERO)?;
        there.run_once(Duration::ZERO)?;
    }
    bail!("the exchange is stuck")
}

/// A block of a memory disk of the other node, read or written again and again.
fn disk(operation: Operation, operations: u64) -> Result<()> {
    let wiring = Wiring::choose(Layout::one(Carrier::Shm, Waiting::Spinning))?;
    let mut reader = wiring.endpoint(STATION, BlockEngine::new(STATION, Incarnation(1)))?;
    let mut master = wiring.endpoint(PARTNER, BlockEngine::new(PARTNER, Incarnation(1)))?;
    let registry = master.registry().try_clone()?;
    let backing = AnyBacking::Memory(MemoryDisk::new(DISK_BYTES, BlockBytes::USUAL.get())?);
    let token = mio::Token(FIRST_FREE_TOKEN);
    master.clients().attach_disk(&registry, token, DISK, VOLUME, backing).context("attaching the disk")?;
    map(&mut master, DISK_BYTES)?;
    map(&mut reader, DISK_BYTES)?;
    let source = Arc::new(vec![0x5a; BLOCK_BYTES]);
    for turn in 0..operations {
        let offset = turn * BLOCK_BYTES as u64 % DISK_BYTES;
        let range = ByteRange::new(offset, BLOCK_BYTES as u32);
        let data = (operation == Operation::Write).then(|| WriteData::Caller(source.clone()));
        let io = BlockIo { volume: VOLUME, operation, flags: RequestFlags::NONE, range, data, tag: turn };
        let (core, engine) = reader.parts();
        engine.submit(core, io).map_err(|refused| anyhow!("the request was refused: {:?}", refused.why))?;
        finish(&mut reader, &mut master)?;
    }
    Ok(())
}

fn finish(reader: &mut Endpoint<BlockEngine>, master: &mut Endpoint<BlockEngine>) -> Result<()> {
    for _ in 0..ROUNDS_MAX {
        for node in [&mut *reader, &mut *master] {
            node.run_once(Duration::ZERO)?;
            let (core, engine) = node.parts();
            while engine.next_event().is_some() {}
            engine.poll(core);
        }
        if let Some(done) = reader.clients().next_completion() {
            done.result.map_err(|errno| anyhow!("the request failed: {errno:?}"))?;
            return Ok(());
        }
    }
    bail!("the request is stuck")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Counts, PATHS, changed, run};

    fn counts(count: f64) -> Counts {
        let instructions = BTreeMap::from([("read".to_owned(), count)]);
        Counts { compiler: "rustc 1".to_owned(), instructions }
    }

    #[test]
    fn every_hot_path_runs() {
        for (name, _) in PATHS {
            run(name, 50).unwrap();
        }
        assert!(run("no such path", 1).is_err());
    }

    #[test]
    fn more_and_fewer_instructions_are_told_and_noise_is_not() {
        assert!(changed(&counts(1000.0), &counts(1029.0)).is_empty());
        assert_eq!(changed(&counts(1000.0), &counts(1050.0)), ["read: +5.0 %"]);
        assert_eq!(changed(&counts(1000.0), &counts(900.0)), ["read: -10.0 %"]);
        let nothing = Counts { compiler: String::new(), instructions: BTreeMap::new() };
        assert_eq!(changed(&nothing, &counts(1.0)), ["read: not written yet"]);
    }
}
