//! The netdisk daemon: what runs on a node, in which order it starts and stops.

#![forbid(unsafe_code)]

pub mod config;
