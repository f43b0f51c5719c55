//! The grant: what each side tells the other, by the side channel, about its queue and the memory that the
//! other may store into.

use crate::fabric::{Gid, Mtu, QueueEnd};
use crate::fault::ProtocolFault;
use crate::lane::{FRAME_BYTES_MAX, RECEIVE_DEPTH_MIN};
use transport_buf::SlabLayout;
use transport_buf::slab::CLASSES_MAX;
use transport_proto::wire::DATA_BYTES_MAX;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a grant; the last one is its version.
pub(crate) const GRANT_MAGIC: [u8; 4] = *b"ndQ1";
/// First bytes of the word that the queue can receive now.
pub(crate) const READY_MAGIC: [u8; 4] = *b"ndR1";
/// Numbers of queues and packets have 24 bits.
const NUMBER_END: u32 = 1 << 24;
/// Bytes of a peer's slab that this side is ready to keep book of.
const SLAB_BYTES_MAX: usize = 4 << 30;
/// Receives that a peer may claim to have posted.
const RECEIVE_DEPTH_MAX: u32 = 1 << 16;

/// A grant as it travels.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct GrantRecord {
    magic: [u8; 4],
    number: U32,
    packet_sequence: U32,
    receive_depth: U32,
    gid: Gid,
    slab_address: U64,
    slab_key: U32,
    mtu: u8,
    reserved: [u8; 3],
    classes: [[U32; 2]; CLASSES_MAX],
}

/// Bytes of a grant.
pub(crate) const GRANT_BYTES: usize = size_of::<GrantRecord>();

/// What one side grants the other, checked as far as numbers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Its end of the queue.
    pub(crate) end: QueueEnd,
    /// What its port carries.
    pub(crate) mtu: Mtu,
    /// Receives that it has posted and keeps posted.
    pub(crate) receive_depth: u32,
    /// Remote key of its slab.
    pub(crate) slab_key: u32,
    /// Address of its slab's first byte.
    pub(crate) slab_address: u64,
    /// How the slab is cut.
    pub(crate) layout: SlabLayout,
}

impl Grant {
    pub(crate) fn encode(&self) -> GrantRecord {
        GrantRecord {
            magic: GRANT_MAGIC,
            number: U32::new(self.end.number),
            packet_sequence: U32::new(self.end.packet_sequence),
            receive_depth: U32::new(self.receive_depth),
            gid: self.end.gid,
            slab_address: U64::new(self.slab_address),
            slab_key: U32::new(self.slab_key),
            mtu: self.mtu.number(),
            reserved: [0; 3],
            classes: self.layout.classes.map(|(bytes, count)| [U32::new(bytes), U32::new(count)]),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Grant, ProtocolFault> {
        let record = GrantRecord::read_from_bytes(bytes).map_err(|_| ProtocolFault::Grant)?;
        let layout = SlabLayout { classes: record.classes.map(|[bytes, count]| (bytes.get(), count.get())) };
        let end = QueueEnd {
            number: record.number.get(),
            packet_sequence: record.packet_sequence.get(),
            gid: record.gid,
        };
        let mtu = Mtu::from_number(record.mtu).ok_or(ProtocolFault::Grant)?;
        let known = record.magic == GRANT_MAGIC
            && record.reserved == [0; 3]
            && end.number < NUMBER_END
            && end.packet_sequence < NUMBER_END
            && (RECEIVE_DEPTH_MIN..=RECEIVE_DEPTH_MAX).contains(&record.receive_depth.get());
        let fits = layout.is_valid()
            && layout.chunk_bytes_max() >= DATA_BYTES_MAX + FRAME_BYTES_MAX
            && layout.region_bytes() <= SLAB_BYTES_MAX
            && record.slab_address.get().checked_add(layout.region_bytes() as u64).is_some();
        if !known || !fits {
            return Err(ProtocolFault::Grant);
        }
        Ok(Grant {
            end,
            mtu,
            receive_depth: record.receive_depth.get(),
            slab_key: record.slab_key.get(),
            slab_address: record.slab_address.get(),
            layout,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Grant {
        Grant {
            end: QueueEnd { number: 17, packet_sequence: 0xabcdef, gid: [9; 16] },
            mtu: Mtu::from_number(5).unwrap(),
            receive_depth: 256,
            slab_key: 77,
            slab_address: 0x7f00_0000_0000,
            layout: crate::VerbsOptions::default().receive,
        }
    }

    #[test]
    fn a_grant_survives_the_wire() {
        assert_eq!(Grant::decode(good().encode().as_bytes()), Ok(good()));
    }

    #[test]
    fn grants_that_cannot_be_are_refused() {
        let refused = |change: fn(&mut GrantRecord)| {
            let mut record = good().encode();
            change(&mut record);
            Grant::decode(record.as_bytes()) == Err(ProtocolFault::Grant)
        };
        assert!(refused(|record| record.magic[3] = b'2'));
        assert!(refused(|record| record.number = U32::new(1 << 24)));
        assert!(refused(|record| record.packet_sequence = U32::new(u32::MAX)));
        assert!(refused(|record| record.mtu = 6));
        assert!(refused(|record| record.reserved[1] = 1));
        assert!(refused(|record| record.receive_depth = U32::new(2)));
        assert!(refused(|record| record.receive_depth = U32::new(u32::MAX)));
        assert!(refused(|record| record.slab_address = U64::new(u64::MAX - 5)));
        assert!(refused(|record| record.classes = [[U32::ZERO; 2]; 4]));
        assert!(refused(|record| record.classes[3] = [U32::new(1 << 20), U32::new(4)]));
        assert!(refused(|record| record.classes[3] = [U32::new(1 << 30), U32::new(64)]));
        assert_eq!(Grant::decode(b"ndQ1"), Err(ProtocolFault::Grant));
    }
}
