//! `netdisk status`: asks a running node by its admin socket.

use crate::node::default_folder;
use anyhow::{Context, bail};
use control_node::admin::{Request, ask};
use control_node::report::{Status, text};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Tell what a running node sees.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Which running node is meant.
#[derive(clap::Args)]
pub(crate) struct Which {
    /// The node's admin socket.
    #[arg(long, value_name = "PATH", required_unless_present = "config")]
    socket: Option<PathBuf>,
    /// The cluster's configuration, with --id: for nodes that use the usual folders.
    #[arg(long, requires = "id")]
    config: Option<PathBuf>,
    /// Which node of it.
    #[arg(long)]
    id: Option<u16>,
}

impl Which {
    /// The admin socket.
    pub(crate) fn socket(&self) -> anyhow::Result<PathBuf> {
        match (&self.socket, &self.config, self.id) {
            (Some(socket), _, _) => Ok(socket.clone()),
            (None, Some(config), Some(id)) => {
                let config = control_node::config::Config::load(config)?;
                Ok(default_folder(&config.rows.name, id).join("admin.sock"))
            }
            _ => bail!("name the node by --socket, or by --config and --id"),
        }
    }
}

/// Asks and turns a refusal into an error.
pub(crate) fn request(socket: &Path, request: &Request) -> anyhow::Result<serde_json::Value> {
    let answer = ask(socket, request).with_context(|| {
        format!("no answer from {}: is the node running, and is this its admin socket?", socket.display())
    })?;
    if let Some(why) = answer.get("error").and_then(|why| why.as_str()) {
        bail!("{why}");
    }
    Ok(answer)
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let answer = request(&arguments.which.socket()?, &Request::Status)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        let status: Status = serde_json::from_value(answer).context("the node is of another release")?;
        print!("{}", text(&status));
    }
    Ok(ExitCode::SUCCESS)
}
