//! The cluster's configuration file: one TOML file, the same on all nodes, read into the rows of
//! [`control_proto::rows`]. Every mistake is reported with its line and with what to do; all that can be
//! found in one reading are reported together. `examples/three-nodes.toml` shows every key.

mod addresses;
mod check;
mod disks;
mod document;
mod links;
mod mistake;
mod pool;
mod write;

pub use mistake::{
    AddressMistake, ConfigFault, ConfigFaults, DiskMistake, KeyMistake, LinkMistake, Mistake, Place, Row,
    RowMistake, SettingMistake,
};

pub use write::{key_text, row_to_json, size_text, to_json, to_toml};

use check::Check;
use control_proto::rows::{ClusterRows, NodeRow};
use document::Document;
use std::path::{Path, PathBuf};
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::NodeId;

/// A configuration that was read and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file.
    pub file: PathBuf,
    /// What is configured.
    pub rows: ClusterRows,
    /// The cluster's secret.
    pub key: ClusterKey,
}

impl Config {
    /// Reads and checks a file, and the key file that it names. Relative paths in it start from its folder.
    pub fn load(file: &Path) -> Result<Config, ConfigFaults> {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
        match std::fs::read_to_string(&file) {
            Ok(text) => Config::parse(&file, &text),
            Err(fault) => {
                let mistake = Mistake::Unreadable { kind: fault.kind() };
                Err(ConfigFaults::one(&file, Place::default(), mistake))
            }
        }
    }

    /// Checks the text of a file. `file` is for messages and relative paths; only a key file is read from
    /// disk.
    pub fn parse(file: &Path, text: &str) -> Result<Config, ConfigFaults> {
        Check::new(file, text).run(&document(file, text)?)
    }

    /// Reads the rows of a file that may have no key, such as an exported one.
    pub fn load_rows(file: &Path) -> Result<ClusterRows, ConfigFaults> {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
        let text = std::fs::read_to_string(&file).map_err(|fault| {
            ConfigFaults::one(&file, Place::default(), Mistake::Unreadable { kind: fault.kind() })
        })?;
        Config::parse_rows(&file, &text)
    }

    /// Checks the rows of a text, as [`Config::load_rows`].
    pub fn parse_rows(file: &Path, text: &str) -> Result<ClusterRows, ConfigFaults> {
        Check::new(file, text).run_keyless(&document(file, text)?)
    }

    /// The row of the node that this process is to be.
    pub fn node(&self, id: NodeId) -> Result<&NodeRow, ConfigFaults> {
        self.rows.node(id).ok_or_else(|| {
            let known: Vec<String> = self.rows.nodes.iter().map(|node| node.id.0.to_string()).collect();
            let mistake = Mistake::NodeNotInFile { id: id.0, known: known.join(", ") };
            ConfigFaults::one(&self.file, Place::default(), mistake)
        })
    }
}

fn document(file: &Path, text: &str) -> Result<Document, ConfigFaults> {
    toml::from_str(text).map_err(|fault| {
        let place = fault.span().map_or(Place::default(), |span| Place::of(text, span.start));
        ConfigFaults::one(file, place, Mistake::Syntax { message: fault.message().to_owned() })
    })
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
