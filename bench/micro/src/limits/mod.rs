//! What this machine can do at best, without netdisk: the bars that netdisk is held against.

pub(crate) mod cache_line;
pub(crate) mod memory_copy;
pub(crate) mod shared_memory;
pub(crate) mod socket;
pub(crate) mod socket_round_trip;
pub(crate) mod socket_stream;
pub(crate) mod wire;
