//! The netdisk daemon: what runs on a node, in which order it starts and stops.

#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
mod disks;
mod embedded;
mod membership;
mod memory;
mod monitor;
mod node;
mod plan;
pub mod report;
mod station;

pub use disks::DiskStartRefusal;
pub use embedded::{EmbeddedNode, UnknownDisk};
pub use membership::VotesRefusal;
pub use memory::BudgetTooSmall;
pub use monitor::MonitorRefusal;
pub use node::{Ended, Node, NodeOptions, NodeRefusal};
pub use plan::peer_plans;
