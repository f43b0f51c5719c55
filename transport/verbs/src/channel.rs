//! The side channel: a TCP connection between the rail's addresses, beside each queue.
//!
//! Before the queue carries frames, the handshake travels here, then both grants, then the word that each end
//! can receive; after that nothing. Its end tells of a peer's death, and that it was just set up is why the
//! neighbour's address is known when the queue connects.

use crate::fault::ProtocolFault;
use crate::grant::{GRANT_BYTES, GRANT_MAGIC, Grant, READY_MAGIC};
use mio::net::TcpStream;
use std::io::{ErrorKind, Read, Write};
use transport_proto::wire::{FrameHeader, HEADER_BYTES, MAGIC, VERSION};
use transport_provider::{INLINE_BYTES_MAX, PostRefusal};
use zerocopy::IntoBytes;

/// Bytes that wait to be sent at the most: a few frames of a handshake and the records behind them.
const OUTGOING_BYTES_MAX: usize = 4096;
/// Bytes that are read ahead at the most.
const INCOMING_BYTES: usize = 4096;
/// Frames by the channel that one peer may send: a handshake has three, and may be tried anew.
const GREETINGS_MAX: usize = 16;

/// What the peer said.
#[derive(Debug)]
pub(crate) enum Said {
    /// A frame of the handshake; its control part and inline data are [`Channel::body`].
    Greeting(FrameHeader),
    /// What it grants.
    Grant(Grant),
    /// Its queue can receive.
    Ready,
}

/// One end of a side channel.
pub(crate) struct Channel {
    pub(crate) stream: TcpStream,
    incoming: Vec<u8>,
    taken: usize,
    body: [u8; INLINE_BYTES_MAX],
    outgoing: Vec<u8>,
    greetings: usize,
    /// `mio` said readable and no read has found nothing since.
    pub(crate) readable: bool,
    /// The peer closed its end, or the connection broke.
    pub(crate) ended: bool,
}

impl Channel {
    pub(crate) fn new(stream: TcpStream) -> Channel {
        Channel {
            stream,
            incoming: Vec::with_capacity(INCOMING_BYTES),
            taken: 0,
            body: [0; INLINE_BYTES_MAX],
            outgoing: Vec::new(),
            greetings: 0,
            readable: true,
            ended: false,
        }
    }

    /// Sends a frame of the handshake.
    pub(crate) fn send_frame(
        &mut self,
        header: &FrameHeader,
        control: &[u8],
        inline: &[u8],
    ) -> Result<(), PostRefusal> {
        if self.outgoing.len() + HEADER_BYTES + control.len() + inline.len() > OUTGOING_BYTES_MAX / 2 {
            return Err(PostRefusal::Full);
        }
        for part in [header.as_bytes(), control, inline] {
            self.outgoing.extend_from_slice(part);
        }
        self.flush();
        Ok(())
    }

    /// Sends a record: there are two in a connection's life, so there is room.
    pub(crate) fn send_record(&mut self, record: &[u8]) {
        self.outgoing.extend_from_slice(record);
        self.flush();
    }

    /// Says that the queue of this side can receive.
    pub(crate) fn send_ready(&mut self) {
        self.send_record(&READY_MAGIC);
    }

    /// Writes what waits, as far as the kernel takes it.
    pub(crate) fn flush(&mut self) {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(e) if e.kind() == ErrorKind::Interrupted => (),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                // The end is read, and reported, in its turn; what the peer said before still counts.
                Err(_) => {
                    self.outgoing.clear();
                    self.readable = true;
                }
            }
        }
    }

    /// Whether a refused frame fits by now.
    pub(crate) fn has_room(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Body of the last greeting, control part first.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The next thing the peer said; `None`: nothing more for now, or [`Channel::ended`].
    pub(crate) fn next(&mut self) -> Result<Option<Said>, ProtocolFault> {
        loop {
            if let Some(said) = self.decode()? {
                return Ok(Some(said));
            }
            if !self.readable || self.ended || !self.read() {
                return Ok(None);
            }
        }
    }

    /// Reads once. `false`: there was nothing.
    fn read(&mut self) -> bool {
        self.incoming.drain(..self.taken);
        self.taken = 0;
        let mut bytes = [0; INCOMING_BYTES];
        let room = INCOMING_BYTES - self.incoming.len();
        match self.stream.read(&mut bytes[..room]) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                self.incoming.extend_from_slice(&bytes[..count]);
                return true;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => return true,
            Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(_) => self.ended = true,
        }
        false
    }

    fn decode(&mut self) -> Result<Option<Said>, ProtocolFault> {
        let bytes = &self.incoming[self.taken..];
        let is = |magic: [u8; 4]| bytes.len() >= 4 && bytes[..4] == magic;
        if is(GRANT_MAGIC) {
            let Some(record) = bytes.get(..GRANT_BYTES) else { return Ok(None) };
            let grant = Grant::decode(record)?;
            self.taken += GRANT_BYTES;
            return Ok(Some(Said::Grant(grant)));
        }
        if is(READY_MAGIC) {
            self.taken += READY_MAGIC.len();
            return Ok(Some(Said::Ready));
        }
        if bytes.len() < HEADER_BYTES {
            return Channel::check_beginning(bytes).map(|()| None);
        }
        let header = FrameHeader::parse(bytes).map_err(ProtocolFault::Frame)?;
        let claimed = usize::from(header.control_length.get()) + header.data_length.get() as usize;
        if claimed > INLINE_BYTES_MAX {
            return Err(ProtocolFault::Body { claimed, available: INLINE_BYTES_MAX });
        }
        let Some(body) = bytes.get(HEADER_BYTES..HEADER_BYTES + claimed) else { return Ok(None) };
        self.greetings += 1;
        if self.greetings > GREETINGS_MAX {
            return Err(ProtocolFault::Greetings);
        }
        self.body[..claimed].copy_from_slice(body);
        self.taken += HEADER_BYTES + claimed;
        Ok(Some(Said::Greeting(header)))
    }

    /// Fewer bytes than a header: what is wrong already is told at once, so that a stranger is not waited
    /// for.
    fn check_beginning(bytes: &[u8]) -> Result<(), ProtocolFault> {
        let frame = [MAGIC.to_le_bytes()[0], MAGIC.to_le_bytes()[1], VERSION];
        let begins = |expected: &[u8]| bytes.iter().zip(expected).all(|(found, due)| found == due);
        if begins(&frame) || begins(&GRANT_MAGIC) || begins(&READY_MAGIC) {
            return Ok(());
        }
        // Something is there, or it would begin as anything.
        Err(FrameHeader::parse(&[bytes, &[0; HEADER_BYTES]].concat())
            .map_or_else(ProtocolFault::Frame, |_| ProtocolFault::OutOfTurn))
    }
}
