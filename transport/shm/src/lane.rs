//! The lane: both directions of an established connection, by ring and slab. This is the hot path.
//!
//! A frame is one slot of the receiver's ring. Data that does not fit the slot lies in a chunk of the
//! receiver's slab; then the header's `crc32c` word, which memory needs for nothing else, carries the chunk's
//! number plus one.

use crate::fault::ProtocolFault;
use crate::grant::{Granted, Offer};
use crate::socket;
use rustix::fs::OFlags;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use transport_buf::ring::Claim;
use transport_buf::ring_region::{RING_REGION_BYTES, RING_SLOTS, SLOT_BODY_BYTES};
use transport_buf::{
    Chunk, FrameReceiver, FrameSender, Region, RegionError, Slab, SlabLayout, SlabRefusal, SlotCopy,
};
use transport_proto::wire::FrameHeader;
use transport_provider::{INLINE_BYTES_MAX, Incoming, Payload, PayloadSlice, PostRefusal};

/// Frames that one connection may deliver in one poll, so that a flood on it does not starve the others.
pub const POLL_BUDGET: usize = 64;

/// Where a header has the `crc32c` field, which bears the chunk's number.
const REFERENCE_WORD: usize = core::mem::offset_of!(FrameHeader, crc32c) / 8;
const REFERENCE_SHIFT: usize = core::mem::offset_of!(FrameHeader, crc32c) % 8 * 8;

/// Where the data of a frame is that was taken out of the ring.
#[derive(Debug)]
pub enum Taken {
    /// Behind the control part, as much as the header says, or nowhere.
    InSlot,
    /// In a chunk.
    Chunk(Chunk),
}

impl Taken {
    /// Control part and data of a frame whose copy this is.
    #[inline]
    pub fn split(self, copy: &SlotCopy) -> (&FrameHeader, &[u8], Incoming<'_>) {
        let header: &FrameHeader = zerocopy::transmute_ref!(&copy.header);
        let control_length = usize::from(header.control_length.get());
        match self {
            Taken::Chunk(chunk) => (header, copy.body(control_length), Incoming::Chunk(chunk)),
            Taken::InSlot => {
                let body = copy.body(control_length + header.data_length.get() as usize);
                let (control, inline) = body.split_at(control_length);
                let data = if inline.is_empty() { Incoming::Empty } else { Incoming::Inline(inline) };
                (header, control, data)
            }
        }
    }
}

/// Why a post did not go through.
pub(crate) enum LaneRefusal {
    /// For the caller.
    Post(PostRefusal),
    /// The peer broke the protocol: the connection ends.
    Fault(ProtocolFault),
}

impl From<PostRefusal> for LaneRefusal {
    fn from(refusal: PostRefusal) -> LaneRefusal {
        LaneRefusal::Post(refusal)
    }
}

/// An established connection's rings, slabs and bells.
pub(crate) struct Lane {
    outgoing: FrameSender,
    incoming: FrameReceiver,
    /// Memory of the peer, allocated here.
    peer_slab: Slab,
    /// Rung when the peer sleeps.
    peer_bell: OwnedFd,
    /// Memory of this side, allocated by the peer.
    own_slab: Arc<Region>,
    own_layout: SlabLayout,
    own_bell: OwnedFd,
    waits_for_slot: bool,
    waits_for_chunk: bool,
}

impl Lane {
    /// Maps what the peer offers. An error is the peer's breach of protocol if it sent what it did not
    /// announce.
    pub(crate) fn open(own: Granted, offer: Offer) -> Result<Lane, RegionError> {
        // The bell is only ever rung without blocking, also when the peer forgot to say so.
        let flags = rustix::fs::fcntl_getfl(&offer.bell).map_err(RegionError::Create)?;
        rustix::fs::fcntl_setfl(&offer.bell, flags | OFlags::NONBLOCK).map_err(RegionError::Create)?;
        let ring = Arc::new(Region::adopt(offer.ring, RING_REGION_BYTES)?);
        let slab = Arc::new(Region::adopt(offer.slab, offer.grant.layout.region_bytes())?);
        // Whoever returns a chunk wakes the side that allocates it: the peer in our slab, this side in the
        // peer's.
        own.slab.set_bell(offer.bell.try_clone().map_err(RegionError::Map)?);
        slab.set_bell(own.bell.try_clone().map_err(RegionError::Map)?);
        Ok(Lane {
            outgoing: FrameSender::new(ring, offer.grant.generation),
            incoming: FrameReceiver::new(own.ring, own.grant.generation),
            peer_slab: Slab::over(slab, offer.grant.layout),
            peer_bell: offer.bell,
            own_slab: own.slab,
            own_layout: own.grant.layout,
            own_bell: own.bell,
            waits_for_slot: false,
            waits_for_chunk: false,
        })
    }

    /// The bell that the peer rings.
    pub(crate) fn bell(&self) -> &OwnedFd {
        &self.own_bell
    }

    /// The peer's memory is shared among these clients from now on.
    pub(crate) fn share_among(&mut self, clients: u32) {
        self.peer_slab.share_among(clients);
    }

    /// A chunk in the peer's memory, within the client's share.
    pub(crate) fn reserve(&mut self, client: u16, length: usize) -> Result<Chunk, PostRefusal> {
        self.peer_slab.allocate_for(client, length).map_err(|refusal| match refusal {
            SlabRefusal::Exhausted => {
                self.waits_for_chunk = true;
                PostRefusal::NoMemory
            }
            SlabRefusal::TooLarge { .. } => PostRefusal::TooLarge,
        })
    }

    /// Publishes a frame; see [`transport_provider::Provider::post`].
    #[inline]
    pub(crate) fn post(
        &mut self,
        header: &FrameHeader,
        control: &[u8],
        inline: &[u8],
        data: &PayloadSlice<'_>,
    ) -> Result<(), LaneRefusal> {
        match self.outgoing.claim() {
            Claim::Slot(_) => (),
            claim => self.wait_for_slot(claim)?,
        }
        if data.is_empty() {
            debug_assert_eq!(header.crc32c.get(), 0, "the field bears the chunk");
            self.outgoing.send(zerocopy::transmute_ref!(header), control, inline);
            return Ok(());
        }
        assert!(inline.is_empty(), "data inline and by payload in one frame");
        self.post_data(header, control, data)
    }

    fn post_data(
        &mut self,
        header: &FrameHeader,
        control: &[u8],
        data: &PayloadSlice<'_>,
    ) -> Result<(), LaneRefusal> {
        if control.len() + data.len() <= INLINE_BYTES_MAX {
            let mut small = [0; INLINE_BYTES_MAX];
            let small = &mut small[..data.len()];
            data.copy_to(small);
            self.outgoing.send(zerocopy::transmute_ref!(header), control, small);
            return Ok(());
        }
        let in_place = match data.payload {
            Payload::Placed(chunk) => {
                Arc::ptr_eq(chunk.region(), self.peer_slab.region())
                    && data.range == (0..chunk.len())
                    && chunk.hand_over()
            }
            _ => false,
        };
        let index = match data.payload {
            Payload::Placed(chunk) if in_place => chunk.index(),
            _ => {
                let mut chunk = self.reserve(header.client.get(), data.len())?;
                data.copy_to(chunk.as_mut());
                chunk.give_away()
            }
        };
        self.publish(header, index, control);
        Ok(())
    }

    /// Publishes a frame whose data lies in a chunk.
    fn publish(&mut self, header: &FrameHeader, chunk: u32, control: &[u8]) {
        let mut header = *header;
        header.crc32c.set(chunk + 1);
        self.outgoing.send(zerocopy::transmute_ref!(&header), control, &[]);
    }

    #[cold]
    fn wait_for_slot(&mut self, claim: Claim) -> Result<(), LaneRefusal> {
        if claim == Claim::Full && self.outgoing.starve() {
            return Ok(());
        }
        if claim == Claim::Corrupt || self.outgoing.claim() == Claim::Corrupt {
            return Err(LaneRefusal::Fault(ProtocolFault::Consumed));
        }
        self.waits_for_slot = true;
        Err(LaneRefusal::Post(PostRefusal::Full))
    }

    /// Whether a refused post or reservation waits.
    pub(crate) fn waits(&self) -> bool {
        self.waits_for_slot || self.waits_for_chunk
    }

    /// Whether what is waited for may be there.
    pub(crate) fn is_writable(&mut self) -> bool {
        (self.waits_for_slot && self.outgoing.claim() != Claim::Full)
            || (self.waits_for_chunk && self.peer_slab.has_returns())
    }

    /// Nobody waits any more: the caller was told.
    pub(crate) fn stop_waiting(&mut self) {
        self.waits_for_slot = false;
        self.waits_for_chunk = false;
    }

    /// Wakes the peer if it sleeps. After [`transport_buf::ring::before_bells`].
    #[inline]
    pub(crate) fn wake_peer_if_armed(&self) -> bool {
        let armed = self.outgoing.take_armed();
        if armed {
            socket::ring(&self.peer_bell);
        }
        armed
    }

    /// Takes the next frame out of the ring, if there is one.
    #[inline]
    pub(crate) fn take(&mut self, copy: &mut SlotCopy) -> Result<Option<Taken>, ProtocolFault> {
        if !self.incoming.read_header(copy) {
            return Ok(None);
        }
        let reference = (copy.header[REFERENCE_WORD] >> REFERENCE_SHIFT) as u32;
        copy.header[REFERENCE_WORD] &= (1 << REFERENCE_SHIFT) - 1;
        let header: &FrameHeader = zerocopy::transmute_ref!(&copy.header);
        header.check().map_err(ProtocolFault::Frame)?;
        let control_length = usize::from(header.control_length.get());
        let data_length = header.data_length.get() as usize;
        let claimed = control_length + if reference == 0 { data_length } else { 0 };
        if claimed > SLOT_BODY_BYTES {
            return Err(ProtocolFault::Body { claimed, available: SLOT_BODY_BYTES });
        }
        let taken = match reference.checked_sub(1) {
            None => Taken::InSlot,
            Some(index) => Taken::Chunk(self.take_up(index, data_length)?),
        };
        self.incoming.take_body(claimed, copy);
        Ok(Some(taken))
    }

    /// Ends a batch of [`Lane::take`]: its slots go back to the peer.
    #[inline]
    pub(crate) fn batch_done(&mut self, count: usize) {
        if count > 0 {
            self.incoming.release();
        }
        self.wake_peer_if_starved();
    }

    fn take_up(&self, index: u32, length: usize) -> Result<Chunk, ProtocolFault> {
        if length == 0 {
            return Err(ProtocolFault::Chunk { index, length });
        }
        Chunk::take_up(&self.own_slab, &self.own_layout, index, length)
            .ok_or(ProtocolFault::Chunk { index, length })
    }

    #[inline]
    fn wake_peer_if_starved(&self) {
        if self.incoming.take_starved() {
            socket::ring(&self.peer_bell);
        }
    }

    /// Whether a frame waits to be delivered.
    #[inline]
    pub(crate) fn has_frame(&self) -> bool {
        self.incoming.has_frame()
    }

    /// This side is about to sleep; then [`transport_buf::ring::before_sleep`] and [`Lane::may_sleep`].
    pub(crate) fn arm(&self) {
        self.incoming.arm();
    }

    /// This side is awake.
    pub(crate) fn disarm(&self) {
        self.incoming.disarm();
    }

    /// The last look before sleep: `false` if there is something to do.
    pub(crate) fn may_sleep(&mut self) -> bool {
        self.wake_peer_if_starved();
        !self.incoming.has_frame() && !self.is_writable()
    }

    /// Frames that a ring can hold: no dead peer has left more.
    pub(crate) const FRAMES_MAX: usize = RING_SLOTS;
}
