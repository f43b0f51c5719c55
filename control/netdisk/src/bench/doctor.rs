//! `netdisk bench doctor`: what on this machine will spoil figures.

use std::path::Path;

use bench_harness::{Machine, spoilers};

pub(super) fn run() -> anyhow::Result<bool> {
    let machine = Machine::describe(Path::new(env!("CARGO_MANIFEST_DIR")));
    print!("{}", machine.show());
    let found = spoilers(&machine);
    if found.is_empty() {
        println!("\nnothing here spoils figures that this program knows of");
    }
    for spoiler in found {
        println!("\n{}\n  effect: {}\n  help:   {}", spoiler.what, spoiler.effect, spoiler.help);
    }
    Ok(true)
}
