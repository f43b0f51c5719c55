//! How a node is started, and why it may not start.

use crate::admin::AdminRefusal;
use crate::config::{Config, ConfigFaults};
use crate::disks::DiskStartRefusal;
use crate::distress::DistressRefusal;
use crate::genesis::GenesisRefusal;
use crate::memory::BudgetTooSmall;
use crate::monitor::MonitorRefusal;
use crate::ndd::DiskFault;
use blockdev_engine::DiskRefusal;
use std::fmt;
use std::io;
use std::path::PathBuf;
use transport_endpoint::{SpinSettings, StartError};
use transport_proto::identity::NodeId;

/// How a node is started.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// What the cluster begins with, and which of its nodes this one is. Looked at only while the state
    /// folder is empty; afterwards the database is what counts. `None`: a node lives in the folder already.
    pub config: Option<(Config, NodeId)>,
    /// Folder for what must survive a restart: how the node began, and its copy of the log.
    pub state: PathBuf,
    /// Admin socket; `None` for none.
    pub socket: Option<PathBuf>,
    /// How the reactor waits.
    pub spin: SpinSettings,
}

impl NodeOptions {
    /// A node without admin socket, with the defaults of all else.
    pub fn new(config: Config, id: u16, state: PathBuf) -> NodeOptions {
        NodeOptions { config: Some((config, NodeId(id))), ..NodeOptions::of_state(state) }
    }

    /// The node that lives in a state folder, without admin socket.
    pub fn of_state(state: PathBuf) -> NodeOptions {
        NodeOptions { config: None, state, socket: None, spin: SpinSettings::default() }
    }
}

/// Why a node did not start. Nothing is left running.
#[derive(Debug)]
pub enum NodeRefusal {
    /// The configuration does not fit this node.
    Config(ConfigFaults),
    /// The state folder cannot be used.
    Genesis(GenesisRefusal),
    /// The log of the configuration cannot be used.
    Log(control_raft::StartFault),
    /// This node is not configured any more.
    NotConfigured(NodeId),
    /// The memory budget does not suffice.
    Memory(BudgetTooSmall),
    /// A disk cannot be used.
    Disk(DiskStartRefusal),
    /// A disk cannot be watched.
    Attach(DiskRefusal),
    /// The transport cannot run.
    Transport(StartError),
    /// A rail's address cannot be listened on.
    Rail(transport_endpoint::ListenRefusal),
    /// A rail's heartbeats cannot be watched.
    Monitor(MonitorRefusal),
    /// It said that it fails and was not cleared, or could not say so again.
    Distress(DistressRefusal),
    /// An NBD server cannot run.
    Nbd(blockdev_nbd::StartRefusal),
    /// No admin socket.
    Admin(AdminRefusal),
    /// The system refused something that it never refuses.
    System(io::Error),
}

macro_rules! from {
    ($($kind:ident: $source:ty),+ $(,)?) => {
        $(impl From<$source> for NodeRefusal {
            fn from(source: $source) -> NodeRefusal {
                NodeRefusal::$kind(source)
            }
        })+

        impl fmt::Display for NodeRefusal {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    NodeRefusal::NotConfigured(node) => write!(
                        f,
                        "{node} was removed from the cluster: let it join again with an empty --state folder \
                         (netdisk join), or leave it off"
                    ),
                    $(NodeRefusal::$kind(source) => source.fmt(f),)+
                }
            }
        }

        impl std::error::Error for NodeRefusal {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                match self {
                    NodeRefusal::NotConfigured(_) => None,
                    $(NodeRefusal::$kind(source) => source.source(),)+
                }
            }
        }
    };
}

from! {
    Config: ConfigFaults,
    Genesis: GenesisRefusal,
    Log: control_raft::StartFault,
    Memory: BudgetTooSmall,
    Disk: DiskStartRefusal,
    Attach: DiskRefusal,
    Transport: StartError,
    Rail: transport_endpoint::ListenRefusal,
    Monitor: MonitorRefusal,
    Distress: DistressRefusal,
    Nbd: blockdev_nbd::StartRefusal,
    Admin: AdminRefusal,
    System: io::Error,
}

impl From<DiskFault> for NodeRefusal {
    fn from(fault: DiskFault) -> NodeRefusal {
        match fault {
            DiskFault::Open(refusal) => NodeRefusal::Disk(refusal),
            DiskFault::Attach(refusal) => NodeRefusal::Attach(refusal),
        }
    }
}
