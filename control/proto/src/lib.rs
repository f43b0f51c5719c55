//! The pure part of control: the rows of the cluster configuration, the view that every node acts on, and the
//! membership that numbers it.
//!
//! Nothing in here reads a clock, a file or a socket. Rows come from a TOML file today and from the
//! replicated database later; either way they arrive as [`rows::ClusterRows`], and the parts that act see
//! only a [`view::ClusterView`].

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod membership;
pub mod rows;
pub mod view;
