//! The netdisk daemon: what runs on a node, in which order it starts and stops.

#![forbid(unsafe_code)]

mod access;
pub mod admin;
pub mod config;
mod ctid;
mod disks;
pub mod distress;
mod embedded;
pub mod join;
mod membership;
mod memory;
mod monitor;
mod ndd;
mod node;
mod plan;
pub mod report;
pub mod scheme;
mod station;
mod surfaces;

pub use disks::DiskStartRefusal;
pub use embedded::EmbeddedNode;
pub use membership::VotesRefusal;
pub use memory::BudgetTooSmall;
pub use monitor::MonitorRefusal;
pub use node::{Ended, Node, NodeOptions, NodeRefusal};
pub use plan::peer_plans;
pub use transport_endpoint::HAS_VERBS;
