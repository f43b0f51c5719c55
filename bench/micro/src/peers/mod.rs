//! Programs of others that netdisk is compared with, run as they come from the distribution.

mod fio;
mod nbd_server;
mod nbdkit;
mod tool;

pub(crate) use fio::{FioFigure, FioRead, read_figure};
pub(crate) use nbd_server::{NbdServer, RunningNbdServer};
pub(crate) use nbdkit::NbdkitMemory;
pub(crate) use tool::Tool;
