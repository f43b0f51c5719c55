//! Where last words stand ready, for whoever dies: any thread says them, and they are replaced while threads
//! may be saying them, without a lock.

use super::LastWords;
use crate::atomic::{AtomicPtr, AtomicU64, Ordering};
use core::ptr;
use std::sync::{Arc, Mutex, PoisonError};

/// The present last words of a node. Other rails make other words: [`Mouth::replace`].
#[derive(Debug)]
pub struct Mouth {
    /// A leaked reference count.
    words: AtomicPtr<LastWords>,
    /// Threads that look at them now.
    speakers: AtomicU64,
    replacing: Mutex<()>,
}

impl Mouth {
    /// With these words.
    pub fn new(words: Arc<LastWords>) -> Mouth {
        let words = AtomicPtr::new(Arc::into_raw(words).cast_mut());
        Mouth { words, speakers: AtomicU64::new(0), replacing: Mutex::new(()) }
    }

    /// See [`LastWords::say`]. Async-signal-safe.
    pub fn say(&self, reason: usize) -> Option<usize> {
        self.with(|words| words.say(reason))
    }

    /// Looks at the present words.
    pub fn with<T>(&self, look: impl FnOnce(&LastWords) -> T) -> T {
        self.speakers.fetch_add(1, Ordering::SeqCst);
        let words = self.words.load(Ordering::SeqCst);
        // SAFETY: it is of `Arc::into_raw`, and is not released while this thread is counted.
        let words = unsafe { &*words.cast_const() };
        let seen = look(words);
        self.speakers.fetch_sub(1, Ordering::SeqCst);
        seen
    }

    /// Puts other words, formed already, in the place of the present ones. `false`: something was said, and
    /// what is still to be said is of those.
    pub fn replace(&self, words: Arc<LastWords>) -> bool {
        let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.with(LastWords::has_spoken) {
            return false;
        }
        let before = self.words.swap(Arc::into_raw(words).cast_mut(), Ordering::SeqCst);
        // A speaker counts itself, then looks; here it is the other way round. So none looks at `before` if
        // none is counted. If one is, this process is about to end, and `before` is left to it.
        if self.speakers.load(Ordering::SeqCst) == 0 {
            // SAFETY: it is of `Arc::into_raw`, was just taken out of the only place, and nobody looks at it.
            drop(unsafe { Arc::from_raw(before.cast_const()) });
        }
        true
    }
}

impl Drop for Mouth {
    fn drop(&mut self) {
        let words = self.words.swap(ptr::null_mut(), Ordering::SeqCst);
        // SAFETY: it is of `Arc::into_raw`; whoever could look at it would need a reference to `self`.
        drop(unsafe { Arc::from_raw(words.cast_const()) });
    }
}
