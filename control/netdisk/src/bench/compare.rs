//! `netdisk bench compare OLD NEW`: two reports, or two folders of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bench_harness::{Change, SavedReport, differences, show_differences};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A report (--json) of an earlier run, or a folder of them.
    old: PathBuf,
    /// The later one.
    new: PathBuf,
}

/// `false`: something became worse.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let Arguments { old, new } = arguments;
    let mut good = true;
    for (old, new) in pairs(old, new)? {
        let (before, after) = (SavedReport::read(&old)?, SavedReport::read(&new)?);
        let [from, to] = [&before, &after].map(|report| {
            let machine = &report.machine;
            format!(
                "{} · {} cores of {} · Linux {}",
                machine.commit, machine.cores, machine.cpu, machine.kernel
            )
        });
        println!("{}\n  old: {from}\n  new: {to}", new.display());
        if before.machine.cpu != after.machine.cpu || before.machine.cores != after.machine.cores {
            println!("  WARNING: two machines; ratios to peers may differ for that alone");
        }
        let rows = differences(&before, &after).with_context(|| format!("{}", new.display()))?;
        println!("{}", show_differences(&rows));
        good &= rows.iter().all(|row| row.verdict != Change::Worse);
    }
    Ok(good)
}

/// Files that go together: the two, or those of the same name in two folders.
fn pairs(old: &Path, new: &Path) -> anyhow::Result<Vec<(PathBuf, PathBuf)>> {
    if !old.is_dir() {
        return Ok(vec![(old.to_owned(), new.to_owned())]);
    }
    let entries = std::fs::read_dir(old).with_context(|| format!("{} cannot be read", old.display()))?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let both = names.map(|name| (old.join(&name), new.join(&name)));
    let mut pairs: Vec<_> = both
        .filter(|(old, new)| old.extension().is_some_and(|ending| ending == "json") && new.is_file())
        .collect();
    pairs.sort();
    ensure!(!pairs.is_empty(), "{} and {} hold no reports of the same name", old.display(), new.display());
    Ok(pairs)
}
