//! `netdisk cluster export`, `import`: the whole configuration as a file. It is of the same shape as the file
//! that a cluster can begin with; the cluster's key is not in it.

use crate::change::flow::{self, Cluster};
use crate::change::{Flags, Look, Plan};
use crate::daemon::Daemon;
use anyhow::{Context, ensure};
use blockdev_proto::mirror::LegState;
use control_node::config::{Config, to_json, to_toml};
use control_proto::ccd::{Database, Row, RowChange, SettingsRow};
use control_proto::pool::RegionState;
use control_proto::rows::{ClusterRows, LegRow, MirrorShape, Shape};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use transport_proto::connectivity::Settings;

/// Write the configuration to standard output.
#[derive(clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    look: Look,
}

/// Make the configuration what a file says.
#[derive(clap::Args)]
pub(super) struct Import {
    /// A file as `netdisk cluster export` writes it, TOML; or JSON, if its name ends so.
    file: PathBuf,
    #[command(flatten)]
    flags: Flags,
}

pub(super) fn export(export: &Export) -> anyhow::Result<ExitCode> {
    let database = Daemon::of(&export.look.which)?.database()?;
    if export.look.json {
        println!("{}", serde_json::to_string_pretty(&to_json(database.rows()))?);
    } else {
        print!("{}", to_toml(database.rows()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn import(import: &Import) -> anyhow::Result<ExitCode> {
    let wanted = read(&import.file)?;
    let mut daemon = Daemon::of(&import.flags.which)?;
    flow::run(&mut daemon, &import.flags, false, &|database| plan(database, &wanted))
}

/// The rows of a file. JSON is turned into TOML first, so that there is one reader and one set of mistakes.
fn read(file: &Path) -> anyhow::Result<ClusterRows> {
    if file.extension().is_none_or(|end| end != "json") {
        return Ok(Config::load_rows(file)?);
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let value: toml::Table = serde_json::from_str(&text)
        .with_context(|| format!("{} is no JSON of a configuration", file.display()))?;
    Ok(Config::parse_rows(file, &toml::to_string(&value)?)?)
}

/// All changes that make the rows what is wanted.
fn plan(database: &Database, wanted: &ClusterRows) -> anyhow::Result<Plan> {
    let rows = database.rows();
    ensure!(
        rows.name == wanted.name,
        "the file is of cluster {:?}, this one is {:?}: a cluster keeps its name; change the name in the \
         file if it is meant for this one",
        wanted.name,
        rows.name
    );
    let mut wanted = wanted.clone();
    // What a file does not tell stays.
    let Settings { period, missed_down, heard_up, sticky, .. } = wanted.connectivity;
    let connectivity = Settings { period, missed_down, heard_up, sticky, ..rows.connectivity };
    wanted.put(Row::Settings(SettingsRow { connectivity, ..wanted.settings() }));
    keep_legs(rows, &mut wanted);
    keep_pool(rows, &mut wanted);
    let mut changes: Vec<RowChange> = Vec::new();
    for row in wanted.all_rows().filter(|row| rows.row(&row.key()).as_ref() != Some(row)) {
        changes.push(RowChange::Put(row));
    }
    let gone = rows.all_rows().filter(|row| wanted.row(&row.key()).is_none());
    changes.extend(gone.map(|row| RowChange::Remove(row.key())));
    Ok(Plan::new(format!("the configuration is as the file says, {} rows changed", changes.len()), changes))
}

/// How the legs of a mirror stand is no matter of files: those that stay are as they are, and new ones are
/// copied to.
fn keep_legs(rows: &ClusterRows, wanted: &mut ClusterRows) {
    for row in &mut wanted.volumes {
        let Some(known) = rows.volume(row.volume) else { continue };
        let (Shape::Mirror(known), Shape::Mirror(mirror)) = (&known.shape, &mut row.shape) else { continue };
        let highest = known.legs.iter().map(|leg| leg.identity).max().unwrap_or(0);
        let names = |leg: &LegRow| mirror.legs.iter().any(|one| one.volume == leg.volume);
        let mut legs: Vec<LegRow> = known.legs.iter().copied().filter(names).collect();
        for (place, leg) in mirror.legs.iter().enumerate() {
            if legs.iter().all(|one| one.volume != leg.volume) {
                let identity = highest.wrapping_add(place as u64 + 1);
                legs.push(LegRow { identity, state: LegState::Stale, ..*leg });
            }
        }
        *mirror = MirrorShape { legs, ..known.clone() };
    }
}

/// What became of regions and lent volumes is no matter of files either.
fn keep_pool(rows: &ClusterRows, wanted: &mut ClusterRows) {
    for row in &mut wanted.regions {
        if let Some(known) = rows.region(row.id).filter(|_| row.loan().is_none()) {
            row.state = match known.state {
                RegionState::Lent(_) => RegionState::Erasing,
                state => state,
            };
        }
    }
    for row in &mut wanted.loans {
        if let Some(known) = rows.loan(row.id).filter(|known| known.mounted == row.mounted) {
            row.kept = known.kept.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::change::sample::{after, database, refused, rows};
    use control_proto::pool::RegionId;

    fn from(text: &str) -> ClusterRows {
        Config::parse_rows(Path::new("/c.toml"), text).unwrap()
    }

    // proves: C2
    #[test]
    fn what_was_exported_is_imported_without_a_change_and_edits_become_row_changes() {
        let start = database();
        let text = to_toml(start.rows());
        assert!(plan(&start, &from(&text)).unwrap().changes.is_empty());
        let edited = text.replace("owner = 1000", "owner = 7").replace("64MiB", "80MiB");
        let changed = after(&start, &|db| plan(db, &from(&edited))).unwrap();
        assert_eq!(changed.rows().permissions[0].owner, 7);
        assert_eq!(changed.rows().virtual_disks[0].size_bytes, 80 << 20);
        // And back again: what grew cannot shrink, and nothing of the rest is done by halves.
        assert!(refused(&changed, &|db| plan(db, &from(&text))).contains("only grows"));
        assert_eq!(changed.rows().permissions[0].owner, 7);
    }

    // proves: C2 B9
    #[test]
    fn a_mirror_that_was_exported_is_imported_as_it_stands() {
        let text = to_toml(&rows());
        let legs = r#"
            [[virtual_disk]]
            id = 5
            name = "left"
            size = "64MiB"
            disk = "spare"
            [[virtual_disk]]
            id = 6
            name = "right"
            size = "64MiB"
            disk = "quick"
            [[virtual_disk]]
            id = 7
            name = "m"
            size = "32MiB"
            mirror = ["left", "right"]
            nodes = ["alpha", "gamma"]
        "#;
        let made = after(&database(), &|db| plan(db, &from(&format!("{text}{legs}")))).unwrap();
        let exported = to_toml(made.rows());
        assert!(plan(&made, &from(&exported)).unwrap().changes.is_empty(), "{exported}");
        let one = exported.replace("\"left\", \"right\"", "\"left\"");
        let less = after(&made, &|db| plan(db, &from(&one))).unwrap();
        let back = after(&less, &|db| plan(db, &from(&exported))).unwrap();
        let identity = |db: &Database| match &db.rows().volumes[0].shape {
            Shape::Mirror(mirror) => mirror.legs[1].identity,
            other => panic!("{other:?}"),
        };
        assert_ne!(identity(&back), identity(&made), "what it missed meanwhile is marked nowhere");
    }

    // proves: M1 C2
    #[test]
    fn the_pool_that_was_exported_is_imported_as_it_stands() {
        let pool = r#"
            [[disk]]
            id = 7
            name = "lent"
            nodes = ["beta"]
            path = "/lent.img"
            [[disk]]
            id = 8
            name = "more"
            nodes = ["alpha"]
            path = "/more.img"
            [[region]]
            id = 3
            name = "r3"
            lender = "beta"
            disks = ["lent"]
            sizes = ["64MiB"]
            form = "concatenated"
            [[region]]
            id = 4
            name = "r4"
            lender = "alpha"
            disks = ["more"]
            sizes = ["32MiB"]
            drained = true
            [[loan]]
            id = 2
            name = "v"
            borrower = "gamma"
            form = "concatenated"
            size = "48MiB"
            regions = ["r3"]
        "#;
        let written = format!("{}{pool}", to_toml(&rows()));
        let start = Database::found(from(&written)).unwrap();
        assert!(start.rows().region(RegionId(3)).unwrap().loan().is_some());
        assert_eq!(start.rows().region(RegionId(4)).unwrap().state, RegionState::Erasing);
        let exported = to_toml(start.rows());
        assert!(plan(&start, &from(&exported)).unwrap().changes.is_empty(), "{exported}");
        let faults = Config::parse_rows(Path::new("/c.toml"), &written.replace("[\"r3\"]", "[\"r5\"]"));
        assert!(faults.unwrap_err().to_string().contains("region"));
        // What is lent does not become free by a file: it is given back, and erased first.
        let less = exported.split("[[loan]]").next().unwrap();
        let back =
            after(&after(&database(), &|db| plan(db, &from(less))).unwrap(), &|db| plan(db, &from(less)));
        let state = back.unwrap().rows().region(RegionId(3)).unwrap().state;
        assert_eq!(state, RegionState::Erasing);
    }

    #[test]
    fn rows_that_are_not_in_the_file_go() {
        let mut less = rows();
        less.disks.retain(|row| row.name != "spare");
        less.nbd.clear();
        let changed = after(&database(), &|db| plan(db, &less)).unwrap();
        assert_eq!(*changed.rows().as_ref(), less);
    }

    #[test]
    fn json_is_read_as_toml_is_and_mistakes_are_told() {
        let folder = std::env::temp_dir().join(format!("netdisk-import-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("c.json");
        std::fs::write(&file, to_json(&rows()).to_string()).unwrap();
        assert_eq!(read(&file).unwrap(), rows());
        std::fs::write(&file, "{ not json").unwrap();
        assert!(format!("{:#}", read(&file).unwrap_err()).contains("no JSON"));
        std::fs::write(&file, r#"{"cluster": {"name": "x"}, "nodes": []}"#).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("unknown field"));
        assert!(read(&folder.join("gone.toml")).unwrap_err().to_string().contains("cannot read"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_of_another_cluster_is_refused() {
        let mut other = rows();
        other.name = "south".into();
        assert!(refused(&database(), &|db| plan(db, &other)).contains("keeps its name"));
    }
}
