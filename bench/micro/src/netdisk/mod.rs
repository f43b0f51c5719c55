//! netdisk's own side of the scenarios: two endpoints in two processes, wired by shared memory or TCP.

mod allocations;
mod cluster;
pub(crate) mod cluster_node;
mod disk_job;
pub(crate) mod disk_master;
mod disk_read;
mod idle;
pub(crate) mod partner;
pub(crate) mod remote;
mod round_trip;
mod station;
mod stream;
mod trial;
mod wiring;

pub(crate) use allocations::AllocationsPerMessage;
pub(crate) use cluster::ClusterWithNbd;
pub(crate) use disk_job::{DiskJob, JobKind};
pub(crate) use disk_read::DiskRead;
pub(crate) use idle::IdleNodes;
pub(crate) use round_trip::MessageRoundTrip;
pub(crate) use station::Heard;
pub(crate) use stream::MessageStream;
pub(crate) use trial::{Drive, Trial, Ways, What};
pub(crate) use wiring::{Carrier, Layout, PARTNER, STATION, Waiting, Wiring};
