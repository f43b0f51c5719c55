//! The shared-memory provider: rails between processes of one host, SCI-style. The sender stores into memory
//! that the receiver granted and rings a bell only if the receiver sleeps.
//!
//! An address is the name of an abstract seqpacket UNIX socket. Over it the two sides greet each other and,
//! once both are authenticated, exchange what they grant (`grant.rs`); from then on frames travel by ring and
//! data by slab (`lane.rs`) and the socket only tells that the peer is alive. Everything shared is anonymous
//! memory: when both processes are gone, by whatever signal, nothing is left behind.

mod connection;
mod fault;
mod grant;
mod lane;
mod provider;
mod socket;

pub use fault::ProtocolFault;
pub use lane::{POLL_BUDGET, Taken};
pub use provider::{CONNECTIONS_MAX, LISTENERS_MAX, ShmProvider, Statistics, TOKENS_MAX};

const _: () =
    assert!(cfg!(target_endian = "little"), "ring words are shared with little-endian frame headers");
const _: () = assert!(
    core::mem::offset_of!(transport_proto::wire::FrameHeader, rail_stamp)
        == transport_buf::ring_region::STAMP_OFFSET
);
const _: () = assert!(transport_provider::INLINE_BYTES_MAX == transport_buf::ring_region::SLOT_BODY_BYTES);
