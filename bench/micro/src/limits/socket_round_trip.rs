//! A message goes over a socket to another process and back, with nothing on top of the socket.

use anyhow::{Result, ensure};
use bench_harness::{
    Budget, Contender, CoreId, CorePair, Measured, MonotonicClock, Pinned, Worker, closed_loop, tell_parent,
};
use serde::{Deserialize, Serialize};

use super::socket::{Socket, Wait};
use super::wire::{Family, Listening, Wire};
use crate::role::{Role, SUB_COMMAND};

/// Sizes of what goes there and what comes back.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Exchange {
    /// Bytes of the message that the parent sends.
    pub(crate) there_bytes: usize,
    /// Bytes of the worker's answer.
    pub(crate) back_bytes: usize,
}

/// The worker's end: answers each message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Echo {
    family: Family,
    exchange: Exchange,
    wait: Wait,
    congestion: Option<String>,
    core: CoreId,
}

impl Echo {
    /// Answers until the parent closes the connection.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn serve(self) -> Result<()> {
        let listening = Listening::start(self.family)?;
        tell_parent(&listening.address()?)?;
        let mut socket = Socket::new(listening.accept()?, self.wait, self.congestion.as_deref())?;
        let _pinned = Pinned::to(self.core)?;
        let mut message = vec![0; self.exchange.there_bytes];
        let answer = vec![0xa5; self.exchange.back_bytes];
        while socket.receive(&mut message)? {
            socket.send(&answer)?;
        }
        Ok(())
    }
}

/// The raw round trip as a contender.
#[derive(Debug)]
pub(crate) struct SocketRoundTrip {
    /// Which kind of socket.
    pub(crate) family: Family,
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// Length of a turn.
    pub(crate) budget: Budget,
    /// Sizes.
    pub(crate) exchange: Exchange,
    /// How both ends wait.
    pub(crate) wait: Wait,
    /// Half of there and back is told.
    pub(crate) half: bool,
    /// Congestion control of both sockets; `None` is the machine's default.
    pub(crate) congestion: Option<String>,
}

impl Contender for SocketRoundTrip {
    fn name(&self) -> String {
        let wait = match self.wait {
            Wait::Blocking => "blocking",
            Wait::Epoll => "epoll",
            Wait::Spinning => "spinning",
        };
        format!("{}, {wait}", self.family.word())
    }

    fn measure(&mut self) -> Result<Measured> {
        let Self { family, exchange, wait, .. } = *self;
        let echo =
            Echo { family, exchange, wait, congestion: self.congestion.clone(), core: self.cores.worker };
        let mut worker = Worker::start(SUB_COMMAND, &Role::SocketEcho(echo))?;
        let address: String = worker.hear()?;
        let mut socket = Socket::new(Wire::connect(family, &address)?, wait, self.congestion.as_deref())?;
        let _pinned = Pinned::to(self.cores.ours)?;
        let message = vec![0x5a; exchange.there_bytes];
        let mut answer = vec![0; exchange.back_bytes];
        let run = closed_loop(&mut MonotonicClock::start(), &self.budget, 1, || -> Result<()> {
            socket.send(&message)?;
            ensure!(socket.receive(&mut answer)?, "the worker closed the connection");
            Ok(())
        })?;
        Ok(Measured::latency_of(if self.half { run.halved() } else { run }))
    }
}
