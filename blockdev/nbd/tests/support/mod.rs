//! What the tests share: a connection on paper, and clients on real sockets.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod client;
pub(crate) mod rig;
