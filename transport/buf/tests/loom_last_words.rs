//! Every interleaving of forming and speaking, by loom.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p transport-buf --test loom_last_words`
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use transport_buf::banks::Banks;

struct Memory {
    banks: Banks,
    cells: [UnsafeCell<u64>; 2],
}

// SAFETY: the banks under test keep readers and writers apart; loom checks that they do.
unsafe impl Sync for Memory {}

/// SYNC: last-words. Two threads die while a third forms anew, twice: what they read is whole, and nobody
/// writes it meanwhile.
// proves: D1 D2
#[test]
fn a_bank_that_is_spoken_from_is_not_written() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let memory =
            Arc::new(Memory { banks: Banks::new(), cells: [UnsafeCell::new(1), UnsafeCell::new(0)] });
        let speakers: Vec<_> = (0..2)
            .map(|_| {
                let memory = memory.clone();
                thread::spawn(move || {
                    let bank = memory.banks.speak();
                    // SAFETY: the pointer is valid; that nobody writes meanwhile is what loom checks here.
                    memory.cells[bank].with(|cell| assert_ne!(unsafe { *cell }, 0));
                })
            })
            .collect();
        for forming in 2..5 {
            memory.banks.form(|bank| {
                // SAFETY: the pointer is valid; exclusiveness is what loom checks here.
                memory.cells[bank].with_mut(|cell| unsafe { *cell = forming });
            });
        }
        for speaker in speakers {
            speaker.join().unwrap();
        }
    });
}
