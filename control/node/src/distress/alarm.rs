//! The thread that waits for nothing else: causes with time left are told by it, while whoever raised the
//! alarm goes on with an orderly shutdown (SPEC D2).

use control_proto::distress::Reason;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use transport_buf::last_words::{LastWords, Mouth};

/// What a signal writes into the pipe.
const BY_SIGNAL: u8 = b'X';

/// Raises the alarm, from any thread. The thread ends with the last one of these.
#[derive(Clone, Debug)]
pub(crate) struct Alarm {
    pipe: Arc<UnixStream>,
    raised: Arc<AtomicU16>,
}

impl Alarm {
    /// Starts the thread. `wake` is called after it has told the others.
    pub(crate) fn start(mouth: Arc<Mouth>, wake: impl Fn() + Send + 'static) -> io::Result<Alarm> {
        let (pipe, ear) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let raised = Arc::<AtomicU16>::default();
        let told = raised.clone();
        std::thread::Builder::new()
            .name("netdisk-distress".into())
            .spawn(move || listen(ear, &mouth, &told, wake))?;
        Ok(Alarm { pipe: Arc::new(pipe), raised })
    }

    /// One that nobody hears.
    #[cfg(test)]
    pub(crate) fn unheard() -> Alarm {
        let (pipe, _) = UnixStream::pair().expect("two sockets");
        Alarm { pipe: Arc::new(pipe), raised: Arc::default() }
    }

    /// SIGTERM and SIGINT of this process raise it from now on: planned stop.
    pub(crate) fn watch_signals(&self) -> io::Result<()> {
        for signal in [SIGTERM, SIGINT] {
            pipe::register(signal, self.pipe.try_clone()?)?;
        }
        Ok(())
    }

    /// Raises it; returns at once.
    pub(crate) fn raise(&self, reason: Reason) {
        let byte = [reason.number() as u8];
        // A pipe that is full of alarms is loud enough.
        let _ = (&*self.pipe).write(&byte);
    }

    /// What was raised, once the others know. Of several the one that leaves least time.
    pub(crate) fn raised(&self) -> Option<Reason> {
        // A number by itself: nothing else is published with it.
        let number = self.raised.load(Ordering::Relaxed);
        (number != 0).then(|| Reason::from_number(number))
    }
}

fn listen(mut ear: UnixStream, mouth: &Mouth, raised: &AtomicU16, wake: impl Fn()) {
    let mut byte = [0];
    loop {
        match ear.read(&mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::error!("the thread for distress cannot wait: {error}");
                return;
            }
        }
        let reason = match byte[0] {
            BY_SIGNAL => Reason::PlannedStop,
            number => Reason::from_number(u16::from(number)),
        };
        let Some(index) = reason.index() else { continue };
        let left = mouth.say(index);
        raised.fetch_max(reason.number(), Ordering::Relaxed);
        wake();
        if let Some(datagrams) = left {
            tracing::info!(%reason, datagrams, "told the others");
        }
        if !reason.may_return()
            && let Err(error) = mouth.with(LastWords::sync_mark)
        {
            tracing::error!("the tombstone may not survive a loss of power: {error}");
        }
    }
}
