//! Wire and machines of the block path.
#![no_std]
#![forbid(unsafe_code)]
