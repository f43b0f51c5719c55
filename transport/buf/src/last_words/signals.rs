//! Last words on a fatal signal: said by the thread that the signal hit, on the stack that is kept for such
//! moments, before anything else; then the signal takes its usual course.

use super::Mouth;
use crate::atomic::{AtomicPtr, AtomicU64, Ordering};
use core::ffi::{c_int, c_void};
use core::ptr;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A signal after which this process does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FatalSignal {
    /// SIGSEGV.
    SegmentationFault,
    /// SIGBUS.
    BusError,
    /// SIGILL.
    IllegalInstruction,
    /// SIGFPE.
    ArithmeticFault,
    /// SIGABRT.
    Abort,
}

/// All of them.
pub const FATAL_SIGNALS: [FatalSignal; 5] = [
    FatalSignal::SegmentationFault,
    FatalSignal::BusError,
    FatalSignal::IllegalInstruction,
    FatalSignal::ArithmeticFault,
    FatalSignal::Abort,
];

impl FatalSignal {
    /// The kernel's number.
    pub fn number(self) -> i32 {
        match self {
            FatalSignal::SegmentationFault => libc::SIGSEGV,
            FatalSignal::BusError => libc::SIGBUS,
            FatalSignal::IllegalInstruction => libc::SIGILL,
            FatalSignal::ArithmeticFault => libc::SIGFPE,
            FatalSignal::Abort => libc::SIGABRT,
        }
    }
}

/// What the process says it with: a leaked reference count, or null.
static INSTALLED: AtomicPtr<Mouth> = AtomicPtr::new(ptr::null_mut());
/// Reason of each of [`FATAL_SIGNALS`].
static REASONS: [AtomicU64; FATAL_SIGNALS.len()] = [const { AtomicU64::new(0) }; FATAL_SIGNALS.len()];
/// What was done about each signal before.
static BEFORE: OnceLock<[libc::sigaction; FATAL_SIGNALS.len()]> = OnceLock::new();
static INSTALLING: Mutex<()> = Mutex::new(());

/// Has last words said on each fatal signal, for the reason that `reason` gives it. A second call puts
/// another mouth in the place of the first. For the whole process and for good, so not for libraries.
pub fn install(mouth: &Arc<Mouth>, reason: impl Fn(FatalSignal) -> usize) -> io::Result<()> {
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    for (place, signal) in REASONS.iter().zip(FATAL_SIGNALS) {
        place.store(reason(signal) as u64, Ordering::SeqCst);
    }
    // One that was there before is kept too: a handler may be about to use it.
    INSTALLED.store(Arc::into_raw(mouth.clone()).cast_mut(), Ordering::SeqCst);
    if BEFORE.get().is_some() {
        return Ok(());
    }
    give_stack()?;
    let mut before = Vec::with_capacity(FATAL_SIGNALS.len());
    for signal in FATAL_SIGNALS {
        before.push(watch(signal.number())?);
    }
    if let Ok(before) = before.try_into() {
        // Nobody else sets it: one at a time.
        let _ = BEFORE.set(before);
    }
    Ok(())
}

/// Sets the handler; returns what there was.
fn watch(signal: c_int) -> io::Result<libc::sigaction> {
    // SAFETY: all fields are integers, or a function that may be absent; zero is a value of each.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = on_fatal as *const () as usize;
    // The stack may be what is broken. No other signal interrupts this.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the set is ours to write.
    unsafe { libc::sigfillset(&raw mut action.sa_mask) };
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: both structures are valid; the handler does only what a handler may.
    if unsafe { libc::sigaction(signal, &raw const action, &raw mut before) } == 0 {
        Ok(before)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives this thread a stack for signals if it has none. Threads of the standard library have one.
fn give_stack() -> io::Result<()> {
    const BYTES: usize = 64 << 10;
    // SAFETY: all fields are integers or a pointer; zero is a value of each.
    let mut stack: libc::stack_t = unsafe { core::mem::zeroed() };
    // SAFETY: asks only.
    if unsafe { libc::sigaltstack(ptr::null(), &raw mut stack) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if stack.ss_flags & libc::SS_DISABLE == 0 {
        return Ok(());
    }
    let memory = memmap2::MmapOptions::new().len(BYTES).populate().map_anon()?;
    // It is this thread's for good.
    let memory = core::mem::ManuallyDrop::new(memory);
    let stack = libc::stack_t { ss_sp: memory.as_ptr().cast_mut().cast(), ss_flags: 0, ss_size: BYTES };
    // SAFETY: the memory is mapped for good, writable, and nobody else's.
    if unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Only atomics, `sendto`, `pwrite`, `sigaction` and `raise`: what a handler may do.
extern "C" fn on_fatal(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    let mouth = INSTALLED.load(Ordering::SeqCst);
    let place = FATAL_SIGNALS.iter().position(|known| known.number() == signal);
    if !mouth.is_null()
        && let Some(reason) = place.and_then(|place| REASONS.get(place))
    {
        // SAFETY: not null, so it is of `Arc::into_raw`, and never released.
        let mouth = unsafe { &*mouth.cast_const() };
        mouth.say(reason.load(Ordering::SeqCst) as usize);
    }
    // SAFETY: the kernel gives every handler that asked for it a valid structure.
    let is_fault = !info.is_null() && unsafe { (*info).si_code } > 0;
    let before = place.and_then(|place| BEFORE.get()?.get(place));
    match before {
        // A fault comes again by itself when this returns, and finds who was there before: the standard
        // library tells a stack overflow, the kernel dumps the very instruction.
        Some(before) if is_fault => {
            // SAFETY: a valid structure that the kernel gave us.
            unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
        }
        _ => {
            // SAFETY: the default is always there.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            // SAFETY: sends this thread a signal that is blocked until the handler returns.
            unsafe { libc::raise(signal) };
        }
    }
}
