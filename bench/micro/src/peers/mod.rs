//! Programs of others that netdisk is compared with, run as they come from the distribution.

mod fio;
pub(crate) mod iceoryx2;
mod libfabric;
mod limited;
mod nbd_process;
mod nbd_server;
mod pair;
mod spdk;
mod tool;
mod ucx;

pub(crate) use fio::{FioFigure, FioJob, FioWork, read_figure};
pub(crate) use iceoryx2::{Iceoryx2, Iceoryx2Figure};
pub(crate) use libfabric::LibfabricPingpong;
pub(crate) use nbd_process::{NbdPeer, NbdProcess};
pub(crate) use nbd_server::{NbdServer, RunningNbdServer};
pub(crate) use spdk::Spdk;
pub(crate) use tool::Tool;
pub(crate) use ucx::{UcxFigure, UcxPerftest};
