//! Two banks of memory: one is spoken from, the other is written. Who writes never touches what a dying
//! thread may be reading, and takes no lock that it could need.

use crate::atomic::{AtomicU64, Ordering};

/// Which bank is which. Knows no memory, so that loom runs this very code.
#[derive(Debug)]
pub struct Banks {
    active: AtomicU64,
    speaking: AtomicU64,
}

impl Default for Banks {
    fn default() -> Banks {
        Banks::new()
    }
}

impl Banks {
    /// Bank 0 is spoken from.
    pub fn new() -> Banks {
        Banks { active: AtomicU64::new(0), speaking: AtomicU64::new(0) }
    }

    /// Writes the bank that is not spoken from, and makes it the one that is. One caller at a time. `false`:
    /// somebody speaks, nothing was written, and nothing ever will be again.
    pub fn form(&self, write: impl FnOnce(usize)) -> bool {
        // SYNC: last-words. A speaker marks itself, then chooses; this side leaves a bank, and looks for the
        // mark before it writes there. All by read-modify-write: a speaker that chose a bank before it was
        // left is what the leaving read from, so its mark is seen here.
        if self.has_spoken() {
            return false;
        }
        let other = self.active.load(Ordering::Relaxed) ^ 1;
        write(other as usize);
        self.active.swap(other, Ordering::AcqRel);
        true
    }

    /// The bank to speak from. It is not written any more.
    pub fn speak(&self) -> usize {
        // SYNC: last-words.
        self.speaking.fetch_or(1, Ordering::AcqRel);
        self.active.fetch_or(0, Ordering::AcqRel) as usize
    }

    /// Whether anybody has spoken.
    pub fn has_spoken(&self) -> bool {
        self.speaking.fetch_or(0, Ordering::AcqRel) != 0
    }
}
