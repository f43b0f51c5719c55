//! Making and opening disks: each thing that can be wrong is refused with the path and the remedy.

mod support;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use blockdev_store::conformance::{Bench, TestMemory, pattern};
use blockdev_store::{
    Backing, CreateRefusal, DiskFile, DiskUuid, EngineChoice, NewDisk, OpenMode, OpenRefusal, Ports,
    StoreFault, StoreOperation, SubmitRefusal, TAIL_BYTES, create,
};
use support::loop_disk::LoopDevice;
use support::private_mounts::{mount, with_private_mounts};
use support::{DISK, TestPath, fresh_disk, new_disk};

const DATA_BYTES: u64 = 1 << 20;

fn made() -> TestPath {
    let path = TestPath::on_disk();
    create(&path.0, &new_disk(DATA_BYTES, 512)).expect("a disk can be made");
    path
}

fn refusal(path: &Path, mode: &OpenMode) -> OpenRefusal {
    let refusal = DiskFile::open(path, mode).expect_err("this must not open");
    assert!(refusal.to_string().contains(&path.display().to_string()), "no path in: {refusal}");
    refusal
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("the image opens");
    file.write_all_at(bytes, at).expect("the image can be patched");
}

/// Where the two slots of the superblock lie.
const SLOTS: [u64; 2] = [DATA_BYTES, DATA_BYTES + TAIL_BYTES / 2];

#[test]
fn a_missing_image_says_how_to_create_it() {
    let path = TestPath::on_disk();
    let refusal = refusal(&path.0, &OpenMode::default());
    assert!(matches!(refusal, OpenRefusal::Missing { .. }), "{refusal:?}");
    assert!(refusal.to_string().contains("netdisk disk create"), "{refusal}");
}

#[test]
fn a_directory_or_a_terminal_is_no_disk() {
    for path in ["/tmp", "/dev/null"] {
        let refusal = refusal(Path::new(path), &OpenMode::default());
        assert!(matches!(refusal, OpenRefusal::NotADisk { .. }), "{refusal:?}");
    }
}

#[test]
fn a_truncated_image_is_told_from_a_foreign_one() {
    let path = made();
    let file = OpenOptions::new().write(true).open(&path.0).expect("the image opens");
    file.set_len(DATA_BYTES).expect("it can be cut");
    let expecting = OpenMode { expected_data_bytes: Some(DATA_BYTES), ..OpenMode::default() };
    let short = refusal(&path.0, &expecting);
    let OpenRefusal::TooShort { found_bytes, needed_bytes, .. } = short else { panic!("{short:?}") };
    assert_eq!((found_bytes, needed_bytes), (DATA_BYTES, DATA_BYTES + TAIL_BYTES));
    assert!(matches!(refusal(&path.0, &OpenMode::default()), OpenRefusal::Foreign { .. }));
    file.set_len(1000).expect("it can be cut");
    assert!(matches!(refusal(&path.0, &OpenMode::default()), OpenRefusal::TooShort { .. }));
}

#[test]
fn one_damaged_superblock_is_survived_and_two_are_refused() {
    for slot in SLOTS {
        let path = made();
        patch(&path.0, slot + 33, b"rot");
        DiskFile::open(&path.0, &OpenMode::default()).expect("the other slot is whole");
    }
    let path = made();
    for slot in SLOTS {
        patch(&path.0, slot + 33, b"rot");
    }
    assert!(matches!(refusal(&path.0, &OpenMode::default()), OpenRefusal::Damaged { .. }));
}

#[test]
fn a_disk_of_a_later_format_is_refused() {
    let path = made();
    let mut slot = [0; 4096];
    let file = File::open(&path.0).expect("the image opens");
    file.read_exact_at(&mut slot, SLOTS[1]).expect("it has a tail");
    slot[8] += 1;
    let sum = crc32c::crc32c(&slot[..4092]).to_le_bytes();
    slot[4092..].copy_from_slice(&sum);
    patch(&path.0, SLOTS[1], &slot);
    assert!(matches!(refusal(&path.0, &OpenMode::default()), OpenRefusal::NewerVersion { found: 2, .. }));
}

#[test]
fn a_disk_that_is_not_the_configured_one_is_refused_with_both_ids() {
    let path = made();
    let mode = OpenMode { expected_uuid: Some(DiskUuid(0xBAD)), ..OpenMode::default() };
    let text = refusal(&path.0, &mode).to_string();
    assert!(text.contains(&DISK.to_string()) && text.contains(&DiskUuid(0xBAD).to_string()), "{text}");
}

#[test]
fn missing_permission_is_named() {
    let path = made();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    std::fs::set_permissions(&path.0, mode).expect("the mode can be set");
    let opened = std::thread::spawn(move || {
        // SAFETY: concerns the file accesses of this thread only, which ends here. Takes root's override
        // away.
        unsafe { libc::setfsuid(65534) };
        let refusal = DiskFile::open(&path.0, &OpenMode::default()).expect_err("mode 000");
        // SAFETY: no conditions.
        let own = unsafe { libc::geteuid() };
        // SAFETY: as above; back to ourselves, so that the image can be removed.
        unsafe { libc::setfsuid(own) };
        refusal
    });
    let refusal = opened.join().expect("the thread ends well");
    assert!(matches!(refusal, OpenRefusal::PermissionDenied { .. }), "{refusal:?}");
}

#[test]
fn a_read_only_file_system_is_named_and_serves_read_only_disks() {
    with_private_mounts(|place| {
        mount("none", place, "tmpfs", 0, "size=4m");
        let path = TestPath::below(place);
        create(&path.0, &new_disk(DATA_BYTES, 4096)).expect("a disk can be made");
        mount("none", place, "tmpfs", libc::MS_REMOUNT | libc::MS_RDONLY, "");
        let refused = refusal(&path.0, &OpenMode::default());
        assert!(matches!(refused, OpenRefusal::ReadOnlyFileSystem { .. }), "{refused:?}");
        let mode = OpenMode { read_only: true, ..OpenMode::default() };
        let mut bench = Bench::new(DiskFile::open(&path.0, &mode).expect("reading works"));
        assert_eq!(bench.read(0, 4096), vec![0; 4096]);
        let memory = TestMemory::zeroed(4096);
        for operation in [
            StoreOperation::Write { memory: memory.io(0, 4096), fua: false },
            StoreOperation::Discard { length_bytes: 4096 },
            StoreOperation::WriteZeroes { length_bytes: 4096, may_unmap: true, fua: false },
        ] {
            assert_eq!(bench.submit(0, operation), Err(SubmitRefusal::ReadOnly));
        }
    });
}

// proves: B11
#[test]
fn a_full_file_system_is_no_space_and_the_disk_lives_on() {
    with_private_mounts(|place| {
        mount("none", place, "tmpfs", 0, "size=2m");
        for engine in [EngineChoice::Fastest, EngineChoice::Buffered] {
            let path = TestPath::below(place);
            let full = CreateRefusal::NoSpace { path: path.0.clone(), needed_bytes: (8 << 20) + TAIL_BYTES };
            let allocated = NewDisk { sparse: false, ..new_disk(8 << 20, 4096) };
            let refused = create(&path.0, &allocated).expect_err("8 MiB do not fit into 2");
            assert_eq!(refused.to_string(), full.to_string());
            assert!(!path.0.exists(), "what was half made is removed");

            create(&path.0, &new_disk(8 << 20, 4096)).expect("a sparse disk fits");
            let mode = OpenMode { engine, ..OpenMode::default() };
            let mut bench = Bench::new(DiskFile::open(&path.0, &mode).expect("it opens"));
            let memory = TestMemory::with(&pattern(1, 1 << 20));
            let write = StoreOperation::Write { memory: memory.io(0, 1 << 20), fua: true };
            assert_eq!(bench.run(0, write), Ok(()));
            assert_eq!(bench.run(1 << 20, write), Err(StoreFault::NoSpace));
            assert_eq!(bench.disk.counters().errors, 1);
            assert_eq!(bench.run(0, StoreOperation::Flush), Ok(()), "a refused write has lost nothing");
            assert!(bench.read(0, 1 << 20) == pattern(1, 1 << 20));
        }
    });
}

#[test]
fn a_single_ported_disk_opens_once_at_a_time() {
    let path = made();
    let first = DiskFile::open(&path.0, &OpenMode::default()).expect("it opens");
    assert!(matches!(refusal(&path.0, &OpenMode::default()), OpenRefusal::InUse { .. }));
    let force = NewDisk { force: true, ..new_disk(DATA_BYTES, 512) };
    let erased = create(&path.0, &force).expect_err("it is in use");
    assert!(matches!(erased, CreateRefusal::Open(OpenRefusal::InUse { .. })), "{erased:?}");
    drop(first);
    DiskFile::open(&path.0, &OpenMode::default()).expect("it is free again");
}

#[test]
fn creating_never_overwrites_unless_forced_and_forcing_erases() {
    let path = made();
    Bench::new(DiskFile::open(&path.0, &OpenMode::default()).expect("it opens")).write(0, &[7; 512]);
    let again = create(&path.0, &new_disk(DATA_BYTES, 512)).expect_err("it exists");
    assert!(matches!(again, CreateRefusal::Exists { .. }), "{again:?}");
    let mut bench = Bench::new(DiskFile::open(&path.0, &OpenMode::default()).expect("untouched"));
    assert_eq!(bench.read(0, 512), [7; 512]);
    drop(bench);
    create(&path.0, &NewDisk { force: true, ..new_disk(2 * DATA_BYTES, 4096) }).expect("forced");
    let mut bench = Bench::new(DiskFile::open(&path.0, &OpenMode::default()).expect("made anew"));
    assert_eq!(bench.disk.geometry().data_bytes, 2 * DATA_BYTES);
    assert_eq!(bench.read(0, 4096), [0; 4096]);
}

#[test]
fn impossible_shapes_are_refused_and_nothing_is_left_behind() {
    for (data_bytes, block_bytes) in [(0, 512), (1000, 512), (4096, 3000), (4096, 256), (u64::MAX - 511, 512)]
    {
        let path = TestPath::on_disk();
        let refused = create(&path.0, &new_disk(data_bytes, block_bytes)).expect_err("no such disk");
        assert!(matches!(refused, CreateRefusal::Shape { .. }), "{refused:?}");
        assert!(!path.0.exists());
    }
    let path = TestPath::on_disk();
    let refused = create(&path.0, &NewDisk { data_bytes: None, ..new_disk(1, 512) });
    assert!(matches!(refused, Err(CreateRefusal::SizeMissing { .. })));
}

#[test]
fn the_last_data_block_is_not_the_superblock() {
    let path = TestPath::on_disk();
    // Not a multiple of a page: the tail starts a little later than the data end.
    create(&path.0, &new_disk(DATA_BYTES + 512, 512)).expect("a disk can be made");
    let mut bench = Bench::new(DiskFile::open(&path.0, &OpenMode::default()).expect("it opens"));
    assert_eq!(bench.disk.geometry().data_bytes, DATA_BYTES + 512);
    bench.write(DATA_BYTES, &[0xFF; 512]);
    let zero = StoreOperation::WriteZeroes { length_bytes: DATA_BYTES + 512, may_unmap: true, fua: true };
    assert_eq!(bench.run(0, zero), Ok(()));
    drop(bench);
    DiskFile::open(&path.0, &OpenMode::default()).expect("the superblock is untouched");
}

#[test]
fn a_device_with_data_on_it_is_formatted_only_by_force() {
    let image = TestPath::on_disk();
    let file = File::create(&image.0).expect("an image can be made");
    file.set_len(4 << 20).expect("it can grow");
    file.write_all_at(b"somebody's partition table", 510).expect("it can be written");
    let Some(device) = LoopDevice::attach(&image.0) else {
        eprintln!("SKIPPED: a_device_with_data_on_it_is_formatted_only_by_force");
        return;
    };
    let new = NewDisk { data_bytes: None, ..new_disk(0, 4096) };
    let refused = create(&device.0, &new).expect_err("not blank");
    assert!(matches!(refused, CreateRefusal::NotBlank { .. }), "{refused:?}");
    assert!(matches!(refusal(&device.0, &OpenMode::default()), OpenRefusal::Foreign { .. }));
    create(&device.0, &NewDisk { force: true, ..new }).expect("forced");
    let disk = DiskFile::open(&device.0, &OpenMode::default()).expect("it opens");
    assert_eq!(disk.geometry().data_bytes, (4 << 20) - TAIL_BYTES);
}

// proves: B11
#[test]
fn an_image_cut_while_it_is_open_is_an_error_and_never_a_short_read() {
    for engine in [EngineChoice::Fastest, EngineChoice::Buffered] {
        let path = made();
        let mode = OpenMode { engine, ..OpenMode::default() };
        let mut bench = Bench::new(DiskFile::open(&path.0, &mode).expect("it opens"));
        let file = OpenOptions::new().write(true).open(&path.0).expect("the image opens");
        file.set_len(DATA_BYTES / 2 + 4096).expect("it can be cut");
        let memory = TestMemory::zeroed(64 << 10);
        for offset in [DATA_BYTES / 2, DATA_BYTES / 2 + 4096, DATA_BYTES - (64 << 10)] {
            let read = StoreOperation::Read { memory: memory.io(0, 64 << 10) };
            assert_eq!(bench.run(offset, read), Err(StoreFault::ShortTransfer), "{engine:?} at {offset}");
        }
        assert_eq!(bench.disk.counters().errors, 3);
    }
}

#[test]
fn the_way_of_access_is_told_with_its_reason() {
    let asked = OpenMode { engine: EngineChoice::Buffered, ..OpenMode::default() };
    assert_eq!(fresh_disk(TestPath::on_disk(), 512, &asked).access(), "buffered (by configuration)");
    let access = fresh_disk(TestPath::on_disk(), 4096, &OpenMode::default()).access().to_owned();
    assert!(access == "io_uring, direct" || access.starts_with("buffered (no "), "{access}");
    let small =
        fresh_disk(TestPath::below(Path::new("/dev/shm")), 512, &OpenMode::default()).access().to_owned();
    assert!(small.starts_with("buffered (") || small == "io_uring, direct", "{small}");
}

#[test]
fn two_nodes_may_open_a_dual_ported_disk() {
    let path = made();
    let mode = OpenMode { ports: Ports::Dual, ..OpenMode::default() };
    let _first = DiskFile::open(&path.0, &mode).expect("it opens");
    let _second = DiskFile::open(&path.0, &mode).expect("it opens twice");
}
