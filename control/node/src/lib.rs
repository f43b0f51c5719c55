//! The netdisk daemon: what runs on a node, in which order it starts and stops.

#![forbid(unsafe_code)]

mod access;
pub mod admin;
pub mod arrival;
mod changes;
pub mod config;
mod consensus;
mod ctid;
pub mod departure;
mod desk;
mod disks;
pub mod distress;
mod embedded;
pub mod genesis;
pub mod join;
mod lease;
mod leaving;
mod membership;
mod memory;
mod monitor;
mod ndd;
mod node;
mod options;
mod plan;
mod pool;
mod reconfigure;
mod replica;
pub mod report;
pub mod reservation;
pub mod scheme;
mod start;
mod station;
mod surfaces;
mod volumes;

pub use disks::DiskStartRefusal;
pub use embedded::EmbeddedNode;
pub use memory::BudgetTooSmall;
pub use monitor::MonitorRefusal;
pub use node::{Ended, Node};
pub use options::{NodeOptions, NodeRefusal};
pub use plan::peer_plans;
pub use transport_endpoint::HAS_VERBS;
