//! Every backing passes the one suite.
// proves: B11

mod support;

use std::path::Path;

use blockdev_store::{
    AnyBacking, Backing, DiskFile, EngineChoice, Geometry, MemoryDisk, NewDisk, OpenMode, StoreCompletion,
    StoreCounters, StoreIo, SubmitRefusal, Submitted, conformance_suite, create,
};
use support::loop_disk::LoopDevice;
use support::{DISK, TestPath, fresh_disk};

fn buffered() -> OpenMode {
    OpenMode { engine: EngineChoice::Buffered, ..OpenMode::default() }
}

/// A disk driven by io_uring, or `None` with the reason why there is none.
fn uring(directory: &Path, block_bytes: u32) -> Option<DiskFile> {
    let disk = fresh_disk(TestPath::below(directory), block_bytes, &OpenMode::default());
    if disk.access().starts_with("io_uring") {
        return Some(disk);
    }
    eprintln!("{} is {}", directory.display(), disk.access());
    None
}

conformance_suite!(memory, || MemoryDisk::new(8 << 20, 512).ok());
conformance_suite!(memory_larger_than_one_transfer, || MemoryDisk::new(100 << 20, 4096)
    .ok()
    .map(AnyBacking::Memory));
conformance_suite!(buffered_file, || Some(fresh_disk(TestPath::on_disk(), 512, &buffered())));
conformance_suite!(buffered_on_tmpfs, || Some(fresh_disk(
    TestPath::below(Path::new("/dev/shm")),
    4096,
    &buffered()
)));
conformance_suite!(uring_file, || uring(Path::new(env!("CARGO_TARGET_TMPDIR")), 4096));
conformance_suite!(uring_file_in_small_blocks, || uring(Path::new(env!("CARGO_TARGET_TMPDIR")), 512));
conformance_suite!(uring_on_tmpfs, || uring(Path::new("/dev/shm"), 4096));
conformance_suite!(uring_on_a_loop_device, LoopDisk::attach);

/// A disk on a loop device of its own.
struct LoopDisk {
    // In the order of dropping: close the disk, detach the device, remove the image.
    disk: DiskFile,
    _device: LoopDevice,
    _image: TestPath,
}

impl LoopDisk {
    fn attach() -> Option<Self> {
        let image = TestPath::on_disk();
        let file = std::fs::File::create(&image.0).expect("an image can be made");
        file.set_len(8 << 20).expect("the image can grow");
        let device = LoopDevice::attach(&image.0)?;
        let new = NewDisk { data_bytes: None, block_bytes: 512, uuid: DISK, sparse: false, force: false };
        create(&device.0, &new).expect("a blank loop device can be formatted");
        let disk = DiskFile::open(&device.0, &OpenMode::default()).expect("the disk just made opens");
        assert!(disk.access().starts_with("io_uring"), "{}", disk.access());
        Some(Self { disk, _device: device, _image: image })
    }
}

impl Backing for LoopDisk {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn submit(&mut self, io: StoreIo) -> Result<Submitted, SubmitRefusal> {
        self.disk.submit(io)
    }
    fn kick(&mut self) {
        self.disk.kick();
    }
    fn poll(&mut self, sink: &mut impl FnMut(StoreCompletion)) -> usize {
        self.disk.poll(sink)
    }
    fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }
    fn event_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.disk.event_fd()
    }
    fn arm(&mut self) -> bool {
        self.disk.arm()
    }
    fn oldest_submitted_age(&self) -> Option<std::time::Duration> {
        self.disk.oldest_submitted_age()
    }
    fn counters(&self) -> StoreCounters {
        self.disk.counters()
    }
}
