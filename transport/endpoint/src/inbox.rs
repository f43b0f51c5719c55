//! What the providers reported in one round, noted down so that it can be acted on with the endpoint in hand:
//! a call-back may then send, reserve and close without re-entering a provider that is being polled.

use transport_buf::Chunk;
use transport_proto::wire::FrameHeader;
use transport_provider::{ConnectionId, Incoming, RailFault, RailName, Sink};

/// One report.
#[derive(Debug)]
pub(crate) enum Report {
    Accepted(RailName),
    Connected,
    Established,
    Frame {
        header: FrameHeader,
        control: Span,
        data: Noted,
    },
    /// A frame without its data.
    Shed(FrameHeader),
    Writable,
    Lost(RailFault),
}

/// Data of a noted frame.
#[derive(Debug)]
pub(crate) enum Noted {
    Empty,
    Inline(Span),
    Chunk(Chunk),
}

/// Bytes in the inbox's arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    start: u32,
    length: u32,
}

/// Reports of one provider's round, in order.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) reports: Vec<(ConnectionId, Report)>,
    arena: Vec<u8>,
}

impl Inbox {
    #[inline]
    fn note(&mut self, bytes: &[u8]) -> Span {
        let span = Span { start: self.arena.len() as u32, length: bytes.len() as u32 };
        self.arena.extend_from_slice(bytes);
        span
    }

    /// Noted bytes.
    #[inline]
    pub(crate) fn bytes(arena: &[u8], span: Span) -> &[u8] {
        &arena[span.start as usize..(span.start + span.length) as usize]
    }

    /// Takes reports and arena out, to be given back (emptied) by [`Inbox::restore`] so that both keep their
    /// memory.
    #[inline]
    pub(crate) fn take(&mut self) -> (Vec<(ConnectionId, Report)>, Vec<u8>) {
        (core::mem::take(&mut self.reports), core::mem::take(&mut self.arena))
    }

    #[inline]
    pub(crate) fn restore(&mut self, mut reports: Vec<(ConnectionId, Report)>, mut arena: Vec<u8>) {
        reports.clear();
        arena.clear();
        self.reports = reports;
        self.arena = arena;
    }
}

impl Sink for Inbox {
    fn accepted(&mut self, rail: RailName, connection: ConnectionId) {
        self.reports.push((connection, Report::Accepted(rail)));
    }

    fn connected(&mut self, connection: ConnectionId) {
        self.reports.push((connection, Report::Connected));
    }

    fn established(&mut self, connection: ConnectionId) {
        self.reports.push((connection, Report::Established));
    }

    #[inline]
    fn frame(&mut self, connection: ConnectionId, header: &FrameHeader, control: &[u8], data: Incoming<'_>) {
        let control = self.note(control);
        let data = match data {
            Incoming::Empty => Noted::Empty,
            Incoming::Inline(bytes) => Noted::Inline(self.note(bytes)),
            Incoming::Chunk(chunk) => Noted::Chunk(chunk),
        };
        self.reports.push((connection, Report::Frame { header: *header, control, data }));
    }

    fn shed(&mut self, connection: ConnectionId, header: &FrameHeader) {
        self.reports.push((connection, Report::Shed(*header)));
    }

    fn writable(&mut self, connection: ConnectionId) {
        self.reports.push((connection, Report::Writable));
    }

    fn lost(&mut self, connection: ConnectionId, fault: RailFault) {
        self.reports.push((connection, Report::Lost(fault)));
    }
}
