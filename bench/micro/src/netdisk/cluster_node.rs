//! The worker as a whole node: the same code that `netdisk node` runs.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bench_harness::tell_parent;
use control_node::config::Config;
use control_node::{Ended, Node, NodeOptions};
use serde::{Deserialize, Serialize};
use transport_endpoint::SpinSettings;
use transport_proto::identity::NodeId;

/// The worker's end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClusterNode {
    /// The cluster's configuration file.
    pub(crate) config: PathBuf,
    /// Which of its nodes this is.
    pub(crate) id: u16,
    /// Folder of its state.
    pub(crate) state: PathBuf,
    /// Its admin socket.
    pub(crate) socket: PathBuf,
}

impl ClusterNode {
    /// Runs the node until the parent ends it.
    ///
    /// # Errors
    /// It cannot start, or ended by itself.
    pub(crate) fn serve(self) -> Result<()> {
        let options = NodeOptions {
            config: Some((Config::load(&self.config)?, NodeId(self.id))),
            state: self.state,
            socket: Some(self.socket),
            spin: SpinSettings::default(),
        };
        let node = Node::start(options).with_context(|| format!("node {} cannot start", self.id))?;
        tell_parent(&"ready")?;
        ensure!(node.run()? == Ended::Stopped, "node {} gave up", self.id);
        Ok(())
    }
}
