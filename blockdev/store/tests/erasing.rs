//! A disk is zero after its erasure, however often that was broken off, and nobody else has it open
//! meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use blockdev_store::{DiskFile, DiskUuid, EraseFault, Erasure, NewDisk, OpenMode, OpenRefusal, create};
use std::os::unix::fs::FileExt;

const DATA: u64 = 1 << 20;

fn used_disk(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("netdisk-erase-{name}-{}", std::process::id()));
    let disk =
        NewDisk { data_bytes: Some(DATA), block_bytes: 4096, uuid: DiskUuid(7), sparse: true, force: true };
    let _ = std::fs::remove_file(&path);
    create(&path, &disk).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0xa5; DATA as usize], 0).unwrap();
    path
}

// proves: M8
#[test]
fn an_erasure_that_was_broken_off_is_begun_again_and_leaves_zeroes_and_the_disk() {
    let path = used_disk("again");
    let mut broken_off = Erasure::open(&path).unwrap();
    assert!(!broken_off.step(DATA / 4).unwrap());
    assert_eq!((broken_off.done_bytes(), broken_off.data_bytes()), (DATA / 4, DATA));
    drop(broken_off);
    assert_eq!(std::fs::read(&path).unwrap()[DATA as usize - 1], 0xa5);
    let mut erasure = Erasure::open(&path).unwrap();
    // Steps that are no multiple of a block, or nothing, lead on too.
    while !erasure.step(100_001).unwrap() {}
    assert!(erasure.step(0).unwrap(), "done is done");
    drop(erasure);
    assert!(std::fs::read(&path).unwrap()[..DATA as usize].iter().all(|byte| *byte == 0));
    DiskFile::open(&path, &OpenMode::default()).unwrap();
    std::fs::remove_file(&path).unwrap();
}

// proves: M8 B5
#[test]
fn a_disk_that_somebody_has_open_is_not_erased_and_one_that_is_erased_is_not_opened() {
    let path = used_disk("open");
    let user = DiskFile::open(&path, &OpenMode::default()).unwrap();
    assert!(matches!(Erasure::open(&path), Err(EraseFault::Open(OpenRefusal::InUse { .. }))));
    drop(user);
    let erasure = Erasure::open(&path).unwrap();
    assert!(matches!(DiskFile::open(&path, &OpenMode::default()), Err(OpenRefusal::InUse { .. })));
    drop(erasure);
    std::fs::write(&path, b"no disk of ours").unwrap();
    assert!(matches!(Erasure::open(&path), Err(EraseFault::Open(_))));
    std::fs::remove_file(&path).unwrap();
}
