//! The disks attached to this node, and the pursuit of their ownership.

use crate::engine::BlockEngine;
use blockdev_proto::errno::BlockErrno;
use blockdev_proto::geometry::{DiskId, VolumeId};
use blockdev_proto::master::GatePhase;
use blockdev_store::{AnyBacking, Drive, DriveEnd, DriveIo, GrowRefusal, OwnershipAttempt, OwnershipRelease};
use core::fmt;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use transport_endpoint::Core;
use transport_proto::identity::Epoch;

/// A disk of this node and the virtual disk that it backs.
pub(crate) struct Disk {
    pub(crate) id: DiskId,
    pub(crate) volume: VolumeId,
    pub(crate) drive: Drive,
    /// Requests that the disk's queue had no room for. Bounded by the requests that a master lets run.
    pub(crate) waiting: VecDeque<DriveIo>,
}

impl Disk {
    pub(crate) fn arm(&mut self) -> bool {
        self.drive.arm()
    }
}

/// What the master wants of a disk's ownership; pursued round by round until it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnershipWish {
    Take { volume: VolumeId, disk: DiskId },
    Release { volume: VolumeId, disk: DiskId },
}

impl OwnershipWish {
    pub(crate) fn disk(&self) -> DiskId {
        match self {
            OwnershipWish::Take { disk, .. } | OwnershipWish::Release { disk, .. } => *disk,
        }
    }
}

/// Why a disk was not attached.
#[derive(Debug)]
pub enum DiskRefusal {
    /// A disk of that number is attached.
    Known {
        /// Its number.
        disk: DiskId,
    },
    /// The event queue did not take the disk's descriptor.
    Register(io::Error),
}

impl fmt::Display for DiskRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskRefusal::Known { disk } => write!(f, "disk {} is attached already", disk.0),
            DiskRefusal::Register(_) => write!(f, "cannot watch the disk for completions"),
        }
    }
}

impl std::error::Error for DiskRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DiskRefusal::Known { .. } => None,
            DiskRefusal::Register(source) => Some(source),
        }
    }
}

impl BlockEngine {
    /// Attaches a disk that backs `volume`. Its completions wake the thread by `token`.
    pub fn attach_disk(
        &mut self,
        registry: &Registry,
        token: Token,
        id: DiskId,
        volume: VolumeId,
        backing: AnyBacking,
    ) -> Result<(), DiskRefusal> {
        if self.disk(id).is_some() {
            return Err(DiskRefusal::Known { disk: id });
        }
        let drive = Drive::new(backing);
        if let Some(descriptor) = drive.event_fd() {
            registry
                .register(&mut SourceFd(&descriptor.as_raw_fd()), token, Interest::READABLE)
                .map_err(DiskRefusal::Register)?;
        }
        self.disks.push(Disk { id, volume, drive, waiting: VecDeque::new() });
        Ok(())
    }

    /// Takes a disk away that no virtual disk needs here any more. `false`: it is still busy or owned, ask
    /// again later.
    pub fn detach_disk(&mut self, registry: &Registry, id: DiskId) -> bool {
        let Some(place) = self.disks.iter().position(|disk| disk.id == id) else { return true };
        let disk = &mut self.disks[place];
        let in_hand =
            self.master.disk_in_hand(disk.volume) == id && self.master.gate(disk.volume) != GatePhase::Closed;
        let busy = disk.drive.in_flight() > 0 || !disk.waiting.is_empty();
        if in_hand || busy || self.wishes.iter().any(|wish| wish.disk() == id) {
            return false;
        }
        if let Some(descriptor) = disk.drive.event_fd() {
            // A descriptor that goes is watched no more, with or without the queue's consent.
            let _ = registry.deregister(&mut SourceFd(&descriptor.as_raw_fd()));
        }
        self.disks.remove(place);
        true
    }

    /// The virtual disk that an attached disk backs.
    pub fn volume_on(&self, id: DiskId) -> Option<VolumeId> {
        self.disks.iter().find(|disk| disk.id == id).map(|disk| disk.volume)
    }

    /// Bytes that a disk can be made to hold; `None` if it is not attached.
    pub fn room_of(&self, id: DiskId) -> Option<u64> {
        let disk = self.disks.iter().find(|disk| disk.id == id)?;
        Some(if disk.drive.can_grow() { u64::MAX } else { disk.drive.geometry().data_bytes })
    }

    /// Makes sure that a disk can hold a virtual disk of this size; the refusal tells its size.
    pub fn grow_disk(&mut self, id: DiskId, bytes: u64) -> Result<(), GrowRefusal> {
        self.disk(id).map_or(Ok(()), |disk| disk.drive.grow(bytes))
    }

    pub(crate) fn disk(&mut self, id: DiskId) -> Option<&mut Disk> {
        self.disks.iter_mut().find(|disk| disk.id == id)
    }

    /// Takes what the disks have finished; gives them what waited for room.
    #[inline]
    pub(crate) fn poll_disks(&mut self, core: &mut Core) -> usize {
        let mut found = 0;
        for index in 0..self.disks.len() {
            if self.disks[index].drive.in_flight() == 0 && self.disks[index].waiting.is_empty() {
                continue;
            }
            let mut ends: Vec<DriveEnd> = core::mem::take(&mut self.ends);
            self.disks[index].drive.poll(&mut |end| ends.push(end));
            found += ends.len();
            for end in ends.drain(..) {
                self.ended(core, end);
            }
            self.ends = ends;
            self.feed(core, index);
        }
        found
    }

    fn feed(&mut self, core: &mut Core, index: usize) {
        while let Some(io) = self.disks[index].waiting.pop_front() {
            match self.disks[index].drive.submit(io) {
                Ok(Some(end)) => self.ended(core, end),
                Ok(None) => {}
                Err((_, io)) => {
                    self.disks[index].waiting.push_front(io);
                    return;
                }
            }
        }
    }

    /// Age of the oldest request that a disk has not finished; zero when none is out. A node whose disk hangs
    /// is to be known as failed though it is alive.
    pub fn oldest_disk_age(&self) -> core::time::Duration {
        self.disks.iter().filter_map(|disk| disk.drive.oldest_submitted_age()).max().unwrap_or_default()
    }

    pub(crate) fn kick_disks(&mut self) {
        for disk in &mut self.disks {
            disk.drive.kick();
        }
    }

    /// Tries again what the master wants of ownership.
    pub(crate) fn pursue_wishes(&mut self, core: &mut Core) {
        if self.wishes.is_empty() {
            return;
        }
        let now = core.now();
        if now < self.wishes_due {
            return;
        }
        self.wishes_due = now + core::time::Duration::from_millis(1);
        let wishes = core::mem::take(&mut self.wishes);
        for wish in wishes {
            let pending = match wish {
                OwnershipWish::Take { volume, disk } => self.try_take(core, volume, disk),
                OwnershipWish::Release { volume, disk } => self.try_release(core, volume, disk),
            };
            if pending {
                self.wishes.push(wish);
            }
        }
        self.act(core);
    }

    /// `true`: not yet, try again.
    fn try_take(&mut self, core: &mut Core, volume: VolumeId, id: DiskId) -> bool {
        let now = core.now();
        let Some(disk) = self.disk(id) else {
            self.master.store_failed(now, volume, BlockErrno::Enodev, &mut self.master_actions);
            return false;
        };
        match disk.drive.try_take_ownership() {
            OwnershipAttempt::WouldBlock => true,
            OwnershipAttempt::Taken { epoch } => {
                self.master.ownership_taken(now, volume, Epoch(epoch), &mut self.master_actions);
                false
            }
            OwnershipAttempt::Failed { fault } => {
                tracing::error!(volume = volume.0, disk = id.0, "cannot take ownership of the disk: {fault}");
                let errno = BlockErrno::from_linux(fault.errno());
                self.master.store_failed(now, volume, errno, &mut self.master_actions);
                false
            }
        }
    }

    fn try_release(&mut self, core: &mut Core, volume: VolumeId, id: DiskId) -> bool {
        if let Some(disk) = self.disk(id)
            && matches!(disk.drive.release_ownership(), OwnershipRelease::Draining { .. })
        {
            return true;
        }
        self.master.ownership_released(core.now(), volume, &mut self.master_actions);
        false
    }
}
