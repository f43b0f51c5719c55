//! A node that speaks for its whole process: the daemon's does, one inside a program does not.

use super::Distress;
use control_proto::distress::Reason;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use transport_buf::last_words::{FatalSignal, Mouth, install};

/// The reason of a fatal signal.
fn reason(signal: FatalSignal) -> Reason {
    match signal {
        FatalSignal::SegmentationFault => Reason::SegmentationFault,
        FatalSignal::BusError => Reason::BusError,
        FatalSignal::IllegalInstruction => Reason::IllegalInstruction,
        FatalSignal::ArithmeticFault => Reason::ArithmeticFault,
        FatalSignal::Abort => Reason::Abort,
    }
}

impl Distress {
    /// From now on the end of the process is the end of the node: fatal signals and panics of any thread are
    /// told at once, SIGTERM and SIGINT by the thread.
    pub(crate) fn speak_for_process(&self) -> io::Result<()> {
        install(&self.mouth, |signal| reason(signal).index().unwrap_or(usize::MAX))?;
        end_by_panic(self.mouth.clone(), self.doomed.clone());
        self.alarm.watch_signals()
    }
}

impl Distress {
    /// Whether a thread has panicked, and the process ends as soon as its message is printed.
    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Relaxed)
    }

    /// Waits for that end, if it is to come.
    pub(crate) fn await_doom(&self) {
        while self.is_doomed() {
            std::thread::park();
        }
    }
}

/// A panic is told before its message is printed, and ends the process: a thread of it is gone, nobody knows
/// what that thread left half done, and the others have taken over already.
///
/// Printing a backtrace may take a second. Meanwhile the reactor, if it is not the one that panics, gives up
/// its duties; else it would find itself removed and join again, just before the end that nobody is told of.
fn end_by_panic(mouth: Arc<Mouth>, doomed: Arc<AtomicBool>) {
    let print = std::panic::take_hook();
    let panic = Reason::Panic.index().unwrap_or(usize::MAX);
    std::panic::set_hook(Box::new(move |what| {
        mouth.say(panic);
        doomed.store(true, Ordering::Relaxed);
        print(what);
        std::process::abort();
    }));
}
