//! Connecting in the background: resolving the neighbour of an address may take the kernel a second, and the
//! reactor does not wait for it. One short-lived thread per connect, since connects are rare and one that
//! waits must not keep another waiting.

use super::fault_of_number;
use crate::fabric::FabricFault;
use rdma_sys::{ibv_modify_qp, ibv_qp, ibv_qp_attr};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// One change of a queue's state.
pub(super) struct Step {
    pub(super) attributes: ibv_qp_attr,
    pub(super) mask: u32,
}

/// A queue pair on its way to a thread.
struct Pair(*mut ibv_qp);

// SAFETY: libibverbs may be called from any thread; the queue pair lives until `Transition` was waited for.
unsafe impl Send for Pair {}

struct Steps(Vec<Step>);

// SAFETY: the attributes are plain numbers.
unsafe impl Send for Steps {}

/// A connect under way, or done.
pub(super) struct Transition {
    outcome: Arc<OnceLock<Result<(), FabricFault>>>,
    thread: Option<JoinHandle<()>>,
}

impl Transition {
    /// How it ended, once it has.
    pub(super) fn outcome(&self) -> Option<Result<(), FabricFault>> {
        self.outcome.get().copied()
    }

    /// Waits for the thread: the queue pair may be destroyed after this.
    pub(super) fn wait(self) {
        if let Some(thread) = self.thread {
            // It cannot panic: it makes two calls and stores a number.
            let _ = thread.join();
        }
    }
}

/// Where background threads ring.
pub(super) struct Background {
    bell: OwnedFd,
}

impl Background {
    pub(super) fn new() -> io::Result<Background> {
        Ok(Background { bell: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)? })
    }

    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub(super) fn silence(&self) {
        // There may be nothing to read, which is as good.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    /// Takes a queue pair through `steps`.
    pub(super) fn connect(&self, pair: *mut ibv_qp, steps: Vec<Step>) -> Transition {
        let outcome = Arc::new(OnceLock::new());
        let (pair, steps, told) = (Pair(pair), Steps(steps), outcome.clone());
        let thread = self.bell.try_clone().and_then(|bell| {
            let work = move || {
                let (pair, steps) = (pair, steps);
                let _only_once = told.set(walk(&pair, steps));
                // A counter at its limit is a bell that rings already.
                let _ = rustix::io::write(&bell, &1u64.to_ne_bytes());
            };
            std::thread::Builder::new().name("verbs-connect".into()).spawn(work)
        });
        if thread.is_err() {
            let _only_once = outcome.set(Err(FabricFault::Exhausted));
        }
        Transition { outcome, thread: thread.ok() }
    }
}

fn walk(pair: &Pair, steps: Steps) -> Result<(), FabricFault> {
    for mut step in steps.0 {
        // SAFETY: the queue pair lives until this thread was waited for; the attributes are complete for the
        // mask and live on this stack.
        let refused = unsafe { ibv_modify_qp(pair.0, &raw mut step.attributes, step.mask as libc::c_int) };
        if refused != 0 {
            let error = io::Error::from_raw_os_error(refused.abs());
            tracing::info!(%error, "RDMA queue does not connect");
            return Err(fault_of_number(refused));
        }
    }
    Ok(())
}
