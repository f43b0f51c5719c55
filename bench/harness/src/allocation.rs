//! Heap allocations of the whole process, counted through the `stats_alloc` crate (this crate holds no unsafe
//! code).
//!
//! A binary that wants the count installs the allocator once, at its root:
//! ```
//! use std::alloc::System;
//! #[global_allocator]
//! static ALLOCATOR: &bench_harness::StatsAlloc<System> = &bench_harness::INSTRUMENTED_SYSTEM;
//!
//! assert!(bench_harness::allocations_are_counted());
//! let meter = bench_harness::AllocationMeter::start();
//! drop(std::hint::black_box(Box::new(1_u64)));
//! assert_eq!(meter.allocations(), 1);
//! ```

pub use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts what every thread of this process allocates from its start on.
#[derive(Debug)]
pub struct AllocationMeter {
    at_start: u64,
}

impl AllocationMeter {
    /// Starts at zero. Without the allocator installed it stays there: ask [`allocations_are_counted`] first.
    pub fn start() -> Self {
        Self { at_start: allocations_so_far() }
    }

    /// Allocations and reallocations since the start. Frees are not counted: each had its allocation.
    pub fn allocations(&self) -> u64 {
        allocations_so_far() - self.at_start
    }
}

/// Whether the counting allocator is this process's global one, so that a count of zero means something.
pub fn allocations_are_counted() -> bool {
    let meter = AllocationMeter::start();
    drop(std::hint::black_box(Box::new(0_u8)));
    meter.allocations() > 0
}

fn allocations_so_far() -> u64 {
    let stats = INSTRUMENTED_SYSTEM.stats();
    (stats.allocations + stats.reallocations) as u64
}

#[cfg(test)]
mod tests {
    use super::allocations_are_counted;

    #[test]
    fn a_process_without_the_allocator_says_that_it_counts_nothing() {
        assert!(!allocations_are_counted());
    }
}
