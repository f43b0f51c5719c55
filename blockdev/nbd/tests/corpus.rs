//! Replays the fuzzer's seeds through the function that the fuzzer drives, and goes a little further by
//! chance.

#![allow(clippy::unwrap_used, reason = "a test fails where it finds the unexpected")]

use std::fs;
use std::path::Path;

use proptest::prelude::*;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/fuzz/corpus/nbd");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut seeds: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

// proves: B13
#[test]
fn every_seed_of_the_corpus_passes() {
    let seeds = corpus();
    assert!(seeds.len() >= 15, "the corpus is not complete: {} seeds", seeds.len());
    for (name, bytes) in seeds {
        eprintln!("{name}");
        blockdev_nbd::exercise(&bytes);
    }
}

proptest! {
    // proves: B13
    #[test]
    fn damaged_seeds_pass_too(
        choice: prop::sample::Index,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
    ) {
        let seeds = corpus();
        let mut bytes = choice.get(&seeds).1.clone();
        for (position, value) in damage {
            if !bytes.is_empty() {
                let position = position.index(bytes.len());
                bytes[position] = value;
            }
        }
        blockdev_nbd::exercise(&bytes);
    }
}
