//! The pure part of the block path: what a virtual disk is, what travels between its driver and its master,
//! and the two machines that see to it that every request is answered once and no stale write ever lands.
//!
//! A [`driver::Driver`] runs on every node that uses virtual disks, a [`master::Master`] on every node that
//! has disks attached. Both are fed by `blockdev-engine` on real nodes and by `fixtures-sim` in the
//! simulator. Nothing in here reads a clock, does I/O or draws a random number; payload bytes never come in,
//! only a caller's handle to them. The rules and why they hold are in the README beside this crate.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod assembly;
pub mod checksum;
pub mod driver;
mod duplicates;
pub mod errno;
mod gate;
pub mod geometry;
pub mod lanes;
pub mod mapping;
pub mod master;
pub mod mirror;
mod overlap;
pub mod pair;
mod pending;
pub mod reservation;
pub mod rules;
mod table;
mod volume_table;
pub mod wire;
