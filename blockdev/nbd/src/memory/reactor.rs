//! The least reactor that runs an [`NbdServer`] over the memory service: spin for a while, then sleep.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};

use super::MemoryService;
use crate::{NbdConfig, NbdServer, StartRefusal};

/// The token of the waker; the server's tokens follow it.
const WAKER: Token = Token(0);

/// Rounds of a spinning reactor between two looks at the kernel's events.
const ROUNDS_PER_HARVEST: u32 = 32;

/// A server and its service on one thread.
pub struct MemoryReactor {
    poll: Poll,
    events: Events,
    /// The server.
    pub server: NbdServer<MemoryService>,
    /// The service.
    pub service: MemoryService,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    spin: Duration,
}

/// Stops a [`MemoryReactor`] from another thread.
#[derive(Clone, Debug)]
pub struct StopSwitch {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl StopSwitch {
    /// The reactor finishes what is under way and returns from [`MemoryReactor::run`].
    pub fn stop(&self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake()
    }
}

impl MemoryReactor {
    /// Binds the listeners. The reactor spins for `spin` after the last thing that moved, then sleeps.
    pub fn new(config: NbdConfig, service: MemoryService, spin: Duration) -> Result<Self, StartRefusal> {
        let failed = |source| StartRefusal::System {
            address: config.listen.first().cloned().unwrap_or(crate::server::NO_ADDRESS),
            action: "set up events for",
            source,
        };
        let poll = Poll::new().map_err(failed)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(failed)?);
        let server = NbdServer::new(poll.registry(), 1..1024, config)?;
        let stop = Arc::new(AtomicBool::new(false));
        Ok(Self { poll, events: Events::with_capacity(256), server, service, stop, waker, spin })
    }

    /// For stopping it from elsewhere.
    pub fn stop_switch(&self) -> StopSwitch {
        StopSwitch { stop: Arc::clone(&self.stop), waker: Arc::clone(&self.waker) }
    }

    /// Events of the kernel, waiting for them up to `timeout`.
    pub fn harvest(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &self.events {
            self.server.handle_event(event);
        }
        Ok(())
    }

    /// One round without waiting. True if anything moved.
    pub fn round(&mut self) -> bool {
        let mut moved = self.server.poll(&mut self.service);
        while let Some(completion) = self.service.next_completion() {
            self.server.complete(completion);
            moved = true;
        }
        moved | self.server.flush()
    }

    /// Runs until stopped.
    pub fn run(&mut self) -> io::Result<()> {
        let mut last_moved = Instant::now();
        let mut rounds: u32 = 0;
        let mut stopping = false;
        loop {
            if self.stop.load(Ordering::Relaxed) && !stopping {
                stopping = true;
                self.server.stop();
            }
            if stopping && self.server.connections() == 0 {
                return Ok(());
            }
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(ROUNDS_PER_HARVEST) {
                self.harvest(Some(Duration::ZERO))?;
            }
            if self.round() {
                last_moved = Instant::now();
            } else if last_moved.elapsed() >= self.spin && self.server.arm() {
                self.harvest(None)?;
                last_moved = Instant::now();
            }
        }
    }
}
