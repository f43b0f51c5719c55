//! The verbs provider: rails over RDMA devices. The sender stores into memory that the receiver granted and
//! completes one of its receives; small frames are sent into receive slots.
//!
//! An address is a socket address of the rail's interface. Over a TCP connection between the two ends of a
//! rail (`channel.rs`) the handshake travels and grants are exchanged (`grant.rs`); then frames travel by a
//! reliable queue pair (`lane.rs`). Devices are behind [`fabric::Fabric`], of which there are two kinds: real
//! ones ([`fabric`]`::rdma`, with the feature `rdma`) and simulated ones ([`fabric::double`]) that need no
//! RDMA at all, so most of what can go wrong is found on any machine.

#![deny(unsafe_code)]

mod channel;
mod connection;
mod devices;
pub mod fabric;
mod fault;
mod grant;
mod lane;
mod memory;
mod mutant;
mod options;
mod provider;
mod returns;
#[cfg(test)]
mod tests;

pub use fault::{ProtocolFault, Statistics};
pub use options::VerbsOptions;
pub use provider::{CONNECTIONS_MAX, LISTENERS_MAX, TOKENS_MAX, VerbsProvider};

const _: () = assert!(cfg!(target_endian = "little"), "grants and stamps are read as they lie in memory");
