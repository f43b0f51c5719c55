//! Requests cost no allocation once a disk is warm.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use blockdev_store::conformance::TestMemory;
use blockdev_store::{
    AnyBacking, Backing, EngineChoice, MemoryDisk, OpenMode, StoreIo, StoreOperation, Submitted,
};
use support::{TestPath, fresh_disk};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what this thread allocates.
struct Counting;

// SAFETY: hands everything to the system's allocator unchanged; counting touches a thread-local integer only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's conditions are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's conditions are those of the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// 64 requests, 16 at a time; gives how many ended.
fn requests(disk: &mut AnyBacking, memory: &TestMemory) -> usize {
    let mut ended = 0;
    for round in 0..4 {
        for tag in 0..16 {
            let memory = memory.io(if tag % 8 == 7 { 1 } else { 0 }, 4096);
            let operation = match tag % 4 {
                0 => StoreOperation::Write { memory, fua: tag == 0 },
                1 => StoreOperation::WriteZeroes { length_bytes: 4096, may_unmap: true, fua: false },
                _ => StoreOperation::Read { memory },
            };
            let io = StoreIo { tag, offset_bytes: (round * 16 + tag) * 4096, operation };
            ended += usize::from(matches!(disk.submit(io), Ok(Submitted::Done(Ok(())))));
        }
        while disk.in_flight() > 0 {
            disk.poll(&mut |completion| ended += usize::from(completion.result.is_ok()));
        }
    }
    ended
}

#[test]
fn a_warm_disk_serves_requests_without_allocating() {
    let memory = TestMemory::zeroed(8192);
    let mode = |engine| OpenMode { engine, ..OpenMode::default() };
    let file = |engine| AnyBacking::File(Box::new(fresh_disk(TestPath::on_disk(), 4096, &mode(engine))));
    let memory_disk = AnyBacking::Memory(MemoryDisk::new(8 << 20, 4096).expect("a memory disk"));
    for mut disk in [memory_disk, file(EngineChoice::Fastest), file(EngineChoice::Buffered)] {
        assert_eq!(requests(&mut disk, &memory), 64);
        let before = ALLOCATIONS.get();
        assert_eq!(requests(&mut disk, &memory), 64);
        assert_eq!(ALLOCATIONS.get() - before, 0, "{}", disk.access());
    }
}
