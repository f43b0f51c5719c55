//! One connection from its first datagram to its end.
//!
//! *Greeting*: frames travel as datagrams. `establish` grants memory and sends the grant; once the peer's
//! grant is here too, the [`Lane`] opens and frames travel by it alone. A peer that ends leaves its frames
//! behind in our ring: they are delivered before the connection is lost.

use crate::fault::ProtocolFault;
use crate::grant::{GRANT_DESCRIPTORS, GRANT_MAGIC, Grant, Granted, Offer};
use crate::lane::Lane;
use crate::socket::{self, DATAGRAM_BYTES_MAX, Reception};
use rustix::io::Errno;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use transport_buf::{Region, RegionError, SlabLayout};
use transport_proto::wire::{FrameHeader, HEADER_BYTES};
use transport_provider::{ConnectionId, Incoming, PostRefusal, RailFault, RailName, Sink};
use zerocopy::IntoBytes;

/// Frames by socket that one peer may send: a handshake has three, and may be tried anew.
const GREETINGS_MAX: usize = 16;

/// Where a connection ends, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// At once.
    Now(RailFault),
    /// The peer is gone; what it left in our ring comes first.
    Drained(RailFault),
}

/// A breach of protocol ends a connection at once; other ends are the socket's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Nothing of note.
    Done,
    /// The lane has just opened.
    Established,
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) rail: RailName,
    pub(crate) socket: OwnedFd,
    /// Readable when the peer's process has ended.
    pub(crate) process: Option<OwnedFd>,
    /// A dial that is still to be reported.
    pub(crate) connecting: bool,
    pub(crate) lane: Option<Lane>,
    pub(crate) ending: Option<Ending>,
    /// Frames delivered since the peer was seen to be gone.
    pub(crate) drained: usize,
    establishing: Option<Granted>,
    own_slab: Option<Arc<Region>>,
    grant_sent: bool,
    offer: Option<Offer>,
    greetings: usize,
    waits_for_socket: bool,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, rail: RailName, socket: OwnedFd, connecting: bool) -> Connection {
        Connection {
            id,
            rail,
            socket,
            process: None,
            connecting,
            lane: None,
            ending: None,
            drained: 0,
            establishing: None,
            own_slab: None,
            grant_sent: false,
            offer: None,
            greetings: 0,
            waits_for_socket: false,
        }
    }

    /// Whether the reactor may still use it.
    pub(crate) fn is_open(&self) -> bool {
        !self.connecting && self.ending.is_none()
    }

    /// The first end counts.
    pub(crate) fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// A slab of this side whose chunks may outlive the connection.
    pub(crate) fn own_slab(&self) -> Option<&Arc<Region>> {
        self.own_slab.as_ref()
    }

    /// Sends a frame of the greeting. Once the grant is on its way nothing may follow by socket.
    pub(crate) fn post_greeting(
        &mut self,
        header: &FrameHeader,
        control: &[u8],
        inline: &[u8],
    ) -> Result<(), PostRefusal> {
        if self.establishing.is_some() {
            return Err(PostRefusal::Full);
        }
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(control), IoSlice::new(inline)];
        match socket::send(&self.socket, &parts, &[]) {
            Ok(()) => Ok(()),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                self.waits_for_socket = true;
                Err(PostRefusal::Full)
            }
            // The end of the socket is read, and reported, in its turn.
            Err(_) => Err(PostRefusal::NotConnected),
        }
    }

    /// Grants memory to the peer. A second call is without effect.
    pub(crate) fn establish(&mut self, layout: SlabLayout) -> Result<(), RegionError> {
        if self.establishing.is_some() || self.lane.is_some() {
            return Ok(());
        }
        // The stamps of a ring begin with this; the ring is fresh anyway, so it only helps to read a dump.
        let generation = (self.id.0 >> 16) as u16;
        let granted = Granted::create(generation, layout)?;
        self.own_slab = Some(granted.slab.clone());
        self.establishing = Some(granted);
        Ok(())
    }

    /// Goes on with what `establish` began: sends the grant, and opens the lane when both grants are
    /// exchanged.
    pub(crate) fn advance(&mut self) -> Result<Step, ProtocolFault> {
        let Some(granted) = &self.establishing else { return Ok(Step::Done) };
        if !self.grant_sent {
            let datagram = granted.grant.encode();
            let descriptors = [granted.ring.file(), granted.slab.file(), granted.bell.as_fd()];
            match socket::send(&self.socket, &[IoSlice::new(datagram.as_bytes())], &descriptors) {
                Ok(()) => self.grant_sent = true,
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                    self.waits_for_socket = true;
                    return Ok(Step::Done);
                }
                // Too many descriptors in flight of this user, or out of them.
                Err(Errno::TOOMANYREFS | Errno::MFILE | Errno::NFILE) => {
                    self.end(Ending::Now(RailFault::NoMemory));
                    return Ok(Step::Done);
                }
                // The end of the socket is read, and reported, in its turn. What the peer sent before still
                // counts.
                Err(_) => self.grant_sent = true,
            }
        }
        if self.offer.is_none() {
            return Ok(Step::Done);
        }
        let (Some(own), Some(offer)) = (self.establishing.take(), self.offer.take()) else {
            return Ok(Step::Done);
        };
        match Lane::open(own, offer) {
            Ok(lane) => {
                self.lane = Some(lane);
                Ok(Step::Established)
            }
            Err(RegionError::Foreign { .. } | RegionError::Seal(_)) => Err(ProtocolFault::Grant),
            Err(_) => {
                self.end(Ending::Now(RailFault::NoMemory));
                Ok(Step::Done)
            }
        }
    }

    /// Whether a refused post of the greeting may succeed now; said once.
    pub(crate) fn take_socket_wait(&mut self) -> bool {
        core::mem::take(&mut self.waits_for_socket)
    }

    /// Reads the socket until it has nothing more and reports the greetings. Returns the number of reports.
    pub(crate) fn read_socket(&mut self, sink: &mut impl Sink) -> (usize, Result<(), ProtocolFault>) {
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        let mut reports = 0;
        loop {
            match socket::receive(&self.socket, &mut buffer) {
                Reception::Nothing => return (reports, Ok(())),
                Reception::End => {
                    self.end(Ending::Drained(RailFault::PeerClosed));
                    return (reports, Ok(()));
                }
                Reception::NoDescriptors => {
                    self.end(Ending::Now(RailFault::NoMemory));
                    return (reports, Ok(()));
                }
                Reception::Oversized => return (reports, Err(ProtocolFault::OutOfTurn)),
                Reception::Datagram { length, descriptors } => {
                    let datagram = &buffer[..length];
                    let outcome = if datagram.starts_with(&GRANT_MAGIC) {
                        self.take_offer(datagram, descriptors)
                    } else {
                        self.greeting(datagram, sink).map(|()| reports += 1)
                    };
                    if let Err(fault) = outcome {
                        return (reports, Err(fault));
                    }
                }
            }
        }
    }

    fn take_offer(&mut self, datagram: &[u8], descriptors: Vec<OwnedFd>) -> Result<(), ProtocolFault> {
        if self.offer.is_some() || self.lane.is_some() {
            return Err(ProtocolFault::OutOfTurn);
        }
        let grant = Grant::decode(datagram)?;
        let descriptors: [OwnedFd; GRANT_DESCRIPTORS] =
            descriptors.try_into().map_err(|_| ProtocolFault::Grant)?;
        let [ring, slab, bell] = descriptors;
        self.offer = Some(Offer { grant, ring, slab, bell });
        Ok(())
    }

    fn greeting(&mut self, datagram: &[u8], sink: &mut impl Sink) -> Result<(), ProtocolFault> {
        let header = FrameHeader::parse(datagram).map_err(ProtocolFault::Frame)?;
        if self.offer.is_some() || self.lane.is_some() {
            return Err(ProtocolFault::OutOfTurn);
        }
        self.greetings += 1;
        if self.greetings > GREETINGS_MAX {
            return Err(ProtocolFault::Greetings);
        }
        let body = &datagram[HEADER_BYTES..];
        let control_length = usize::from(header.control_length.get());
        let claimed = control_length + header.data_length.get() as usize;
        if claimed != body.len() {
            return Err(ProtocolFault::Body { claimed, available: body.len() });
        }
        let (control, inline) = body.split_at(control_length);
        let data = if inline.is_empty() { Incoming::Empty } else { Incoming::Inline(inline) };
        sink.frame(self.id, &header, control, data);
        Ok(())
    }
}
