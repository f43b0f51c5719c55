//! Plans of the pool in a cluster where all goes well.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use super::*;
use crate::change::sample::{after, database, member, refused};
use blockdev_proto::mirror::LegState;
use control_proto::ccd::{Change, Command, MirrorChange, OperationId};
use control_proto::rows::Shape;
use transport_proto::identity::{Incarnation, NodeId};

#[derive(clap::Parser)]
struct Typed<T: clap::Args> {
    #[command(flatten)]
    arguments: T,
}

fn parsed<T: clap::Args>(words: &[&str]) -> T {
    let line = <Typed<T> as clap::Parser>::try_parse_from(std::iter::once(&"x").chain(words));
    line.unwrap_or_else(|fault| panic!("{fault}")).arguments
}

fn added(database: &Database, words: &[&str]) -> Database {
    let new: Add = parsed(words);
    after(database, &|db| plan_add(db, &new)).unwrap()
}

/// Lenders say that all their regions are zero.
fn erased(database: &Database) -> Database {
    let mut database = database.clone();
    let erasing = database.rows().regions.iter().filter(|row| row.state == RegionState::Erasing);
    let erasing: Vec<(RegionId, NodeId)> = erasing.map(|row| (row.id, row.lender)).collect();
    for (region, lender) in erasing {
        let index = database.index() + 1;
        let operation = OperationId { node: lender, life: Incarnation(1), sequence: index };
        let change = Change::Erased { region, by: member(lender.0) };
        let command = Command { operation, expect: Vec::new(), change };
        database.apply(index, &command).answer().result.clone().unwrap();
    }
    database
}

/// Alpha and beta lend a region each for copies; alpha lends two disks as one.
fn pooled() -> Database {
    let one = ["a", "--node", "alpha", "--path", "/a.img", "--size", "64MiB", "--form", "mirrored"];
    let two = ["b", "--node", "beta", "--path", "/b.img", "--size", "64MiB", "--form", "mirrored"];
    let wide = ["w", "--node", "alpha", "--path", "/w1", "--path", "/w2", "--size", "8MiB"];
    erased(&added(&added(&added(&database(), &one), &two), &wide))
}

fn allocated(database: &Database, words: &[&str]) -> Database {
    let new: Allocate = parsed(words);
    after(database, &|db| plan_allocate(db, &new)).unwrap()
}

fn mounted(database: &Database, words: &[&str]) -> Database {
    let it: Mount = parsed(words);
    after(database, &|db| plan_mount(db, &it, (7, 8), 99)).unwrap()
}

const MIRRORED: [&str; 7] = ["v", "--borrower", "gamma", "--size", "32MiB", "--form", "mirrored"];

// proves: M1 M2 M4 M5
#[test]
fn a_volume_is_borrowed_mounted_unmounted_and_given_back() {
    let lent = allocated(&pooled(), &MIRRORED);
    assert!(lent.rows().virtual_disk_named("v").is_none(), "no path before it is mounted");
    let there = mounted(&lent, &["v", "--listen", "unix:/run/v.sock"]);
    let volume = there.rows().virtual_disk_named("v").unwrap().id;
    assert_eq!(there.rows().permission(volume).unwrap().nodes, [NodeId(3)]);
    let table = lines(there.rows(), &[]);
    let words = table[0].words();
    assert_eq!(words[..8], ["a", "alpha", "64MiB", "mirrored", "lent", "v", "gamma", "yes"]);
    assert!(refused(&there, &|db| plan_release(db, "v")).contains("unmount it first"));
    let gone = after(&there, &|db| plan_unmount(db, "v")).unwrap();
    for name in ["v", "v.1", "v.2"] {
        assert!(gone.rows().virtual_disk_named(name).is_none(), "{name} stays");
    }
    assert!(gone.rows().nbd.iter().all(|server| server.listen.to_string() != "unix:/run/v.sock"));
    assert!(refused(&gone, &|db| plan_unmount(db, "v")).contains("not mounted"));
    let back = after(&gone, &|db| plan_release(db, "v")).unwrap();
    let again: Allocate = parsed(&MIRRORED);
    assert!(refused(&back, &|db| plan_allocate(db, &again)).contains("being erased"));
    allocated(&erased(&back), &MIRRORED);
}

// proves: M5 B10
#[test]
fn copies_of_a_volume_that_is_mounted_again_stand_as_they_stood() {
    let there = mounted(&allocated(&pooled(), &MIRRORED), &["v"]);
    let gone = after(&there, &|db| plan_unmount(db, "v")).unwrap();
    let again = mounted(&gone, &["v"]);
    let mirror = |db: &Database| {
        let whole = db.rows().virtual_disk_named("v").unwrap().id;
        match &db.rows().volume(whole).unwrap().shape {
            Shape::Mirror(mirror) => mirror.clone(),
            other => panic!("{other:?}"),
        }
    };
    let (before, now) = (mirror(&there), mirror(&again));
    assert_eq!((before.instance, before.fresh), (now.instance, now.fresh));
    let legs = |mirror: &control_proto::rows::MirrorShape| -> Vec<(u64, LegState)> {
        mirror.legs.iter().map(|leg| (leg.identity, leg.state)).collect()
    };
    assert_eq!(legs(&before), legs(&now));
}

// proves: M1 M3
#[test]
fn several_disks_are_one_region_and_forms_are_set_while_it_is_free() {
    let pool = pooled();
    let lent = allocated(&pool, &["s", "--borrower", "beta", "--size", "16MiB"]);
    let there = mounted(&lent, &["s"]);
    assert_eq!(there.rows().disks_below(there.rows().virtual_disk_named("s").unwrap().id).len(), 2);
    assert!(refused(&lent, &|db| plan_form(db, "w", Form::Split)).contains("is lent"));
    let set = after(&pool, &|db| plan_form(db, "w", Form::Concatenated)).unwrap();
    let none: Allocate = parsed(&["s", "--borrower", "beta", "--size", "1MiB"]);
    assert!(refused(&set, &|db| plan_allocate(db, &none)).contains("netdisk pool form REGION single"));
    for (form, count) in [("concatenated", "1"), ("split", "2")] {
        let mut all = pool.clone();
        for region in ["a", "b", "w"] {
            let form = if form == "split" { Form::Split } else { Form::Concatenated };
            all = after(&all, &|db| plan_form(db, region, form)).unwrap();
        }
        let words = ["s", "--borrower", "beta", "--size", "80MiB", "--form", form, "--count", count];
        let there = mounted(&allocated(&all, &words), &["s"]);
        assert_eq!(there.rows().virtual_disk_named("s").unwrap().size_bytes, 80 << 20, "{form}");
        after(&there, &|db| plan_unmount(db, "s")).unwrap();
    }
}

#[test]
fn drained_regions_are_not_lent_again_and_what_is_lent_stays_until_it_is_given_back() {
    let drain: Drain = parsed(&["--node", "alpha"]);
    let drained = after(&pooled(), &|db| plan_drain(db, &drain)).unwrap();
    let new: Allocate = parsed(&MIRRORED);
    assert!(refused(&drained, &|db| plan_allocate(db, &new)).contains("pool add"));
    let undo: Drain = parsed(&["a", "--undo"]);
    allocated(&after(&drained, &|db| plan_drain(db, &undo)).unwrap(), &MIRRORED);
    let gone = after(&drained, &|db| plan_remove(db, "w")).unwrap();
    assert!(gone.rows().disks.iter().all(|disk| !disk.name.starts_with('w')));
}

// proves: M5 M8 B10
#[test]
fn a_copy_moves_to_another_region_and_the_old_one_goes_only_when_the_new_one_is_complete() {
    let more = ["c", "--node", "gamma", "--path", "/c.img", "--size", "64MiB", "--form", "mirrored"];
    let pool = erased(&added(&pooled(), &more));
    let there = mounted(&allocated(&pool, &MIRRORED), &["v"]);
    let it: Evacuate = parsed(&["a"]);
    let wider = after(&there, &|db| evacuate::plan_more(db, &it, 5)).unwrap();
    let again = after(&wider, &|db| evacuate::plan_more(db, &it, 6)).unwrap();
    assert_eq!(again.rows().loans[0].regions.len(), 3, "one new copy, however often it is asked for");
    let early = refused(&wider, &|db| evacuate::plan_less(db, "a"));
    assert!(early.contains("goes on"), "{early}");
    let volume = there.rows().loans[0].mounted.unwrap();
    let mut synced = wider.clone();
    let legs = wider.rows().volume(volume).unwrap().mirror().unwrap().legs.clone();
    let stale = legs.iter().filter(|leg| leg.state == LegState::Stale);
    let in_sync = stale.map(|leg| MirrorChange::InSync { leg: leg.volume });
    for change in std::iter::once(MirrorChange::Formatted).chain(in_sync) {
        let index = synced.index() + 1;
        let operation = OperationId { node: NodeId(1), life: Incarnation(1), sequence: index };
        let change = Change::Mirror { volume, by: member(1), change };
        let command = Command { operation, expect: Vec::new(), change };
        synced.apply(index, &command).answer().result.clone().unwrap();
    }
    let moved = after(&synced, &|db| evacuate::plan_less(db, "a")).unwrap();
    let words: Vec<Vec<String>> = lines(moved.rows(), &[]).iter().map(Line::words).collect();
    assert_eq!((words[0][4].as_str(), words[3][5].as_str()), ("erasing", "v"));
    let serving: Vec<u16> =
        moved.rows().virtual_disk(volume).unwrap().candidates.iter().map(|(node, _)| node.0).collect();
    assert_eq!(serving, [2, 3], "its lender serves it no more");
    let gone = after(&moved, &|db| plan_unmount(db, "v")).unwrap();
    let asleep: Evacuate = parsed(&["b"]);
    assert!(refused(&gone, &|db| evacuate::plan_more(db, &asleep, 7)).contains("pool mount v"));
    let single: Evacuate = parsed(&["w"]);
    let lent = allocated(&pool, &["s", "--borrower", "beta", "--size", "16MiB"]);
    assert!(refused(&lent, &|db| evacuate::plan_more(db, &single, 7)).contains("no other copy"));
}

#[test]
fn slips_are_told_with_the_remedy() {
    let pool = pooled();
    let refuse = |words: &[&str]| {
        let new: Allocate = parsed(words);
        refused(&pool, &|db| plan_allocate(db, &new))
    };
    assert!(refuse(&["v", "--borrower", "delta", "--size", "1MiB"]).contains("there is alpha"));
    assert!(refuse(&["v", "--borrower", "beta", "--size", "1001"]).contains("multiple of the block"));
    assert!(refuse(&["vd0", "--borrower", "beta", "--size", "1MiB"]).contains("choose another name"));
    assert!(refuse(&["v", "--borrower", "beta", "--size", "1TiB"]).contains("netdisk pool add"));
    let add = |words: &[&str]| {
        let new: Add = parsed(words);
        refused(&pool, &|db| plan_add(db, &new))
    };
    assert!(add(&["x", "--node", "alpha", "--path", "x", "--size", "1MiB"]).contains("absolute"));
    assert!(add(&["x", "--node", "alpha", "--path", "/a.img", "--size", "1MiB"]).contains("/a.img is also"));
    assert!(add(&["a", "--node", "alpha", "--path", "/x", "--size", "1MiB"]).contains("already"));
    let three = ["x", "--node", "alpha", "--path", "/x", "--path", "/y", "--path", "/z"];
    assert!(
        add(&[&three[..], &["--size", "1MiB", "--size", "2MiB"]].concat()).contains("2 sizes for 3 disks")
    );
    assert!(refused(&pool, &|db| plan_remove(db, "x")).contains("there is a, b, w"));
    assert!(refused(&pool, &|db| plan_release(db, "x")).contains("nothing is"));
}
