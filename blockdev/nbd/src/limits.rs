//! Every limit of the NBD surface, with the owner of each term.

/// The most payload bytes that one client request may carry: what `NBD_INFO_BLOCK_SIZE` advertises as
/// maximum. Clients that never ask for block sizes assume this very figure, so it is part of the protocol,
/// not a tunable.
pub const REQUEST_BYTES_MAX: u32 = 32 << 20;

/// The block size that we advise clients to use, where the disk's own block is not larger.
pub const BLOCK_BYTES_PREFERRED: u32 = 4096;

/// The least `max_transfer_bytes` a service may offer: the protocol promises unfragmented reads up to 64 KiB.
pub const TRANSFER_BYTES_MIN: u32 = 64 << 10;

/// The longest string of the protocol: export names, descriptions, context queries and error messages.
pub const STRING_BYTES_MAX: usize = 4096;

/// The longest option data that is parsed. Longer data is skipped and answered with `ERR_TOO_BIG`.
/// Two strings and sixteen short context queries fit, which is more than any client sends.
pub const OPTION_BYTES_MAX: u32 = 16 << 10;

/// Option data longer than this is no mistake but an attack or a confused peer; the connection is dropped.
pub const OPTION_SKIP_BYTES_MAX: u32 = 1 << 20;

/// Options one handshake may send. `qemu-nbd --list` sends one per export; nobody sends thousands.
pub const OPTIONS_MAX: u32 = 4096;

/// Extents one block status answer carries at most; the rest is asked for again by the client.
pub const EXTENTS_MAX: usize = 2048;

/// Longest message of an error chunk or of an option's error reply, as we send them.
pub const MESSAGE_BYTES_MAX: usize = 256;

/// The largest block that the protocol allows as minimum block size.
pub const BLOCK_BYTES_MAX: u32 = 64 << 10;
