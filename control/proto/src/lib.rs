//! The pure part of control: the rows of the cluster configuration, the view that every node acts on, and the
//! membership that numbers it.
//!
//! Nothing in here reads a clock, a file or a socket. Rows come from a TOML file or from the replicated
//! database ([`ccd`]); either way they arrive as [`rows::ClusterRows`], checked by [`rules`], and the parts
//! that act see only a [`view::ClusterView`].

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod ccd;
mod codec;
pub mod distress;
pub mod membership;
pub mod pool;
pub mod protocol_rules;
pub mod reconfiguration;
pub mod rows;
pub mod rules;
pub mod view;
