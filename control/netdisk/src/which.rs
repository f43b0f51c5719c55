//! Which running node a command speaks to.

use crate::node::default_folder;
use anyhow::bail;
use std::path::PathBuf;

/// Where nodes keep their state unless told otherwise.
const HOME: &str = "/var/lib/netdisk";

/// Which running node is meant; one that runs here with the usual folders is found by itself.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Which {
    /// The node's admin socket.
    #[arg(long, value_name = "PATH", env = "NETDISK_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
    /// The node's state folder.
    #[arg(long, value_name = "FOLDER", conflicts_with = "socket")]
    pub(crate) state: Option<PathBuf>,
    /// The cluster's configuration, with --id: for nodes that use the usual folders.
    #[arg(long, requires = "id", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which node of it.
    #[arg(long, requires = "config")]
    id: Option<u16>,
}

impl Which {
    /// The state folder of a node of this machine, which need not run.
    pub(crate) fn folder(&self) -> anyhow::Result<PathBuf> {
        match (&self.state, &self.config, self.id) {
            (Some(folder), _, _) => Ok(folder.clone()),
            (None, Some(config), Some(id)) => {
                Ok(default_folder(&control_node::config::Config::load(config)?.rows.name, id))
            }
            _ => bail!("name the node by --state, or by --config and --id"),
        }
    }

    /// The admin socket.
    pub(crate) fn socket(&self) -> anyhow::Result<PathBuf> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        if let Some(state) = &self.state {
            return Ok(state.join("admin.sock"));
        }
        if let (Some(config), Some(id)) = (&self.config, self.id) {
            let config = control_node::config::Config::load(config)?;
            return Ok(default_folder(&config.rows.name, id).join("admin.sock"));
        }
        let found = sockets_under(HOME);
        match &found[..] {
            [one] => Ok(one.clone()),
            [] => bail!(
                "no node of this machine keeps its state under {HOME}: name the node by --state FOLDER or \
                 --socket PATH (or NETDISK_SOCKET)"
            ),
            several => {
                let several: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
                bail!("several nodes run here: name one with --socket, {}", several.join(" or "))
            }
        }
    }
}

/// Admin sockets of the usual layout, `HOME/CLUSTER/NODE/admin.sock`.
fn sockets_under(home: &str) -> Vec<PathBuf> {
    let list = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let clusters = list(PathBuf::from(home));
    let nodes = clusters.flat_map(|cluster| list(cluster.path()));
    let mut sockets: Vec<PathBuf> = nodes.map(|node| node.path().join("admin.sock")).collect();
    sockets.retain(|socket| socket.exists());
    sockets.sort();
    sockets
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;

    #[test]
    fn nodes_in_the_usual_folders_are_found() {
        let home = std::env::temp_dir().join(format!("netdisk-which-{}", std::process::id()));
        let node = home.join("north/node1");
        std::fs::create_dir_all(&node).unwrap();
        std::fs::create_dir_all(home.join("north/node2")).unwrap();
        assert!(sockets_under(home.to_str().unwrap()).is_empty());
        std::fs::write(node.join("admin.sock"), b"").unwrap();
        assert_eq!(sockets_under(home.to_str().unwrap()), [node.join("admin.sock")]);
        std::fs::remove_dir_all(&home).unwrap();
        assert!(sockets_under("/nowhere").is_empty());
    }
}
