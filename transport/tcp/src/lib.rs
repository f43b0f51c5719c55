//! The TCP provider: frames over sockets, for rails between hosts that have nothing better.
//!
//! On the wire a frame is its 64-byte header, control part and data part, nothing in between, nothing around
//! it. The CRC32C covers header and control part always and the data part by option.
//!
//! Way in: [`reader::FrameReader`] takes many small frames from one `read`; what is large is read from the
//! socket straight into a chunk of the provider's slab. Way out: [`writer::FrameWriter`] gathers headers in a
//! ring and payloads by reference and hands them to the kernel in one vectored write.
//! [`provider::TcpProvider`] drives both over the table of connections: sockets that were active a moment ago
//! are read directly while the reactor spins, the others when `mio` says so.

#![forbid(unsafe_code)]

mod connection;
#[doc(hidden)]
pub mod exercise;
mod fault;
mod options;
mod provider;
pub mod reader;
mod table;
pub mod writer;

pub use fault::{TcpFault, TcpFaultReport, TcpFaults};
pub use options::TcpOptions;
pub use provider::{CONNECTIONS_MAX, LISTENERS_MAX, TOKENS, TcpProvider};
