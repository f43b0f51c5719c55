//! `netdisk bench table`: runs every bench with its peers, keeps the reports, and writes the one table of
//! bench/README.md.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use bench_harness::{SavedReport, SavedRow};

/// Name of the report, and the command that makes it, in the order of the table.
const BENCHES: [(&str, &str); 9] = [
    ("lat-shm", "bench lat --provider shm --vs cacheline,ucx,libfabric,iceoryx2"),
    ("lat-tcp", "bench lat --provider tcp --vs tcp,unix,ucx,libfabric"),
    ("bw-shm", "bench bw --provider shm --vs memcpy,ucx,iceoryx2"),
    ("bw-tcp", "bench bw --provider tcp --vs tcp,unix,ucx"),
    ("rate-shm", "bench rate --provider shm --vs ucx,iceoryx2"),
    ("disk-shm", "bench disk --provider shm --rw read,write --vs nbdkit,qemu-nbd,nbd-server"),
    ("disk-tcp", "bench disk --provider tcp --vs nbdkit,nbd-server"),
    ("library", "bench disk --surface library --depth 1,32"),
    ("control", "bench control --vs etcd --turns 3"),
];
/// Between these lines stands the table.
const BEGIN: &str = "<!-- begin: netdisk bench table -->";
const END: &str = "<!-- end: netdisk bench table -->";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder of the reports.
    #[arg(long, default_value = "bench/results", value_name = "FOLDER")]
    results: PathBuf,
    /// The file that holds the table; it is written anew between its two marks.
    #[arg(long, default_value = "bench/README.md", value_name = "FILE")]
    readme: PathBuf,
    /// Run only the benches whose name contains this; the other reports stay as they are.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Run nothing: write the table from the reports that are there.
    #[arg(long)]
    keep: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let Arguments { results, readme, only, keep } = arguments;
    let text =
        std::fs::read_to_string(readme).with_context(|| format!("{} cannot be read", readme.display()))?;
    ensure!(
        text.contains(BEGIN) && text.contains(END),
        "{} lacks the lines {BEGIN} and {END}",
        readme.display()
    );
    std::fs::create_dir_all(results).with_context(|| format!("{} cannot be made", results.display()))?;
    let wanted = only.as_deref().unwrap_or_default();
    if !keep && !BENCHES.iter().any(|(name, _)| name.contains(wanted)) {
        let names = BENCHES.map(|(name, _)| name).join(", ");
        bail!("no bench's name contains {wanted:?}; they are {names}");
    }
    for (name, command) in BENCHES.iter().filter(|(name, _)| !keep && name.contains(wanted)) {
        eprintln!("\n{name}: netdisk {command}");
        measure(&results.join(format!("{name}.json")), command)?;
    }
    let table = table(results)?;
    std::fs::write(readme, between_the_marks(&text, &table)?)
        .with_context(|| format!("{} cannot be written", readme.display()))?;
    println!("{table}");
    Ok(true)
}

/// Runs this very program.
fn measure(report: &Path, command: &str) -> anyhow::Result<()> {
    let status = Command::new("/proc/self/exe")
        .args(command.split(' '))
        .arg("--json")
        .arg(report)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "netdisk {command} failed ({status})");
    Ok(())
}

fn table(results: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    for (name, command) in BENCHES {
        let path = results.join(format!("{name}.json"));
        if !path.is_file() {
            writeln!(text, "\n`netdisk {command}`: not measured yet.")?;
            continue;
        }
        let report = SavedReport::read(&path)?;
        let machine = &report.machine;
        let SavedReport { rows, .. } = &report;
        writeln!(
            text,
            "\n`netdisk {command}` · commit {}, {} × {}, Linux {}\n",
            machine.commit, machine.cores, machine.cpu, machine.kernel
        )?;
        writeln!(text, "| row | netdisk | limit or peer | ratio | verdict |\n|---|---|---|---|---|")?;
        for row in rows {
            writeln!(text, "{}", line(row))?;
        }
    }
    Ok(text)
}

fn line(row: &SavedRow) -> String {
    let figure = |figure: Option<f64>| figure.map_or("–".to_owned(), |figure| row.unit.show(figure));
    let limit = match row.limit.is_empty() {
        true => "–".to_owned(),
        false => format!("{}, {}", figure(row.limit_figure), row.limit),
    };
    let ratio = row.ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}×"));
    let verdict = match row.verdict.kind.as_str() {
        "reached" => "reached".to_owned(),
        "not_reached" => "not reached".to_owned(),
        "not_decided" => "not decided".to_owned(),
        "shown" => String::new(),
        other => format!("{}: {}", other.to_uppercase(), row.verdict.why.as_deref().unwrap_or_default()),
    };
    let cells = [row.scenario.as_str(), &figure(row.ours_figure), &limit, &ratio, &verdict];
    format!("| {} |", cells.map(|cell| cell.replace('|', "/").replace('\n', " ")).join(" | "))
}

fn between_the_marks(text: &str, table: &str) -> anyhow::Result<String> {
    let (head, rest) = text.split_once(BEGIN).context("the first mark is gone")?;
    let (_, tail) = rest.split_once(END).context("the second mark is gone")?;
    Ok(format!("{head}{BEGIN}\n{table}\n{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: F4
    #[test]
    fn the_table_goes_between_its_marks_and_nothing_else_changes() {
        let text = format!("head\n{BEGIN}\nold\n{END}\ntail\n");
        let new = between_the_marks(&text, "| new |").unwrap();
        assert!(new.starts_with("head\n") && new.ends_with("tail\n"), "{new}");
        assert!(new.contains("| new |") && !new.contains("old"), "{new}");
        assert_eq!(between_the_marks(&new, "| new |").unwrap(), new);
        assert!(between_the_marks(END, "").is_err());
    }

    #[test]
    fn benches_have_names_of_their_own_and_commands_that_this_program_knows() {
        use clap::Parser;
        for (at, (name, command)) in BENCHES.iter().enumerate() {
            assert!(BENCHES[..at].iter().all(|(other, _)| other != name), "{name}");
            let words = ["netdisk"].into_iter().chain(command.split(' '));
            crate::Arguments::try_parse_from(words).map(drop).unwrap();
        }
    }
}
