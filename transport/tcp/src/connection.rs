//! One connection: its socket, its two halves, and what the provider has to remember about it.

use crate::fault::TcpFault;
use crate::options::TcpOptions;
use crate::reader::{BUFFER_BYTES, Fill, FrameReader, Step};
use crate::writer::{Drain, FrameWriter, RING_BYTES};
use mio::net::TcpStream;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use transport_buf::Slab;
use transport_proto::time::Time;
use transport_provider::{ConnectionId, RailFault, RailName, Sink};

/// Reads of one connection in one poll at the most, so that none keeps the others waiting.
const READS_MAX: usize = 4;

/// Bytes that a connection holds besides chunks.
pub(crate) const CONNECTION_BYTES: usize = BUFFER_BYTES + RING_BYTES;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Dialing,
    Open,
    Established,
}

/// What the decoded bytes wait for, so that reading more would not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stall {
    None,
    Memory,
    Establish,
}

/// The memory that all connections receive into, and who has none of it left.
pub(crate) struct Pool<'a> {
    pub(crate) slab: &'a mut Slab,
    /// Bit per client whose data parts are dropped.
    pub(crate) shedding: &'a mut u32,
    /// The slab is shared among clients. If not, a connection waits for memory as long as it takes.
    pub(crate) shared: bool,
    /// Data parts dropped.
    pub(crate) shed: u64,
    pub(crate) now: Time,
}

/// How long one client may keep a connection, which carries all clients' frames, waiting for memory.
const PATIENCE: Duration = Duration::from_millis(5);

impl Pool<'_> {
    /// Whether a client that has found no memory since then is to go without.
    fn sheds(&mut self, client: u16, since: Time) -> bool {
        if self.shared && self.now.since(since) >= PATIENCE {
            *self.shedding |= 1 << client;
        }
        *self.shedding & (1 << client) != 0
    }
}

/// Why a connection must end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Rail(RailFault),
    Protocol(TcpFault),
}

pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) stream: TcpStream,
    pub(crate) rail: RailName,
    pub(crate) peer: SocketAddr,
    pub(crate) phase: Phase,
    pub(crate) stall: Stall,
    /// Since when: the last frame before.
    pub(crate) stalled_at: Time,
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    /// `mio` said readable and no read has found nothing since.
    pub(crate) readable: bool,
    /// In the provider's list of the readable.
    pub(crate) listed: bool,
    /// The kernel takes no more until `mio` says writable.
    pub(crate) blocked: bool,
    /// In the provider's list of those that have something to flush.
    pub(crate) dirty: bool,
    /// A post was refused; the caller waits to hear `writable`.
    pub(crate) refused: Refused,
    /// In the provider's list of directly read sockets.
    pub(crate) hot: bool,
    /// When it last carried a frame, either way.
    pub(crate) active: Time,
    /// A write failed; reported once what came in before is delivered.
    pub(crate) write_fault: Option<RailFault>,
}

/// For what a refused caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    No,
    /// For room in the queue.
    Full,
    /// For a chunk of this many bytes.
    NoMemory(usize),
}

impl Connection {
    pub(crate) fn new(
        id: ConnectionId,
        rail: RailName,
        stream: TcpStream,
        peer: SocketAddr,
        phase: Phase,
        options: &TcpOptions,
    ) -> Connection {
        let generation = transport_proto::identity::RailGeneration((id.0 >> 16) as u16);
        let stamp = transport_proto::wire::FrameHeader::stamp(generation, 0);
        Connection {
            id,
            stream,
            rail,
            peer,
            phase,
            stall: Stall::None,
            stalled_at: Time::default(),
            reader: FrameReader::new(),
            writer: FrameWriter::new(options.queue_bytes_max, stamp),
            readable: false,
            listed: false,
            blocked: phase == Phase::Dialing,
            dirty: false,
            refused: Refused::No,
            hot: false,
            active: Time::default(),
            write_fault: None,
        }
    }

    /// Writes what waits. A failure is kept for the next read, so that what the peer sent before is still
    /// heard.
    pub(crate) fn flush(&mut self) {
        if self.blocked || self.write_fault.is_some() {
            return;
        }
        match self.writer.drain(&mut self.stream) {
            Ok(Drain::Done) => (),
            Ok(Drain::Blocked) => self.blocked = true,
            Err(e) => {
                self.write_fault = Some(rail_fault(&e));
                self.writer.clear();
            }
        }
    }

    /// Reads and delivers what there is, up to a limit. Returns the number of reports and how it must end, if
    /// so.
    pub(crate) fn serve(&mut self, pool: &mut Pool<'_>, sink: &mut impl Sink) -> (usize, Option<End>) {
        let mut reports = 0;
        if self.stall != Stall::None {
            match self.deliver(pool, sink) {
                Ok(count) => reports += count,
                Err(fault) => return (reports, Some(End::Protocol(fault))),
            }
        }
        for _ in 0..READS_MAX {
            if self.stall != Stall::None {
                break;
            }
            match self.reader.fill(&mut self.stream) {
                Ok(Fill::Bytes { full }) => {
                    match self.deliver(pool, sink) {
                        Ok(count) => reports += count,
                        Err(fault) => return (reports, Some(End::Protocol(fault))),
                    }
                    // Nothing more for now, most likely; the next poll finds out.
                    if !full {
                        break;
                    }
                }
                Ok(Fill::Empty) => {
                    self.readable = false;
                    return (reports, self.write_fault.map(End::Rail));
                }
                Ok(Fill::End) => return (reports, Some(End::Rail(RailFault::PeerClosed))),
                Err(e) if e.kind() == ErrorKind::Interrupted => (),
                Err(e) => return (reports, Some(End::Rail(rail_fault(&e)))),
            }
        }
        if self.stall != Stall::None && self.is_ended_behind_stall() {
            return (reports, Some(End::Rail(RailFault::PeerClosed)));
        }
        (reports, None)
    }

    /// What is missing may never come once the peer is gone: its end is not kept waiting behind it.
    fn is_ended_behind_stall(&mut self) -> bool {
        let told = core::mem::take(&mut self.readable);
        told && (transport_provider::socket::is_ended(&self.stream) || self.write_fault.is_some())
    }

    /// Delivers the frames that are whole.
    fn deliver(&mut self, pool: &mut Pool<'_>, sink: &mut impl Sink) -> Result<usize, TcpFault> {
        let mut reports = 0;
        loop {
            match self.reader.next(pool.slab, self.phase == Phase::Established)? {
                Step::Frame { header, control, data } => {
                    sink.frame(self.id, &header, control, data);
                    self.stalled_at = pool.now;
                    reports += 1;
                }
                Step::Shed { header } => {
                    sink.shed(self.id, &header);
                    self.stalled_at = pool.now;
                    pool.shed += 1;
                    reports += 1;
                }
                Step::NeedBytes => {
                    if self.stall != Stall::None {
                        self.stall = Stall::None;
                        self.readable = true;
                    }
                    return Ok(reports);
                }
                Step::NeedMemory { client } => {
                    if self.stall != Stall::Memory {
                        (self.stall, self.stalled_at) = (Stall::Memory, pool.now);
                    }
                    if !pool.sheds(client, self.stalled_at) {
                        return Ok(reports);
                    }
                    self.reader.shed();
                }
                Step::NeedEstablish => {
                    self.stall = Stall::Establish;
                    return Ok(reports);
                }
            }
        }
    }
}

/// What an error of a socket means for the rail.
pub(crate) fn rail_fault(error: &std::io::Error) -> RailFault {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::WriteZero => RailFault::PeerClosed,
        ErrorKind::ConnectionRefused => RailFault::Refused,
        ErrorKind::OutOfMemory => RailFault::NoMemory,
        _ => RailFault::Broken,
    }
}
