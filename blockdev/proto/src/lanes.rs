//! The drivers of one node, told apart by the slots of their requests. What a request in one lane waits for
//! is never in the same lane: a client's request to a volume waits for the volume's requests to its parts,
//! and those, if the part is a volume itself, for that one's. Each lane has slots, credits and room at
//! masters of its own, so none waits for what waits for it.

use crate::driver::DriverLimits;
use crate::wire::{SLOTS_MAX, Slot};
use transport_proto::identity::ClientId;

/// Volumes that lie on one another at the most, disks not counted: what there are lanes for.
pub const STOREYS_MAX: usize = 2;

/// One of a node's drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Of what clients of the node ask.
    Clients,
    /// Of what volumes served by the node ask virtual disks that lie on a disk.
    Legs,
    /// Of what volumes served by the node ask virtual disks that lie on others themselves.
    VolumeLegs,
}

impl Lane {
    /// The lanes of volumes.
    pub const OF_VOLUMES: [Lane; STOREYS_MAX] = [Lane::Legs, Lane::VolumeLegs];

    /// The lane in which a volume asks such a part.
    pub const fn to_part(has_parts: bool) -> Lane {
        if has_parts { Lane::VolumeLegs } else { Lane::Legs }
    }

    /// The lane of a request or answer that names this slot.
    pub const fn of(slot: Slot) -> Lane {
        if slot.0 < Lane::Legs.first_slot().0 {
            Lane::Clients
        } else if slot.0 < Lane::VolumeLegs.first_slot().0 {
            Lane::Legs
        } else {
            Lane::VolumeLegs
        }
    }

    /// The first of its slots.
    pub const fn first_slot(self) -> Slot {
        match self {
            Lane::Clients => Slot(0),
            Lane::Legs => Slot(1024),
            Lane::VolumeLegs => Slot(3072),
        }
    }

    /// Its slots. A mirror has about three requests under way for each of a client's.
    pub const fn slots(self) -> usize {
        match self {
            Lane::Clients => Lane::Legs.first_slot().index(),
            Lane::Legs => Lane::VolumeLegs.first_slot().index() - Lane::Legs.first_slot().index(),
            Lane::VolumeLegs => SLOTS_MAX - Lane::VolumeLegs.first_slot().index(),
        }
    }

    /// The client of the transport that carries it.
    pub const fn client(self) -> ClientId {
        match self {
            Lane::Clients => ClientId::BLOCK,
            Lane::Legs => ClientId::LEGS,
            Lane::VolumeLegs => ClientId::VOLUME_LEGS,
        }
    }

    /// The lane that this client of the transport carries.
    pub const fn of_client(client: ClientId) -> Option<Lane> {
        match client {
            ClientId::BLOCK => Some(Lane::Clients),
            ClientId::LEGS => Some(Lane::Legs),
            ClientId::VOLUME_LEGS => Some(Lane::VolumeLegs),
            _ => None,
        }
    }

    /// Sizes of its driver.
    pub fn limits(self) -> DriverLimits {
        DriverLimits { first_slot: self.first_slot(), pending_max: self.slots(), ..DriverLimits::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: B9
    #[test]
    fn each_slot_is_in_one_lane() {
        let mut next = 0;
        for lane in [Lane::Clients, Lane::Legs, Lane::VolumeLegs] {
            assert_eq!(lane.first_slot().index(), next);
            next += lane.slots();
            let last = Slot(next as u32 - 1);
            assert_eq!((Lane::of(lane.first_slot()), Lane::of(last)), (lane, lane));
            assert_eq!(Lane::of_client(lane.client()), Some(lane));
        }
        assert_eq!(next, SLOTS_MAX);
        assert_eq!(Lane::Clients.limits(), DriverLimits::default());
    }
}
