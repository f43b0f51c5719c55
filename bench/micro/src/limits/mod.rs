//! What this machine can do at best, without netdisk: the bars that netdisk is held against.

pub(crate) mod cache_line;
pub(crate) mod memory_copy;
pub(crate) mod shared_memory;
pub(crate) mod tcp_round_trip;
pub(crate) mod tcp_stream;
pub(crate) mod tcp_wait;
