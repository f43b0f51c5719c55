//! The NBD surface of netdisk: a virtual disk for every client that speaks the network block device protocol.
//!
//! - [`codec`]: the bytes of the protocol, both directions. Pure.
//! - [`connection`]: one connection as a machine without I/O. Pure.
//! - [`quarantine`]: keeps a reconnecting client from its dead connection's late writes. Pure.
//! - [`server`]: sockets and clients on a reactor that the caller owns, between the machines and a
//!   [`BlockService`], which the block engine implements.

#![forbid(unsafe_code)]

pub mod codec;
pub mod connection;
mod errno;
#[cfg(feature = "test-service")]
mod exercise;
pub mod limits;
#[cfg(feature = "test-service")]
pub mod memory;
pub mod quarantine;
pub mod server;
mod service;

pub use errno::BlockErrno;
#[cfg(feature = "test-service")]
pub use exercise::exercise;
pub use server::{ClientIdentity, ListenAddress, NbdConfig, NbdCounters, NbdServer, Notice, StartRefusal};
pub use service::{
    BlockAnswer, BlockCompletion, BlockIo, BlockOperation, BlockService, Busy, ExportEntry, Extent,
    OpenRefusal, OpenedExport, SubmitRefusal, SubmitRefusalReason, VolumeHandle,
};
