//! One client: its socket, its bytes, its connection machine, and the way between them and the service.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::time::{Duration, Instant};

use super::stream::{Arrival, Stream};
use crate::codec::{Command, OptionHeader, Request, option_number};
use crate::connection::{Connection, ConnectionLimits, EndReason, Step, Submission};
use crate::limits::OPTION_BYTES_MAX;
use crate::quarantine::{Applicant, Moment, Quarantine};
use crate::{BlockCompletion, BlockService, Busy, ClientIdentity, VolumeHandle};

/// Room for bytes that are not parsed yet: one read brings many pipelined requests, or a whole option.
const INPUT_BYTES: usize = 64 << 10;
const _: () = assert!(INPUT_BYTES > OPTION_BYTES_MAX as usize + OptionHeader::BYTES);

/// Payload up to this length may arrive in the input and be copied: cheaper than another system call.
const COPY_BYTES_MAX: u32 = 16 << 10;

/// How much is read beyond a long payload, or where one is expected: enough for dozens of request headers.
const BULK_INPUT_BYTES: usize = 1 << 10;

/// Reads of one session before the next has its turn.
const READS_PER_TURN: u32 = 16;

/// After so long without an empty outbox, what waits there gives the service's memory back.
const LENT_TIME_MAX: Duration = Duration::from_millis(50);

/// Slices of one vectored write: header and data of 32 replies.
const SLICES_MAX: usize = 64;

/// One client.
pub(super) struct Session<S: BlockService> {
    number: u32,
    client: ClientIdentity,
    /// The client is to be let go once it has its answers.
    stopping: bool,
    /// `None` once closed, while the service still has requests of the connection.
    stream: Option<Stream>,
    connection: Connection<S::WriteBuffer, S::ReadData>,
    input: Box<[u8]>,
    start: usize,
    end: usize,
    /// The socket may hold bytes that no event will announce any more.
    unread: bool,
    /// The last write was long: read headers in small sips, so that payload lands in place.
    bulk: bool,
    /// Stopped by the service, by the limits or by the quarantine, not by the client.
    pub(super) waiting: bool,
    /// The kernel says that the client is gone.
    pub(super) hung_up: bool,
    /// Polls since the last byte.
    pub(super) quiet_polls: u32,
    volume: Option<VolumeHandle>,
    arrived: Option<Moment>,
    died: Option<Moment>,
    pub(super) accepted_at: Instant,
    pub(super) peer: String,
    /// Since when the socket has not taken all that there was to say.
    behind_since: Option<Instant>,
    /// The reactor's registry tells when the socket takes bytes again.
    pub(super) watches_writes: bool,
}

impl<S: BlockService> Session<S> {
    pub(super) fn new(
        number: u32,
        (stream, client): (Stream, ClientIdentity),
        peer: String,
        limits: ConnectionLimits,
    ) -> Self {
        Self {
            number,
            client,
            stopping: false,
            stream: Some(stream),
            connection: Connection::new(number, limits),
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            unread: true,
            bulk: false,
            waiting: false,
            hung_up: false,
            quiet_polls: 0,
            volume: None,
            arrived: None,
            died: None,
            accepted_at: Instant::now(),
            peer,
            behind_since: None,
            watches_writes: false,
        }
    }

    pub(super) fn stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }

    pub(super) fn stream_mut(&mut self) -> Option<&mut Stream> {
        self.stream.as_mut()
    }

    /// The socket announced bytes.
    pub(super) fn announced(&mut self) {
        self.unread = true;
        self.quiet_polls = 0;
    }

    /// Reads, parses, submits and writes as far as it goes now. True if anything moved.
    pub(super) fn turn(&mut self, service: &mut S, quarantine: &mut Quarantine) -> bool {
        self.waiting = false;
        let mut moved = self.flush();
        // Tried once even where nothing was announced: that is what spinning is for.
        let mut reads_left = READS_PER_TURN;
        loop {
            let (count, step) = self.connection.advance(&self.input[self.start..self.end]);
            self.start += count;
            moved |= count > 0;
            match step {
                Step::Progress => {}
                Step::NeedPayload if self.start < self.end => self.copy_payload(),
                Step::NeedInput | Step::NeedPayload => {
                    if reads_left == 0 || !self.read(step == Step::NeedPayload) {
                        break;
                    }
                    moved = true;
                    reads_left = if self.unread { reads_left - 1 } else { 0 };
                }
                Step::List => self.connection.listed(&service.exports(&self.client)),
                Step::Open { name, probe } => self.open(service, &name, probe),
                Step::NeedBuffer { volume, offset, length } => {
                    self.bulk = length > COPY_BYTES_MAX;
                    match service.write_buffer(volume, offset, length) {
                        Ok(buffer) => self.connection.grant_buffer(buffer),
                        Err(Busy) => {
                            self.connection.starved();
                            self.waiting = true;
                            break;
                        }
                    }
                }
                Step::Full => {
                    self.waiting = true;
                    break;
                }
                Step::Ended => break,
            }
            moved |= self.submit(service, quarantine);
        }
        moved |= self.submit(service, quarantine);
        moved | self.flush()
    }

    fn open(&mut self, service: &mut S, name: &str, probe: bool) {
        let result = service.open(name, &self.client);
        let volume = result.as_ref().ok().map(|export| export.volume);
        let begun = self.connection.opened(result);
        match volume {
            Some(volume) if begun => self.volume = Some(volume),
            Some(volume) => {
                debug_assert!(probe, "an export was opened for transmission, which did not begin");
                service.close(volume);
            }
            None => {}
        }
    }

    /// One read from the socket, into the payload's buffer and the input or into the input alone. False if
    /// there is nothing to be had.
    fn read(&mut self, payload: bool) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        self.input.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let window = if self.bulk { BULK_INPUT_BYTES } else { INPUT_BYTES };
        // An option that does not fit the small window still has to come in whole; only the handshake has
        // those.
        let input_room = if self.end >= window { INPUT_BYTES } else { window } - self.end;
        let last = self.connection.payload_room_is_last();
        let room = if payload { self.connection.payload_room() } else { &mut [] };
        let payload_room = room.len();
        let input = &mut self.input[self.end..self.end + input_room];
        let (space, arrival) = if !payload {
            (input_room, stream.read(input))
        } else if last {
            let mut rooms = [IoSliceMut::new(room), IoSliceMut::new(input)];
            (payload_room + input_room, stream.read_vectored(&mut rooms))
        } else {
            (payload_room, stream.read(room))
        };
        match arrival {
            Arrival::Bytes(count) => {
                // A short read has emptied the socket; bytes that come later have an event of their own.
                self.unread = count == space;
                self.quiet_polls = 0;
                if payload {
                    self.connection.payload_arrived(count.min(payload_room));
                }
                self.end += count.saturating_sub(payload_room);
                true
            }
            Arrival::Nothing => {
                self.unread = false;
                false
            }
            Arrival::Gone(kind) => {
                self.unread = false;
                self.connection.lost(kind.map_or(EndReason::HungUp, EndReason::SocketFailed));
                false
            }
        }
    }

    /// Payload that came with the headers goes into its buffer.
    fn copy_payload(&mut self) {
        let room = self.connection.payload_room();
        let count = room.len().min(self.end - self.start);
        room[..count].copy_from_slice(&self.input[self.start..self.start + count]);
        self.start += count;
        self.connection.payload_arrived(count);
    }

    fn submit(&mut self, service: &mut S, quarantine: &mut Quarantine) -> bool {
        let mut moved = false;
        while let Some(span) = self.connection.next_span() {
            if !self.is_admitted(quarantine, &span) {
                self.waiting = true;
                break;
            }
            match self.connection.submit_next(|io| service.submit(io)) {
                Submission::Idle => break,
                Submission::Submitted => {}
                Submission::Refused(finished) => {
                    if let Some(job) = finished.filter(|_| self.died.is_some()) {
                        quarantine.settle(self.number, job);
                    }
                }
                Submission::Busy => {
                    self.connection.starved();
                    self.waiting = true;
                    break;
                }
            }
            moved = true;
        }
        moved
    }

    fn is_admitted(&self, quarantine: &Quarantine, span: &crate::connection::JobSpan) -> bool {
        // Not before the server has looked for dead connections to the same volume.
        let (Some(volume), Some(arrived)) = (self.volume, self.arrived) else { return false };
        if quarantine.unsettled() == 0 {
            return true;
        }
        quarantine.admits(&Applicant { connection: self.number, volume, arrived, died: self.died }, span)
    }

    /// Writes what waits, with as few system calls as the socket allows.
    pub(super) fn flush(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let outbox = self.connection.outbox();
        let mut moved = false;
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = outbox.gather(&mut slices);
            match stream.write_vectored(&slices[..count]) {
                Ok(written) => {
                    outbox.written(written);
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.behind_since.get_or_insert_with(Instant::now).elapsed() > LENT_TIME_MAX {
                        outbox.detach();
                    }
                    return moved;
                }
                Err(error) => {
                    self.connection.lost(EndReason::SocketFailed(error.kind()));
                    return true;
                }
            }
        }
        self.behind_since = None;
        moved
    }

    pub(super) fn complete(
        &mut self,
        job: u16,
        piece: u16,
        completion: BlockCompletion<S::ReadData>,
        quarantine: &mut Quarantine,
    ) {
        let finished = self.connection.complete(job, piece, completion.result);
        if let Some(job) = finished.filter(|_| self.died.is_some()) {
            quarantine.settle(self.number, job);
        }
        self.quiet_polls = 0;
    }

    /// The kernel says that the client is gone. What it sent last is only looked at for a word of farewell:
    /// nothing that is read from now on may reach the disk.
    pub(super) fn farewell(&mut self) {
        let reason = if self.connection.is_ending() { EndReason::HungUp } else { self.last_words() };
        self.connection.lost(reason);
    }

    fn last_words(&mut self) -> EndReason {
        if self.start == self.end && self.connection.unfinished_count() == 0 {
            let _ = self.read(false);
        }
        let words = &self.input[self.start..self.end];
        if matches!(Request::parse(words), Ok(Some(request)) if request.command == Command::Disconnect) {
            return EndReason::Disconnected;
        }
        if matches!(OptionHeader::parse(words), Ok(Some(header)) if header.number == option_number::ABORT) {
            return EndReason::Aborted;
        }
        EndReason::HungUp
    }

    /// Gives the connection up.
    pub(super) fn drop_client(&mut self, reason: EndReason) {
        self.connection.lost(reason);
    }

    /// The client is to go: it gets its answers, then the connection ends.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        self.connection.stop();
    }

    /// After [`Session::stop`]: the last answer is out.
    pub(super) fn stop_if_answered(&mut self) {
        let answered = self.connection.unfinished_count() == 0 && self.connection.outbox().is_empty();
        if self.stopping && answered {
            self.connection.lost(EndReason::Stopping);
        }
    }

    /// Registers the requests of a connection that ended, and closes its socket once nothing more is to be
    /// said.
    pub(super) fn bury(&mut self, quarantine: &mut Quarantine) -> Option<Stream> {
        if let (true, Some(volume)) = (self.connection.is_ending(), self.volume) {
            let over = self.connection.is_over();
            if self.died.is_none() || (over && self.stream.is_some()) {
                let unfinished = self.connection.unfinished();
                self.died = Some(quarantine.bury(self.number, volume, unfinished, self.died));
            }
        }
        if self.connection.is_over() { self.stream.take() } else { None }
    }

    /// The client is gone and the service is done with it: the place is free, and the volume can be closed.
    pub(super) fn is_settled(&self) -> bool {
        self.stream.is_none() && self.connection.in_service() == 0
    }

    /// Transmission has begun but [`Session::arrive`] was not called yet.
    pub(super) fn is_arriving(&self) -> bool {
        self.volume.is_some() && self.arrived.is_none()
    }

    /// From now on the connection may submit, behind those that died before now.
    pub(super) fn arrive(&mut self, quarantine: &Quarantine) {
        self.arrived = Some(quarantine.now());
    }

    pub(super) fn volume(&self) -> Option<VolumeHandle> {
        self.volume
    }

    pub(super) fn end_reason(&self) -> Option<EndReason> {
        self.connection.end_reason()
    }

    pub(super) fn in_service(&self) -> u32 {
        self.connection.in_service()
    }

    /// The connection has ended in some way that [`Session::bury`] has to see.
    pub(super) fn is_ending(&self) -> bool {
        self.connection.is_ending()
    }

    /// There is work that no event will announce.
    pub(super) fn has_work(&self) -> bool {
        self.hung_up
            || (self.unread && !self.waiting && self.stream.is_some() && !self.connection.is_ending())
    }

    /// Bytes wait for the socket.
    pub(super) fn has_replies(&mut self) -> bool {
        self.stream.is_some() && !self.connection.outbox().is_empty()
    }

    /// The handshake is not finished.
    pub(super) fn is_in_handshake(&self) -> bool {
        self.volume.is_none()
    }
}
