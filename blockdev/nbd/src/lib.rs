//! The NBD surface of netdisk: a virtual disk for every client that speaks the network block device protocol.

#![forbid(unsafe_code)]

pub mod codec;
pub mod connection;
mod errno;
pub mod limits;
pub mod quarantine;
mod service;

pub use errno::BlockErrno;
pub use service::{
    BlockAnswer, BlockCompletion, BlockIo, BlockOperation, BlockService, Busy, ExportEntry, Extent,
    OpenRefusal, OpenedExport, SubmitRefusal, SubmitRefusalReason, VolumeHandle,
};
