//! A message goes over loopback TCP to another process and back, with nothing on top of the socket.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use bench_harness::{
    Budget, Contender, CoreId, CorePair, Measured, MonotonicClock, Pinned, Worker, closed_loop, tell_parent,
};
use serde::{Deserialize, Serialize};

use super::tcp_wait::{Socket, Wait};
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
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        tell_parent(&listener.local_addr()?.port())?;
        let (stream, _) = listener.accept()?;
        let mut socket = Socket::new(stream, self.wait, self.congestion.as_deref())?;
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
pub(crate) struct TcpRoundTrip {
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// Length of a turn.
    pub(crate) budget: Budget,
    /// Sizes.
    pub(crate) exchange: Exchange,
    /// How both ends wait.
    pub(crate) wait: Wait,
    /// Congestion control of both sockets; `None` is the machine's default.
    pub(crate) congestion: Option<String>,
}

impl Contender for TcpRoundTrip {
    fn name(&self) -> String {
        match self.wait {
            Wait::Blocking => "raw TCP, blocking".to_owned(),
            Wait::Epoll => "raw TCP, epoll".to_owned(),
            Wait::Spinning => "raw TCP, spinning".to_owned(),
        }
    }

    fn measure(&mut self) -> Result<Measured> {
        let Self { exchange, wait, .. } = *self;
        let echo = Echo { exchange, wait, congestion: self.congestion.clone(), core: self.cores.worker };
        let mut worker = Worker::start(SUB_COMMAND, &Role::TcpEcho(echo))?;
        let port: u16 = worker.hear()?;
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connecting to the worker")?;
        let mut socket = Socket::new(stream, wait, self.congestion.as_deref())?;
        let _pinned = Pinned::to(self.cores.ours)?;
        let message = vec![0x5a; exchange.there_bytes];
        let mut answer = vec![0; exchange.back_bytes];
        let run = closed_loop(&mut MonotonicClock::start(), &self.budget, 1, || -> Result<()> {
            socket.send(&message)?;
            ensure!(socket.receive(&mut answer)?, "the worker closed the connection");
            Ok(())
        })?;
        Ok(Measured::latency(run.recorder))
    }
}
