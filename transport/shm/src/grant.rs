//! The grant: what each side tells the other about the memory that it may store into, with three descriptors
//! (ring, slab, doorbell) in one datagram.

use crate::fault::ProtocolFault;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use transport_buf::ring_region::{RING_REGION_BYTES, RING_SLOTS, SLOT_BYTES};
use transport_buf::slab::CLASSES_MAX;
use transport_buf::{Region, RegionError, SlabLayout};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a grant; the last one is its version.
pub(crate) const GRANT_MAGIC: [u8; 4] = *b"ndG1";
/// Descriptors that come with a grant.
pub(crate) const GRANT_DESCRIPTORS: usize = 3;
/// Bytes of a peer's slab that this side is ready to map.
const SLAB_BYTES_MAX: usize = 4 << 30;

/// A grant as it travels.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct GrantDatagram {
    magic: [u8; 4],
    ring_slots: U32,
    slot_bytes: U32,
    generation: U16,
    reserved: U16,
    classes: [[U32; 2]; CLASSES_MAX],
}

/// What a peer grants, checked as far as numbers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Leads the stamps of the ring.
    pub(crate) generation: u16,
    /// How the slab is cut.
    pub(crate) layout: SlabLayout,
}

impl Grant {
    pub(crate) fn encode(&self) -> GrantDatagram {
        GrantDatagram {
            magic: GRANT_MAGIC,
            ring_slots: U32::new(RING_SLOTS as u32),
            slot_bytes: U32::new(SLOT_BYTES as u32),
            generation: U16::new(self.generation),
            reserved: U16::ZERO,
            classes: self.layout.classes.map(|(bytes, count)| [U32::new(bytes), U32::new(count)]),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Grant, ProtocolFault> {
        let datagram = GrantDatagram::read_from_bytes(bytes).map_err(|_| ProtocolFault::Grant)?;
        let layout =
            SlabLayout { classes: datagram.classes.map(|[bytes, count]| (bytes.get(), count.get())) };
        let known = datagram.magic == GRANT_MAGIC
            && datagram.ring_slots.get() as usize == RING_SLOTS
            && datagram.slot_bytes.get() as usize == SLOT_BYTES
            && datagram.reserved.get() == 0;
        if !known || !layout.is_valid() || layout.region_bytes() > SLAB_BYTES_MAX {
            return Err(ProtocolFault::Grant);
        }
        Ok(Grant { generation: datagram.generation.get(), layout })
    }
}

/// A grant that has arrived, with its descriptors, before it is mapped.
pub(crate) struct Offer {
    pub(crate) grant: Grant,
    pub(crate) ring: OwnedFd,
    pub(crate) slab: OwnedFd,
    pub(crate) bell: OwnedFd,
}

/// Memory of this side that one peer may store into, and the bell that it rings.
pub(crate) struct Granted {
    pub(crate) grant: Grant,
    pub(crate) ring: Arc<Region>,
    pub(crate) slab: Arc<Region>,
    pub(crate) bell: OwnedFd,
}

impl Granted {
    /// Fresh memory: what an earlier connection used is never granted again.
    pub(crate) fn create(generation: u16, layout: SlabLayout) -> Result<Granted, RegionError> {
        use rustix::event::{EventfdFlags, eventfd};
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(RegionError::Create)?;
        let ring = Arc::new(Region::create(RING_REGION_BYTES)?);
        let slab = Arc::new(Region::create(layout.region_bytes())?);
        Ok(Granted { grant: Grant { generation, layout }, ring, slab, bell })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_survives_the_wire() {
        let grant = Grant { generation: 513, layout: SlabLayout::default() };
        assert_eq!(Grant::decode(grant.encode().as_bytes()), Ok(grant));
    }

    #[test]
    fn grants_that_cannot_be_are_refused() {
        let good = Grant { generation: 1, layout: SlabLayout::default() };
        let refused = |change: fn(&mut GrantDatagram)| {
            let mut datagram = good.encode();
            change(&mut datagram);
            Grant::decode(datagram.as_bytes()) == Err(ProtocolFault::Grant)
        };
        assert!(refused(|datagram| datagram.magic[3] = b'2'));
        assert!(refused(|datagram| datagram.ring_slots = U32::new(512)));
        assert!(refused(|datagram| datagram.slot_bytes = U32::new(128)));
        assert!(refused(|datagram| datagram.reserved = U16::new(1)));
        assert!(refused(|datagram| datagram.classes = [[U32::new(!4095), U32::new(u32::MAX)]; 4]));
        assert!(refused(|datagram| datagram.classes[3] = [U32::new(1 << 30), U32::new(64)]));
        assert!(refused(|datagram| datagram.classes = [[U32::ZERO; 2]; 4]));
        assert!(refused(|datagram| datagram.classes[0] = [U32::ZERO, U32::new(5)]));
        assert_eq!(Grant::decode(b"ndG1"), Err(ProtocolFault::Grant));
    }
}
