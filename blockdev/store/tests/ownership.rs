//! The epoch and the ownership of a disk that two nodes can open (SPEC B5).

mod support;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use blockdev_store::conformance::{Bench, TestMemory, pattern};
use blockdev_store::{
    AnyBacking, Backing, DiskFile, EpochRefusal, MemoryDisk, OpenMode, OwnershipAttempt, OwnershipRelease,
    Ports, StoreOperation, SubmitRefusal, TAIL_BYTES, create,
};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use support::loop_disk::LoopDevice;
use support::private_mounts::{mount, with_private_mounts};
use support::{TestPath, new_disk};

const DATA_BYTES: u64 = 8 << 20;
const DUAL: OpenMode = OpenMode {
    ports: Ports::Dual,
    read_only: false,
    engine: blockdev_store::EngineChoice::Fastest,
    queue_depth: 128,
    expected_uuid: None,
    expected_data_bytes: None,
};

fn made() -> TestPath {
    let path = TestPath::on_disk();
    create(&path.0, &new_disk(DATA_BYTES, 4096)).expect("a disk can be made");
    path
}

fn open(path: &Path) -> DiskFile {
    DiskFile::open(path, &DUAL).expect("it opens")
}

fn memory_disk() -> AnyBacking {
    AnyBacking::Memory(MemoryDisk::new(DATA_BYTES, 4096).expect("a memory disk"))
}

fn file_disk(path: &TestPath) -> AnyBacking {
    AnyBacking::File(Box::new(open(&path.0)))
}

// proves: B5
#[test]
fn an_epoch_outlives_the_process_and_never_goes_back() {
    let path = made();
    let mut disk = open(&path.0);
    assert_eq!(disk.try_take_ownership(), OwnershipAttempt::Taken { epoch: 0 });
    for epoch in [1, 2, 2, 40] {
        assert_eq!(disk.persist_epoch(epoch), Ok(()));
    }
    assert_eq!(disk.persist_epoch(39), Err(EpochRefusal::Behind { asked: 39, stored: 40 }));
    drop(disk);
    let disk = open(&path.0);
    assert_eq!(disk.epoch(), 40);
}

// proves: B5
#[test]
fn losing_either_copy_of_the_superblock_does_not_lose_the_epoch() {
    for slot in [DATA_BYTES, DATA_BYTES + TAIL_BYTES / 2] {
        let path = made();
        let mut disk = open(&path.0);
        assert_eq!(disk.try_take_ownership(), OwnershipAttempt::Taken { epoch: 0 });
        assert_eq!(disk.persist_epoch(7), Ok(()));
        drop(disk);
        let file = OpenOptions::new().write(true).open(&path.0).expect("the image opens");
        file.write_all_at(&[0xEE; 4096], slot).expect("it can be spoilt");
        let mut disk = open(&path.0);
        assert_eq!(disk.epoch(), 7, "slot at {slot} lost");
        assert_eq!(disk.try_take_ownership(), OwnershipAttempt::Taken { epoch: 7 });
        assert_eq!(disk.persist_epoch(8), Ok(()));
        drop(disk);
        assert_eq!(open(&path.0).epoch(), 8);
    }
}

// proves: B5
#[test]
fn every_backing_gives_the_same_answers_about_epoch_and_ownership() {
    let path = made();
    for mut disk in [memory_disk(), file_disk(&path)] {
        assert_eq!(disk.try_take_ownership(), OwnershipAttempt::Taken { epoch: 0 });
        assert_eq!(disk.persist_epoch(5), Ok(()));
        assert_eq!(disk.persist_epoch(4), Err(EpochRefusal::Behind { asked: 4, stored: 5 }));
        assert_eq!(disk.try_take_ownership(), OwnershipAttempt::Taken { epoch: 5 });
        assert_eq!(disk.release_ownership(), OwnershipRelease::Released);
        assert_eq!(disk.release_ownership(), OwnershipRelease::Released);
        assert_eq!(disk.persist_epoch(6), Err(EpochRefusal::NotOwned));
        let mut bench = Bench::new(disk);
        assert_eq!(bench.submit(0, StoreOperation::Flush), Err(SubmitRefusal::NotOwned));
        assert_eq!(bench.disk.try_take_ownership(), OwnershipAttempt::Taken { epoch: 5 });
        assert_eq!(bench.run(0, StoreOperation::Flush), Ok(()));
    }
}

// proves: B5
#[test]
fn a_dual_ported_disk_has_one_owner_and_the_next_one_learns_the_epoch() {
    let path = made();
    let (mut first, mut second) = (open(&path.0), Bench::new(open(&path.0)));
    let memory = TestMemory::zeroed(4096);
    let write = StoreOperation::Write { memory: memory.io(0, 4096), fua: false };
    assert_eq!(second.submit(0, write), Err(SubmitRefusal::NotOwned), "nobody owns it after opening");
    assert_eq!(first.try_take_ownership(), OwnershipAttempt::Taken { epoch: 0 });
    assert_eq!(second.disk.try_take_ownership(), OwnershipAttempt::WouldBlock);
    assert_eq!(first.persist_epoch(3), Ok(()));
    assert_eq!(second.submit(0, write), Err(SubmitRefusal::NotOwned));
    assert_eq!(second.disk.persist_epoch(4), Err(EpochRefusal::NotOwned));
    assert_eq!(first.release_ownership(), OwnershipRelease::Released);
    assert_eq!(second.disk.try_take_ownership(), OwnershipAttempt::Taken { epoch: 3 });
    assert_eq!(second.disk.persist_epoch(2), Err(EpochRefusal::Behind { asked: 2, stored: 3 }));
    assert_eq!(second.run(0, write), Ok(()));
    assert_eq!(first.try_take_ownership(), OwnershipAttempt::WouldBlock);
    drop(second);
    assert_eq!(first.try_take_ownership(), OwnershipAttempt::Taken { epoch: 3 });
}

// proves: B5
#[test]
fn ownership_is_let_go_only_when_nothing_is_in_flight() {
    let path = made();
    let (mut first, mut second) = (Bench::new(open(&path.0)), open(&path.0));
    if !first.disk.access().starts_with("io_uring") {
        eprintln!("SKIPPED: {} has nothing in flight", first.disk.access());
        return;
    }
    assert_eq!(first.disk.try_take_ownership(), OwnershipAttempt::Taken { epoch: 0 });
    let memory = TestMemory::with(&pattern(1, 4096));
    let write = StoreOperation::Write { memory: memory.io(0, 4096), fua: true };
    first.submit(0, write).expect("it fits");
    first.submit(4096, write).expect("it fits");
    assert_eq!(first.disk.release_ownership(), OwnershipRelease::Draining { in_flight: 2 });
    assert_eq!(first.submit(8192, write), Err(SubmitRefusal::NotOwned), "draining takes nothing new");
    assert_eq!(second.try_take_ownership(), OwnershipAttempt::WouldBlock);
    assert_eq!(
        first.disk.try_take_ownership(),
        OwnershipAttempt::Taken { epoch: 0 },
        "the owner may think again"
    );
    first.submit(8192, write).expect("it owns the disk again");
    assert_eq!(first.disk.release_ownership(), OwnershipRelease::Draining { in_flight: 3 });
    first.drain();
    assert_eq!(second.try_take_ownership(), OwnershipAttempt::WouldBlock, "let go by asking, not by chance");
    assert_eq!(first.disk.release_ownership(), OwnershipRelease::Released);
    assert_eq!(second.try_take_ownership(), OwnershipAttempt::Taken { epoch: 0 });
}

#[test]
fn neither_the_ring_nor_the_disk_leaks_into_children() {
    let path = made();
    let mut disk = open(&path.0);
    assert_eq!(disk.try_take_ownership(), OwnershipAttempt::Taken { epoch: 0 });
    let ours = std::fs::read_dir("/proc/self/fd").expect("procfs");
    let ours: Vec<_> = ours.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect();
    assert!(ours.contains(&path.0), "the test looks at the wrong place: {ours:?}");
    let listed = Command::new("ls").args(["-l", "/proc/self/fd"]).output().expect("ls runs");
    let listed = String::from_utf8_lossy(&listed.stdout);
    assert!(!listed.contains("io_uring") && !listed.contains(&*path.0.to_string_lossy()), "leaked: {listed}");
}

const CHILD_DISK: &str = "NETDISK_STORE_TEST_CHILD_DISK";
const CHILD_WRITES: u64 = 32;
const CHILD_WRITE_BYTES: usize = 64 << 10;

/// The process that is killed: not a test unless [`CHILD_DISK`] names a disk. Owns the disk, says so, waits
/// for a line, submits its writes, says so, and never looks at their ends.
#[test]
fn child_that_owns_a_disk_and_is_killed() {
    let Ok(path) = std::env::var(CHILD_DISK) else { return };
    let mut bench = Bench::new(open(Path::new(&path)));
    assert_eq!(bench.disk.try_take_ownership(), OwnershipAttempt::Taken { epoch: 0 });
    eprintln!("owned");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the parent says go");
    let memories: Vec<_> =
        (0..CHILD_WRITES).map(|at| TestMemory::with(&pattern(at + 1, CHILD_WRITE_BYTES))).collect();
    for (at, memory) in (0..).zip(&memories) {
        let write = StoreOperation::Write { memory: memory.io(0, CHILD_WRITE_BYTES), fua: false };
        bench.submit(at * CHILD_WRITE_BYTES as u64, write).expect("it fits");
    }
    bench.disk.kick();
    eprintln!("submitted");
    std::io::stdin().read_line(&mut line).expect("the parent never answers");
}

/// The child, and the lines that it says.
struct Owner {
    process: Child,
    said: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Owner {
    fn start(disk: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("our own path"))
            .args(["--exact", "child_that_owns_a_disk_and_is_killed", "--nocapture"])
            .env(CHILD_DISK, disk)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let said = BufReader::new(process.stderr.take().expect("piped")).lines();
        let mut owner = Self { process, said };
        owner.hear("owned");
        owner
    }

    fn hear(&mut self, expected: &str) {
        let line = self.said.next().expect("the child speaks").expect("and can be heard");
        assert_eq!(line, expected);
    }

    fn submit_writes(&mut self) {
        self.process.stdin.as_mut().expect("piped").write_all(b"go\n").expect("the child listens");
        self.hear("submitted");
    }

    fn kill(&mut self) {
        self.process.kill().expect("it lives");
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks for ownership until it is given.
fn take_over(disk: &mut DiskFile) {
    let started = Instant::now();
    while disk.try_take_ownership() == OwnershipAttempt::WouldBlock {
        assert!(started.elapsed() < Duration::from_secs(60), "the dead owner's lock never came free");
        std::thread::yield_now();
    }
}

fn assert_written(bench: &mut Bench<DiskFile>) {
    for at in 0..CHILD_WRITES {
        let found = bench.read(at * CHILD_WRITE_BYTES as u64, CHILD_WRITE_BYTES);
        assert!(
            found == pattern(at + 1, CHILD_WRITE_BYTES),
            "write {at} had not ended when ownership changed"
        );
    }
}

/// What the child submitted is on the disk at the moment at which its lock is free, and not a moment later.
// proves: B5
#[test]
fn the_lock_of_a_killed_owner_is_free_only_after_its_io_has_ended() {
    let path = made();
    let mut disk = open(&path.0);
    let mut owner = Owner::start(&path.0);
    assert_eq!(disk.try_take_ownership(), OwnershipAttempt::WouldBlock);
    owner.submit_writes();
    owner.kill();
    take_over(&mut disk);
    assert_written(&mut Bench::new(disk));
}

/// The same with a disk that stands still: a loop device over an image on a frozen file system. The owner is
/// dead and buried, its writes are with the block layer, and its lock must be held until the file system
/// thaws.
// proves: B5
#[test]
fn the_lock_of_a_killed_owner_is_held_while_its_io_hangs_in_the_device() {
    with_private_mounts(|place| {
        let file_system = TestPath::on_disk();
        std::fs::File::create(&file_system.0).and_then(|file| file.set_len(64 << 20)).expect("an image");
        let formatted = Command::new("mkfs.ext4").arg("-q").arg(&file_system.0).status();
        let Some(below) = formatted
            .is_ok_and(|status| status.success())
            .then(|| LoopDevice::attach(&file_system.0))
            .flatten()
        else {
            eprintln!("SKIPPED: needs mkfs.ext4 and loop devices");
            return;
        };
        mount(&below.0.to_string_lossy(), place, "ext4", 0, "");
        let image = place.join("image");
        std::fs::write(&image, vec![0; (DATA_BYTES + TAIL_BYTES) as usize]).expect("it fits");
        let device = LoopDevice::attach(&image).expect("a second loop device");
        create(&device.0, &new_disk(DATA_BYTES, 4096)).expect("a disk can be made");

        let mut disk = open(&device.0);
        let mut owner = Owner::start(&device.0);
        let frozen = Frozen::freeze(place);
        owner.submit_writes();
        owner.kill();
        let buried = owner.process.wait().expect("it can be waited for");
        assert!(!buried.success());
        // Looked at from a bare description: an attempt that wrongly succeeded would go on to read the frozen
        // disk.
        let bare = std::fs::File::open(&device.0).expect("the device opens");
        for _ in 0..1000 {
            let locked = flock(&bare, FlockOperation::NonBlockingLockExclusive);
            assert_eq!(locked, Err(Errno::WOULDBLOCK), "its writes are still with the device");
        }
        drop(bare);
        drop(frozen);
        take_over(&mut disk);
        let mut bench = Bench::new(disk);
        assert_written(&mut bench);
        drop(bench);
        drop(device);
        let mounted = std::ffi::CString::new(place.as_os_str().as_encoded_bytes()).expect("a path");
        // SAFETY: a string that ends in zero and outlives the call.
        unsafe { libc::umount2(mounted.as_ptr(), libc::MNT_DETACH) };
    });
}

/// A frozen file system; thawed on drop, and at the latest after [`Frozen::SECONDS_MAX`], whatever hangs in
/// it.
struct Frozen {
    mounted: Arc<std::fs::File>,
    _end: Sender<()>,
}

impl Frozen {
    const FREEZE: libc::Ioctl = 0xC004_5877_u32 as libc::Ioctl;
    const THAW: libc::Ioctl = 0xC004_5878_u32 as libc::Ioctl;
    const SECONDS_MAX: u64 = 30;

    fn freeze(mounted: &Path) -> Self {
        let mounted = Arc::new(std::fs::File::open(mounted).expect("the mount point opens"));
        assert!(ask(&mounted, Self::FREEZE), "cannot freeze: {}", std::io::Error::last_os_error());
        let (end, ended) = channel::<()>();
        let watched = mounted.clone();
        std::thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(Self::SECONDS_MAX)) == Err(RecvTimeoutError::Timeout) {
                ask(&watched, Self::THAW);
            }
        });
        Self { mounted, _end: end }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        assert!(ask(&self.mounted, Self::THAW), "not frozen any more: {}", std::io::Error::last_os_error());
    }
}

fn ask(file: &std::fs::File, request: libc::Ioctl) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open, and the two requests take an ignored integer.
    unsafe { libc::ioctl(file.as_raw_fd(), request, 0) == 0 }
}
