//! `bench-micro`, the program; all of it is in the library.
#![forbid(unsafe_code)]

use std::alloc::System;
use std::process::ExitCode;

use bench_harness::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts allocations, so that a scenario can say how many a message costs. Costs nothing where nothing is
/// allocated.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> anyhow::Result<ExitCode> {
    bench_micro::run_command_line().map(ExitCode::from)
}
