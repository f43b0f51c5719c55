//! The lane: both directions of a connection once its queue carries frames. This is the hot path.
//!
//! A frame without much data is one send into the peer's next receive slot. Data that does not fit a slot is
//! one write with immediate: the data from wherever it is registered, then header and control part as a
//! trailer, into a chunk of the peer's slab; the immediate says which chunk and how long the control part is.
//!
//! **No receiver is ever found not ready.** The peer has `receive_depth` receives posted when the queue opens
//! and posts each again before it counts it in the stamp of what it sends (cumulative, so a late word does no
//! harm). This side never has more sends under way than that count allows, whatever their kind: a write with
//! immediate takes a receive as a send does. Frames leave the last [`RESERVED`] to notices that are owed
//! because a quarter of the receives was used; between two of those at least a quarter of the peer's sends
//! came in, so two ends cannot both run out while neither may say that it has room again.

mod receive;

use crate::fabric::{
    Completed, Completion, CompletionFault, DeviceId, Fabric, FabricFault, Operation, Part, QueueDepth,
    QueueId, ReceiveRequest, SendRequest,
};
use crate::fault::{ProtocolFault, Statistics};
use crate::grant::Grant;
use crate::memory::{ConnectionMemory, Sources};
use crate::mutant::{self, Mutant};
use crate::returns::{NOTICE_MAGIC, Notice, Returns, WANTS_MEMORY};
use std::collections::VecDeque;
use transport_buf::{Chunk, FreeList, Slab, SlabRefusal};
use transport_proto::wire::{CONTROL_BYTES_MAX, FRAGMENT_EXTENSION_BYTES, FrameHeader, HEADER_BYTES};
use transport_provider::{INLINE_BYTES_MAX, Payload, PayloadSlice, PostRefusal};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

/// Bytes of a send or receive slot: header and what may lie behind it.
pub(crate) const SLOT_BYTES: usize = HEADER_BYTES + INLINE_BYTES_MAX;
/// Sends under way on one queue at the most.
pub(crate) const SEND_DEPTH: u32 = 256;
/// Receives that this side keeps posted.
pub(crate) const RECEIVE_DEPTH: u32 = 256;
/// Fewer would leave frames nothing beside the reserve.
pub(crate) const RECEIVE_DEPTH_MIN: u32 = 16;
/// Sends that frames leave to notices of used receives.
const RESERVED: u32 = 2;
/// Room for the send whose return tells that all before it are through: see [`Lane::begin_drain`].
const DRAIN_SENDS: u32 = 1;
/// Every so many sends one is signalled: the queue can never be full of silent ones.
const SIGNAL_EVERY: u32 = 32;
/// Header and control part, as the trailer of a write.
pub(crate) const FRAME_BYTES_MAX: usize = HEADER_BYTES + CONTROL_BYTES_MAX + FRAGMENT_EXTENSION_BYTES;
/// Completions taken at once.
const COMPLETIONS: usize = 32;
/// Marks the ids of receives; the rest is the slot. Ids of sends are positions.
const RECEIVE: u64 = 1 << 63;
/// Low bits of an immediate: the chunk. Above: bytes of the control part.
const CHUNK_BITS: u32 = 20;

const _: () = assert!(SIGNAL_EVERY < SEND_DEPTH - RESERVED);
const _: () = assert!(FRAME_BYTES_MAX - HEADER_BYTES < 1 << (u32::BITS - CHUNK_BITS));

/// How deep queues are made.
pub(crate) const DEPTH: QueueDepth = QueueDepth { sends: SEND_DEPTH + DRAIN_SENDS, receives: RECEIVE_DEPTH };

/// Why a lane ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneEnd {
    /// The peer broke the protocol.
    Protocol(ProtocolFault),
    /// A request failed.
    Completion(CompletionFault),
    /// The device refused a call.
    Fabric(FabricFault),
}

/// Data that the device may still read.
enum Held {
    Payload { _payload: Payload },
    Copy { _chunk: Chunk },
}

/// The peer's end: memory that this side stores into.
struct PeerEnd {
    free: FreeList,
    slab_address: u64,
    slab_key: u32,
    receive_depth: u32,
}

/// What a lane needs of its provider to send.
pub(crate) struct Outfit<'a> {
    pub(crate) sources: &'a Sources,
    pub(crate) reserve: &'a mut Slab,
    pub(crate) statistics: &'a mut Statistics,
}

/// What a refused caller waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    pub(crate) room: bool,
    pub(crate) chunk: bool,
    pub(crate) reserve: bool,
}

/// A queue and its books.
pub(crate) struct Lane {
    pub(crate) queue: QueueId,
    pub(crate) device: DeviceId,
    pub(crate) memory: ConnectionMemory,
    inline_max: usize,
    peer: Option<PeerEnd>,
    // --- sends: positions count from 0 ---
    batch: Vec<SendRequest>,
    built: u64,
    posted: u64,
    completed: u64,
    /// Receives of the peer that it has posted again, as it said last; modulo 2³².
    credited: u32,
    /// Sends of this side that took one.
    spent: u32,
    unsignalled: u32,
    bulk_unsignalled: bool,
    held: VecDeque<(u64, Held)>,
    /// The peer was not told yet that this side waits for its memory.
    wants_untold: bool,
    pub(crate) waits: Waits,
    /// The peer returned memory since a post was refused for want of it.
    chunk_returned: bool,
    // --- receives ---
    stash: [Completion; COMPLETIONS],
    stashed: core::ops::Range<usize>,
    to_post: Vec<ReceiveRequest>,
    receives_out: u32,
    /// Position of the last frame or notice that arrived.
    arrived: u32,
    /// Receives posted again, and how many of them the peer knows of.
    reposted: u32,
    advertised: u32,
    returns: Returns,
    peer_wants: bool,
}

impl Lane {
    /// A lane whose queue is made but not connected. Posts its receives.
    pub(crate) fn new(
        fabric: &mut impl Fabric,
        queue: QueueId,
        memory: ConnectionMemory,
    ) -> Result<Lane, (FabricFault, ConnectionMemory)> {
        let nothing = Completion { id: 0, result: Ok(Completed::Sent) };
        let mut lane = Lane {
            queue,
            device: memory.device,
            inline_max: fabric.inline_bytes_max(queue),
            peer: None,
            batch: Vec::with_capacity(SEND_DEPTH as usize),
            built: 0,
            posted: 0,
            completed: 0,
            credited: 0,
            spent: 0,
            unsignalled: 0,
            bulk_unsignalled: false,
            held: VecDeque::with_capacity(SEND_DEPTH as usize),
            wants_untold: false,
            waits: Waits::default(),
            chunk_returned: false,
            stash: [nothing; COMPLETIONS],
            stashed: 0..0,
            to_post: Vec::with_capacity(RECEIVE_DEPTH as usize),
            receives_out: 0,
            arrived: 0,
            reposted: 0,
            advertised: 0,
            returns: Returns::new(&memory.layout),
            peer_wants: false,
            memory,
        };
        lane.to_post.extend((0..RECEIVE_DEPTH).map(|slot| receive_request(&lane.memory, slot)));
        match lane.post_receives(fabric) {
            Ok(()) => {
                lane.reposted = 0;
                Ok(lane)
            }
            Err(fault) => Err((fault, lane.memory)),
        }
    }

    /// The queue is connected and the peer can receive.
    pub(crate) fn open(&mut self, grant: &Grant) {
        self.peer = Some(PeerEnd {
            free: FreeList::new(grant.layout),
            slab_address: grant.slab_address,
            slab_key: grant.slab_key,
            receive_depth: grant.receive_depth,
        });
    }

    /// The peer's memory is shared among these clients from now on, if there are any.
    pub(crate) fn share_among(&mut self, clients: u32) {
        if let Some(peer) = self.peer.as_mut().filter(|_| clients != 0) {
            peer.free.share_among(clients);
        }
    }

    /// Whether it may carry frames.
    pub(crate) fn is_open(&self) -> bool {
        self.peer.is_some()
    }

    // --- sending ---

    /// Receives of the peer that may be taken before frames must wait.
    #[inline]
    fn credit(&self) -> u32 {
        let Some(peer) = &self.peer else { return 0 };
        peer.receive_depth - self.spent.wrapping_sub(self.credited)
    }

    #[inline]
    fn slots(&self) -> u32 {
        SEND_DEPTH - (self.built - self.completed) as u32
    }

    /// Whether a frame, which leaves the reserve alone, may go.
    #[inline]
    fn has_room(&self) -> bool {
        let books = self.credit() > RESERVED && self.slots() > RESERVED;
        books || (mutant::is_broken(Mutant::Unsignalled) && self.credit() > RESERVED)
    }

    /// Gathers a frame; see [`transport_provider::Provider::post`].
    #[inline]
    pub(crate) fn post(
        &mut self,
        header: &FrameHeader,
        control: &[u8],
        inline: &[u8],
        data: &PayloadSlice<'_>,
        outfit: &mut Outfit<'_>,
    ) -> Result<(), PostRefusal> {
        if !self.has_room() {
            self.waits.room = true;
            return Err(PostRefusal::Full);
        }
        if control.len() + data.len() > INLINE_BYTES_MAX && !data.is_empty() {
            assert!(inline.is_empty(), "data inline and by payload in one frame");
            return self.post_bulk(header, control, data, outfit);
        }
        let mut slot = [0; SLOT_BYTES];
        let control_end = HEADER_BYTES + control.len();
        let end = control_end + inline.len() + data.len();
        slot[HEADER_BYTES..control_end].copy_from_slice(control);
        slot[control_end..control_end + inline.len()].copy_from_slice(inline);
        data.copy_to(&mut slot[control_end + inline.len()..end]);
        slot[..HEADER_BYTES].copy_from_slice(self.stamped(header).as_bytes());
        self.gather(Operation::Send, Part::default(), &slot[..end]);
        Ok(())
    }

    fn post_bulk(
        &mut self,
        header: &FrameHeader,
        control: &[u8],
        data: &PayloadSlice<'_>,
        outfit: &mut Outfit<'_>,
    ) -> Result<(), PostRefusal> {
        let Some(peer) = &mut self.peer else { return Err(PostRefusal::NotConnected) };
        let client = usize::from(header.client.get());
        let bytes = data.len() + HEADER_BYTES + control.len();
        let Some(index) = peer.free.take_for(Some(client), bytes) else {
            self.wants_untold |= !self.waits.chunk;
            (self.waits.chunk, self.chunk_returned) = (true, false);
            return Err(PostRefusal::NoMemory);
        };
        let (part, held) = match source(self.device, data, outfit) {
            Ok(found) => found,
            Err(refusal) => {
                peer.free.give_back(index as usize / 64, 1 << (index % 64));
                self.waits.reserve = true;
                return Err(refusal);
            }
        };
        let (offset, _) = peer.free.layout().locate(index).expect("the list gives only chunks that exist");
        let operation = Operation::Write {
            address: peer.slab_address + offset as u64,
            key: peer.slab_key,
            immediate: index | (control.len() as u32) << CHUNK_BITS,
        };
        let mut trailer = [0; FRAME_BYTES_MAX];
        trailer[..HEADER_BYTES].copy_from_slice(self.stamped(header).as_bytes());
        trailer[HEADER_BYTES..HEADER_BYTES + control.len()].copy_from_slice(control);
        if !mutant::is_broken(Mutant::EarlyRelease) {
            self.held.push_back((self.built, held));
        }
        self.bulk_unsignalled = true;
        self.gather(operation, part, &trailer[..HEADER_BYTES + control.len()]);
        if mutant::is_broken(Mutant::UncountedWrite) {
            self.spent = self.spent.wrapping_sub(1);
        }
        if mutant::is_broken(Mutant::EarlyChunk)
            && let Some(peer) = &mut self.peer
        {
            peer.free.give_back(index as usize / 64, 1 << (index % 64));
        }
        Ok(())
    }

    /// The header with what is the provider's: receives posted again and position, and a chunk that goes
    /// back.
    #[inline]
    fn stamped(&mut self, header: &FrameHeader) -> FrameHeader {
        let mut header = *header;
        header.rail_stamp.set(self.stamp());
        let returned = self.returns.take_one(&self.memory.layout);
        header.crc32c.set(returned.map_or(0, |index| index + 1));
        header
    }

    /// High half: receives posted again. Low half: position, from 1.
    #[inline]
    fn stamp(&mut self) -> u64 {
        self.advertised = self.reposted;
        u64::from(self.reposted) << 32 | u64::from(self.built as u32).wrapping_add(1) & u64::from(u32::MAX)
    }

    /// Puts a send into the batch. `slot` goes through a send slot, behind `data`.
    #[inline]
    fn gather(&mut self, operation: Operation, data: Part, slot: &[u8]) {
        let offset = (self.built % u64::from(SEND_DEPTH)) as usize * SLOT_BYTES;
        self.memory.rings.store(offset, slot);
        let last = self.memory.rings_memory.part(offset, slot.len());
        self.unsignalled += 1;
        let signalled = self.unsignalled >= SIGNAL_EVERY && !mutant::is_broken(Mutant::Unsignalled);
        if signalled {
            (self.unsignalled, self.bulk_unsignalled) = (0, false);
        }
        self.batch.push(SendRequest {
            id: self.built,
            operation,
            parts: [data, last],
            inline: data.length == 0 && slot.len() <= self.inline_max,
            signalled,
        });
        self.built += 1;
        self.spent = self.spent.wrapping_add(1);
    }

    /// Adds the notices that are owed and rings the doorbell once for all. `sleepy`: this side is about to
    /// sleep, nothing is put off.
    pub(crate) fn flush(
        &mut self,
        fabric: &mut impl Fabric,
        sleepy: bool,
        statistics: &mut Statistics,
    ) -> Result<(), LaneEnd> {
        self.returns.collect(&self.memory.slab, &self.memory.layout);
        self.notify(sleepy);
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.bulk_unsignalled && !mutant::is_broken(Mutant::Unsignalled) {
            // Its memory must not stay lent while nothing else is sent.
            if let Some(last) = self.batch.last_mut() {
                last.signalled = true;
            }
            (self.unsignalled, self.bulk_unsignalled) = (0, false);
        }
        statistics.doorbells += 1;
        statistics.sends += self.batch.len() as u64;
        let outcome = fabric.post_sends(self.queue, &self.batch);
        self.posted += self.batch.len() as u64;
        self.batch.clear();
        outcome.map_err(LaneEnd::Fabric)
    }

    /// Puts a notice into the batch if one is owed.
    fn notify(&mut self, sleepy: bool) {
        if self.peer.is_none() {
            return;
        }
        let used = self.reposted.wrapping_sub(self.advertised) >= RECEIVE_DEPTH / 4;
        if used && self.credit() > 0 && self.slots() > 0 {
            self.push_notice();
        }
        let layout = &self.memory.layout;
        let owed = self.wants_untold
            || self.returns.is_due(layout)
            || (self.peer_wants || sleepy) && !self.returns.is_empty();
        if owed && self.has_room() {
            self.push_notice();
        }
    }

    fn push_notice(&mut self) {
        let flags = if core::mem::take(&mut self.wants_untold) { WANTS_MEMORY } else { 0 };
        let words = self.returns.take_many(&self.memory.layout);
        let told = words.iter().any(|word| word.bits.get() != 0);
        self.peer_wants &= !told;
        let notice =
            Notice { magic: NOTICE_MAGIC, flags: U32::new(flags), stamp: U64::new(self.stamp()), words };
        self.gather(Operation::Send, Part::default(), notice.as_bytes());
    }

    /// Whether something waits to be sent that `post` did not bring about.
    pub(crate) fn owes(&mut self) -> bool {
        self.returns.collect(&self.memory.slab, &self.memory.layout);
        let used = self.reposted.wrapping_sub(self.advertised) >= RECEIVE_DEPTH / 4;
        let returned =
            self.returns.is_due(&self.memory.layout) || self.peer_wants && !self.returns.is_empty();
        !self.batch.is_empty() || used || ((returned || self.wants_untold) && self.has_room())
    }

    // --- waiting ---

    /// Whether what a refused caller waits for may be there. `reserve`: memory of this side came back.
    pub(crate) fn is_writable(&self, reserve: bool) -> bool {
        (self.waits.room && self.has_room())
            || (self.waits.chunk && self.chunk_returned)
            || (self.waits.reserve && reserve)
    }

    /// Moves the queue to error. Silent sends that went well before leave no completion, so one more is
    /// posted: it comes back flushed, after all others.
    pub(crate) fn begin_drain(&mut self, fabric: &mut impl Fabric) {
        fabric.fail(self.queue);
        self.batch.clear();
        self.posted = self.built + 1;
        let nothing = [Part::default(); 2];
        let last = SendRequest {
            id: self.built,
            operation: Operation::Send,
            parts: nothing,
            inline: false,
            signalled: true,
        };
        if fabric.post_sends(self.queue, &[last]).is_err() {
            // Then only destroying the queue tells.
            self.posted = u64::MAX;
        }
    }

    /// Every request of the queue has come back.
    pub(crate) fn is_drained(&self) -> bool {
        self.completed >= self.posted && self.receives_out == 0
    }

    /// Prepares to sleep: `false` if there is something to do.
    pub(crate) fn arm(&mut self, fabric: &mut impl Fabric) -> bool {
        if !self.stashed.is_empty() || fabric.arm(self.queue).is_err() {
            return false;
        }
        self.refill(fabric);
        self.stashed.is_empty()
    }
}

/// Where the device finds the data of a post, and what keeps it there.
fn source(
    device: DeviceId,
    data: &PayloadSlice<'_>,
    outfit: &mut Outfit<'_>,
) -> Result<(Part, Held), PostRefusal> {
    if let Payload::Shared(chunk) = data.payload
        && let Some(memory) = outfit.sources.find(device, chunk.region())
    {
        outfit.statistics.bytes_without_copy += data.len() as u64;
        let part = memory.part(chunk.offset() + data.range.start, data.len());
        return Ok((part, Held::Payload { _payload: data.payload.clone() }));
    }
    let mut chunk = outfit.reserve.allocate(data.len()).map_err(|refusal| match refusal {
        SlabRefusal::Exhausted => PostRefusal::NoMemory,
        SlabRefusal::TooLarge { .. } => PostRefusal::TooLarge,
    })?;
    data.copy_to(chunk.as_mut());
    outfit.statistics.bytes_copied += data.len() as u64;
    let memory = outfit.sources.find(device, chunk.region()).ok_or(PostRefusal::NotConnected)?;
    Ok((memory.part(chunk.offset(), data.len()), Held::Copy { _chunk: chunk }))
}

fn receive_request(memory: &ConnectionMemory, slot: u32) -> ReceiveRequest {
    let offset = (SEND_DEPTH + slot) as usize * SLOT_BYTES;
    ReceiveRequest { id: RECEIVE | u64::from(slot), part: memory.rings_memory.part(offset, SLOT_BYTES) }
}
