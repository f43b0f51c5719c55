//! One connection from its dial to its end.
//!
//! *Open*: frames travel by the side channel. `establish` makes a queue, posts its receives and sends the
//! grant; with the peer's grant here the queue is connected (in the background), then *ready* is said. With
//! the peer's *ready* here too, both queues receive, and the lane opens: no send can come too early. An end
//! goes through *draining*: the queue is in error and everything that it still holds comes back, then it is
//! destroyed, and only then is the memory free and the connection lost.

use crate::channel::{Channel, Said};
use crate::fault::ProtocolFault;
use crate::grant::Grant;
use crate::lane::Lane;
use mio::net::TcpStream;
use std::net::IpAddr;
use transport_proto::time::Time;
use transport_provider::{ConnectionId, Incoming, RailFault, RailName, Sink};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The side channel is being dialed.
    Dialing,
    /// The handshake may travel.
    Open,
    /// `establish` was called; grants and words are exchanged.
    Establishing,
    /// The queue carries frames.
    Established,
    /// It ends; what its queue still holds comes back until then at the latest.
    Draining {
        /// Why.
        fault: RailFault,
        /// When the queue is destroyed anyway.
        deadline: Time,
    },
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) rail: RailName,
    pub(crate) channel: Channel,
    pub(crate) phase: Phase,
    /// Made by `establish`.
    pub(crate) lane: Option<Lane>,
    /// Packet number with which its queue begins.
    pub(crate) packet_sequence: u32,
    /// The address that its port must have, and the place that it had.
    pub(crate) port: Option<(IpAddr, crate::fabric::Port)>,
    /// What the peer grants.
    pub(crate) grant: Option<Grant>,
    /// The queue is on its way to be connected, or is.
    pub(crate) connecting: bool,
    /// This side has said that its queue receives.
    pub(crate) ready: bool,
    /// The peer has said so.
    pub(crate) peer_ready: bool,
    /// A post was refused while frames travelled by the side channel.
    pub(crate) refused: bool,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, rail: RailName, stream: TcpStream, phase: Phase) -> Connection {
        Connection {
            id,
            rail,
            channel: Channel::new(stream),
            phase,
            lane: None,
            packet_sequence: 0,
            port: None,
            grant: None,
            connecting: false,
            ready: false,
            peer_ready: false,
            refused: false,
        }
    }

    /// The local address of its side channel: the rail's, also where the listener listens on every address.
    pub(crate) fn local_address(&self) -> Option<IpAddr> {
        self.channel.stream.local_addr().ok().map(|address| address.ip())
    }

    /// Hears what the peer says by the side channel. Returns the number of reports.
    pub(crate) fn hear(&mut self, sink: &mut impl Sink) -> (usize, Result<(), ProtocolFault>) {
        let mut reports = 0;
        loop {
            match self.channel.next() {
                Ok(None) => return (reports, Ok(())),
                Err(fault) => return (reports, Err(fault)),
                Ok(Some(Said::Grant(_) | Said::Greeting(_))) if self.grant.is_some() => {
                    return (reports, Err(ProtocolFault::OutOfTurn));
                }
                Ok(Some(Said::Ready)) if self.grant.is_none() || self.peer_ready => {
                    return (reports, Err(ProtocolFault::OutOfTurn));
                }
                Ok(Some(Said::Grant(grant))) => self.grant = Some(grant),
                Ok(Some(Said::Ready)) => self.peer_ready = true,
                Ok(Some(Said::Greeting(header))) => {
                    let control_length = usize::from(header.control_length.get());
                    let length = control_length + header.data_length.get() as usize;
                    let (control, inline) = self.channel.body()[..length].split_at(control_length);
                    let data = if inline.is_empty() { Incoming::Empty } else { Incoming::Inline(inline) };
                    sink.frame(self.id, &header, control, data);
                    reports += 1;
                }
            }
        }
    }
}
