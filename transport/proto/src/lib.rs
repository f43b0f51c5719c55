//! The pure part of the cluster transport: identities, wire layouts and the machines that act on them.
//!
//! Nothing in here reads a clock, opens a socket, starts a thread or draws a random number. Time comes in as
//! an argument, payload bytes never come in at all: a machine knows a message by its lengths and by a slot
//! number. The reactor in `transport-endpoint` and the simulator in `fixtures-sim` drive the same machines.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod cluster_key;
pub mod connectivity;
pub mod handshake;
pub mod identity;
pub mod rail;
pub mod route;
pub mod session;
pub mod time;
pub mod window;
pub mod wire;
