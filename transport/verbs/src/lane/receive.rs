//! The receiving half of a lane: completions to frames, and the end of a queue.

use super::{CHUNK_BITS, LaneEnd, RECEIVE, SLOT_BYTES, receive_request};
use crate::fabric::{Completed, Completion, CompletionFault, Fabric, FabricFault};
use crate::fault::{ProtocolFault, Statistics};
use crate::lane::Lane;
use crate::returns::{NOTICE_BYTES, NOTICE_MAGIC, Notice, WANTS_MEMORY};
use transport_buf::Chunk;
use transport_proto::wire::{FrameHeader, HEADER_BYTES};
use transport_provider::{ConnectionId, Incoming, Sink};
use zerocopy::FromBytes;

/// Frames that one connection may deliver in one poll, so that a flood on it does not starve the others.
const POLL_BUDGET: usize = 64;

impl Lane {
    /// Takes completions, delivers frames, posts receives again. Returns the number of frames.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        fabric: &mut impl Fabric,
        connection: ConnectionId,
        statistics: &mut Statistics,
        sink: &mut impl Sink,
    ) -> (usize, Result<(), LaneEnd>) {
        let mut frames = 0;
        let mut result = Ok(());
        while frames < POLL_BUDGET {
            let Some(completion) = self.next_completion(fabric) else { break };
            match self.complete(completion, connection, statistics, sink) {
                Ok(delivered) => frames += usize::from(delivered),
                Err(end) => {
                    result = Err(end);
                    break;
                }
            }
        }
        if result.is_ok() && !self.to_post.is_empty() {
            result = self.post_receives(fabric).map_err(LaneEnd::Fabric);
        }
        (frames, result)
    }

    /// After the queue failed: takes what is left. What had arrived before is delivered if `deliver`; the
    /// first failure tells why the queue failed, if the provider does not know yet.
    pub(crate) fn drain(
        &mut self,
        fabric: &mut impl Fabric,
        connection: ConnectionId,
        mut deliver: bool,
        statistics: &mut Statistics,
        sink: &mut impl Sink,
    ) -> usize {
        let mut frames = 0;
        while let Some(completion) = self.next_completion(fabric) {
            statistics.flushed += u64::from(completion.result == Err(CompletionFault::Flushed));
            if deliver {
                match self.complete(completion, connection, statistics, sink) {
                    Ok(delivered) => frames += usize::from(delivered),
                    Err(LaneEnd::Completion(_)) => (),
                    Err(_) => deliver = false,
                }
            } else {
                self.account(&completion);
            }
        }
        frames
    }

    #[inline]
    fn next_completion(&mut self, fabric: &mut impl Fabric) -> Option<Completion> {
        if self.stashed.is_empty() {
            self.refill(fabric);
        }
        self.stashed.next().map(|place| self.stash[place])
    }

    pub(super) fn refill(&mut self, fabric: &mut impl Fabric) {
        self.stashed = 0..fabric.poll(self.queue, &mut self.stash);
    }

    /// Posts the receives that were used.
    pub(super) fn post_receives(&mut self, fabric: &mut impl Fabric) -> Result<(), FabricFault> {
        fabric.post_receives(self.queue, &self.to_post)?;
        self.receives_out += self.to_post.len() as u32;
        self.reposted = self.reposted.wrapping_add(self.to_post.len() as u32);
        self.to_post.clear();
        Ok(())
    }

    /// What a completion says of this side's books. An id that no request had is a broken device's.
    #[inline]
    fn account(&mut self, completion: &Completion) {
        if completion.id & RECEIVE != 0 {
            self.receives_out = self.receives_out.saturating_sub(1);
            return;
        }
        // In order, so whatever was posted before is through as well.
        self.completed = self.completed.max((completion.id + 1).min(self.posted));
        while self.held.front().is_some_and(|(position, _)| *position < self.completed) {
            self.held.pop_front();
        }
    }

    #[inline]
    fn complete(
        &mut self,
        completion: Completion,
        connection: ConnectionId,
        statistics: &mut Statistics,
        sink: &mut impl Sink,
    ) -> Result<bool, LaneEnd> {
        self.account(&completion);
        let completed = completion.result.map_err(LaneEnd::Completion)?;
        let slot = (completion.id & !RECEIVE) as u32;
        let outcome = match completed {
            Completed::Sent => {
                statistics.signals += 1;
                return Ok(false);
            }
            Completed::Received { bytes } => self.small(slot, bytes as usize, connection, sink),
            Completed::Written { bytes, immediate } => {
                self.bulk(immediate, bytes as usize, connection, sink).map(|()| true)
            }
        };
        self.to_post.push(receive_request(&self.memory, slot));
        outcome.map_err(LaneEnd::Protocol)
    }

    /// A send of the peer lies in a slot: a frame, or a notice (`false`).
    #[inline]
    fn small(
        &mut self,
        slot: u32,
        length: usize,
        connection: ConnectionId,
        sink: &mut impl Sink,
    ) -> Result<bool, ProtocolFault> {
        let mut bytes = [0; SLOT_BYTES];
        let bytes = bytes.get_mut(..length);
        let bytes = bytes.ok_or(ProtocolFault::Body { claimed: length, available: SLOT_BYTES })?;
        self.memory.rings.load((super::SEND_DEPTH + slot) as usize * SLOT_BYTES, bytes);
        if bytes.starts_with(&NOTICE_MAGIC) {
            return self.notice(bytes).map(|()| false);
        }
        let mut header = FrameHeader::parse(bytes).map_err(ProtocolFault::Frame)?;
        let control_length = usize::from(header.control_length.get());
        let (claimed, available) =
            (control_length + header.data_length.get() as usize, length - HEADER_BYTES);
        if claimed != available {
            return Err(ProtocolFault::Body { claimed, available });
        }
        self.take_stamp(&mut header)?;
        let (control, inline) = bytes[HEADER_BYTES..].split_at(control_length);
        let data = if inline.is_empty() { Incoming::Empty } else { Incoming::Inline(inline) };
        sink.frame(connection, &header, control, data);
        Ok(true)
    }

    /// A write of the peer lies in a chunk of our slab, its frame behind the data.
    fn bulk(
        &mut self,
        immediate: u32,
        length: usize,
        connection: ConnectionId,
        sink: &mut impl Sink,
    ) -> Result<(), ProtocolFault> {
        let index = immediate & ((1 << CHUNK_BITS) - 1);
        let control_length = (immediate >> CHUNK_BITS) as usize;
        let fault = ProtocolFault::Chunk { index, length };
        let trailer_bytes = HEADER_BYTES + control_length;
        let Some(data_length) = length.checked_sub(trailer_bytes).filter(|length| *length > 0) else {
            return Err(fault);
        };
        let taken = Chunk::take_up(&self.memory.slab, &self.memory.layout, index, length);
        let mut chunk = taken.ok_or(fault)?;
        // From here on the chunk goes back to the peer by being dropped, whatever else is wrong.
        self.returns.lend();
        let mut trailer = [0; super::FRAME_BYTES_MAX];
        let Some(trailer) = trailer.get_mut(..trailer_bytes) else { return Err(fault) };
        trailer.copy_from_slice(&chunk.as_ref()[data_length..]);
        let mut header = FrameHeader::parse(trailer).map_err(ProtocolFault::Frame)?;
        if header.data_length.get() as usize != data_length
            || usize::from(header.control_length.get()) != control_length
        {
            let claimed = header.data_length.get() as usize + usize::from(header.control_length.get());
            return Err(ProtocolFault::Body { claimed, available: length - HEADER_BYTES });
        }
        self.take_stamp(&mut header)?;
        chunk.set_length(data_length);
        sink.frame(connection, &header, &trailer[HEADER_BYTES..], Incoming::Chunk(chunk));
        Ok(())
    }

    fn notice(&mut self, bytes: &[u8]) -> Result<(), ProtocolFault> {
        let whole = bytes.get(..NOTICE_BYTES).filter(|_| bytes.len() == NOTICE_BYTES);
        let notice = whole.and_then(|bytes| Notice::read_from_bytes(bytes).ok());
        let notice = notice.ok_or(ProtocolFault::Grant)?;
        self.take_credit(notice.stamp.get())?;
        self.peer_wants |= notice.flags.get() & WANTS_MEMORY != 0;
        for word in &notice.words {
            self.take_returned(word.number.get() as usize, word.bits.get());
        }
        Ok(())
    }

    /// Takes what is the provider's off a header.
    #[inline]
    fn take_stamp(&mut self, header: &mut FrameHeader) -> Result<(), ProtocolFault> {
        self.take_credit(header.rail_stamp.get())?;
        if let Some(index) = header.crc32c.get().checked_sub(1) {
            self.take_returned(index as usize / 64, 1 << (index % 64));
        }
        header.rail_stamp.set(0);
        header.crc32c.set(0);
        Ok(())
    }

    #[inline]
    fn take_credit(&mut self, stamp: u64) -> Result<(), ProtocolFault> {
        let (credited, found) = ((stamp >> 32) as u32, stamp as u32);
        let expected = self.arrived.wrapping_add(1);
        if found != expected {
            return Err(ProtocolFault::Position { expected, found });
        }
        self.arrived = expected;
        if credited.wrapping_sub(self.credited) > self.spent.wrapping_sub(self.credited) {
            return Err(ProtocolFault::Consumed);
        }
        self.credited = credited;
        Ok(())
    }

    #[inline]
    fn take_returned(&mut self, word: usize, bits: u64) {
        if bits != 0
            && let Some(peer) = &mut self.peer
        {
            peer.free.give_back(word, bits);
            self.chunk_returned = true;
        }
    }
}
