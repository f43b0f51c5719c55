//! The block engine of one node: drives the pure machines of `blockdev-proto` over the transport and the
//! store.
//!
//! [`BlockEngine`] is a client of the transport. It holds the driver (requests of this node's clients), the
//! master (requests of all nodes for the disks attached here) and the disks. A request for a disk of this
//! very node goes from driver to master by a call, without the transport (SPEC B1).
//!
//! One thread drives it all: [`BlockEngine::poll`] once per round of the endpoint, completions out of
//! [`BlockEngine::next_completion`], news for the rest of the node out of [`BlockEngine::next_event`].

#![forbid(unsafe_code)]

mod assemblies;
mod data;
mod disks;
mod driver_side;
mod engine;
mod hosted;
mod legs;
pub mod library;
mod master_side;
mod mirrors;
mod slots;
mod status;

pub use data::{ReadData, WriteData};
pub use disks::DiskRefusal;
pub use engine::{BlockCompletion, BlockEngine, BlockIo, EngineEvent, Failover, Refused, RefusedWhy};
pub use hosted::Below;
pub use library::{DeskWish, Io, IoError, Library, LibraryDesk, OpenRefusal, Opened, Opening, VirtualDisk};
pub use status::{DiskStatus, EngineStatus, VolumeStatus};
